"""Scores from the k nearest neighbours: how far they are, and whether they bear another label.

    distance_i     = 1/k sum_{j in N_k(i)} || x_i - x_j ||      Angiulli & Pizzuti 2002; deep features: Sun et al. 2022
    disagreement_i = 1/k sum_{j in N_k(i)} [y_j != y_i]         Wilson 1972; deep features: Bahri, Jiang & Gupta 2020

Up to 65,536 rows all pairs are compared. Beyond, an inverted file is searched, which misses some neighbours and finds
others a little farther: see `surplus.examples.search`, and set `cells=1` for all pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.examples.embeddings import Embeddings
from surplus.examples.evidence import check
from surplus.examples.kmeans import Metric
from surplus.examples.pool import Jobs
from surplus.examples.search import neighbourhoods
from surplus.registry import method
from surplus.stats import Estimate


@method("example score", paper="Angiulli & Pizzuti 2002, doi 10.1007/3-540-45681-3_2", high="hard", cost="pairs")
def knn_distance(
    inputs: Tensor | Embeddings,
    *,
    k: int = 10,
    metric: Metric = "euclidean",
    cells: int | None = None,
    probes: int = 8,
    seed: int = 0,
    jobs: Jobs = None,
) -> Estimate:
    """Mean distance to the k nearest neighbours.

    Args:
        inputs: (n, ...) examples or embeddings, or `Embeddings` that stay on disk.
        k: neighbours; at most n - 1 are used.
        metric: "euclidean", or "cosine", whose distance is 1 - cosine.
        cells: see `neighbourhoods`.
        probes: see `neighbourhoods`.
        seed: for the cells.
        jobs: see `kmeans`.

    Returns:
        Estimate of shape (n,) with one repeat.

    Raises:
        InputError: a setting is out of range, or the inputs cannot be used.
    """
    data = Embeddings.of(inputs)
    score = torch.empty(len(data))
    for rows, distances, _ in neighbourhoods(data, k, metric=metric, cells=cells, probes=probes, seed=seed, jobs=jobs):
        score = score.to(distances)
        score[rows] = distances.mean(1)
    return Estimate.over(score[None])


@method("example score", paper="Bahri, Jiang & Gupta 2020, arXiv 2004.12289", high="noisy", cost="pairs")
def knn_disagreement(
    inputs: Tensor | Embeddings,
    labels: Tensor,
    *,
    k: int = 10,
    metric: Metric = "euclidean",
    cells: int | None = None,
    probes: int = 8,
    seed: int = 0,
    jobs: Jobs = None,
) -> Estimate:
    """Share of the k nearest neighbours that bear another label.

    Args:
        inputs: (n, ...) examples or embeddings, or `Embeddings` that stay on disk.
        labels: (n,) integers.
        k: neighbours; at most n - 1 are used.
        metric: "euclidean", or "cosine".
        cells: see `neighbourhoods`.
        probes: see `neighbourhoods`.
        seed: for the cells.
        jobs: see `kmeans`.

    Returns:
        Estimate of shape (n,) with one repeat, 0 to 1.

    Raises:
        InputError: a setting is out of range, or the inputs or labels cannot be used.
    """
    data = Embeddings.of(inputs)
    check(labels=labels)
    if len(labels) != len(data):
        raise InputError(f"labels must be one per embedding, ({len(data)},); got {tuple(labels.shape)}")
    score = torch.empty(len(data), device=labels.device)
    for rows, _, others in neighbourhoods(data, k, metric=metric, cells=cells, probes=probes, seed=seed, jobs=jobs):
        rows, others = rows.to(labels.device), others.to(labels.device)
        score[rows] = (labels[others] != labels[rows, None]).to(score).mean(1)
    return Estimate.over(score[None])
