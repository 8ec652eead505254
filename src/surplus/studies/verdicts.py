"""From numbers to verdicts: an interval against a threshold, condition by condition.

    holds: the whole interval satisfies the condition    fails: the whole interval violates it    else undecided

A criterion of several conditions holds if all of them hold and fails if one of them fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from scipy.stats import binomtest
from scipy.stats import t as student
from torch import Tensor

from surplus.stats import Estimate, Interval, paired, wilson

Verdict = Literal["holds", "fails", "undecided"]
Row = dict[str, Any]
"""One line of a result's table: row, quantity, value, low, high, level, seeds, and what else the study notes."""


# ---- intervals ------------------------------------------------------------------------------------------------------


def over_seeds(samples: Iterable[float] | Tensor, level: float = 0.95) -> Interval:
    """The mean over seeds with its Student-t interval; one seed shows no spread, and its limits are NaN."""
    values = torch.as_tensor(samples if isinstance(samples, Tensor) else list(samples)).double()
    estimate = Estimate.over(values)
    low, high = estimate.interval(level)
    return Interval(float(estimate.mean), float(low), float(high), level, len(values))


def two_stderr(a: Any, b: Any) -> Interval:
    """The mean paired difference a - b, plus and minus two standard errors; `level` is what those cover."""
    c = paired(a, b)
    level = float(2 * student.cdf(2, c.seeds - 1) - 1) if c.seeds > 1 else 0.0
    return Interval(c.difference, c.difference - 2 * c.stderr, c.difference + 2 * c.stderr, level, c.seeds)


def exactly(value: float, repeats: int = 1) -> Interval:
    """A number that is computed rather than sampled."""
    return Interval(value, value, value, 1.0, repeats)


# ---- verdicts -------------------------------------------------------------------------------------------------------


def above(interval: Interval, threshold: float = 0.0) -> Verdict:
    """Whether the quantity lies above the threshold."""
    if math.isnan(interval.low) or math.isnan(interval.high):
        return "undecided"
    if interval.low > threshold:
        return "holds"
    return "fails" if interval.high <= threshold else "undecided"


def within(interval: Interval, low: float, high: float) -> Verdict:
    """Whether the quantity lies in [low, high]."""
    if math.isnan(interval.low) or math.isnan(interval.high):
        return "undecided"
    if low <= interval.low and interval.high <= high:
        return "holds"
    return "fails" if interval.high < low or interval.low > high else "undecided"


def not_above(interval: Interval, threshold: float = 0.0) -> Verdict:
    """Whether the data show no excess over the threshold: only an interval wholly above it contradicts."""
    if math.isnan(interval.low):
        return "undecided"
    return "fails" if interval.low > threshold else "holds"


def smaller_by_sign(a: Any, b: Any, alpha: float = 0.05) -> tuple[Interval, Verdict]:
    """One-sided sign test over pairs: is the first arm smaller? Ties tell nothing and are left out.

    Returns:
        The share of untied pairs in which it is, with Wilson's interval, and the verdict: a p value below `alpha` that
        it is holds, one that it is larger fails.
    """
    d = torch.as_tensor(a).double() - torch.as_tensor(b).double()
    wins, losses = int((d < 0).sum()), int((d > 0).sum())
    share = replace(wilson(wins, wins + losses), repeats=len(d))
    if wins + losses == 0:
        return share, "undecided"
    if binomtest(wins, wins + losses, alternative="greater").pvalue < alpha:
        return share, "holds"
    return share, "fails" if binomtest(losses, wins + losses, alternative="greater").pvalue < alpha else "undecided"


def joint(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on all conditions together."""
    if "fails" in verdicts:
        return "fails"
    return "holds" if verdicts and all(v == "holds" for v in verdicts) else "undecided"


# ---- conditions and table rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One condition of a criterion, as measured."""

    name: str
    quantity: str
    needs: str
    """The condition in a few signs: "> 0.95"."""
    interval: Interval
    verdict: Verdict
    notes: Row = field(default_factory=dict)

    def row(self) -> Row:
        """The condition as a line of the table."""
        notes = {"needs": self.needs, "verdict": self.verdict, **self.notes}
        return table_row(self.name, self.quantity, self.interval, **notes)

    def detail(self) -> Row:
        """The same comparison as a line that no verdict rests on."""
        return table_row(self.name, self.quantity, self.interval, **self.notes)


def table_row(name: str, quantity: str, interval: Interval, **notes: Any) -> Row:
    """A line of the table."""
    i = interval
    numbers = {"value": i.value, "low": i.low, "high": i.high, "level": i.level, "seeds": i.repeats}
    return {"row": name, "quantity": quantity, **numbers, **notes}


def arm(name: str, quantity: str, samples: Iterable[float] | Tensor, **notes: Any) -> Row:
    """A line of the table for one arm: its mean over seeds with a 95% interval."""
    return table_row(name, quantity, over_seeds(samples), **notes)


def exceeds(name: str, quantity: str, samples: Iterable[float] | Tensor, threshold: float, **notes: Any) -> Check:
    """The condition that the mean over seeds lies above a threshold."""
    interval = over_seeds(samples)
    return Check(name, quantity, f"> {threshold:g}", interval, above(interval, threshold), notes)


def beats(first: str, second: str, quantity: str, a: Any, b: Any, **notes: Any) -> Check:
    """The condition that arm a exceeds arm b by more than two standard errors, paired by seed."""
    interval, c = two_stderr(a, b), paired(a, b)
    wider = {"student_low": c.low, "student_high": c.high, "p_value": c.p_value}
    return Check(f"{first} - {second}", quantity, "> 2 SE", interval, above(interval), {**wider, **notes})
