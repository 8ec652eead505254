"""k-means over rows that need not fit into memory (Lloyd 1982), seeded by k-means++ (Arthur & Vassilvitskii 2007).

    repeat:  a_i = argmin_j || x_i - c_j ||^2        c_j = mean of the x_i with a_i = j
    seeding: the next centre is x_i with probability  min_j || x_i - c_j ||^2 / sum over all i

With metric "cosine", rows and centres are scaled to length one (spherical k-means, Dhillon & Modha 2001). All
initialisations go on together, so that a round reads the data once, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from surplus.errors import InputError, unknown
from surplus.examples.embeddings import Embeddings, Part
from surplus.examples.pool import Jobs, Pool, pool

Metric = Literal["euclidean", "cosine"]
SAMPLE = 256
"""Rows of a file, for each cluster, on which centres are seeded and first settle."""


@dataclass(frozen=True)
class Clustering:
    """Centres of several initialisations, and how well they fit."""

    centres: Tensor
    """(inits, k, d)"""
    inertia: Tensor
    """(inits,) sum over the rows of the squared distance to the nearest centre"""
    rounds: int
    """Passes over all the data in which centres moved."""

    @property
    def best(self) -> Tensor:
        """The centres with the smallest inertia, (k, d)."""
        return self.centres[int(self.inertia.argmin())]


def kmeans(
    data: Embeddings | Tensor,
    k: int,
    *,
    generator: Generator,
    metric: Metric = "euclidean",
    inits: int = 3,
    rounds: int = 100,
    tolerance: float = 1e-4,
    sample: int | None = None,
    start: Tensor | None = None,
    jobs: Jobs = None,
) -> Clustering:
    """Centres of k clusters from several initialisations.

    Args:
        data: n rows.
        k: clusters, 1 to n.
        generator: for the seeding.
        metric: "euclidean", or "cosine" for directions.
        inits: independent initialisations; all are returned.
        rounds: most passes over the data.
        tolerance: stop when the squared movement of the centres is below this share of the data's mean variance.
        sample: how many random rows the seeding looks at; the centres then first settle on these. None: all of a
            tensor, and 256 per cluster of a file.
        start: (inits, k, d) or (k, d) first centres, instead of seeding.
        jobs: workers, or an open pool of them; None takes what `joblib.parallel_config` says, else this process.

    Returns:
        Clustering.

    Raises:
        InputError: a setting is out of range, or the rows cannot be used.
    """
    data = rows_for(data, metric)
    if not (isinstance(k, int) and 1 <= k <= len(data)) or inits < 1 or rounds < 0:
        raise InputError(
            f"k-means needs k from 1 to {len(data)} rows, inits of at least 1 and rounds of at least 0; got k = {k!r},"
            f" inits = {inits}, rounds = {rounds}"
        )
    size = sample or (len(data) if data.in_memory else SAMPLE * k)
    points = data.sample(max(size, k), generator)
    if start is None:
        centres = torch.stack([plus_plus(points, k, generator) for _ in range(inits)])
    else:
        centres = _start(start, k, data.dim).to(points)
    with pool(jobs) as workers:
        settings = _Lloyd(points, generator, metric, rounds, tolerance, workers)
        if len(points) < len(data) and start is None:
            centres = replace(settings, workers=Pool(1)).run(rows_for(points, metric), centres).centres
        return settings.run(data, centres)


def plus_plus(points: Tensor, k: int, generator: Generator, centres: Tensor | None = None) -> Tensor:
    """Draw k centres among the points by k-means++; of several draws each takes the one that lowers the inertia most.

    Args:
        points: (n, d)
        k: how many centres to draw.
        generator: for the draws.
        centres: (m, d) that are there already.

    Returns:
        (k, d) centres drawn.
    """
    drawn: list[Tensor] = []
    if centres is None:
        uniform = points.new_ones(len(points))
        centres = points[_draw(uniform, 1, generator)]
        drawn.append(centres[0])
    squares, trials = points.norm(dim=1).square(), 2 + int(math.log(k))
    gap = nearest(points, centres[None])[0][:, 0]
    for _ in range(k - len(drawn)):
        candidates = points[_draw(gap, trials, generator)]
        gaps = _squared(points, squares, candidates).minimum(gap[:, None])  # (n, trials)
        chosen = int(gaps.sum(0).argmin())
        drawn.append(candidates[chosen])
        gap = gaps[:, chosen]
    return torch.stack(drawn)


def nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest centre, and which: x (b, d), centres (inits, k, d) -> (b, inits) twice."""
    flat = centres.flatten(0, 1)
    gaps = torch.addmm(flat.square().sum(1), x, flat.T, alpha=-2)  # || x - c ||^2 less || x ||^2
    low, labels = gaps.view(len(x), *centres.shape[:2]).min(2)
    return (low + x.norm(dim=1, keepdim=True).square()).clamp(min=0), labels


def assign(
    data: Embeddings | Tensor, centres: Tensor, *, metric: Metric = "euclidean", jobs: Jobs = None
) -> tuple[Tensor, Tensor]:
    """Squared distance of every row to its nearest centre, and which it is.

    Args:
        data: n rows.
        centres: (inits, k, d) or (k, d).
        metric: as for `kmeans`; squared distances between directions are 2 (1 - cosine).
        jobs: as for `kmeans`.

    Returns:
        squared distances (inits, n), and labels (inits, n) as int32; without the first axis where centres had none.
    """
    data = rows_for(data, metric)
    many = centres if centres.ndim == 3 else centres[None]
    found = over_parts(_assign_part, data, many, jobs=jobs)
    squared, labels = (torch.cat(pieces, 1) for pieces in zip(*found, strict=True))
    return (squared, labels) if centres.ndim == 3 else (squared[0], labels[0])


def rows_for(data: Embeddings | Tensor, metric: str) -> Embeddings:
    """The rows, scaled to length one where the metric is of directions."""
    if metric not in ("euclidean", "cosine"):
        raise unknown("metric", metric, ("euclidean", "cosine"))
    rows = Embeddings.of(data)
    return rows.unit() if metric == "cosine" else rows


def over_parts(
    fn: Callable[..., Any], data: Embeddings, *shared: Any, jobs: Jobs = None, own: Sequence[Any] = ()
) -> list[Any]:
    """fn(part, *shared) for every part of the data, in order, over joblib's workers.

    Args:
        fn: returns something small.
        data: whose parts are the calls.
        shared: what all calls get.
        jobs: as for `kmeans`.
        own: (n,) tensors of which each call gets the part's rows, after the shared ones.
    """
    calls = [(p, *shared, *(t[p.start : p.stop] for t in own)) for p in data.parts]
    with pool(jobs) as workers:
        return list(workers.run(fn, calls))


def class_means(data: Embeddings, own: Tensor, classes: int, *, jobs: Jobs = None) -> Tensor:
    """Mean row of each class: classes of the rows (n,), numbered from 0 -> (classes, d), in double precision."""
    sums: Tensor = sum(over_parts(_class_sums, data, classes, jobs=jobs, own=(own,)))
    return sums / own.bincount(minlength=classes)[:, None]


def squared_to_own(data: Embeddings, centres: Tensor, own: Tensor, *, jobs: Jobs = None) -> Tensor:
    """Squared distance of every row to the centre that `own` (n,) says, of centres (k, d): (n,)."""
    return torch.cat(over_parts(_squared_to_own, data, centres, jobs=jobs, own=(own,)))


# ---- Lloyd's rounds -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lloyd:
    """Rounds of assigning and averaging; `points` (m, d) is where an empty cluster finds a new centre."""

    points: Tensor
    generator: Generator
    metric: Metric
    rounds: int
    tolerance: float
    workers: Pool

    def run(self, data: Embeddings, centres: Tensor) -> Clustering:
        """Until the centres rest; the inertia is that of the centres returned."""
        enough = self.tolerance * float(self.points.var(0, correction=0).mean())
        for done in range(self.rounds + 1):
            pieces = over_parts(_sums, data, centres, jobs=self.workers)
            sums, counts, inertia = (torch.stack(column).sum(0) for column in zip(*pieces, strict=True))
            moved = self._means(sums, counts, centres)
            if done == self.rounds or bool(((moved - centres).square().sum((1, 2)) <= enough).all()):
                break
            centres = moved
        return Clustering(centres, inertia, done)

    def _means(self, sums: Tensor, counts: Tensor, centres: Tensor) -> Tensor:
        """Next centres from the sums (inits, k, d) and sizes (inits, k) of the clusters."""
        means = (sums / counts.clamp(min=1)[..., None]).to(centres)
        if self.metric == "cosine":
            means = torch.nn.functional.normalize(means, dim=2)
        for init, empty in enumerate(counts == 0):
            if bool(empty.any()):
                means[init, empty] = plus_plus(self.points, int(empty.sum()), self.generator, means[init, ~empty])
        return means


def _sums(part: Part, centres: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums (inits, k, d) and sizes (inits, k) of the clusters and inertia (inits,) of a part, in double precision."""
    sums = torch.zeros(centres.shape, dtype=torch.float64, device=centres.device)
    counts, inertia = torch.zeros_like(sums[..., 0]), torch.zeros_like(sums[:, 0, 0])
    for x in part.chunks():
        squared, labels = nearest(x, centres)
        inertia += squared.sum(0, dtype=torch.float64)
        for init, own in enumerate(labels.T):
            sums[init] += torch.zeros_like(centres[0]).index_add_(0, own, x)
            counts[init] += own.bincount(minlength=centres.shape[1])
    return sums, counts, inertia


def _assign_part(part: Part, centres: Tensor) -> tuple[Tensor, Tensor]:
    pieces = [nearest(x, centres) for x in part.chunks()]
    return torch.cat([s for s, _ in pieces]).T, torch.cat([l.int() for _, l in pieces]).T


def _class_sums(part: Part, classes: int, own: Tensor) -> Tensor:
    sums, at = torch.zeros(classes, part.dim, dtype=torch.float64, device=own.device), 0
    for x in part.chunks():
        sums.index_add_(0, own[at : at + len(x)], x.double())
        at += len(x)
    return sums


def _squared_to_own(part: Part, centres: Tensor, own: Tensor) -> Tensor:
    squared, at = [], 0
    for x in part.chunks():
        squared.append((x - centres.to(x)[own[at : at + len(x)]]).square().sum(1))
        at += len(x)
    return torch.cat(squared)


def _start(start: Tensor, k: int, dim: int) -> Tensor:
    many = start if start.ndim == 3 else start[None]
    if many.shape[1:] != (k, dim):
        raise InputError(f"start holds k = {k} centres of {dim} numbers, (inits, k, d); got {tuple(start.shape)}")
    return many


def _draw(weights: Tensor, count: int, generator: Generator) -> Tensor:
    """Positions drawn with probability in proportion to the weights (n,): (count,)."""
    heights = weights.cumsum(0, dtype=torch.float64)
    if float(heights[-1]) == 0:  # every point is a centre already
        heights = torch.ones_like(heights).cumsum(0)
    at = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64).to(heights.device)
    return torch.searchsorted(heights, at * heights[-1], right=True).clamp(max=len(weights) - 1)


def _squared(points: Tensor, squares: Tensor, rows: Tensor) -> Tensor:
    """Squared distances (n, rows) of points whose squared lengths are known to some rows."""
    return torch.addmm(rows.square().sum(1), points, rows.T, alpha=-2).add_(squares[:, None]).clamp_(min=0)
