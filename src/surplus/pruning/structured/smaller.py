"""A task with a smaller network in the place of its own: how structured pruning hands its result to training.

small, theta = smaller_task(task, shrink(module, shape, keep=0.5))
run = fit(small, seeds=[0], start=theta[None])
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from torch import Tensor, nn

from surplus.space import WeightSpace
from surplus.tasks import Network, Task


def smaller_task(task: Task, module: nn.Module) -> tuple[Task, Tensor]:
    """The task whose network is a copy of `module`, and the point (P',) where the module stands.

    Args:
        task: data, objective and recipe.
        module: a network for the same inputs and outputs, of any size.

    Returns:
        The new task, and the module's weights. Initial points of the task's own seeds are copies of these weights too:
        to train from fresh ones give `fit` a `start`.
    """
    network = Network(f"{task.network.name}, smaller", factory=_Copies(module))
    return replace(task, network=network), WeightSpace(network).read(module)


@dataclass(frozen=True)
class _Copies:
    """A factory of copies of one module, which processes can share."""

    module: nn.Module

    def __call__(self) -> nn.Module:
        return copy.deepcopy(self.module)
