"""ProbCover: balls that cover the most examples not covered yet (Yehuda, Dekel, Hacohen & Weinshall 2022).

    x_t = argmax_x  |{ y not covered : || x - y || < delta }|

Labelled examples cover first. delta is the largest radius at which a share of 95% of the balls is pure, that is all
their points carry the pseudo-label of the centre. Features are L2-normalised. arXiv 2205.11320.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from surplus.errors import InputError
from surplus.examples.active.base import Pool, random
from surplus.examples.active.typiclust import ENTRIES, clusters_of
from surplus.registry import method


@method("query strategy", paper="Yehuda, Dekel, Hacohen & Weinshall 2022, arXiv 2205.11320")
def prob_cover(
    pool: Pool,
    budget: int,
    *,
    generator: Generator | None = None,
    delta: float | None = None,
    clusters: int | None = None,
    purity: float = 0.95,
    normalise: bool = True,
) -> Tensor:
    """Take, one by one, the example within `delta` of the most examples that no pick and no label covers yet.

    Args:
        pool: features and what is labelled.
        budget: how many.
        generator: seeds the k-means behind delta; draws the rest at random once everything is covered.
        delta: radius; by `purity_radius` under k-means pseudo-labels when None. Keep one delta over all rounds.
        clusters: pseudo-labels for delta, best as many as there are classes; labels so far + budget when None.
        purity: share of the balls that must be pure.
        normalise: scale features to length 1 first; 0.75 is then the paper's delta for CIFAR-10.

    Returns:
        (budget,) positions.

    Raises:
        InputError: a delta that is not positive.
    """
    h = normalize(pool.features) if normalise else pool.features
    if delta is None:
        known = int(pool.labelled.sum())
        delta = purity_radius(h, clusters_of(h, min(len(h), max(2, clusters or known + budget)), generator), purity)
    if not delta > 0:
        raise InputError(f"delta is the radius of a ball, above 0; got {delta}. Do examples repeat?")
    bare = (pool.labelled | pool.open) & ~_covered(h, h[pool.labelled], delta)
    degree, free = _degrees(h, bare, delta), pool.open.clone()
    picks: list[Tensor] = []
    while len(picks) < budget and int(degree.masked_fill(~free, 0).max()) > 0:
        pick = degree.masked_fill(~free, -1).argmax()
        new = bare & _covered(h, h[pick][None], delta)
        degree, bare, free = degree - _degrees(h, new, delta), bare & ~new, free.index_fill(0, pick, False)
        picks.append(pick)
    if len(picks) == budget:
        return torch.stack(picks)
    rest = random(Pool(h, ~free, free), budget - len(picks), generator=generator)
    return torch.cat([torch.stack(picks), rest]) if picks else rest


def purity_radius(features: Tensor, labels: Tensor, purity: float = 0.95) -> float:
    """The largest delta at which a share `purity` of the balls {y : ||x - y|| < delta} holds one label only.

    Args:
        features: (n, d), normalised as they will be used.
        labels: (n,) pseudo-labels, from k-means say, or true ones.
        purity: share of the examples, in (0, 1].

    Raises:
        InputError: one label only, or a purity outside (0, 1].
    """
    if not 0 < purity <= 1:
        raise InputError(f"purity is a share of the balls in (0, 1]; got {purity}")
    if len(labels.unique()) < 2:
        raise InputError("all examples carry one pseudo-label, so every ball is pure; pass delta=, or more clusters")
    gaps = [near.masked_fill(labels[rows][:, None] == labels, torch.inf).amin(1) for rows, near in _blocks(features)]
    nearest = torch.cat(gaps).sort().values  # a ball is pure up to the nearest point of another label
    return float(nearest[len(nearest) - math.ceil(purity * len(nearest))])


def _degrees(h: Tensor, among: Tensor, delta: float) -> Tensor:
    """(n,) how many of the points `among` (n,) bool lie within delta of each point."""
    return torch.cat([(near < delta).sum(1) for _, near in _blocks(h, h[among])])


def _covered(h: Tensor, centres: Tensor, delta: float) -> Tensor:
    """(n,) bool: which points lie within delta of a centre (m, d)."""
    return torch.cat([(near < delta).any(1) for _, near in _blocks(h, centres)])


def _blocks(h: Tensor, others: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Distances (rows, m) of the points to the others, a block of rows at a time."""
    others = h if others is None else others
    step = max(1, ENTRIES // max(len(others), 1))
    for start in range(0, len(h), step):
        rows = slice(start, start + step)
        yield rows, torch.cdist(h[rows], others)
