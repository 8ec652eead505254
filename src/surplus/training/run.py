"""`Run`: what training leaves. A handle on folders of the store; everything is read from there, verified."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surplus.data import Dataset
from surplus.errors import InputError
from surplus.tasks import Task
from surplus.training.loop import dataset_of
from surplus.training.predict import Evaluation, evaluate, predict
from surplus.training.record import record_arrays
from surplus.training.store import Entry, Store, code_version


@dataclass(frozen=True)
class Run:
    """K trained replicas, in the order in which they were asked for.

    `parts`: the folders. `rows`: for each replica, which folder and which row of it.
    """

    task: Task
    parts: tuple[Entry, ...]
    rows: tuple[tuple[int, int], ...]
    seeds: tuple[int, ...]
    subsets: tuple[Tensor, ...] | None
    store: Store
    device: str = "cpu"
    """Where predictions are made."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> list[str]:
        """Names of the folders behind this run."""
        return [p.key for p in self.parts]

    @cached_property
    def theta(self) -> Tensor:
        """(K, P) final weights."""
        return self._gather([p.read_tensors("theta.safetensors")["theta"] for p in self.parts])

    @cached_property
    def z(self) -> Tensor:
        """(K, d) final coordinates of a run that `fit(..., coordinates=...)` trained; theta = r(z)."""
        if any("coordinates.safetensors" not in p.manifest["files"] for p in self.parts):
            raise InputError("this run trained the weights themselves, which are in run.theta; coordinates=... adds z")
        return self._gather([p.read_tensors("coordinates.safetensors")["z"] for p in self.parts])

    @property
    def kept(self) -> list[int]:
        """The steps whose weights every replica kept: those of `keep` that training reached."""
        steps = [{int(Path(n).stem) for n in p.names("trajectory")} for p in self.parts]
        return sorted(set.intersection(*steps))

    def at(self, step: int) -> Tensor:
        """(K, P) weights after `step` updates; only steps that `keep` named are there."""
        if step not in self.kept:
            raise InputError(
                f"the weights at step {step} were not kept; kept are {self.kept or 'none'}. Train with keep=({step},)"
            )
        name = f"trajectory/{step:08d}.safetensors"
        return self._gather([p.read_tensors(name)["theta"] for p in self.parts])

    @cached_property
    def record(self) -> dict[str, Tensor]:
        """The example record by name, each (K, epochs, n) with NaN where an example was not visited."""
        n = len(self.task.train)
        if not self.parts[0].names("record"):
            raise InputError("this run kept no example record; train with record=True")
        records = [_record(p, n) for p in self.parts]
        epochs = max(next(iter(r.values())).shape[1] for r in records)
        padded = [{k: _pad(v, epochs) for k, v in r.items()} for r in records]
        return {k: self._gather([r[k] for r in padded]) for k in padded[0]}

    @cached_property
    def history(self) -> dict[str, list[float]]:
        """Columns seed, epoch, step, lr, loss, validation_loss; pandas.DataFrame takes it as it is."""
        return self._columns("history.parquet")

    @cached_property
    def curve(self) -> dict[str, list[float]]:
        """Columns seed, step, metric: the test metric as training went; needs `fit(..., curve=...)`."""
        if "curve.parquet" not in self.parts[0].manifest["files"]:
            raise InputError("this run noted no test metric as it went; train with curve=10, say")
        return self._columns("curve.parquet")

    @property
    def diverged(self) -> list[int]:
        """Seeds whose loss became NaN or infinite."""
        return [s for p in self.parts for s in p.manifest.get("diverged", [])]

    @cached_property
    def trained_on(self) -> Tensor:
        """(K, n) True where a replica was trained on an example."""
        n = len(self.task.train)
        if self.subsets is None:
            return torch.ones(len(self), n, dtype=torch.bool)
        return torch.stack([torch.zeros(n, dtype=torch.bool).index_fill(0, s, True) for s in self.subsets])

    def predict(self, data: str | Dataset = "test") -> Tensor:
        """Outputs (K, n, ...) on "train", "test", "validation" or other examples; kept in the store."""
        examples = dataset_of(self.task, data)
        spec = {
            "of": "predictions",
            "runs": self.keys,
            "rows": [list(r) for r in self.rows],
            "data": examples.fingerprint,
            "precision": self.task.recipe.precision,
            "version": code_version("space", "networks", "tasks", "training"),
        }
        return self.store.cached(spec, lambda: {"outputs": predict(self.task, self.theta.to(self.device), examples)})[
            "outputs"
        ]

    def evaluate(self, data: str | Dataset = "test") -> Evaluation:
        """Loss and metric of every replica on "train", "test", "validation" or other examples."""
        examples = dataset_of(self.task, data)
        return evaluate(self.task, self.theta, examples, outputs=self.predict(examples))

    def _columns(self, name: str) -> dict[str, list[float]]:
        import pyarrow.parquet as pq

        tables = [pq.read_table(io.BytesIO(p.read(name))).to_pydict() for p in self.parts]
        return {k: [v for t in tables for v in t[k]] for k in tables[0]}

    def _gather(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensors[part][row] for part, row in self.rows])


def _record(part: Entry, n: int) -> dict[str, Tensor]:
    """The record of one folder, (its replicas, epochs, n)."""
    files = [io.BytesIO(part.read(name)) for name in part.names("record")]
    return record_arrays(files, n, len(part.manifest["spec"]["seeds"]))


def _pad(values: Tensor, epochs: int) -> Tensor:
    missing = epochs - values.shape[1]
    return (
        values
        if not missing
        else torch.cat([values, values.new_full((values.shape[0], missing, values.shape[2]), torch.nan)], dim=1)
    )


def describe(entry: Entry) -> dict[str, Any]:
    """One folder of the store in a line: state, kind, what it is, size."""
    if not entry.complete:
        state = "interrupted" if (entry.path / "checkpoint").exists() else "empty"
        return {"key": entry.key, "state": state, "kind": "", "what": "", "bytes": entry.size()}
    wrong = entry.damage()
    if wrong:
        return {"key": entry.key, "state": "damaged", "kind": "", "what": "; ".join(wrong), "bytes": entry.size()}
    spec = entry.manifest["spec"]
    if spec["kind"] == "fit":
        network = spec["task"]["network"]["name"]
        what = f"{network}, {len(spec['seeds'])} replica(s), {spec['recipe']['duration']}"
    else:
        what = str(spec.get("of", ""))
    foreign = entry.foreign()
    return {
        "key": entry.key,
        "state": "complete" + (f", foreign files: {', '.join(foreign)}" if foreign else ""),
        "kind": spec["kind"],
        "what": what,
        "bytes": entry.size(),
    }
