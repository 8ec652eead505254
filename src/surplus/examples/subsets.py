"""Random subsets that hold every example out equally often: what c-scores, memorization and label checks train on.

A round is one random circle of the examples; its runs train on arcs of it, evenly turned. At share 1/2 the two runs of
a round are complements, so each example is held out by one of them (by both, if it is the odd one).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.space import generator, seed_for


def balanced_subsets(n: int, share: float, runs: int, seed: int = 0) -> Tensor:
    """Subsets of int(share n) examples, as even over the examples as the number of runs allows.

    Args:
        n: examples.
        share: fraction that each run trains on, in (0, 1).
        runs: how many subsets.
        seed: of the random circles.

    Returns:
        (runs, n) boolean, True = trained on.

    Raises:
        InputError: the share leaves nothing to train on, or nothing held out.
    """
    size = int(share * n)
    if not 0 < size < n:
        raise InputError(
            f"share is the fraction of {n} examples to train on, in (0, 1) and leaving some on both sides; got {share}"
        )
    turns = Fraction(share).limit_denominator(10).denominator  # runs of a round
    masks = torch.zeros(runs, n, dtype=torch.bool)
    for r in range(runs):
        circle = torch.randperm(n, generator=generator(seed, "subset", share, r // turns))
        first = (r % turns) * n // turns
        masks[r, circle.roll(-first)[:size]] = True
    return masks


def stratified_subsets(labels: Tensor, share: float, runs: int, seed: int = 0) -> Tensor:
    """`balanced_subsets` inside each class, so that every class keeps its share of every subset.

    Args:
        labels: (n,) integers; a class needs at least 1 / share examples, and 1 / (1 - share).
        share: fraction of each class that each run trains on, in (0, 1).
        runs: how many subsets.
        seed: of the random circles.

    Returns:
        (runs, n) boolean, True = trained on.

    Raises:
        InputError: the share leaves nothing of a class on one side.
    """
    masks = torch.zeros(runs, len(labels), dtype=torch.bool)
    for c in labels.unique().tolist():
        rows = (labels == c).nonzero().squeeze(1)
        masks[:, rows] = balanced_subsets(len(rows), share, runs, seed_for(seed, "class", c))
    return masks


def mixed_subsets(n: int, shares: Sequence[float], runs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`runs` subsets of each share: masks (shares * runs, n) and each run's share (shares * runs,)."""
    masks = torch.cat([balanced_subsets(n, s, runs, seed) for s in shares])
    return masks, torch.tensor([s for s in shares for _ in range(runs)])
