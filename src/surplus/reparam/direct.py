"""The weights themselves as coordinates, all of them or those that a mask keeps.

identity: theta = z          mask: theta = m * z,  m in {0, 1}^P
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.reparam.base import Reparametrisation, check_vector, fingerprint


@method("reparametrisation")
class Identity(Reparametrisation):
    """Ordinary training: z is theta.

    Args:
        theta0: (P,) where training begins, or (K, P).
    """

    def __init__(self, theta0: Tensor) -> None:
        self.theta0 = check_vector("theta0", theta0)
        self.size = theta0.shape[-1]

    def start(self) -> Tensor:
        """theta0."""
        return self.theta0.clone()

    def to_theta(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """The coordinates are the weights."""
        return z

    def pullback(self, z: Tensor, grad_theta: Tensor, drawn: Tensor | None = None) -> Tensor:
        """The gradient as it came."""
        return grad_theta

    def spec(self) -> dict[str, Any]:
        """Name and starting point."""
        return {"name": "identity", "theta0": fingerprint(self.theta0)}

    def stacked(self, parts: Sequence[Identity]) -> Reparametrisation:
        """One matrix (K, P)."""
        return Identity(torch.stack([part.theta0 for part in parts]))


@method("reparametrisation", paper="Frankle & Carbin 2019, arXiv 1803.03635")
class Mask(Reparametrisation):
    """A sparse network: weights outside the mask are 0 and stay 0.

    z starts at 0 outside the mask and its gradient there is 0, so momentum, Adam and weight decay leave it at 0.

    Args:
        theta0: (P,) where training begins, or (K, P).
        mask: booleans of the same shape, True where a weight is kept.

    Raises:
        InputError: the shapes differ, or the mask is not boolean.
    """

    def __init__(self, theta0: Tensor, mask: Tensor) -> None:
        check_vector("theta0", theta0)
        if mask.shape != theta0.shape or mask.dtype != torch.bool:
            raise InputError(
                f"a mask is boolean, one value per weight of theta0 {tuple(theta0.shape)}; "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        self.theta0, self.mask = theta0, mask.to(theta0.device)
        self.keep = self.mask.to(theta0.dtype)  # one product per step, without a conversion each time
        self.size = theta0.shape[-1]

    def start(self) -> Tensor:
        """M * theta0."""
        return self.keep * self.theta0

    def to_theta(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """M * z."""
        return self.keep * z

    def pullback(self, z: Tensor, grad_theta: Tensor, drawn: Tensor | None = None) -> Tensor:
        """M * gradient."""
        return self.keep * grad_theta

    def spec(self) -> dict[str, Any]:
        """Name, the masked starting point, the mask."""
        return {"name": "mask", "theta0": fingerprint(self.start()), "mask": fingerprint(self.mask)}

    def stacked(self, parts: Sequence[Mask]) -> Reparametrisation:
        """One matrix (K, P) of masks."""
        return Mask(torch.stack([part.theta0 for part in parts]), torch.stack([part.mask for part in parts]))
