from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import norm

from surplus.errors import InputError
from surplus.registry import find
from surplus.theory import kept_window, perceptron_pruning, pruning_frontier


def degrees(angle):
    return math.radians(angle)


@pytest.mark.parametrize(("alpha", "error"), [(1, 0.26571), (2, 0.18848), (5, 0.09383), (10, 0.04918)])
def test_without_pruning_it_is_the_perceptron_of_maximal_stability(alpha, error):
    assert perceptron_pruning(alpha).error == pytest.approx(error, abs=5e-6)


def test_overlap_and_margin_of_two_examples_per_dimension():
    student = perceptron_pruning(2)
    assert (student.overlap, student.margin) == pytest.approx((0.829758, 0.454578), abs=1e-6)
    assert student.error == pytest.approx(math.acos(student.overlap) / math.pi, rel=1e-9)


@pytest.mark.parametrize(
    ("alpha_tot", "f", "keep", "error"),
    [
        (6, 0.5, "hard", 0.0812),
        (6, 0.5, "easy", 0.0862),
        (1, 0.5, "hard", 0.4057),
        (1, 0.5, "easy", 0.2502),
        (10, 0.5, "hard", 0.04919),
        (10, 0.5, "easy", 0.05599),
        (5 / 0.6, 0.6, "hard", 0.0586),
        (5 / 0.4, 0.4, "hard", 0.0396),
        (5 / 0.2, 0.2, "hard", 0.0200),
        (1 / 0.2, 0.2, "hard", 0.4177),
        (10, 0.3, "hard", 0.0511),
    ],
)
def test_pruning_by_a_perfect_probe(alpha_tot, f, keep, error):
    student = perceptron_pruning(alpha_tot, f, keep=keep)
    assert student.error == pytest.approx(error, abs=6e-5)
    assert (student.f, student.keep) == (f, keep)


def test_the_hard_half_of_six_examples_per_dimension():
    student = perceptron_pruning(6, 0.5)
    assert (student.overlap, student.margin) == pytest.approx((0.9676, 0.1652), abs=5e-5)


def two_equations(R, kappa, alpha, f, lo, hi):
    """Both sides of the saddle-point equations at theta = 0, by adaptive quadrature over the student's field t."""
    s = math.sqrt(1 - R**2)

    def density(t):
        return 2 / f * norm.pdf(t) * (ndtr((R * t - lo) / s) - ndtr((R * t - hi) / s))

    def edges(t):
        return norm.pdf(t) * (norm.pdf((lo - R * t) / s) - norm.pdf((hi - R * t) / s))

    cuts = sorted({min(max(x, -9.0), kappa) for x in (0.0, lo / R, min(hi, 9) / R, kappa - 1)})
    spread = quad(lambda t: density(t) * (kappa - t) ** 2, -10, kappa, points=cuts, limit=500)[0]
    pull = quad(lambda t: edges(t) * (kappa - t), -10, kappa, points=cuts, limit=500)[0]
    return (1 - R**2, alpha * spread), (R, 2 * alpha / (f * s) * pull)


@pytest.mark.parametrize(
    ("alpha_tot", "f", "keep"), [(2, 1.0, "hard"), (6, 0.5, "hard"), (1, 0.5, "easy"), (4, 0.2, "hard")]
)
def test_a_perfect_probe_satisfies_the_equations_for_overlap_and_margin(alpha_tot, f, keep):
    student = perceptron_pruning(alpha_tot, f, keep=keep)
    for left, right in two_equations(student.overlap, student.margin, f * alpha_tot, f, *kept_window(f, keep)):
        assert left == pytest.approx(right, rel=1e-6)


def margin_at(aJ, aU, alpha, f, theta, keep):
    """kappa of one direction of the student, by plain quadrature over J.x and what T adds, split where y turns."""
    nodes, weights = np.polynomial.legendre.leggauss(80)
    lo, hi = kept_window(f, keep)
    j, wj = lo + (min(hi, 9) - lo) * (nodes + 1) / 2, weights * (min(hi, 9) - lo) / 2
    turn = np.clip(-j / math.tan(theta), -9, 9)[:, None]

    def excess(k):
        total = -1 / alpha
        for start, end, y in ((turn, 9, 1), (-9, turn, -1)):
            z = start + (end - start) * (nodes + 1) / 2
            m = k - y * (aJ * j[:, None] + aU * z)
            Q = (m**2 + 1) * ndtr(m) + m * norm.pdf(m)
            total += (2 / f * (wj * norm.pdf(j))[:, None] * (end - start) / 2 * weights * norm.pdf(z) * Q).sum()
        return total

    return brentq(excess, -5, 20) / math.sqrt(1 + aJ**2 + aU**2)


@pytest.mark.parametrize(
    ("alpha_tot", "f", "angle", "keep", "error"),
    [
        (6, 0.5, 10, "hard", 0.0847),
        (10, 0.3, 20, "hard", 0.14303),
        (6, 0.5, 40, "hard", 0.14533),
        (1, 0.5, 40, "easy", 0.3063),
    ],
)
def test_an_imperfect_probe_leaves_no_better_direction_near_or_far(alpha_tot, f, angle, keep, error):
    theta, alpha = degrees(angle), f * alpha_tot
    student = perceptron_pruning(alpha_tot, f, theta, keep)
    assert student.error == pytest.approx(error, abs=6e-5)
    a = brute_plane(student, theta, alpha, f, keep)
    assert margin_at(*a, alpha, f, theta, keep) == pytest.approx(student.margin, rel=1e-5)
    for step in (0.02, 0.3):
        for way in np.linspace(0, 2 * math.pi, 7)[:-1]:
            other = a[0] + step * math.cos(way), a[1] + step * math.sin(way)
            assert margin_at(*other, alpha, f, theta, keep) < student.margin


def brute_plane(student, theta, alpha, f, keep):
    """The a of the student in coordinates along J and across it, from its overlap alone: the best with that overlap."""
    from scipy.optimize import minimize_scalar

    def at(across):  # a = (along T, across T); R = along / sqrt(1 + along^2 + across^2)
        along = student.overlap * math.sqrt((1 + across**2) / (1 - student.overlap**2))
        return along * math.cos(theta) + across * math.sin(theta), along * math.sin(theta) - across * math.cos(theta)

    best = minimize_scalar(lambda b: -margin_at(*at(b), alpha, f, theta, keep), bounds=(-2, 2), method="bounded")
    return at(best.x)


@pytest.mark.parametrize(("alpha_tot", "f", "keep"), [(6, 0.5, "hard"), (1, 0.5, "easy"), (25, 0.2, "hard")])
def test_a_probe_at_a_vanishing_angle_is_perfect(alpha_tot, f, keep):
    exact, near = (perceptron_pruning(alpha_tot, f, theta, keep) for theta in (0.0, 1e-6))
    assert (near.error, near.overlap, near.margin) == pytest.approx(
        (exact.error, exact.overlap, exact.margin), rel=1e-7
    )


@pytest.mark.parametrize("keep", ["hard", "easy"])
def test_a_probe_that_knows_nothing_chooses_at_random(keep):
    blind, random = perceptron_pruning(6, 0.5, math.pi / 2, keep), perceptron_pruning(3)
    assert (blind.error, blind.margin) == pytest.approx((random.error, random.margin), rel=1e-8)


@pytest.mark.parametrize("keep", ["hard", "easy"])
def test_keeping_nearly_all_is_keeping_all(keep):
    all_of_it = perceptron_pruning(4)
    for theta in (0.0, 0.5):
        assert perceptron_pruning(4, 1 - 1e-7, theta, keep).error == pytest.approx(all_of_it.error, rel=1e-4)
    assert perceptron_pruning(4, 1.0, 0.5, keep).error == all_of_it.error


def test_the_error_of_all_data_falls_as_one_half_over_alpha():
    assert 60 * perceptron_pruning(60).error == pytest.approx(0.5002, abs=5e-5)
    assert 1e4 * perceptron_pruning(1e4).error == pytest.approx(0.5005, abs=1e-4)


def test_without_data_it_guesses():
    student = perceptron_pruning(1e-4)
    assert student.error == pytest.approx(0.5, abs=0.01) and student.error < 0.5
    assert student.overlap == pytest.approx(math.sqrt(2e-4 / math.pi), rel=0.01)  # Hebb's rule: all are support vectors


@pytest.mark.parametrize(("alpha_tot", "keep"), [(10, "hard"), (1, "easy")])
def test_where_choosing_helps_a_worse_probe_teaches_less(alpha_tot, keep):
    errors = [perceptron_pruning(alpha_tot, 0.4, degrees(angle), keep).error for angle in (0, 10, 20, 40, 60)]
    assert errors == sorted(errors)


def test_from_an_endless_pool_two_per_dimension_divide_nothing_from_all():
    below = [perceptron_pruning(1.9 / f, f).error for f in (1e-2, 1e-4)]
    above = [perceptron_pruning(2.1 / f, f).error for f in (1e-2, 1e-4)]
    assert below[1] > 0.49 > below[0]
    assert above[0] / above[1] == pytest.approx(100, rel=0.05)


def test_the_frontier_is_the_best_of_a_fine_grid():
    alpha, pool, theta = 3.0, 30.0, degrees(20)
    found = pruning_frontier(alpha, pool, theta, shares=7)
    grid = min(perceptron_pruning(alpha / f, f, theta).error for f in np.linspace(0.46, 0.52, 7))
    assert found.keep == "hard" and found.error == pytest.approx(grid, rel=2e-4) and found.error < grid * (1 + 1e-6)
    assert found.error < min(perceptron_pruning(alpha / f, f, theta, "easy").error for f in (0.1, 0.2, 0.5))
    again = perceptron_pruning(alpha / found.f, found.f, theta, found.keep)
    assert again.error == found.error


def test_the_frontier_keeps_easy_when_few_are_taught_and_hard_when_many():
    few, many = pruning_frontier(0.5, 50, shares=5), pruning_frontier(4, 50, shares=5)
    assert (few.keep, many.keep) == ("easy", "hard")
    assert few.error < perceptron_pruning(0.5).error and many.error < perceptron_pruning(4).error


def test_a_pool_as_large_as_what_is_taught_leaves_no_choice():
    assert pruning_frontier(3, 3, 0.4).error == perceptron_pruning(3).error


def test_windows_hold_the_share_that_they_say():
    for f in (0.01, 0.3, 0.999):
        (zero, g), (h, infinity) = kept_window(f, "hard"), kept_window(f, "easy")
        assert (zero, infinity) == (0, math.inf)
        assert norm.cdf(g) - norm.cdf(-g) == pytest.approx(f) and 2 * norm.sf(h) == pytest.approx(f)
    assert kept_window(1.0) == (0, math.inf) == kept_window(1.0, "easy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 0.0), r"\(0, 1\]; got 0"),
        ((5, 1.5), r"\(0, 1\]"),
        ((5, 0.5, 20), "radians"),
        ((5, 0.5, 0.0, "hardest"), "did you mean hard"),
        ((0,), "1e-6 to 1e6"),
        ((math.nan,), "1e-6 to 1e6"),
    ],
)
def test_a_bad_input_is_refused_with_the_rule(arguments, message):
    with pytest.raises(InputError, match=message):
        perceptron_pruning(*arguments)


def test_a_frontier_without_room_or_shares_is_refused():
    with pytest.raises(InputError, match="alpha <= pool"):
        pruning_frontier(3, 2)
    with pytest.raises(InputError, match="3 shares or more; got 2"):
        pruning_frontier(3, 20, shares=2)


def test_it_is_in_the_catalogue():
    assert find("prediction", "perceptron-pruning").fn is perceptron_pruning
    assert find("prediction", "pruning-frontier").fn is pruning_frontier
