"""Nearest neighbours of every row among all rows: exact, or through an inverted file of k-means cells.

    exact:  N_k(i) = the k smallest || x_i - x_j ||, j != i                          n^2 d operations
    cells:  j only from the p cells whose centres are nearest to that of i's own     about n^2 d p / cells

After Jegou, Douze & Schmid 2011 (doi 10.1109/TPAMI.2010.57); here the rows of a cell share their p cells, so that each
cell is one matrix product. Cells come from k-means of k-means on a sample. Rows that are read from files are laid down
cell by cell in a temporary file as large as the data (4 n d bytes).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.examples.embeddings import Embeddings, Part
from surplus.examples.kmeans import Metric, kmeans, nearest, over_parts, rows_for
from surplus.examples.pool import Jobs, Pool, pool
from surplus.space import generator

EXACT = 2**16
"""Up to so many rows all pairs are compared, unless told otherwise."""
CELL = 600
"""Rows in a cell, about, where the number of cells is not told."""
ENTRIES = 2**25
"""Distances held at a time."""
RUNS = 64
"""Pieces in which the rows are searched; the answers of one piece lie in memory."""


def neighbourhoods(
    data: Embeddings | Tensor,
    k: int,
    *,
    metric: Metric = "euclidean",
    cells: int | None = None,
    probes: int = 8,
    seed: int = 0,
    jobs: Jobs = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The k nearest others of every row, some rows at a time, so that they never lie in memory together.

    Args:
        data: n rows.
        k: neighbours; at most n - 1 are used.
        metric: "euclidean", or "cosine", whose distance is 1 - cosine.
        cells: of the inverted file; 1 compares all pairs. None: 1 up to `EXACT` rows, else one per `CELL` rows.
        probes: how many cells are searched.
        seed: for the cells.
        jobs: see `kmeans`.

    Yields:
        rows (b,), distances (b, k) rising, neighbours (b, k); each row comes once, in no particular order.

    Raises:
        InputError: a setting is out of range, or the rows cannot be used.
    """
    data = rows_for(data, metric)
    if k < 1 or probes < 1 or len(data) < 2 or not (cells is None or 1 <= cells <= len(data)):
        raise InputError(
            f"neighbours need k and probes of at least 1, at least 2 rows, and cells from 1 to {len(data)} rows; got"
            f" k = {k}, probes = {probes}, {len(data)} rows, cells = {cells}"
        )
    if cells is None:
        cells = 1 if len(data) <= EXACT else round(len(data) / CELL)
    k, done = min(k, len(data) - 1), 0
    with pool(jobs) as workers, _inverted_file(data, cells, seed, workers) as (file, order):
        calls = [(file, first, last, k, probes) for first, last in _even(file.bounds, RUNS)]
        for squared, neighbours in workers.run(_search, calls):
            rows = order[done : done + len(squared)]
            done += len(squared)
            yield rows, squared / 2 if metric == "cosine" else squared.sqrt(), order[neighbours.long()]


# ---- the inverted file ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """Rows sorted by cell."""

    centres: Tensor  # (cells, d)
    bounds: list[int]  # the rows of cell c are bounds[c] .. bounds[c + 1]
    source: Tensor | Path

    def rows(self, cell: int) -> Tensor:
        """Those of one cell, (b, d)."""
        start, stop = self.bounds[cell], self.bounds[cell + 1]
        if isinstance(self.source, Tensor):
            return self.source[start:stop]
        dim = self.centres.shape[1]
        flat = np.fromfile(self.source, np.float32, (stop - start) * dim, offset=4 * start * dim)
        return torch.from_numpy(flat).view(-1, dim)

    def near(self, cell: int, probes: int, k: int) -> list[int]:
        """The cell itself and those nearest to it, as many as asked for, and more where they hold no k others."""
        gaps = (self.centres - self.centres[cell]).square().sum(1)
        gaps[cell] = -1
        while True:
            found: list[int] = gaps.topk(min(probes, len(gaps)), largest=False).indices.tolist()
            if probes >= len(gaps) or sum(self.bounds[c + 1] - self.bounds[c] for c in found) > k:
                return found
            probes *= 2


@contextmanager
def _inverted_file(data: Embeddings, cells: int, seed: int, workers: Pool) -> Iterator[tuple[_File, Tensor]]:
    """The rows sorted by cell, and which row of the data each of them is (n,)."""
    tree = _tree(data, cells, seed)
    labels = torch.cat(over_parts(_cells_of, data, tree, jobs=workers))
    order, centres = labels.argsort(stable=True), torch.cat(tree[1])
    bounds = [0, *labels.bincount(minlength=len(centres)).cumsum(0).tolist()]
    if data.in_memory and workers.size == 1:
        yield _File(centres, bounds, data.all()[order]), order
        return
    with tempfile.TemporaryDirectory(prefix="surplus-") as folder:
        path = Path(folder, "rows")
        _lay_down(data, labels, bounds, path)
        yield _File(centres.float(), bounds, path), order


Tree = tuple[Tensor, list[Tensor]]
"""Centres (m, d), and around each of them the centres of its cells (m_j, d)."""


def _tree(data: Embeddings, cells: int, seed: int) -> Tree:
    """About so many cells, in two levels of k-means on a sample; each branch has cells in proportion to its rows."""
    chance = generator(seed, "cells")
    points = data.sample(40 * cells, chance)
    top = kmeans(points, round(cells**0.5), generator=chance, inits=1, rounds=10, jobs=1).best
    branch = nearest(points, top[None])[1][:, 0]
    leaves = []
    for j in range(len(top)):
        own = points[branch == j]
        count = min(max(1, round(cells * len(own) / len(points))), max(1, len(own)))
        leaves.append(
            kmeans(own, count, generator=chance, inits=1, rounds=10, jobs=1).best if len(own) else top[j : j + 1]
        )
    return top, leaves


def _cells_of(part: Part, tree: Tree) -> Tensor:
    """The cell of every row of a part (b,): the nearest of the nearest branch."""
    top, leaves = tree
    first = torch.tensor([0, *map(len, leaves)]).cumsum(0)
    found = []
    for x in part.chunks():
        branch = nearest(x, top[None])[1][:, 0]
        cell = torch.empty_like(branch)
        for j in branch.unique().tolist():
            own = branch == j
            cell[own] = first[j].to(cell.device) + nearest(x[own], leaves[j][None])[1][:, 0]
        found.append(cell)
    return torch.cat(found)


def _lay_down(data: Embeddings, labels: Tensor, bounds: list[int], path: Path) -> None:
    """Write the rows to a file, sorted by cell and inside a cell by position."""
    next_row, at, row_bytes = list(bounds), 0, 4 * data.dim
    with open(path, "wb") as file:
        for chunk in data.chunks():
            cells, order = labels[at : at + len(chunk)].sort(stable=True)
            at += len(chunk)
            content = chunk[order].float().cpu().numpy().tobytes()
            present, sizes = cells.unique_consecutive(return_counts=True)
            done = 0
            for cell, size in zip(present.tolist(), sizes.tolist(), strict=True):
                run = content[done * row_bytes : (done + size) * row_bytes]
                os.pwrite(file.fileno(), run, next_row[cell] * row_bytes)
                next_row[cell] += size
                done += size


# ---- the search -----------------------------------------------------------------------------------------------------


def _even(bounds: list[int], groups: int) -> list[tuple[int, int]]:
    """Runs of cells that hold about equally many rows."""
    goals = torch.linspace(0, bounds[-1], groups + 1)[1:-1]
    cuts = torch.searchsorted(torch.tensor(bounds), goals).tolist()
    edges = sorted({0, *cuts, len(bounds) - 1})
    return list(pairwise(edges))


def _search(file: _File, first: int, last: int, k: int, probes: int) -> tuple[Tensor, Tensor]:
    """Squared distances and places in the file, (b, k) each, for the rows of the cells first .. last."""
    squared, places = [], []
    for cell in range(first, last):
        if file.bounds[cell] == file.bounds[cell + 1]:
            continue
        near = file.near(cell, probes, k)
        rows = torch.cat([file.rows(c) for c in near]) - file.centres[cell]  # small numbers lose fewer digits
        place = torch.cat([torch.arange(file.bounds[c], file.bounds[c + 1], dtype=torch.int32) for c in near])
        gaps, at = closest(rows, file.bounds[cell + 1] - file.bounds[cell], k)
        squared.append(gaps)
        places.append(place.to(at.device)[at])
    return torch.cat(squared), torch.cat(places)


def closest(rows: Tensor, count: int, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest others of the first `count` rows (n, d): squared distances rising, and which, (count, k) each."""
    lengths, step = rows.square().sum(1), max(1, ENTRIES // len(rows))
    squared, found = [], []
    for start in range(0, count, step):
        own = torch.arange(start, min(start + step, count), device=rows.device)
        gaps = torch.addmm(lengths, rows[own], rows.T, alpha=-2)  # || a - b ||^2 less || a ||^2
        gaps[own - start, own] = torch.inf
        low, which = gaps.topk(k, largest=False)
        squared.append((low + lengths[own, None]).clamp(min=0))
        found.append(which)
    return torch.cat(squared), torch.cat(found)
