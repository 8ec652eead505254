from __future__ import annotations

import torch

from surplus.stats import Estimate


def test_the_spread_is_that_of_the_repeats_that_are_there():
    nan = torch.nan
    e = Estimate.over(torch.tensor([[1.0, 5.0, nan], [3.0, nan, nan]], dtype=torch.float64))
    torch.testing.assert_close(e.mean, torch.tensor([2.0, 5.0, nan]).double(), equal_nan=True)
    torch.testing.assert_close(e.stderr, torch.tensor([1.0, nan, nan]).double(), equal_nan=True)
    assert e.repeats.tolist() == [2, 1, 0]


def test_complete_repeats_are_counted_by_one_number_and_answers_may_be_bool():
    e = Estimate.over(torch.tensor([[True, False], [False, False]]))
    assert e.repeats == 2
    assert e.mean.tolist() == [0.5, 0.0]


def test_the_interval_of_two_repeats_is_students():
    low, high = Estimate.over(torch.tensor([[0.0], [2.0]]).double()).interval()
    torch.testing.assert_close(high, torch.tensor([1 + 12.706205]).double())
    torch.testing.assert_close(low, torch.tensor([1 - 12.706205]).double())


def test_the_interval_covers_as_often_as_it_says():
    draws = torch.randn(5, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = Estimate.over(draws).interval(0.9)
    assert abs(((low < 0) & (high > 0)).double().mean() - 0.9) < 4 * (0.9 * 0.1 / 4000) ** 0.5
