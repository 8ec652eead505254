"""Gradient matching: how far the gradient on synthetic examples is from that on real ones.

    D(A, B) = sum over matched tensors of d(a, b),  a, b of shape (out, ...)

    mse: sum (a - b)^2        l1: sum |a - b|        cos: sum over rows o of 1 - <a_o, b_o> / (|a_o| |b_o| + 1e-6)

Sums, not means. Zhao, Mopuri & Bilen 2021, arXiv 2006.05929, section 3.3 (cos, every weight with rows: biases and
norms have none); Kim et al. 2022, arXiv 2205.14959 (mse and l1, convolutions only).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surplus.errors import InputError

Metric = Literal["mse", "l1", "cos"]
Layers = Literal["convolutions", "matrices"]
_TINY = 1e-6


def grad_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor], metric: Metric) -> Tensor:
    """D between two gradients, each a tensor per weight tensor (out, ...); a scalar, differentiable in both."""
    parts = [_DISTANCES[metric](a, b) for a, b in zip(real, synthetic, strict=True)]
    return torch.stack(parts).sum()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)  # (out, in)
    return (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + _TINY)).sum()


_DISTANCES = {
    "mse": lambda a, b: (a - b).square().sum(),
    "l1": lambda a, b: (a - b).abs().sum(),
    "cos": _cosine,
}


def matched(module: nn.Module, layers: Layers) -> list[nn.Parameter]:
    """The weights whose gradients are compared.

    Args:
        module: the network.
        layers: "convolutions" takes tensors of four axes; "matrices" every tensor of more than one, head included.

    Raises:
        InputError: the network has none.
    """
    found = [p for p in module.parameters() if (p.dim() == 4 if layers == "convolutions" else p.dim() > 1)]
    if not found:
        raise InputError(f"the network has no {layers} whose gradients could be matched; choose layers='matrices'")
    return found


def gradient(
    module: nn.Module, weights: Sequence[nn.Parameter], x: Tensor, y: Tensor, *, graph: bool = False
) -> list[Tensor]:
    """Gradient of the mean cross-entropy of a batch (B, ...), (B,); with `graph` it can be differentiated in x."""
    return list(torch.autograd.grad(F.cross_entropy(module(x), y), weights, create_graph=graph))
