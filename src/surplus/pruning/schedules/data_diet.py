"""Tickets on a data diet: the short dense training before iterative pruning, on chosen data (Paul et al. 2022).

    theta_t = t steps of training on D_pre from theta_0.   Level l: train m_l * theta_t on ALL data from step t to the
    end, then m_{l+1} removes the share p of the surviving weights with the smallest |theta_T|.

arXiv 2206.01278, section 2. The length of pre-training is in steps, so that a small D_pre is seen more often; its
learning rate is the recipe's initial one, since t lies before the first decay. Levels go on at step t of the schedule
and of the data order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor

from surplus.data.longtail import keep_counts
from surplus.data.noise import random_labels
from surplus.errors import InputError, unknown
from surplus.examples.selections.base import check_keep, select, shuffled
from surplus.pruning.budgets import density_schedule
from surplus.pruning.masks import cut_at_threshold
from surplus.pruning.schedules.imp import (
    Cut,
    Level,
    Trained,
    by_rate,
    early_step,
    from_masks,
    levels_for,
    levels_from,
    to_density,
)
from surplus.registry import method
from surplus.space import generator
from surplus.tasks import Duration, Task
from surplus.training import Run, fit

Diet = Literal["all", "random", "balanced", "easiest", "hardest", "random-labels"]
Count = Literal["exact", "threshold"]


@method("pruning schedule", paper="Paul, Larsen, Ganguli, Frankle & Dziugaite 2022, arXiv 2206.01278")
def tickets_on_a_diet(
    task: Task,
    diet: Diet = "random",
    size: int | None = None,
    *,
    density: float | None = None,
    levels: int | None = None,
    steps: int | None = None,
    rate: float = 0.2,
    seeds: int | Sequence[int] = 5,
    scores: Tensor | None = None,
    count: Count = "exact",
    exclude: Sequence[str] = (),
    **options: Any,
) -> list[Level]:
    """Iterative magnitude pruning, rewound to a point that was reached on chosen data.

    Args:
        task: what is trained; the levels see all of its training data.
        diet: the data of pre-training, see `diet_subset`.
        size: their number; all when None.
        density: kept share at the end, reached in cuts of equal shares, none larger than `rate`; or
        levels: how many cuts of `rate`; the result has one level more, the dense one first.
        steps: t, the length of pre-training; 0 rewinds to the initial weights, a twentieth of training when None.
        rate: share of the surviving weights that each cut removes.
        seeds: one replica each.
        scores: (n,) high = hard, for "easiest" and "hardest".
        count: "exact", or "threshold" as the paper's code counts (`cut_at_threshold`).
        exclude: layers to leave whole.
        options: of `fit` (store, execution, device, jobs).

    Returns:
        `Level`s, the dense one first.

    Raises:
        InputError: not one of density and levels is given, or a density is to be counted by threshold.
    """
    cuts = _cuts(density, levels, rate, count, exclude)
    steps = early_step(task) if steps is None else steps
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if steps:
        start = pretrain_subset(task, diet, size, steps=steps, seeds=seeds, scores=scores, **options).theta
    else:
        start = task.space.init_many(seeds)
    first = from_masks(task, torch.ones_like(start, dtype=torch.bool), start, seeds, steps, **options)
    return list(levels_from(first, cuts, step=steps, **options))


def pretrain_subset(
    task: Task,
    diet: Diet,
    size: int | None = None,
    *,
    steps: int,
    seeds: int | Sequence[int] = 5,
    scores: Tensor | None = None,
    **options: Any,
) -> Run:
    """Train each seed for `steps` steps on its own choice of examples, at the recipe's initial learning rate.

    Random choices differ between seeds; random labels are one draw for all of them.

    Args:
        task: data, network and recipe.
        diet: which data, see `diet_subset`.
        size: their number; all when None.
        steps: length of training, the same for every size.
        seeds: one replica each.
        scores: (n,) high = hard, for "easiest" and "hardest".
        options: of `fit`.

    Returns:
        Run whose `theta` (K, P) is the point to rewind to.

    Raises:
        InputError: no steps, an unknown diet, a size outside 1..n, or scores that are missing.
    """
    if steps < 1:
        raise InputError(f"pre-training takes at least one step; got {steps}. To rewind to step 0 leave it out")
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    labels = task.train.targets.cpu()
    subsets = [diet_subset(diet, labels, size, generator(s, "data diet", diet), scores=scores) for s in seeds]
    if diet == "random-labels":
        drawn = random_labels(labels, 1.0, task.classes, generator(seeds[0], "data diet", "labels"))
        task = replace(task, train=task.train.with_targets(drawn.labels))
    recipe = task.recipe.model_copy(update={"duration": Duration(f"{steps}it"), "schedule": "constant"})
    return fit(task, seeds=seeds, subsets=subsets, recipe=recipe, **options)


def diet_subset(
    diet: Diet, labels: Tensor, size: int | None, generator: Generator, *, scores: Tensor | None = None
) -> Tensor:
    """Which examples pre-training sees, as positions.

        all            every example
        random         `size` of them; "random-labels" the same, and their labels are drawn anew
        balanced       floor(size / K) of each of K classes, the rest at random
        easiest        the lowest scores;  hardest: the highest (ties: the lower position)

    Args:
        diet: one of these.
        labels: (n,) classes.
        size: how many; all when None.
        generator: for the random ones.
        scores: (n,) high = hard (EL2N, forgetting, `ExampleBarriers.height`).

    Returns:
        (size,) positions in rising order.
    """
    if diet not in get_args(Diet):
        raise unknown("diet", diet, get_args(Diet))
    n = len(labels)
    size = n if size is None or diet == "all" else size
    if diet in ("easiest", "hardest"):
        if scores is None:
            raise InputError(f"the diet {diet!r} needs scores=, one number per training example, high = hard")
        return select(diet, scores, size).nonzero().squeeze(1)
    check_keep(labels, size)
    if diet == "balanced":
        return _balanced(labels, size, generator)
    return shuffled(n, generator, labels.device)[:size].sort().values


def _cuts(
    density: float | None, levels: int | None, rate: float, count: Count, exclude: Sequence[str]
) -> Sequence[Cut]:
    if (density is None) == (levels is None):
        raise InputError("say how far to prune by one of density= (kept share at the end) and levels= (number of cuts)")
    if density is None:
        return [cut_counted(count, rate, exclude)] * (levels or 0)
    if count != "exact":
        raise InputError("a density is reached by exact counts; give levels= with count='threshold'")
    goals = density_schedule(density, max(1, levels_for(density, rate)))
    return [to_density(d, exclude=exclude) for d in goals]


def cut_counted(count: Count, rate: float, exclude: Sequence[str] = ()) -> Cut:
    """A cut of the smallest weights, with the number that goes counted exactly or as published code does."""
    if count not in get_args(Count):
        raise unknown("way to count what a cut removes", count, get_args(Count))
    if count == "exact":
        return by_rate(rate, exclude=exclude)

    def decide(t: Trained) -> Tensor:
        return cut_at_threshold(t.task.space, t.theta, t.mask, rate, exclude)

    return decide


def _balanced(labels: Tensor, size: int, generator: Generator) -> Tensor:
    """floor(size / K) examples of each of the K classes that occur, the rest at random."""
    classes, codes = labels.unique(return_inverse=True)
    chosen = keep_counts(codes, torch.full((len(classes),), size // len(classes)), generator)
    others = (~chosen).nonzero().squeeze(1)
    more = shuffled(len(others), generator, labels.device)[: size - int(chosen.sum())]
    return chosen.index_fill(0, others[more], True).nonzero().squeeze(1)
