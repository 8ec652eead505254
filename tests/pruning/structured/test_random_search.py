"""Random search against enumeration, its two ends, and the masked parent that a candidate must equal."""

from itertools import combinations

import pytest
import torch
from torch import nn

from surplus.data import Dataset, Splits
from surplus.errors import InputError
from surplus.pruning.structured.random_search import _places, candidates, random_search, search, subnetwork
from surplus.registry import find
from surplus.space import generator
from surplus.tasks import load, task_from
from surplus.training import Store, evaluate


def toy(width=6):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 4, generator=g), torch.arange(60) % 3
    parts = [Dataset.of(a, b, name="toy", kind="table") for a, b in ((x[:40], y[:40]), (x[40:], y[40:]))]
    make = lambda: nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
    return task_from(Splits("toy", *parts), make).with_recipe(duration="5it", batch_size=20)


@pytest.fixture(scope="module")
def task():
    return load("digits", "mlp", widths=(20, 12)).with_recipe(duration="5it", batch_size=64)


def every_loss(task, theta, keep):
    parent = task.space.write(theta)
    small = [subnetwork(parent, [torch.tensor(c)]) for c in combinations(range(6), keep)]
    x, y = task.prepare(task.train.inputs), task.train.targets
    with torch.no_grad():
        return torch.stack([nn.functional.cross_entropy(m(x), y) for m in small])


def test_a_long_search_finds_the_best_of_all_twenty_subsets():
    task = toy()
    theta = task.space.init(3)
    losses = every_loss(task, theta, 3)
    assert len(losses) == 20
    found = search(task, theta, keep=0.5, budget=400, draws=generator(0))
    assert found.scores[found.best] == pytest.approx(losses.min().item(), rel=1e-5)
    assert found.scores.min() == found.scores[found.best]
    drawn = {round(s, 5) for s in found.scores.tolist()}
    assert drawn == {round(s, 5) for s in losses.tolist()}  # each subset is drawn, and nothing else
    assert evaluate(found.task, found.theta[None], task.train).loss.item() == pytest.approx(
        losses.min().item(), rel=1e-5
    )


def test_a_search_among_one_is_a_random_small_network(task):
    theta = task.space.init(1)
    found = search(task, theta, keep=0.4, budget=1, draws=generator(7))
    small, points = candidates(task, theta, keep=0.4, draws=generator(7))
    assert torch.equal(found.theta, next(points)) and small.identity == found.task.identity
    assert len(search(task, theta, keep=0.4, budget=9, draws=generator(7)).scores) == 9


def test_a_larger_budget_sees_the_same_candidates_first(task, monkeypatch):
    theta = task.space.init(1)
    few, many = (search(task, theta, keep=0.4, budget=n, draws=generator(7)) for n in (3, 8))
    torch.testing.assert_close(few.scores, many.scores[:3])
    monkeypatch.setattr("surplus.pruning.structured.random_search._AT_ONCE", 3 * len(few.theta))  # 8 in pieces of 3
    pieces = search(task, theta, keep=0.4, budget=8, draws=generator(7))
    torch.testing.assert_close(pieces.scores, many.scores)
    assert pieces.best == many.best and torch.equal(pieces.theta, many.theta)


@pytest.mark.parametrize("network", ["mlp:widths=20-12", "small-conv:width=0.25"])
def test_keeping_everything_is_the_parent(network):
    if network.startswith("small"):
        pytest.importorskip("torch_pruning")
    task = load("digits", network)
    theta = task.space.init(2)
    assert torch.equal(search(task, theta, keep=1.0, budget=2, draws=generator(0)).theta, theta)


def test_a_candidate_computes_what_the_parent_does_with_its_other_units_silent(task):
    parent = task.space.write(task.space.init(0))
    units = [torch.tensor([1, 5, 19]), torch.tensor([0, 11])]
    small = subnetwork(parent, units)
    with torch.no_grad():
        for layer, kept in zip([m for m in parent if isinstance(m, nn.Linear)][1:], units, strict=True):
            gone = torch.ones(layer.in_features, dtype=torch.bool).index_fill(0, kept, False)
            layer.weight[:, gone] = 0
        x = task.prepare(task.test.inputs)
        torch.testing.assert_close(small(x), parent(x))
    assert [tuple(p.shape) for p in small.parameters() if p.dim() == 2] == [(3, 64), (2, 3), (10, 2)]


@pytest.mark.parametrize("network", ["mlp:widths=20-12", "small-conv:width=0.25"])
def test_points_are_the_values_of_small_networks_cut_out_of_the_parent(network):
    if network.startswith("small"):
        pytest.importorskip("torch_pruning")
    task = load("digits", network)
    theta = task.space.init(0)
    small, points = candidates(task, theta, keep=0.25, draws=generator(3))
    first, second = next(points), next(points)
    assert first.shape == (small.space.size,) and not torch.equal(first, second)
    values = set(theta.tolist())
    assert set(first.tolist()) <= values and set(second.tolist()) <= values
    torch.testing.assert_close(small.space.read(small.network()), first)


def test_a_point_is_what_the_cut_module_reads(task):
    theta = task.space.init(0)
    units = [torch.tensor([1, 5, 19]), torch.tensor([0, 11])]
    small = subnetwork(task.space.write(theta), units)
    read = torch.cat([p.detach().flatten() for p in small.parameters()])
    assert torch.equal(theta[_places(task, units)], read)


def test_rescaling_makes_up_for_the_smaller_number_of_inputs(task):
    theta = task.space.init(0)
    (small, plain), (_, scaled) = (
        candidates(task, theta, keep=0.25, draws=generator(0), rescale=r) for r in (False, True)
    )
    ratio = small.space.split(next(scaled) / next(plain))
    factors = {n: (t.min().item(), t.max().item()) for n, t in ratio.items() if "weight" in n}
    expected = {"linear1.weight": 1, "linear2.weight": (20 / 5) ** 0.5, "head.weight": (12 / 3) ** 0.5}
    for name, value in expected.items():
        assert factors[name] == pytest.approx((value, value), rel=1e-5)
    assert all(ratio[n].eq(1).all() for n in ratio if "bias" in n)


@pytest.mark.parametrize(("criterion", "best"), [("loss", min), ("accuracy", max), ("gradient-norm", max)])
def test_each_criterion_picks_its_best(task, criterion, best):
    found = search(task, task.space.init(0), keep=0.3, budget=6, criterion=criterion, examples=700, draws=generator(1))
    scores = found.scores.tolist()
    assert scores[found.best] == best(scores) and len(set(scores)) > 1


def test_the_gradient_norm_is_that_of_the_mean_loss(task):
    found = search(task, task.space.init(0), keep=0.3, budget=1, criterion="gradient-norm", draws=generator(1))
    module = found.task.space.write(found.theta)
    loss = nn.functional.cross_entropy(module(task.prepare(task.train.inputs)), task.train.targets)
    grads = torch.autograd.grad(loss, list(module.parameters()))
    expected = torch.cat([g.flatten() for g in grads]).norm()
    torch.testing.assert_close(found.scores[0], expected)


def test_each_seed_trains_a_small_network_of_its_own(task, tmp_path):
    runs = random_search(task, keep=0.25, seeds=2, budget=4, store=Store(tmp_path))
    assert [len(r) for r in runs] == [1, 1]
    assert runs[0].theta.shape[1] == 64 * 5 + 5 + 5 * 3 + 3 + 3 * 10 + 10
    assert not torch.equal(runs[0].theta, runs[1].theta)
    again = random_search(task, keep=0.25, seeds=[1], budget=4, store=Store(tmp_path))
    assert torch.equal(again[0].theta, runs[1].theta)


def test_test_data_are_not_looked_at(task):
    theta = task.space.init(0)
    other = task_from(Splits("x", task.train, task.train[:30]), "mlp", recipe=task.recipe, widths=(20, 12))
    found = [search(t, theta, keep=0.3, budget=5, draws=generator(0)).scores for t in (task, other)]
    assert torch.equal(*found)


def test_convolutions_lose_channels(tmp_path):
    pytest.importorskip("torch_pruning")
    task = load("digits", "small-conv", width=0.25).with_recipe(duration="2it", batch_size=32)
    (run,) = random_search(task, keep=0.5, seeds=1, budget=2, store=Store(tmp_path))
    assert run.theta.shape[1] < 0.5 * task.space.size


def test_what_cannot_be_searched_is_refused(task):
    theta, draws = task.space.init(0), generator(0)
    with pytest.raises(InputError, match="no criterion is called 'luck'"):
        search(task, theta, keep=0.5, criterion="luck", draws=draws)
    with pytest.raises(InputError, match="one candidate"):
        search(task, theta, keep=0.5, budget=0, draws=draws)
    with pytest.raises(InputError, match=r"lies in \(0, 1\]"):
        search(task, theta, keep=0, draws=draws)
    with pytest.raises(InputError, match="2 hidden layers"):
        subnetwork(task.space.write(theta), [torch.tensor([0])])
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))
    frozen[1].bias.requires_grad_(False)
    with pytest.raises(InputError, match="some weights are frozen"):
        other = load("digits", lambda: frozen)
        search(other, other.space.init(0), keep=0.5, draws=draws)
    assert find("structured pruning", "random-search").fn is random_search
