from __future__ import annotations

import math

import pytest
import torch

from surplus.errors import InputError
from surplus.registry import find
from surplus.theory import budget_split, split_between

BUDGETS = torch.tensor([0.5, 2.0, 5.0, 10.0, 30.0, 100.0], dtype=torch.float64)
EASY = {"p": 0.7, "rates": (0.5, 0.1), "scales": (0.9, 0.8)}


def curves(rates, scales):
    return [lambda m, a=a, c=c: c * (-a * m).exp() for a, c in zip(rates, scales, strict=True)]


def test_equal_regions_share_equally():
    split = budget_split(BUDGETS, 0.5, (0.3, 0.3))
    torch.testing.assert_close(split.share, torch.full_like(BUDGETS, 0.5))
    torch.testing.assert_close(split.error, (-0.15 * BUDGETS).exp())
    assert math.isnan(split.turning)


def test_a_split_by_hand():
    # p a1 = 2 (1 - p) a2 with p = 1/2, a = (2, 1): m = (ln 2 + B) / 3
    split = budget_split([1.0, 4.0], 0.5, (2.0, 1.0))
    want = torch.tensor([(math.log(2) + 1) / 3, (math.log(2) + 4) / 12], dtype=torch.float64)
    torch.testing.assert_close(split.share, want)
    assert split.turning == pytest.approx(2 * math.log(2))


def test_the_closed_form_is_the_best_point_of_a_grid():
    split = budget_split(BUDGETS, **EASY)
    shares = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    first, second = curves(EASY["rates"], EASY["scales"])
    for budget, share, error in zip(BUDGETS, split.share, split.error, strict=True):
        errors = 0.7 * first(shares * budget) + 0.3 * second((1 - shares) * budget)
        assert abs(shares[errors.argmin()] - share) <= 1e-4 and error <= errors.min() + 1e-12


def test_at_an_inner_optimum_both_regions_gain_equally_from_one_more_label():
    split = budget_split(BUDGETS, **EASY)
    inner = split.share < 1
    m = (split.share * BUDGETS)[inner]
    gain = 0.7 * 0.9 * 0.5 * (-0.5 * m).exp(), 0.3 * 0.8 * 0.1 * (-0.1 * (BUDGETS[inner] - m)).exp()
    torch.testing.assert_close(*gain)
    assert 0 < inner.sum() < len(BUDGETS)


def test_few_labels_go_to_the_easy_region_and_many_to_the_other():
    split = budget_split(BUDGETS, **EASY)
    assert split.share[0] == 1 and bool((split.share.diff() <= 0).all())
    assert split.share[-1] < 0.7 and split.share[-1] == pytest.approx(0.1 / 0.6, abs=0.06)
    at = budget_split([split.turning], **EASY)
    assert at.share.item() == pytest.approx(0.7) and at.error.item() == pytest.approx(at.random_error.item())
    assert bool(((split.share > 0.7) == (split.turning > BUDGETS)).all())


def test_the_best_split_is_never_worse_than_random_choice():
    for p in (0.1, 0.5, 0.9):
        for rates in ((0.5, 0.1), (0.1, 0.5), (3.0, 0.01)):
            split = budget_split(BUDGETS, p, rates, (0.9, 0.5))
            assert bool((split.error <= split.random_error + 1e-12).all())


def test_the_search_agrees_with_the_closed_form():
    exact, found = budget_split(BUDGETS, **EASY), split_between(BUDGETS, 0.7, *curves(EASY["rates"], EASY["scales"]))
    torch.testing.assert_close(found.share, exact.share, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.error, exact.error)
    fine = split_between(torch.linspace(1, 40, 400), 0.7, *curves(EASY["rates"], EASY["scales"]))
    assert fine.turning == pytest.approx(exact.turning, abs=0.01)


def test_the_search_takes_power_laws_too():
    # p (1 + qB)^-1 + (1 - p) (1 + (1 - q)B)^-1 is least at (1 + m) / (2 + B) = 1 / (1 + sqrt((1 - p) / p))
    p, total = 0.8, 10.0
    law = lambda m: 1 / (1 + m)
    m = (2 + total) / (1 + ((1 - p) / p) ** 0.5) - 1
    assert split_between([total], p, law, law).share.item() == pytest.approx(m / total, abs=1e-6)


@pytest.mark.parametrize(
    ("budgets", "p", "rates", "says"),
    [([0.0], 0.5, (1.0, 1.0), "positive"), ([1.0], 1.0, (1.0, 1.0), "in"), ([1.0], 0.5, (0.0, 1.0), "positive")],
)
def test_what_makes_no_sense_is_refused(budgets, p, rates, says):
    with pytest.raises(InputError, match=says):
        budget_split(budgets, p, rates)


def test_it_is_in_the_catalogue():
    assert find("prediction", "budget-split").fn is budget_split
