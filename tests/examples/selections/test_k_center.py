from itertools import combinations

import pytest
import torch

from surplus.errors import InputError
from surplus.examples import k_center, k_center_order
from surplus.space import generator

POINTS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])


def radius(h, picks):
    return torch.cdist(h, h[list(picks)]).amin(1).max().item()


def test_four_points_are_picked_in_the_order_found_by_hand():
    assert k_center_order(POINTS, 3, first=0).tolist() == [0, 3, 1]
    assert k_center(torch.zeros(4), 2, embeddings=POINTS, first=0).tolist() == [True, False, False, True]


def test_each_pick_is_the_farthest_from_those_before():
    h = torch.randn(25, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = k_center_order(h, 25, first=7).tolist()
    assert sorted(order) == list(range(25))
    for t in range(1, 25):
        gaps = torch.cdist(h, h[order[:t]]).amin(1)
        assert gaps[order[t]] == pytest.approx(gaps.max().item())


def test_the_radius_is_at_most_twice_the_best():
    h = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    best = min(radius(h, picks) for picks in combinations(range(10), 3))
    for first in range(10):
        assert radius(h, k_center_order(h, 3, first).tolist()) <= 2 * best


def test_equal_points_are_never_picked_twice():
    assert sorted(k_center_order(torch.ones(5, 2), 5, first=3).tolist()) == [0, 1, 2, 3, 4]


def test_the_first_pick_is_drawn_uniformly():
    firsts = [k_center(torch.zeros(4), 1, embeddings=POINTS, generator=generator(s)).int().argmax() for s in range(400)]
    assert (torch.stack(firsts).bincount(minlength=4) / 400 - 0.25).abs().max() < 4 * (0.25 * 0.75 / 400) ** 0.5


def test_a_first_pick_outside_the_examples_is_refused():
    with pytest.raises(InputError, match="from 0 to 3"):
        k_center(torch.zeros(4), 2, embeddings=POINTS, first=4)


def test_points_far_from_the_origin_are_told_apart():
    h = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(k_center_order(h + 1000, 20, first=5), k_center_order(h.double(), 20, first=5))
