"""Robust fits of many small curves at once: Huber's loss on residuals, by damped Gauss-Newton steps.

    minimise over u   sum_i w_i huber_delta(log f(x_i; u) - log y_i)

Each step solves the reweighted least-squares problem of Huber 1964 with the damping of Levenberg and Marquardt; a step
that does not lower the sum is refused. All curves (starts, bootstrap resamples) move together, so that a bootstrap of
200 fits costs little more than one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """A curve and how its misfit counts.

    `curve` maps coordinates, one set for each point of the data or one for all, (..., n or 1, k), to log predictions
    (..., n); each prediction may depend on its own coordinates only. `weights` (n,) and `delta` make the loss.
    """

    curve: Callable[[Tensor], Tensor]
    weights: Tensor
    delta: float

    def loss(self, residuals: Tensor) -> Tensor:
        """Sum, not mean, of Huber's loss: (..., n) -> (...); infinite where a residual is not finite."""
        size = residuals.abs()
        each = torch.where(size < self.delta, residuals.square() / 2, self.delta * (size - self.delta / 2))
        return (self.weights * each).sum(-1).nan_to_num(nan=torch.inf)

    def predict(self, u: Tensor) -> Tensor:
        """Log predictions: (..., k) -> (..., n)."""
        return self.curve(u[..., None, :])

    def linearised(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log predictions (B, n) and their derivatives (B, n, k) at u (B, k).

        Every point gets coordinates of its own, so that one backward pass yields all derivatives.
        """
        with torch.enable_grad():
            own = u[:, None].repeat(1, len(self.weights), 1).requires_grad_()  # (B, n, k)
            value = self.curve(own)
            (slope,) = torch.autograd.grad(value.sum(), own)
        return value.detach(), slope

    def normal_equations(self, residuals: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (B, k) and reweighted Gauss-Newton matrix (B, k, k)."""
        weight = self.weights * (self.delta / residuals.abs().clamp(min=self.delta))
        weighted = slopes * weight[..., None]
        return (weighted * residuals[..., None]).sum(-2), weighted.mT @ slopes


def descend(
    problem: Problem, u: Tensor, target: Tensor, steps: int = 200, tolerance: float = 1e-13
) -> tuple[Tensor, Tensor]:
    """Lower the loss of every row from where it stands.

    Args:
        problem: the curve and its loss.
        u: (B, k) starting points.
        target: (n,) or (B, n) log observations.
        steps: at most so many steps.
        tolerance: a row rests after an accepted step that lowers its loss by less than this share.

    Returns:
        Points (B, k) and losses (B,). A row without a finite loss at its start stays there, with an infinite loss.
    """
    value, slope = problem.linearised(u)
    loss = problem.loss(value - target)
    damping, resting = torch.full_like(loss, 1e-2), ~loss.isfinite()
    for _ in range(steps):
        gradient, matrix = problem.normal_equations(value - target, slope)
        scale = matrix.diagonal(dim1=-2, dim2=-1)
        damped = matrix + torch.diag_embed(damping[:, None] * scale + 1e-14 * scale.amax(-1, keepdim=True) + 1e-300)
        move = torch.linalg.solve_ex(damped.nan_to_num(0.0), -gradient.nan_to_num(0.0))[0].nan_to_num(0.0)
        longest = 3 + u.abs()  # a coordinate is a logarithm or an exponent; one in units of y grows with itself
        move = move.clamp(-longest, longest)
        new_value, new_slope = problem.linearised(u + move)
        new_loss = problem.loss(new_value - target)
        better = (new_loss <= loss) & new_slope.isfinite().all(-1).all(-1) & ~resting
        resting |= better & (loss - new_loss <= tolerance * loss) | (damping > 1e12)
        u, loss = torch.where(better[:, None], u + move, u), torch.where(better, new_loss, loss)
        value = torch.where(better[:, None], new_value, value)
        slope = torch.where(better[:, None, None], new_slope, slope)
        damping = torch.where(better, damping * 0.2, damping * 4).clamp(min=1e-12)
        if resting.all():
            break
    return u, loss


def polish(problem: Problem, u: Tensor, target: Tensor) -> tuple[Tensor, float, bool]:
    """Finish one row with L-BFGS-B in coordinates that make the Gauss-Newton matrix the identity.

    Returns:
        The point (k,), its loss, and whether the gradient vanished there: each of its entries, a sum over the data, is
        small beside the same sum of absolute values.
    """
    from scipy.optimize import minimize

    value, slope = problem.linearised(u[None])
    _, matrix = problem.normal_equations(value - target, slope)
    eigenvalues, vectors = torch.linalg.eigh(matrix[0])
    basis = vectors / eigenvalues.clamp(min=1e-9 * float(eigenvalues.max()) + 1e-300).sqrt()

    def objective(v: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = problem.linearised((u + basis @ torch.from_numpy(v))[None])
        loss = float(problem.loss(value - target))
        gradient, _ = problem.normal_equations(value - target, slope)
        return min(loss, 1e300), (gradient[0] @ basis).nan_to_num(0.0).numpy()

    found = minimize(objective, np.zeros(len(u)), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-14})
    point = u + basis @ torch.from_numpy(found.x)
    value, slope = problem.linearised(point[None])
    residuals = value - target
    gradient, _ = problem.normal_equations(residuals, slope)
    bound = (problem.weights * residuals.abs().clamp(max=problem.delta))[..., None] * slope.abs()
    vanished = gradient.abs() <= 1e-3 * bound.sum(-2) + 1e-12
    return point, float(problem.loss(residuals)), bool(vanished.all())
