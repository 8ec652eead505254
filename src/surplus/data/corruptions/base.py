"""What all graded corruptions share: the paper's names, the checks before, the grey levels after, the draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Generator, Tensor

from surplus.errors import InputError

CIFAR_C = "Hendrycks & Dietterich 2019, arXiv 1903.12261"
ZHANG = "Zhang et al. 2017, arXiv 1611.03530"
CHUNK = 2048
"""Images worked on at once, to bound the memory; draws go chunk by chunk, so another size is another sample."""

Core = Callable[[Tensor, int, Generator], Tensor]
Corruption = Callable[..., Tensor]


def graded(core: Core) -> Corruption:
    """Checks before, quantisation after; severity 1..5 arrives as an index 0..4, images as floating point in [0, 1]."""

    @wraps(core, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def corrupt(images: Tensor, severity: int, generator: Generator) -> Tensor:
        check_images(images)
        if isinstance(severity, bool) or severity not in (1, 2, 3, 4, 5):
            raise InputError(f"severity is one of 1, 2, 3, 4, 5; got {severity!r}")
        if not len(images):
            return images.clone()
        work = images if images.dtype == torch.float64 else unit(images).float()
        parts = [quantise(core(part, int(severity) - 1, generator)) for part in work.split(CHUNK)]
        x = torch.cat(parts)
        return x.to(images.dtype) if images.is_floating_point() else (255 * x).round().to(images.dtype)

    del corrupt.__wrapped__  # so that the signature shown is the one to call
    return corrupt


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of pictures with pixels in [0, 1], naming the rows."""
    pixels = images.is_floating_point() or images.dtype == torch.uint8
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not pixels:
        raise InputError(
            f"images are floating point or uint8 of shape (n, 1 or 3, height, width); "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    if min(images.shape[-2:]) < 8:
        raise InputError(
            f"images must be at least 8 x 8 for a corruption to mean anything; got {tuple(images.shape[-2:])}"
        )
    rows = (~((images >= 0) & (unit(images) <= 1)).flatten(1).all(1)).nonzero().squeeze(1).tolist()
    if rows:
        raise InputError(
            f"pixels lie in [0, 1], corruption comes before normalisation; {len(rows)} images do not or hold NaN, "
            f"the first in rows {rows[:5]}"
        )


def unit(images: Tensor) -> Tensor:
    """Bytes 0..255 as floats in [0, 1]; floats as they came."""
    return images if images.is_floating_point() else images.float() / 255


def quantise(x: Tensor) -> Tensor:
    """Clip, and cut down to a multiple of 1/255 as a cast to bytes does; the margin keeps k/255 where it is."""
    return (x.clamp(0, 1) * 255 + 1e-3).floor() / 255


def normal(like: Tensor, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Standard normal draws, of the type and on the device of `like`."""
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)


def uniform(like: Tensor, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform draws on [0, 1), of the type and on the device of `like`."""
    return torch.rand(shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)
