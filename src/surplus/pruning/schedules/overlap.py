"""Overlap: do the large weights of one point stay the large ones of another (Liu et al. 2021, arXiv 2102.11068)?

    R_p = sum_l |T_p(theta_l) & T_p(theta'_l)| / sum_l round(p N_l)

T_p(theta_l) are the places of the round(p N_l) largest |theta| of layer l, N_l its weights or, of a sparse network,
those that remain. Independent points have R_p = p on average. The paper sees in a high R_p(theta_0, theta_T) the cause
of tickets that win at small learning rates, and sets against them pruning and fine-tuning: weights go on from where
they are, with the whole schedule of training once more. Rewinding to a later step k makes tickets at large rates too
(Frankle et al. 2020), which R_p(theta_0, theta_T) does not explain; look at R_p(theta_k, theta_T) beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.pruning.budgets import density_schedule, prunable_blocks
from surplus.pruning.masks import Scope
from surplus.pruning.schedules.imp import Level, Trained, from_masks, imp, levels_for, reinitialised, to_density
from surplus.pruning.scoring import Score
from surplus.registry import method
from surplus.space import WeightSpace
from surplus.tasks import Task
from surplus.training import fit

PAPER = "Liu et al. 2021, arXiv 2102.11068"


@method("measure", paper=PAPER, name="weight-overlap")
def overlap(
    space: WeightSpace,
    theta: Tensor,
    other: Tensor,
    p: float = 0.2,
    mask: Tensor | None = None,
    exclude: Iterable[str] = (),
) -> Tensor:
    """R_p: the share of the largest weights that two points have in common, counted layer by layer.

    Args:
        space: the network.
        theta: (P,) or (K, P).
        other: (P,) or (K, P), compared row by row.
        p: share of each layer's weights that counts as large, in (0, 1].
        mask: (P,) or (K, P) weights that remain; only they are candidates, and p is of their number.
        exclude: layers to leave out.

    Returns:
        () or (K,), double; p on average for independent points, 1 for the same order of sizes.

    Raises:
        InputError: p is no share, or so small that no layer has a large weight.
    """
    if not 0 < p <= 1:
        raise InputError(f"p is the share of the weights that count as large, so it lies in (0, 1]; got {p}")
    mask = torch.ones_like(theta, dtype=torch.bool) if mask is None else mask
    slices = [b.slice for b in prunable_blocks(space, exclude)]
    theta, other, mask = torch.broadcast_tensors(theta, other, mask)
    if theta.dim() == 1:
        return _overlap(theta, other, mask, slices, p)
    return torch.stack([_overlap(*row, slices, p) for row in zip(theta, other, mask, strict=True)])


def _overlap(theta: Tensor, other: Tensor, mask: Tensor, slices: Sequence[slice], p: float) -> Tensor:
    common = total = 0
    for place in slices:
        there = mask[place]
        count = round(p * int(there.sum()))
        both = _largest(theta[place][there], count) & _largest(other[place][there], count)
        common, total = common + int(both.sum()), total + count
    if not total:
        raise InputError(f"p = {p} of every layer's weights rounds to none; raise p, or keep more weights")
    return torch.tensor(common / total, dtype=torch.float64, device=theta.device)


def _largest(values: Tensor, count: int) -> Tensor:
    """(n,) True at the `count` largest sizes; of equal ones the earlier."""
    order = values.abs().argsort(descending=True, stable=True)
    return torch.zeros(len(values), dtype=torch.bool, device=values.device).index_fill(0, order[:count], True)


@method("pruning schedule", paper=f"{PAPER}; Han et al. 2015, arXiv 1506.02626", name="fine-tuning")
def fine_tuned(
    task: Task,
    *,
    density: float,
    rate: float = 0.2,
    score: str | Score = "magnitude",
    seeds: int | Sequence[int] = 5,
    scope: Scope = "global",
    exclude: Sequence[str] = (),
    **options: Any,
) -> list[Level]:
    """Prune and fine-tune: cut the trained networks, train on from the weights that stay, with the schedule restarted.

    Every round is as long as the first training, and its learning rate starts as high; data come in the same order.

    Args:
        task: what is trained.
        density: kept share of the prunable weights at the end.
        rate: largest share that a round removes; 1 - density, or more, cuts once.
        score: a weight score's name, or a function (space, theta, batch) -> (P,); high = keep.
        seeds: one replica each.
        scope: compare across layers, or within each.
        exclude: layers to leave whole.
        options: of `fit`.

    Returns:
        `Level`s, the dense one first; each `start` is where the one before ended.
    """
    levels = imp(task, levels=0, seeds=seeds, **options)
    goals = density_schedule(density, levels_for(density, rate)) if density < 1 else ()
    for goal in goals:
        decide, last = to_density(goal, score, scope, exclude), levels[-1]
        rows = zip(last.run.seeds, last.run.theta, last.start, last.masks, strict=True)
        masks = torch.stack([decide(Trained(task, seed, theta, start, mask)) for seed, theta, start, mask in rows])
        levels.append(from_masks(task, masks, last.run.theta, last.run.seeds, **options))
    return levels


def ticket_arms(
    task: Task,
    *,
    density: float,
    rate: float = 0.2,
    score: str | Score = "magnitude",
    rewind_step: int = 0,
    seeds: int | Sequence[int] = 5,
    scope: Scope = "layer",
    exclude: Sequence[str] = (),
    **options: Any,
) -> dict[str, Level]:
    """The paper's arms, all from one mask m for each seed: what the ticket's early weights are worth.

        dense        theta_T                                     dense twice   (theta_T)_T, the same without a cut
        ticket       (m theta_k) trained from step k             fine-tuned    (m theta_T)_T
        reinit       (m theta'_0)_T, theta'_0 drawn anew

    (theta)_T is a whole training from theta, with the schedule restarted; "dense twice" takes as many steps as
    "fine-tuned" does.

    Args:
        task: what is trained.
        density: kept share of the prunable weights, below 1.
        rate: largest share that a round of the search for m removes; 1 - density, or more, cuts once.
        score: a weight score's name, or a function (space, theta, batch) -> (P,); high = keep.
        rewind_step: k; the paper has 0.
        seeds: one replica each.
        scope: where weights are compared; the paper prunes all layers alike.
        exclude: layers to leave whole; the paper's is the first convolution.
        options: of `fit`.

    Returns:
        A `Level` per arm.
    """
    if not 0 < density < 1:
        raise InputError(f"the arms differ below density 1 only, and above 0; got density {density}")
    settings: dict[str, Any] = {"rate": rate, "score": score, "scope": scope, "exclude": exclude, "seeds": seeds}
    dense, *_, ticket = imp(task, density=density, rewind_step=rewind_step, **settings, **options)
    trained, who = dense.run.theta, dense.run.seeds
    return {
        "dense": dense,
        "ticket": ticket,
        "reinit": reinitialised(task, ticket, **options),
        "fine-tuned": from_masks(task, ticket.masks, trained, who, **options),
        "dense twice": Level(1.0, dense.masks, trained, fit(task, seeds=who, start=trained, **options)),
    }
