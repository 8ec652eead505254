"""EarlyCroP: prune by gradient flow early in training, as soon as the weights have stopped moving fast.

    r_t = |theta_1 - theta_t| / |theta_1|,  theta_t the weights after epoch t,  r_1 = 0
    prune at the first t with |r_t - r_(t-1)| < tau,   tau = r_2 (1 - P)   for the share P of weights to remove
    tau = r_2 min(1 - P - 0.1, 0.99)                                       for the share P of units to remove
    CroPit cuts to the removed shares   p_i = P - (P - 0.5) 0.5^i, i = 0, 1, ..., then P

(0.25 in place of 0.5 where P <= 0.5.) Then a new optimiser and a one-cycle schedule, without rewinding. Once weights
move slowly, so does the tangent kernel, and a score of gradient flow stays valid. Rachwan et al. 2022, arXiv
2206.10451, sections 4 and 5, with the distance from theta_1 of their code (the paper's is from theta_0).

The rule for units would never fire at P >= 0.9, where its tau is not positive; here tau is at least r_2 (1 - P) / 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surplus.pruning.budgets import check_density, prunable_blocks
from surplus.pruning.masks import keep_top
from surplus.pruning.schedules.imp import Level, from_masks
from surplus.pruning.scores.crop import PAPER, crop
from surplus.pruning.scoring import Batch
from surplus.registry import method
from surplus.space import generator
from surplus.tasks import Duration, Recipe, Task
from surplus.training import Rule, Run, fit
from surplus.training.rules import Moment

BATCHES = 5
"""Batches of training examples that a score of gradient flow looks at."""


# ---- when -----------------------------------------------------------------------------------------------------------


def threshold(second: float, density: float, units: bool = False) -> float:
    """tau, below which a change of the distance from theta_1 counts as settled.

    Args:
        second: r_2, the distance after the second epoch.
        density: kept share 1 - P, of weights or of units.
        units: whether units are removed.
    """
    return second * (min(max(density - 0.1, density / 10), 0.99) if units else density)


def fires(distances: Sequence[float], density: float, units: bool = False) -> int | None:
    """The epoch t at which to prune, from r_1 = 0, r_2, ...; None if the weights still move fast.

    Weights that have not moved at all by the end of the second epoch never will: then t = 2.
    """
    if len(distances) < 2:
        return None
    if distances[1] == 0:
        return 2
    tau = threshold(distances[1], density, units)
    found = (t for t in range(2, len(distances) + 1) if abs(distances[t - 1] - distances[t - 2]) < tau)
    return next(found, None)


def pruning_epoch(thetas: Sequence[Tensor], density: float, units: bool = False) -> int | None:
    """The epoch at which to prune, from the weights (P,) after each of epochs 1, 2, ...; None if not yet."""
    check_density(density)
    return fires([float(distance(thetas[0], theta)) for theta in thetas], density, units)


def distance(first: Tensor, theta: Tensor) -> Tensor:
    """|theta_1 - theta| / |theta_1|: two of (..., P) -> (...)."""
    return (first - theta).norm(dim=-1) / first.norm(dim=-1).clamp(min=torch.finfo(first.dtype).tiny)


@dataclass(frozen=True)
class UntilSettled(Rule):
    """Train as usual, and end as soon as the weights of all replicas have stopped moving fast.

    Each replica settles at an epoch of its own: alone it ends there; among others give `fit` the ends of the epochs as
    `keep`, and `pruning_epoch` of what `run.at` returns is each replica's own.
    """

    density: float
    """Kept share 1 - P, of weights or of units."""
    units: bool = False
    """Whether units are removed."""

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """Refuse what is no density."""
        check_density(self.density)

    def start(self, now: Moment) -> dict[str, Tensor]:
        """The weights after the first epoch, and the distances from there, (K, epochs so far)."""
        return {"first": now.theta.clone(), "distances": now.theta.new_zeros(len(now.theta), 0)}

    def end_epoch(self, now: Moment) -> None:
        """Note how far the weights have gone."""
        seen = now.state["distances"]
        if not seen.shape[1]:
            now.state["first"].copy_(now.theta)
        new = distance(now.state["first"], now.theta)
        now.state["distances"] = torch.cat([seen, new[:, None]], 1)

    def finished(self, now: Moment) -> bool:
        """Whether every replica has settled, now or before."""
        return all(fires(row, self.density, self.units) is not None for row in now.state["distances"].tolist())


@dataclass(frozen=True)
class Settled:
    """Dense networks that were trained until their weights had settled, one run for each seed."""

    runs: tuple[Run, ...]

    @property
    def theta(self) -> Tensor:
        """(K, P)."""
        return torch.cat([run.theta for run in self.runs])

    @property
    def epochs(self) -> tuple[int, ...]:
        """How many each of them took."""
        return tuple(len(run.history["epoch"]) for run in self.runs)


def until_settled(
    task: Task,
    *,
    density: float,
    seeds: Sequence[int],
    units: bool = False,
    prune_to: int = 100,
    recipe: Recipe | None = None,
    **options: Any,
) -> Settled:
    """Train dense networks, at the recipe's rate held constant, until their weights have settled.

    Args:
        task: what is trained.
        density: kept share, of weights or of units, of the prune to come: the smaller, the later.
        seeds: one network each.
        units: whether units will be removed.
        prune_to: epochs after which to prune at the latest.
        recipe: instead of the task's.
        options: of `fit`; of these, where to train and to store are used.
    """
    changes = {"duration": Duration(f"{prune_to}ep"), "schedule": "constant", "patience": None}
    early = (recipe or task.recipe).model_copy(update=changes)
    where = {name: options[name] for name in ("store", "device") if name in options}
    rule = UntilSettled(density, units)
    return Settled(tuple(fit(task, seeds=[s], rule=rule, recipe=early, **where) for s in seeds))


def after_pruning(recipe: Recipe, epochs: int | None) -> Recipe:
    """The recipe of the second phase: one-cycle, for so many epochs; as long as the given one lasts when None."""
    duration = recipe.duration if epochs is None else Duration(f"{epochs}ep")
    return recipe.model_copy(update={"duration": duration, "schedule": "onecycle", "milestones": ()})


# ---- how much -------------------------------------------------------------------------------------------------------


def cropit_densities(density: float, steps: int = 6) -> tuple[float, ...]:
    """Kept shares after each of CroPit's cuts: half of the way that is left, `steps` times, and then all of it.

    Args:
        density: the kept share 1 - P at the end.
        steps: cuts before the last one. A cut that would remove more than P is left out.
    """
    check_density(density)
    removed = 1 - density
    first = 0.5 if removed > 0.5 else 0.25
    shares = [removed - (removed - first) * 0.5**i for i in range(steps)]
    return (*(1 - p for p in shares if p < removed), density)


def cropit_mask(
    task: Task,
    theta: Tensor,
    density: float,
    *,
    steps: int = 6,
    seed: int = 0,
    trained: bool = False,
    exclude: Sequence[str] = (),
) -> Tensor:
    """The mask (P,) after CroPit's cuts of a point, the score computed anew before each.

    Args:
        task: network, data and loss.
        theta: (P,).
        density: kept share of the prunable weights at the end.
        steps: of `cropit_densities`; cuts that would remove no weight are left out.
        seed: of the batches.
        trained: score with batch-norm statistics of each pruned point; with fresh ones if not.
        exclude: layers to leave whole.
    """
    space, batch = task.space, flow_batch(task, seed)
    mask = torch.ones(space.size, dtype=torch.bool, device=theta.device)
    size = kept = sum(b.size for b in prunable_blocks(space, exclude))
    for level in cropit_densities(density, steps):
        if round(level * size) == kept:
            continue
        kept = round(level * size)
        point = theta.masked_fill(~mask, 0)
        buffers = task.statistics(point) if trained else None
        score = crop(space, point, batch, loss=task.loss, mask=mask, parts=BATCHES, buffers=buffers)
        mask = keep_top(space, score, count=kept, alive=mask, exclude=exclude, min_per_layer=1)
    return mask


def flow_batch(task: Task, seed: int) -> Batch:
    """Five batches of training examples, or all there are, prepared for the network and without augmentation."""
    size = min(BATCHES * task.recipe.batch_size, len(task.train))
    rows = torch.randperm(len(task.train), generator=generator(seed, "flow batch"))[:size]
    rows = rows.to(task.train.inputs.device)
    return task.prepare(task.train.inputs[rows]), task.train.targets[rows]


# ---- schedules ------------------------------------------------------------------------------------------------------


@method("pruning schedule", paper=PAPER)
def cropit(
    task: Task,
    *,
    density: float,
    steps: int = 6,
    seeds: int | Sequence[int] = 5,
    exclude: Sequence[str] = (),
    **options: Any,
) -> list[Level]:
    """Prune the initial networks by gradient flow in a few cuts, then train once; in one cut it is `at_start`'s crop.

    Args:
        task: what is trained.
        density: kept share of the prunable weights.
        steps: cuts before the last one.
        seeds: one replica each.
        exclude: layers to leave whole.
        options: of `fit`.

    Returns:
        One level.
    """
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    start = task.space.init_many(seeds)
    masks = _masks(task, start, density, steps, seeds, exclude, trained=False, device=options.get("device", "cpu"))
    return [from_masks(task, masks, start, seeds, **options)]


@method("pruning schedule", paper=PAPER)
def earlycrop(
    task: Task,
    *,
    density: float,
    steps: int = 100,
    prune_to: int = 100,
    epochs: int | None = None,
    seeds: int | Sequence[int] = 5,
    exclude: Sequence[str] = (),
    recipe: Recipe | None = None,
    **options: Any,
) -> list[Level]:
    """Train until the weights have stopped moving fast, prune by gradient flow, train on without rewinding.

    Args:
        task: what is trained.
        density: kept share of the prunable weights.
        steps: CroPit's cuts before the last one, back to back; those that would remove nothing are left out.
        prune_to: epochs after which to prune at the latest.
        epochs: after pruning; as long as the recipe when None.
        seeds: one replica each.
        exclude: layers to leave whole.
        recipe: instead of the task's; its rate is held before pruning and is the peak of a one-cycle schedule after.
        options: of `fit`.

    Returns:
        One level, whose `start` is where each network was pruned; `until_settled` tells the epochs.
    """
    check_density(density)
    seeds, recipe = list(range(seeds)) if isinstance(seeds, int) else list(seeds), recipe or task.recipe
    early = until_settled(task, density=density, seeds=seeds, prune_to=prune_to, recipe=recipe, **options)
    device = options.get("device", "cpu")
    masks = _masks(task, early.theta, density, steps, seeds, exclude, trained=True, device=device)
    return [from_masks(task, masks, early.theta, seeds, recipe=after_pruning(recipe, epochs), **options)]


def _masks(
    task: Task,
    points: Tensor,
    density: float,
    steps: int,
    seeds: Sequence[int],
    exclude: Sequence[str],
    *,
    trained: bool,
    device: str,
) -> Tensor:
    """CroPit's masks (K, P) of points (K, P)."""
    there = task.to(device)
    how: dict[str, Any] = {"steps": steps, "trained": trained, "exclude": exclude}
    pairs = zip(points.to(device), seeds, strict=True)
    return torch.stack([cropit_mask(there, theta, density, seed=seed, **how).cpu() for theta, seed in pairs])
