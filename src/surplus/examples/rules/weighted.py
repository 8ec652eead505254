"""Training with a weight for each example, as CRAIG and GradMatch ask of a trainer.

loss(batch) = mean_{i in batch} w_i l_i,    mean of w over the training examples = 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.tasks import Recipe, Task
from surplus.training import Batch, Moment, Rule


@method("training rule", paper="Mirzasoleiman, Bilmes & Leskovec 2020, arXiv 1906.01827")
@dataclass(frozen=True)
class Weighted(Rule):
    """Weighs the loss of each example.

    Args:
        weights: (n,), or (K, n) for each replica its own; not negative. Examples that are trained on should have mean
            weight 1, so that the learning rate keeps its meaning: `normalised` sees to it.
    """

    per_replica: ClassVar[tuple[str, ...]] = ("weights",)
    weights: Tensor

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """Refuse weights that are negative, not finite, or not one per example."""
        n = len(task.train)
        if not isinstance(self.weights, Tensor):
            raise InputError(f"weights are a tensor, one number per example; got {type(self.weights).__name__}")
        if tuple(self.weights.shape) not in {(n,), (replicas, n)}:
            raise InputError(
                f"weights have shape {tuple(self.weights.shape)}; {replicas} replicas on {n} training examples need"
                f" ({n},) or ({replicas}, {n})"
            )
        if not bool(self.weights.isfinite().all()) or bool((self.weights < 0).any()):
            raise InputError("weights of examples are finite and not negative")

    def weigh(self, now: Moment, batch: Batch, losses: Tensor) -> Tensor:
        rows = self.weights.expand(len(losses), -1).gather(1, batch.index)  # (K, B)
        return rows.to(losses.dtype)


def normalised(weights: Tensor, kept: Tensor) -> Tensor:
    """Weights (n,) scaled to mean 1 over the kept examples (n,) bool, and 0 elsewhere.

    Raises:
        InputError: no kept example has weight.
    """
    own = weights.double() * kept
    if not bool(own.sum() > 0):
        raise InputError("no kept example has a weight above zero")
    return (own * kept.sum() / own.sum()).to(weights.dtype)
