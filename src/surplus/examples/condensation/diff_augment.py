"""Differentiable augmentation: the same random change for real and synthetic images, through which gradients flow.

    color (brightness, saturation, contrast), crop, cutout, flip, scale, rotate

A draw is made once and applied to as many batches as wished: matching compares two gradients under one and the same
change ("Siamese"), while networks train with a draw of its own for every image.

Zhao & Bilen 2021, "Dataset Condensation with Differentiable Siamese Augmentation", arXiv 2102.08259.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from surplus.errors import InputError, unknown

EVERYTHING = "color-crop-cutout-flip-scale-rotate"
_SHIFT, _HOLE, _SCALE, _DEGREES = 0.125, 0.5, 1.2, 15.0
_NUMBERS = 3  # uniform random numbers that a change may use


@dataclass(frozen=True)
class Draw:
    """Which changes, in order, and the uniform random numbers of each: (1, 3) for all images alike, or (n, 3)."""

    changes: tuple[str, ...]
    numbers: tuple[Tensor, ...]


@dataclass(frozen=True)
class DiffAugment:
    """What may be drawn.

    `strategy`: names joined by hyphens, "" for none. `order`: "one" applies a single change, drawn among all (Zhao &
    Bilen); "stacked" applies flip and color whenever named, then one drawn among crop, scale and rotate, and cutout
    last (Kim et al. 2022).
    """

    strategy: str = EVERYTHING
    order: Literal["one", "stacked"] = "one"

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in CHANGES:
                raise unknown("augmentation", name, CHANGES)
        if self.order not in ("one", "stacked"):
            raise InputError(f"order is 'one' or 'stacked'; got {self.order!r}")

    @property
    def names(self) -> list[str]:
        return [name for name in self.strategy.split("-") if name]

    def draw(self, generator: Generator, images: int = 1) -> Draw:
        """Which changes, and how much.

        Args:
            generator: of random numbers, on the CPU.
            images: 1 for a draw that all images share, else one change of its own for each of so many.
        """
        names = self._chosen(generator)
        return Draw(names, tuple(torch.rand(images, _NUMBERS, generator=generator) for _ in names))

    def _chosen(self, generator: Generator) -> tuple[str, ...]:
        def one(names: list[str]) -> list[str]:
            return [names[int(torch.randint(len(names), (), generator=generator))]] if names else []

        if self.order == "one":
            return tuple(one(self.names))
        first = [n for n in ("flip", "color") if n in self.names]
        last = [n for n in self.names if n == "cutout"]
        return (*first, *one([n for n in self.names if n not in ("flip", "color", "cutout")]), *last)

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        """Images (B, C, H, W) changed as drawn."""
        for name, u in zip(draw.changes, draw.numbers, strict=True):
            x = CHANGES[name](x, u.to(x))
        return x


def color(x: Tensor, u: Tensor) -> Tensor:
    """Brightness +- 0.5, saturation times U(0, 2), contrast times U(0.5, 1.5)."""
    brightness, saturation, contrast = (v.view(-1, 1, 1, 1) for v in u.unbind(1))
    x = x + brightness - 0.5
    if x.shape[1] > 1:  # grey images have no saturation
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * (2 * saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (0.5 + contrast)


def crop(x: Tensor, u: Tensor) -> Tensor:
    """Shift by up to an eighth of the side each way, over zeros."""
    h, w = x.shape[-2:]
    reach_h, reach_w = round_half_up(h * _SHIFT), round_half_up(w * _SHIFT)
    padded = F.pad(x, (reach_w, reach_w, reach_h, reach_h))
    down, across = whole(u[:, 0], 2 * reach_h + 1), whole(u[:, 1], 2 * reach_w + 1)
    if len(u) == 1:
        return padded[:, :, int(down) : int(down) + h, int(across) : int(across) + w]
    windows = padded.unfold(2, h, 1).unfold(3, w, 1)  # (B, C, 2 reach + 1, 2 reach + 1, H, W), a view
    return windows[torch.arange(len(x), device=x.device), :, down, across]


def cutout(x: Tensor, u: Tensor) -> Tensor:
    """Zeros in a rectangle of half the sides; its centre is anywhere, so part of it may lie outside."""
    h, w = x.shape[-2:]
    rows, columns = _hole(u[:, 0], h), _hole(u[:, 1], w)  # (m, H), (m, W)
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return x * ~hole


def flip(x: Tensor, u: Tensor) -> Tensor:
    """Mirror left to right half of the time."""
    return torch.where(u[:, 0].view(-1, 1, 1, 1) < 0.5, x.flip(3), x)


def scale(x: Tensor, u: Tensor) -> Tensor:
    """Stretch height and width, each by a factor between 1/1.2 and 1.2."""
    s = 1 / _SCALE + u[:, :2] * (_SCALE - 1 / _SCALE)
    zero = torch.zeros_like(s[:, 0])
    return _affine(x, torch.stack([s[:, 0], zero, zero, zero, s[:, 1], zero], 1))


def rotate(x: Tensor, u: Tensor) -> Tensor:
    """Turn by up to 15 degrees either way."""
    angle = (2 * u[:, 0] - 1) * (_DEGREES * math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _affine(x, torch.stack([cos, -sin, zero, sin, cos, zero], 1))


def without_flip(strategy: str, channels: int) -> str:
    """The strategy for images of so many channels: without colour they are mostly digits or letters, never mirrored."""
    return "-".join(n for n in strategy.split("-") if n != "flip" or channels > 1)


CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}


def _affine(x: Tensor, matrices: Tensor) -> Tensor:
    grid = F.affine_grid(matrices.view(-1, 2, 3).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _hole(u: Tensor, length: int) -> Tensor:
    """Which of `length` places lie in the hole: (m,) -> (m, length)."""
    side = round_half_up(length * _HOLE)
    start = whole(u, length + 1 - side % 2) - side // 2
    place = torch.arange(length, device=u.device)
    return (place >= start[:, None]) & (place < start[:, None] + side)


def whole(u: Tensor, values: int) -> Tensor:
    """Uniform numbers in [0, 1) to whole numbers 0..values - 1."""
    return (u * values).long().clamp(max=values - 1)


def round_half_up(x: float) -> int:
    """The nearest whole number of a length in pixels."""
    return int(x + 0.5)
