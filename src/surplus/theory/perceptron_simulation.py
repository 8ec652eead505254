"""Perceptrons taught by a teacher on pruned data, drawn and solved exactly: the check on `perceptron_pruning`.

    x ~ N(0, I_d),  y = sign(T.x);   keep the f alpha_tot d examples of smallest (or largest) |J.x|, angle(J, T) = theta
    w = argmin |w|^2 / 2  subject to  y w.x >= 1 on the kept;   error = angle(w, T) / pi,  margin = 1 / |w|

The separator has no intercept. Its quadratic program is solved to rounding by the method of multipliers, whose inner
problem, smooth and piecewise quadratic, takes a few Newton steps (finite Newton, Mangasarian 2002):

    w = argmin |w|^2 / 2 + c / 2 sum_i (1 - y_i w.x_i + l_i / c)_+^2,    l_i <- c (1 - y_i w.x_i + l_i / c)_+
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.space import generator
from surplus.theory.perceptron_pruning import Keep, kept_window


@dataclass(frozen=True)
class PerceptronSimulation:
    """Measured counterpart of `PrunedPerceptron`; every field is (repeats,), a student each, for `Estimate.over`."""

    error: Tensor
    overlap: Tensor
    margin: Tensor


def simulate_perceptron_pruning(
    alpha_tot: float,
    f: float = 1.0,
    theta: float = 0.0,
    keep: Keep = "hard",
    dimension: int = 200,
    repeats: int = 20,
    seed: int = 0,
) -> PerceptronSimulation:
    """Draw data, prune it and teach, `repeats` times.

    Repeat i of one seed and dimension has the same teacher, probe direction and data for every f, theta and keep, so
    these can be compared in pairs.

    Args:
        alpha_tot: examples before pruning, per dimension.
        f: share kept, in (0, 1].
        theta: angle between probe and teacher in radians.
        keep: "hard", the smallest |J.x|, or "easy", the largest.
        dimension: d, at least 2.
        repeats: independent students.
        seed: of all draws.

    Raises:
        InputError: an argument out of range, or nothing is kept.
    """
    kept_window(f, keep)  # for its checks
    total = round(alpha_tot * dimension)
    count = round(f * alpha_tot * dimension)
    if dimension < 2 or count < 1 or repeats < 1:
        raise InputError(
            f"a simulation has 2 or more dimensions, 1 or more examples kept and repeats; got dimension={dimension}, "
            f"{count} of {total} examples, repeats={repeats}."
        )
    students = [
        _student(total, count, theta, keep, dimension, generator(seed, "perceptron", i)) for i in range(repeats)
    ]
    return PerceptronSimulation(*torch.tensor(students, dtype=torch.float64).T)


def max_margin(inputs: Tensor, signs: Tensor, rounds: int = 100, tolerance: float = 1e-10) -> Tensor:
    """The shortest w (d,) with signs * (inputs @ w) >= 1; its margin is 1 / |w|.

    Args:
        inputs: (n, d).
        signs: (n,) +1 or -1.
        rounds: updates of the multipliers before the examples are called inseparable.
        tolerance: how far below 1, or above it where a multiplier is positive, an example may end.

    Returns:
        (d,), double precision.

    Raises:
        InputError: no w separates the examples.
    """
    rows = signs[:, None].double() * inputs.double()
    multipliers, w, c = rows.new_zeros(len(rows)), rows.new_zeros(rows.shape[1]), 1.0
    for _ in range(rounds):
        w = _inner(rows, multipliers / c, w, c)
        updated = c * (1 - rows @ w + multipliers / c).clamp(min=0)
        if float((updated - multipliers).abs().max()) <= tolerance * c:
            return w
        multipliers, c = updated, min(10 * c, 1e4)
    raise InputError(f"no plane through the origin separates these {len(rows)} examples in {len(w)} dimensions.")


def _inner(rows: Tensor, shift: Tensor, w: Tensor, c: float) -> Tensor:
    """Newton's method, with halved steps where a whole one fails, on |w|^2 / 2 + c/2 |(1 - A w + shift)_+|^2."""
    for _ in range(100):
        gap = 1 - rows @ w + shift
        active = rows[gap > 0]
        gradient = w - c * active.T @ gap[gap > 0]
        if float(gradient.norm()) <= 1e-12 * (1 + float(w.norm())) * c:
            break
        curvature = c * active.T @ active
        curvature.diagonal().add_(1)
        step = torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(curvature))[:, 0]
        length, value, slope = 1.0, _value(w, gap, c), float(gradient @ step)
        while (
            _value(w - length * step, gap + length * (rows @ step), c) > value - 1e-4 * length * slope and length > 1e-6
        ):
            length /= 2
        w = w - length * step
    return w


def _value(w: Tensor, gap: Tensor, c: float) -> float:
    return float(w @ w + c * gap.clamp(min=0).square().sum()) / 2


def _student(total: int, count: int, theta: float, keep: Keep, d: int, draw: Generator) -> tuple[float, float, float]:
    """Error, overlap and margin of one student."""
    teacher, other = torch.randn(2, d, generator=draw, dtype=torch.float64)
    teacher = teacher / teacher.norm()
    other = other - (other @ teacher) * teacher
    probe = math.cos(theta) * teacher + math.sin(theta) * other / other.norm()
    inputs = torch.randn(total, d, generator=draw, dtype=torch.float64)
    kept = inputs[(inputs @ probe).abs().argsort(descending=keep == "easy", stable=True)[:count]]
    w = max_margin(kept, (kept @ teacher).sign())
    overlap = float((w @ teacher) / w.norm())
    return math.acos(max(-1.0, min(1.0, overlap))) / math.pi, overlap, 1 / float(w.norm())
