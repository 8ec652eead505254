"""Greedy maximisation of a set function, three ways (Nemhauser, Wolsey & Fisher 1978, doi 10.1007/BF01588971).

    s_{t+1} = argmax_x  f(S + x) - f(S)

naive       every gain, at every step
lazy        the same picks: of a submodular function a gain never grows, so an old one is an upper bound (Minoux 1978)
stochastic  the best of (n / keep) ln(1 / epsilon) drawn candidates (Mirzasoleiman et al. 2015, arXiv 1409.7938)

If f is monotone and submodular, the picks reach 1 - 1/e of the best value that any set of that size has. Gains nearer
to each other than rounding are ties, and go to the lowest index.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from surplus.errors import unknown
from surplus.examples.selections.base import shuffled

Greedy = Literal["naive", "lazy", "stochastic"]
LEAST = 64  # gains that are computed again at once


class SetFunction(Protocol):
    """f, and the set that has been chosen so far."""

    def first_gains(self) -> Tensor:
        """Gains (n,) of all examples while nothing is chosen."""
        ...

    def gains(self, candidates: Tensor) -> Tensor:
        """What each of some examples (m,) would add to f now: (m,)."""
        ...

    def add(self, pick: int) -> None:
        """Choose one example."""
        ...


def greedy_order(
    f: SetFunction,
    keep: int,
    greedy: Greedy = "lazy",
    *,
    generator: Generator | None = None,
    epsilon: float = 0.01,
) -> Tensor:
    """The first `keep` picks, in order: (keep,) indices.

    Args:
        f: the set function, nothing chosen yet; it ends with all picks chosen.
        keep: how many.
        greedy: "naive", "lazy" or "stochastic".
        generator: for the stochastic one.
        epsilon: for the stochastic one: what it gives up of the guarantee, on average.

    Raises:
        InputError: no such optimiser, or no generator for the one that draws.
    """
    if greedy not in ("naive", "lazy", "stochastic"):
        raise unknown("greedy optimiser", greedy, ["naive", "lazy", "stochastic"])
    bounds = f.first_gains().clone()  # (n,) upper bounds of the gains; -inf once picked
    term = float(bounds.abs().mean()) / len(bounds)  # a gain is a sum of n such terms, rounded one by one
    drawn = math.ceil(len(bounds) / keep * math.log(1 / epsilon)) if greedy == "stochastic" else 0
    order: list[int] = []
    while len(order) < keep:
        if greedy == "lazy" and order:
            pick = _lazy(f, bounds, term)
        else:
            free = bounds.isfinite().nonzero().squeeze(1)
            if drawn:
                free = free[shuffled(len(free), generator, free.device)[:drawn]]
            if order:
                bounds[free] = f.gains(free)
            pick = _best(bounds, free, term)
        order.append(pick)
        bounds[pick] = -torch.inf
        if len(order) < keep:
            f.add(pick)
    return torch.tensor(order, device=bounds.device)


def _tie(best: float, term: float, dtype: torch.dtype) -> float:
    """The difference between gains that may be rounding."""
    return 16 * torch.finfo(dtype).eps * (abs(best) + term) if math.isfinite(best) else 0.0


def _best(gains: Tensor, rows: Tensor, term: float) -> int:
    """The lowest of the rows whose gain is the largest, up to ties."""
    values = gains[rows]
    best = float(values.max())
    return int(rows[values >= best - _tie(best, term, values.dtype)].min())


def _lazy(f: SetFunction, bounds: Tensor, term: float) -> int:
    """The pick of the naive optimiser, from as few new gains as it takes; `bounds` is brought up to date."""
    fresh = torch.zeros_like(bounds, dtype=torch.bool)
    size, best = LEAST, -math.inf
    while True:
        top = bounds.masked_fill(fresh, -torch.inf).topk(min(size, len(bounds)))
        open_to = (top.values >= best - _tie(best, term, bounds.dtype)) & top.values.isfinite()
        rows = top.indices[open_to]  # those that could still win or tie
        if not len(rows):
            return _best(bounds, fresh.nonzero().squeeze(1), term)
        bounds[rows] = f.gains(rows)
        fresh[rows] = True
        best, size = max(best, float(bounds[rows].max())), 2 * size
