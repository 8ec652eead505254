"""Random shifts, mirror images and cutout on tensors, drawn per replica and epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from surplus.space import generator
from surplus.tasks.recipe import Augment


@dataclass(frozen=True)
class Draws:
    """One epoch's random numbers: for each example of each replica, all of shape (K, n)."""

    across: Tensor
    down: Tensor
    mirrored: Tensor
    hole_x: Tensor
    hole_y: Tensor


def draw(
    settings: Augment, seeds: list[int], epoch: int, shape: tuple[int, ...], n: int, device: torch.device
) -> Draws | None:
    """The draws of one epoch; None when nothing is to be changed."""
    if settings == Augment():
        return None
    _, height, width = shape

    def of(purpose: str, top: int) -> Tensor:
        rows = [torch.randint(top, (n,), generator=generator(s, "augment", purpose, epoch)) for s in seeds]
        return torch.stack(rows).to(device)

    reach = 2 * settings.shift + 1
    return Draws(
        of("across", reach), of("down", reach), of("mirror", 2).bool(), of("hole x", width), of("hole y", height)
    )


def augment(x: Tensor, settings: Augment, draws: Draws, index: Tensor) -> Tensor:
    """Change a batch of images.

    Args:
        x: (K, B, C, H, W), as stored (uint8 or float).
        settings: what to change.
        draws: of this epoch.
        index: (K, B) which examples of the data these are.

    Returns:
        The same shape and dtype.
    """
    k, b, c, h, w = x.shape
    flat = x.reshape(k * b, c, h, w)

    def pick(values: Tensor) -> Tensor:
        return values.gather(1, index).reshape(-1)

    every = torch.arange(len(flat), device=x.device)
    if s := settings.shift:
        padded = F.pad(flat.float(), (s, s, s, s), mode="reflect").to(x.dtype)
        windows = padded.unfold(2, h, 1).unfold(3, w, 1)  # (K B, C, 2s+1, 2s+1, H, W), a view
        flat = windows[every, :, pick(draws.down), pick(draws.across)]
    if settings.flip:
        flat = torch.where(pick(draws.mirrored).view(-1, 1, 1, 1), flat.flip(3), flat)
    if side := settings.cutout:
        hole = _inside(h, pick(draws.hole_y), side).view(-1, 1, h, 1) & _inside(w, pick(draws.hole_x), side).view(
            -1, 1, 1, w
        )
        grey = flat.float().mean((2, 3), keepdim=True).to(x.dtype)
        flat = torch.where(hole, grey, flat)
    return flat.view(k, b, c, h, w)


def _inside(length: int, centre: Tensor, side: int) -> Tensor:
    """Which of `length` positions lie in the `side` places around each centre: (B,) -> (B, length)."""
    offset = torch.arange(length, device=centre.device) - centre.unsqueeze(1) + side // 2
    return (offset >= 0) & (offset < side)
