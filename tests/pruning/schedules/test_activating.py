from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surplus.errors import InputError
from surplus.networks import build
from surplus.pruning import keep_top
from surplus.pruning.schedules.activating import activating_cut, activating_while_pruning, dead_rate, dead_rate_on_task
from surplus.pruning.schedules.imp import imp
from surplus.space import WeightSpace
from surplus.tasks import load

QUICK = {"seeds": 2, "execution": "stacked"}
PRE = torch.tensor([[1.0, -1.0], [-2.0, -3.0]])
START = torch.tensor([0.3, -0.2, 0.1, -0.4, -0.3, 0.2, 0.05, -0.1])
THETA = torch.tensor([0.5, -0.25, 0.02, -0.1, -0.9, 0.21, -0.3, -0.12])


def quick():
    return load("digits", "mlp", widths=(24, 12)).with_recipe(
        optimiser="adam", duration="30it", batch_size=50, lr=5e-3, schedule="constant"
    )


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- dead neurons ---------------------------------------------------------------------------------------------------


class Calls(nn.Module):
    """A network whose forward is one function."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x)


@pytest.mark.parametrize(
    "module",
    [
        nn.ReLU(),
        nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)),
        Calls(F.relu),
        Calls(torch.relu),
        Calls(lambda x: x.relu()),
        Calls(lambda x: F.relu(x, inplace=True)),
        Calls(lambda x: x.clone().relu_()),
    ],
)
def test_the_worked_example_for_modules_and_calls_alike(module):
    found = dead_rate(module, [PRE.clone()])
    assert (found.dynamic, found.static, found.neurons) == (0.75, 0.5, 2)
    assert len(found.layers) == 1 and not module._forward_hooks and not module._forward_pre_hooks


def test_layers_bear_the_names_of_the_modules_that_call_relu():
    net = nn.Sequential(Calls(lambda x: F.relu(F.relu(x) - 1)), nn.Linear(2, 3), nn.ReLU())
    found = dead_rate(net, [PRE])
    assert list(found.layers) == ["0", "0#2", "2"]
    assert (found.layers["0"].dynamic, found.layers["0#2"].dynamic) == (0.75, 1.0)
    assert found.neurons == 2 + 2 + 3


def test_a_later_step_in_place_changes_nothing():
    assert dead_rate(Calls(lambda x: F.relu(x).add_(1)), [PRE]).dynamic == 0.75


def test_every_position_of_a_convolution_is_a_neuron_and_batches_do_not_matter():
    net, x = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.ReLU()), drawn(20, 1, 6, 6)
    with torch.no_grad():
        maps = (net[0](x) > 0).flatten(1)
        units = net[:4](x) > 0
    found = dead_rate(net, [x])
    assert found == dead_rate(net, x.split(7))
    assert found.layers["1"].neurons == 3 * 16 and found.neurons == 48 + 5
    alive = torch.cat([maps, units], dim=1)
    assert found.dynamic == pytest.approx(1 - alive.double().mean().item())
    assert found.static == pytest.approx((~alive.any(0)).double().mean().item())
    assert found.layers["4"].static == pytest.approx((~units.any(0)).double().mean().item())


def test_functional_relus_of_a_residual_network_are_seen_and_its_mode_returns():
    net = build("resnet-20", (3, 8, 8), 10, width=0.25).train()
    found = dead_rate(net, [drawn(2, 3, 8, 8)])
    assert len(found.layers) == 19 and net.training and all(m.training for m in net.modules())
    assert 0.2 < found.dynamic < 0.8 and found.static <= found.dynamic


def test_a_network_without_relu_or_without_inputs_is_refused():
    for net, inputs in ((nn.Linear(2, 2), [PRE]), (nn.ReLU(), [])):
        with pytest.raises(InputError, match="no ReLU was called"):
            dead_rate(net, inputs)


def test_on_a_task_inputs_are_normalised():
    task = quick()
    theta = task.space.init(0)
    module = task.space.write(theta)
    assert dead_rate_on_task(task, theta, task.test, batch=50) == dead_rate(module, [task.prepare(task.test.inputs)])


# ---- the cut --------------------------------------------------------------------------------------------------------


def row():
    return WeightSpace(lambda: nn.Linear(8, 1, bias=False)), torch.ones(8, dtype=torch.bool)


def gone(before, after):
    return (before & ~after).nonzero().squeeze(1).tolist()


def test_the_worked_cut_removes_the_slowest_negative_weights():
    space, mask = row()
    assert gone(mask, activating_cut(space, THETA, START, mask, 2)) == [1, 7]
    assert gone(mask, activating_cut(space, THETA, START, mask, 2, choose="positive")) == [2, 5]
    fewer = mask.clone().index_fill(0, torch.tensor([7]), False)
    assert gone(fewer, activating_cut(space, THETA, START, fewer, 2)) == [1, 3]


def test_no_more_go_than_there_are_candidates():
    space, mask = row()
    assert gone(mask, activating_cut(space, THETA, START, mask, 7)) == [1, 3, 4, 6, 7]
    assert gone(mask, activating_cut(space, -THETA.abs(), START, mask, 8)) == [1, 2, 3, 4, 5, 6, 7]  # one stays


def test_random_weights_are_any_and_depend_on_the_generator():
    space, mask = row()
    draws = [
        gone(mask, activating_cut(space, THETA, START, mask, 3, choose="random", generator=g))
        for g in (torch.Generator().manual_seed(s) for s in (0, 0, 1))
    ]
    assert draws[0] == draws[1] != draws[2] and len(draws[0]) == 3
    with pytest.raises(InputError, match="generator"):
        activating_cut(space, THETA, START, mask, 3, choose="random")
    with pytest.raises(InputError, match="positive"):
        activating_cut(space, THETA, START, mask, 3, choose="positve")


def test_the_first_layer_can_be_left_alone_and_no_layer_is_emptied():
    space = quick().space
    start, theta, mask = space.init(0), space.init(1), torch.ones(space.size, dtype=torch.bool)
    blocks = [b for b in space.blocks if b.prunable]
    kept = activating_cut(space, theta, start, mask, 100, skip_first=True)
    assert kept[blocks[0].slice].all() and int((~kept).sum()) == 100
    assert not activating_cut(space, theta, start, mask, 100)[blocks[0].slice].all()
    only = torch.zeros_like(mask)
    only[[b.start for b in blocks]] = True  # one weight each, all negative
    assert torch.equal(activating_cut(space, -theta.abs(), start, only, 2), only)
    two = only.clone()
    two[blocks[1].start + 1] = True
    left = activating_cut(space, -theta.abs(), start, two, 2)
    assert [int(left[b.slice].sum()) for b in blocks] == [1, 1, 1]


def test_without_slow_negative_weights_of_a_hidden_layer_no_unit_of_it_falls_asleep():
    task = quick()
    theta = task.space.init(0)
    mask = torch.ones(task.space.size, dtype=torch.bool)
    after = activating_cut(task.space, theta, torch.zeros_like(theta), mask, 60, skip_first=True, exclude=["head"])
    before, now = (dead_rate_on_task(task, t, task.test).layers for t in (theta, theta * after))
    assert before["act1"] == now["act1"]
    assert now["act2"].dynamic < before["act2"].dynamic and now["act2"].static <= before["act2"].static


# ---- the schedule ---------------------------------------------------------------------------------------------------


def test_levels_nest_and_reach_exact_densities():
    task = quick()
    levels = activating_while_pruning(task, density=0.3, rate=0.4, activating=0.1, **QUICK)
    prunable = int(task.space.prunable.sum())
    assert len(levels) == 4 and int(levels[-1].masks[0][task.space.prunable].sum()) == round(0.3 * prunable)
    for before, level in pairwise(levels):
        assert (level.masks <= before.masks).all() and torch.equal(level.start, levels[0].start)
        assert len(set(level.masks[:, task.space.prunable].sum(1).tolist())) == 1


def test_a_round_cuts_by_magnitude_first_and_then_what_is_slow_and_negative():
    task = quick()
    dense, level = activating_while_pruning(task, density=0.7, rate=0.3, activating=0.05, **QUICK)
    prunable = task.space.prunable
    n, goal = int(prunable.sum()), round(0.7 * int(prunable.sum()))
    extra = int(0.05 * n)
    for theta, start, mask in zip(dense.run.theta, dense.start, level.masks, strict=True):
        base = keep_top(task.space, theta.abs(), count=goal + extra)
        candidates = (base & prunable & (theta < 0)).nonzero().squeeze(1)
        slowest = candidates[(theta - start).abs()[candidates].argsort(stable=True)[:extra]]
        assert torch.equal(mask, base.index_fill(0, slowest, False))


def test_where_candidates_run_out_the_score_takes_the_rest():
    task = quick()
    levels = activating_while_pruning(task, density=0.2, rate=0.8, activating=0.8, **QUICK)  # more than half of all
    kept = levels[-1].masks[:, task.space.prunable].sum(1)
    assert (kept == round(0.2 * int(task.space.prunable.sum()))).all()


def test_without_the_part_for_activation_it_is_iterative_magnitude_pruning():
    task, settings = quick(), {"density": 0.3, "rate": 0.4, "rewind_step": 5, **QUICK}
    ours, plain = activating_while_pruning(task, activating=0.0, **settings), imp(task, **settings)
    assert [a.run.keys for a in ours] == [b.run.keys for b in plain]
    other = activating_while_pruning(task, activating=0.1, **settings)
    assert not torch.equal(other[1].masks, plain[1].masks) and len(other) == len(plain)  # as many trainings


def test_the_part_is_no_larger_than_the_cut():
    for part in (-0.1, 0.3):
        with pytest.raises(InputError, match="part of the rate"):
            activating_while_pruning(quick(), density=0.5, rate=0.2, activating=part)
    assert len(activating_while_pruning(quick(), density=1.0, **QUICK)) == 1
