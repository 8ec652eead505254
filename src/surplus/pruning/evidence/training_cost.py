"""What training costs: steps, multiply-adds, and recipes that spend more of them.

    MACs of a run = 3 * examples seen * MACs with kept weights of one forward pass

A backward pass counts as two forward ones: once for the weights' gradient, once for the activations'. Zeros are not
counted, as in the theoretical speed-up; what a machine does with masks today costs as much as the dense network. Where
weights outside the mask are held at values of their own, they are in use and count, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from surplus.pruning.counting import count
from surplus.pruning.schedules.imp import Level
from surplus.tasks import Duration, Recipe, Task
from surplus.training import Run


def full_steps(task: Task) -> int:
    """Steps of one whole training by the task's recipe."""
    return task.recipe.duration.steps(math.ceil(len(task.train) / task.recipe.batch_size))


def trained_steps(run: Run) -> float:
    """Steps that a replica of this run was trained for, averaged over the replicas."""
    taken = [run.parts[i].manifest["steps"] - run.parts[i].spec["start_step"] for i, _ in run.rows]
    return sum(taken) / len(taken)


def training_budget(levels: Iterable[Level]) -> float:
    """How many whole trainings all levels took together, in steps."""
    levels = list(levels)
    return sum(trained_steps(level.run) for level in levels) / full_steps(levels[0].run.task)


def training_macs(trained: Level | Run) -> float:
    """Multiply-adds of training one replica, averaged over the replicas."""
    run, masks = (trained.run, in_use(trained)) if isinstance(trained, Level) else (trained, None)
    task = run.task
    x = task.prepare(task.train.inputs[:1])
    if masks is None:
        macs = float(count(task.space.module, x).macs)
    else:
        macs = sum(count(task.space.module, x, mask).macs_nonzero for mask in masks) / len(masks)
    return 3 * macs * _examples_seen(run)


def in_use(level: Level) -> Tensor:
    """(K, P) the weights that a forward pass reads: those under the mask, and others that are not zero at the end.

    Where training diverged and nothing is a number, the mask alone counts.
    """
    theta = level.run.theta.to(level.masks.device)
    return level.masks | (theta != 0) & theta.isfinite()


def stretched(recipe: Recipe, factor: float) -> Recipe:
    """The recipe for `factor` times as long: its duration and milestones; the warm-up stays."""
    lengths = {"duration": _times(recipe.duration, factor)}
    return recipe.model_copy(update={**lengths, "milestones": tuple(_times(m, factor) for m in recipe.milestones)})


def _times(length: Duration, factor: float) -> Duration:
    number = float(length[:-2]) * factor
    if length.endswith("it"):
        return Duration(f"{max(1, round(number))}it")
    return Duration(f"{number:.6f}".rstrip("0").rstrip(".") + "ep")


def _examples_seen(run: Run) -> float:
    """By each replica, on average: an epoch sees all of its examples, in batches of nearly equal size."""
    sizes = [len(s) for s in run.subsets] if run.subsets else [len(run.task.train)]
    per_step = [n / math.ceil(n / run.task.recipe.batch_size) for n in sizes]
    return trained_steps(run) * sum(per_step) / len(per_step)
