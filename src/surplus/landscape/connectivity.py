"""Linear mode connectivity: how high the loss rises on the straight line between two networks.

    height = max_a [ E(theta_a) - reference(a) ],   theta_a = (1 - a) theta_1 + a theta_2

For Frankle et al. 2020 (arXiv 1912.05671, section 2) E is the error, the reference the mean of the two ends, and a
height below 2 percentage points is "stable". For Entezari et al. 2022 (arXiv 2110.06296) E is the loss, the reference
the line between the ends, (1 - a) E(theta_1) + a E(theta_2). A grid under-estimates the maximum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from surplus.errors import InputError, unknown
from surplus.registry import method
from surplus.space import interpolate

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""thetas (points, P) -> errors (points,), losses (points,); batch-norm statistics re-estimated for every point."""


@dataclass(frozen=True)
class Barrier:
    """What happens between two networks."""

    at: Tensor
    """(points,) positions from 0 to 1, both ends included."""
    errors: Tensor
    """(points,)"""
    losses: Tensor
    """(points,)"""
    mode: str
    end: str

    @property
    def curve(self) -> Tensor:
        """(points,) error or loss minus its reference."""
        y = self.errors if self.mode == "error" else self.losses
        return y - (torch.lerp(y[0], y[-1], self.at.to(y)) if self.end == "linear" else (y[0] + y[-1]) / 2)

    @property
    def height(self) -> float:
        """The largest value of the curve; never negative, for the ends are on the grid."""
        return float(self.curve.max())


@method("measure", paper="Frankle et al. 2020, arXiv 1912.05671; Entezari et al. 2022, arXiv 2110.06296")
def barrier(
    evaluate: Evaluate, theta1: Tensor, theta2: Tensor, points: int = 25, mode: str = "error", end: str = "mean"
) -> Barrier:
    """The barrier on the straight line between two networks.

    Args:
        evaluate: errors and losses of many points; re-estimating batch-norm statistics at each is its business.
        theta1: (P,) one end.
        theta2: (P,) the other.
        points: grid points, both ends included.
        mode: "error" or "loss".
        end: what to compare with: the "mean" of the ends (Frankle) or the "linear" interpolation (Entezari).

    Raises:
        InputError: ends of different shape, fewer than 3 points, an unknown mode or end.
    """
    if theta1.dim() != 1 or theta1.shape != theta2.shape:
        raise InputError(
            f"a line joins two points (P,) of one space; got {tuple(theta1.shape)} and {tuple(theta2.shape)}"
        )
    if points < 3:
        raise InputError(f"a barrier needs at least 3 points, two of which are the ends; got {points}")
    for kind, given, known in (("mode", mode, ("error", "loss")), ("end", end, ("mean", "linear"))):
        if given not in known:
            raise unknown(f"{kind} of a barrier", given, known)
    at = torch.linspace(0, 1, points, dtype=theta1.dtype, device=theta1.device)
    errors, losses = evaluate(interpolate(theta1, theta2, at))
    return Barrier(at, errors, losses, mode, end)
