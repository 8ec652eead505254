"""Knowledge distillation: a network learns the labels and, softened, what a teacher answers.

    loss_i = (1 - a) CE(z_i, y_i) + a T^2 KL(softmax(t_i / T) || softmax(z_i / T))

z: the student's logits, t: the teacher's. Hinton, Vinyals & Dean 2015, arXiv 1503.02531; weights, temperature and the
factor T^2 as in Dong & Yang 2019, arXiv 1905.09717.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch.nn.functional as F
from torch import Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.tasks import CLASSIFICATION, Recipe, Task
from surplus.training import Batch, Moment, Rule


def distillation(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, temperature: float) -> Tensor:
    """The loss of each example.

    Args:
        student: (..., classes) logits.
        teacher: (..., classes) logits for the same examples.
        labels: (...).
        alpha: weight of the teacher.
        temperature: T.

    Returns:
        (...).
    """
    hard = F.cross_entropy(student.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
    target, own = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    soft = (target.exp() * (target - own)).sum(-1)
    return (1 - alpha) * hard + alpha * temperature**2 * soft


@method("training rule", paper="Hinton, Vinyals & Dean 2015, arXiv 1503.02531")
@dataclass(frozen=True)
class Distillation(Rule):
    """Trains on the labels and on a teacher's logits, which stay as they were given.

    The teacher answered each training example as it is stored: where training changes images at random, the student
    sees the changed image and the teacher's answer to the unchanged one.

    Args:
        logits: (n, classes) of the teacher for the training examples, or (K, n, classes) for each replica its own.
        alpha: weight of the teacher in [0, 1]; the labels have the rest.
        temperature: by which both networks' logits are divided.
    """

    logits: Tensor
    alpha: float = 0.9
    temperature: float = 4.0

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """Refuse logits of another shape than the task's, and settings out of bounds."""
        shape = (len(task.train), task.classes)
        if task.objective is not CLASSIFICATION or recipe.label_smoothing:
            raise InputError("distillation is for classes, without label smoothing: the teacher's answers are soft")
        if tuple(self.logits.shape) not in {shape, (replicas, *shape)}:
            raise InputError(
                f"the teacher's logits have shape {tuple(self.logits.shape)}; {shape}, or ({replicas}, {shape[0]},"
                f" {shape[1]}) for a teacher each, is expected: one row per training example"
            )
        if not 0 <= self.alpha <= 1 or not self.temperature > 0:
            raise InputError(
                f"alpha lies in [0, 1] and temperature above 0; got alpha={self.alpha}, temperature={self.temperature}"
            )

    def loss(self, now: Moment, batch: Batch, outputs: Tensor) -> Tensor:
        every = self.logits.expand(len(outputs), *self.logits.shape[-2:])  # (K, n, classes)
        teacher = every.gather(1, batch.index.unsqueeze(-1).expand(-1, -1, every.shape[-1]))
        return distillation(outputs, teacher.to(outputs.dtype), batch.targets, self.alpha, self.temperature)

    def part(self, replicas: list[int]) -> Self:
        return replace(self, logits=self.logits[replicas]) if self.logits.dim() == 3 else self
