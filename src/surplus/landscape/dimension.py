"""Intrinsic dimension: the smallest random subspace in which training still succeeds.

    d_int = min { d in grid : mean over seeds of the best performance(d) >= share * baseline }

Li, Farkhoor, Liu & Yosinski 2018 (arXiv 1804.08838, section 2), whose share is 0.9 and whose baseline is the best of
ordinary training. Nothing is interpolated: the answer is a dimension that was tried. For a loss, performance is
exp(-loss).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from surplus.errors import InputError, unknown
from surplus.registry import method
from surplus.stats import Estimate

Performance = Callable[[int], Sequence[float]]
"""Dimension -> the best validation performance of each seed's run, always for the same seeds."""


@dataclass(frozen=True)
class IntrinsicDimension:
    """The answer, and all that was measured on the way."""

    dimension: int | None
    """The smallest dimension tried whose mean reaches the threshold; None when none does."""
    threshold: float
    grid: tuple[int, ...]
    """The candidates, rising; those tried are the keys of `points`."""
    points: dict[int, Estimate]
    """Performance per dimension tried, rising, with its spread over seeds."""
    per_seed: tuple[int | None, ...]
    """The same answer for each seed alone, among the dimensions tried."""


@method("measure", paper="Li et al. 2018, arXiv 1804.08838")
def intrinsic_dimension(
    performance_at: Performance, grid: Sequence[int], baseline: float, share: float = 0.9, search: str = "grid"
) -> IntrinsicDimension:
    """The smallest dimension of a grid that reaches a share of the baseline.

    Args:
        performance_at: trains in d dimensions, once per seed, and returns each run's best performance.
        grid: the candidates; "grid" tries all, in the order given.
        baseline: performance of ordinary training, positive.
        share: of the baseline that counts as success.
        search: "grid", or "bisect", which takes performance to rise with d and tries about log2 of the grid.

    Raises:
        InputError: an empty grid, dimensions below 1, a baseline that is not positive, a share outside (0, 1], an
            unknown search, or runs for a different number of seeds at different d.
    """
    rising = _check(grid, baseline, share, search)
    threshold = share * baseline
    runs: dict[int, torch.Tensor] = {}

    def reaches(d: int) -> bool:
        runs[d] = torch.tensor(list(performance_at(d)), dtype=torch.float64)  # (seeds,)
        seeds = len(next(iter(runs.values())))
        if not 0 < len(runs[d]) == seeds:
            raise InputError(f"every dimension needs one run per seed; d = {d} brought {len(runs[d])} of {seeds}")
        return bool(Estimate.over(runs[d]).mean >= threshold)

    if search == "bisect":
        dimension = _first(rising, reaches)
    else:
        dimension = min((d for d in dict.fromkeys(grid) if reaches(d)), default=None)
    tried = sorted(runs)
    seeds = range(len(runs[tried[0]]))
    alone = tuple(next((d for d in tried if runs[d][s] >= threshold), None) for s in seeds)
    return IntrinsicDimension(dimension, threshold, rising, {d: Estimate.over(runs[d]) for d in tried}, alone)


def _first(rising: tuple[int, ...], reaches: Callable[[int], bool]) -> int | None:
    """The first candidate that succeeds, if success, once there, stays."""
    low, high = 0, len(rising)  # all below low fail, all from high on succeed
    while low < high:
        middle = (low + high) // 2
        if reaches(rising[middle]):
            high = middle
        else:
            low = middle + 1
    return rising[high] if high < len(rising) else None


def _check(grid: Sequence[int], baseline: float, share: float, search: str) -> tuple[int, ...]:
    """The grid, rising and without repeats."""
    if not grid or min(grid) < 1:
        raise InputError(f"the grid lists dimensions of at least 1; got {list(grid)}")
    if not baseline > 0 or not 0 < share <= 1:
        raise InputError(
            f"the threshold is a share in (0, 1] of a positive baseline; got share={share}, baseline={baseline}; "
            "turn a loss into a performance by exp(-loss)"
        )
    if search not in ("grid", "bisect"):
        raise unknown("search", search, ("grid", "bisect"))
    return tuple(sorted(set(grid)))
