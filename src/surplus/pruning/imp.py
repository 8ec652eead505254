"""Iterative magnitude pruning with rewinding, and its controls (Frankle & Carbin 2019; Frankle et al. 2020).

    theta_k: the weights after k steps.   Level l trains from m_l * theta_k at step k to the end, then
    m_{l+1} removes the share p of the surviving weights with the smallest |theta_T|.

arXiv 1803.03635 and 1912.05671. Schedule and data order go on at step k; the optimiser starts empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.pruning.masks import Scope, cut, density, keep_top
from surplus.registry import method
from surplus.tasks import Task
from surplus.training import Run, fit


@dataclass(frozen=True)
class Level:
    """One level of pruning, for all seeds."""

    density: float
    """Kept share of the prunable weights."""
    masks: Tensor
    """(K, P) booleans."""
    start: Tensor
    """(K, P) where training began."""
    run: Run

    @property
    def accuracy(self) -> Tensor:
        """(K,) test metric."""
        return self.run.evaluate("test").metric


@method("pruning schedule", paper="Frankle & Carbin 2019, arXiv 1803.03635; Frankle et al. 2020, arXiv 1912.05671")
def imp(
    task: Task,
    *,
    levels: int,
    rate: float = 0.2,
    rewind_step: int = 0,
    seeds: int | Sequence[int] = 5,
    scope: Scope = "global",
    exclude: Sequence[str] = (),
    **options: Any,
) -> list[Level]:
    """Iterative magnitude pruning of several seeds at once.

    Args:
        task: what is trained.
        levels: how many cuts; the result has one level more, the dense one first.
        rate: share of the surviving weights that each cut removes.
        rewind_step: k; 0 rewinds to the initial weights.
        seeds: one replica each.
        scope: "global" for one threshold, "layer" for the rate in every layer (the output layer at half of it).
        exclude: layers to leave whole.
        options: of `fit` (store, execution, device, jobs).

    Returns:
        levels + 1 `Level`s.
    """
    return list(
        imp_levels(
            task,
            levels=levels,
            rate=rate,
            rewind_step=rewind_step,
            seeds=seeds,
            scope=scope,
            exclude=exclude,
            **options,
        )
    )


def imp_levels(
    task: Task,
    *,
    levels: int,
    rate: float = 0.2,
    rewind_step: int = 0,
    seeds: int | Sequence[int] = 5,
    scope: Scope = "global",
    exclude: Sequence[str] = (),
    **options: Any,
) -> Iterator[Level]:
    """The levels of `imp` one by one, so that a caller may stop early."""
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    dense = fit(task, seeds=seeds, keep=(rewind_step,) if rewind_step else (), **options)
    rewound = dense.at(rewind_step) if rewind_step else task.space.init_many(seeds)
    masks = torch.ones_like(rewound, dtype=torch.bool)
    level = Level(1.0, masks, rewound, dense)
    yield level
    for _ in range(levels):
        masks = torch.stack(
            [
                cut(task.space, theta, mask, rate, scope, exclude=exclude, min_per_layer=1)
                for theta, mask in zip(level.run.theta, level.masks, strict=True)
            ]
        )
        level = from_masks(task, masks, rewound, seeds, rewind_step, **options)
        yield level


def from_masks(task: Task, masks: Tensor, start: Tensor, seeds: Sequence[int], step: int = 0, **options: Any) -> Level:
    """Train the subnetworks masks (K, P) from start (K, P) at `step` to the end."""
    run = fit(task, seeds=seeds, masks=masks, start=start, start_step=step, **options)
    return Level(density(task.space, masks[0]), masks, start, run)


@method("pruning schedule", paper="Frankle & Carbin 2019, arXiv 1803.03635, section 2 (one-shot)")
def one_shot(
    task: Task, dense: Level, keep: float, *, rewind_step: int = 0, exclude: Sequence[str] = (), **options: Any
) -> Level:
    """One cut of the trained dense networks to density `keep`, rewound and trained."""
    masks = torch.stack(
        [keep_top(task.space, t.abs(), density=keep, exclude=exclude, min_per_layer=1) for t in dense.run.theta]
    )
    return from_masks(task, masks, dense.start, dense.run.seeds, rewind_step, **options)


def reinitialised(task: Task, level: Level, *, seed_offset: int = 10_000, **options: Any) -> Level:
    """The control of a ticket's weights: the same masks on fresh initial weights, trained from step 0."""
    fresh = task.space.init_many([s + seed_offset for s in level.run.seeds])
    return from_masks(task, level.masks, fresh, level.run.seeds, 0, **options)


def levels_for(keep: float, rate: float) -> int:
    """How many cuts of `rate` bring the density to `keep` or just below."""
    if not 0 < keep <= 1 or not 0 < rate < 1:
        raise InputError(f"densities lie in (0, 1] and rates in (0, 1); got density {keep} and rate {rate}")
    return math.ceil(math.log(keep) / math.log(1 - rate) - 1e-9)
