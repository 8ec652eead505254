from __future__ import annotations

import pytest
import torch
from torch import nn

from surplus.data import Dataset, Splits
from surplus.errors import InputError
from surplus.landscape import barrier
from surplus.landscape.connectivity import (
    STABLE,
    ExampleBarriers,
    example_barriers,
    instability,
    on_data,
    on_examples,
    siblings,
)
from surplus.registry import find
from surplus.space import generator
from surplus.tasks import Duration, Recipe, task_from
from surplus.training import Store, fit


def evaluation(f):
    """An evaluate callback whose error is f(theta) and whose loss is twice that."""
    return lambda thetas: (f(thetas), 2 * f(thetas))


def bump(thetas):
    """1 at the origin, falling off."""
    return (-thetas.square().sum(1)).exp()


def test_identical_networks_have_no_barrier_anywhere():
    theta = torch.randn(6, generator=generator(0))
    for mode in ("error", "loss"):
        for end in ("mean", "linear"):
            found = barrier(evaluation(bump), theta, theta, mode=mode, end=end)
            assert torch.equal(found.curve, torch.zeros(25))
            assert found.height == 0


def test_a_bump_between_two_points_is_found():
    ends = torch.tensor([[-1.0, 0], [1, 0]], dtype=torch.float64)
    expected = 1 - torch.tensor(-1.0).exp().item()
    found = barrier(evaluation(bump), *ends)
    assert found.height == pytest.approx(expected)
    assert found.at[found.curve.argmax()] == 0.5
    assert barrier(evaluation(bump), *ends, mode="loss").height == pytest.approx(2 * expected)


def test_the_reference_is_the_mean_of_the_ends_or_the_line_between_them():
    slope = lambda thetas: thetas[:, 0]
    start, stop = torch.tensor([0.0, 0]), torch.tensor([4.0, 0])
    mean = barrier(evaluation(slope), start, stop, points=5)
    assert mean.curve.tolist() == [-2, -1, 0, 1, 2]
    assert mean.height == 2
    line = barrier(evaluation(slope), start, stop, points=5, end="linear")
    assert line.curve.tolist() == [0] * 5


def test_a_convex_loss_has_no_barrier_above_the_line():
    x, y = torch.randn(50, 4, generator=generator(1)).double(), torch.arange(50) % 2 * 2.0 - 1

    def logistic(thetas):
        return torch.nn.functional.softplus(-y * (thetas @ x.T)).mean(1)

    ends = 5 * torch.randn(2, 4, generator=generator(2)).double()
    found = barrier(evaluation(logistic), *ends, mode="loss", end="linear")
    assert found.height == pytest.approx(0, abs=1e-12)
    assert found.curve.min() < -0.01


def test_the_ends_are_evaluated_exactly():
    seen = []
    a, b = torch.randn(2, 9, generator=generator(3))
    barrier(lambda t: (seen.append(t), (t.sum(1), t.sum(1)))[1], a, b, points=7)
    assert seen[0].shape == (7, 9)
    assert torch.equal(seen[0][0], a)
    assert torch.equal(seen[0][-1], b)


def test_what_a_barrier_refuses():
    a = torch.zeros(3)
    with pytest.raises(InputError, match=r"\(3,\) and \(4,\)"):
        barrier(evaluation(bump), a, torch.zeros(4))
    with pytest.raises(InputError, match="at least 3 points"):
        barrier(evaluation(bump), a, a, points=2)
    with pytest.raises(InputError, match="mode of a barrier is called 'eror'; did you mean error"):
        barrier(evaluation(bump), a, a, mode="eror")
    with pytest.raises(InputError, match="end of a barrier"):
        barrier(evaluation(bump), a, a, end="max")


# ---- example by example ---------------------------------------------------------------------------------------------


def tiny(classes=3, n=12):
    """A few points in the plane."""
    g = generator(5)
    labels = torch.arange(n) % classes
    return Dataset.of(torch.randn(n, 2, generator=g) + labels[:, None], labels)


def task_of(make, data):
    return task_from(Splits("tiny", data, data), make, recipe=Recipe(lr=0.1, batch_size=4, duration=Duration("6ep")))


def test_barriers_of_examples_by_hand():
    at = torch.tensor([0.0, 0.5, 1])
    losses = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 1.0], [2.0, 3.0, 0.0]])
    correct = torch.tensor([[True, True, False], [False, True, True], [True, True, True]])
    found = ExampleBarriers(at, losses, correct)
    assert found.height.tolist() == [2, 0, 0]  # 3 over the 1 of the line; 1 under the 2 of it; 1 on it
    assert found.connected().tolist() == [False, True, False]
    assert found.connected(threshold=2.5).tolist() == [False, False, True]
    assert found.error_barrier() == pytest.approx(1 / 3 - (1 / 3 + 0) / 2)
    assert found.error_barrier(torch.tensor([0])) == 1 and found.error_barrier(torch.tensor([1])) == 0


def test_the_mean_of_the_curves_is_the_curve_of_the_mean():
    data = tiny()
    task = task_of(lambda: nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3)), data)
    a, b = task.space.init_many([0, 1])
    each = example_barriers(on_examples(task), a, b, points=7)
    mean = lambda t: ((1 - on_examples(task)(t)[1].float()).mean(1), on_examples(task)(t)[0].mean(1))
    whole = barrier(mean, a, b, points=7, mode="loss", end="linear")
    rises = each.losses - torch.lerp(each.losses[0], each.losses[-1], each.at[:, None])
    torch.testing.assert_close(rises.mean(1), whole.curve)
    assert each.height.mean() >= whole.height - 1e-6
    assert each.error_barrier() == pytest.approx(barrier(mean, a, b, points=7).height, abs=1e-6)


def test_a_linear_model_has_no_barrier_on_any_example():
    task = task_of(lambda: nn.Linear(2, 3), tiny())
    ends = 4 * torch.randn(2, task.space.size, generator=generator(8))
    found = example_barriers(on_examples(task), *ends)
    assert found.height.abs().max() < 1e-5
    both = found.correct[0] & found.correct[-1]
    assert torch.equal(found.connected(), both)  # a half space of weights is right, and half spaces are convex


def test_barriers_agree_with_a_loop_over_points_and_examples():
    data = tiny()
    make = lambda: nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    task = task_of(make, data)
    a, b = 3 * task.space.init_many([3, 4])
    found, slow = example_barriers(on_examples(task), a, b, points=5), torch.zeros(len(data))
    x = task.prepare(data.inputs)
    losses = torch.zeros(5, len(data))
    for p in range(5):
        module = task.space.write(a + p / 4 * (b - a))
        for i in range(len(data)):
            losses[p, i] = nn.functional.cross_entropy(module(x[i : i + 1]), data.targets[i : i + 1]).detach()
    for i in range(len(data)):
        slow[i] = max(losses[p, i] - ((1 - p / 4) * losses[0, i] + p / 4 * losses[4, i]) for p in range(5))
    torch.testing.assert_close(found.height, slow, atol=1e-5, rtol=1e-4)
    assert slow.max() > 0.05


def test_batch_norm_statistics_are_estimated_anew_at_every_point():
    task = task_of(lambda: nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), tiny())
    theta = task.space.init(0)
    scaled = theta.clone()
    scaled[task.space["0.weight"].slice] *= 7  # batch normalisation undoes a scale, if its statistics follow
    scaled[task.space["0.bias"].slice] *= 7
    found = example_barriers(on_examples(task), theta, scaled, points=5)
    torch.testing.assert_close(found.losses, found.losses[:1].expand(5, -1), atol=1e-3, rtol=1e-3)


def test_siblings_share_their_parent_and_differ_in_the_order_of_the_data(tmp_path):
    task, store = task_of(lambda: nn.Linear(2, 3), tiny()), Store(tmp_path)
    parent = fit(task, seeds=[0, 1], keep=(5,), store=store, execution="stacked").at(5)
    first, second = siblings(task, parent, 5, [0, 1], store=store, execution="stacked", keep=(5,))
    assert torch.equal(first.at(5), parent) and torch.equal(second.at(5), parent)
    assert not torch.equal(first.theta, second.theta) and not set(first.seeds) & set(second.seeds)
    whole = task.with_recipe(batch_size=12)  # one batch is the whole set: no order is left
    a, b = siblings(whole, parent, 5, [0, 1], store=store, execution="stacked")
    torch.testing.assert_close(a.theta, b.theta)
    last = [r.parts[0].manifest["steps"] for r in (first, second)]
    assert last[0] == last[1]


# ---- noise of sgd ---------------------------------------------------------------------------------------------------


def clumps():
    """Nine clumps in three classes, so that a network has several ways to tell them apart."""
    g = generator(11)
    centres = 2 * torch.randn(9, 2, generator=g)
    inputs = centres.repeat(20, 1) + 0.5 * torch.randn(180, 2, generator=g)
    return Dataset.of(inputs, torch.arange(180) % 9 % 3)


def narrow(norm=False):
    layers = [nn.Linear(2, 4), *([nn.BatchNorm1d(4)] if norm else []), nn.ReLU(), nn.Linear(4, 3)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("norm", [False, True])
def test_instability_is_the_error_barrier_over_31_points_between_two_orders_of_the_data(tmp_path, norm):
    data, how = clumps(), {"store": Store(tmp_path), "execution": "stacked"}
    task = task_of(lambda: narrow(norm), data).with_recipe(lr=1.0, batch_size=20)
    parent = task.space.init_many([0, 1])
    found = instability(task, parent, 0, [0, 1], **how)
    assert found.shape == (2,) and found.max() > STABLE
    first, second = siblings(task, parent, 0, [0, 1], **how)
    x, y = task.prepare(data.inputs), data.targets
    for k, (a, b) in enumerate(zip(first.theta, second.theta, strict=True)):
        errors = []
        for i in range(31):
            theta = a + i / 30 * (b - a)
            statistics = task.space.statistics(theta, [x]) if norm else None  # anew, from all the training data
            outputs = task.space.apply(theta, x, statistics)
            errors.append(float((outputs.argmax(1) != y).double().mean()))
        assert float(found[k]) == pytest.approx(max(errors) - (errors[0] + errors[-1]) / 2, abs=0.012)  # two examples


def test_without_a_choice_of_order_or_time_left_a_network_is_stable(tmp_path):
    data, how = clumps(), {"store": Store(tmp_path), "execution": "stacked"}
    task = task_of(narrow, data).with_recipe(lr=0.3)
    late = fit(task, seeds=[0], keep=(269,), **how).at(269)
    assert float(instability(task, late, 269, [0], **how)) < STABLE  # one of 270 steps is left
    whole = task.with_recipe(batch_size=180)  # one batch is the whole set
    assert float(instability(whole, whole.space.init_many([0]), 0, [0], **how)) < 0.006


def test_instability_is_asked_of_subnetworks_and_of_any_examples(tmp_path):
    data, how = clumps(), {"store": Store(tmp_path), "execution": "stacked"}
    task = task_of(narrow, data)
    masks = torch.ones(1, task.space.size, dtype=torch.bool)
    masks[0, task.space["0.weight"].slice] = False  # without inputs nothing is learnt, and no error can rise
    assert float(instability(task, task.space.init_many([0]), 0, [0], masks=masks, **how)) == 0
    few = Dataset.of(data.inputs[:4], data.targets[:4])
    height = float(instability(task, task.space.init_many([0]), 0, [0], data=few, **how))
    assert (8 * height) % 1 == 0  # the mean of two ends on four examples
    assert find("measure", "instability").fn is instability
    errors, losses = on_data(task, few)(task.space.init_many([0, 1]))
    assert errors.shape == losses.shape == (2,) and set((4 * errors).tolist()) <= set(range(5))


def test_two_points_are_too_few_for_barriers_of_examples_too():
    with pytest.raises(InputError, match="at least 3 points"):
        example_barriers(lambda t: (t, t), torch.zeros(3), torch.zeros(3), points=2)
