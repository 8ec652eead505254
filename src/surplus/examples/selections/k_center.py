"""k-center: no example far from a kept one (Gonzalez 1985; Sener & Savarese 2018, arXiv 1708.00489).

    s_{t+1} = argmax_i  min_{j in S} || h_i - h_j ||

The greedy radius is at most twice the smallest that any `keep` centres can reach.
"""

from __future__ import annotations

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
    if first is None:
        first = int(shuffled(len(scores), generator, scores.device)[0])
    if not 0 <= first < len(scores):
        raise InputError(f"first is an example from 0 to {len(scores) - 1}; got {first}")
    return mask_of(k_center_order(features, keep, first), len(scores))


def k_center_order(features: Tensor, keep: int, first: int) -> Tensor:
    """The first `keep` picks, in order, from features (n, d): (keep,) indices."""
    order = [torch.tensor(first, device=features.device)]
    gap = torch.full_like(features[:, 0], torch.inf)  # (n,) squared distance to the nearest pick; -1 once picked
    for _ in range(keep - 1):
        gap = gap.minimum((features - features[order[-1]]).square().sum(1)).index_fill(0, order[-1], -1)
        order.append(gap.argmax())
    return torch.stack(order)
