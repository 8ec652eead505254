"""Inputs without structure: pixels in another order, or drawn from a normal law (Zhang et al. 2017, arXiv 1611.03530).

The paper trains on whitened images: corrupt first, then `whitened`.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.data.corruptions.base import ZHANG, check_images, normal, unit
from surplus.registry import method


@method("corruption", paper=ZHANG, on="images", graded=False)
def shuffled_pixels(images: Tensor, generator: Generator) -> Tensor:
    """ONE permutation of pixel positions for all images and channels.

    Training and test images must share it: call with generators of the same seed, or once on both together.
    """
    check_images(images)
    n, c, h, w = images.shape
    order = torch.randperm(h * w, generator=generator, device=generator.device).to(images.device)
    return images.flatten(2)[..., order].view(n, c, h, w)


@method("corruption", paper=ZHANG, on="images", graded=False)
def random_pixels(images: Tensor, generator: Generator) -> Tensor:
    """Another permutation of pixel positions for each image, shared by its channels."""
    check_images(images)
    n, c, h, w = images.shape
    order = torch.rand(n, 1, h * w, generator=generator, device=generator.device).argsort(-1).to(images.device)
    return images.flatten(2).gather(2, order.expand(n, c, h * w)).view(n, c, h, w)


@method("corruption", paper=ZHANG, on="images", graded=False)
def gaussian_pixels(
    images: Tensor, generator: Generator, mean: Tensor | None = None, std: Tensor | None = None
) -> Tensor:
    """Every pixel from a normal law with the data's mean and deviation per channel; not clipped, which shifts both.

    Bytes come back as floats on the scale [0, 1], since a normal law does not end at 0 and 255.

    Args:
        images: (n, C, H, W); only the shape counts where mean and std are given.
        generator: source of the draws.
        mean: (C,) of the training images; of these images if None.
        std: (C,) likewise.
    """
    check_images(images)
    images = unit(images)
    mean = images.mean((0, 2, 3)) if mean is None else mean.to(images)
    std = images.std((0, 2, 3)) if std is None else std.to(images)
    return mean.view(-1, 1, 1) + std.view(-1, 1, 1) * normal(images, images.shape, generator)


def whitened(images: Tensor) -> Tensor:
    """Each image less its own mean, over its own standard deviation or 1 / sqrt(values), whichever is larger."""
    images = unit(images)
    values = images[0].numel()
    std = images.std((1, 2, 3), correction=0, keepdim=True).clamp(min=values**-0.5)
    return (images - images.mean((1, 2, 3), keepdim=True)) / std
