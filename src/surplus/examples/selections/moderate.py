"""Moderate coreset: examples neither near to nor far from the middle of their class (Xia et al. 2023, ICLR, section 3).

    d_i = || h_i - mean_{y_j = y_i} h_j ||        keep the smallest | d_i - median_{y_j = y_i} d_j |

Not class-balanced by itself: every example competes with all others.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.examples.selections.base import check_embeddings, check_keep, check_labels, easiest
from surplus.registry import method


@method("selection", paper="Xia, Liu, Yu, Shen, Han & Liu 2023, ICLR")
def moderate(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    embeddings: Tensor | None = None,
) -> Tensor:
    """Keep the examples whose distance to their class centre is nearest to the median distance of the class.

    Args:
        scores: (n,) not used but for n.
        keep: how many examples stay, over all classes together.
        labels: (n,) integers.
        generator: not used.
        embeddings: (n, d) floats, such as penultimate features.

    Returns:
        (n,) bool.

    Raises:
        InputError: labels or embeddings are missing or do not fit.
    """
    check_keep(scores, keep)
    labels = check_labels(labels, len(scores), "moderate")
    features = check_embeddings(embeddings, len(scores), "moderate")
    return easiest(distance_from_median(features, labels), keep)


def distance_from_median(features: Tensor, labels: Tensor) -> Tensor:
    """| d_i - median of the class | for features (n, d): (n,)."""
    gap = torch.empty(len(features), dtype=features.dtype, device=features.device)
    for c in torch.unique(labels):
        own = labels == c
        distance = (features[own] - features[own].mean(0)).norm(dim=1)
        gap[own] = (distance - _median(distance)).abs()
    return gap


def _median(values: Tensor) -> Tensor:
    """The middle value, or the mean of the middle two."""
    ordered = values.sort().values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2
