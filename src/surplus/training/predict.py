"""Predictions and evaluations of trained points, each with batch-norm statistics of its own."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surplus.data import Dataset
from surplus.errors import InputError
from surplus.space import Buffers
from surplus.tasks import Task
from surplus.training.engine import bind

_SMALL = 50_000
"""Networks below this many weights are evaluated together; larger ones gain nothing from it on a CPU."""


@dataclass(frozen=True)
class Evaluation:
    """How K points do on one data set."""

    loss: Tensor
    """(K,) mean loss."""
    metric: Tensor
    """(K,) mean metric: accuracy for classes."""
    per_example: Tensor
    """(K, n) metric of each example."""


def predict(task: Task, theta: Tensor, data: Dataset, *, batch: int = 1024, buffers: Buffers | None = None) -> Tensor:
    """Outputs of the point(s) theta on all of `data`, in evaluation mode.

    Args:
        task: whose network and normalisation are used.
        theta: (P,) or (K, P).
        data: any examples of the task's shape.
        batch: examples per pass.
        buffers: batch-norm statistics of these points; re-estimated on the training inputs when None.

    Returns:
        (n, ...) or (K, n, ...), float32.
    """
    if theta.dim() == 1:
        return predict(
            task,
            theta[None],
            data,
            batch=batch,
            buffers=None if buffers is None else {k: v[None] for k, v in buffers.items()},
        )[0]
    task, data = task.to(theta.device), data.to(theta.device)
    with torch.no_grad():
        if task.space.size <= _SMALL and len(theta) > 1 and not task.space.batch_norms and task.space.vmaps:
            parts = [task.space.apply(theta, x) for x, _ in task.batches(data, batch)]
            return torch.cat(parts, dim=1).float()
        rows = []
        for i, point in enumerate(theta):
            own = task.statistics(point) if buffers is None else {k: v[i] for k, v in buffers.items()}
            rows.append(_one(task, point, data, batch, own))
    return torch.stack(rows)


def _one(task: Task, theta: Tensor, data: Dataset, batch: int, buffers: Buffers | None) -> Tensor:
    module = copy.deepcopy(task.space.module).to(theta.device).eval()
    bind(task.space, module, theta.detach())
    if buffers:
        module.load_state_dict(buffers, strict=False)
    precise = task.recipe.precision == "float32"
    parts = []
    for x, _ in task.batches(data, batch):
        if task.recipe.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(theta.device.type, dtype=torch.bfloat16, enabled=not precise):
            parts.append(module(x).float())
    return torch.cat(parts)


def features(task: Task, theta: Tensor, data: Dataset, *, batch: int = 1024) -> Tensor:
    """What enters the last linear layer: the penultimate features of the point theta on all of `data`.

    Args:
        task: whose network and normalisation are used.
        theta: (P,).
        data: any examples of the task's shape.
        batch: examples per pass.

    Returns:
        (n, width), float32.

    Raises:
        InputError: the network's output is not that of a linear layer.
    """
    task, data = task.to(theta.device), data.to(theta.device)
    module = task.space.write(theta, task.statistics(theta))
    calls: list[tuple[Tensor, Tensor]] = []
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(lambda _, args, out: calls.append((args[0], out)))
    rows = []
    with torch.no_grad():
        for x, _ in task.batches(data, batch):
            out = module(x)
            if not calls or calls[-1][1].shape != out.shape or calls[-1][0].dim() != 2:
                raise InputError(
                    f"the network {task.network.name} does not end in a linear layer, so it has no penultimate features"
                )
            rows.append(calls[-1][0].float())
            calls.clear()
    return torch.cat(rows)


def evaluate(task: Task, theta: Tensor, data: Dataset, *, outputs: Tensor | None = None) -> Evaluation:
    """Loss and metric of the points theta (K, P) on `data`."""
    outputs = predict(task, theta, data) if outputs is None else outputs
    targets = data.targets.to(outputs.device)
    per_example = torch.stack([task.objective.metric(o, targets).float() for o in outputs])
    losses = torch.stack([task.loss(o, targets).float() for o in outputs])
    return Evaluation(losses.mean(1), per_example.mean(1), per_example)
