"""TypiClust: the most typical point of each cluster, least-labelled clusters first (Hacohen, Dekel & Weinshall 2022).

    typicality(x) = 1 / (mean_{j in kNN(x)} || x - x_j || + 1e-5)        kNN within the cluster of x

With few labels, points that stand for many others teach the most. Features are L2-normalised; k-means makes as many
clusters as there will be labels, at most 500. The paper writes a distance, its code averages squared ones; so does
`squared=True`. arXiv 2202.02794, algorithm 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from surplus.errors import InputError
from surplus.examples.active.base import Pool, draw_seed
from surplus.examples.evidence import check, real
from surplus.registry import method
from surplus.stats import Estimate

PAPER = "Hacohen, Dekel & Weinshall 2022, arXiv 2202.02794"
ENTRIES = 2**24  # of the (rows, n) block of distances held at a time
FEW = 50  # clusters that plain k-means can afford; beyond, its mini-batch form


@method("query strategy", paper=PAPER)
def typiclust(
    pool: Pool,
    budget: int,
    *,
    generator: Generator | None = None,
    clusters: Tensor | None = None,
    most_clusters: int = 500,
    least_size: int = 6,
    neighbours: int = 20,
    squared: bool = False,
    normalise: bool = True,
) -> Tensor:
    """Visit clusters, those with fewest labels first and larger ones before smaller, and take each one's most typical.

    Args:
        pool: features and what is labelled; clusters are made of all features, candidates or not.
        budget: how many.
        generator: seeds k-means.
        clusters: (n,) cluster of each example, by a clustering of your own (deep clustering, say) instead of k-means.
        most_clusters: k = min(labels so far + budget, this).
        least_size: clusters with fewer members are left out while others have points to give; the paper's 6.
        neighbours: how many typicality averages over, at most half of the cluster.
        squared: average squared distances, as the paper's code does.
        normalise: scale features to length 1 first.

    Returns:
        (budget,) positions.

    Raises:
        InputError: `clusters` does not fit.
    """
    h = normalize(pool.features) if normalise else pool.features
    if clusters is None:
        count = min(int(pool.labelled.sum()) + budget, most_clusters)
        ids = clusters_of(h, count, generator)
    else:
        ids = _given(clusters, len(pool)).to(h.device)
    remaining, picks = pool.open.clone(), []
    left = torch.bincount(ids[pool.open], minlength=int(ids.max()) + 1)
    for cluster in islice(_turns(_ranked(ids, pool, least_size), left.tolist()), budget):
        rows = (remaining & (ids == cluster)).nonzero().squeeze(1)
        best = rows[nearness(h[rows], neighbours, squared).argmax()]
        remaining[best] = False
        picks.append(best)
    return torch.stack(picks)


def nearness(points: Tensor, neighbours: int = 20, squared: bool = False) -> Tensor:
    """Typicality (m,) of points (m, d) among themselves, over min(neighbours, m // 2) of them; 0 for a lone point."""
    kk, step = min(neighbours, len(points) // 2), max(1, ENTRIES // max(len(points), 1))
    if kk == 0:
        return torch.zeros_like(points[:, 0])
    mean = []
    for start in range(0, len(points), step):
        gaps = torch.cdist(points[start : start + step], points)  # (rows, m)
        own = torch.arange(len(gaps), device=gaps.device)
        gaps[own, own + start] = torch.inf
        near = gaps.topk(kk, largest=False).values
        mean.append((near.square() if squared else near).mean(1))
    return 1 / (torch.cat(mean) + 1e-5)


@method("example score", paper=PAPER, high="easy", cost="pairs")
def typicality(inputs: Tensor, *, neighbours: int = 20, squared: bool = False) -> Estimate:
    """Inverse mean distance to the nearest examples; typical ones are high, outliers low.

    Args:
        inputs: (n, ...) examples or embeddings, of all data or of one cluster, which is what TypiClust compares within.
        neighbours: how many of the nearest, at most half of the examples.
        squared: average squared distances.

    Returns:
        Estimate of shape (n,) with one repeat.
    """
    check(inputs=inputs)
    values = nearness(real(inputs).flatten(1), neighbours, squared)
    return Estimate(values, torch.full_like(values, torch.nan), 1)


def clusters_of(points: Tensor, clusters: int, generator: Generator | None) -> Tensor:
    """Cluster (n,) of each point (n, d): k-means from ten starts, or in mini-batches of 5000 beyond 50 clusters."""
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    seed = draw_seed(generator)
    model = (
        KMeans(clusters, n_init=10, random_state=seed)
        if clusters <= FEW
        else MiniBatchKMeans(clusters, n_init=3, batch_size=5000, random_state=seed)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: some stay empty
        ids = model.fit_predict(points.cpu().numpy())
    return torch.from_numpy(ids).long().to(points.device)


def _ranked(ids: Tensor, pool: Pool, least_size: int) -> tuple[list[int], list[int]]:
    """Clusters by rising number of labels, then falling size: those of `least_size` members or more, and the others."""
    member, known = pool.labelled | pool.open, pool.labelled
    sizes = torch.bincount(ids[member], minlength=int(ids.max()) + 1).tolist()
    labels = torch.bincount(ids[known], minlength=len(sizes)).tolist()
    order = sorted(range(len(sizes)), key=lambda c: (labels[c], -sizes[c]))
    return [c for c in order if sizes[c] >= least_size], [c for c in order if sizes[c] < least_size]


def _turns(tiers: tuple[list[int], list[int]], left: list[int]) -> Iterator[int]:
    """Clusters in turn, again and again, without those that have nothing `left`; the second tier after the first."""
    for tier in tiers:
        while alive := [c for c in tier if left[c] > 0]:
            for c in alive:
                left[c] -= 1
                yield c


def _given(clusters: Tensor, n: int) -> Tensor:
    """A user's clusters, numbered 0, 1, ... in the order of their ids."""
    clusters = torch.as_tensor(clusters)
    if clusters.shape != (n,) or clusters.is_floating_point():
        raise InputError(f"clusters must be integers ({n},); got {clusters.dtype} {tuple(clusters.shape)}")
    return clusters.unique(return_inverse=True)[1]
