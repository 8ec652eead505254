"""Blur: out of focus, through glass, in motion, zooming (CIFAR-10-C)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from surplus.data.corruptions.base import CIFAR_C, graded, quantise, uniform
from surplus.data.corruptions.maps import blurred, magnified, streaked, take
from surplus.registry import method


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def gaussian_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """A normal kernel of 0.4 to 1 pixel; draws nothing."""
    return blurred(x, (0.4, 0.6, 0.7, 0.8, 1)[level])


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def defocus_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """A disc for a kernel, its rim softened by a 3 x 3 normal kernel; draws nothing."""
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[level]
    at = torch.arange(-2, 3, dtype=x.dtype, device=x.device)
    disc = (at**2 + at[:, None] ** 2 <= radius**2).to(x)
    rim = torch.exp(-(at[1:4] ** 2) / (2 * soft**2))
    rim = rim / rim.sum()
    kernel = F.conv2d((disc / disc.sum())[None, None], (rim * rim[:, None])[None, None], padding=1)
    return F.conv2d(F.pad(x.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="reflect"), kernel).view_as(x)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def glass_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Blur, replace each pixel by itself or a neighbour above or to the left, blur again.

    The published loop means to swap two pixels but, through NumPy views, copies one over the other; and as it runs from
    the last row and column backwards it always copies a pixel not yet overwritten. Hence one gather, which has the same
    law.
    """
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[level]
    n, _, h, w = x.shape
    x = quantise(blurred(x, sigma))
    row, column = torch.arange(h, device=x.device)[:, None], torch.arange(w, device=x.device)
    inner = (row >= 2) & (column >= 2)  # the loop leaves the first two rows and columns alone
    for _ in range(rounds):
        up, left = ((uniform(x, (n, h, w), generator) < 0.5) & inner for _ in range(2))
        x = take(x, row - up.long(), column - left.long())
    return blurred(x, sigma)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def motion_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """A one-sided normal streak, at an angle that each image draws from (-45, 45) degrees."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[level]
    return streaked(x, radius, sigma, 90 * uniform(x, (len(x),), generator) - 45)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def zoom_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """The mean of the image and of its magnifications by `zoom_factors`; draws nothing."""
    total = x.clone()
    factors = zoom_factors(level + 1)
    for factor in factors:
        total += magnified(x, factor)
    return total / (len(factors) + 1)


def zoom_factors(severity: int) -> list[float]:
    """1.00, 1.01, ...: 7, 12, 16, 21 or 26 of them; only by rounding does the first range reach its end, 1.06."""
    values: list[float] = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01).tolist()
    return values
