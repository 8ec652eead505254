"""Pruning that trains: iterative magnitude pruning with rewinding, one cut after training, one cut before.

    theta_k: the weights after k steps.   Level l trains from m_l * theta_k at step k to the end, then
    m_{l+1} keeps the weights of highest score at theta_T: |theta_T| unless another score is named.

Frankle & Carbin 2019 (arXiv 1803.03635), Frankle et al. 2020 (arXiv 1912.05671). Schedule and data order go on at step
k; the optimiser starts empty. What decides a cut is a function `Cut`; `by_rate` and `to_density` make the usual ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.pruning.budgets import Kind, check_density, density_schedule
from surplus.pruning.masks import Scope, cut, density, keep_top
from surplus.pruning.scoring import Score, iterate_on_task, score_on_task
from surplus.registry import method
from surplus.tasks import Task
from surplus.training import Run, fit


@dataclass(frozen=True)
class Level:
    """One level of pruning, for all seeds."""

    density: float
    """Kept share of all prunable weights, also of excluded layers, which `density(space, mask, exclude)` leaves out."""
    masks: Tensor
    """(K, P) booleans."""
    start: Tensor
    """(K, P) where training began."""
    run: Run

    @property
    def accuracy(self) -> Tensor:
        """(K,) test metric."""
        return self.run.evaluate("test").metric


@dataclass(frozen=True)
class Trained:
    """What a cut looks at: one network at the end of a level."""

    task: Task
    seed: int
    theta: Tensor
    """(P,) trained weights, 0 outside the mask."""
    start: Tensor
    """(P,) where training began, with the values of removed weights too."""
    mask: Tensor
    """(P,) what is still there."""


Cut = Callable[[Trained], Tensor]
"""A trained network -> the mask (P,) of what stays, a subset of its own."""


@method("pruning schedule", paper="Frankle & Carbin 2019, arXiv 1803.03635; Frankle et al. 2020, arXiv 1912.05671")
def imp(task: Task, **settings: Any) -> list[Level]:
    """Iterative magnitude pruning of several seeds at once, to a density or for a number of levels.

    Args:
        task: what is trained.
        settings: of `imp_levels`: density or levels, rate, score, rewind_step, seeds, scope, exclude; and of `fit`.

    Returns:
        `Level`s, the dense one first.
    """
    return list(imp_levels(task, **settings))


def imp_levels(
    task: Task,
    *,
    density: float | None = None,
    levels: int | None = None,
    rate: float = 0.2,
    score: str | Score = "magnitude",
    rewind_step: int = 0,
    seeds: int | Sequence[int] = 5,
    scope: Scope = "global",
    exclude: Sequence[str] = (),
    **options: Any,
) -> Iterator[Level]:
    """The levels of `imp` one by one, so that a caller may stop early.

    Args:
        task: what is trained.
        density: kept share at the end: cuts of equal shares, none larger than `rate`, that end there exactly; or
        levels: how many cuts of `rate`; the result has one level more, the dense one first.
        rate: share of the surviving weights that each cut removes.
        score: a weight score's name, or a function (space, theta, batch) -> (P,); high = keep.
        rewind_step: k; 0 rewinds to the initial weights.
        seeds: one replica each.
        scope: "global" for one threshold, "layer" for the rate in every layer (with `levels`, the output layer at half
            of it), "neuron" for whole units.
        exclude: layers to leave whole.
        options: of `fit` (store, execution, device, jobs).

    Raises:
        InputError: not one of density and levels is given.
    """
    if (density is None) == (levels is None):
        raise InputError("say how far to prune by one of density= (kept share at the end) and levels= (number of cuts)")
    if density is not None:
        goals = density_schedule(density, max(1, levels_for(density, rate)))
        cuts = [to_density(d, score, scope, exclude) for d in goals] if density < 1 else []
    else:
        cuts = [by_rate(rate, score, scope, exclude)] * (levels or 0)
    yield from levels_from(_dense(task, rewind_step, seeds, **options), cuts, step=rewind_step, **options)


def levels_from(first: Level, cuts: Iterable[Cut], *, step: int = 0, **options: Any) -> Iterator[Level]:
    """Prune on from a level: cut each network, back to where the level began, train; once for every cut.

    Args:
        first: the level to begin with; it is the first that comes back.
        cuts: what decides each cut.
        step: where in the schedule and the data order training begins.
        options: of `fit`.
    """
    level, task = first, first.run.task
    yield level
    for decide in cuts:
        rows = zip(level.run.seeds, level.run.theta, level.start, level.masks, strict=True)
        masks = torch.stack([decide(Trained(task, seed, theta, start, mask)) for seed, theta, start, mask in rows])
        level = from_masks(task, masks, first.start, first.run.seeds, step, **options)
        yield level


def by_rate(rate: float, score: str | Score = "magnitude", scope: Scope = "global", exclude: Sequence[str] = ()) -> Cut:
    """A cut that removes a share of the surviving weights, lowest score first; a weight stays in each layer."""

    def decide(t: Trained) -> Tensor:
        return cut(t.task.space, _score(t, score), t.mask, rate, scope, exclude=exclude, min_per_layer=1)

    return decide


def to_density(
    density: float, score: str | Score = "magnitude", scope: Scope = "global", exclude: Sequence[str] = ()
) -> Cut:
    """A cut down to a kept share of all prunable weights, lowest score first; a weight stays in each layer."""

    def decide(t: Trained) -> Tensor:
        return keep_top(
            t.task.space, _score(t, score), density=density, scope=scope, alive=t.mask, exclude=exclude, min_per_layer=1
        )

    return decide


def _score(t: Trained, score: str | Score) -> Tensor:
    return score_on_task(score, t.task, t.theta, start=t.start, seed=t.seed, trained=True)


@method("pruning schedule", paper="Frankle & Carbin 2019, arXiv 1803.03635, section 2 (one-shot)")
def one_shot(
    task: Task,
    *,
    density: float,
    score: str | Score = "magnitude",
    rewind_step: int = 0,
    seeds: int | Sequence[int] = 5,
    scope: Scope = "global",
    exclude: Sequence[str] = (),
    **options: Any,
) -> list[Level]:
    """One cut of the trained dense networks, rewound and trained; arguments as for `imp_levels`.

    Returns:
        The dense level and the pruned one.
    """
    dense = _dense(task, rewind_step, seeds, **options)
    return list(levels_from(dense, [to_density(density, score, scope, exclude)], step=rewind_step, **options))


@method("pruning schedule", paper="Lee, Ajanthan & Torr 2019, arXiv 1810.02340; Tanaka et al. 2020, arXiv 2006.05467")
def at_start(
    task: Task,
    *,
    density: float,
    score: str | Score = "snip",
    rounds: int | None = None,
    schedule: Kind = "exponential",
    seeds: int | Sequence[int] = 5,
    scope: Scope = "global",
    exclude: Sequence[str] = (),
    **options: Any,
) -> list[Level]:
    """Prune the initial networks by a score, in one cut or in rounds, then train once.

    Args:
        task: what is trained.
        density: kept share of the prunable weights.
        score: a weight score's name, or a function of that shape.
        rounds: cuts on the way, with the score computed anew after each; the score's own number when None.
        schedule: densities on the way, see `density_schedule`.
        seeds: one replica each.
        scope: compare across layers, or within each.
        exclude: layers to leave whole.
        options: of `fit`.

    Returns:
        One level.
    """
    check_density(density)
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    start = task.space.init_many(seeds)
    how: dict[str, Any] = {"density": density, "rounds": rounds, "schedule": schedule}
    how |= {"scope": scope, "exclude": exclude, "min_per_layer": 1}
    masks = [iterate_on_task(score, task, theta, seed=s, **how) for theta, s in zip(start, seeds, strict=True)]
    return [from_masks(task, torch.stack(masks), start, seeds, **options)]


def from_masks(task: Task, masks: Tensor, start: Tensor, seeds: Sequence[int], step: int = 0, **options: Any) -> Level:
    """Train the subnetworks masks (K, P) from start (K, P) at `step` to the end."""
    run = fit(task, seeds=seeds, masks=masks, start=start, start_step=step, **options)
    return Level(density(task.space, masks[0]), masks, start, run)


def reinitialised(task: Task, level: Level, *, seed_offset: int = 10_000, **options: Any) -> Level:
    """The control of a ticket's weights: the same masks on fresh initial weights, trained from step 0."""
    fresh = task.space.init_many([s + seed_offset for s in level.run.seeds])
    return from_masks(task, level.masks, fresh, level.run.seeds, 0, **options)


def levels_for(keep: float, rate: float) -> int:
    """How many cuts of `rate` bring the density to `keep` or just below."""
    if not 0 < keep <= 1 or not 0 < rate < 1:
        raise InputError(f"densities lie in (0, 1] and rates in (0, 1); got density {keep} and rate {rate}")
    return math.ceil(math.log(keep) / math.log(1 - rate) - 1e-9)


def early_step(task: Task) -> int:
    """One twentieth of training: early, and past the first chaotic steps; where to rewind to unless told otherwise."""
    return max(1, task.recipe.duration.steps(-(-len(task.train) // task.recipe.batch_size)) // 20)


def _dense(task: Task, rewind_step: int, seeds: int | Sequence[int], **options: Any) -> Level:
    """The dense networks, and as their start the point that pruned ones go back to."""
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    run = fit(task, seeds=seeds, keep=(rewind_step,) if rewind_step else (), **options)
    start = run.at(rewind_step) if rewind_step else task.space.init_many(seeds)
    return Level(1.0, torch.ones_like(start, dtype=torch.bool), start, run)
