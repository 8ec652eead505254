"""What an audit may be told, and how much it does of each thing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from surplus.errors import InputError
from surplus.tasks import Task


class AuditSettings(BaseModel):
    """What an audit may be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    budget: Annotated[float, Field(gt=0)] | None = None
    """Seconds that the audit may take, reading and reporting included; what the data call for when None."""
    device: str = "cpu"
    """Where networks are trained: cpu, cuda, mps."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """The largest loss of test accuracy that counts as none, in the non-inferiority tests."""
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of intervals and tests."""
    seed: Annotated[int, Field(ge=0)] = 0
    """From which all seeds of the audit are derived."""


def seconds(text: str) -> float:
    """A time budget: "90", "90s", "10m", "1.5h".

    Raises:
        InputError: it is written otherwise, or is not above zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)?", text.strip())
    value = float(match.group(1)) * {"s": 1, "m": 60, "h": 3600}[match.group(2) or "s"] if match else 0.0
    if value <= 0:
        raise InputError(f"a budget is a time like 90s, 10m or 1.5h; got {text!r}")
    return value


@dataclass(frozen=True)
class ExamplesPlan:
    """How much of the keep curves."""

    seeds: int
    rules: tuple[str, ...]
    """Beside random; only the rule that the recommendation rests on when empty."""
    fractions: tuple[float, ...]
    """Kept fractions, falling."""

    @property
    def full_runs(self) -> float:
        """Training runs: full data, and every rule and random at every fraction, all of equal steps."""
        return self.seeds * (1 + (1 + max(1, len(self.rules))) * len(self.fractions))


@dataclass(frozen=True)
class WeightsPlan:
    """How much pruning."""

    seeds: int
    rate: float
    """What each level of iterative pruning removes."""
    levels: int
    compared: tuple[int, ...]
    """Levels at whose densities the other methods are tried."""

    @property
    def full_runs(self) -> float:
        """Dense, iterative levels, three other methods where compared, and the smaller network's training."""
        return self.seeds * (1 + self.levels + 3 * len(self.compared)) + 1

    def density(self, level: int) -> float:
        """Kept share of the prunable weights after `level` cuts."""
        return (1 - self.rate) ** level


@dataclass(frozen=True)
class DirectionsPlan:
    """How much geometry and extrapolation."""

    seeds: int
    dimensions: tuple[int, ...]
    sizes: tuple[float, ...]
    """Shares of the data on the learning curve, below 1."""
    hessian_examples: int
    hessian_probes: int

    @property
    def full_runs(self) -> float:
        """Learning curve and its end at full data, random subspaces (which cost more per step), curvature."""
        return self.seeds * (1 + sum(self.sizes)) + 2 * 1.5 * len(self.dimensions) + 0.5


@dataclass(frozen=True)
class Plan:
    """How much of each thing an audit does; None where a part is left out."""

    stacked: bool
    """Replicas in one program, or spread over processes."""
    shares: tuple[float, ...]
    """Shares of the data that the networks of the subset ensemble train on."""
    runs_per_share: int
    grand_runs: int
    examples: ExamplesPlan | None
    weights: WeightsPlan | None
    directions: DirectionsPlan | None
    ensemble_seconds: float = math.inf
    """What the ensemble may take under a budget."""


RULES = ("hardest", "easiest", "class-balanced-hardest", "ccs")
SMALL = Plan(
    stacked=True,
    shares=(0.1, 0.3, 0.5, 0.7, 0.9),
    runs_per_share=10,
    grand_runs=5,
    examples=ExamplesPlan(5, RULES, (0.9, 0.75, 0.5, 0.25, 0.1)),
    weights=WeightsPlan(5, 0.36, 8, (2, 4, 6, 8)),
    directions=DirectionsPlan(5, (10, 20, 40, 80, 160, 320), (0.125, 0.25, 0.5, 0.75), 1000, 20),
)
LARGE = Plan(
    stacked=False,
    shares=(0.5,),
    runs_per_share=8,
    grand_runs=1,
    examples=ExamplesPlan(3, RULES, (0.8, 0.6, 0.4, 0.2)),
    weights=WeightsPlan(3, 0.36, 8, (2, 4, 6, 8)),
    directions=DirectionsPlan(3, (100, 300, 1000, 3000), (0.0625, 0.125, 0.25, 0.5), 1000, 10),
)
LEAN: dict[str, ExamplesPlan | WeightsPlan | DirectionsPlan] = {
    "examples": ExamplesPlan(2, (), (0.8, 0.5)),
    "weights": WeightsPlan(2, 0.6, 4, (2, 4)),
    "directions": DirectionsPlan(2, (300, 1000), (0.125, 0.25, 0.5), 500, 5),
}
"""The least of each part that is worth its while."""


def plan_for(task: Task) -> Plan:
    """The small plan for dense networks of little work, whose replicas train in one program; else the large one."""
    dense = all(len(b.shape) <= 2 for b in task.space.blocks) and not task.space.has_dropout and task.space.vmaps
    steps = task.recipe.duration.steps(-(-len(task.train) // task.recipe.batch_size))
    return SMALL if dense and steps * task.recipe.batch_size * task.space.size < 3e9 else LARGE
