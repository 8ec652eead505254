"""What kept and removed weights become before retraining: Zhou, Lan, Liu & Yosinski 2019, arXiv 1905.01067.

    kept     rewind      w_i                                    removed  zero            0
    (mask 1) reinit      w_i of the tensor, permuted            (mask 0) freeze          w_i, used and never trained
             reshuffle   w_i of the kept weights, permuted               hybrid-a        w_i if it grew, else 0
             constant    standard deviation of the tensor's w_i          hybrid-b        as a, and kept ones that shrank
                                                                                         start at 0
    signs    own         |action| with the sign of w_i                   reverse-hybrid  0 if it grew, else w_i
             random      |action| with a random sign                     random-hybrid   as many 0 as in a, anywhere

A weight grew if training made |w| larger; what it was at when it was removed counts. Biases and normalisation rewind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from surplus.errors import unknown
from surplus.pruning.budgets import density_schedule
from surplus.pruning.masks import Scope
from surplus.pruning.masks import density as density_of
from surplus.pruning.schedules.imp import Level, Trained, from_masks, imp, levels_for, to_density
from surplus.pruning.scoring import Score
from surplus.registry import method
from surplus.reparam import Frozen, Reparametrisation
from surplus.space import Block, WeightSpace, generator
from surplus.tasks import Task
from surplus.training import fit

Signs = Literal["own", "random"]
Size = Callable[[Tensor, Tensor, Generator], Tensor]


def _rewound(w: Tensor, kept: Tensor, chance: Generator) -> Tensor:
    return w


def _permuted(w: Tensor, kept: Tensor, chance: Generator) -> Tensor:
    return w[_order(len(w), chance, w)]


def _reshuffled(w: Tensor, kept: Tensor, chance: Generator) -> Tensor:
    places = kept.nonzero().squeeze(1)
    return w.index_copy(0, places, w[places[_order(len(places), chance, w)]])


def _constant(w: Tensor, kept: Tensor, chance: Generator) -> Tensor:
    return w.std(correction=0).expand_as(w)


KEPT: dict[str, Size] = {"rewind": _rewound, "reinit": _permuted, "reshuffle": _reshuffled, "constant": _constant}
"""Mask-1 actions: (w_i, kept, chance) of one tensor -> values whose size is used."""
REMOVED = ("zero", "freeze", "hybrid-a", "hybrid-b", "reverse-hybrid", "random-hybrid")
"""Mask-0 actions."""


def kept_values(
    space: WeightSpace, start: Tensor, mask: Tensor, action: str, generator: Generator, *, signs: Signs = "own"
) -> Tensor:
    """Where kept weights start.

    Args:
        space: the network.
        start: (P,) initial weights w_i.
        mask: (P,) True where a weight is kept.
        action: "rewind", "reinit", "reshuffle" or "constant".
        generator: source of permutations and signs.
        signs: of w_i, or random ones.

    Returns:
        (P,); only entries under the mask are meant.

    Raises:
        InputError: unknown action or signs.
    """
    if action not in KEPT:
        raise unknown("mask-1 action", action, KEPT)
    if signs not in ("own", "random"):
        raise unknown("choice of signs", signs, ("own", "random"))
    sizes = start.clone()
    for block in _prunable(space):
        sizes[block.slice] = KEPT[action](start[block.slice], mask[block.slice], generator)
    sign = start.sign() if signs == "own" else _coins(start, generator)
    return torch.where(space.prunable.to(start.device), sizes.abs() * sign, start)


def removed_values(
    space: WeightSpace, start: Tensor, trained: Tensor, mask: Tensor, action: str, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Where removed weights are held.

    Args:
        space: the network.
        start: (P,) initial weights w_i.
        trained: (P,) what each weight was at when it was removed, or is now; see `last_values`.
        mask: (P,) True where a weight is kept.
        action: one of `REMOVED`.
        generator: source of the control's places.

    Returns:
        held (P,), of which only entries outside the mask are meant; and (P,) True where a kept weight starts at 0.

    Raises:
        InputError: unknown action.
    """
    if action not in REMOVED:
        raise unknown("mask-0 action", action, REMOVED)
    grew = trained.abs() > start.abs()
    plain = {"zero": torch.zeros_like(grew), "freeze": torch.ones_like(grew), "reverse-hybrid": ~grew}
    frozen = plain.get(action, grew)
    if action == "random-hybrid":
        frozen = _moved(space, frozen, ~mask, generator)
    zeroed = mask & space.prunable.to(mask.device) & ~grew
    return start.masked_fill(~frozen, 0), zeroed if action == "hybrid-b" else torch.zeros_like(mask)


def last_values(levels: Sequence[Level]) -> Tensor:
    """(K, P) what each weight was trained to while it was last there, before the last cut of an iterated prune."""
    values = levels[0].run.theta
    for level in levels[1:-1]:
        values = torch.where(level.masks, level.run.theta, values)
    return values


def retrained(
    task: Task,
    masks: Tensor,
    start: Tensor,
    trained: Tensor,
    seeds: Sequence[int],
    *,
    kept: str = "rewind",
    signs: Signs = "own",
    removed: str = "zero",
    **options: Any,
) -> Level:
    """Train subnetworks after a mask-1 and a mask-0 action.

    Args:
        task: what is trained.
        masks: (K, P) booleans.
        start: (K, P) initial weights.
        trained: (K, P) what each weight was at when it was removed, or is now.
        seeds: one per row; of the data order, and of what the actions draw.
        kept: mask-1 action.
        signs: of kept weights.
        removed: mask-0 action.
        options: of `fit`.

    Returns:
        The level; under another action than "zero", removed weights are not 0 in its run.

    Raises:
        InputError: unknown action or signs.
    """
    space, begins, held = task.space, [], []
    for seed, mask, initial, final in zip(seeds, masks, start, trained, strict=True):
        values, zeroed = removed_values(space, initial, final, mask, removed, generator(seed, "mask-0 action"))
        begin = kept_values(space, initial, mask, kept, generator(seed, "mask-1 action"), signs=signs)
        begins.append(begin.masked_fill(zeroed, 0))
        held.append(values)
    begin = torch.stack(begins)
    if removed == "zero":
        return from_masks(task, masks, begin, seeds, **options)
    coordinates = [partial(_frozen, mask, values) for mask, values in zip(masks, held, strict=True)]
    run = fit(task, seeds=seeds, start=begin, coordinates=coordinates, **options)
    return Level(density_of(space, masks[0]), masks, begin, run)


@method("pruning schedule", paper="Zhou, Lan, Liu & Yosinski 2019, arXiv 1905.01067, sections 3 and 4")
def imp_with_actions(
    task: Task,
    *,
    density: float,
    rate: float = 0.2,
    score: str | Score = "magnitude",
    kept: str = "rewind",
    signs: Signs = "own",
    removed: str = "zero",
    seeds: int | Sequence[int] = 5,
    scope: Scope = "layer",
    exclude: Sequence[str] = (),
    **options: Any,
) -> list[Level]:
    """Iterative pruning from the initial weights, with a mask-1 and a mask-0 action at every level.

    Args:
        task: what is trained.
        density: kept share at the end, reached by cuts of equal shares, none larger than `rate`.
        rate: largest share of the surviving weights that a cut removes.
        score: a weight score's name, or a function of that shape.
        kept: mask-1 action, see `kept_values`.
        signs: of kept weights.
        removed: mask-0 action, see `removed_values`.
        seeds: one replica each.
        scope: "layer" as in the paper, or another scope of `keep_top`.
        exclude: layers to leave whole.
        options: of `fit`.

    Returns:
        `Level`s, the dense one first; with the actions left as they are, those of `imp`.
    """
    levels = imp(task, density=1.0, seeds=seeds, **options)
    dense = levels[0]
    start, trained, rounds = dense.start, dense.run.theta, levels_for(density, rate)
    for goal in density_schedule(density, rounds) if rounds else ():
        rows = zip(dense.run.seeds, levels[-1].run.theta, start, levels[-1].masks, strict=True)
        masks = torch.stack([to_density(goal, score, scope, exclude)(Trained(task, *row)) for row in rows])
        how: dict[str, Any] = {"kept": kept, "signs": signs, "removed": removed}
        levels.append(retrained(task, masks, start, trained, dense.run.seeds, **how, **options))
        trained = torch.where(masks, levels[-1].run.theta, trained)
    return levels


def _frozen(mask: Tensor, values: Tensor, theta: Tensor, seed: int) -> Reparametrisation:
    return Frozen(theta, mask, values)


def _moved(space: WeightSpace, chosen: Tensor, among: Tensor, chance: Generator) -> Tensor:
    """As many chosen of each tensor's `among`, in random places."""
    out = chosen.clone()
    for block in _prunable(space):
        places = block.start + among[block.slice].nonzero().squeeze(1)
        out[places] = chosen[places[_order(len(places), chance, chosen)]]
    return out


def _prunable(space: WeightSpace) -> Iterable[Block]:
    return (b for b in space.blocks if b.prunable)


def _order(n: int, chance: Generator, like: Tensor) -> Tensor:
    return torch.randperm(n, generator=chance, device=chance.device).to(like.device)


def _coins(like: Tensor, chance: Generator) -> Tensor:
    """Random signs, +1 or -1."""
    coins = torch.randint(2, like.shape, generator=chance, device=chance.device)
    return (2 * coins - 1).to(like)
