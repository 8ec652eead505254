"""Winsorized means, M3 and RM3: the averages, the rules, and the ways into a loop of one's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surplus.errors import InputError
from surplus.examples.rules.robust_gradients import (
    M3,
    RM3,
    RM3Optimizer,
    Winsorized,
    m3_backward,
    median_of_three,
    winsorized_backward,
    winsorized_mean,
)
from surplus.space import generator
from surplus.space.per_example import per_example_grads
from surplus.tasks import Duration, Recipe, load
from surplus.training import Store, fit
from surplus.training.loop import Loop

RULES = {"winsorized": Winsorized(0.1), "m3": M3(), "rm3": RM3()}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def draw(k, *shape):
    return torch.randn(*shape, generator=generator(k), dtype=torch.float64)


@pytest.fixture(scope="module")
def task():
    """300 digits in batches of 50; 6 steps an epoch."""
    recipe = Recipe(duration=Duration("2ep"), batch_size=50, lr=0.05, weight_decay=1e-3)
    digits = load("digits", "mlp", recipe=recipe, widths=(16,))
    return replace(digits, train=digits.train[:300])


# ---- averages -------------------------------------------------------------------------------------------------------


def test_the_winsorized_mean_worked_by_hand():
    column = torch.tensor([[0.0], [1], [2], [3], [100]])
    assert winsorized_mean(column, 0.2) == 2  # 1, 1, 2, 3, 3
    assert winsorized_mean(column, 0.19) == column.mean()  # floor(0.95) = 0


@pytest.mark.parametrize("b", [1, 2, 5, 8, 50])
def test_nothing_clipped_is_the_mean_and_half_clipped_is_the_median(b):
    g = draw(b, b, 7)
    torch.testing.assert_close(winsorized_mean(g, 0), g.mean(0))
    torch.testing.assert_close(winsorized_mean(g, 0.5), g.quantile(0.5, dim=0))


@pytest.mark.parametrize("share", [0.01, 0.04, 0.1, 0.29, 0.45])
def test_winsorizing_is_what_scipy_calls_so(share):
    from scipy.stats.mstats import winsorize

    g = draw(1, 100, 6)
    expected = torch.as_tensor(winsorize(g.numpy(), (share + 1e-9, share + 1e-9), axis=0).data).mean(0)
    torch.testing.assert_close(winsorized_mean(g, share), expected)
    torch.testing.assert_close(winsorized_mean(g.view(2, 50, 6), share)[1], winsorized_mean(g[50:], share))


def test_one_example_moves_a_winsorized_mean_only_so_far():
    g = draw(2, 20, 5)
    g[3] *= 1e6
    assert winsorized_mean(g, 0.05).abs().max() < 3 < g.mean(0).abs().max()


def test_the_median_of_three_is_torchs_and_ignores_the_order():
    three = draw(3, 3, 50)
    assert torch.equal(median_of_three(*three), three.median(0).values)
    assert torch.equal(median_of_three(*three), median_of_three(*three.flip(0)))
    assert median_of_three(torch.tensor(torch.nan), torch.tensor(1.0), torch.tensor(2.0)).isnan()


# ---- rules ----------------------------------------------------------------------------------------------------------


@each_rule
def test_a_replica_trains_alike_alone_and_in_company(task, rule):
    together = fit(task, seeds=[0, 1, 2], rule=rule, execution="stacked").theta
    alone = torch.cat([fit(task, seeds=[s], rule=rule).theta for s in (0, 1, 2)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(together, fit(task, seeds=[0, 1, 2]).theta, atol=1e-3)


class Stopped(Exception):
    pass


@each_rule
@pytest.mark.parametrize("step", [1, 2, 8])
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, task, rule, step):
    options = {"seeds": [1, 2], "rule": rule, "execution": "stacked", "jobs": 1}
    update = Loop._update

    def stopping(self):
        if self.step == step:
            self.entry.write_checkpoint(self._state())
            raise Stopped
        update(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Loop, "_update", stopping)
        fit(task, store=Store(tmp_path), **options)
    resumed, whole = fit(task, store=Store(tmp_path), **options), fit(task, **options)
    assert torch.equal(resumed.theta, whole.theta)


def test_winsorizing_nothing_is_ordinary_training(task):
    plain, winsorized = fit(task, seeds=[0]), fit(task, seeds=[0], rule=Winsorized(0.0))
    torch.testing.assert_close(winsorized.theta, plain.theta, atol=1e-5, rtol=0)


def test_m3_steps_by_the_median_of_thirds_and_leaves_the_rest_out(task):
    few = replace(task, train=task.train[:50]).with_recipe(duration="1it", momentum=0.0, weight_decay=0.0, lr=1.0)
    run = fit(few, seeds=[5], rule=M3(), record=True)
    order = torch.randperm(50, generator=generator(5, "order", 0))
    theta, x, y = few.space.init(5), few.prepare(few.train.inputs[order]), few.train.targets[order]
    thirds = per_example_grads(few.space, theta, x, y)[:48].view(3, 16, -1).mean(1)
    torch.testing.assert_close(theta - run.theta[0], thirds.median(0).values, atol=1e-6, rtol=1e-4)
    assert torch.equal(run.record["loss"][0, 0].isnan().nonzero().squeeze(1), order[48:].sort().values)


def test_rm3_takes_two_plain_steps_and_then_medians_before_momentum(task):
    """On one batch that never changes, with full batches, plain SGD and the user's optimiser tell the steps."""
    few = replace(task, train=task.train[:50]).with_recipe(schedule="constant")
    plain, rm3 = (fit(few, seeds=[0], rule=r, recipe=_steps(few, 2)).theta for r in (None, RM3()))
    assert torch.equal(plain, rm3)
    run = fit(few, seeds=[0], rule=RM3(), recipe=_steps(few, 6))
    module = few.space.write(few.space.init(0)).train()
    optimiser = RM3Optimizer(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    x, y = few.prepare(few.train.inputs), few.train.targets
    for _ in range(6):
        optimiser.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimiser.step()
    torch.testing.assert_close(few.space.read(module), run.theta[0], atol=1e-5, rtol=0)
    assert not torch.allclose(run.theta, fit(few, seeds=[0], recipe=_steps(few, 6)).theta, atol=1e-4)


def _steps(task, count):
    return task.recipe.model_copy(update={"duration": Duration(f"{count}it")})


def test_batches_too_small_for_thirds_are_refused_or_taken_whole(task):
    with pytest.raises(InputError, match="batch_size=2"):
        fit(task, seeds=[0], rule=M3(), recipe=task.recipe.model_copy(update={"batch_size": 2}))
    two = fit(task, seeds=[0], subsets=[torch.arange(2)], rule=M3())
    assert torch.equal(two.theta, fit(task, seeds=[0], subsets=[torch.arange(2)]).theta)


def test_examples_without_gradients_of_their_own_are_refused(task):
    make = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    normed = load("digits", make)
    with pytest.raises(InputError, match="batch norm"):
        fit(normed, seeds=[0], rule=Winsorized(0.1))
    with pytest.raises(InputError, match="at least 6"):
        fit(normed.with_recipe(batch_size=5), seeds=[0], rule=M3())
    with pytest.raises(InputError, match=r"got 0\.6"):
        fit(task, seeds=[0], rule=Winsorized(0.6))


# ---- for a loop of your own -----------------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def test_the_optimiser_steps_by_medians_and_leaves_the_gradient_alone():
    p = nn.Parameter(torch.zeros(1))
    optimiser, seen = RM3Optimizer([p], lr=1.0), []
    for g in (5.0, 1.0, 2.0, 9.0):
        p.grad = torch.tensor([g])
        optimiser.step()
        assert p.grad == g
        seen.append(-p.item())
    assert seen == [5, 6, 8, 10]  # 5, 1, median(5, 1, 2), median(1, 2, 9)


def test_the_optimiser_goes_on_from_its_state_dict():
    def steps(module, optimiser, which):
        for k in which:
            optimiser.step(lambda k=k: closure(module, optimiser, k))

    def closure(module, optimiser, k):
        optimiser.zero_grad()
        loss = module(draw(k, 6, 5)).square().mean()
        loss.backward()
        return loss

    whole, stopped = network(), network()
    steps(whole, RM3Optimizer(whole.parameters(), lr=0.1, momentum=0.9), range(6))
    first = RM3Optimizer(stopped.parameters(), lr=0.1, momentum=0.9)
    steps(stopped, first, range(3))
    second = RM3Optimizer(stopped.parameters(), lr=0.1, momentum=0.9)
    second.load_state_dict(first.state_dict())
    steps(stopped, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), stopped.parameters(), strict=True))


def test_backward_passes_by_hand_are_the_medians_and_means_of_gradients():
    module, x, y = network(), draw(0, 11, 5), torch.arange(11) % 3
    g = per_example_grads(module, None, x, y)
    m3_backward(F.cross_entropy(module(x), y, reduction="none"), module.parameters())
    expected = g[:9].view(3, 3, -1).mean(1).median(0).values
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in module.parameters()]), expected)
    winsorized_backward(module, x, y, 0.2)
    expected = winsorized_mean(g, 0.2)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in module.parameters()]), expected)
    with pytest.raises(InputError, match="three or more"):
        m3_backward(F.cross_entropy(module(x), y), module.parameters())
