"""The workbench that the parts of an audit share: task, plan, clock, and the ledger of what was run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from surplus.audit.settings import LEAN, AuditSettings, Plan
from surplus.space import seed_for
from surplus.stats import Estimate, NonInferiority
from surplus.tasks import Task
from surplus.training import Run, Store, code_version, fit, processors
from surplus.training.engine import engine_for


@dataclass
class Bench:
    """One audit at work."""

    task: Task
    settings: AuditSettings
    plan: Plan
    store: Store
    began: float
    """time.monotonic() when the audit's own work began, reading of the data included."""
    progress: Callable[[str], None] = lambda text: None
    runs: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    spendable: float = math.inf
    """Seconds of the budget that were left when the audit's work began."""
    cost: float = 0.0
    """Seconds of one full training run on one processor; measured when there is a budget."""

    def __post_init__(self) -> None:
        self.wanted = self.plan  # what would be done without a budget

    @property
    def options(self) -> dict[str, Any]:
        """How this audit trains, for every call of `fit`."""
        return {
            "execution": "stacked" if self.plan.stacked else "spread",
            "device": self.settings.device,
            "store": self.store,
        }

    def fit(self, part: str, task: Task | None = None, **options: Any) -> Run:
        """Train for one part of the audit, and note the runs in the ledger."""
        return self.note(part, fit(task or self.task, **{**self.options, **options}))

    def note(self, part: str, run: Run) -> Run:
        """Put a run in the ledger."""
        for entry in run.parts:
            manifest = entry.manifest
            row = {
                "key": entry.key,
                "part": part,
                "network": run.task.network.name,
                "replicas": len(manifest["spec"]["seeds"]),
                "seeds": manifest["spec"]["seeds"],
                "steps": manifest["steps"],
            }
            if row not in self.runs:
                self.runs.append(row)
        self.progress(f"{part}: {sum(r['replicas'] for r in self.runs)} networks trained")
        return run

    def seeds(self, purpose: str, count: int) -> list[int]:
        """Seeds of one purpose, derived from the audit's own."""
        return [seed_for(self.settings.seed, purpose, i) % 2**31 for i in range(count)]

    def skip(self, part: str, what: str, why: str) -> None:
        """Note something that was left out."""
        self.left_out.append({"part": part, "what": what, "why": why})

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time spent inside to this part's."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.timing[part] = self.timing.get(part, 0.0) + time.monotonic() - began

    # ---- the budget ----

    @property
    def left(self) -> float:
        """Seconds until the budget is spent, less what the report needs; infinite without a budget."""
        if self.settings.budget is None:
            return math.inf
        return self.settings.budget - (time.monotonic() - self.began) - min(6.0, 0.06 * self.settings.budget)

    def measure_cost(self, steps: int = 12) -> float:
        """Time a few training steps, one thread per processor at work, and scale them to a full run."""
        task, recipe = self.task, self.task.recipe
        engine = engine_for(task.space, task.objective, recipe, [0], torch.device("cpu"), stacked=False)
        theta = task.space.init(0)[None]
        rows = torch.arange(min(recipe.batch_size, len(task.train)))
        x, y = task.prepare(task.train.inputs[rows])[None], task.train.targets[rows][None]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            engine(theta, x, y, 0)
            began = time.perf_counter()
            for step in range(steps):
                engine(theta, x, y, step)
            step_seconds = (time.perf_counter() - began) / steps
        finally:
            torch.set_num_threads(threads)
        total = recipe.duration.steps(-(-len(task.train) // recipe.batch_size))
        self.cost = 1.25 * step_seconds * total  # batches, augmentation and optimiser come on top
        return self.cost

    def learn_cost(self, run: Run, share: float, length: float) -> None:
        """Replace the measured cost by what real runs took: on a share of the data, for a share of the usual length."""
        seconds = [float(entry.manifest["seconds"]) for entry in run.parts]
        self.cost = sum(seconds) / len(run) / (share * length)

    def affordable(self, name: str) -> Any:
        """The plan of a part as far as what is left of the budget allows: in full, leanly, or None with a note."""
        plan = getattr(self.plan, name)
        if plan is None or self.settings.budget is None:
            return plan
        seconds = {p: 1.2 * self.wall(p.full_runs) for p in (plan, LEAN[name])}
        fitting = [p for p in seconds if seconds[p] <= self.left]
        if not fitting:
            why = f"the least of it takes about {seconds[LEAN[name]]:.0f} s, and {max(self.left, 0):.0f} s were left"
            self.skip(name, "the whole part", why)
        return fitting[0] if fitting else None

    def wall(self, full_runs: float) -> float:
        """Predicted seconds for so many full runs over all processors."""
        return full_runs * self.cost / processors()


def summary(values: Tensor, level: float = 0.95) -> dict[str, Any]:
    """Mean and interval over repeats (repeats,), as the report reads it."""
    e = Estimate.over(values.double())
    low, high = e.interval(level)
    return {
        "mean": number(e.mean),
        "low": number(low),
        "high": number(high),
        "stderr": number(e.stderr),
        "repeats": int(torch.as_tensor(e.repeats).max()),
    }


def accuracy_summary(correct: Tensor, level: float = 0.95) -> dict[str, Any]:
    """Mean accuracy over seeds and examples (seeds, n), its interval counting both chances.

    Variance = that of the seeds' means over their number + that of the examples' means over theirs.
    """
    from scipy.stats import norm

    correct = correct.double()
    mean = correct.mean()
    seeds = correct.mean(1).var() / len(correct) if len(correct) > 1 else torch.tensor(0.0)
    error = (seeds + correct.mean(0).var() / correct.shape[1]).sqrt()
    z = float(norm.ppf(0.5 + level / 2))
    return {
        "mean": number(mean),
        "low": number((mean - z * error).clamp(min=0)),
        "high": number((mean + z * error).clamp(max=1)),
        "stderr": number(error),
        "repeats": len(correct),
    }


def change(test: NonInferiority) -> str:
    """What a non-inferiority test says, in words."""
    difference, low, margin = (100 * v for v in (test.difference, test.low, test.margin))
    sure = "is excluded" if test.verdict else "cannot be excluded"
    text = f"test accuracy changes by {difference:+.2f} points, and a loss of more than {margin:g} "
    return f"{text}{'point' if margin == 1 else 'points'} {sure} (lower bound {low:+.2f})".replace("-", "\u2212")


def number(value: Any) -> float | None:
    """A plain float, or None where there is none (JSON has no NaN)."""
    value = float(value)
    return value if math.isfinite(value) else None


def within_budget(bench: Bench) -> Plan:
    """The plan cut down to the budget, by a measured cost.

    Cost and time left are those of the first attempt: an audit that is run again goes on by the same plan.
    """
    spec = {
        "of": "cost of a full run",
        "task": bench.task.identity,
        "recipe": bench.task.recipe.model_dump(mode="json"),
        "settings": bench.settings.model_dump(mode="json"),
        "processors": processors(),
        "version": code_version("audit", "training"),
    }
    found = bench.store.cached(
        spec, lambda: {"cost": torch.tensor(bench.measure_cost()), "left": torch.tensor(bench.left)}
    )
    bench.cost, bench.spendable = float(found["cost"]), float(found["left"])
    return divide(bench)


def divide(bench: Bench) -> Plan:
    """Share the budget out: at least 40% to the ensemble, the other parts as far as they fit, in order.

    A part is done in full, or leanly, or left out with a note; what is not spent goes back to the ensemble.
    """
    plan, left = bench.wanted, bench.spendable
    rest = 0.6 * left
    bench.left_out = [row for row in bench.left_out if row["what"] != "the whole part"]
    chosen: dict[str, Any] = {}
    for name, lean in LEAN.items():
        seconds = {p: 1.2 * bench.wall(p.full_runs) for p in (getattr(plan, name), lean)}
        chosen[name] = next((p for p in seconds if seconds[p] <= rest), None)
        if chosen[name] is not None:
            rest -= seconds[chosen[name]]
        else:
            why = f"the least of it takes about {seconds[lean]:.0f} s, which the budget does not leave"
            bench.skip(name, "the whole part", why)
    return replace(plan, **chosen, ensemble_seconds=0.4 * left + rest)
