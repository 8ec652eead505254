from __future__ import annotations

import pytest
import torch

from surplus.errors import InputError
from surplus.examples.active import purity_radius, query
from surplus.space import generator

LINE = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 30.0])[:, None]


def ask(points, budget, **options):
    return query("prob-cover", points, budget, normalise=False, **options).tolist()


def test_seven_points_by_hand():
    # radius 1.5: 1 and 2 cover three each, 10 covers two, 30 itself; once 0, 1 and 2 are covered, 10 covers most
    assert ask(LINE, 4, delta=1.5) == [1, 4, 2, 6]  # 2 still covers 3, as 3 does itself
    assert ask(LINE, 1, delta=2.5) == [1] and ask(LINE, 2, delta=2.5) == [1, 4]


def test_the_ball_is_open():
    assert ask(LINE, 2, delta=1.0) == [0, 1]  # nobody covers a neighbour at distance 1


def test_labels_cover_first():
    assert ask(LINE, 2, delta=1.5, labelled=[1]) == [4, 2]
    assert ask(LINE, 1, delta=1.5, labelled=[1, 5]) == [2]


def test_what_may_not_be_queried_needs_no_cover():
    assert ask(LINE, 2, delta=1.5, candidates=[0, 3, 4, 6]) == [0, 3]  # all cover one each


def test_the_rest_is_drawn_at_random_once_all_is_covered():
    picks = ask(LINE, 7, delta=1.5, generator=generator(0))
    assert picks[:4] == [1, 4, 2, 6] and sorted(picks) == list(range(7))
    others = [tuple(ask(LINE, 7, delta=1.5, generator=generator(s))[4:]) for s in range(20)]
    assert len(set(others)) > 1
    with pytest.raises(InputError, match="generator="):
        ask(LINE, 7, delta=1.5)


@pytest.mark.parametrize("seed", range(30))
def test_every_pick_covers_the_most_that_is_bare_by_brute_force(seed):
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    near = torch.cdist(x, x) < 0.7
    bare = ~near[[3, 4]].any(0)
    for pick in ask(x, 6, delta=0.7, labelled=[3, 4]):
        count = (near & bare).sum(1)
        assert pick == int(count.index_fill(0, torch.tensor([3, 4]), -1).argmax())
        bare &= ~near[pick]


def test_blocks_of_rows_change_nothing(monkeypatch):
    import sys

    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = ask(x, 10, delta=0.4)
    monkeypatch.setattr(sys.modules["surplus.examples.active.prob_cover"], "ENTRIES", 130)
    assert ask(x, 10, delta=0.4) == whole


def test_the_purest_radius_by_hand():
    # two labels on a line: the nearest point of another label is at 8, 7, 6, 6, 8 and 9
    x, labels = torch.tensor([0.0, 1, 2, 8, 10, 11])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
    assert purity_radius(x, labels, 1.0) == 6
    assert purity_radius(x, labels, 0.6) == 7  # four of six have none nearer than 7
    assert purity_radius(x, labels, 0.1) == 9


def test_the_purest_radius_is_the_largest_that_keeps_the_share():
    x = torch.randn(80, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = (x[:, 0] > 0).long()
    delta = purity_radius(x, labels, 0.9)

    def share(radius):
        inside = torch.cdist(x, x) < radius
        return (~(inside & (labels[:, None] != labels)).any(1)).double().mean()

    assert share(delta) >= 0.9 > share(delta + 1e-9)


def test_delta_comes_from_purity_under_k_means_when_none_is_given():
    g = torch.Generator().manual_seed(0)
    x = 5 * torch.eye(4).repeat_interleave(15, 0) + 0.1 * torch.randn(60, 4, generator=g)
    picks = query("prob-cover", x, 4, generator=generator(0))
    assert sorted((picks // 15).tolist()) == [0, 1, 2, 3]  # four far groups, each one ball
    assert torch.equal(picks, query("prob-cover", x, 4, clusters=4, generator=generator(0)))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="radius of a ball"):
        ask(LINE, 2, delta=0.0)
    with pytest.raises(InputError, match="share of the balls"):
        purity_radius(LINE, torch.arange(7), 0.0)
    with pytest.raises(InputError, match="one pseudo-label"):
        purity_radius(LINE, torch.zeros(7))
