from __future__ import annotations

import torch

from surplus.theory.robust import Problem, descend, polish

X = torch.linspace(-1, 1, 11, dtype=torch.float64)
DESIGN = torch.stack([torch.ones_like(X), X], 1)


def line(u: torch.Tensor) -> torch.Tensor:
    return (u * DESIGN).sum(-1)


def test_with_a_large_delta_it_is_weighted_least_squares():
    g = torch.Generator().manual_seed(0)
    y, weights = torch.randn(3, 11, generator=g, dtype=torch.float64), torch.rand(11, generator=g, dtype=torch.float64)
    found, loss = descend(Problem(line, weights, 1e6), torch.zeros(3, 2, dtype=torch.float64), y)
    root = weights.sqrt()[:, None]
    want = torch.linalg.lstsq(root * DESIGN, root * y.T).solution.T
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(loss, (weights * (want @ DESIGN.T - y) ** 2).sum(1) / 2)


def test_with_a_small_delta_an_outlier_moves_nothing():
    y = DESIGN @ torch.tensor([1.0, 2.0], dtype=torch.float64)
    y[3] += 100
    found, _ = descend(Problem(line, torch.ones_like(X), 1e-3), torch.zeros(1, 2, dtype=torch.float64), y)
    torch.testing.assert_close(found[0], torch.tensor([1.0, 2.0]).double(), atol=1e-2, rtol=0)


def test_derivatives_are_those_of_finite_differences():
    problem = Problem(lambda u: u[..., 0].exp() * X + u[..., 1] ** 2, torch.ones_like(X), 1.0)
    u = torch.tensor([[0.3, 0.7], [-1.0, 2.0]], dtype=torch.float64)
    value, slope = problem.linearised(u)
    step = 1e-6 * torch.eye(2, dtype=torch.float64)
    near = torch.stack([(problem.predict(u + e) - problem.predict(u - e)) / 2e-6 for e in step], -1)
    torch.testing.assert_close(value, problem.predict(u))
    torch.testing.assert_close(slope, near, atol=1e-8, rtol=1e-7)


def test_a_start_without_a_finite_loss_stays_and_says_so():
    problem = Problem(lambda u: line(u).log(), torch.ones_like(X), 1.0)
    starts = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    found, loss = descend(problem, starts, torch.zeros_like(X))
    assert loss[0].isinf()
    assert found[0].tolist() == [-1, 0]
    assert loss[1] < 1e-12


def test_polish_tells_a_minimum_from_a_place_it_cannot_leave():
    bowl = Problem(lambda u: u[..., 0].exp() + 0 * X, torch.ones_like(X), 10.0)
    target = torch.full_like(X, 2.0)
    point, loss, converged = polish(bowl, torch.tensor([0.0], dtype=torch.float64), target)
    assert converged
    assert loss < 1e-12
    torch.testing.assert_close(point, torch.tensor([2.0], dtype=torch.float64).log())
