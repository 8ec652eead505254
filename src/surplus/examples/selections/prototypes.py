"""Ranked keeping with a floor for every class (Sorscher et al. 2022, arXiv 2206.14486, the "balance" of their pruning).

    floor_c = min(n_c, floor(balance * keep / K))        K classes, n_c examples of class c

1. Every class keeps the first floor_c of its own ranking. 2. The places left go to the first of the others in the
ranking of all examples, whatever their class. Balance 0 is the ranking alone; with balance 1 all classes keep the same
number, as far as they have it. The paper states the share (50%), not the rule; this one is ours.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from surplus.errors import InputError, unknown
from surplus.examples.selections.base import check_labels, check_selection, hardest_first, mask_of
from surplus.registry import method


@method("selection", paper="Sorscher, Geirhos, Shekhar, Ganguli & Morcos 2022, arXiv 2206.14486")
def prototypes(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    prefer: Literal["hardest", "easiest"] = "hardest",
    balance: float = 0.5,
) -> Tensor:
    """Keep the hardest examples, or the easiest, but of every class at least a share of an even split.

    Args:
        scores: (n,) high = hard, such as `prototype_distance`.
        keep: how many examples stay.
        labels: (n,) integers.
        generator: not used.
        prefer: "hardest", for plentiful data; "easiest", for scarce.
        balance: share of an even split that each class is sure of, 0 to 1; the paper's is 0.5.

    Returns:
        (n,) bool.

    Raises:
        InputError: labels are missing or do not fit, or a setting is out of range.
    """
    check_selection(scores, keep)
    labels = check_labels(labels, len(scores), "prototypes")
    if prefer not in ("hardest", "easiest"):
        raise unknown("preference", prefer, ("hardest", "easiest"))
    if not 0 <= balance <= 1:
        raise InputError(f"balance is a share of an even split, from 0 to 1; got {balance}")
    order = hardest_first(scores) if prefer == "hardest" else scores.argsort(stable=True)
    classes, own = labels.unique(return_inverse=True)
    sure = rank_in_class(own[order]) < int(balance * keep / len(classes))
    return mask_of(torch.cat([order[sure], order[~sure][: keep - int(sure.sum())]]), len(scores))


def rank_in_class(own: Tensor) -> Tensor:
    """How many examples of the same class stand before each: classes 0, 1, ... (n,) -> (n,)."""
    by_class = own.argsort(stable=True)
    sizes = own.bincount()
    first = (sizes.cumsum(0) - sizes)[own[by_class]]  # where the class begins
    ranks = torch.empty_like(own)
    ranks[by_class] = torch.arange(len(own), device=own.device) - first
    return ranks
