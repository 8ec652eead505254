"""How many runs a score needs before its top examples stay the same.

    overlap(r) = | top-k(mean of r runs)  and  top-k(mean of r other runs) | / k

It is measured with disjoint halves of the runs at hand, for r up to half of them. Beyond, it is extrapolated: two means
of r runs that correlate by rho_r = r rho_1 / (1 + (r - 1) rho_1) (Spearman 1910; Brown 1910) share, under a bivariate
normal law, P(both in the top q) / q of their tops; rho_1 is the one that reproduces the last measured overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import multivariate_normal
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.examples.scoring import hardness, of_runs, runs_of, score
from surplus.space import generator

_MOST = 10_000
"""Extrapolation ends at so many runs."""


@dataclass(frozen=True)
class Stability:
    """How the top of a score settles with more runs."""

    runs: tuple[int, ...]
    """r = 1, 2, 4, ... up to half of the runs at hand."""
    overlap: tuple[float, ...]
    """Share of the top that two independent means of r runs have in common."""
    top: float
    """The top is this share of the examples."""
    needed: int | None
    """Runs until the overlap reaches `level`; None where no number up to 10,000 is enough."""
    level: float
    extrapolated: bool
    """Whether `needed` lies beyond what was measured."""


def stability(
    name: str, evidence: Mapping[str, object], *, top: float = 0.1, level: float = 0.9, splits: int = 10, seed: int = 0,
    **options: Any,
) -> Stability:  # fmt: skip
    """Measure how many runs make the hardest examples of a score stable.

    Args:
        name: of a score whose evidence has a leading axis of runs.
        evidence: as for `score`.
        top: share of the examples that counts as the top, in (0, 1).
        level: the overlap that counts as stable, in (0, 1).
        splits: random pairs of halves per number of runs.
        seed: of the halves.
        options: the score's own settings.

    Raises:
        InputError: as for `score`; fewer than two runs; a share outside (0, 1).
    """
    if not 0 < top < 1 or not 0 < level < 1:
        raise InputError(f"top and level are shares between 0 and 1; got top={top:g} and level={level:g}")
    runs = runs_of(name, evidence)
    if runs < 2:
        raise InputError(f"stability compares runs with other runs, and {name!r} has one; train at least two")
    chance = generator(seed, "stability", name)

    def hard(rows: Tensor) -> Tensor:
        return hardness(name, score(name, of_runs(name, evidence, rows), **options).mean)

    overlap = {}
    for r in [2**i for i in range((runs // 2).bit_length())]:
        orders = [torch.randperm(runs, generator=chance) for _ in range(splits)]
        shared = [_overlap(hard(o[:r]), hard(o[r : 2 * r]), top, chance) for o in orders]
        if all(s is not None for s in shared):
            overlap[r] = sum(s for s in shared if s is not None) / splits
    if not overlap:
        raise InputError(f"{runs} runs are too few: their halves leave {name!r} without a number for many examples")
    needed = next((r for r, o in overlap.items() if o >= level), None)
    beyond, last = needed is None, max(overlap)
    needed = _extrapolated(last, overlap[last], top, level) if beyond else needed
    return Stability(tuple(overlap), tuple(overlap.values()), top, needed, level, beyond)


def _overlap(a: Tensor, b: Tensor, top: float, chance: Generator) -> float | None:
    """Share of the top that two scores (n,) share, ties at random; None where over a tenth lacks a score in one."""
    seen = ~(a.isnan() | b.isnan())
    if float(seen.double().mean()) < 0.9:
        return None
    k = max(1, round(top * int(seen.sum())))
    return float(torch.isin(_top(a[seen], k, chance), _top(b[seen], k, chance)).double().mean())


def _top(hard: Tensor, k: int, chance: Generator) -> Tensor:
    shuffle = torch.randperm(len(hard), generator=chance)  # so that ties do not agree by their place in the data
    return shuffle[hard[shuffle].argsort(descending=True)[:k]]


def normal_overlap(correlation: float, top: float) -> float:
    """P(both of two normal scores of this correlation in their top share) / that share."""
    if correlation >= 1:
        return 1.0
    low = float(ndtri(top))  # by symmetry the lower tails, which the distribution function gives
    return float(multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf([low, low])) / top


def _extrapolated(r: int, overlap: float, top: float, level: float) -> int | None:
    """Runs until `level`, from the overlap of means of r runs."""
    if overlap <= top:
        return None
    of_r = brentq(lambda c: normal_overlap(c, top) - overlap, 0, 1 - 1e-9)
    wanted = brentq(lambda c: normal_overlap(c, top) - level, 0, 1 - 1e-9)
    one = of_r / (r - (r - 1) * of_r)  # Spearman and Brown, backwards
    needed = wanted * (1 - one) / (one * (1 - wanted))
    return int(-(-needed // 1)) if needed <= _MOST else None
