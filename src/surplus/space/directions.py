"""Norms, angles, lines and random directions in weight space."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.space.weightspace import WeightSpace


def norm(theta: Tensor) -> Tensor:
    """Euclidean length: (..., P) -> (...)."""
    return theta.norm(dim=-1)


def angle(u: Tensor, v: Tensor) -> Tensor:
    """Angle between two vectors in radians, (..., P) x (..., P) -> (...), in Kahan's form, exact near 0 and pi."""
    u, v = u / norm(u).unsqueeze(-1), v / norm(v).unsqueeze(-1)
    return 2 * torch.atan2(norm(u - v), norm(u + v))


def interpolate(start: Tensor, end: Tensor, at: Tensor) -> Tensor:
    """Points (1 - a) start + a end on a line: (P,), (P,), (points,) -> (points, P)."""
    return torch.lerp(start, end, at.to(start).unsqueeze(-1))


def random_direction(space: WeightSpace, generator: Generator) -> Tensor:
    """A direction (P,) uniform on the unit sphere."""
    v = torch.randn(space.size, generator=generator, dtype=space.dtype, device=generator.device)
    return v / v.norm()


def filter_normalised_direction(space: WeightSpace, theta: Tensor, generator: Generator) -> Tensor:
    """A Gaussian direction whose filters have the lengths of theta's (Li et al. 2018, arXiv 1712.09913, section 4).

        d_ij <- d_ij / ||d_ij|| * ||theta_ij||

    A filter is one output row of a weight tensor; biases and normalisation weights get 0, as in the paper's plots.
    """
    direction = torch.randn(space.size, generator=generator, dtype=theta.dtype, device=theta.device)
    for block, d, t in zip(space.blocks, space.split(direction).values(), space.split(theta).values(), strict=True):
        if block.kind in ("bias", "norm") or len(block.shape) < 2:
            d.zero_()
        else:
            rows = (len(d), -1)
            d.mul_((t.reshape(rows).norm(dim=1) / d.reshape(rows).norm(dim=1)).view(-1, *[1] * (d.dim() - 1)))
    return direction
