"""Networks of the inner loop and of the evaluation: plain SGD on examples that fit in memory, augmented as they come.

CutMix (Yun et al. 2019, arXiv 1905.04899) pastes a rectangle of one image into another and splits the loss by area.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from surplus.examples.condensation.diff_augment import DiffAugment, round_half_up

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def train_epoch(
    module: nn.Module,
    optimiser: Optimizer,
    x: Tensor,
    y: Tensor,
    generator: Generator,
    *,
    batch: int,
    augment: DiffAugment,
    cutmix: float = 0.0,
) -> None:
    """One pass over x (n, C, H, W) and y (n,) in random order, every image changed by a draw of its own.

    Args:
        module: what is trained, in place.
        optimiser: of its parameters.
        x: images as the network sees them.
        y: classes.
        generator: of order, augmentation and mixing, on the CPU.
        batch: examples per step.
        augment: what may be drawn.
        cutmix: chance that a batch is mixed.
    """
    module.train()
    for rows in torch.randperm(len(x), generator=generator).split(batch):
        images, labels = x[rows.to(x.device)], y[rows.to(y.device)]
        images = augment(images, augment.draw(generator, len(rows)))
        images, other, share = mixed(images, labels, generator, cutmix)
        outputs = module(images)
        loss = share * F.cross_entropy(outputs, labels)
        if share < 1:
            loss = loss + (1 - share) * F.cross_entropy(outputs, other)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def mixed(x: Tensor, y: Tensor, generator: Generator, chance: float) -> tuple[Tensor, Tensor, float]:
    """CutMix of a batch with itself: images, the labels of what was pasted, and the share of an image that is its own.

    The share is uniform before the rectangle is cut off at the border (Beta(1, 1)); 1 where the batch stays as it is.
    """
    if not chance or float(torch.rand((), generator=generator)) >= chance:
        return x, y, 1.0
    height, width = x.shape[-2:]
    order = torch.randperm(len(x), generator=generator).to(x.device)
    size, down, across = torch.rand(3, generator=generator).tolist()
    rows, columns = _cut(down, size**0.5, height), _cut(across, size**0.5, width)
    x = x.clone()
    x[:, :, rows, columns] = x[order][:, :, rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return x, y[order], 1 - area / (height * width)


def _cut(centre: float, share: float, length: int) -> slice:
    """A stretch of `share` of the length about a place, as far as it lies inside."""
    middle, half = int(centre * length), round_half_up(share * length) // 2
    return slice(max(middle - half, 0), min(middle + half, length))


@contextmanager
def frozen_norms(module: nn.Module, x: Tensor) -> Iterator[None]:
    """Batch norms take their statistics from one pass of real examples `x` and keep them; other layers train.

    A batch of one synthetic image has no statistics of use. The official codes let that pass move running statistics
    by a tenth only; here they become those of the pass. Nothing happens to networks without batch normalisation.
    """
    norms: list[Any] = [m for m in module.modules() if isinstance(m, _NORMS)]
    momenta = [norm.momentum for norm in norms]
    module.train()
    for norm in norms:
        norm.momentum = 1.0
    try:
        if norms:
            with torch.no_grad():
                module(x)
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.train().momentum = momentum


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a network has any batch normalisation."""
    return any(isinstance(m, _NORMS) for m in module.modules())


@torch.no_grad()
def accuracy(module: nn.Module, x: Tensor, y: Tensor, batch: int = 1024) -> float:
    """Share of right answers in evaluation mode; x are the prepared images."""
    module.eval()
    right = sum(int((module(a).argmax(1) == b).sum()) for a, b in zip(x.split(batch), y.split(batch), strict=True))
    return right / len(x)
