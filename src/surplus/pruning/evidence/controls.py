"""Controls: what a pruning result must beat at equal density before it says anything about single weights.

    shuffle                    each layer's mask in a random order: the layers' densities without the choice of weights
    reinit                     the same mask on another draw of the initial weights
    inversion                  the lowest scores of each layer in place of the highest
    random-*                   masks that know nothing: drawn globally, layer by layer, by ERK or by the smart ratio
    magnitude-at-init          the largest initial weights
    magnitude-after-training   the largest trained weights in one cut, the upper reference of pruning at the start
    random-labels, -pixels     the same choice of weights, made on data without meaning
    small-parameters, -macs    a dense network with as many trained parameters, or with as many multiply-adds
    dense-longer               the dense network, trained for as many steps as the whole search took

Inversion and the masks of meaningless data rank weights by the ticket's own score, read once: of a ticket whose score
was computed anew after each of several cuts, they are what a single cut would have been. Where a method holds weights
outside its mask at values (an offset, frozen initial weights), masks of other places would delete those: such a ticket
has dense controls alone.

If shuffle and reinit do not hurt, the method chose layer densities, not weights (Frankle, Dziugaite, Roy & Carbin 2021,
arXiv 2009.08576, section 5). If meaningless data do not hurt, it did not read the data, and the smart ratio may do as
well (Su et al. 2020, arXiv 2009.11094). The small network and the longer training: Blalock et al. 2020 (2003.03033).

For networks with fewer channels: the pruned architecture from fresh weights (Liu et al. 2019, arXiv 1810.05270),

    scratch-E   for as many epochs as the dense network
    scratch-B   for as many multiply-adds, min(2, MACs dense / MACs pruned) times the epochs
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from surplus.data.noise import random_labels
from surplus.errors import InputError, unknown
from surplus.pruning.budgets import Rule, prunable_blocks
from surplus.pruning.counting import count
from surplus.pruning.evidence.small_dense import fresh_start, small_dense
from surplus.pruning.evidence.training_cost import in_use, stretched
from surplus.pruning.masks import Ticket, density, keep_top, layer_densities, random_mask, shuffle
from surplus.pruning.schedules.imp import Level, imp
from surplus.pruning.scoring import Score, iterate_on_task, score_on_task
from surplus.space import WeightSpace, generator, seed_for
from surplus.tasks import CLASSIFICATION, Task
from surplus.training import Run, fit

MASKED = (
    *("shuffle", "reinit", "inversion", "random-global", "random-uniform", "random-erk", "random-smart"),
    *("magnitude-at-init", "magnitude-after-training", "random-labels", "random-pixels"),
)
DENSE = ("small-parameters", "small-macs", "dense-longer")
USUAL = (
    *("shuffle", "reinit", "random-global", "random-uniform", "random-erk", "magnitude-at-init"),
    *("magnitude-after-training", "small-parameters"),
)
SCRATCH = ("scratch-E", "scratch-B")
_FRESH = ("reinit", "magnitude-at-init")
"""Controls that start from initial weights, wherever the ticket was rewound to."""
_RULES: tuple[Literal["global"] | Rule, ...] = ("global", "uniform", "erk", "smart")


def inversion(space: WeightSpace, mask: Tensor, score: Tensor, exclude: Iterable[str] = ()) -> Tensor:
    """The mask (P,) that keeps, in each layer, as many weights as `mask` does, but those of the lowest score (P,)."""
    exclude = tuple(exclude)
    layers = layer_densities(space, mask)
    wanted = {b.name: layers[b.name] for b in prunable_blocks(space, exclude)}
    return keep_top(space, -score, layer_density=wanted, exclude=exclude)


def controls(
    space: WeightSpace,
    ticket: Ticket,
    seed: int,
    score: Tensor | None = None,
    exclude: Iterable[str] = (),
) -> dict[str, Ticket]:
    """The controls of a ticket that need no training or data, at its density.

    Args:
        space: the network.
        ticket: the mask, and the point it starts from.
        seed: of the draws; each control has a stream of its own.
        score: (P,) the score behind the mask; inversion is left out when None.
        exclude: layers that the pruning kept whole; the controls do too.

    Returns:
        A ticket per control, by name; random-smart is missing where the smart ratio, which keeps 0.3 of the last layer,
        is more than the density. Train each with the recipe of the ticket itself, or all by `train_controls`.
    """
    exclude = tuple(exclude)
    theta, mask = ticket.theta, ticket.mask
    d = density(space, mask, exclude)
    masks = {"shuffle": shuffle(space, mask, generator(seed, "control", "shuffle"), exclude=exclude)}
    if score is not None:
        masks["inversion"] = inversion(space, mask, score, exclude)
    for rule in _RULES if smart_ratio_fits(space, d, exclude) else _RULES[:-1]:
        draw = generator(seed, "control", "random", rule)
        masks[f"random-{rule}"] = random_mask(space, d, draw, rule, exclude).to(mask.device)
    tickets = {name: Ticket(theta, m) for name, m in masks.items()}
    return tickets | {"reinit": Ticket(space.init(seed_for(seed, "control", "reinit")).to(theta), mask)}


def smart_ratio_fits(space: WeightSpace, density: float, exclude: Iterable[str] = ()) -> bool:
    """Whether this density leaves room for 0.3 of the last layer."""
    blocks = prunable_blocks(space, exclude)
    return len(blocks) == 1 or 0.3 * blocks[-1].size <= density * sum(b.size for b in blocks)


# ---- trained --------------------------------------------------------------------------------------------------------


def train_controls(
    task: Task,
    level: Level,
    *,
    step: int = 0,
    names: Sequence[str] = USUAL,
    score: str | Score | None = None,
    trained: bool = False,
    exclude: Sequence[str] = (),
    budget: float | None = None,
    **options: Any,
) -> dict[str, Level | Run]:
    """Train controls of a pruned level with its seeds and its recipe; those of equal start in one call of `fit`.

    Args:
        task: what the level was trained on.
        level: the tickets.
        step: where in training they began; controls with their weights begin there too, fresh weights at 0.
        names: out of `MASKED` and `DENSE`.
        score: the weight score that chose the masks; magnitude after training when None. Inversion and the masks of
            random labels and pixels read it once, though iterated tickets read it after each cut.
        trained: whether it scored the trained networks; the initial ones if not.
        exclude: layers that the pruning kept whole.
        budget: for dense-longer, how many dense trainings the search took: see `training_budget`.
        options: of `fit`.

    Returns:
        By name, in the order asked for, a `Level` for masks and a `Run` for dense networks. random-smart is missing
        where the density is too low for it, and all masks where the level holds weights outside its own at values.

    Raises:
        InputError: an unknown name; no budget for dense-longer; random labels without classes, or pixels of text.
    """
    for name in names:
        if name not in (*MASKED, *DENSE):
            raise unknown("control", name, (*MASKED, *DENSE))
    if "dense-longer" in names and budget is None:
        raise InputError("dense-longer trains for the budget of the whole search; give budget=training_budget(levels)")
    setting = _Setting(task, level, step, score, trained, tuple(exclude), options)
    held = bool((in_use(level) & ~level.masks).any())
    found = setting.trained_masks([n for n in names if n in MASKED and not held])
    dense = {n: setting.dense(n, budget or 1.0) for n in names if n in DENSE}
    return {n: (found | dense)[n] for n in names if n in found or n in dense}


def train_scratch(
    task: Task, runs: Sequence[Run], names: Sequence[str] = SCRATCH, **options: Any
) -> dict[str, list[Run]]:
    """The smaller networks of structured pruning, trained from fresh weights by the dense network's recipe.

    Args:
        task: the dense network's.
        runs: what structured pruning left, each on a task of its own.
        names: scratch-E (as many epochs) and scratch-B (as many multiply-adds, at most twice the epochs).
        options: of `fit`.

    Returns:
        By name, a run for each of `runs`, with its seeds.
    """
    for name in names:
        if name not in SCRATCH:
            raise unknown("control", name, SCRATCH)
    x = task.prepare(task.train.inputs[:1])
    dense = count(task.space.module, x).macs

    def train(run: Run, name: str) -> Run:
        small, seeds = run.task, run.seeds
        longer = min(2.0, dense / count(small.space.module, x).macs) if name == "scratch-B" else 1.0
        start = [fresh_start(task.space, small.space, seed_for(s, "control", "scratch")) for s in seeds]
        return fit(small, seeds=seeds, start=torch.stack(start), recipe=stretched(task.recipe, longer), **options)

    return {name: [train(run, name) for run in runs] for name in names}


def corrupted(task: Task, what: Literal["labels", "pixels"], seed: int = 0) -> Task:
    """The task with training data without meaning: labels drawn anew, or each input's values in an order of its own.

    Raises:
        InputError: the targets are not classes, or the inputs are text.
    """
    train, draw = task.train, generator(seed, "control", "random", what)
    if what == "labels":
        if task.objective is not CLASSIFICATION:
            raise InputError(f"random labels are drawn from classes; the task is {task.objective.name}")
        return replace(task, train=train.with_targets(random_labels(train.targets, 1.0, task.classes, draw).labels))
    if train.kind == "text":
        raise InputError("random pixels are for images and tables; the inputs are text")
    places = train.inputs.flatten(2) if train.kind == "image" else train.inputs.flatten(1)[:, None]  # (n, C, places)
    order = torch.rand(len(train), 1, places.shape[-1], generator=draw).argsort(-1).to(places.device)
    return replace(task, train=replace(train, inputs=places.gather(-1, order.expand_as(places)).view_as(train.inputs)))


@dataclass(frozen=True)
class _Setting:
    """A pruned level and what its controls are made from."""

    task: Task
    level: Level
    step: int
    score: str | Score | None
    after: bool
    """Whether the score is of trained networks."""
    exclude: tuple[str, ...]
    options: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        return list(self.level.run.seeds)

    def trained_masks(self, names: Sequence[str]) -> dict[str, Level | Run]:
        """A level for each name, those of equal first step trained together; the smart ratio only where it fits."""
        masks = {n: m for n in names if (m := self.mask(n)) is not None}
        found: dict[str, Level | Run] = {}
        for first in sorted({self.first(n) for n in masks}):
            group = {n: m for n, m in masks.items() if self.first(n) == first}
            starts = [self.start(n) for n in group]
            run = fit(
                self.task,
                seeds=self.seeds * len(group),
                masks=torch.cat(list(group.values())),
                start=torch.cat(starts),
                start_step=first,
                **self.options,
            )
            for i, (n, start) in enumerate(zip(group, starts, strict=True)):
                rows = slice(i * len(start), (i + 1) * len(start))
                part = replace(run, rows=run.rows[rows], seeds=run.seeds[rows])
                found[n] = Level(density(self.task.space, group[n][0]), group[n], start, part)
        return found

    def dense(self, name: str, budget: float) -> Run:
        """A dense network of equal cost, or the dense network trained for longer."""
        if name == "dense-longer":
            return fit(self.task, seeds=self.seeds, recipe=stretched(self.task.recipe, budget), **self.options)
        x = self.task.prepare(self.task.train.inputs[:1])
        if name == "small-macs":
            macs = [count(self.task.space.module, x, mask).macs_nonzero for mask in in_use(self.level)]
            small, start = small_dense(self.task, self.seeds, macs=sum(macs) / len(macs))
        else:
            parameters = [int(mask.sum()) for mask in self.level.masks]
            small, start = small_dense(self.task, self.seeds, parameters=sum(parameters) / len(parameters))
        return fit(small, seeds=self.seeds, start=start, **self.options)

    def first(self, name: str) -> int:
        return 0 if name in _FRESH else self.step

    def start(self, name: str) -> Tensor:
        """(K, P) where a control's training begins."""
        if name == "reinit":
            return torch.stack([tickets[name].theta for tickets in self.simple])
        return self.fresh if name in _FRESH else self.level.start

    def mask(self, name: str) -> Tensor | None:
        """(K, P); None for a smart ratio that does not fit."""
        if name == "magnitude-at-init":
            return self.largest(self.fresh)
        if name == "magnitude-after-training":
            return self.largest(self.trained)
        if name in ("random-labels", "random-pixels"):
            return self.misled(corrupted(self.task, "labels" if name == "random-labels" else "pixels"))
        if name == "inversion":
            rows = zip(self.level.masks, self.scores, strict=True)
            return torch.stack([inversion(self.task.space, m, s, self.exclude) for m, s in rows])
        found = [tickets[name].mask for tickets in self.simple if name in tickets]
        return torch.stack(found) if found else None

    def largest(self, points: Tensor) -> Tensor:
        """The largest weights of each point, as many as its ticket has."""
        how: dict[str, Any] = {"exclude": self.exclude, "min_per_layer": 1}
        rows = zip(points.abs(), self.shares, strict=True)
        return torch.stack([keep_top(self.task.space, p, density=d, **how) for p, d in rows])

    def misled(self, false: Task) -> Tensor:
        """What the tickets' own choice would have been on other data."""
        if self.score is None:
            return self.largest(fit(false, seeds=self.seeds, **self.options).theta)
        how: dict[str, Any] = {"exclude": self.exclude, "min_per_layer": 1}
        if self.after:
            scored = zip(self.scores_after(false), self.shares, strict=True)
            return torch.stack([keep_top(self.task.space, s, density=d, **how) for s, d in scored])
        rows = zip(self.fresh, self.seeds, self.shares, strict=True)
        return torch.stack([iterate_on_task(self.score, false, p, seed=s, density=d, **how) for p, s, d in rows])

    @cached_property
    def fresh(self) -> Tensor:
        return self.task.space.init_many(self.seeds)

    def scores_after(self, task: Task) -> Tensor:
        """(K, P) the score of dense networks trained on this task, beside where tickets go back to."""
        assert self.score is not None
        dense = self.dense_level(task)
        rows = zip(dense.run.theta, dense.start, self.seeds, strict=True)
        return torch.stack([score_on_task(self.score, task, p, start=q, seed=s, trained=True) for p, q, s in rows])

    def dense_level(self, task: Task) -> Level:
        """The dense networks; imp has trained the same ones."""
        return imp(task, levels=0, rewind_step=self.step, seeds=self.seeds, **self.options)[0]

    @cached_property
    def trained(self) -> Tensor:
        """(K, P) the dense networks after training."""
        return self.dense_level(self.task).run.theta

    @cached_property
    def shares(self) -> list[float]:
        """Density of each mask, over the layers that may be pruned."""
        return [density(self.task.space, m, self.exclude) for m in self.level.masks]

    @cached_property
    def scores(self) -> Tensor:
        """(K, P) what the tickets were chosen by."""
        if self.score is None:
            return self.trained.abs()
        if self.after:
            return self.scores_after(self.task)
        rows = zip(self.fresh, self.seeds, strict=True)
        return torch.stack([score_on_task(self.score, self.task, p, start=p, seed=s) for p, s in rows])

    @cached_property
    def simple(self) -> list[dict[str, Ticket]]:
        """For each seed, the controls that need nothing but the ticket."""
        rows = zip(self.level.start, self.level.masks, self.seeds, strict=True)
        return [controls(self.task.space, Ticket(p, m), s, exclude=self.exclude) for p, m, s in rows]
