"""Blurs, zooms and shifts as linear maps on the last two axes, without OpenCV, scikit-image or ImageMagick."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from surplus.data.corruptions.base import quantise


def separable(x: Tensor, operator: Callable[[int], np.ndarray]) -> Tensor:
    """Apply to rows and columns a linear map given as a matrix for each side's length."""
    rows, columns = (torch.from_numpy(operator(size)).to(x) for size in x.shape[-2:])
    return rows @ x @ columns.T


def blurred(x: Tensor, sigma: float, mode: str = "nearest", truncate: float = 4) -> Tensor:
    """A normal kernel, cut off at `truncate` deviations, over the last two axes; sigma 0 does nothing."""
    from scipy.ndimage import gaussian_filter1d

    return (
        separable(x, lambda side: gaussian_filter1d(np.eye(side), sigma, axis=0, mode=mode, truncate=truncate))
        if sigma
        else x
    )


def magnified(x: Tensor, factor: float) -> Tensor:
    """Magnify the middle linearly, keeping the size."""
    from scipy.ndimage import zoom

    def operator(side: int) -> np.ndarray:
        crop = math.ceil(side / factor)
        enlarged = zoom(np.eye(crop), (factor, 1), order=1)  # (about side, crop)
        first, trim = (side - crop) // 2, (len(enlarged) - side) // 2
        matrix = np.zeros((side, side))
        matrix[:, first : first + crop] = enlarged[trim : trim + side]
        return matrix

    return separable(x, operator)


def take(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of x (n, C, H, W) at indices that broadcast to (n, H, W); outside, the edge repeats."""
    n, c, h, w = x.shape
    index = rows.clamp(0, h - 1) * w + columns.clamp(0, w - 1)
    return x.flatten(2).gather(2, index.expand(n, h, w).reshape(n, 1, h * w).expand(n, c, h * w)).view_as(x)


def streaked(x: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
    """Motion blur as ImageMagick does it: half a normal kernel of 2 radius + 1 pixels, at angles (n,) in degrees.

    Weights below a ten-thousandth of a grey level are left out; the result is cut down to whole grey levels.
    """
    h, w = x.shape[-2:]
    kernel = torch.exp(-(torch.arange(2 * radius + 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    row, column = torch.arange(h, device=x.device)[:, None], torch.arange(w, device=x.device)
    angles = torch.deg2rad(angles).view(-1, 1, 1)
    total = torch.zeros_like(x)
    for step, weight in enumerate(kernel[kernel > 4e-7].tolist()):
        down, right = ((step * along - 0.5).ceil().long() for along in (angles.sin(), angles.cos()))
        total += weight * take(x, row + down, column + right)
    return quantise(total)


def sampled(x: Tensor, at: Tensor, about_centres: bool) -> Tensor:
    """The image between pixels, at (n, H, W, 2) as (column, row); reflected about the edge pixels' centres or rims."""
    size = torch.tensor([x.shape[-1], x.shape[-2]], dtype=x.dtype, device=x.device)
    grid = 2 * at / (size - 1) - 1 if about_centres else (2 * at + 1) / size - 1
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=about_centres)
