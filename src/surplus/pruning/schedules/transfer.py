"""Ticket transfer: a ticket found on one task, trained on another (Morcos et al. 2019, arXiv 1906.02773).

    own          m_T * theta_k(T), trained on T          transferred   m_S * theta_k(S), trained on T
    gap          acc(own) - acc(transferred)
    recovered    (acc(transferred) - acc(random)) / (acc(own) - acc(random))

m_S and theta_k(S) come from iterative magnitude pruning on the source, rewound to step k. All arms train on the target
by the target's recipe from step 0. Where two tasks differ in their classes, the output layer is drawn anew and stays
whole, in the own tickets too, and no density counts it. Tasks are whatever differs: data, halves of one data set, or
recipes (another optimiser). Batch-norm statistics are never carried along: each evaluated point gets its own.

    random-global   the ticket's mask, permuted over the whole network, on fresh weights
    random-layer    permuted within each layer: the same layer densities, the control that a ticket has to beat
    shuffled        the masks of random-layer on the ticket's weights: what those alone bring, if k > 0, from the source
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from surplus.data import Dataset
from surplus.errors import InputError
from surplus.pruning.budgets import check_density, density_schedule, prunable_blocks
from surplus.pruning.masks import Places, Scope, shuffle
from surplus.pruning.schedules.imp import Level, from_masks, imp, levels_for, levels_from, to_density
from surplus.pruning.scoring import Score
from surplus.registry import method
from surplus.space import WeightSpace, generator, seed_for
from surplus.stats import Comparison, paired
from surplus.tasks import Task

Arm = Literal["own", "transferred", "shuffled", "random-layer", "random-global", "dense"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Transfer:
    """One arm of the protocol: the tickets of a source, or what stands in for them, trained on a target."""

    source: str
    target: str
    density: float
    """Kept share of the weights that may be pruned; without the output layer where that is drawn anew."""
    arm: Arm
    level: Level

    @property
    def rows(self) -> list[Row]:
        """A line per seed: source, target, density, arm, seed, metric."""
        head = {"source": self.source, "target": self.target, "density": self.density, "arm": self.arm}
        found = zip(self.level.run.seeds, self.level.accuracy.tolist(), strict=True)
        return [{**head, "seed": seed, "metric": metric} for seed, metric in found]


@method("measure", paper="Morcos, Yu, Paganini & Tian 2019, arXiv 1906.02773")
def ticket_transfer(tasks: Mapping[str, Task], *, densities: Sequence[float], **settings: Any) -> list[Row]:
    """The test metric of tickets on every task, those of every other task included: [source x target x density x seed].

    Args:
        tasks: by name; their networks differ at most in the output layer.
        densities: kept shares at which tickets are compared.
        settings: of `transfers`: pairs, seeds, rate, score, rewind_step, scope, exclude; and of `fit`.

    Returns:
        Dicts of source, target, density, arm, seed, metric; `pandas.DataFrame` takes the list as it is.
    """
    return [row for found in transfers(tasks, densities=densities, **settings) for row in found.rows]


def transfers(
    tasks: Mapping[str, Task],
    *,
    densities: Sequence[float],
    pairs: Iterable[tuple[str, str]] | None = None,
    rate: float = 0.2,
    score: str | Score = "magnitude",
    rewind_step: int = 0,
    seeds: int | Sequence[int] = 5,
    scope: Scope = "global",
    exclude: Sequence[str] = (),
    **options: Any,
) -> Iterator[Transfer]:
    """The arms behind `ticket_transfer` one by one, trained as they are asked for.

    Seeds share their initial weights and data order among all tasks and arms, up to the fresh weights of random ones.

    Args:
        tasks: by name.
        densities: kept shares at which tickets are compared.
        pairs: (source, target); all when None. The tickets of (a, a) are a's own.
        rate: largest share of the surviving weights that a cut on the source removes.
        score: a weight score's name, or a function (space, theta, batch) -> (P,); high = keep.
        rewind_step: k, a step of the source's training; the paper's is about an epoch.
        seeds: one replica each.
        scope: compare weights across layers, or within each.
        exclude: layers to leave whole.
        options: of `fit`.

    Raises:
        InputError: networks that differ before the output layer, or a name that is no task.
    """
    pairs = list(product(tasks, tasks) if pairs is None else pairs)
    missing = sorted({name for pair in pairs for name in pair} - set(tasks))
    if missing:
        raise InputError(f"there is no task {', '.join(missing)}; the tasks are {', '.join(tasks)}")
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    spaces = [task.space for task in tasks.values()]
    exclude = [*exclude, *sorted({name for other in spaces for name in redrawn(spaces[0], other)} - set(exclude))]
    search: dict[str, Any] = {"rate": rate, "score": score, "rewind_step": rewind_step, "scope": scope}
    for target in dict.fromkeys(target for _, target in pairs):
        (dense,) = imp(tasks[target], levels=0, rewind_step=rewind_step, seeds=seeds, **options)
        yield Transfer(target, target, 1.0, "dense", dense)
    found = {
        name: tickets(tasks[name], densities, seeds=seeds, exclude=exclude, **search, **options)
        for name in dict.fromkeys(source for source, _ in pairs)
    }
    for (source, target), d in product(pairs, sorted(set(densities), reverse=True)):
        ticket = found[source][d]
        for arm, level in _arms(tasks[source], tasks[target], ticket, exclude, **options):
            yield Transfer(source, target, d, "own" if arm == "transferred" and source == target else arm, level)


def tickets(
    task: Task,
    densities: Iterable[float],
    *,
    rate: float = 0.2,
    score: str | Score = "magnitude",
    rewind_step: int = 0,
    seeds: int | Sequence[int] = 5,
    scope: Scope = "global",
    exclude: Sequence[str] = (),
    **options: Any,
) -> dict[float, Level]:
    """Iterative magnitude pruning that passes through several densities exactly: the level at each of them.

    Between two densities, cuts of equal shares, none larger than `rate`; other arguments as for `imp`.
    """
    wanted = sorted(set(densities), reverse=True)
    for d in wanted:
        check_density(d)
    goals: list[float] = []
    for above, below in pairwise([1.0, *wanted]):
        rounds = levels_for(below / above, rate)
        goals += [above * d for d in density_schedule(below / above, rounds)[:-1]] + [below] if rounds else []
    (dense,) = imp(task, levels=0, rewind_step=rewind_step, seeds=seeds, **options)
    cuts = [to_density(d, score, scope, exclude) for d in goals]
    levels = levels_from(dense, cuts, step=rewind_step, **options)
    reached = dict(zip([1.0, *goals], levels, strict=True))
    return {d: reached[d] for d in wanted}


def carried(
    source: WeightSpace, target: WeightSpace, theta: Tensor, mask: Tensor, fresh: Tensor
) -> tuple[Tensor, Tensor]:
    """Tickets in another network's weight space, whose output layer may have other classes.

    Args:
        source: the network that the tickets were found in.
        target: the network that they go to.
        theta: (K, P) or (P,) points.
        mask: (K, P) or (P,) booleans.
        fresh: (K, P') or (P',) weights for a layer that must be drawn anew; it is kept whole.

    Returns:
        Points and masks of the target, (K, P') or (P',); the same bits where nothing is drawn anew.

    Raises:
        InputError: the networks differ before the output layer.
    """
    anew = redrawn(source, target)
    points, kept = target.split(fresh), target.split(torch.ones_like(fresh, dtype=torch.bool))
    known, known_mask = source.split(theta), source.split(mask)
    for block in target.blocks:
        if block.layer not in anew:
            points[block.name], kept[block.name] = known[block.name], known_mask[block.name]
    return target.join(points), target.join(kept)


def redrawn(source: WeightSpace, target: WeightSpace) -> set[str]:
    """The layers that do not fit from one network to the other: none, or the output layer.

    Raises:
        InputError: another layer does not fit.
    """
    ours, theirs = ({b.name: b for b in space.blocks} for space in (source, target))
    misfits = {b.layer for n, b in theirs.items() if n not in ours or ours[n].shape != b.shape}
    misfits |= {b.layer for n, b in ours.items() if n not in theirs}
    head = {prunable_blocks(space)[-1].layer for space in (source, target)}
    if misfits - head:
        raise InputError(
            f"the networks differ in {', '.join(sorted(misfits - head))}; tickets pass between networks that differ in"
            " the output layer alone. Give images one shape first: unify(data, channels=3, size=32)"
        )
    return misfits


def _arms(
    source: Task, target: Task, ticket: Level, exclude: Sequence[str], **options: Any
) -> Iterator[tuple[Arm, Level]]:
    """A source's tickets on a target, and their random counterparts."""
    seeds, space = ticket.run.seeds, target.space
    fresh = space.init_many([seed_for(s, "ticket transfer") for s in seeds])
    start, masks = carried(source.space, space, ticket.start, ticket.masks, fresh)

    def moved(scope: Places) -> Tensor:
        chances = [generator(s, "ticket transfer", scope, ticket.density) for s in seeds]
        return torch.stack([shuffle(space, m, g, scope, exclude) for m, g in zip(masks, chances, strict=True)])

    yield "transferred", from_masks(target, masks, start, seeds, **options)
    yield "shuffled", from_masks(target, moved("layer"), start, seeds, **options)
    yield "random-layer", from_masks(target, moved("layer"), fresh, seeds, **options)
    yield "random-global", from_masks(target, moved("global"), fresh, seeds, **options)


def transfer_gap(own: Any, transferred: Any) -> Comparison:
    """acc(own) - acc(transferred), paired by seed; each (seeds,)."""
    return paired(own, transferred)


def recovered_fraction(own: Any, transferred: Any, random: Any) -> float:
    """How much of the own ticket's lead over random ones a transferred ticket has, of the means over seeds.

        (transferred - random) / (own - random)

    Args:
        own: metric of the own tickets, a number or one per seed.
        transferred: of the transferred ones.
        random: of random ones with the same layer densities.

    Returns:
        1 for a transfer without loss, 0 for no better than random; NaN where own tickets have no lead.
    """
    o, t, r = (float(torch.as_tensor(v).double().mean()) for v in (own, transferred, random))
    return (t - r) / (o - r) if o != r else float("nan")


_LUMA = (0.299, 0.587, 0.114)


def unify(data: Dataset, channels: int = 3, size: int = 32) -> Dataset:
    """Images in one shape for one network: zeros around small ones, grey repeated over channels or colours mixed.

    Args:
        data: images (n, C, H, W) with 1 or 3 channels, no larger than `size`.
        channels: 3 repeats grey over the colours; 1 takes the luma of colours (ITU-R BT.601).
        size: height and width, with the image in the middle.

    Returns:
        The same examples with inputs (n, channels, size, size), of the same type.

    Raises:
        InputError: no images, larger ones, or other channels.
    """
    if data.kind != "image" or len(data.shape) != 3 or data.shape[0] not in (1, 3) or channels not in (1, 3):
        raise InputError(f"images with 1 or 3 channels can be unified; got {data.kind} of shape {data.shape}")
    have, height, width = data.shape
    if max(height, width) > size:
        raise InputError(f"images of {height}x{width} do not fit into {size}x{size}; raise size")
    x = data.inputs
    if have > channels:
        mixed = torch.tensordot(x.float(), torch.tensor(_LUMA, device=x.device), dims=([1], [0])).unsqueeze(1)
        x = mixed.to(x.dtype) if x.is_floating_point() else mixed.round().to(x.dtype)
    left, top = (size - width) // 2, (size - height) // 2
    x = pad(x, (left, size - width - left, top, size - height - top))
    return replace(data, inputs=x.expand(-1, channels, -1, -1).contiguous())
