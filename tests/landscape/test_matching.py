from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.landscape import chain_axes, permute, weight_matching
from surplus.space import WeightSpace, generator


def mlp(*widths: int) -> WeightSpace:
    def make():
        layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *layers[:-1])

    return WeightSpace(make)


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), nn.GroupNorm(1, 5), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(20, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = self.a(x).relu()
        return self.c(h + self.b(h).relu())


RESIDUAL_AXES = {
    "a.weight": ("h", None),
    "a.bias": ("h",),
    "b.weight": ("h", "h"),
    "b.bias": ("h",),
    "c.weight": (None, "h"),
}


def plant(space, axes, seed):
    """A random network, and the same one under other names for its hidden units."""
    g = generator(seed, "plant")
    theta = space.init(seed) + 0.1 * torch.randn(space.size, generator=g)
    widths = {}
    for name, groups in axes.items():
        for length, group in zip(space[name].shape, groups, strict=True):
            if group:
                widths[group] = min(length, widths.get(group, length))
    perms = {group: torch.randperm(n, generator=g) for group, n in widths.items()}
    return theta, permute(space, axes, theta, perms), perms


def test_permuting_gathers():
    space = mlp(1, 3, 1)
    axes = chain_axes(space, torch.zeros(1, 1))
    theta = torch.tensor([1.0, 2, 3, 10, 20, 30, 100, 200, 300, 7])
    (group,) = {g for groups in axes.values() for g in groups if g}
    moved = permute(space, axes, theta, {group: torch.tensor([2, 0, 1])})
    assert moved.tolist() == [3, 1, 2, 30, 10, 20, 300, 100, 200, 7]


@pytest.mark.parametrize("make", [lambda: mlp(5, 9, 4, 2), lambda: WeightSpace(conv_net)], ids=["mlp", "convolutions"])
def test_a_permuted_chain_computes_the_same_function(make):
    space = make()
    x = torch.randn(10, *((5,) if space.size < 200 else (1, 8, 8)), generator=generator(0))
    theta, other, perms = plant(space, chain_axes(space, x), 1)
    assert any((p != torch.arange(len(p))).any() for p in perms.values())
    assert not torch.equal(theta, other)
    torch.testing.assert_close(space.apply(other, x), space.apply(theta, x), atol=1e-5, rtol=1e-5)


def test_one_hidden_layer_gives_back_the_planted_permutation_in_one_sweep():
    space = mlp(6, 40, 3)
    axes = chain_axes(space, torch.zeros(2, 6))
    theta, other, perms = plant(space, axes, 0)
    found = weight_matching(space, axes, theta, other, generator(0), sweeps=1)
    assert torch.equal(found.theta, theta)
    (planted,), (recovered,) = perms.values(), found.permutations.values()
    assert torch.equal(planted[recovered], torch.arange(40))
    assert found.gain == pytest.approx((theta * theta).sum().item() - (theta * other).sum().item(), rel=1e-4)


def test_three_hidden_layers_are_recovered_nine_times_in_ten():
    space = mlp(10, 64, 64, 64, 5)
    axes = chain_axes(space, torch.zeros(2, 10))
    recovered = 0
    for seed in range(10):
        theta, other, _ = plant(space, axes, seed)
        recovered += torch.equal(weight_matching(space, axes, theta, other, generator(seed)).theta, theta)
    assert recovered >= 9


def test_blocks_of_a_flattened_feature_map_are_recovered():
    space = WeightSpace(conv_net)
    axes = chain_axes(space, torch.zeros(2, 1, 8, 8))
    theta, other, _ = plant(space, axes, 3)
    assert torch.equal(weight_matching(space, axes, theta, other, generator(3)).theta, theta)


def test_axes_of_ones_own_cover_a_residual_stream():
    space = WeightSpace(Residual)
    theta, other, _ = plant(space, RESIDUAL_AXES, 0)
    x = torch.randn(5, 4, generator=generator(1))
    torch.testing.assert_close(space.apply(other, x), space.apply(theta, x))
    assert torch.equal(weight_matching(space, RESIDUAL_AXES, theta, other, generator(0)).theta, theta)


def test_matching_brings_independent_networks_closer_and_stops():
    space = mlp(8, 32, 32, 4)
    axes = chain_axes(space, torch.zeros(2, 8))
    a, b = space.init(0), space.init(1)
    found = weight_matching(space, axes, a, b, generator(0))
    assert (a - found.theta).norm() < (a - b).norm()
    assert found.gain == pytest.approx((a @ found.theta - a @ b).item(), rel=1e-3)
    assert found.sweeps < 100
    again = weight_matching(space, axes, a, found.theta, generator(1))
    assert again.gain >= 0
    x = torch.randn(6, 8, generator=generator(2))
    torch.testing.assert_close(space.apply(found.theta, x), space.apply(b, x), atol=1e-5, rtol=1e-5)


def test_a_network_already_matched_stays_as_it_is():
    space = mlp(8, 16, 4)
    theta = space.init(0)
    found = weight_matching(space, chain_axes(space, torch.zeros(2, 8)), theta, theta, generator(0))
    assert torch.equal(found.theta, theta)
    assert found.gain == 0
    assert found.sweeps == 1


def test_a_network_that_is_no_chain_is_refused():
    with pytest.raises(InputError, match=r"changes its outputs.*give `axes`"):
        chain_axes(WeightSpace(Residual), torch.randn(5, 4, generator=generator(0)))
    embedding = WeightSpace(lambda: nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)))
    with pytest.raises(InputError, match="'0' is a Embedding"):
        chain_axes(embedding, torch.zeros(2, 3, dtype=torch.int64))


def test_axes_that_do_not_fit_are_refused():
    space, theta = mlp(3, 4, 2), torch.zeros(26)
    with pytest.raises(InputError, match=r"'9\.weight' that this network has not"):
        weight_matching(space, {"9.weight": ("h", None)}, theta, theta, generator(0))
    with pytest.raises(InputError, match=r"'1.weight' of shape \(4, 3\)"):
        weight_matching(space, {"1.weight": ("h",)}, theta, theta, generator(0))
    with pytest.raises(InputError, match=r"multiples of the shortest; got \[3, 4\]"):
        weight_matching(space, {"1.weight": ("h", "h")}, theta, theta, generator(0))
