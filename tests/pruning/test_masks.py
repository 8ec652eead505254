"""Exact counts, nesting, scopes, and agreement with torch's own pruning."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from surplus.errors import InputError
from surplus.pruning import allocate, cut, density, keep_top, layer_densities, random_mask, shuffle
from surplus.space import WeightSpace, generator


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10)

    def forward(self, x):
        return self.head(self.fc2(self.fc1(x).relu()).relu())


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.bn(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def lenet():
    return WeightSpace(LeNet)


def row(*values):
    """A space with one prunable tensor of five weights."""
    space = WeightSpace(lambda: nn.Linear(len(values), 1, bias=False))
    return space, torch.tensor(values)


def test_the_largest_three_of_five_stay_and_the_next_cut_takes_one_more():
    space, w = row(0.2, -0.9, 0.6, 0.1, -0.25)
    mask = keep_top(space, w.abs(), count=3)
    assert mask.nonzero().squeeze(1).tolist() == [1, 2, 4]
    assert cut(space, w.abs(), mask, 0.34).nonzero().squeeze(1).tolist() == [1, 2]


@pytest.mark.parametrize("removed", [1, 1000, 212_960, 266_000])
def test_one_cut_equals_torchs_global_pruning(lenet, removed):
    theta = lenet.init(0)
    mask = keep_top(lenet, theta.abs(), count=266_200 - removed)
    module = lenet.write(theta)
    layers = [(module.fc1, "weight"), (module.fc2, "weight"), (module.head, "weight")]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=removed)
    for name, part in lenet.split(mask).items():
        if name.endswith("weight"):
            assert torch.equal(part, module.get_submodule(name.split(".")[0]).weight_mask.bool())


def test_densities_after_twenty_cuts_are_powers_of_four_fifths(lenet):
    theta, mask = lenet.init(0), torch.ones(lenet.size, dtype=torch.bool)
    found = {}
    for level in range(1, 21):
        smaller = cut(lenet, theta.abs(), mask, 0.2)
        assert not (smaller & ~mask).any()  # masks nest
        mask = smaller
        found[level] = density(lenet, mask)
    expected = {5: 0.3277, 8: 0.1678, 10: 0.1074, 13: 0.0550, 15: 0.0352, 20: 0.0115}
    assert {k: round(found[k], 4) for k in expected} == expected


def test_gaussian_weights_lose_the_norm_that_the_closed_form_says():
    space = WeightSpace(lambda: nn.Linear(1000, 1000, bias=False))
    w = torch.randn(space.size, generator=generator(0), dtype=torch.float64)
    for share, expected in [(0.2, 0.00424), (0.5, 0.2671**2), (0.8, 0.5918**2)]:
        gone = w[~keep_top(space, w.abs(), density=1 - share)]
        assert float(gone.square().sum() / w.square().sum()) == pytest.approx(expected, rel=0.02)


def test_biases_and_normalisation_always_stay():
    space = WeightSpace(Conv)
    mask = keep_top(space, torch.zeros(space.size), count=0)
    assert torch.equal(mask, ~space.prunable)
    assert density(space, mask) == 0


def test_ties_never_remove_more_than_was_asked(lenet):
    equal = torch.ones(lenet.size)
    assert int((keep_top(lenet, equal, count=100) & lenet.prunable).sum()) == 100
    one, other = (keep_top(lenet, equal, count=100, generator=generator(s)) for s in (0, 1))
    assert int((one & lenet.prunable).sum()) == 100
    assert not torch.equal(one, other)


@given(d=st.floats(0.001, 1), seed=st.integers(0, 9), scope=st.sampled_from(["global", "layer"]))
def test_the_count_is_the_density_times_the_prunable_weights(d, seed, scope):
    space = WeightSpace(Conv)
    score = torch.randn(space.size, generator=generator(seed))
    mask = keep_top(space, score, density=d, scope=scope)
    assert int((mask & space.prunable).sum()) == round(d * int(space.prunable.sum()))


def test_layer_scope_gives_every_layer_the_density(lenet):
    mask = keep_top(lenet, lenet.init(0).abs(), density=0.1, scope="layer")
    assert layer_densities(lenet, mask) == {"fc1.weight": 0.1, "fc2.weight": 0.1, "head.weight": 0.1}


def test_a_layerwise_cut_spares_the_output_layer_half(lenet):
    full = torch.ones(lenet.size, dtype=torch.bool)
    mask = cut(lenet, lenet.init(0).abs(), full, 0.2, "layer")
    assert layer_densities(lenet, mask) == {"fc1.weight": 0.8, "fc2.weight": 0.8, "head.weight": 0.9}
    mask = cut(lenet, lenet.init(0).abs(), full, 0.2, "layer", output_rate=0.0)
    assert layer_densities(lenet, mask)["head.weight"] == 1


def test_an_excluded_layer_is_whole_and_does_not_count(lenet):
    theta = lenet.init(0)
    mask = keep_top(lenet, theta.abs(), density=0.1, exclude=("head",))
    assert layer_densities(lenet, mask)["head.weight"] == 1
    assert density(lenet, mask, exclude=("head",)) == pytest.approx(0.1)
    twice = cut(lenet, theta.abs(), mask, 0.5, exclude=("head",))
    assert density(lenet, twice, exclude=("head",)) == pytest.approx(0.05)
    layered = cut(lenet, theta.abs(), mask, 0.5, "layer", exclude=("head",))
    assert layer_densities(lenet, layered)["head.weight"] == 1


def test_a_least_number_per_layer_is_kept_at_the_same_count(lenet):
    score = lenet.init(0).abs()
    score[lenet["head.weight"].slice] = 0
    bare = keep_top(lenet, score, count=60)
    safe = keep_top(lenet, score, count=60, min_per_layer=20)
    assert layer_densities(lenet, bare)["head.weight"] == 0
    assert all(int(safe[b.slice].sum()) >= 20 for b in lenet.blocks if b.prunable)
    assert int((safe & lenet.prunable).sum()) == 60
    layered = keep_top(lenet, score, density=0.001, scope="layer", min_per_layer=20)
    assert int((layered & lenet.prunable).sum()) == round(0.001 * 266_200)
    assert int(layered[lenet["head.weight"].slice].sum()) == 20
    with pytest.raises(InputError, match="too few for 20 in each of 3 layers"):
        keep_top(lenet, score, count=59, min_per_layer=20)


def test_removed_weights_do_not_come_back(lenet):
    first = random_mask(lenet, 0.5, generator(0))
    second = keep_top(lenet, torch.rand(lenet.size, generator=generator(1)), density=0.2, alive=first)
    assert not (second & ~first).any()
    assert density(lenet, second) == pytest.approx(0.2)
    with pytest.raises(InputError, match="only 133,100 are alive"):
        keep_top(lenet, torch.rand(lenet.size), density=0.6, alive=first)


def test_random_masks_have_the_densities_of_their_rule(lenet):
    for rule in ("uniform", "erk", "er", "smart"):
        mask = random_mask(lenet, 0.02, generator(0), rule)
        wanted = allocate(lenet, 0.02, rule)
        found = layer_densities(lenet, mask)
        assert all(abs(found[n] - wanted[n]) * lenet[n].size <= 1 for n in wanted)
        assert int((mask & lenet.prunable).sum()) == 5324
    assert int((random_mask(lenet, 0.02, generator(0)) & lenet.prunable).sum()) == 5324
    assert torch.equal(random_mask(lenet, 0.02, generator(3)), random_mask(lenet, 0.02, generator(3)))


def test_shuffling_moves_places_and_keeps_layer_densities(lenet):
    mask = keep_top(lenet, lenet.init(0).abs(), density=0.1)
    moved = shuffle(lenet, mask, generator(0))
    assert layer_densities(lenet, moved) == layer_densities(lenet, mask)
    assert not torch.equal(moved, mask)
    anywhere = shuffle(lenet, mask, generator(0), scope="global")
    assert density(lenet, anywhere) == density(lenet, mask)
    assert layer_densities(lenet, anywhere) != layer_densities(lenet, mask)
    spared = shuffle(lenet, mask, generator(0), exclude=("fc1",))
    where = lenet["fc1.weight"].slice
    assert torch.equal(spared[where], mask[where]) and not torch.equal(moved[where], mask[where])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of"),
        ({"density": 0.1, "count": 3}, "exactly one of"),
        ({"density": 0.0}, r"lies in \(0, 1\]"),
        ({"count": 10**9}, "266,200 prunable weights"),
        ({"density": 0.1, "scope": "block"}, "no scope is called 'block'"),
        ({"layer_density": {"fc1.weight": 0.1}}, "says nothing of fc2.weight, head.weight"),
        ({"layer_density": {"fc1": 0.1}}, "no prunable tensor is called 'fc1'"),
        ({"density": 0.1, "alive": torch.ones(3, dtype=torch.bool)}, "boolean of shape"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(lenet, options, message):
    with pytest.raises(InputError, match=message):
        keep_top(lenet, torch.zeros(lenet.size), **options)


def test_nan_scores_and_replicas_are_refused(lenet):
    with pytest.raises(InputError, match="scores are NaN"):
        keep_top(lenet, torch.full((lenet.size,), float("nan")), density=0.5)
    with pytest.raises(InputError, match="one replica at a time"):
        keep_top(lenet, torch.zeros(2, lenet.size), density=0.5)
    with pytest.raises(InputError, match=r"lies in \[0, 1\)"):
        cut(lenet, lenet.init(0).abs(), torch.ones(lenet.size, dtype=torch.bool), 1.0)


def test_many_rounds_by_layer_never_give_a_weight_back():
    from surplus.pruning import iterate_score

    sizes = [64, 64, 64, 64, 10]
    layers = [m for a, b in itertools.pairwise(sizes) for m in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    space = WeightSpace(lambda: torch.nn.Sequential(*layers[:-1]))
    mask = iterate_score("magnitude", space, space.init(0), density=0.005, rounds=100, scope="layer")
    assert int(mask[space.prunable].sum()) == round(0.005 * int(space.prunable.sum()))
