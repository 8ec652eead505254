"""Intervals that need no normal distribution: Wilson's for a share, the percentile bootstrap for anything else.

    Wilson:    centre = (k + z^2/2) / (n + z^2),   half = z sqrt(k (n - k) / n + z^2/4) / (n + z^2)
    bootstrap: quantiles of statistic(samples drawn again with replacement)

Wilson 1927; Efron & Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.stats.arrays import as_array, as_generator, check_level


@dataclass(frozen=True)
class Interval:
    """A number with its interval of the given coverage, and how many independent repeats it rests on."""

    value: float
    low: float
    high: float
    level: float
    repeats: int


def wilson(successes: float, trials: float, level: float = 0.95) -> Interval:
    """Wilson's interval for a share, good at 0, at 1 and for few trials; no trials leave [0, 1] and a value of NaN.

    Args:
        successes: how many of the trials succeeded.
        trials: how many there were.
        level: coverage.

    Raises:
        InputError: successes outside [0, trials], or a level outside (0, 1).
    """
    k, n = float(successes), float(trials)
    z = float(ndtri(0.5 + check_level(level) / 2))
    if not 0 <= k <= n:
        raise InputError(f"successes lie between 0 and the number of trials; got {successes} of {trials}.")
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0, level, 0)
    centre, half = (k + z**2 / 2) / (n + z**2), z * (k * (n - k) / n + z**2 / 4) ** 0.5 / (n + z**2)
    return Interval(k / n, 0.0 if k == 0 else centre - half, 1.0 if k == n else centre + half, level, int(n))


def bootstrap(
    samples: Any,
    statistic: Callable[[Any], Any],
    seed: int | Generator = 0,
    resamples: int = 1000,
    level: float = 0.95,
    groups: Any = None,
) -> Interval:
    """Percentile interval of a statistic, from samples drawn again with replacement along the first axis.

    Args:
        samples: (n, ...) tensor or array-like. Put paired columns side by side, (n, 2), to draw them together.
        statistic: takes a resample (a tensor if `samples` is one, else a numpy array) and returns one number. Resamples
            on which it is NaN are left out; if that is half of them or more, the interval is NaN.
        seed: a seed or a generator.
        resamples: how many times to draw.
        level: coverage.
        groups: (n,) labels; whole groups are drawn, for samples that depend on each other within one (runs of one seed,
            pictures of one patient). `repeats` then counts groups.

    Returns:
        The statistic of the samples themselves, with its interval; NaN limits where fewer than two cases or groups are
        there to draw from, for they show no spread.

    Raises:
        InputError: no samples, labels of another length, or a level outside (0, 1).
    """
    data = samples if isinstance(samples, Tensor) else np.asarray(samples)
    if data.ndim == 0 or len(data) == 0:
        raise InputError("bootstrap draws samples along their first axis; got none.")
    members = _members(len(data), groups)
    value = float(statistic(data))
    draw = torch.randint(len(members), (resamples, len(members)), generator=_on_cpu(seed)).numpy()
    values = np.array([float(statistic(data[np.concatenate([members[i] for i in row])])) for row in draw])
    low, high = percentiles(values, check_level(level)) if len(members) > 1 else (float("nan"), float("nan"))
    return Interval(value, low, high, level, len(members))


def percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    """The central share `level` of the values that are not NaN; NaN when half of them or more are."""
    present = values[~np.isnan(values)]
    if 2 * len(present) <= len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(present, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def _members(n: int, groups: Any) -> list[np.ndarray]:
    """Positions of each group's samples; without groups, every sample alone."""
    if groups is None:
        return list(np.arange(n)[:, None])
    labels = as_array(groups) if isinstance(groups, Tensor) else np.asarray(groups)
    if labels.shape != (n,):
        raise InputError(f"groups holds one label per sample, shape ({n},); got shape {labels.shape}.")
    _, group = np.unique(labels, return_inverse=True)
    return np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])


def _on_cpu(seed: int | Generator) -> Generator:
    chance = as_generator(seed, "bootstrap")
    if chance.device.type != "cpu":
        raise InputError(
            f"bootstrap draws on the CPU; got a generator on {chance.device}. Give a seed or a CPU generator."
        )
    return chance
