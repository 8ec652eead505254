"""The consensus subnetwork: its loss, its gates over a data set, and the static network that they leave."""

import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from surplus.data import Dataset, Splits
from surplus.errors import InputError
from surplus.pruning import count
from surplus.pruning.structured.consensus import (
    Consensus,
    NoConsensus,
    activity,
    consensus_subnetwork,
    frozen,
    gate_statistics,
    gated_task,
    polarisation,
    standing,
    static_task,
    unit_costs,
)
from surplus.registry import find
from surplus.space import generator
from surplus.tasks import Recipe, load, task_from
from surplus.training import Batch, Moment, fit, predict


@pytest.fixture(scope="module")
def task():
    recipe = Recipe(lr=0.1, batch_size=64, duration="4ep")
    return load("digits", "gated-mlp", recipe=recipe, width=16, blocks=4)


@pytest.fixture(scope="module")
def trained(task):
    return fit(task, seeds=2, rule=Consensus((1.0,) * 4, 0.5), execution="stacked")


def test_polarisation_of_mean_gates_has_the_worked_value():
    assert polarisation(torch.tensor([0.9, 0.1, 0.5])).item() == pytest.approx((0.09 + 0.09 + 0.25) / 3)
    assert polarisation(torch.tensor([0.9, 0.1, 0.5])).item() == pytest.approx(0.143333, abs=1e-6)


def test_polarisation_vanishes_for_constant_gates_and_not_where_each_input_goes_its_own_way():
    constant = torch.tensor([[1.0, 0.0, 1.0]]).expand(8, 3)
    assert polarisation(constant.mean(0)) == 0
    own = (torch.arange(8) % 2).float()[:, None].expand(8, 3)
    assert (own * (1 - own)).mean() == 0  # each gate is polar, and yet inputs do not agree
    assert polarisation(own.mean(0)) == 0.25


def test_activity_is_the_share_of_the_costs_that_is_on():
    gates = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]])
    assert activity(gates, (1, 1, 1)).tolist() == pytest.approx([0.5, 1 / 3])
    assert activity(gates, (2, 1, 5)).tolist() == pytest.approx([4.5 / 8, 5 / 8])


def moment(task, step, total, replicas=2):
    theta = task.space.init_many(range(replicas))
    return Moment(task, task.recipe, tuple(range(replicas)), step, total, 0, 10, 0.1, theta, {})


def batch(task, b, replicas=2):
    index = torch.arange(replicas * b).view(replicas, b)
    inputs, targets = task.prepare(task.train.inputs[index]), task.train.targets[index]
    return Batch(index, inputs, targets, lambda *_: torch.empty(0))


@pytest.mark.parametrize(("step", "rise"), [(0, 0.0), (10, 0.25), (20, 0.5), (40, 1.0), (79, 1.0)])
def test_the_loss_is_cross_entropy_with_both_terms_and_the_polarisation_rises_over_the_first_half(task, step, rise):
    rule, given = Consensus((1.0, 1.0, 1.0, 3.0), 0.7, act=3.0, pol=2.0), batch(task, 10)
    logits = torch.randn(2, 10, 10, generator=generator(0, "logits"))
    gates = (torch.rand(2, 10, 4, generator=generator(0, "gates")) < 0.6).float()
    losses = rule.loss(moment(task, step, 80), given, torch.cat([logits, gates], 2))
    for k in range(2):
        mean = gates[k].mean(0)
        on = (mean * torch.tensor([1, 1, 1, 3]) / 6).sum()
        expected = F.cross_entropy(logits[k], given.targets[k], reduction="none")
        expected = expected + 3 * (on - 0.7) ** 2 + 2 * rise * (mean * (1 - mean)).mean()
        torch.testing.assert_close(losses[k], expected)
    assert torch.equal(rule.answers(torch.cat([logits, gates], 2)), logits)


def test_the_gradient_reaches_the_gates_through_the_binary_means(task):
    rule, theta = Consensus((1.0,) * 4, 0.5, act=3.0, pol=0.0), task.space.init_many([0, 1]).requires_grad_()
    given = batch(task, 10)
    outputs = task.space.apply_each(theta, given.inputs, train=True)
    extra = rule.loss(moment(task, 1, 80), given, outputs) - rule.loss(moment(task, 1, 80), given, outputs.detach())
    (grad,) = torch.autograd.grad(rule.loss(moment(task, 1, 80), given, outputs).mean(), theta)
    assert not extra.detach().any()
    parts = task.space.split(grad[0])
    assert all(parts[f"blocks.{i}.gate.last.bias"].item() > 0 for i in range(4))  # all open, half wanted: they close


def test_gates_over_a_data_set_are_those_of_the_network_in_evaluation(task, trained):
    theta = trained.theta[0]
    found = gate_statistics(task, theta)
    module = task.space.write(theta)
    with torch.no_grad():
        gates = module.run(task.prepare(task.train.inputs))[1].double()
    torch.testing.assert_close(found.mean, gates.mean(0))
    assert torch.equal(found.kept, gates.mean(0) > 0.5)
    share = torch.maximum(gates.mean(0), 1 - gates.mean(0)).mean().item()
    assert found.consensus == pytest.approx(share) and 0.5 <= share <= 1
    few = gate_statistics(task, theta, task.train[:10])
    torch.testing.assert_close(few.mean, gates[:10].mean(0))


def test_the_static_network_answers_like_the_gated_one_with_these_gates(task, trained):
    kept = torch.tensor([True, False, True, False])
    theta = trained.theta[0].clone()
    for i, gate in enumerate(kept):  # gates that always say so
        theta[task.space[f"blocks.{i}.gate.last.weight"].slice] = 0
        theta[task.space[f"blocks.{i}.gate.last.bias"].slice] = 1.0 if gate else -1.0
    small, point = static_task(task, theta, kept)
    assert small.space.size == len(point) < task.space.size
    x = task.prepare(task.test.inputs)
    assert torch.equal(small.space.apply(point, x), task.space.apply(theta, x))
    assert gate_statistics(task, theta).consensus == 1.0
    assert torch.equal(gate_statistics(task, theta).kept, kept)


def test_a_run_that_stands_takes_no_step(task, trained):
    run = standing(task, trained.theta[1], 7)
    assert torch.equal(run.theta[0], trained.theta[1]) and run.seeds == (7,)
    assert run.parts[0].manifest["steps"] == task.recipe.duration.steps(-(-len(task.train) // 64))
    assert run.history["loss"] == []
    torch.testing.assert_close(run.predict()[0], trained.predict()[1], atol=1e-5, rtol=1e-5)


def test_costs_are_the_multiply_adds_that_a_gate_switches(task):
    assert unit_costs(task) == (2 * 16 * 16,) * 4
    inner = replace(task, network=replace(task.network, options={"width": 16, "blocks": 3, "gated": "channels"}))
    assert unit_costs(inner) == (2 * 16,) * 48


def test_costs_of_image_blocks_follow_the_places_of_the_image():
    x = torch.randint(256, (40, 3, 16, 16), generator=generator(0, "pixels"), dtype=torch.uint8)
    y = torch.arange(40) % 2
    data = Splits("pictures", Dataset.of(x, y), Dataset.of(x[:10], y[:10]))
    task = gated_task(task_from(data, "resnet-cifar", depth=14, width=0.5), depth=14, width=0.5)
    assert task.network.name == "gated-resnet"
    costs = [2 * 9 * c * c * side**2 for c, side in ((8, 16), (8, 16), (16, 8), (32, 4))]
    assert unit_costs(task) == tuple(map(float, costs))
    module = task.space.module
    total = count(module.static(torch.ones(4, dtype=torch.bool)), (3, 16, 16)).macs
    assert count(module.static(torch.zeros(4, dtype=torch.bool)), (3, 16, 16)).macs == total - sum(costs)


def test_a_task_without_gates_gets_a_gated_network_and_one_with_gates_keeps_its_own(task):
    assert gated_task(task) is task
    assert gated_task(load("digits"), blocks=3).network.options == {"blocks": 3}
    assert gated_task(load("xor-clusters")).network.name == "gated-mlp"


def test_consensus_prunes_to_whole_blocks_near_the_wanted_share(task):
    longer = task.with_recipe(duration="5ep")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoConsensus)
        runs = consensus_subnetwork(longer, keep=0.5, seeds=2, execution="stacked")
        again = consensus_subnetwork(longer, keep=0.5, seeds=2, execution="stacked")
    for run, same in zip(runs, again, strict=True):
        assert len(run) == 1 and run.task.space.size < task.space.size
        assert 1 <= len(run.task.space.module.blocks) <= 3
        assert not any("gate" in b.name for b in run.task.space.blocks)
        assert run.evaluate("test").metric.item() > 0.5
        assert run.keys == same.keys  # found in the store
    assert [run.seeds for run in runs] == [(0,), (1,)]
    assert find("structured pruning", "consensus-subnetwork").fn is consensus_subnetwork


def test_too_little_consensus_is_warned_of(task, trained):
    theta = trained.theta[0].clone()
    module = task.space.write(theta)
    with torch.no_grad():
        x = module.stem(task.prepare(task.train.inputs))
        logits = module.blocks[0].gate.last(F.relu(module.blocks[0].gate.linear(x)))
    theta[task.space["blocks.0.gate.last.bias"].slice] -= logits.median()  # half of the inputs want the first block
    found = gate_statistics(task, theta)
    assert found.mean[0] == pytest.approx(0.5, abs=0.01) and found.consensus < 0.9
    with pytest.warns(NoConsensus, match="train longer, or raise pol"):
        frozen(standing(task, theta, 0), 0)


def test_what_does_not_fit_is_refused(task):
    with pytest.raises(InputError, match="no gates; choose gated-mlp or gated-resnet"):
        fit(load("digits"), rule=Consensus((1.0,) * 4))
    with pytest.raises(InputError, match="each of the 4 gates of gated-mlp; got 3"):
        fit(task, rule=Consensus((1.0,) * 3))
    with pytest.raises(InputError, match=r"activity=1\.5"):
        fit(task, rule=Consensus((1.0,) * 4, 1.5))
    with pytest.raises(InputError, match="density"):
        consensus_subnetwork(task, keep=0.0)


def test_a_replica_trains_alike_alone_and_in_company(task):
    short = task.with_recipe(duration="6it")
    rule = Consensus((1.0,) * 4, 0.5)
    both = fit(short, seeds=[3, 4], rule=rule, execution="stacked")
    alone = fit(short, seeds=[4], rule=rule)
    torch.testing.assert_close(both.theta[1], alone.theta[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        predict(short, both.theta, short.test)[1], predict(short, alone.theta, short.test)[0], atol=1e-4, rtol=1e-4
    )
