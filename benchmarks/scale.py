"""Ten million examples on one machine: scores from embeddings in Parquet, and every selection that reads scores.

    python benchmarks/scale.py [--rows 1000000 10000000] [--dim 128] [--folder TMP]

Writes clustered embeddings to a temporary folder (4 bytes a number; the neighbour search needs as much again) and takes
the scores and the selections, each step in a process of its own. Shown: wall and processor time, peak resident memory
of the process with torch in it, and how many times the first size's processor time a size takes. On the first size our
neighbour search is compared with exact search; so is faiss, where installed, with an inverted file of as many cells and
probes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from surplus.examples.embeddings import Embeddings, write_embeddings
from surplus.examples.scores.neighbours import knn_disagreement, knn_distance
from surplus.examples.scores.prototypes import class_prototype_distance, prototype_distance
from surplus.examples.search import CELL, neighbourhoods
from surplus.examples.selections.base import select
from surplus.space import generator

STEPS = (
    "prototype-distance",
    "class-prototype-distance",
    "knn-distance",
    "knn-disagreement",
    "hardest",
    "easiest",
    "random",
    "offset-window",
    "class-balanced-hardest",
    "class-balanced-random",
    "ccs",
    "prototypes",
    "moderate",
)
CLASSES, LATENT, QUERIES, NEIGHBOURS = 100, 20, 1000, 10


def clustered(rows: int, dim: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows around 100 centres, each spread over 20 directions of its own with a little noise, and their classes."""
    g = generator(0, "scale")
    centres = torch.randn(CLASSES, dim, generator=g)
    spread = torch.randn(CLASSES, LATENT, dim, generator=g) / LATENT**0.5
    for start in range(0, rows, 2**16):
        y = torch.randint(CLASSES, (min(2**16, rows - start),), generator=g).sort().values
        z = torch.randn(len(y), LATENT, generator=g).split(y.bincount(minlength=CLASSES).tolist())
        x = centres[y] + torch.cat([part @ spread[c] for c, part in enumerate(z)])
        x = x + 0.1 * torch.randn(x.shape, generator=g)
        order = torch.randperm(len(y), generator=g)
        yield x[order], y[order]


def write(folder: Path, rows: int, dim: int) -> None:
    labels = []

    def chunks() -> Iterator[Tensor]:
        for x, y in clustered(rows, dim):
            labels.append(y)
            yield x

    write_embeddings(folder / "embeddings.parquet", chunks())
    torch.save(torch.cat(labels), folder / "labels.pt")


def load(folder: Path) -> tuple[Embeddings, Tensor]:
    return Embeddings.of(folder / "embeddings.parquet"), torch.load(folder / "labels.pt")


def run(step: str, folder: Path) -> None:
    """One line of the table."""
    data, labels = load(folder)
    if step == "prototype-distance":  # k-means on the sample, then six passes over the data, and one for the scores
        torch.save(prototype_distance(data, k=CLASSES, inits=3, rounds=5).mean, folder / "scores.pt")
    elif step == "class-prototype-distance":
        class_prototype_distance(data, labels)
    elif step == "knn-distance":
        knn_distance(data, k=NEIGHBOURS)
    elif step == "knn-disagreement":
        knn_disagreement(data, labels, k=NEIGHBOURS)
    else:
        scores, given = torch.load(folder / "scores.pt"), {"embeddings": data} if step == "moderate" else {}
        kept = select(step, scores, len(data) // 2, labels=labels, generator=generator(0), **given)
        assert int(kept.sum()) == len(data) // 2


def compare(folder: Path, rows: int, dim: int) -> None:
    """Recall of the neighbours found, by ours and by faiss, against exact search for some queries."""
    data, _ = load(folder)
    queries = torch.arange(0, rows, rows // QUERIES)[:QUERIES]
    exact, x = exact_neighbours(data, queries), data.take(queries)
    began, found = time.time(), torch.empty(rows, NEIGHBOURS, dtype=torch.int32)
    for at, _, others in neighbourhoods(data, NEIGHBOURS):
        found[at] = others.int()
    print(f"  ours:  {time.time() - began:6.1f} s, recall {recall(found[queries], exact):.3f}", flush=True)
    try:
        import faiss
    except ImportError:
        return
    began, cells = time.time(), round(rows / CELL)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, cells)
    index.nprobe = 8
    index.train(data.sample(40 * cells, generator(0)).numpy())
    for chunk in data.chunks():
        index.add(chunk.numpy())
    index.search(x.numpy(), NEIGHBOURS + 1)
    built, began = time.time() - began, time.time()
    for chunk in data.chunks():
        index.search(chunk.numpy(), NEIGHBOURS + 1)
    theirs = torch.from_numpy(index.search(x.numpy(), NEIGHBOURS + 1)[1][:, 1:])
    print(f"  faiss: {built + time.time() - began:6.1f} s, recall {recall(theirs, exact):.3f}", flush=True)


def exact_neighbours(data: Embeddings, queries: Tensor) -> Tensor:
    """(queries, k) by comparing them with all rows."""
    x, at = data.take(queries), 0
    best = torch.full((len(x), 1), torch.inf), torch.zeros(len(x), 1, dtype=torch.long)
    for chunk in data.chunks():
        gaps, where = torch.cdist(x, chunk).topk(NEIGHBOURS + 1, largest=False)
        pool = torch.cat([best[0], gaps], 1), torch.cat([best[1], where + at], 1)
        gaps, where = pool[0].topk(NEIGHBOURS + 1, largest=False)
        best, at = (gaps, pool[1].gather(1, where)), at + len(chunk)
    return best[1][:, 1:]  # the first is the row itself


def recall(found: Tensor, exact: Tensor) -> float:
    return float((found[:, :, None] == exact[:, None]).any(1).double().mean())


def measured(step: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, seconds of processors, and peak gigabytes of this process."""
    began, worked = time.time(), time.process_time()
    run(step, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return time.time() - began, time.process_time() - worked, peak


def alone(step: str, folder: Path) -> tuple[float, float, float]:
    """As `measured`, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (step, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--folder", default=None, help="where the temporary folder goes")
    args = parser.parse_args()
    taken: dict[str, list[float]] = {step: [] for step in STEPS}
    for rows in args.rows:
        with tempfile.TemporaryDirectory(prefix="surplus-scale-", dir=args.folder) as made:
            folder, began = Path(made), time.time()
            write(folder, rows, args.dim)
            print(f"{rows:,} x {args.dim}, written in {time.time() - began:.0f} s on {torch.get_num_threads()} threads")
            print(f"  {'step':26}{'wall s':>8}{'cpu s':>8}{'peak GB':>9}{'cpu growth':>12}", flush=True)
            for step, times in taken.items():
                wall, cpu, peak = alone(step, folder)
                times.append(cpu)
                print(f"  {step:26}{wall:8.1f}{cpu:8.1f}{peak:9.2f}{cpu / times[0]:12.1f}", flush=True)
            if rows == args.rows[0]:
                compare(folder, rows, args.dim)


if __name__ == "__main__":
    main()
