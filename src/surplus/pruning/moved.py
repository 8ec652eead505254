"""How far training moves the weights that pruning keeps, against those that it removes.

    ratio = mean over kept of |theta_T - theta_0| / mean over removed of |theta_T - theta_0|

theta_0 and theta_T are the dense run's start and end; kept and removed are taken among the weights that a cut may
touch. The weights of winning tickets move more than the others (Frankle & Carbin 2019, arXiv 1803.03635),
but a cut by magnitude chooses by |theta_T|, in which the way is contained: a mask of random places gives 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.pruning.budgets import prunable_blocks
from surplus.pruning.schedules.imp import Level
from surplus.registry import method
from surplus.space import WeightSpace


def cuttable(space: WeightSpace, exclude: Iterable[str] = ()) -> Tensor:
    """(P,) booleans: the weights that a cut may touch, those of prunable layers that are not excluded."""
    out = torch.zeros(space.size, dtype=torch.bool)
    for block in prunable_blocks(space, exclude):
        out[block.slice] = True
    return out


@method("measure", paper="Frankle & Carbin 2019, arXiv 1803.03635")
def moved_ratio(first: Level, after: Level, *, start: Tensor | None = None, exclude: Iterable[str] = ()) -> Tensor:
    """How many times as far the kept weights moved as the removed ones did, while the first level trained.

    Args:
        first: the dense level, whose run is looked at.
        after: a level cut from it, one cut or many later; only its masks are read.
        start: (K, P) from where the way is measured; `first.start` when None, which is the initial point unless the
            levels are rewound to a later one.
        exclude: layers that were left whole; they count neither as kept nor as removed.

    Returns:
        (K,); above 1 where kept weights moved more.

    Raises:
        InputError: the levels are of different seeds, or a cut removed nothing or left nothing.
    """
    if list(first.run.seeds) != list(after.run.seeds):
        raise InputError(f"both levels must be of the same seeds; got {first.run.seeds} and {after.run.seeds}")
    free = cuttable(first.run.task.space, exclude).to(first.masks.device) & first.masks
    kept, removed = free & after.masks, free & ~after.masks
    if not bool(kept.any(1).all() & removed.any(1).all()):
        raise InputError("a ratio needs kept and removed weights of every seed; give a level after a cut")
    way = (first.run.theta - (first.start if start is None else start)).abs().double()
    far, near = ((way * part).sum(1) / part.sum(1) for part in (kept, removed))
    return far / near
