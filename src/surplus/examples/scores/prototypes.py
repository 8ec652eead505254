"""Prototype distance: how far an example is from the typical ones (Sorscher et al. 2022, arXiv 2206.14486, section 5).

    score_i = min_j (1 - cos(e_i, c_j))        c_1 .. c_k: centres of spherical k-means on the directions of all e

The supervised variant measures from the mean direction of the example's own class. 0 = on the prototype. No labels and
no training are needed but for the embeddings; the authors take those of a self-supervised network.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from surplus.errors import InputError
from surplus.examples.embeddings import Embeddings
from surplus.examples.evidence import check
from surplus.examples.kmeans import assign, class_means, kmeans, squared_to_own
from surplus.examples.pool import Jobs, pool
from surplus.registry import method
from surplus.space import generator
from surplus.stats import Estimate

PAPER = "Sorscher, Geirhos, Shekhar, Ganguli & Morcos 2022, arXiv 2206.14486"
_MOST = 100
"""Clusters when neither k nor labels are given: the square root of n, but no more than this."""


@method("example score", paper=PAPER, high="hard")
def prototype_distance(
    inputs: Tensor | Embeddings,
    *,
    k: int | None = None,
    labels: Tensor | None = None,
    inits: int = 5,
    rounds: int = 100,
    sample: int | None = None,
    seed: int = 0,
    jobs: Jobs = None,
) -> Estimate:
    """Cosine distance to the nearest of k cluster centres, averaged over initialisations of k-means.

    Args:
        inputs: (n, ...) embeddings, or `Embeddings` that stay on disk.
        k: clusters; the number of classes when None, and without labels about the square root of n, at most 100. The
            paper finds the score much the same within a factor of five or so.
        labels: (n,) integers; only their number of classes counts, and only where k is None.
        inits: independent initialisations, whose spread gives the standard error.
        rounds: most passes over the data.
        sample: see `kmeans`.
        seed: for the initialisations.
        jobs: see `kmeans`.

    Returns:
        Estimate of shape (n,), 0 to 2.

    Raises:
        InputError: the embeddings cannot be used, or there are fewer of them than clusters.
    """
    data = Embeddings.of(inputs)
    k = _clusters(labels, len(data)) if k is None else k
    order = _canonical(data) if data.in_memory else None
    data = data if order is None else Embeddings.of(data.all()[order])
    chance = generator(seed, "prototype-distance")
    with pool(jobs) as workers:
        found = kmeans(
            data, k, generator=chance, metric="cosine", inits=inits, rounds=rounds, sample=sample, jobs=workers
        )
        squared, _ = assign(data, found.centres, metric="cosine", jobs=workers)  # || x - c ||^2 = 2 (1 - cos)
    return Estimate.over(squared / 2 if order is None else squared[:, order.argsort()] / 2)


@method("example score", paper=PAPER, high="hard")
def class_prototype_distance(inputs: Tensor | Embeddings, labels: Tensor, *, jobs: Jobs = None) -> Estimate:
    """Cosine distance to the mean direction of the example's own class.

    Args:
        inputs: (n, ...) embeddings, or `Embeddings` that stay on disk.
        labels: (n,) integers.
        jobs: see `kmeans`.

    Returns:
        Estimate of shape (n,) with one repeat, 0 to 2.

    Raises:
        InputError: the embeddings or labels cannot be used.
    """
    data = Embeddings.of(inputs).unit()
    classes, own = _classes(labels, len(data))
    with pool(jobs) as workers:
        means = normalize(class_means(data, own, classes, jobs=workers), dim=1)
        squared = squared_to_own(data, means, own, jobs=workers)
    return Estimate.over(squared[None] / 2)


def _clusters(labels: Tensor | None, n: int) -> int:
    return min(_MOST, round(n**0.5)) if labels is None else _classes(labels, n)[0]


def _classes(labels: Tensor, n: int) -> tuple[int, Tensor]:
    """How many classes there are, and which of them each example has, numbered without gaps (n,)."""
    check(labels=labels)
    if len(labels) != n:
        raise InputError(f"labels must be one per embedding, ({n},); got {tuple(labels.shape)}")
    present, own = labels.unique(return_inverse=True)
    return len(present), own


def _canonical(data: Embeddings) -> Tensor:
    """An order of the rows that depends on them alone, so that seeding does not see the order they came in: (n,)."""
    chance = generator(0, "canonical order")
    onto = torch.randn(data.dim, generator=chance, dtype=torch.float64)
    return torch.cat([x.double() @ onto.to(x.device) for x in data.chunks()]).argsort(stable=True)
