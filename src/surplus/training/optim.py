"""Optimisers on flat points: z (K, d), one row per replica; every rule acts on each row alone.

SGD      b <- momentum b + g + wd z;                z <- z - lr b                    (torch's form)
Adam     m, v: running moments of g;                z <- z - lr m^ / (sqrt v^ + eps)  (Kingma & Ba 2015)
AdamW    Adam with z <- (1 - lr wd) z beside it                                       (Loshchilov & Hutter 2019)
Muon     z <- z - lr 0.2 sqrt(max(out, in)) msign(momentum), hidden matrices only     (Jordan 2024; Liu et al. 2025)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

from surplus.errors import InputError
from surplus.registry import method
from surplus.space import Block
from surplus.tasks import Recipe


class Optimiser:
    """A rule that moves z in place; `state` is all it remembers, by name, each (K, d)."""

    def __init__(self, recipe: Recipe, z: Tensor, blocks: Sequence[Block] | None) -> None:
        self.recipe = recipe
        self.state: dict[str, Tensor] = {}

    def step(self, z: Tensor, grad: Tensor, lr: float, t: int) -> None:
        """One update of z (K, d) by grad (K, d), which the rule may overwrite; t = 1, 2, ... counts updates."""
        raise NotImplementedError


@method("training rule", paper="Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013")
class SGD(Optimiser):
    """Stochastic gradient descent with momentum, Nesterov's or the plain one."""

    def __init__(self, recipe: Recipe, z: Tensor, blocks: Sequence[Block] | None) -> None:
        super().__init__(recipe, z, blocks)
        if recipe.momentum:
            self.state["momentum"] = torch.zeros_like(z)

    def step(self, z: Tensor, grad: Tensor, lr: float, t: int) -> None:
        mu = self.recipe.momentum
        if self.recipe.weight_decay:
            grad.add_(z, alpha=self.recipe.weight_decay)
        if not mu:
            z.add_(grad, alpha=-lr)
            return
        momentum = self.state["momentum"].mul_(mu).add_(grad)
        if self.recipe.nesterov:
            z.add_(grad, alpha=-lr).add_(momentum, alpha=-lr * mu)
        else:
            z.add_(momentum, alpha=-lr)


@method("training rule", paper="Kingma & Ba 2015, arXiv 1412.6980")
class Adam(Optimiser):
    """Adam; weight decay is an L2 penalty in the gradient."""

    decoupled = False
    eps = 1e-8

    def __init__(self, recipe: Recipe, z: Tensor, blocks: Sequence[Block] | None) -> None:
        super().__init__(recipe, z, blocks)
        self.state = {"first": torch.zeros_like(z), "second": torch.zeros_like(z)}

    def step(self, z: Tensor, grad: Tensor, lr: float, t: int) -> None:
        b1, b2 = self.recipe.betas
        adam(  # one pass over memory where ten operations of our own would take ten
            [z],
            [grad],
            [self.state["first"]],
            [self.state["second"]],
            [],
            [torch.tensor(float(t - 1), device=z.device)],
            fused=True,
            amsgrad=False,
            beta1=b1,
            beta2=b2,
            lr=lr,
            weight_decay=self.recipe.weight_decay,
            eps=self.eps,
            maximize=False,
            decoupled_weight_decay=self.decoupled,
        )

    def direction(self, grad: Tensor, t: int) -> Tensor:
        """m^ / (sqrt v^ + eps), with both moments updated."""
        b1, b2 = self.recipe.betas
        first = self.state["first"].lerp_(grad, 1 - b1)
        second = self.state["second"].mul_(b2).addcmul_(grad, grad, value=1 - b2)
        root = second.div(1 - b2**t).sqrt_().add_(self.eps)
        return first.div(1 - b1**t).div_(root)


@method("training rule", paper="Loshchilov & Hutter 2019, arXiv 1711.05101")
class AdamW(Adam):
    """Adam with weight decay apart from the gradient."""

    decoupled = True


@method("training rule", paper="Jordan et al. 2024; scale of Liu et al. 2025, arXiv 2502.16982")
class Muon(AdamW):
    """Orthogonalised momentum for hidden weight matrices, AdamW for all else (first and last layer, biases, norms)."""

    def __init__(self, recipe: Recipe, z: Tensor, blocks: Sequence[Block] | None) -> None:
        if blocks is None:
            raise InputError("muon needs weight matrices, and these coordinates have none; choose sgd, adam or adamw")
        super().__init__(recipe, z, blocks)
        self.state["momentum"] = torch.zeros_like(z)
        self.matrices = [b for b in blocks if b.prunable][1:-1]

    def step(self, z: Tensor, grad: Tensor, lr: float, t: int) -> None:
        momentum = self.state["momentum"].mul_(self.recipe.momentum).add_(grad)
        direction = self.direction(grad, t)
        for block in self.matrices:
            matrix = momentum[:, block.slice].view(len(z), block.shape[0], -1)  # (K, out, in)
            scale = 0.2 * max(matrix.shape[1:]) ** 0.5  # the size of AdamW's steps
            direction[:, block.slice] = scale * matrix_sign(matrix).flatten(1)
        z.mul_(1 - lr * self.recipe.weight_decay).add_(direction, alpha=-lr)


def matrix_sign(g: Tensor, steps: int = 5) -> Tensor:
    """Nearly the orthogonal factor U V' of g = U S V', by the quintic Newton-Schulz iteration: (..., o, i) -> same."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    wide = x if g.shape[-2] <= g.shape[-1] else x.mT
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if g.shape[-2] <= g.shape[-1] else wide.mT


OPTIMISERS: dict[str, type[Optimiser]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "muon": Muon}


def learning_rate(recipe: Recipe, step: int, total: int, steps_per_epoch: int) -> float:
    """The rate of update number `step` (0, 1, ...) out of `total`.

    Warm-up rises linearly over its steps; the schedule runs over the rest: constant; cosine to 0; multiplied by gamma
    at each milestone; one-cycle, a linear rise over 30% and a linear fall to 0; linear, a fall to 0 from the first
    milestone on.
    """
    import math

    warmup = recipe.warmup.steps(steps_per_epoch)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    share = (step - warmup) / max(total - warmup, 1)  # in [0, 1)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * share))
    if recipe.schedule == "onecycle":
        middle = (step - warmup + 0.5) / max(total - warmup, 1)  # never exactly 0 at either end
        return recipe.lr * (middle / 0.3 if middle < 0.3 else (1 - middle) / 0.7)
    if recipe.schedule == "step":
        return recipe.lr * recipe.gamma ** sum(step >= m.steps(steps_per_epoch) for m in recipe.milestones)
    if recipe.schedule == "linear":
        first = max(warmup, recipe.milestones[0].steps(steps_per_epoch) if recipe.milestones else 0)
        return recipe.lr * min(1.0, (total - step) / max(total - first, 1))
    return recipe.lr


def clip_per_replica(grad: Tensor, length: float) -> Tensor:
    """Scale each row of grad (K, d) that is longer than `length` down to it."""
    return grad * (length / (grad.norm(dim=1, keepdim=True) + 1e-12)).clamp(max=1)
