"""Linear mode connectivity: how high the loss rises on the straight line between two networks.

    height = max_a [ E(theta_a) - reference(a) ],   theta_a = (1 - a) theta_1 + a theta_2

For Frankle et al. 2020 (arXiv 1912.05671, section 2) E is the error, the reference the mean of the two ends, and a
height below 2 percentage points is "stable". For Entezari et al. 2022 (arXiv 2110.06296) E is the loss, the reference
the line between the ends, (1 - a) E(theta_1) + a E(theta_2). A grid under-estimates the maximum.

The same for each example i (Paul et al. 2022, arXiv 2206.01278, section 4), with its own loss:

    b_i = max_a [ loss_i(theta_a) - (1 - a) loss_i(theta_1) - a loss_i(theta_2) ]

Its two ends are runs that share a parent, `siblings`: the weights of step t, trained on in two orders of the data. The
first kind of height between such runs is the `instability` of the parent to the noise of SGD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surplus.data import Dataset
from surplus.errors import InputError, unknown
from surplus.registry import method
from surplus.space import interpolate
from surplus.tasks import Task
from surplus.training import Run, fit, predict
from surplus.training import evaluate as evaluate_points

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""thetas (points, P) -> errors (points,), losses (points,); batch-norm statistics re-estimated for every point."""
EvaluateEach = Callable[[Tensor], tuple[Tensor, Tensor]]
"""thetas (points, P) -> losses (points, n) and whether each answer is right (points, n); statistics likewise."""
STABLE = 0.02
"""An instability below this share of examples is called stable (Frankle et al. 2020, section 2)."""


@dataclass(frozen=True)
class Barrier:
    """What happens between two networks."""

    at: Tensor
    """(points,) positions from 0 to 1, both ends included."""
    errors: Tensor
    """(points,)"""
    losses: Tensor
    """(points,)"""
    mode: str
    end: str

    @property
    def curve(self) -> Tensor:
        """(points,) error or loss minus its reference."""
        y = self.errors if self.mode == "error" else self.losses
        return y - (torch.lerp(y[0], y[-1], self.at.to(y)) if self.end == "linear" else (y[0] + y[-1]) / 2)

    @property
    def height(self) -> float:
        """The largest value of the curve; never negative, for the ends are on the grid."""
        return float(self.curve.max())


@method("measure", paper="Frankle et al. 2020, arXiv 1912.05671; Entezari et al. 2022, arXiv 2110.06296")
def barrier(
    evaluate: Evaluate, theta1: Tensor, theta2: Tensor, points: int = 25, mode: str = "error", end: str = "mean"
) -> Barrier:
    """The barrier on the straight line between two networks.

    Args:
        evaluate: errors and losses of many points; re-estimating batch-norm statistics at each is its business.
        theta1: (P,) one end.
        theta2: (P,) the other.
        points: grid points, both ends included.
        mode: "error" or "loss".
        end: what to compare with: the "mean" of the ends (Frankle) or the "linear" interpolation (Entezari).

    Raises:
        InputError: ends of different shape, fewer than 3 points, an unknown mode or end.
    """
    at = _grid(theta1, theta2, points)
    for kind, given, known in (("mode", mode, ("error", "loss")), ("end", end, ("mean", "linear"))):
        if given not in known:
            raise unknown(f"{kind} of a barrier", given, known)
    errors, losses = evaluate(interpolate(theta1, theta2, at))
    return Barrier(at, errors, losses, mode, end)


def on_data(task: Task, data: Dataset | None = None) -> Evaluate:
    """An `evaluate` for barriers: errors and losses on the task's test set, or on other examples.

    Batch-norm statistics are estimated anew for every point.
    """
    examples = task.test if data is None else data

    def evaluate(thetas: Tensor) -> tuple[Tensor, Tensor]:
        found = evaluate_points(task, thetas, examples)
        return 1 - found.metric, found.loss

    return evaluate


# ---- example by example ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExampleBarriers:
    """What happens to each of n examples between two networks."""

    at: Tensor
    """(points,) positions from 0 to 1, both ends included."""
    losses: Tensor
    """(points, n)"""
    correct: Tensor
    """(points, n) whether the answer is right."""

    @property
    def height(self) -> Tensor:
        """(n,) b: the largest rise of an example's loss above the line between its two ends; never negative."""
        at = self.at.to(self.losses).unsqueeze(1)
        return (self.losses - torch.lerp(self.losses[0], self.losses[-1], at)).amax(0)

    def connected(self, threshold: float | None = None) -> Tensor:
        """(n,) whether an example is linearly mode connected: right, or of loss below a threshold, all along.

        The paper does not print its cut-off, hence the choice.
        """
        return self.correct.bool().all(0) if threshold is None else (self.losses < threshold).all(0)

    def error_barrier(self, which: Tensor | None = None) -> float:
        """Largest error on the line minus the mean error of its ends, over all examples or those at `which`."""
        errors = 1 - (self.correct if which is None else self.correct[:, which]).double().mean(1)
        return float(errors.max() - (errors[0] + errors[-1]) / 2)


@method("measure", paper="Paul et al. 2022, arXiv 2206.01278, section 4; Paul et al. 2021, arXiv 2107.07075, section 5")
def example_barriers(evaluate: EvaluateEach, theta1: Tensor, theta2: Tensor, points: int = 11) -> ExampleBarriers:
    """The barrier of every example on the straight line between two networks.

    Args:
        evaluate: losses and right answers of many points; `on_examples` makes one that re-estimates batch-norm
            statistics at each.
        theta1: (P,) one end.
        theta2: (P,) the other.
        points: grid points, both ends included.

    Raises:
        InputError: ends of different shape, fewer than 3 points.
    """
    at = _grid(theta1, theta2, points)
    losses, correct = evaluate(interpolate(theta1, theta2, at))
    return ExampleBarriers(at, losses, correct)


def on_examples(task: Task, data: Dataset | None = None) -> EvaluateEach:
    """An `evaluate` for `example_barriers`: the task's network on its training examples, or on others.

    Batch-norm statistics are estimated anew for every point; without that they would make most of the barrier.
    """
    examples = task.train if data is None else data

    def evaluate(thetas: Tensor) -> tuple[Tensor, Tensor]:
        outputs, targets = predict(task, thetas, examples), examples.targets.to(thetas.device)
        losses = torch.stack([task.loss(o, targets) for o in outputs])
        return losses, torch.stack([task.objective.metric(o, targets) for o in outputs]) > 0.5

    return evaluate


def siblings(task: Task, parent: Tensor, step: int, seeds: Sequence[int], **options: Any) -> tuple[Run, Run]:
    """Two runs to the end from each parent, that differ in the order of the data (and in augmentation) alone.

    Args:
        task: data, network and recipe.
        parent: (K, P) weights after `step` steps.
        step: where in the schedule and the data order the children go on.
        seeds: (K,) of the parents; the children's are these + 10,000 and + 20,000, so that neither shares its order
            with the parent. Their optimisers start empty.
        options: of `fit`.
    """
    first, second = (
        fit(task, seeds=[s + shift for s in seeds], start=parent, start_step=step, **options)
        for shift in (10_000, 20_000)
    )
    return first, second


@method("measure", paper="Frankle et al. 2020, arXiv 1912.05671, section 2")
def instability(
    task: Task,
    parent: Tensor,
    step: int,
    seeds: Sequence[int],
    *,
    points: int = 31,
    data: Dataset | None = None,
    **options: Any,
) -> Tensor:
    """How much two orders of the data part a network: the error barrier between two trainings from one point.

        max_a E((1 - a) theta_1 + a theta_2) - (E(theta_1) + E(theta_2)) / 2

    Batch-norm statistics are estimated anew at every point, where the paper interpolates the running ones.

    Args:
        task: data, network and recipe.
        parent: (K, P) weights after `step` steps.
        step: where in the schedule and the data order both trainings go on.
        seeds: (K,) of the parents; see `siblings` for those of the two trainings.
        points: on the line, both ends included.
        data: on which to count errors; the test set when None.
        options: of `fit`; masks=(K, P) asks it of subnetworks.

    Returns:
        (K,) shares of examples, never negative; below `STABLE` = 0.02 a network is stable.
    """
    first, second = siblings(task, parent, step, seeds, **options)
    look, ends = on_data(task, data), zip(first.theta, second.theta, strict=True)
    return torch.tensor([barrier(look, a, b, points).height for a, b in ends], dtype=torch.float64)


def _grid(theta1: Tensor, theta2: Tensor, points: int) -> Tensor:
    """(points,) from 0 to 1, once the ends fit."""
    if theta1.dim() != 1 or theta1.shape != theta2.shape:
        raise InputError(
            f"a line joins two points (P,) of one space; got {tuple(theta1.shape)} and {tuple(theta2.shape)}"
        )
    if points < 3:
        raise InputError(f"a barrier needs at least 3 points, two of which are the ends; got {points}")
    return torch.linspace(0, 1, points, dtype=theta1.dtype, device=theta1.device)
