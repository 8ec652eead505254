from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from surplus.errors import InputError
from surplus.stats import paired


def test_it_is_the_paired_t_test_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 8), rng.normal(0, 1, 8)
    got, want = paired(torch.tensor(a), list(b), level=0.9), stats.ttest_rel(a, b)
    interval = want.confidence_interval(0.9)
    assert got.p_value == pytest.approx(want.pvalue)
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high))
    assert got.difference == pytest.approx((a - b).mean())
    assert got.wins == (a > b).sum()
    assert got.seeds == 8


def test_the_two_sided_p_value_does_not_depend_on_the_order_of_the_arms():
    a, b = [0.9, 0.8, 0.85], [0.7, 0.78, 0.8]
    assert paired(a, b).p_value == pytest.approx(paired(b, a).p_value)
    assert paired(a, b).low == pytest.approx(-paired(b, a).high)


def test_one_seed_bounds_nothing():
    one = paired([0.9], [0.8])
    assert one.difference == pytest.approx(0.1)
    assert (one.low, one.high) == (-math.inf, math.inf)
    assert math.isnan(one.stderr)
    assert math.isnan(one.p_value)


def test_equal_arms_differ_by_nothing():
    same = paired([0.9, 0.8, 0.7], [0.9, 0.8, 0.7])
    assert (same.difference, same.stderr, same.low, same.high, same.p_value, same.wins) == (0, 0, 0, 0, 1, 0)


def test_a_constant_difference_is_known_exactly_whatever_the_rounding():
    for kind in (torch.float32, torch.float64):
        same = paired(torch.tensor([0.3, 0.4, 0.9], dtype=kind), torch.tensor([0.1, 0.2, 0.7], dtype=kind))
        assert (same.stderr, same.p_value) == (0, 0)
        assert same.low == same.high == pytest.approx(0.2)
    assert paired([0.1 + 0.2, 0.5], [0.3, 0.5]).p_value == 1


def test_a_pair_with_a_missing_run_is_left_out():
    got = paired([0.9, math.nan, 0.7, 0.8], [0.8, 0.5, math.nan, 0.6])
    assert got.seeds == 2
    assert got.difference == pytest.approx(0.15)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    results = [paired(rng.normal(1, 2, 5), rng.normal(0.5, 1, 5)) for _ in range(1000)]
    assert abs(np.mean([r.low < 0.5 < r.high for r in results]) - 0.95) < 4 * (0.95 * 0.05 / 1000) ** 0.5


def test_a_bad_input_is_refused_with_the_rule():
    with pytest.raises(InputError, match="got 2 and 3 items"):
        paired([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="no item has both"):
        paired([math.nan], [1.0])
    with pytest.raises(InputError, match=r"Did you mean 0\.95"):
        paired([1, 2], [1, 3], level=95)
    with pytest.raises(InputError, match="shape \\(n,\\)"):
        paired(torch.zeros(2, 2), torch.zeros(2, 2))
