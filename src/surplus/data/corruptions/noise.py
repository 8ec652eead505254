"""Noise on every value: a sensor in low light, photon counts, dead pixels, film grain (CIFAR-10-C)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.data.corruptions.base import CIFAR_C, graded, normal, uniform
from surplus.registry import method


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def gaussian_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Normal noise on every value: a sensor in low light."""
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[level] * normal(x, x.shape, generator)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def shot_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Photon counts: Poisson(c x) / c, with c photons for white."""
    photons = (500, 250, 100, 75, 50)[level]
    return torch.poisson(photons * x.to(generator.device), generator).to(x) / photons


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def impulse_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Salt and pepper: a small share of values becomes 0 or 1, with even odds."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[level]
    u = uniform(x, x.shape, generator)
    return torch.where(u < share, (u < share / 2).to(x), x)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def speckle_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Normal noise in proportion to the value."""
    return x + x * (0.06, 0.1, 0.12, 0.16, 0.2)[level] * normal(x, x.shape, generator)
