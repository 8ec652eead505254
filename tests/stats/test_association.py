from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from surplus.errors import InputError
from surplus.stats import auc, rank_correlation, split_half_reliability


@pytest.mark.parametrize(("method", "reference"), [("spearman", stats.spearmanr), ("kendall", stats.kendalltau)])
def test_the_value_is_scipys_ties_included(method, reference):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 40), rng.integers(0, 6, 40)
    assert rank_correlation(torch.tensor(x), y, method).value == pytest.approx(reference(x, y).statistic)


@pytest.mark.parametrize("method", ["spearman", "kendall"])
@pytest.mark.parametrize("interval", ["fisher", "bootstrap"])
def test_the_interval_covers_as_often_as_it_says(method, interval):
    rng = np.random.default_rng(1)
    rho = 0.6
    truth = {"spearman": 6 / np.pi * np.arcsin(rho / 2), "kendall": 2 / np.pi * np.arcsin(rho)}[method]
    times, covered = 100, 0
    for seed in range(times):
        x, noise = rng.normal(size=(2, 40))
        got = rank_correlation(x, rho * x + (1 - rho**2) ** 0.5 * noise, method, 0.9, seed, interval, resamples=100)
        covered += got.low < truth < got.high
    assert 0.81 < covered / times < 0.98


@pytest.mark.parametrize("method", ["spearman", "kendall"])
def test_four_items_in_the_same_order_prove_little(method):
    for n in (2, 4):
        got = rank_correlation(np.arange(n), np.arange(n) ** 2, method)
        assert got.value == pytest.approx(1)
        assert got.low < 0
        assert got.high == 1
    opposite = rank_correlation(np.arange(30), -np.arange(30), method)
    assert opposite.low == -1 < opposite.high < -0.9


def test_a_constant_ranks_nothing():
    for method in ("spearman", "kendall"):
        got = rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], method)
        assert math.isnan(got.value)
        assert math.isnan(got.low)


def test_items_with_a_missing_number_are_left_out():
    got = rank_correlation([1, 2, math.nan, 4, 5], [1, 2, 3, math.nan, 0])
    assert got.items == 3
    assert got.value == rank_correlation([1, 2, 5], [1, 2, 0]).value


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="kendall"):
        rank_correlation([1, 2], [1, 2], "kendal")
    with pytest.raises(InputError, match="fisher"):
        rank_correlation([1, 2], [1, 2], interval="fischer")


def test_the_area_counts_pairs():
    rng = np.random.default_rng(2)
    scores, positive = rng.integers(0, 8, 60).astype(float), rng.random(60) < 0.4
    high, low = scores[positive][:, None], scores[~positive][None, :]
    wins = (high > low) + 0.5 * (high == low)
    got = auc(scores, positive)
    assert got.mean.item() == pytest.approx(wins.mean())
    slow = wins.mean(1).var(ddof=1) / positive.sum() + wins.mean(0).var(ddof=1) / (~positive).sum()
    assert got.stderr.item() == pytest.approx(slow**0.5)


def test_the_areas_spread_is_its_standard_error():
    rng = np.random.default_rng(3)
    labels = torch.arange(120) < 40
    results = [auc(torch.tensor(rng.normal(size=120)) + labels, labels) for _ in range(400)]
    areas = np.array([r.mean.item() for r in results])
    assert abs(areas.mean() - stats.norm.cdf(0.5**0.5)) < 4 * areas.std() / 20
    assert np.mean([r.stderr.item() for r in results]) == pytest.approx(areas.std(), rel=0.12)


def test_perfect_and_reversed_scores():
    labels = [0, 0, 1, 1]
    assert auc([1, 2, 3, 4], labels).mean == 1
    assert auc([4, 3, 2, 1], labels).mean == 0
    assert auc([1, 1, 1, 1], labels).mean == 0.5


def test_one_class_alone_has_no_area_and_one_positive_no_spread():
    assert auc([1.0, 2.0], [1, 1]).mean.isnan()
    lone = auc([1.0, 2.0, 3.0, math.nan], [0, 1, 0, 1])
    assert lone.mean == 0.5
    assert lone.stderr.isnan()
    assert lone.repeats == 3
    with pytest.raises(InputError, match="0 or 1"):
        auc([1.0, 2.0], [1, 2])


@pytest.mark.parametrize("repeats", [2, 5, 8])
def test_reliability_is_the_share_of_variance_that_is_signal(repeats):
    rng = np.random.default_rng(4)
    samples = rng.normal(size=6000) + rng.normal(0, 2, (repeats, 6000))
    assert split_half_reliability(samples) == pytest.approx(1 / (1 + 4 / repeats), abs=0.03)


def test_reliability_without_enough_to_halve_is_missing():
    assert math.isnan(split_half_reliability(torch.rand(1, 10)))
    assert math.isnan(split_half_reliability(torch.ones(4, 10)))
    assert math.isnan(split_half_reliability(torch.rand(4, 1)))
    with pytest.raises(InputError, match=r"\(repeats, n\)"):
        split_half_reliability(torch.rand(4))


def test_noise_has_no_reliability_and_opposites_the_least():
    noise = torch.randn(10, 3000, generator=torch.Generator().manual_seed(0))
    assert abs(split_half_reliability(noise)) < 0.1
    assert split_half_reliability(torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])) == pytest.approx(-1)


def test_a_perfect_score_is_perfectly_reliable_even_with_runs_missing():
    samples = np.tile(np.arange(20.0), (6, 1))
    samples[0, :5] = np.nan
    for method in ("pearson", "spearman"):
        assert split_half_reliability(samples, method) == pytest.approx(1)
