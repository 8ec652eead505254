"""One kind of network in a report on pruning: masks, dense networks, or a smaller network for each seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from surplus.pruning.counting import Size, count, latency
from surplus.pruning.evidence.training_cost import in_use, training_macs
from surplus.pruning.schedules.imp import Level
from surplus.stats import Estimate
from surplus.training import Run

Trained = Level | Run | Sequence[Run]
Table = list[dict[str, Any]]


@dataclass(frozen=True)
class Arm:
    """Networks of several seeds that stand in one row of a table."""

    name: str
    role: str
    trained: Trained

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        if isinstance(self.trained, Level):
            return (self.trained.run,)
        return (self.trained,) if isinstance(self.trained, Run) else tuple(self.trained)

    @property
    def seeds(self) -> list[int]:
        return [s for run in self.runs for s in run.seeds]

    @cached_property
    def used(self) -> Tensor | None:
        """(K, P) the weights in use, where masks say which; more than the masks where others are held at a value."""
        return in_use(self.trained) if isinstance(self.trained, Level) else None

    @property
    def masks(self) -> Tensor | None:
        return self.trained.masks if isinstance(self.trained, Level) else None

    @cached_property
    def per_example(self) -> Tensor:
        """(seeds, n) the metric, turned so that larger is better."""
        values = torch.cat([run.evaluate("test").per_example for run in self.runs]).double()
        return values if self.runs[0].task.objective.higher_is_better else -values

    @cached_property
    def sizes(self) -> list[Size]:
        """Of each network that has a size of its own."""
        found = []
        for run in self.runs:
            x, whole = run.task.prepare(run.task.train.inputs[:1]), torch.ones(run.task.space.size, dtype=torch.bool)
            masks = whole[None] if self.used is None else self.used
            found += [count(run.task.space.module, x, mask) for mask in masks]
        return found

    def row(self, dense: Arm, level: float) -> dict[str, Any]:
        """Sizes, averaged over seeds, and the metric over seeds."""
        task = self.runs[0].task
        values = self.per_example.mean(1) * (1 if task.objective.higher_is_better else -1)
        estimate = Estimate.over(values)
        low, high = estimate.interval(level)
        if "accuracy" in task.objective.metric_name:  # Student's interval of few seeds knows no bounds
            low, high = low.clamp(min=0), high.clamp(max=1)
        size = {f.name: self._mean([getattr(s, f.name) for s in self.sizes]) for f in fields(Size)}
        top = {"top5": number(_top_five(self.runs))} if len(task.train.classes) > 10 else {}
        return {
            "name": self.name,
            "role": self.role,
            "density": self.kept / dense.kept,
            "trainable": self.trainable / dense.kept,
            **size,
            "compression": dense.sizes[0].parameters / max(size["nonzero"], 1),
            "speedup": dense.sizes[0].macs / max(size["macs_nonzero"], 1),
            "mean": number(estimate.mean),
            "sd": number(estimate.stderr * len(values) ** 0.5),
            "low": number(low),
            "high": number(high),
            **top,
            "values": [number(v) for v in values],
            "training_macs": self._mean([training_macs(t) for t in self._parts]),
        }

    @cached_property
    def kept(self) -> float:
        """Prunable weights in use, averaged over seeds."""
        return self._prunable(self.used)

    @cached_property
    def trainable(self) -> float:
        """Prunable weights that are trained, averaged over seeds."""
        return self._prunable(self.masks)

    def _prunable(self, masks: Tensor | None) -> float:
        if masks is None:
            return self._mean([int(run.task.space.prunable.sum()) for run in self.runs])
        return self._mean(masks[:, self.runs[0].task.space.prunable].sum(1).tolist())

    @staticmethod
    def _mean(values: Sequence[float]) -> float:
        """The mean; a whole number where it is one."""
        mean = sum(values) / len(values)
        return round(mean) if mean == round(mean) else mean

    @property
    def _parts(self) -> list[Level | Run]:
        return [self.trained] if isinstance(self.trained, Level | Run) else list(self.trained)

    def latency(self) -> Table:
        """Measured seconds of the first seed's network, for one and for 64 examples."""
        run = self.runs[0]
        module = run.task.space.write(run.theta[0], run.task.statistics(run.theta[0]))
        x, rows = run.task.prepare(run.task.train.inputs[:1]), []
        for batch in (1, 64):
            e = latency(module, x, batch)
            low, high = map(number, e.interval())
            rows.append(
                {"name": self.name, "batch": batch, "seconds": number(e.mean), "low": low, "high": high, "repeats": 30}
            )
        return rows


def _top_five(runs: Iterable[Run]) -> Tensor:
    """Share of test examples whose class is among the five likeliest, over all networks."""
    hits = [
        (run.predict("test").topk(5, dim=-1).indices == run.task.test.targets[None, :, None]).any(-1) for run in runs
    ]
    return torch.cat(hits).double().mean()


def number(value: Any) -> float | None:
    """A plain number, or None where there is none: JSON has no NaN."""
    value = float(value)
    return value if math.isfinite(value) else None
