"""Gradients of K networks on K batches: by hand for chains, one program for a stack, ordinary autograd for each else.

(theta (K, P), x (K, B, ...), y (K, B, ...))  ->  outputs (K, B, ...), losses (K, B), gradients (K, P)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from surplus.space import WeightSpace, seed_for, seeded
from surplus.tasks import Objective, Recipe
from surplus.training.chain import Chain, Lose, Weigh


class Engine(Protocol):
    """What every engine does."""

    def __call__(
        self, theta: Tensor, x: Tensor, y: Tensor, step: int, weigh: Weigh | None = None, loss: Lose | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, per-example losses, and each network's gradient of its mean loss."""
        ...

    def outputs(self, theta: Tensor, x: Tensor, step: int, draw: int = 0) -> Tensor:
        """What the forward pass of training gives: (K, B, ...), without gradient; `draw`: another draw of dropout."""
        ...


def engine_for(
    space: WeightSpace,
    objective: Objective,
    recipe: Recipe,
    seeds: Sequence[int],
    device: torch.device,
    *,
    stacked: bool,
) -> Engine:
    """The fastest engine that the network allows: by hand, in one program, or one network after another."""
    chain = Chain.of(space, objective, recipe)
    if chain is not None:
        return chain
    if stacked:
        return Stacked(space, objective, recipe, len(seeds), device)
    return Separate(space, objective, recipe, seeds, device)


class Stacked:
    """K networks in one program: `torch.func.vmap` over the forward pass, one backward pass for all.

    The losses of different networks do not meet, so the gradient of their sum is every network's own gradient.
    """

    def __init__(
        self, space: WeightSpace, objective: Objective, recipe: Recipe, replicas: int, device: torch.device
    ) -> None:
        self.objective, self.recipe = objective, recipe
        self.space = copy.copy(space)
        self.space.module = copy.deepcopy(space.module).to(device)
        self.buffers = space.fresh_buffers(device, replicas)  # running averages that nobody reads

    def __call__(
        self, theta: Tensor, x: Tensor, y: Tensor, step: int, weigh: Weigh | None = None, loss: Lose | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        theta = theta.detach().requires_grad_()
        outputs = self._forward(theta, x)
        own = loss(outputs) if loss is not None else None
        losses = _losses(self.objective, self.recipe, outputs, y) if own is None else own
        weights = weigh(losses.detach()) if weigh is not None else None
        means = (losses if weights is None else weights * losses).mean(1)
        (grad,) = torch.autograd.grad(means.sum(), theta)
        return outputs.detach(), losses.detach(), grad

    @torch.no_grad()
    def outputs(self, theta: Tensor, x: Tensor, step: int, draw: int = 0) -> Tensor:
        return self._forward(theta, x)

    def _forward(self, theta: Tensor, x: Tensor) -> Tensor:
        with _arithmetic(self.recipe, theta.device):
            return _full(self.space.apply_each(theta, x, self.buffers, train=True))


class Separate:
    """Each network as a module whose parameters are views of one flat vector, and ordinary autograd; usually one."""

    def __init__(
        self, space: WeightSpace, objective: Objective, recipe: Recipe, seeds: Sequence[int], device: torch.device
    ) -> None:
        self.space, self.objective, self.recipe, self.seeds = space, objective, recipe, tuple(seeds)
        self.modules = [copy.deepcopy(space.module).to(device).train() for _ in seeds]
        self.bound = torch.empty(0)
        self.parameters: list[list[nn.Parameter]] = []

    def __call__(
        self, theta: Tensor, x: Tensor, y: Tensor, step: int, weigh: Weigh | None = None, loss: Lose | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, smoothing = self._forward(theta, x, step), self.recipe.label_smoothing
        own = loss(torch.stack(rows)) if loss is not None else None
        if own is None:  # row by row, since each operation on a small batch costs as much as it does on a large one
            losses = [self.objective.loss(o, t, smoothing) for o, t in zip(rows, y, strict=True)]
        else:
            losses = list(own)
        values = torch.stack([row.detach() for row in losses])
        weights = weigh(values) if weigh is not None else None
        means = [row.mean() if weights is None else (weights[k] * row).mean() for k, row in enumerate(losses)]
        every = [p for parameters in self.parameters for p in parameters]
        grads = torch.autograd.grad(means, every, allow_unused=True, materialize_grads=True)
        grad = torch.cat([g.reshape(-1) for g in grads]).view(len(theta), -1)
        return torch.stack([row.detach() for row in rows]), values, grad

    @torch.no_grad()
    def outputs(self, theta: Tensor, x: Tensor, step: int, draw: int = 0) -> Tensor:
        return torch.stack(self._forward(theta, x, step, draw))

    def _forward(self, theta: Tensor, x: Tensor, step: int, draw: int = 0) -> list[Tensor]:
        """Each network's outputs, in a graph of its own."""
        rows = []
        self._bind(theta.detach())
        for k, (module, seed) in enumerate(zip(self.modules, self.seeds, strict=True)):
            if self.space.has_dropout:
                with seeded(seed_for(seed, "dropout", step, *([draw] if draw else []))):
                    rows.append(self._one(module, x[k]))
            else:
                rows.append(self._one(module, x[k]))
        return rows

    def _bind(self, theta: Tensor) -> None:
        """Let the modules stand at theta (K, P) without copying it; nothing to do where they stand there already."""
        if theta.data_ptr() == self.bound.data_ptr() and theta.shape == self.bound.shape:
            return
        self.bound = theta
        self.parameters = [bind(self.space, m, p) for m, p in zip(self.modules, theta, strict=True)]

    def _one(self, module: nn.Module, x: Tensor) -> Tensor:
        if self.recipe.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with _arithmetic(self.recipe, x.device):
            return _full(module(x))


def bind(space: WeightSpace, module: nn.Module, point: Tensor) -> list[nn.Parameter]:
    """Make the module's parameters views of `point` (P,), and return them in order."""
    parameters = dict(module.named_parameters())
    for name, view in space.split(point).items():
        parameters[name].data = view
    return [parameters[b.name] for b in space.blocks]


def _losses(objective: Objective, recipe: Recipe, outputs: Tensor, y: Tensor) -> Tensor:
    """The objective's loss of each example, (K, B)."""
    losses = objective.loss(outputs.flatten(0, 1), y.flatten(0, 1), recipe.label_smoothing)
    return losses.view(outputs.shape[:2])


def _arithmetic(recipe: Recipe, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16")


def _full(outputs: Tensor) -> Tensor:
    """Half-precision outputs in float32, where losses are computed; wider ones as they are."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
