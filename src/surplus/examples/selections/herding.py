"""Herding: a subset whose mean follows the mean of all (Welling 2009; Chen, Welling & Smola 2010, arXiv 1203.3472).

    s_{t+1} = argmin_i || (t + 1) mu - sum_{j in S} h_j - h_i ||,  no repeats        mu = mean of all h

Greedy and deterministic; each pick costs one pass over the features.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.examples.selections.base import Compat, check_compat, check_embeddings, check_keep, mask_of
from surplus.registry import method


@method("selection", paper="Welling 2009, doi 10.1145/1553374.1553517")
def herding(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    embeddings: Tensor | None = None,
    compat: Compat = None,
) -> Tensor:
    """Keep the examples that, picked one by one, hold the running mean nearest to the mean of all.

    Args:
        scores: (n,) not used but for n.
        keep: how many examples stay.
        labels: not used; `within_classes(herding, ...)` herds each class to its own mean.
        generator: not used.
        embeddings: (n, d) floats, such as penultimate features.
        compat: "deepcore" takes the farthest where herding takes the nearest, as that code does.

    Returns:
        (n,) bool; nested for growing `keep`.

    Raises:
        InputError: embeddings are missing or do not fit.
    """
    check_keep(scores, keep)
    check_compat(compat)
    features = check_embeddings(embeddings, len(scores), "herding")
    return mask_of(herding_order(features, keep, farthest=compat == "deepcore"), len(scores))


def herding_order(features: Tensor, keep: int, *, farthest: bool = False) -> Tensor:
    """The first `keep` picks, in order, from features (n, d): (keep,) indices; `farthest` turns every choice round."""
    centred = features - features.mean(0)
    length = centred.square().sum(1)  # (n,); infinite, or minus that, once picked
    debt = torch.zeros_like(centred[0])  # sum of the picks, which the mean wants at 0
    order = []
    for _ in range(keep):
        distance = length + 2 * centred @ debt  # || debt + h_i ||^2 up to a constant
        pick = distance.argmax() if farthest else distance.argmin()
        order.append(pick)
        debt = debt + centred[pick]
        length = length.index_fill(0, pick, -torch.inf if farthest else torch.inf)
    return torch.stack(order)
