"""How to split a labelling budget between an easy and a hard region (Hacohen, Dekel & Weinshall 2022).

    minimise over m in [0, B]:   p E_1(m) + (1 - p) E_2(B - m)

A share p of the test points lies in region 1. For E_i(m) = c_i exp(-a_i m) the optimum is

    m = ( ln[ p c_1 a_1 / ((1 - p) c_2 a_2) ] + a_2 B ) / (a_1 + a_2),   clipped to [0, B]

With few labels it pays to ask for the region where error falls fastest per test point, with many for the other:
m / B passes p once, at B = ln[...] / (p a_1 - (1 - p) a_2). arXiv 2202.02794.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.registry import method

Curve = Callable[[Tensor], Tensor]
GRID, ZOOMS = 1001, 4


@dataclass(frozen=True)
class BudgetSplit:
    """The best split for each budget, (b,).

    `share`: of the labels that region 1 gets. `error`: expected test error with it. `random_error`: with labels in
    proportion p, as random choice gives. `turning`: the budget at which share passes p, NaN where it never does.
    """

    budgets: Tensor
    share: Tensor
    error: Tensor
    random_error: Tensor
    turning: float


@method("prediction", paper="Hacohen, Dekel & Weinshall 2022, arXiv 2202.02794")
def budget_split(
    budgets: Any, p: float, rates: tuple[float, float], scales: tuple[float, float] = (1.0, 1.0)
) -> BudgetSplit:
    """The best split between two regions whose error falls exponentially, in closed form.

    Args:
        budgets: (b,) numbers of labels, above 0.
        p: share of the test points in region 1.
        rates: a_1, a_2: by how much one label lowers the logarithm of each region's error.
        scales: c_1, c_2: error of each region without labels.

    Returns:
        BudgetSplit.

    Raises:
        InputError: p outside (0, 1), or budgets, rates or scales that are not positive.
    """
    total = _checked(budgets, p)
    if min(*rates, *scales) <= 0:
        raise InputError(f"rates and scales are positive; got {rates} and {scales}")
    (a1, a2), (c1, c2) = rates, scales
    pull = math.log(p * c1 * a1 / ((1 - p) * c2 * a2))
    share = (((pull + a2 * total) / (a1 + a2)) / total).clamp(0, 1)
    lean = p * a1 - (1 - p) * a2
    turning = pull / lean if lean and pull / lean > 0 else math.nan
    curves: tuple[Curve, Curve] = (lambda m: c1 * (-a1 * m).exp(), lambda m: c2 * (-a2 * m).exp())
    error, chance = (_error(share_, total, p, *curves) for share_ in (share, torch.full_like(total, p)))
    return BudgetSplit(total, share, error, chance, turning)


def split_between(budgets: Any, p: float, first: Curve, second: Curve) -> BudgetSplit:
    """The best split between two regions with any error curves, by search.

    Args:
        budgets: (b,) numbers of labels, above 0.
        p: share of the test points in region 1.
        first: error of region 1 as a function of its labels, a tensor of any shape; second likewise.
        second: error of region 2.

    Returns:
        BudgetSplit; `turning` is the first budget, between two neighbours of `budgets`, at which the share passes p.

    Raises:
        InputError: p outside (0, 1), or budgets that are not positive.
    """
    total = _checked(budgets, p)
    low, high = torch.zeros_like(total), torch.ones_like(total)
    steps = torch.linspace(0, 1, GRID, dtype=total.dtype)
    for _ in range(ZOOMS):  # around the best point of the grid before
        grid = low[:, None] + (high - low)[:, None] * steps  # (b, GRID)
        best = _error(grid, total[:, None], p, first, second).argmin(1, keepdim=True)
        share = grid.gather(1, best)[:, 0]
        low, high = (grid.gather(1, (best + k).clamp(0, GRID - 1))[:, 0] for k in (-1, 1))
    error, chance = (_error(share_, total, p, first, second) for share_ in (share, torch.full_like(total, p)))
    return BudgetSplit(total, share, error, chance, _crossing(total, share - p))


def _error(share: Tensor, total: Tensor, p: float, first: Curve, second: Curve) -> Tensor:
    return p * first(share * total) + (1 - p) * second((1 - share) * total)


def _crossing(at: Tensor, values: Tensor) -> float:
    """Where values first change sign, by a straight line between neighbours; NaN where they never do."""
    turns = (values[:-1] * values[1:] < 0).nonzero()
    if len(turns) == 0:
        return math.nan
    i = int(turns[0])
    weight = values[i] / (values[i] - values[i + 1])
    return float(at[i] + weight * (at[i + 1] - at[i]))


def _checked(budgets: Any, p: float) -> Tensor:
    if not 0 < p < 1:
        raise InputError(f"p is the share of test points in region 1, in (0, 1); got {p}")
    total = torch.as_tensor(budgets).double().reshape(-1)
    if total.numel() == 0 or not bool((total > 0).all()):
        raise InputError("budgets are positive numbers of labels; leave out 0, which leaves nothing to split")
    return total
