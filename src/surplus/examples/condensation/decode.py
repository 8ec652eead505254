"""Multi-formation: one stored image holds f x f training images, each enlarged from a cell of its grid.

    decode(S, f) = enlarge(cells of S padded to a multiple of f)       n -> n f^2 images

Order: all images' cell (0, 0), then all images' cell (0, 1), and so on. Padding lies right and below, in grey (0.5);
the enlargement is bilinear. "multi" decodes by 1, 2, ... f, one after another.

Kim et al. 2022, "Dataset Condensation via Efficient Synthetic-Data Parameterization", arXiv 2205.14959, section 4.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from surplus.errors import InputError

Formation = Literal["single", "multi"]
GREY = 0.5


def decode(images: Tensor, factor: int, formation: Formation = "single") -> Tensor:
    """The training images that stored images stand for; differentiable, and the identity for a factor of 1.

    Args:
        images: (n, C, H, W) in [0, 1].
        factor: cells along a side.
        formation: "single" decodes by `factor` alone, "multi" by every factor up to it.

    Returns:
        (n copies(factor, formation), C, H, W).

    Raises:
        InputError: a factor below 1 or larger than the image.
    """
    _check(images, factor)
    factors = range(1, factor + 1) if formation == "multi" else [factor]
    return torch.cat([_decode(images, f) for f in factors])


def copies(factor: int, formation: Formation = "single") -> int:
    """How many training images a stored image stands for; targets repeat as a whole so often."""
    return sum(f * f for f in range(1, factor + 1)) if formation == "multi" else factor**2


def _decode(images: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return images
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % factor, 0, -height % factor), value=GREY)
    rows = padded.chunk(factor, dim=2)
    cells = torch.cat([cell for row in rows for cell in row.chunk(factor, dim=3)])  # (n f^2, C, ceil H/f, ceil W/f)
    return F.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False)


def mix(images: Tensor, factor: int) -> Tensor:
    """Stored images to start from: f^2 real images shrunk into the cells of each.

    Args:
        images: (n f^2, C, H, W) real images, those of the first cell first.
        factor: cells along a side.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: a factor below 1 or larger than the image.
    """
    _check(images, factor)
    height, width = images.shape[-2:]
    parts = iter(images.chunk(factor**2))
    rows = []
    for h in _sides(height, factor):
        row = [F.interpolate(next(parts), size=(h, w), mode="nearest") for w in _sides(width, factor)]
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)


def _check(images: Tensor, factor: int) -> None:
    most = min(images.shape[-2:])
    if not 1 <= factor <= most:
        raise InputError(f"factor is the number of cells along a side of an image, in 1..{most}; got {factor}")


def _sides(length: int, factor: int) -> list[int]:
    """Sides of the cells: the first ones are a pixel larger where the length does not divide."""
    return [length // factor + (i < length % factor) for i in range(factor)]
