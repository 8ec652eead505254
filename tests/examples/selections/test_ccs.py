import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surplus.errors import InputError
from surplus.examples import ccs
from surplus.examples.selections.ccs import strata_of, stratum_budgets
from surplus.space import generator


def test_known_strata_have_known_budgets():
    assert stratum_budgets(20, [2, 30, 5, 100]) == [2, 6, 5, 7]
    assert stratum_budgets(10, [1, 1, 1]) == [1, 1, 1]


@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=20), share=st.floats(0, 1))
def test_budgets_are_spent_whole_and_level_off(sizes, share):
    keep = round(share * sum(sizes))
    budgets = stratum_budgets(keep, sizes)
    assert sum(budgets) == keep
    assert all(0 <= b <= s for b, s in zip(budgets, sizes, strict=True))
    unfilled = [b for b, s in zip(budgets, sizes, strict=True) if b < s]
    assert not unfilled or max(budgets) - min(unfilled) <= 1


def test_strata_are_of_equal_width_and_include_both_ends():
    scores = torch.tensor([-1.0, -0.51, -0.49, 0.2, 0.9, 1.0])
    assert strata_of(scores, 4).tolist() == [0, 0, 1, 2, 3, 3]
    assert strata_of(torch.full((3,), 2.0), 4).tolist() == [0, 0, 0]


def test_rare_scores_are_kept_whole_and_crowded_ones_share():
    scores = torch.cat([torch.zeros(100), torch.full((5,), 0.4), torch.full((3,), 1.0)])
    kept = ccs(scores, 30, generator=generator(0), beta=0, strata=3)
    assert scores[kept].unique(return_counts=True)[1].tolist() == [22, 5, 3]


def test_the_hard_end_is_cut():
    scores = torch.arange(100.0)
    assert torch.equal(ccs(scores, 70, generator=generator(0), beta=0.3), scores < 70)
    assert not ccs(scores, 40, generator=generator(0), beta=0.3)[70:].any()
    assert ccs(scores, 95, generator=generator(0), beta=0.3)[:95].all()  # no room for more than five


def test_the_cut_comes_before_the_strata():
    scores = torch.cat([torch.linspace(0, 1, 90), torch.full((10,), 1e6)])
    kept = ccs(scores, 50, generator=generator(0), beta=0.1, strata=5)
    assert not kept[90:].any()
    assert (strata_of(scores[:90], 5)[kept[:90]].bincount() == 10).all()


def test_inside_a_stratum_the_draw_is_uniform():
    draws = [ccs(torch.zeros(10), 3, generator=generator(seed), beta=0).double() for seed in range(1000)]
    assert (torch.stack(draws).mean(0) - 0.3).abs().max() < 4 * (0.3 * 0.7 / 1000) ** 0.5


@pytest.mark.parametrize("options", [{"strata": 0}, {"beta": 1.0}, {"beta": -0.1}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(InputError):
        ccs(torch.arange(5.0), 2, generator=generator(0), **options)


def test_infinite_scores_have_no_strata():
    with pytest.raises(InputError, match="finite scores"):
        ccs(torch.tensor([0.0, torch.inf]), 1, generator=generator(0))
