"""How a density is spent: over the layers of a network, and over the rounds of an iterated prune.

    uniform   d_l = d
    erk       d_l proportional to sum(dims_l) / prod(dims_l), dims = (out, in, kernel...)
    er        d_l proportional to (out + in) / (out in)
    smart     d_l proportional to (L - l + 1)^2 + (L - l + 1), the last layer at 0.3
    epf       d_l proportional to out / prod(dims_l): as many weights for each filter (output unit)
    epl       as many weights in each layer, what is left over in the last

each scaled so that the whole has density d; a layer that would exceed 1 is kept whole and the rest is solved again.
`erk-capped` is ERK without the second solution: layers are cut off at 1 and the whole falls short of d.
ERK: Evci et al. 2020 (arXiv 1911.11134); ER: Mocanu et al. 2018; smart ratio: Su et al. 2020 (arXiv 2009.11094);
EPF, EPL and capped ERK: Price & Tanner 2021 (arXiv 2102.07655).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Literal, get_args

from surplus.errors import InputError, unknown
from surplus.space import Block, WeightSpace

Rule = Literal["uniform", "erk", "er", "smart", "epf", "epl", "erk-capped"]
Kind = Literal["exponential", "linear"]

_SMART_LAST = 0.3


def prunable_blocks(space: WeightSpace, exclude: Iterable[str] = ()) -> list[Block]:
    """The tensors that may lose weights, in the network's order.

    Args:
        space: the network.
        exclude: layers to keep whole: a tensor's name, a layer's, or that of a module around layers.

    Raises:
        InputError: a name matches no prunable tensor, or none is left.
    """
    blocks = [b for b in space.blocks if b.prunable]
    for name in exclude:
        rest = [b for b in blocks if not _is_part(b, name)]
        if len(rest) == len(blocks):
            raise unknown("prunable layer", name, [b.layer for b in space.blocks if b.prunable])
        blocks = rest
    if not blocks:
        what = "every prunable layer is excluded" if exclude else "no layer is linear or a convolution"
        raise InputError(f"there is nothing to prune: {what}")
    return blocks


def allocate(space: WeightSpace, density: float, rule: Rule = "erk", exclude: Iterable[str] = ()) -> dict[str, float]:
    """The share of each prunable tensor's weights to keep, by the tensor's name.

    Args:
        space: the network.
        density: kept fraction of the weights that may be pruned.
        rule: `uniform`, `erk`, `er`, `smart`, `epf`, `epl`, or `erk-capped`, which alone may keep fewer.
        exclude: layers kept whole; the density is that of the others.

    Raises:
        InputError: the density is not in (0, 1], or is too low for the smart ratio's fixed last layer.
    """
    blocks = prunable_blocks(space, exclude)
    shares = spread([tuple(b.shape) for b in blocks], density, rule)
    return {b.name: s for b, s in zip(blocks, shares, strict=True)}


def spread(shapes: Sequence[tuple[int, ...]], density: float, rule: Rule = "erk") -> list[float]:
    """`allocate` for bare shapes (out, in, kernel...), one share per shape."""
    check_density(density)
    if rule not in get_args(Rule):
        raise unknown("rule for layer densities", rule, get_args(Rule))
    sizes = [prod(s) for s in shapes]
    if rule == "epl":
        return _equal(sizes, density * sum(sizes))
    if rule == "erk-capped":
        return _capped(_erk(shapes), sizes, density * sum(sizes))
    ratios = _RATIOS[rule](shapes)
    if rule != "smart" or len(shapes) == 1:
        return _solve(ratios, sizes, density * sum(sizes))
    budget = density * sum(sizes) - _SMART_LAST * sizes[-1]
    if budget < 0:
        least = _SMART_LAST * sizes[-1] / sum(sizes)
        raise InputError(f"the smart ratio keeps 0.3 of the last layer, so at least {least:.4g} in all; got {density}")
    if budget > sum(sizes[:-1]):  # the others are full: the last layer takes what is left
        return [1.0] * (len(sizes) - 1) + [(density * sum(sizes) - sum(sizes[:-1])) / sizes[-1]]
    return [*_solve(ratios[:-1], sizes[:-1], budget), _SMART_LAST]


def density_schedule(density: float, rounds: int, kind: Kind = "exponential") -> tuple[float, ...]:
    """Densities after each of `rounds` rounds, the last of them `density`.

        exponential   d_k = d^(k/n)            linear   d_k = 1 - (1 - d) k/n

    Args:
        density: the kept fraction at the end, in (0, 1].
        rounds: how many rounds, at least 1.
        kind: `exponential` removes the same share of what is left each time, `linear` the same number.
    """
    check_density(density)
    if rounds < 1:
        raise InputError(f"an iterated prune takes at least one round; got rounds={rounds}")
    if kind == "exponential":
        return tuple(density ** (k / rounds) for k in range(1, rounds + 1))
    if kind == "linear":
        return tuple(1 - (1 - density) * k / rounds for k in range(1, rounds + 1))
    raise unknown("density schedule", kind, get_args(Kind))


def check_density(density: float) -> None:
    """Refuse what is no kept fraction."""
    if not 0 < density <= 1:
        raise InputError(f"density is the fraction of prunable weights to keep, so it lies in (0, 1]; got {density}")


def whole_counts(ideal: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to `total` and lie within 1 of `ideal`: the largest remainders are rounded up."""
    counts = [int(i) for i in ideal]
    order = sorted(range(len(ideal)), key=lambda i: counts[i] - ideal[i])  # stable: the earlier layer wins a tie
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _is_part(block: Block, name: str) -> bool:
    return name in (block.name, block.layer) or block.layer.startswith(f"{name}.")


def _solve(ratios: Sequence[float], sizes: Sequence[int], budget: float) -> list[float]:
    """Shares min(1, e r_l) with sum_l share_l n_l = budget; a layer, once full, stays full."""
    full: set[int] = set()
    while True:
        rest = [i for i in range(len(sizes)) if i not in full]
        if not rest:
            return [1.0] * len(sizes)
        scale = (budget - sum(sizes[i] for i in full)) / sum(ratios[i] * sizes[i] for i in rest)
        over = {i for i in rest if scale * ratios[i] > 1}
        if not over:
            return [1.0 if i in full else scale * ratios[i] for i in range(len(sizes))]
        full |= over


def _equal(sizes: Sequence[int], budget: float) -> list[float]:
    """The whole part of budget / L in each layer that has room, the rest in the last; when that is full, in the others.

    A layer's share of n_l weights is a whole number but in the last, so that rounding later moves nothing.
    """
    each = math.floor(budget / len(sizes) + 1e-9)
    counts = [float(min(each, n)) for n in sizes[:-1]]
    last = budget - sum(counts)
    if last <= sizes[-1]:
        return [c / n for c, n in zip([*counts, last], sizes, strict=True)]
    return [*_solve([1 / n for n in sizes[:-1]], sizes[:-1], budget - sizes[-1]), 1.0]


def _capped(ratios: Sequence[float], sizes: Sequence[int], budget: float) -> list[float]:
    """Shares min(1, e r_l) with e as if no layer were cut off."""
    scale = budget / sum(r * n for r, n in zip(ratios, sizes, strict=True))
    return [min(1.0, scale * r) for r in ratios]


def _uniform(shapes: Sequence[tuple[int, ...]]) -> list[float]:
    return [1.0] * len(shapes)


def _erk(shapes: Sequence[tuple[int, ...]]) -> list[float]:
    return [sum(s) / prod(s) for s in shapes]


def _er(shapes: Sequence[tuple[int, ...]]) -> list[float]:
    return [(s[0] + s[1]) / (s[0] * s[1]) for s in shapes]


def _per_filter(shapes: Sequence[tuple[int, ...]]) -> list[float]:
    return [s[0] / prod(s) for s in shapes]


def _smart(shapes: Sequence[tuple[int, ...]]) -> list[float]:
    return [float(m * m + m) for m in range(len(shapes), 0, -1)]


_RATIOS: dict[str, Callable[[Sequence[tuple[int, ...]]], list[float]]] = {
    "uniform": _uniform,
    "erk": _erk,
    "er": _er,
    "smart": _smart,
    "epf": _per_filter,
}
