"""k-center: no example far from a kept one (Gonzalez 1985; Sener & Savarese 2018, arXiv 1708.00489).

    s_{t+1} = argmax_i  min_{j in S} || h_i - h_j ||

The greedy radius is at most twice the smallest that any `keep` centres can reach.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.examples.selections.base import check_embeddings, check_keep, mask_of, shuffled
from surplus.registry import method


@method("selection", paper="Sener & Savarese 2018, arXiv 1708.00489")
def k_center(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    embeddings: Tensor | None = None,
    first: int | None = None,
) -> Tensor:
    """Keep examples picked one by one, each the farthest from those already kept.

    Args:
        scores: (n,) not used but for n.
        keep: how many examples stay.
        labels: not used.
        generator: draws the first pick.
        embeddings: (n, d) floats, such as penultimate features.
        first: the first pick, instead of a drawn one.

    Returns:
        (n,) bool; nested for growing `keep` from the same first pick.

    Raises:
        InputError: embeddings are missing or do not fit, or `first` is no example.
    """
    check_keep(scores, keep)
    features = check_embeddings(embeddings, len(scores), "k-center")
    return mask_of(k_center_order(features, keep, first_pick(first, scores, generator)), len(scores))


def k_center_order(features: Tensor, keep: int, first: int) -> Tensor:
    """The first `keep` picks, in order, from features (n, d): (keep,) indices."""
    features = features - features.mean(0)  # far from the origin, the squares below would cancel
    length = features.square().sum(1)

    def gaps(pick: int) -> Tensor:  # one pass over the features where the difference would take three
        return (length - 2 * features @ features[pick] + length[pick]).clamp(min=0)

    return farthest_first(gaps, len(features), keep, first)


def farthest_first(gaps: Callable[[int], Tensor], n: int, keep: int, first: int) -> Tensor:
    """Pick again and again what is farthest from its nearest pick.

    Args:
        gaps: distance (n,) of all to one pick, or anything that grows with it.
        n: examples.
        keep: how many picks.
        first: the first one.

    Returns:
        (keep,) indices in order.
    """
    order = [first]
    gap = gaps(first)  # (n,) to the nearest pick; -1 once picked
    gap[first] = -1
    while len(order) < keep:
        order.append(int(gap.argmax()))
        gap = gap.minimum(gaps(order[-1]))
        gap[order[-1]] = -1
    return torch.tensor(order, device=gap.device)


def first_pick(first: int | None, scores: Tensor, generator: Generator | None) -> int:
    """The example to start from: the one that is given, or a drawn one."""
    if first is None:
        return int(shuffled(len(scores), generator, scores.device)[0])
    if not 0 <= first < len(scores):
        raise InputError(f"first is an example from 0 to {len(scores) - 1}; got {first}")
    return first
