"""Many scores of one data set, side by side: what `surplus score` writes.

table = score_task(load("digits"), ["el2n", "grand", "aum"])
table.save("scores")          # scores.parquet, correlation.csv, stability.csv, scores.json
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surplus import __version__
from surplus.data import Dataset
from surplus.errors import InputError, check_folder
from surplus.examples.embeddings import Embeddings, read_ids
from surplus.examples.gathering import Gathering, gather, of_record
from surplus.examples.scoring import check_served, correlations, missing, reliability, score, takes
from surplus.examples.stability import Stability, stability
from surplus.registry import find
from surplus.stats import Estimate
from surplus.tasks import Task
from surplus.training import Store, read_record
from surplus.training.record import record_arrays
from surplus.training.store import write_atomically


@dataclass(frozen=True)
class ScoreTable:
    """Scores by name, each an Estimate of shape (n,), and what is known of them."""

    ids: np.ndarray
    """(n,) of the examples."""
    labels: np.ndarray | None
    """(n,) names of their classes, where known."""
    scores: dict[str, Estimate]
    reliability: dict[str, float]
    """Split-half reliability of the scores that rest on several runs."""
    stability: dict[str, Stability]
    """How many runs make the top stable, of those scores."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> None:
        """Write scores.parquet, correlation.csv, stability.csv and scores.json.

        Raises:
            InputError: the folder cannot be made or written to.
        """
        folder = Path(folder)
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_scores(folder / "scores.parquet", self.ids, self.labels, self.scores)
        names, matrix = correlations(self.scores)
        rows = [["score", *names], *([n, *(f"{v:.6f}" for v in row)] for n, row in zip(names, matrix, strict=True))]
        _write_csv(folder / "correlation.csv", rows)
        steps = [(n, s.top, r, o) for n, s in self.stability.items() for r, o in zip(s.runs, s.overlap, strict=True)]
        _write_csv(folder / "stability.csv", [("score", "top", "runs", "overlap"), *steps])
        text = json.dumps({"scores": self.summary(), **self.provenance}, indent=1, ensure_ascii=False)
        write_atomically(folder / "scores.json", text.encode())

    def summary(self) -> list[dict[str, Any]]:
        """A line per score: what high means, runs, reliability, and how many runs make its top stable."""
        rows = []
        for name, estimate in self.scores.items():
            found, settled = find("example score", name), self.stability.get(name)
            rows.append(
                {
                    "name": name,
                    "high": found.traits["high"],
                    "runs": int(torch.as_tensor(estimate.repeats).max()),
                    "reliability": _number(self.reliability.get(name)),
                    "top": settled.top if settled else None,
                    "runs_until_stable": settled.needed if settled else None,
                    "extrapolated": settled.extrapolated if settled else None,
                    "paper": found.paper,
                }
            )
        return rows


def score_task(
    task: Task,
    names: Sequence[str] = (),
    settings: Gathering | None = None,
    *,
    top: float = 0.1,
    store: Store | None = None,
) -> ScoreTable:
    """Train what the scores need, and score every training example.

    Args:
        task: data, network and recipe; classification.
        names: of registered example scores; all that a training record serves when empty.
        settings: how many networks are trained.
        top: share of the examples whose stability is looked at.
        store: where runs are kept.

    Raises:
        InputError: no such score, or the task does not serve it.
    """
    _check_top(top)
    settings = settings or Gathering()
    names = list(dict.fromkeys(find("example score", n).name for n in names)) or of_record()
    evidence = gather(task, names, settings, store=store)
    provenance = {
        "data": {"name": task.name, "fingerprint": task.train.fingerprint, "examples": len(task.train)},
        "network": task.network.identity,
        "recipe": task.recipe.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "version": __version__,
    }
    labels = _class_names(task.train)
    return _table(task.train.ids, labels, names, evidence, top, provenance)


def score_record(record: str | Path, names: Sequence[str] = (), *, top: float = 0.1) -> ScoreTable:
    """Score a record that `ExampleRecord` wrote, in a training loop of anyone's; ids are the record's positions.

    Args:
        record: the folder of the record's files, or one of its files.
        names: of scores that a record serves; all of them when empty.
        top: share of the examples whose stability is looked at.

    Raises:
        InputError: no record there, a damaged one, or a score that needs more than a record.
    """
    _check_top(top)
    path = Path(record)
    if not path.exists():
        raise InputError(f"there is no record {str(path)!r}; give the folder of its files epochs-00000.parquet, ...")
    arrays = read_record(path) if path.is_dir() else record_arrays([path])
    served = [n for n in of_record() if not missing(n, arrays)]
    names = list(dict.fromkeys(find("example score", n).name for n in names)) or served
    if not names:
        raise InputError(f"{str(path)!r} serves no score: it holds {', '.join(arrays)}, and scores read other columns")
    replicas, epochs, n = next(iter(arrays.values())).shape
    if not replicas * epochs * n:
        raise InputError(f"{str(path)!r} holds no visit of any example")
    return _table(np.arange(n), None, names, arrays, top, {"record": str(path), "version": __version__})


def score_embeddings(
    embeddings: str | Path, names: Sequence[str] = (), *, labels: str | None = None, seed: int = 0
) -> ScoreTable:
    """Score embeddings that need not fit into memory.

    Args:
        embeddings: a Parquet file or a folder of them; see `surplus.examples.embeddings`. Ids are those of a column
            `id`, row numbers where there is none.
        names: of scores that read embeddings alone (with labels: also those that read classes).
        labels: the column that holds the classes, for the scores that look at them.
        seed: for the initialisations of k-means.

    Raises:
        InputError: no embeddings there, or a score that needs more than them.
    """
    rows = Embeddings.of(embeddings)
    names = [find("example score", n).name for n in names] or ["prototype-distance", "knn-distance"]
    evidence: dict[str, Any] = {"inputs": rows}
    classes = None
    if labels is not None:
        classes, targets = np.unique(np.array(read_ids(embeddings, labels)).astype(str), return_inverse=True)
        evidence["labels"] = torch.from_numpy(targets)
    try:
        ids = np.array(read_ids(embeddings))
    except InputError:  # no such column
        ids = np.arange(len(rows))
    for name in names:
        check_served(name, evidence)
    named = None if classes is None else classes[evidence["labels"].numpy()]
    provenance = {"embeddings": str(embeddings), "rows": len(rows), "seed": seed, "version": __version__}
    scores = {name: score(name, evidence, **({"seed": seed} if takes(name, "seed") else {})) for name in names}
    return ScoreTable(ids, named, scores, {}, {}, provenance)


def write_scores(path: Path, ids: np.ndarray, labels: np.ndarray | None, scores: Mapping[str, Estimate]) -> None:
    """One Parquet table: a row per example, and for each score its value and standard error."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, np.ndarray] = {"id": ids, **({} if labels is None else {"label": labels})}
    for name, estimate in scores.items():
        column = name.replace("-", "_")
        columns[column] = estimate.mean.detach().double().cpu().numpy()
        columns[f"{column}_stderr"] = estimate.stderr.expand_as(estimate.mean).detach().double().cpu().numpy()
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def _table(
    ids: np.ndarray,
    labels: np.ndarray | None,
    names: Sequence[str],
    evidence: Mapping[str, object],
    top: float,
    provenance: dict[str, Any],
) -> ScoreTable:
    scores = {name: score(name, evidence) for name in names}
    repeated = [n for n, e in scores.items() if int(torch.as_tensor(e.repeats).max()) > 1]
    reliable = {n: r for n in repeated if (r := _try(reliability, n, evidence, splits=5)) is not None}
    stable = {n: s for n in reliable if (s := _try(stability, n, evidence, top=top)) is not None}
    return ScoreTable(ids, labels, scores, reliable, stable, provenance)


def _try(measure: Any, name: str, evidence: Mapping[str, object], **options: Any) -> Any:
    """A measure over halves of the runs; None where these do not serve the score (too few runs without an example)."""
    try:
        return measure(name, evidence, **options)
    except InputError:
        return None


def _check_top(top: float) -> None:
    if not 0 < top < 1:
        raise InputError(f"top is the share of the examples whose stability is looked at, in (0, 1); got {top:g}")


def _class_names(data: Dataset) -> np.ndarray:
    return np.array(data.classes)[data.targets.cpu().numpy()]


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else round(value, 6)


def _write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    write_atomically(path, text.getvalue().encode())
