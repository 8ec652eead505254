"""Training in a random affine subspace (Li, Farkhoor, Liu & Yosinski 2018, arXiv 1804.08838, section 2).

    theta = theta_0 + P z,  z in R^d,  z = 0 at the start

theta_0 and P are frozen. The columns of P have unit length over the whole weight vector, so a unit step in z is a unit
step in theta. Adam's learning rate on z is usually some ten times that on theta, for |z| is the distance moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surplus.errors import InputError, unknown
from surplus.registry import method
from surplus.reparam.base import Reparametrisation, check_vector, fingerprint
from surplus.reparam.projection import PROJECTIONS, Fastfood, Projection
from surplus.space import generator


class Subspace(Reparametrisation):
    """An affine subspace: the anchor plus any linear map of z.

    Args:
        anchor: (P,), where training begins; (K, P) when the map holds K maps.
        projection: from (..., d) to (..., P).
    """

    def __init__(self, anchor: Tensor, projection: Projection) -> None:
        self.anchor = check_vector("anchor", anchor)
        self.projection = projection
        self.size = projection.size

    def start(self) -> Tensor:
        """0, which is the anchor."""
        return self.anchor.new_zeros(*self.anchor.shape[:-1], self.size)

    def to_theta(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Anchor + P z."""
        return self.anchor + self.projection.forward(z)

    def pullback(self, z: Tensor, grad_theta: Tensor, drawn: Tensor | None = None) -> Tensor:
        """P^T gradient."""
        return self.projection.transpose(grad_theta)

    def spec(self) -> dict[str, Any]:
        """Anchor and map."""
        return {"name": "subspace", "anchor": fingerprint(self.anchor), "projection": self.projection.spec()}

    def stacked(self, parts: Sequence[Subspace]) -> Reparametrisation:
        """All at once for Fastfood; the other maps hold much memory, and a loop spares a second copy."""
        maps = [part.projection for part in parts if isinstance(part.projection, Fastfood)]
        if len(maps) < len(parts):
            return super().stacked(parts)
        return Subspace(torch.stack([part.anchor for part in parts]), Fastfood.stacked(maps))


@method("reparametrisation", name="random-subspace", paper="Li et al. 2018, arXiv 1804.08838")
class RandomSubspace(Subspace):
    """A random d-dimensional affine subspace through theta0.

    Args:
        theta0: (P,) where training begins.
        dimension: d, from 1 to P.
        projection: "dense" (d P numbers of memory), "sparse" (d sqrt(P)) or "fastfood" (P).
        seed: draws the map.

    Raises:
        InputError: d outside 1..P, an unknown projection, or a theta0 that is not one vector.
    """

    def __init__(self, theta0: Tensor, dimension: int, projection: str = "dense", seed: int = 0) -> None:
        if theta0.dim() != 1:
            raise InputError(f"a random subspace passes through one point theta0 (P,); got shape {tuple(theta0.shape)}")
        if not 1 <= dimension <= len(theta0):
            raise InputError(f"a subspace has a dimension from 1 to P = {len(theta0):,}; got {dimension:,}")
        if projection not in PROJECTIONS:
            raise unknown("projection", projection, PROJECTIONS)
        draws = generator(seed, "random subspace", projection)
        super().__init__(theta0, PROJECTIONS[projection].draw(theta0, dimension, draws))
        self.settings = {"dimension": dimension, "projection": projection, "seed": seed}

    def spec(self) -> dict[str, Any]:
        """Starting point and settings, from which the map follows."""
        return {"name": "random-subspace", "theta0": fingerprint(self.anchor), **self.settings}
