from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from surplus.errors import InputError
from surplus.stats import non_inferior, non_inferior_on_examples, non_inferior_over_both


def answers(both: int, only_candidate: int, only_reference: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, only_candidate, only_reference, neither)
    return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)


def test_over_seeds_it_is_the_one_sided_t_test_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 0.01, 6), rng.normal(0.9, 0.01, 6)
    got, want = non_inferior(a, b, 0.02), stats.ttest_rel(a, b - 0.02, alternative="greater")
    assert got.p_value == pytest.approx(want.pvalue)
    assert got.low == pytest.approx(want.confidence_interval(0.95).low - 0.02)
    assert got.verdict == (want.pvalue < 0.05)
    assert (got.basis, got.repeats, got.margin) == ("seeds", 6, 0.02)


@pytest.mark.parametrize("margin", [0.0, 0.004, 0.01, 0.03, 0.1])
def test_the_verdict_is_that_the_bound_lies_above_minus_the_margin(margin):
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.895, 0.01, (10, 5)), rng.normal(0.9, 0.01, (10, 5))
    for row_a, row_b in zip(a, b, strict=True):
        got = non_inferior(row_a, row_b, margin)
        assert got.verdict == (got.low > -margin)
    got = non_inferior_on_examples(*answers(800, 20, 28, 152), margin)
    assert got.verdict == (got.low > -margin)


def test_without_spread_the_verdict_is_the_comparison_itself_equality_included():
    reference = torch.tensor([0.98, 0.97, 0.96])
    assert non_inferior(reference, reference, 0.0).verdict
    assert non_inferior(reference - 0.005, reference, 0.005).verdict
    assert not non_inferior(reference - 0.006, reference, 0.005).verdict
    assert non_inferior(reference - 0.006, reference, 0.005).p_value == 1
    assert non_inferior([0.975, 0.965], [0.98, 0.97], 0.005).p_value == 0


def test_one_seed_proves_nothing():
    one = non_inferior([0.99], [0.9], 0.01)
    assert not one.verdict
    assert one.low == -math.inf
    assert math.isnan(one.p_value)


def test_at_the_margin_the_seeds_test_errs_as_often_as_it_says():
    rng = np.random.default_rng(3)
    wrong = [non_inferior(rng.normal(0.88, 0.02, 5), rng.normal(0.9, 0.01, 5), 0.02).verdict for _ in range(1500)]
    assert abs(np.mean(wrong) - 0.05) < 4 * (0.05 * 0.95 / 1500) ** 0.5


def test_at_margin_zero_the_examples_test_is_mcnemars():
    got = non_inferior_on_examples(*answers(60, 15, 5, 20), 0.0)
    z = (15 - 5) / (15 + 5) ** 0.5
    assert got.p_value == pytest.approx(stats.norm.sf(z))
    assert got.difference == pytest.approx(0.1)
    assert got.stderr == pytest.approx((20 - 100 / 100) ** 0.5 / 100)


def test_the_score_maximises_the_likelihood_under_the_null():
    n, b, c, margin = 200, 9, 14, 0.05
    grid = np.linspace(margin + 1e-9, 0.5, 2_000_001)  # share that only the reference gets right, minus margin = other
    log_likelihood = c * np.log(grid) + b * np.log(grid - margin) + (n - b - c) * np.log(1 - 2 * grid + margin)
    share = grid[np.argmax(log_likelihood)]
    z = (b - c + n * margin) / (n * (2 * share - margin - margin**2)) ** 0.5
    got = non_inferior_on_examples(*answers(100, b, c, n - 100 - b - c), margin)
    assert got.p_value == pytest.approx(stats.norm.sf(z), rel=1e-4)


def test_two_networks_that_agree_on_few_examples_prove_little():
    few, many = (non_inferior_on_examples(np.ones(n), np.ones(n), 0.01) for n in (20, 2000))
    assert not few.verdict
    assert many.verdict
    assert few.stderr == 0
    assert -0.2 < few.low < -0.05


def test_the_bound_stays_within_the_possible_differences():
    hopeless = non_inferior_on_examples(np.zeros(3), np.ones(3), 0.01)
    assert -1 <= hopeless.low <= hopeless.difference == -1
    assert non_inferior_on_examples([1], [0], 0.5).low < 1
    assert not non_inferior_on_examples([1, 0], [1, 0], 0.0).verdict


def test_at_the_margin_the_examples_test_errs_as_often_as_it_says():
    rng = np.random.default_rng(4)
    cells = rng.multinomial(400, [0.8, 0.03, 0.08, 0.09], size=1500)
    wrong = [non_inferior_on_examples(*answers(*row), 0.05).verdict for row in cells]
    assert abs(np.mean(wrong) - 0.05) < 4 * (0.05 * 0.95 / 1500) ** 0.5


def test_over_both_the_variance_is_that_of_seeds_plus_that_of_examples():
    rng = np.random.default_rng(5)
    seeds, n, shifts = 4, 300, []
    for _ in range(400):
        by_seed, by_example = rng.normal(0, 0.1, (seeds, 1)), rng.normal(0, 1, (1, n))
        got = non_inferior_over_both(by_seed + by_example + rng.normal(0, 0.2, (seeds, n)), np.zeros((seeds, n)), 0.0)
        shifts.append((got.difference, got.stderr, got.verdict))
    difference, stderr, verdict = map(np.array, zip(*shifts, strict=True))
    assert np.mean(stderr**2) == pytest.approx(np.var(difference), rel=0.3)
    assert np.mean(verdict) < 0.05 + 4 * (0.05 * 0.95 / 400) ** 0.5


def test_over_both_is_wider_than_over_either():
    rng = np.random.default_rng(6)
    candidate, reference = rng.random((5, 200)) < 0.9, rng.random((5, 200)) < 0.9
    both = non_inferior_over_both(torch.tensor(candidate), torch.tensor(reference), 0.05)
    assert both.low < non_inferior(candidate.mean(1), reference.mean(1), 0.05).low
    assert both.basis == "seeds and examples"
    same = non_inferior_over_both(candidate, candidate, 0.0)
    assert same.verdict
    assert same.p_value == 0


def test_a_bad_input_is_refused_with_the_rule():
    with pytest.raises(InputError, match="margin is the largest loss"):
        non_inferior([1, 2], [1, 2], -0.1)
    with pytest.raises(InputError, match=r"0\.3"):
        non_inferior_on_examples([0.3, 1], [1, 1], 0.1)
    with pytest.raises(InputError, match=r"in \[0, 1\)"):
        non_inferior_on_examples([0, 1], [1, 1], 1.0)
    with pytest.raises(InputError, match="With one seed"):
        non_inferior_over_both(np.ones((1, 5)), np.ones((1, 5)), 0.1)
    with pytest.raises(InputError, match="lack some answers"):
        non_inferior_over_both(np.full((2, 5), np.nan), np.ones((2, 5)), 0.1)
