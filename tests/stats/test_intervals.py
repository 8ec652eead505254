from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from surplus.errors import InputError
from surplus.stats import bootstrap, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 1), (431, 540)])
def test_wilson_is_scipys(k, n):
    want = stats.binomtest(k, n).proportion_ci(0.9, method="wilson")
    got = wilson(k, n, 0.9)
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=1e-12)
    assert got.value == k / n


def test_no_trials_leave_every_share_possible():
    none = wilson(0, 0)
    assert math.isnan(none.value)
    assert (none.low, none.high) == (0, 1)


def test_more_successes_than_trials_are_refused():
    with pytest.raises(InputError, match="5 of 4"):
        wilson(5, 4)


def test_the_bootstrap_of_a_mean_agrees_with_the_central_limit():
    x = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = bootstrap(x, torch.mean, seed=1, resamples=2000)
    half = 1.96 * x.std() / 20
    assert got.value == pytest.approx(x.mean().item())
    assert got.high - got.value == pytest.approx(half.item(), rel=0.1)
    assert got.value - got.low == pytest.approx(half.item(), rel=0.1)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    x = np.random.default_rng(0).normal(size=30)
    assert bootstrap(x, np.median, seed=3) == bootstrap(x, np.median, seed=3)
    assert bootstrap(x, np.mean, seed=3) != bootstrap(x, np.mean, seed=4)
    g = torch.Generator().manual_seed(0)
    assert bootstrap(x, np.mean, g) != bootstrap(x, np.mean, g)


def test_groups_are_drawn_whole():
    labels = np.repeat(["a", "b", "c", "d"], 50)
    x = np.repeat([0.0, 1.0, 2.0, 3.0], 50)

    def balanced(resample):
        assert len(resample) == 200
        assert (np.unique(resample, return_counts=True)[1] % 50 == 0).all()
        return resample.mean()

    grouped, alone = bootstrap(x, balanced, groups=labels), bootstrap(x, np.mean)
    assert grouped.repeats == 4
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)
    assert grouped == bootstrap(x, balanced, groups=torch.arange(4).repeat_interleave(50))


def test_one_case_or_one_group_shows_no_spread():
    for got in (bootstrap([2.0], np.mean), bootstrap([1.0, 3.0], np.mean, groups=[7, 7])):
        assert got.value == 2
        assert math.isnan(got.low)
        assert math.isnan(got.high)


def test_resamples_without_a_value_are_left_out_until_they_are_half():
    x = np.array([1.0, 1.0, 5.0])
    ratio = lambda r: np.nan if (r == 1).all() else r.mean()  # undefined on 8 of 27 resamples
    assert bootstrap(x, ratio).low > 1
    assert math.isnan(bootstrap(x, lambda r: np.nan if (r == r[0]).all() or r.sum() < 11 else 1.0).low)


def test_a_bad_input_is_refused_with_the_rule():
    with pytest.raises(InputError, match="got none"):
        bootstrap([], np.mean)
    with pytest.raises(InputError, match="one label per sample"):
        bootstrap([1.0, 2.0], np.mean, groups=[1])
    with pytest.raises(InputError, match="level"):
        bootstrap([1.0, 2.0], np.mean, level=1.0)
