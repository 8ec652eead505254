"""Forgetting: how often training loses an example that it had learnt (Toneva et al. 2019, arXiv 1812.05159, section 3).

    forgetting(i) = #{visits t : correct_i(t - 1) = 1 and correct_i(t) = 0},  correct_i(0) = 0

An example that was never right cannot be forgotten, and is harder than any that was: it comes last, not first.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from surplus.errors import unknown
from surplus.examples.evidence import check
from surplus.registry import method
from surplus.stats import Estimate

Never = Literal["last", "inf", "rank"]


@method("example score", paper="Toneva et al. 2019, arXiv 1812.05159", high="hard")
def forgetting(correct: Tensor, *, never: Never = "last") -> Estimate:
    """Number of times an example goes from right to wrong between visits, averaged over runs.

    Args:
        correct: (runs, epochs, n) 1 right, 0 wrong, NaN not visited in that epoch (the earlier answer then stands).
        never: what a run that never had the example right counts. "last": one more than the largest count of any run,
            so that means and standard errors stay finite. "inf", as published: one such run makes the mean infinite,
            and its standard error with it. "rank": every run gives ranks from 0 to 1 instead of counts, the never
            learnt highest, ties in the middle; these are averaged.

    Returns:
        Estimate of shape (n,); NaN for an example that no run visited.

    Raises:
        InputError: `never` is none of the three.
    """
    check(correct=correct)
    if never not in get_args(Never):
        raise unknown("rule for examples never learnt", never, get_args(Never))
    counts = forgetting_events(correct)
    unlearnt = (correct.nan_to_num(0).amax(1) == 0) & ~counts.isnan()  # (runs, n)
    if never == "rank":
        return Estimate.over(_ranks(counts.masked_fill(unlearnt, torch.inf)))
    estimate = Estimate.over(counts.masked_fill(unlearnt, float(counts.nan_to_num(0).max()) + 1))
    if never == "last":
        return estimate
    mean, stderr = (t.masked_fill(unlearnt.any(0), torch.inf) for t in (estimate.mean, estimate.stderr))
    return Estimate(mean, stderr, estimate.repeats)


def forgetting_events(correct: Tensor) -> Tensor:
    """Per run, how often right turned to wrong: (runs, epochs, n) -> (runs, n); NaN where a run never visited."""
    before = torch.zeros_like(correct[:, 0])  # (runs, n)
    events = torch.zeros_like(before)
    for now in correct.unbind(1):
        events += (before == 1) & (now == 0)  # NaN equals neither
        before = torch.where(now.isnan(), before, now)
    return events.masked_fill(correct.isnan().all(1), torch.nan)


def _ranks(counts: Tensor) -> Tensor:
    """Ranks in [0, 1] of each run's counts (runs, n), ties in the middle; NaN stays."""
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(counts.cpu().numpy(), axis=1, nan_policy="omit")).to(counts)
    return (ranks - 1) / (~counts.isnan()).sum(1, keepdim=True).sub(1).clamp(min=1)
