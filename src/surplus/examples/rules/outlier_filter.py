"""Outlier filter: training goes on without the examples that it learns most slowly (Jiang, Zhang, Talwar & Mozer 2021).

    speed_T0(i) = 1/T0 sum_{t <= T0} p_t(y_i | x_i)         dropped after epoch T0: the share q of lowest speed

p_t is the network's own probability of the label at the end of epoch t, in evaluation mode. Wrong labels are learnt
last, so with q near their share the rest of training hardly sees them. arXiv 2002.03206.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.tasks import Recipe, Task
from surplus.training import Run, predict
from surplus.training.rules import Batch, Moment, Rule


@method("training rule", name="outlier-filter", paper="Jiang, Zhang, Talwar & Mozer 2021, arXiv 2002.03206")
@dataclass(frozen=True)
class OutlierFilter(Rule):
    """Train on all examples for some epochs, then without the share that was learnt most slowly.

    The dropped examples keep their places in the batches, with weight 0; the loss is the mean over the kept ones.
    """

    epoch: int = 5
    """T0: epochs before the cut; speed is averaged over them."""
    share: float = 0.1
    """q: share of each replica's training examples to drop; the suspected share of wrong labels."""
    threshold: float | None = None
    """Instead of a share: drop what has a lower speed than this, a probability."""

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """Refuse a cut that cannot be made.

        Raises:
            InputError: a share outside [0, 1), an epoch below 1 or after the end, or a task without classes.
        """
        if not 0 <= self.share < 1:
            raise InputError(f"share is the part of the training examples to drop, in [0, 1); got {self.share}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"threshold is a probability of the label, from 0 to 1; got {self.threshold}")
        if self.epoch < 1:
            raise InputError(f"epoch counts the epochs before the cut, at least 1; got {self.epoch}")
        if recipe.duration.endswith("ep") and float(recipe.duration[:-2]) <= self.epoch:
            raise InputError(f"training for {recipe.duration} ends before the cut after epoch {self.epoch} shows")
        if not task.train.classes:
            raise InputError("the outlier filter looks at the probability of the label; the task has no classes")

    def start(self, now: Moment) -> dict[str, Tensor]:
        """Nothing measured, nothing seen, everything kept; each (K, n)."""
        shape, device = (len(now.seeds), len(now.task.train)), now.theta.device
        return {
            "speed": torch.zeros(shape, device=device),
            "seen": torch.zeros(shape, dtype=torch.bool, device=device),
            "kept": torch.ones(shape, dtype=torch.bool, device=device),
        }

    def weigh(self, now: Moment, batch: Batch, losses: Tensor) -> Tensor | None:
        """After the cut: weights (K, B) that make mean(w * loss) the mean over the kept; 0 where none is left."""
        if now.epoch < self.epoch:
            now.state["seen"].scatter_(1, batch.index, True)
            return None
        kept = now.state["kept"].gather(1, batch.index).to(losses.dtype)
        return kept * (kept.shape[1] / kept.sum(1, keepdim=True).clamp(min=1))

    def end_epoch(self, now: Moment) -> None:
        """Measure, and cut when it is time."""
        if now.epoch >= self.epoch:
            return
        now.state["speed"] += label_probability(now.task, now.theta)
        if now.epoch + 1 == self.epoch:
            now.state["kept"] = ~self._dropped(now.state["speed"] / self.epoch, now.state["seen"])

    def _dropped(self, speed: Tensor, seen: Tensor) -> Tensor:
        """(K, n)."""
        return lowest(speed, seen, self.share) if self.threshold is None else seen & (speed < self.threshold)


def label_probability(task: Task, theta: Tensor) -> Tensor:
    """Probability of the label (K, n) on all training examples at the points theta (K, P), in evaluation mode."""
    p = predict(task, theta, task.train).softmax(-1)  # (K, n, classes)
    return p.gather(-1, task.train.targets.to(p.device).expand(len(p), -1)[..., None]).squeeze(-1)


def lowest(values: Tensor, among: Tensor, share: float) -> Tensor:
    """Which examples (K, n) are the lowest share of those `among` (K, n) each row; an exact count, ties by position."""
    rank = values.masked_fill(~among, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    return rank < (share * among.sum(1, keepdim=True)).round()


class Detection(NamedTuple):
    """How well what was removed matches what is wrong; each (K,)."""

    precision: Tensor
    """Share of the removed that are wrong; NaN where nothing was removed."""
    recall: Tensor
    """Share of the wrong that were removed; NaN where nothing is wrong."""


def removed(run: Run, epoch: int) -> Tensor:
    """Which examples (K, n) a recorded run was trained on before epoch `epoch` (counted from 0) and never afterwards.

    Raises:
        InputError: the run has no record, or none of both sides of that epoch.
    """
    visited = ~run.record["loss"].isnan()  # (K, epochs, n)
    if not 0 < epoch < visited.shape[1]:
        raise InputError(
            f"the record holds {visited.shape[1]} epochs; what went at epoch {epoch} shows with some on both sides"
        )
    return visited[:, :epoch].any(1) & ~visited[:, epoch:].any(1)


def detection(removed: Tensor, wrong: Tensor) -> Detection:
    """Precision and recall of a removal.

    Args:
        removed: (K, n) or (n,) bool.
        wrong: (n,) or (K, n) bool: the examples that should go, those with wrong labels.
    """
    both = (removed & wrong).sum(-1).double()
    return Detection(both / removed.sum(-1), both / wrong.sum(-1))
