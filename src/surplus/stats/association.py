"""How well one ranking agrees with another: rank correlation, area under the ROC curve, split-half reliability.

    spearman = pearson(ranks x, ranks y)              Fisher:  atanh r +- z sqrt((1 + r^2/2) / (n - 3))
    kendall  = (concordant - discordant) / pairs               atanh r +- z sqrt(.437 / (n - 4))
    auc      = P(score of a positive > score of a negative) + P(equal) / 2
    reliability of m times as many repeats = m r / (1 + (m - 1) r)

Intervals: Bonett & Wright 2000 (Spearman), Fieller, Hartley & Pearson 1957 (Kendall), DeLong, DeLong & Clarke-Pearson
1988 (area); Spearman 1910 and Brown 1910 (reliability).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import ndtri
from torch import Generator

from surplus.errors import InputError, unknown
from surplus.stats.arrays import Array, as_array, as_generator, as_pairs, check_level
from surplus.stats.estimate import Estimate
from surplus.stats.intervals import bootstrap


@dataclass(frozen=True)
class Correlation:
    """Rank correlation with its interval over the `items` that have both numbers.

    `value` and the limits are NaN when one of the two never varies: constant numbers rank nothing, which is not the
    same as ranks that disagree (0). With fewer items than the interval needs, the limits are -1 and 1.
    """

    value: float
    low: float
    high: float
    items: int
    method: str
    level: float


def rank_correlation(
    x: Any,
    y: Any,
    method: Literal["spearman", "kendall"] = "spearman",
    level: float = 0.95,
    seed: int | Generator = 0,
    interval: Literal["fisher", "bootstrap"] = "fisher",
    resamples: int = 1000,
) -> Correlation:
    """Spearman's rho or Kendall's tau-b; ties share their mean rank.

    Args:
        x: (n,) numbers; an item with NaN in x or y is left out.
        y: (n,) numbers.
        method: "spearman" or "kendall".
        level: coverage of the interval.
        seed: a seed or a generator, for the bootstrap.
        interval: "fisher", a closed form that stays honest for few items, or "bootstrap" over items, for heavy ties.
        resamples: how many times the bootstrap draws.

    Raises:
        InputError: lengths that differ, no complete pair, an unknown method or interval, or a level outside (0, 1).
    """
    if method not in _CORRELATIONS:
        raise unknown("rank correlation", method, _CORRELATIONS)
    if interval not in ("fisher", "bootstrap"):
        raise unknown("interval of a rank correlation", interval, ("fisher", "bootstrap"))
    pairs = np.stack(as_pairs(x, y, ("x", "y")), 1)  # (n, 2)
    n, statistic = len(pairs), _CORRELATIONS[method]
    value = statistic(pairs)
    if np.isnan(value):
        low = high = float("nan")
    elif interval == "fisher" or n < 3:
        low, high = _fisher(value, n, method, check_level(level))
    else:
        over = bootstrap(pairs, statistic, as_generator(seed, "rank correlation"), resamples, level)
        low, high = over.low, over.high
    return Correlation(value, low, high, n, method, level)


def auc(scores: Any, positive: Any) -> Estimate:
    """Area under the ROC curve with DeLong's standard error: does a high score mark the positives?

    Args:
        scores: (n,) numbers; NaN marks a missing score, which is left out.
        positive: (n,) bool or 0/1.

    Returns:
        Estimate of shape (), double precision on the CPU; `repeats` counts the items. NaN when there is no positive or
        no negative; a NaN standard error when there is only one of either.

    Raises:
        InputError: lengths that differ, no complete pair, or labels other than 0 and 1.
    """
    values, labels = as_pairs(scores, positive, ("scores", "positive"))
    if not np.isin(labels, (0, 1)).all():
        raise InputError(f"positive is 0 or 1 for each item; got {labels[~np.isin(labels, (0, 1))][0]:g}.")
    high, low = values[labels == 1], values[labels == 0]
    if not len(high) or not len(low):
        return Estimate(torch.tensor(torch.nan).double(), torch.tensor(torch.nan).double(), len(values))
    from scipy.stats import rankdata

    ranks = rankdata(values)
    below = (ranks[labels == 1] - rankdata(high)) / len(low)  # per positive: share of negatives below it, ties half
    above = 1 - (ranks[labels == 0] - rankdata(low)) / len(high)  # per negative: share of positives above it
    few = min(len(high), len(low)) < 2
    variance = np.nan if few else below.var(ddof=1) / len(high) + above.var(ddof=1) / len(low)
    return Estimate(torch.tensor(below.mean()).double(), torch.tensor(variance).double().sqrt(), len(values))


def split_half_reliability(
    samples: Any, method: Literal["pearson", "spearman"] = "pearson", splits: int = 20, seed: int | Generator = 0
) -> float:
    """How well the mean over these repeats would agree with the mean over as many new ones, in [-1, 1].

    The repeats are halved at random `splits` times, the halves' means over repeats are correlated across items, and the
    mean correlation is stepped up to the full number of repeats by the formula of Spearman and Brown.

    Args:
        samples: (repeats, n); NaN marks a missing repeat. An item that a half never saw is left out of that split.
        method: correlation across items; the step-up is exact for "pearson".
        splits: how many random halvings to average.
        seed: a seed or a generator.

    Returns:
        The reliability; NaN with one repeat, fewer than two items, or a half that never varies.

    Raises:
        InputError: another shape than (repeats, n), or an unknown method.
    """
    if method not in ("pearson", "spearman"):
        raise unknown("correlation for reliability", method, ("pearson", "spearman"))
    table = as_array(samples)
    if table.ndim != 2:
        raise InputError(f"samples has one row per repeat, shape (repeats, n); got shape {table.shape}.")
    repeats, half = len(table), len(table) // 2
    if half == 0:
        return float("nan")
    chance = as_generator(seed, "split-half")
    values = []
    for _ in range(splits):
        order = torch.randperm(repeats, generator=chance).tolist()
        first, second = _mean_present(table[order[:half]]), _mean_present(table[order[half : 2 * half]])
        seen = ~(np.isnan(first) | np.isnan(second))
        pairs = np.stack([first[seen], second[seen]], 1)
        values.append(_pearson(pairs) if method == "pearson" else _spearman(pairs))
    r, times = float(np.mean(values)), repeats / half
    r = float(np.maximum(r, -1 / (2 * times - 1)))  # what steps up to -1
    return times * r / (1 + (times - 1) * r)


def _mean_present(table: Array) -> Array:
    """Mean over rows of what is not NaN; NaN where nothing is. (rows, n) -> (n,)."""
    counts = (~np.isnan(table)).sum(0)
    return np.where(counts > 0, np.nansum(table, 0) / np.maximum(counts, 1), np.nan)


def _pearson(pairs: Array) -> float:
    if len(pairs) < 2 or (np.ptp(pairs, axis=0) == 0).any():
        return float("nan")
    return float(np.asarray(np.corrcoef(pairs, rowvar=False))[0, 1])


def _spearman(pairs: Array) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(pairs, axis=0)) if len(pairs) else float("nan")


def _kendall(pairs: Array) -> float:
    if len(pairs) < 2 or (pairs == pairs[0]).all(0).any():
        return float("nan")
    from scipy.stats import kendalltau

    return float(kendalltau(pairs[:, 0], pairs[:, 1]).statistic)


_CORRELATIONS = {"spearman": _spearman, "kendall": _kendall}


def _fisher(value: float, n: int, method: str, level: float) -> tuple[float, float]:
    """Closed-form interval; a perfect value is taken as the nearest other one that n untied items can show."""
    spare = n - (3 if method == "spearman" else 4)
    if spare <= 0:
        return -1.0, 1.0
    nearest = 1 - (12 / (n * (n**2 - 1)) if method == "spearman" else 4 / (n * (n - 1)))
    r = float(np.clip(value, -nearest, nearest))
    width = ndtri(0.5 + level / 2) * ((1 + r**2 / 2 if method == "spearman" else 0.437) / spare) ** 0.5
    low, high = np.tanh(np.arctanh(r) - width), np.tanh(np.arctanh(r) + width)
    return (-1.0 if value < -nearest else float(low)), (1.0 if value > nearest else float(high))
