"""The main job: labels, examples, weights and directions of one task, in one answer.

    found = audit(load("digits"))
    found.result["examples"]["recommendation"]["sentence"]
    found.save("audit-digits")

The parts run in that order, each on the runs that the ones before it have left in the store.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import surplus
from surplus.audit import files
from surplus.audit.bench import Bench, within_budget
from surplus.audit.directions import directions_part
from surplus.audit.ensemble import Ensemble, epochs, grand_scores, train_ensemble
from surplus.audit.examples import Kept, examples_part, scores_table
from surplus.audit.labels import labels_part
from surplus.audit.settings import AuditSettings, plan_for
from surplus.audit.weights import Smaller, Ticket, latencies, weights_part
from surplus.errors import InputError
from surplus.examples.labels import LabelCheck
from surplus.pruning.schedules.imp import early_step
from surplus.stats import Estimate
from surplus.tasks import CLASSIFICATION, Task
from surplus.training import Store

_LEAST = 20
"""Training examples below which a tenth of them teaches nothing."""
PARTS = ("labels", "examples", "weights", "directions")


@dataclass
class Audit:
    """What an audit found: the result as plain data, and the tensors behind the files."""

    task: Task
    result: dict[str, Any]
    check: LabelCheck | None = None
    scores: dict[str, Estimate] = field(default_factory=dict)
    kept: Kept | None = None
    ticket: Ticket | None = None
    smaller: Smaller | None = None

    def save(self, folder: str | Path) -> Path:
        """Write audit.json, scores.parquet, suspects.csv, keep.parquet, ticket.safetensors and smaller-model/."""
        folder = Path(folder)
        files.prepare(folder)
        if self.check is not None:
            files.write_scores(folder, self.task.train, self.scores, self.check)
            files.write_suspects(folder, self.task.train, self.check)
        if self.kept is not None:
            files.write_keep(folder, self.task.train, self.kept)
        if self.ticket is not None:
            files.write_ticket(folder, self.task, self.ticket)
        if self.smaller is not None:
            files.write_smaller(folder, self.task, self.smaller)
        files.write_json(folder, self.result)
        return folder

    def thumbnails(self) -> dict[str, bytes]:
        """PNG pictures of the examples that the result lists, by id; empty for tables and text."""
        return files.thumbnails(self.task.train, self._listed())

    def rows(self) -> dict[str, dict[str, float]]:
        """Feature values of the listed examples, by id; empty for pictures and text."""
        return files.feature_rows(self.task.train, self._listed())

    def _listed(self) -> set[str]:
        suspects = (self.result.get("labels") or {}).get("suspects", [])
        examples = self.result.get("examples") or {}
        return {str(r["id"]) for r in (*suspects, *examples.get("hardest", []), *examples.get("easiest", []))}


def audit(
    task: Task,
    settings: AuditSettings | None = None,
    *,
    store: Store | None = None,
    began: float | None = None,
    progress: Callable[[str], None] = lambda part: None,
) -> Audit:
    """Audit a classification task.

    Ctrl-C ends it early: what is done is returned, marked as interrupted, and the next audit of the same inputs goes on
    from there, since every training run is kept in the store.

    Args:
        task: what to audit.
        settings: budget, device, margin, level, seed.
        store: where runs are kept.
        began: time.monotonic() from which the budget counts; now when None.
        progress: called with the name of each part as it begins.

    Raises:
        InputError: the task has no classes.
    """
    if task.objective is not CLASSIFICATION:
        raise InputError(
            f"an audit needs class labels; {task.name} is a task of {task.objective.name}. Name a column of classes, or"
            " train and measure it through the library, whose other methods take every task"
        )
    if len(task.train) < _LEAST:
        raise InputError(
            f"{task.name} has {len(task.train)} training examples, too few to train on shares of them;"
            f" an audit needs at least {_LEAST}"
        )
    settings = settings or AuditSettings()
    bench = Bench(
        task, settings, plan_for(task), store or Store(), time.monotonic() if began is None else began, progress
    )
    found = Audit(task, _frame(bench))
    try:
        _run(bench, found, progress)
    except KeyboardInterrupt:
        found.result["status"] = "interrupted"
        for part in PARTS:
            if not found.result.get(part):
                bench.skip(part, "the whole part", "the audit was interrupted; run it again to go on")
    _close(bench, found)
    return found


def _run(bench: Bench, found: Audit, progress: Callable[[str], None]) -> None:
    if bench.settings.budget is not None:
        bench.plan = within_budget(bench)
    progress("labels")
    with bench.timed("labels"):
        ensemble = train_ensemble(bench)
        found.check = ensemble.check()
        found.result["labels"] = labels_part(bench, ensemble, found.check)
    progress("examples")
    with bench.timed("examples"):
        found.scores = _scores(bench, ensemble)
        found.result["examples"] = {"status": "partial", "note": "", **scores_table(bench, ensemble, found.scores)}
    plan = bench.plan
    most = max((p.seeds for p in (plan.examples, plan.weights, plan.directions) if p), default=0)
    if not most:
        return
    with bench.timed("examples"):
        keep = (early_step(bench.task),) if plan.weights else ()  # what pruning rewinds to
        full = bench.fit("examples", seeds=bench.seeds("full", most), keep=keep)
    if examples := bench.affordable("examples"):
        with bench.timed("examples"):
            wrong = float(found.check.rate.mean)
            part, found.kept = examples_part(bench, examples, full, found.scores, wrong)
            found.result["examples"] |= {"status": "done", **part}
    if weights := bench.affordable("weights"):
        progress("weights")
        with bench.timed("weights"):
            part, found.ticket, found.smaller = weights_part(bench, weights, full)
            found.result["weights"] = {"status": "done", "note": "", **part}
    if directions := bench.affordable("directions"):
        progress("directions")
        with bench.timed("directions"):
            part = directions_part(bench, directions, full)
            found.result["directions"] = {"status": "done", "note": "", **part}
    if found.smaller:
        dense = bench.task.space.write(full.theta[0], bench.task.statistics(full.theta[0]))
        found.result["timing"]["latency"] = latencies(bench, dense, found.smaller.module)


def _scores(bench: Bench, ensemble: Ensemble) -> dict[str, Estimate]:
    """All scores of the ensemble's records and predictions, and GraNd where there is time for it."""
    scores = ensemble.scores()
    passes = 1.5 * bench.plan.grand_runs / (3 * max(1.0, epochs(ensemble.task)))  # of a full run, forward and backward
    if bench.settings.budget is None or bench.cost * max(passes, 0.1) * 3 < bench.left:
        scores["grand"] = grand_scores(bench, ensemble)
    else:
        bench.skip("examples", "GraNd", "per-example gradients did not fit the budget")
    return dict(sorted(scores.items()))


def _frame(bench: Bench) -> dict[str, Any]:
    """The result before any part is done."""
    task = bench.task
    return {
        "surplus": surplus.__version__,
        "name": task.name,
        "status": "complete",
        "data": {
            "name": task.name,
            "kind": task.train.kind,
            "train": len(task.train),
            "test": len(task.test),
            "validation": len(task.validation) if task.validation else None,
            "classes": list(task.train.classes),
            "carved": task.carved,
            "fingerprint": task.train.fingerprint,
            "shape": list(task.train.shape),
        },
        "network": {
            "name": task.network.name,
            "parameters": task.space.size,
            "prunable": int(task.space.prunable.sum()),
        },
        "recipe": task.recipe.model_dump(mode="json"),
        "settings": bench.settings.model_dump(mode="json"),
        "labels": None,
        "examples": None,
        "weights": None,
        "directions": None,
        "timing": {},
    }


def _close(bench: Bench, found: Audit) -> None:
    """Provenance, what was left out, and times."""
    reasons = {row["part"]: row["why"] for row in bench.left_out if row["what"] == "the whole part"}
    for part in PARTS:
        if not found.result.get(part):
            found.result[part] = {"status": "left out", "note": reasons.get(part, "")}
        elif found.result[part]["status"] == "partial":
            found.result[part]["note"] = reasons.get(part, "")
    found.result["left_out"] = bench.left_out
    found.result["provenance"] = {
        "runs": bench.runs,
        "versions": _versions(),
        "seeds": sorted({s for r in bench.runs for s in r["seeds"]}),
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "device": bench.settings.device,
        },
    }
    found.result["timing"] |= {
        "total_seconds": round(time.monotonic() - bench.began, 2),
        "parts": {k: round(v, 2) for k, v in bench.timing.items()},
        "budget_seconds": bench.settings.budget,
    }


def _versions() -> dict[str, str]:
    names = {"torch": torch.__version__, "python": platform.python_version(), "surplus": surplus.__version__}
    for library in ("numpy", "scipy", "scikit-learn", "torch-pruning"):
        try:
            names[library] = version(library)
        except PackageNotFoundError:
            continue
    return names
