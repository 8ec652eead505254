"""Masks: which weights stay. A mask is boolean, (P,) over a `WeightSpace`; True = kept.

    density = kept prunable weights / prunable weights

Only weights of linear and convolution layers are ever removed; biases and normalisation stay. Counts are exact: ties
never remove more than was asked, and the earlier of two equal weights goes first. Layers named in `exclude` stay whole,
and every density and rate is then that of the other layers.

    scope     compares                                        keeps
    global    all weights with each other                     round(d n) weights
    layer     the weights of each tensor                      d of each tensor, round(d n) in all
    neuron    output units by the sum of their scores         round(d units) whole units of each tensor but the last,
                                                              whose units are the outputs
    N:M       M neighbours along the inputs of one output     N of every M ("2:4" runs on sparse tensor cores)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from surplus.errors import InputError, unknown
from surplus.pruning.budgets import Rule, allocate, check_density, prunable_blocks, whole_counts
from surplus.space import Block, WeightSpace

Scope = str
"""`global`, `layer`, `neuron`, or a pattern N:M such as `2:4`."""
Places = Literal["global", "layer"]
"""Whether a control draws its places from the network or from each layer."""
SCOPES = ("global", "layer", "neuron", "2:4")


@dataclass(frozen=True)
class Ticket:
    """A sparse subnetwork: the point (P,) that it starts from, the mask (P,) of what it keeps, and notes."""

    theta: Tensor
    mask: Tensor
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def start(self) -> Tensor:
        """The point with its removed weights at 0: mask * theta."""
        return self.theta.masked_fill(~self.mask, 0)


def keep_top(
    space: WeightSpace,
    score: Tensor,
    *,
    density: float | None = None,
    count: int | None = None,
    layer_density: Mapping[str, float] | None = None,
    scope: Scope = "global",
    alive: Tensor | None = None,
    exclude: Iterable[str] = (),
    min_per_layer: int = 0,
    generator: Generator | None = None,
) -> Tensor:
    """Keep the prunable weights of the highest scores, to the exact count.

    Args:
        space: the network.
        score: (P,), high = keep; only prunable weights are compared.
        density: fraction of the prunable weights to keep, or
        count: their number, or
        layer_density: the fraction of each prunable tensor, by its name (see `allocate`).
        scope: `global` compares across layers; `layer` gives every layer the same density; `neuron` keeps whole units;
            `2:4` (or another N:M) keeps N of every M inputs, so density, if given, is N / M.
        alive: (P,) mask of an earlier cut; what it removed stays removed. Densities still count all prunable weights.
        exclude: layers to keep as they are.
        min_per_layer: keep at least so many weights of each tensor (or all that are alive).
        generator: break ties at random; None lets the later weight of two equal ones stay.

    Returns:
        mask (P,) on the score's device.

    Raises:
        InputError: not one of density, count and layer_density is given, or it asks for more than is alive.
    """
    if sum(given is not None for given in (density, count, layer_density)) != 1:
        raise InputError("say how much to keep by exactly one of density=, count= and layer_density=")
    blocks = prunable_blocks(space, exclude)
    alive = _alive(space, score, alive)
    check_scope(scope)
    if scope not in ("global", "layer"):
        if layer_density is not None or count is not None:
            raise InputError(f"scope {scope!r} keeps whole groups of weights; say how much to keep by density=")
        assert density is not None
        if scope == "neuron":
            check_density(density)
            last = prunable_blocks(space)[-1].name
            return _keep_units(score, [b for b in blocks if b.name != last], density, alive)
        return _keep_pattern(score, blocks, scope, density, alive)
    if layer_density is not None:
        ideal = _ideal(blocks, layer_density)
        quotas = whole_counts(ideal, round(sum(ideal)))
    else:
        total = _total(blocks, density, count)
        if scope == "global":
            return _keep_global(score, blocks, total, alive, min_per_layer, generator)
        quotas = whole_counts([total * b.size / sum(c.size for c in blocks) for b in blocks], total)
        quotas = _within(quotas, [int(alive[b.slice].sum()) for b in blocks])
    available = [int(alive[b.slice].sum()) for b in blocks]
    return _keep_layers(score, blocks, _at_least(quotas, available, min_per_layer), alive, generator)


def cut(
    space: WeightSpace,
    score: Tensor,
    mask: Tensor,
    rate: float,
    scope: Scope = "global",
    *,
    output_rate: float | None = None,
    exclude: Iterable[str] = (),
    min_per_layer: int = 0,
) -> Tensor:
    """One level of pruning: remove a share of what is still there, lowest score first.

    Args:
        space: the network.
        score: (P,), high = keep; |theta| of the trained weights for magnitude pruning.
        mask: (P,) what is still there.
        rate: round(rate * alive) weights go: over the whole network, or in each tensor.
        scope: one threshold for the network, `layer` for a rate per tensor, or `neuron` for a share of the whole units.
        output_rate: rate of the last prunable tensor under scope `layer`; half of `rate` when None, as for LeNet.
        exclude: layers to keep as they are; they do not count towards `alive` either.
        min_per_layer: never leave a tensor with fewer weights than this (or than it has).

    Returns:
        mask (P,), a subset of the given one.
    """
    _check_rate(rate, "rate")
    blocks = prunable_blocks(space, exclude)
    check_scope(scope)
    alive = _alive(space, score, mask)
    available = [int(alive[b.slice].sum()) for b in blocks]
    if output_rate is not None and scope != "layer":
        raise InputError(f"output_rate is the last layer's own, which scope {scope!r} has not; use scope='layer'")
    if scope == "global":
        total = sum(available) - round(rate * sum(available))
        return _keep_global(score, blocks, total, alive, min_per_layer, None)
    if scope == "neuron":
        last = prunable_blocks(space)[-1].name
        return _cut_units(score, [b for b in blocks if b.name != last], rate, alive)
    if scope != "layer":
        raise InputError(f"the pattern {scope} is one cut to a fixed density, not a rate; use keep_top(density=...)")
    at_output = rate / 2 if output_rate is None else output_rate
    _check_rate(at_output, "output_rate")
    output = prunable_blocks(space)[-1].name
    quotas = [n - round((at_output if b.name == output else rate) * n) for b, n in zip(blocks, available, strict=True)]
    quotas = [max(q, min(min_per_layer, n)) for q, n in zip(quotas, available, strict=True)]
    return _keep_layers(score, blocks, quotas, alive, None)


def cut_at_threshold(
    space: WeightSpace, theta: Tensor, mask: Tensor, rate: float, exclude: Iterable[str] = ()
) -> Tensor:
    """`cut`, global, as published code counts it (Paul et al. 2022, its repository): a little more goes.

        n = ceil(rate * alive),   threshold = the (n + 1)-th smallest |theta|,   keep |theta| > threshold

    So n + 1 weights go where no two are equal, and all that tie with the threshold: of 1, 2, ..., 10 at rate 0.2, 7
    stay where `cut` keeps 8. For comparisons with that code; densities fall short of (1 - rate)^levels.

    Args:
        space: the network.
        theta: (P,) the trained weights that are compared.
        mask: (P,) what is still there.
        rate: share of the weights to remove.
        exclude: layers to keep as they are.

    Returns:
        mask (P,), a subset of the given one.
    """
    _check_rate(rate, "rate")
    where = _positions(prunable_blocks(space, exclude), theta.device)
    mask = _alive(space, theta, mask)
    alive = where[mask[where]]
    size = theta[alive].abs()
    if not len(alive):
        raise InputError("nothing is left to cut: the mask keeps no prunable weight")
    threshold = size.sort().values[min(math.ceil(rate * len(alive)), len(alive) - 1)]
    return mask.index_fill(0, alive[size <= threshold], False)


def density(space: WeightSpace, mask: Tensor, exclude: Iterable[str] = ()) -> float:
    """Kept fraction of the prunable weights."""
    blocks = prunable_blocks(space, exclude)
    _check_mask(space, mask)
    return sum(int(mask[b.slice].sum()) for b in blocks) / sum(b.size for b in blocks)


def layer_densities(space: WeightSpace, mask: Tensor) -> dict[str, float]:
    """Kept fraction of each prunable tensor, by its name."""
    _check_mask(space, mask)
    return {b.name: int(mask[b.slice].sum()) / b.size for b in prunable_blocks(space)}


def shuffle(
    space: WeightSpace, mask: Tensor, generator: Generator, scope: Places = "layer", exclude: Iterable[str] = ()
) -> Tensor:
    """A mask of the same density whose places are drawn anew.

    Args:
        space: the network.
        mask: (P,).
        generator: source of the permutation.
        scope: `layer` permutes each tensor's mask and so keeps every layer's density; `global` keeps the total only.
        exclude: layers whose mask stays.
    """
    _check_mask(space, mask)
    blocks = prunable_blocks(space, exclude)
    if scope not in ("layer", "global"):
        raise unknown("scope", scope, ("global", "layer"))
    groups = [[b] for b in blocks] if scope == "layer" else [blocks]
    out = mask.clone()
    for group in groups:
        where = _positions(group, mask.device)
        order = torch.randperm(len(where), generator=generator, device=generator.device).to(mask.device)
        out[where] = mask[where[order]]
    return out


def random_mask(
    space: WeightSpace,
    density: float,
    generator: Generator,
    rule: Literal["global"] | Rule = "global",
    exclude: Iterable[str] = (),
) -> Tensor:
    """A mask of random places, (P,) on the generator's device.

    Args:
        space: the network.
        density: kept fraction of the weights that may be pruned.
        generator: source of the places.
        rule: `global` draws from all at once; `uniform`, `erk`, `er` and `smart` fix each layer's density (`allocate`).
        exclude: layers to keep whole.
    """
    noise = torch.rand(space.size, generator=generator, dtype=torch.float64, device=generator.device)
    if rule == "global":
        return keep_top(space, noise, density=density, exclude=exclude)
    return keep_top(space, noise, layer_density=allocate(space, density, rule, exclude), exclude=exclude)


def check_scope(scope: str) -> None:
    """Refuse what is neither a scope nor a pattern N:M."""
    if scope not in SCOPES and pattern_of(scope) is None:
        raise unknown("scope", scope, SCOPES)


def pattern_of(scope: str) -> tuple[int, int] | None:
    """(N, M) of a pattern N:M with 0 < N <= M; None for anything else."""
    found = re.fullmatch(r"(\d+):(\d+)", scope)
    if not found:
        return None
    n, m = int(found[1]), int(found[2])
    return (n, m) if 0 < n <= m else None


def _keep_units(score: Tensor, blocks: Sequence[Block], density: float, alive: Tensor) -> Tensor:
    """Keep round(density * units) whole output units of each tensor, and one at least."""
    return _best_units(score, blocks, [max(1, round(density * b.shape[0])) for b in blocks], alive)


def _cut_units(score: Tensor, blocks: Sequence[Block], rate: float, alive: Tensor) -> Tensor:
    """Remove a share of the units that still have a weight, of each tensor."""
    counts = [int(alive[b.slice].view(b.shape[0], -1).any(1).sum()) for b in blocks]
    return _best_units(score, blocks, [max(1, n - round(rate * n)) for n in counts], alive)


def _best_units(score: Tensor, blocks: Sequence[Block], counts: Sequence[int], alive: Tensor) -> Tensor:
    out = alive.clone()
    for block, count in zip(blocks, counts, strict=True):
        there = alive[block.slice].view(block.shape[0], -1)  # (units, inputs)
        values = score[block.slice].view(block.shape[0], -1)
        worth = torch.where(there, values, 0).sum(1).masked_fill(~there.any(1), -torch.inf)
        kept = worth.argsort(stable=True)[len(worth) - min(count, int(there.any(1).sum())) :]
        out[block.slice] = (there & torch.zeros_like(there).index_fill(0, kept, True)).flatten()
    return out


def _keep_pattern(score: Tensor, blocks: Sequence[Block], scope: str, density: float, alive: Tensor) -> Tensor:
    """Keep the best N of every M neighbours along the inputs of one output; a rest of fewer than M stays whole."""
    pattern = pattern_of(scope)
    assert pattern is not None
    n, m = pattern
    if not math.isclose(density, n / m):
        raise InputError(f"the pattern {scope} has density {n / m:g}; got density {density}")
    out = alive.clone()
    for block in blocks:
        values = score[block.slice].masked_fill(~alive[block.slice], -torch.inf).view(block.shape[0], -1)
        whole = values.shape[1] // m * m
        groups = values[:, :whole].reshape(-1, m)
        best = groups.argsort(dim=1, stable=True)[:, m - n :]
        kept = torch.ones_like(values, dtype=torch.bool)
        kept[:, :whole] = torch.zeros_like(groups, dtype=torch.bool).scatter(1, best, True).view(len(values), whole)
        out[block.slice] &= kept.flatten()
    return out


def _keep_global(
    score: Tensor, blocks: Sequence[Block], total: int, alive: Tensor, least: int, generator: Generator | None
) -> Tensor:
    """Keep the `total` best of all blocks together, after each block's best `least`."""
    inside = _inside(blocks, alive)
    there = alive & inside
    available = int(there.sum())
    if total > available:
        raise InputError(f"{total:,} weights cannot be kept: only {available:,} are alive")
    reserved = torch.zeros_like(alive)
    for block in blocks if least else ():
        own = there[block.slice]
        reserved[block.slice] = _best(score[block.slice], own, min(least, int(own.sum())), generator)
    free = total - int(reserved.sum())
    if free < 0:
        raise _too_few(total, least, len(blocks))
    return (alive & ~inside) | reserved | _best(score, there & ~reserved, free, generator)


def _keep_layers(
    score: Tensor, blocks: Sequence[Block], quotas: Sequence[int], alive: Tensor, generator: Generator | None
) -> Tensor:
    out = alive.clone()
    for block, quota in zip(blocks, quotas, strict=True):
        own = alive[block.slice]
        if quota > int(own.sum()):
            raise InputError(
                f"{quota:,} weights of {block.name} cannot be kept: only {int(own.sum()):,} of {block.size:,} are alive"
            )
        out[block.slice] = _best(score[block.slice], own, quota, generator)
    return out


def _best(score: Tensor, there: Tensor, count: int, generator: Generator | None) -> Tensor:
    """The `count` places of highest score among those that are there, as booleans."""
    values = score[there]
    if values.isnan().any():
        raise InputError(f"{int(values.isnan().sum()):,} scores are NaN; a score that overflowed cannot rank weights")
    if count in (0, len(values)):
        return there if count else torch.zeros_like(there)
    least = values.kthvalue(len(values) - count + 1).values  # several times faster than sorting all
    kept = there & (score > least)
    ties = (there & (score == least)).nonzero().squeeze(1)
    if generator is not None:
        ties = ties[torch.randperm(len(ties), generator=generator, device=generator.device).to(ties.device)]
    need = count - int(kept.sum())  # exact: ties cannot over-prune
    kept[ties[len(ties) - need :]] = True
    return kept


def _inside(blocks: Sequence[Block], like: Tensor) -> Tensor:
    """(P,) whether a weight belongs to one of the blocks."""
    out = torch.zeros_like(like, dtype=torch.bool)
    for block in blocks:
        out[block.slice] = True
    return out


def _positions(blocks: Sequence[Block], device: torch.device) -> Tensor:
    return torch.cat([torch.arange(b.start, b.stop, device=device) for b in blocks])


def _alive(space: WeightSpace, score: Tensor, alive: Tensor | None) -> Tensor:
    if score.shape != (space.size,):
        raise InputError(
            f"this network has P = {space.size:,} weights and one mask is (P,); got shape {tuple(score.shape)}:"
            " take one replica at a time"
        )
    if alive is None:
        return torch.ones(space.size, dtype=torch.bool, device=score.device)
    _check_mask(space, alive)
    return alive.to(score.device)


def _check_mask(space: WeightSpace, mask: Tensor) -> None:
    if mask.shape != (space.size,) or mask.dtype != torch.bool:
        raise InputError(
            f"a mask of this network is boolean of shape ({space.size},); got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def _check_rate(rate: float, name: str) -> None:
    if not 0 <= rate < 1:
        raise InputError(f"{name} is the share of kept weights to remove, so it lies in [0, 1); got {rate}")


def _total(blocks: Sequence[Block], density: float | None, count: int | None) -> int:
    size = sum(b.size for b in blocks)
    if density is not None:
        check_density(density)
        return round(density * size)
    if count is None or not 0 <= count <= size:
        raise InputError(f"count is how many of the {size:,} prunable weights to keep; got {count}")
    return count


def _ideal(blocks: Sequence[Block], layer_density: Mapping[str, float]) -> list[float]:
    names = [b.name for b in blocks]
    for name in layer_density:
        if name not in names:
            raise unknown("prunable tensor", name, names)
    missing = [n for n in names if n not in layer_density]
    if missing:
        raise InputError(f"layer_density says nothing of {', '.join(missing)}; add them, or name them in exclude")
    odd = {n: d for n, d in layer_density.items() if not 0 <= d <= 1}
    if odd:
        raise InputError(f"a layer's density lies in [0, 1]; got {odd}")
    return [layer_density[b.name] * b.size for b in blocks]


def _within(quotas: list[int], available: list[int]) -> list[int]:
    """No layer keeps more than it has: rounding may give a small layer one weight back when the total falls.

    What a layer cannot take goes to those with the most room.
    """
    capped = [min(q, n) for q, n in zip(quotas, available, strict=True)]
    for _ in range(min(sum(quotas), sum(available)) - sum(capped)):
        room = [n - q for q, n in zip(capped, available, strict=True)]
        capped[room.index(max(room))] += 1
    return quotas if sum(quotas) > sum(available) else capped


def _at_least(quotas: list[int], available: list[int], least: int) -> list[int]:
    """Raise quotas to `least` (or to all that is there) and take as many from the largest: the sum stays."""
    floors = [min(least, n) for n in available]
    raised = [max(q, f) for q, f in zip(quotas, floors, strict=True)]
    for _ in range(sum(raised) - sum(quotas)):
        spare = [q - f for q, f in zip(raised, floors, strict=True)]
        if max(spare) == 0:
            raise _too_few(sum(quotas), least, len(quotas))
        raised[spare.index(max(spare))] -= 1
    return raised


def _too_few(total: int, least: int, layers: int) -> InputError:
    return InputError(
        f"{total:,} weights are too few for {least} in each of {layers} layers; raise the density or lower the least"
    )
