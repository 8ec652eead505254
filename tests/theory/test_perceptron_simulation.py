from __future__ import annotations

import math

import pytest
import torch

from surplus.errors import InputError
from surplus.stats import Estimate
from surplus.theory import max_margin, perceptron_pruning, simulate_perceptron_pruning


def drawn(n, d, seed=0):
    chance = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, d, generator=chance, dtype=torch.float64)
    return inputs, (inputs @ torch.randn(d, generator=chance, dtype=torch.float64)).sign()


def test_two_opposite_examples_are_told_apart_along_their_line():
    inputs = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
    torch.testing.assert_close(max_margin(inputs, torch.tensor([1, -1])), torch.tensor([3.0, 4.0]).double() / 25)


@pytest.mark.parametrize(("n", "d"), [(30, 40), (120, 40), (400, 10)])
def test_the_separator_meets_the_conditions_of_optimality(n, d):
    inputs, signs = drawn(n, d)
    w = max_margin(inputs, signs)
    rows = signs[:, None] * inputs
    fields = rows @ w
    support = fields < 1 + 1e-8
    assert fields.min() > 1 - 1e-9 and support.sum() <= d
    multipliers = torch.linalg.lstsq(rows[support].T, w[:, None]).solution[:, 0]
    assert multipliers.min() > 0  # w is a positive combination of its support vectors, so no shorter one separates
    torch.testing.assert_close(rows[support].T @ multipliers, w, rtol=0, atol=1e-9)


def test_it_is_the_support_vector_machine_without_intercept():
    from sklearn.svm import SVC

    inputs, signs = drawn(80, 20)
    both = torch.cat([inputs, -inputs]), torch.cat([signs, -signs])  # a mirrored set has its best plane through 0
    machine = SVC(C=1e6, kernel="linear", tol=1e-8).fit(*(part.numpy() for part in both))
    assert abs(machine.intercept_[0]) < 1e-6
    torch.testing.assert_close(max_margin(inputs, signs), torch.tensor(machine.coef_[0]), rtol=1e-4, atol=1e-6)


def test_inseparable_examples_are_refused():
    with pytest.raises(InputError, match="no plane through the origin"):
        max_margin(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), torch.tensor([1, -1, 1]))


@pytest.mark.parametrize(
    ("alpha_tot", "f", "angle", "keep"),
    [(2, 1.0, 0, "hard"), (6, 0.5, 0, "hard"), (1, 0.5, 0, "easy"), (6, 0.4, 30, "hard"), (1, 0.5, 40, "easy")],
)
def test_simulated_students_are_those_of_theory(alpha_tot, f, angle, keep):
    theta = math.radians(angle)
    seen = simulate_perceptron_pruning(alpha_tot, f, theta, keep, dimension=120, repeats=16)
    expected = perceptron_pruning(alpha_tot, f, theta, keep)
    for samples, value in ((seen.error, expected.error), (seen.overlap, expected.overlap)):
        estimate = Estimate.over(samples)
        assert abs(estimate.mean - value) < 4 * estimate.stderr
    assert seen.margin.mean() == pytest.approx(expected.margin, rel=0.1)


def test_the_arms_of_one_seed_share_their_data():
    hard, everything = (simulate_perceptron_pruning(10, f, dimension=60, repeats=4) for f in (0.7, 1.0))
    torch.testing.assert_close(hard.error, everything.error, rtol=0.02, atol=0)  # the hardest hold the support vectors
    assert torch.all(hard.margin >= everything.margin - 1e-9)  # fewer conditions, no smaller a margin


def test_a_larger_simulation_begins_with_the_smaller_and_another_seed_does_not():
    few, more, other = (
        simulate_perceptron_pruning(2, dimension=20, repeats=r, seed=s) for r, s in ((2, 0), (4, 0), (2, 1))
    )
    assert torch.equal(few.error, more.error[:2]) and not torch.equal(few.error, other.error)
    torch.testing.assert_close(few.error, few.overlap.acos() / math.pi)


def test_a_probe_across_the_teacher_keeps_examples_that_say_little_of_it():
    along, across = (simulate_perceptron_pruning(3, 0.5, t, "easy", 40, 6).error.mean() for t in (0.0, math.pi / 2))
    assert along < across


@pytest.mark.parametrize(
    ("arguments", "message"), [((2, 0.5, 0.0, "soft"), "easy or hard"), ((0.001, 0.5), "examples kept")]
)
def test_a_bad_input_is_refused_with_the_rule(arguments, message):
    with pytest.raises(InputError, match=message):
        simulate_perceptron_pruning(*arguments, dimension=10)
