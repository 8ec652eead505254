"""Lines and simplexes of networks, learned in one run (Wortsman et al. 2021, arXiv 2102.10472).

    theta = sum_j a_j w_j,   a_j >= 0,  sum_j a_j = 1,   z = (w_1, ..., w_m)

Each step draws one position a uniformly on the simplex (for m = 2, a line) and trains the network that stands there;
corner j then moves by a_j dL/dtheta. The corners begin at independent initialisations. Add the squared cosine between
two random corners to the loss to keep them apart, and re-estimate batch-norm statistics wherever a point is evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.reparam.base import Reparametrisation, fingerprint


@method("reparametrisation", paper="Wortsman et al. 2021, arXiv 2102.10472")
class Simplex(Reparametrisation):
    """The networks between m corners; one corner is ordinary training.

    Args:
        corners: (m, P) starting points, or (K, m, P).

    Raises:
        InputError: not such a stack of points.
    """

    def __init__(self, corners: Tensor) -> None:
        if corners.dim() not in (2, 3) or not corners.numel() or not corners.is_floating_point():
            found = f"{corners.dtype} of shape {tuple(corners.shape)}"
            raise InputError(f"corners are m floating-point weight vectors, shape (m, P); got {found}")
        self.corners = corners
        self.count = corners.shape[-2]
        self.size = self.count * corners.shape[-1]

    def start(self) -> Tensor:
        """The corners, one after another."""
        return self.corners.flatten(-2)

    def draw(self, generators: Sequence[Generator]) -> Tensor:
        """Positions (replicas, m), uniform on the simplex: exponentials divided by their sum."""
        rows = [torch.empty(self.count, device=g.device).exponential_(generator=g) for g in generators]
        at = torch.stack([row.to(self.corners) for row in rows])
        return at / at.sum(-1, keepdim=True)

    def to_theta(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """The network at position `drawn` (..., m), the centre when None: (..., m P) -> (..., P)."""
        corners = z.unflatten(-1, (self.count, -1))
        return corners.mean(-2) if drawn is None else (drawn.unsqueeze(-1) * corners).sum(-2)

    def pullback(self, z: Tensor, grad_theta: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Corner j receives a_j times the gradient."""
        at = z.new_full((self.count,), 1 / self.count) if drawn is None else drawn
        return (at.unsqueeze(-1) * grad_theta.unsqueeze(-2)).flatten(-2)

    def spec(self) -> dict[str, Any]:
        """Name and corners."""
        return {"name": "simplex", "corners": fingerprint(self.corners)}

    def stacked(self, parts: Sequence[Simplex]) -> Reparametrisation:
        """One stack of corners (K, m, P)."""
        if len({part.count for part in parts}) > 1:
            return super().stacked(parts)
        return Simplex(torch.stack([part.corners for part in parts]))


@method("reparametrisation", paper="Wortsman et al. 2021, arXiv 2102.10472")
class Line(Simplex):
    """The networks between two ends, (1 - a) w_1 + a w_2.

    Args:
        ends: (2, P) starting points.

    Raises:
        InputError: not two points.
    """

    def __init__(self, ends: Tensor) -> None:
        if ends.dim() != 2 or len(ends) != 2:
            raise InputError(f"a line has two ends, shape (2, P); got {tuple(ends.shape)}; Simplex takes more corners")
        super().__init__(ends)


def squared_cosine(u: Tensor, v: Tensor) -> Tensor:
    """<u, v>^2 / (|u|^2 |v|^2) along the last axis: the penalty that keeps two corners apart (paper, section 3).

    The paper leaves batch-norm parameters out; select the rest before calling.
    """
    return (u * v).sum(-1).square() / (u.square().sum(-1) * v.square().sum(-1))
