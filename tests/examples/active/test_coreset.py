from __future__ import annotations

import torch

from surplus.examples.active import query
from surplus.examples.selections.k_center import k_center_order
from surplus.space import generator

POINTS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])


def test_four_points_by_hand():
    assert query("coreset", POINTS, 3, labelled=[0]).tolist() == [3, 1, 2]
    assert query("coreset", POINTS, 2, labelled=[0, 3]).tolist() == [1, 2]
    assert query("coreset", POINTS, 2, labelled=[3], candidates=[1, 2]).tolist() == [1, 2]


def test_each_pick_is_the_farthest_from_labels_and_picks():
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = [4, 9]
    for pick in query("coreset", x, 28, labelled=known).tolist():
        gap = torch.cdist(x, x[known]).amin(1)
        torch.testing.assert_close(gap[pick], gap.max())
        known = [*known, pick]


def test_without_labels_it_is_k_center_from_a_drawn_point():
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    picks = query("coreset", x, 10, generator=generator(0))
    assert torch.equal(picks, k_center_order(x, 10, int(picks[0])))
    assert len({int(query("coreset", x, 1, generator=generator(s))[0]) for s in range(40)}) > 10


def test_growing_budgets_nest():
    assert query("coreset", POINTS, 3, labelled=[0])[:2].equal(query("coreset", POINTS, 2, labelled=[0]))
