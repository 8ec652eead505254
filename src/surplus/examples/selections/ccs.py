"""CCS, coverage-centric coreset selection: all degrees of hardness, minus the hopeless (Zheng et al. 2023).

    1. leave out the share beta with the hardest scores        2. cut the rest into strata of equal score width
    3. from the smallest stratum up: budget = min(size, budget left // strata left)      4. sample inside each

Rare scores are thus kept whole, and the crowded ones share what is left. arXiv 2210.15809, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.examples.selections.base import check_selection, check_share, hardest_first, mask_of, shuffled
from surplus.registry import method


@method("selection", paper="Zheng, Liu, Lai & Prakash 2023, arXiv 2210.15809")
def ccs(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    beta: float = 0.1,
    strata: int = 50,
) -> Tensor:
    """Keep a random sample spread evenly over the range of scores, after a cut at the hard end.

    Args:
        scores: (n,) finite, high = hard; the paper takes AUM, turned round.
        keep: how many examples stay.
        labels: not used.
        generator: for the draws inside the strata.
        beta: share of all examples left out at the hard end, as far as `keep` leaves room; the paper searches it on
            held-out data and lands between 0 (keeping most) and 0.3 (keeping a tenth).
        strata: number of strata; the paper's is 50.

    Returns:
        (n,) bool.

    Raises:
        InputError: scores are not finite, or a setting is out of range.
    """
    check_selection(scores, keep)
    check_share("beta", beta)
    if strata < 1 or not bool(scores.isfinite().all()):
        raise InputError(f"ccs cuts finite scores into at least one stratum; got {strata} strata of scores {scores}")
    cut = min(len(scores) - keep, round(beta * len(scores)))
    rows = hardest_first(scores)[cut:]
    rows = rows[shuffled(len(rows), generator, scores.device)]  # the first of a stratum are then a sample of it
    stratum = strata_of(scores[rows], strata)
    budgets = stratum_budgets(keep, stratum.bincount(minlength=strata).tolist())
    picks = [rows[stratum == s][:budget] for s, budget in enumerate(budgets)]
    return mask_of(torch.cat(picks), len(scores))


def strata_of(scores: Tensor, strata: int) -> Tensor:
    """Which of `strata` intervals of equal width between the smallest and the largest score: (n,) -> (n,) integers."""
    low, high = scores.min(), scores.max()
    if low == high:
        return torch.zeros_like(scores, dtype=torch.long)
    return ((scores - low) / (high - low) * strata).long().clamp(max=strata - 1)  # the largest belongs to the last


def stratum_budgets(keep: int, sizes: list[int]) -> list[int]:
    """How many to take of each stratum; they sum to min(keep, sum(sizes))."""
    budgets = [0] * len(sizes)
    left = keep
    for done, s in enumerate(sorted(range(len(sizes)), key=lambda s: sizes[s])):
        budgets[s] = min(sizes[s], left // (len(sizes) - done))
        left -= budgets[s]
    return budgets
