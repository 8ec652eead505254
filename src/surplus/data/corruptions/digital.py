"""What cameras and codecs do: contrast, brightness, saturation, JPEG, coarse pixels, elastic warps (CIFAR-10-C)."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from surplus.data.corruptions.base import CIFAR_C, graded, uniform
from surplus.data.corruptions.maps import blurred, sampled
from surplus.registry import method


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def contrast(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Pull every value towards its channel's mean over the image; draws nothing."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[level] + mean


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def brightness(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Raise V, the largest channel, in hue-saturation-value coordinates, and the others with it; draws nothing."""
    value = x.amax(1, keepdim=True)
    lifted = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[level]).clamp(max=1)
    return torch.where(value > 0, x * lifted / value.clamp(min=1e-9), lifted)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def saturate(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Saturation S to a S + b in hue-saturation-value coordinates; draws nothing.

    Grey has hue 0, red, by convention, so b > 0 tints the grey pixels of a colour image; an image of one channel stays
    as it is.
    """
    if x.shape[1] == 1:
        return x
    scale, shift = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[level]
    value = x.amax(1, keepdim=True)
    depth = value - x  # = V S k with k in [0, 1] set by the hue
    saturation = depth.amax(1, keepdim=True) / value.clamp(min=1e-9)
    wanted = (scale * saturation + shift).clamp(0, 1)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype, device=x.device).view(3, 1, 1)
    return value - torch.where(saturation > 0, depth * wanted / saturation.clamp(min=1e-9), value * wanted * red)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def jpeg_compression(x: Tensor, level: int, generator: Generator) -> Tensor:
    """To JPEG and back at quality 80 to 40; draws nothing."""
    from PIL import Image

    def there_and_back(picture: Any) -> Any:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=(80, 65, 58, 50, 40)[level])
        return Image.open(file)

    return _through_pillow(x, there_and_back)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def pixelate(x: Tensor, level: int, generator: Generator) -> Tensor:
    """To int(c side) pixels and back, each pixel the mean over its box; draws nothing."""
    from PIL.Image import Resampling

    h, w = x.shape[-2:]
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[level]
    small = (int(w * share), int(h * share))
    return _through_pillow(x, lambda picture: picture.resize(small, Resampling.BOX).resize((w, h), Resampling.BOX))


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def elastic_transform(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Move three points at random, the image affinely with them, then each pixel by a smooth random field."""
    reach, sigma, jump = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[
        level
    ]
    n, _, h, w = x.shape
    size = torch.tensor([w, h], dtype=x.dtype, device=x.device)
    unit = torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=x.dtype, device=x.device)
    points = size // 2 + unit * (min(h, w) // 3)  # (3, 2) as (column, row)
    moved = points + jump * size * (2 * uniform(x, (n, 3, 2), generator) - 1)
    back = torch.linalg.solve(F.pad(moved, (0, 1), value=1), points.expand(n, 3, 2))  # (n, 3, 2) from output to input
    at = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), -1).to(x)  # (h, w, 2)
    x = sampled(x, F.pad(at, (0, 1), value=1).view(1, h * w, 3).matmul(back).view(n, h, w, 2), about_centres=True)
    drift = 2 * uniform(x, (n, 2, h, w), generator) - 1
    drift = reach * size.view(2, 1, 1) * blurred(drift, sigma * min(h, w), mode="reflect", truncate=3)
    return sampled(x, at + drift.movedim(1, -1), about_centres=False)


def _through_pillow(x: Tensor, change: Callable[[Any], Any]) -> Tensor:
    """Hand every image to Pillow as bytes and read back what `change` makes of it."""
    from PIL import Image

    pixels = (x * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    pixels = pixels[..., 0] if x.shape[1] == 1 else pixels
    changed = torch.from_numpy(np.stack([np.asarray(change(Image.fromarray(picture))) for picture in pixels]))
    return changed.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2).to(x) / 255
