"""`Reparametrisation`: coordinates z on weight space, theta = r(z). Training moves z; the network sees theta.

dL/dz = (dr/dz)^T dL/dtheta

Coordinates may be random: then r(z) depends on what each training step draws, and r(z) without a draw is where the
network is evaluated.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Generator, Tensor

from surplus.errors import InputError


class Movable:
    """Something that holds tensors and moves with them."""

    def to(self, device: torch.device | str) -> Self:
        """The same thing with its tensors on another device."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | Movable):
                setattr(other, name, value.to(device))
        return other


class Reparametrisation(Movable, ABC):
    """Coordinates of one replica; `stack` makes one that acts on K replicas at once."""

    size: int
    """Length d of z."""

    @abstractmethod
    def start(self) -> Tensor:
        """The z (d,) at which training begins."""

    @abstractmethod
    def to_theta(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """r(z), differentiable: (..., d) -> (..., P); under what `draw` gave, or where it is evaluated when None."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What makes two reparametrisations the same, as JSON: name, settings, fingerprints of tensors."""

    def draw(self, generators: Sequence[Generator]) -> Tensor | None:
        """What is random about one training step: (replicas, ...), a row from each generator; None if nothing is."""
        return None

    def pullback(self, z: Tensor, grad_theta: Tensor, drawn: Tensor | None = None) -> Tensor:
        """(dr/dz)^T grad_theta: (..., d), (..., P) -> (..., d). By autograd here; linear maps do it in closed form."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (grad,) = torch.autograd.grad(self.to_theta(z, drawn), z, grad_theta)
        return grad

    def stacked(self, parts: Sequence[Any]) -> Reparametrisation:
        """One reparametrisation for K parts of this class and size; a loop unless a class knows better."""
        return Stack(parts)


class Stack(Reparametrisation):
    """K reparametrisations of one size, one after another: z (K, d) -> theta (K, P)."""

    def __init__(self, parts: Sequence[Reparametrisation]) -> None:
        self.parts = tuple(parts)
        self.size = self.parts[0].size

    def to(self, device: torch.device | str) -> Stack:
        """The same with every part on another device."""
        return Stack([part.to(device) for part in self.parts])

    def start(self) -> Tensor:
        """(K, d)."""
        return torch.stack([part.start() for part in self.parts])

    def draw(self, generators: Sequence[Generator]) -> Tensor | None:
        """One row for each part; None if nothing is random."""
        rows = [part.draw([g]) for part, g in zip(self.parts, generators, strict=True)]
        drawn = [row for row in rows if row is not None]
        return torch.cat(drawn) if drawn else None

    def to_theta(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """(K, d) -> (K, P)."""
        draws = [None] * len(z) if drawn is None else drawn
        return torch.stack([part.to_theta(row, d) for part, row, d in zip(self.parts, z, draws, strict=True)])

    def pullback(self, z: Tensor, grad_theta: Tensor, drawn: Tensor | None = None) -> Tensor:
        """(K, d), (K, P) -> (K, d)."""
        draws = [None] * len(z) if drawn is None else drawn
        rows = zip(self.parts, z, grad_theta, draws, strict=True)
        return torch.stack([part.pullback(row, grad, d) for part, row, grad, d in rows])

    def spec(self) -> dict[str, Any]:
        """Those of the parts, in order."""
        return {"name": "stack", "parts": [part.spec() for part in self.parts]}


def stack(parts: Sequence[Reparametrisation]) -> Reparametrisation:
    """One reparametrisation that maps z (K, d) to theta (K, P), row k by `parts[k]`.

    Raises:
        InputError: no parts, or parts whose z differ in length.
    """
    sizes = {part.size for part in parts}
    if len(sizes) != 1:
        found = f"lengths {sorted(sizes)}" if sizes else "no reparametrisation"
        raise InputError(f"replicas that train together need coordinates z of one length; got {found}")
    alike = len({type(part) for part in parts}) == 1
    return parts[0].stacked(parts) if alike else Stack(parts)


def fingerprint(tensor: Tensor) -> str:
    """sha256 over dtype, shape and values."""
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    values = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(values.view(torch.uint8).numpy().data if values.numel() else b"")
    return digest.hexdigest()


def check_vector(name: str, tensor: Tensor) -> Tensor:
    """A floating-point vector (P,), or K of them (K, P), as it came.

    Raises:
        InputError: another shape, or integers.
    """
    if tensor.dim() not in (1, 2) or not tensor.numel() or not tensor.is_floating_point():
        raise InputError(
            f"{name} is a point in weight space: floating-point values of shape (P,), or (K, P) for K replicas; "
            f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    return tensor
