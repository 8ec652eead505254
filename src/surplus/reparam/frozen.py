"""Weights held at given values while the others train, and random weights of two values.

    theta = m * z + (1 - m) * w,   m in {0, 1}^P        w = theta_0: held where they began;  w = 0: `Mask`

Zhou, Lan, Liu & Yosinski 2019, arXiv 1905.01067: section 4 freezes removed weights at their initial values, section 5
gives every weight of a layer the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.reparam.base import Reparametrisation, check_vector, fingerprint
from surplus.space import WeightSpace


@method("reparametrisation", paper="Zhou, Lan, Liu & Yosinski 2019, arXiv 1905.01067")
class Frozen(Reparametrisation):
    """Weights outside the mask stay at given values, which the network uses like any others.

    z is 0 outside the mask and its gradient there is 0, so momentum, Adam and weight decay move kept weights only.

    Args:
        theta0: (P,) where training begins, or (K, P).
        mask: booleans of the same shape, True where a weight trains.
        values: of the same shape: where the other weights stay.

    Raises:
        InputError: the shapes differ, or the mask is not boolean.
    """

    def __init__(self, theta0: Tensor, mask: Tensor, values: Tensor) -> None:
        check_vector("theta0", theta0)
        if not mask.shape == values.shape == theta0.shape or mask.dtype != torch.bool:
            raise InputError(
                f"mask (booleans) and values have one entry per weight of theta0 {tuple(theta0.shape)};"
                f" got {mask.dtype} of shape {tuple(mask.shape)} and values of shape {tuple(values.shape)}"
            )
        self.theta0, self.mask, self.values = theta0, mask.to(theta0.device), values.to(theta0)
        self.size = theta0.shape[-1]

    def start(self) -> Tensor:
        """M * theta0."""
        return self.theta0.masked_fill(~self.mask, 0)

    def to_theta(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """M * z + (1 - m) * w."""
        return torch.where(self.mask, z, self.values)

    def pullback(self, z: Tensor, grad_theta: Tensor, drawn: Tensor | None = None) -> Tensor:
        """M * gradient."""
        return grad_theta.masked_fill(~self.mask, 0)

    def spec(self) -> dict[str, Any]:
        """Name, the point where training begins, the mask."""
        return {"name": "frozen", "theta0": fingerprint(self.to_theta(self.theta0)), "mask": fingerprint(self.mask)}

    def stacked(self, parts: Sequence[Frozen]) -> Reparametrisation:
        """One matrix (K, P) of each."""
        return Frozen(*(torch.stack([getattr(p, n) for p in parts]) for n in ("theta0", "mask", "values")))


def signed_constant(space: WeightSpace, theta: Tensor) -> Tensor:
    """Every linear or convolution weight at plus or minus its tensor's standard deviation, with the sign that it has.

    Args:
        space: the network.
        theta: (P,) or (K, P), usually initial weights; biases and normalisation stay as they are.

    Returns:
        A point like theta.
    """
    out = theta.clone()
    for block in (b for b in space.blocks if b.prunable):
        own = theta[..., block.slice]
        out[..., block.slice] = own.sign() * own.std(-1, correction=0, keepdim=True)
    return out
