"""Paired comparison: how far apart two arms are when each seed has run both.

    d_s = a_s - b_s        difference = mean d        t = difference / (sd(d) / sqrt(seeds))

Pairing removes what the arms of one seed share (the split, the order, the initial point). Student 1908.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from surplus.stats.arrays import Array, as_pairs, check_level, rounding


@dataclass(frozen=True)
class Comparison:
    """Mean difference of two paired arms, with its Student-t interval.

    `p_value` is two-sided, for a mean difference of zero. `wins` counts the pairs in which the first arm is larger.
    One pair alone shows no spread: then `stderr` and `p_value` are NaN and the interval is the whole line.
    """

    difference: float
    stderr: float
    low: float
    high: float
    p_value: float
    seeds: int
    wins: int
    level: float


@dataclass(frozen=True)
class Spread:
    """Mean of paired differences, its standard error and degrees of freedom."""

    mean: float
    stderr: float
    freedom: int

    @classmethod
    def of(cls, differences: Array) -> Spread:
        """From one difference per seed, (seeds,)."""
        n = len(differences)
        if n < 2:
            return cls(float(differences.mean()), float("nan"), 0)
        return cls(float(differences.mean()), float(differences.std(ddof=1) / n**0.5), n - 1)

    def quantile(self, share: float) -> float:
        """The mean plus as many standard errors as Student's t has below it with probability `share`."""
        if self.freedom == 0:
            return float(np.copysign(np.inf, share - 0.5))
        return self.mean + float(stdtrit(self.freedom, share)) * self.stderr

    def above(self, null: float) -> float:
        """P(a mean at least this large | the true mean is `null`), one-sided; without spread, 0, 1/2 or 1."""
        if self.freedom == 0:
            return float("nan")
        if self.stderr == 0:
            return float(0.5 - 0.5 * np.sign(self.mean - null))
        return float(stdtr(self.freedom, (null - self.mean) / self.stderr))


def differences(a: Any, b: Any) -> Array:
    """First minus second for each complete pair, (seeds,); what is rounding alone counts as equal.

    Without this, .3 - .1 and .4 - .2 would differ by 1e-17 and look like two very consistent seeds.
    """
    first, second = as_pairs(a, b, ("the first arm", "the second arm"))
    noise = rounding(a, b)
    d = first - second
    d[np.abs(d) <= noise] = 0.0
    return np.full_like(d, d.mean()) if np.ptp(d) <= noise else d


def paired(a: Any, b: Any, level: float = 0.95) -> Comparison:
    """Compare two arms that ran on the same seeds.

    When all pairs differ by the same amount the interval has no width and the p value is 0 (or 1, if that amount is 0).

    Args:
        a: (seeds,) a metric of the first arm; NaN marks a missing run, whose pair is left out.
        b: (seeds,) the same metric of the second arm, same seeds in the same order.
        level: coverage of the interval.

    Raises:
        InputError: lengths that differ, no complete pair, or a level outside (0, 1).
    """
    d = differences(a, b)
    spread, tail = Spread.of(d), 0.5 - check_level(level) / 2
    one_sided = spread.above(0.0)
    p_value = 2 * min(one_sided, 1 - one_sided)
    low, high = spread.quantile(tail), spread.quantile(1 - tail)
    return Comparison(spread.mean, spread.stderr, low, high, p_value, len(d), int((d > 0).sum()), level)
