"""Gradients of K networks on K batches: one program for a stack of small networks, the ordinary fast path for one.

(theta (K, P), x (K, B, ...), y (K, B, ...))  ->  outputs (K, B, ...), losses (K, B), gradients (K, P)
"""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from surplus.space import seed_for, seeded
from surplus.tasks import Recipe, Task


class Engine(Protocol):
    """What both engines do."""

    def __call__(self, theta: Tensor, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, per-example losses, and each network's gradient of its mean loss."""
        ...


class Stacked:
    """K networks in one program: `torch.func.vmap` over the forward pass, one backward pass for all.

    The losses of different networks do not meet, so the gradient of their sum is every network's own gradient.
    """

    def __init__(self, task: Task, recipe: Recipe, replicas: int, device: torch.device) -> None:
        self.task, self.recipe = task, recipe
        self.space = copy.copy(task.space)
        self.space.module = copy.deepcopy(task.space.module).to(device)
        self.buffers = task.space.fresh_buffers(device, replicas)  # running averages that nobody reads

    def __call__(self, theta: Tensor, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        theta = theta.detach().requires_grad_()
        with _arithmetic(self.recipe, theta.device):
            outputs = _full(self.space.apply_each(theta, x, self.buffers, train=True))
        losses = self.task.objective.loss(outputs.flatten(0, 1), y.flatten(0, 1), self.recipe.label_smoothing).view(
            len(theta), -1
        )
        (grad,) = torch.autograd.grad(losses.mean(1).sum(), theta)
        return outputs.detach(), losses.detach(), grad


class Single:
    """One network: a module whose parameters are views of one flat vector, and ordinary autograd."""

    def __init__(self, task: Task, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.task, self.recipe, self.seed = task, recipe, seed
        self.module = copy.deepcopy(task.space.module).to(device).train()
        self.point = torch.empty(task.space.size, device=device, dtype=task.space.dtype)
        self.parameters = bind(task, self.module, self.point)

    def __call__(self, theta: Tensor, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        self.point.copy_(theta[0])
        if self.task.space.has_dropout:
            with seeded(seed_for(self.seed, "dropout", step)):
                outputs = self._forward(x[0])
        else:
            outputs = self._forward(x[0])
        losses = self.task.objective.loss(outputs, y[0], self.recipe.label_smoothing)
        grads = torch.autograd.grad(losses.mean(), self.parameters, allow_unused=True, materialize_grads=True)
        return outputs.detach()[None], losses.detach()[None], torch.cat([g.reshape(-1) for g in grads])[None]

    def _forward(self, x: Tensor) -> Tensor:
        if self.recipe.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with _arithmetic(self.recipe, x.device):
            return _full(self.module(x))


def bind(task: Task, module: nn.Module, point: Tensor) -> list[nn.Parameter]:
    """Make the module's parameters views of `point` (P,), and return them in order."""
    parameters = dict(module.named_parameters())
    for name, view in task.space.split(point).items():
        parameters[name].data = view
    return [parameters[b.name] for b in task.space.blocks]


def _arithmetic(recipe: Recipe, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16")


def _full(outputs: Tensor) -> Tensor:
    """Half-precision outputs in float32, where losses are computed; wider ones as they are."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
