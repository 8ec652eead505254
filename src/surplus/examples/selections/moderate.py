"""Moderate coreset: examples neither near to nor far from the middle of their class (Xia et al. 2023, ICLR, section 3).

    d_i = || h_i - mean_{y_j = y_i} h_j ||        keep the smallest | d_i - median_{y_j = y_i} d_j |

Not class-balanced by itself: every example competes with all others.
"""

from __future__ import annotations

from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.examples.embeddings import Embeddings
from surplus.examples.kmeans import class_means, squared_to_own
from surplus.examples.selections.base import check_embeddings, check_keep, check_labels, easiest
from surplus.registry import method


@method("selection", paper="Xia, Liu, Yu, Shen, Han & Liu 2023, ICLR")
def moderate(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    embeddings: Tensor | Embeddings | None = None,
) -> Tensor:
    """Keep the examples whose distance to their class centre is nearest to the median distance of the class.

    Args:
        scores: (n,) not used but for n.
        keep: how many examples stay, over all classes together.
        labels: (n,) integers.
        generator: not used.
        embeddings: (n, d) floats, such as penultimate features, or `Embeddings` that stay on disk.

    Returns:
        (n,) bool.

    Raises:
        InputError: labels or embeddings are missing or do not fit.
    """
    check_keep(scores, keep)
    labels = check_labels(labels, len(scores), "moderate")
    if not isinstance(embeddings, Embeddings):
        return easiest(distance_from_median(check_embeddings(embeddings, len(scores), "moderate"), labels), keep)
    if len(embeddings) != len(scores):
        raise InputError(f"embeddings must have one row per score, {len(scores)}; got {len(embeddings)}")
    return easiest(distance_from_median(embeddings, labels), keep)


def distance_from_median(features: Tensor | Embeddings, labels: Tensor) -> Tensor:
    """| d_i - median of the class | for features (n, d): (n,)."""
    data = Embeddings.of(features)
    own, sizes = labels.unique(return_inverse=True, return_counts=True)[1:]
    distance = squared_to_own(data, class_means(data, own, len(sizes)), own).sqrt()
    return (distance - _medians(distance, own, sizes)[own]).abs()


def _medians(values: Tensor, own: Tensor, sizes: Tensor) -> Tensor:
    """The middle value of each class, or the mean of the middle two: values (n,), classes (n,) -> (classes,)."""
    order = values.argsort()
    ordered = values[order[own[order].argsort(stable=True)]]  # class by class, each rising
    first = sizes.cumsum(0) - sizes
    return (ordered[first + (sizes - 1) // 2] + ordered[first + sizes // 2]) / 2
