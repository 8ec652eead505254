"""The differentiable search for sizes of Transformable Architecture Search.

    u = (log softmax(A) + Gumbel) / tau,   two widths a != b drawn by softmax(u),   (p_a, p_b) = softmax(u_a, u_b)
    layer(x) = p_a CWI(BN_a(conv(x)[:a])) + p_b CWI(BN_b(conv(x)[:b]))
    stage(x) = sum_d q_d CWI(x after block d),   q = softmax(u) of the stage's depths
    loss(A) = CE(validation half) + lambda R,    R = log E above the target, -log E below it less a tolerance, 0 between

CWI brings features to one number of channels by interpolation; E is the expected cost; target and tolerance are for the
cost of the most probable sizes. Weights learn on one half of the training data, A on the other, by turns. The result is
the most probable sizes after the last epoch, or the last after which they met the target. Dong & Yang 2019, arXiv
1905.09717, with the defaults of the authors' code, which prefers sizes that meet the target too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor, nn

from surplus.errors import InputError
from surplus.networks.layers import he_normal
from surplus.networks.sized import with_channels
from surplus.pruning.structured.tas_sizes import Backbone, Sizes, backbone, depth_choices, width_choices
from surplus.space import generator, seed_for, seeded
from surplus.tasks import Task
from surplus.training.augment import augment, draw


class SearchSettings(BaseModel):
    """How the search runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: Annotated[int, Field(ge=1)] = 600
    """Passes over the half of the training data on which the weights learn."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Examples per step, of each half."""
    lr: Annotated[float, Field(gt=0)] = 0.1
    """Of the weights: SGD with Nesterov momentum 0.9, falling by a cosine."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Of the weights."""
    size_lr: Annotated[float, Field(gt=0)] = 1e-3
    """Of the logits A: Adam with betas (0.5, 0.999)."""
    size_decay: Annotated[float, Field(ge=0)] = 1e-3
    """Of the logits A."""
    hot: Annotated[float, Field(gt=0)] = 5.0
    """Temperature tau at the beginning; the paper says 10."""
    cold: Annotated[float, Field(gt=0)] = 0.1
    """Temperature at the end."""
    cost_weight: Annotated[float, Field(ge=0)] = 2.0
    """lambda."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """How far below the target costs may lie, as a share of the full network's."""


# ---- the parts ------------------------------------------------------------------------------------------------------


class Pick(NamedTuple):
    """Two different candidates and how they are mixed; one where there is only one."""

    chosen: tuple[int, ...]
    weights: Tensor
    """(2,), they sum to 1."""


def temperature(share: float, hot: float = 5.0, cold: float = 0.1) -> float:
    """The temperature after this share of the search: a cosine from `hot` down to `cold`."""
    return cold + (hot - cold) * (1 + math.cos(math.pi * share)) / 2


def perturbed(logits: Tensor, tau: float, generator: Generator) -> Tensor:
    """(log softmax(A) + Gumbel noise) / tau, (choices,); drawn again where a draw overflows."""
    if not bool(logits.isfinite().all()):
        raise InputError("the search for sizes diverged; lower its lr or size_lr")
    while True:
        gumbel = -torch.empty(logits.shape, dtype=logits.dtype).exponential_(generator=generator).log()
        u = (logits.log_softmax(-1) + gumbel) / tau
        if bool(u.isfinite().all()):
            return u


def pick_two(logits: Tensor, tau: float, generator: Generator) -> Pick:
    """Two candidates without replacement, with the softmax over those two; differentiable in the logits (choices,)."""
    u = perturbed(logits, tau, generator)
    drawn = torch.multinomial(u.detach().softmax(-1) + 1e-7, min(2, len(u)), generator=generator)
    return Pick(tuple(drawn.tolist()), u[drawn].softmax(-1))


def interpolate_channels(x: Tensor, channels: int) -> Tensor:
    """Average pooling along the channels, (B, C, ...) -> (B, n, ...): bin i is floor(iC/n), ..., ceil((i+1)C/n) - 1."""
    if x.shape[1] == channels:
        return x
    rows = x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)  # (B, C, places)
    return F.adaptive_avg_pool1d(rows.transpose(1, 2), channels).transpose(1, 2).reshape(len(x), channels, *x.shape[2:])


def cost_loss(expected: Tensor, macs: float, target: float, tolerance: float) -> Tensor:
    """R: pushes the expected cost down where the most probable sizes cost too much, up where too little.

    Args:
        expected: E, which carries the gradient.
        macs: cost of the most probable sizes, which decides.
        target: what they may cost.
        tolerance: how far below that they may lie.
    """
    if macs > target:
        return expected.log()
    return -expected.log() if macs < target - tolerance else 0 * expected


class Architecture:
    """The logits A of all widths and depths; they stay on the CPU."""

    def __init__(self, back: Backbone, generator: Generator) -> None:
        self.back = back
        self.widths = [width_choices(w) for w in back.widths]
        self.depths = [depth_choices(d) for d in back.depths]
        start = [torch.randn(len(c), generator=generator) * 0.01 for c in (*self.widths, *self.depths)]
        self.logits = [a.requires_grad_() for a in start]

    @property
    def sizes(self) -> Sizes:
        """The most probable ones."""
        best = [int(a.argmax()) for a in self.logits]
        chosen = [c[i] for c, i in zip((*self.widths, *self.depths), best, strict=True)]
        n = len(self.widths)
        return Sizes(tuple(chosen[:n]), tuple(chosen[n:]))

    def expected(self) -> Tensor:
        """Expected multiply-adds, without noise."""
        n = len(self.widths)
        means = [a.softmax(-1) @ torch.tensor(c, dtype=a.dtype) for a, c in zip(self.logits, self.widths, strict=False)]
        ends = [
            self._by_block(a.softmax(-1), c, d)
            for a, c, d in zip(self.logits[n:], self.depths, self.back.depths, strict=True)
        ]
        total: Tensor = self.back.cost(means, ends)
        return total

    def draw(self, tau: float, generator: Generator) -> tuple[list[Pick], list[Tensor]]:
        """Two widths for each layer, and for each stage the weight of every depth."""
        n = len(self.widths)
        picks = [pick_two(a, tau, generator) for a in self.logits[:n]]
        return picks, [perturbed(a, tau, generator).softmax(-1) for a in self.logits[n:]]

    @staticmethod
    def _by_block(shares: Tensor, choices: tuple[int, ...], blocks: int) -> list[Tensor]:
        """The probability that a stage ends after each of its blocks."""
        where = {depth: shares[i] for i, depth in enumerate(choices)}
        return [where.get(i + 1, shares.new_zeros(())) for i in range(blocks)]


class Layer(nn.Module):
    """A layer of many widths: one weight, a batch norm for each candidate."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, choices: tuple[int, ...], full: int) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
        self.layer, self.choices, self.full = layer, choices, full
        self.norms = nn.ModuleList([norm(c) for c in choices])

    def forward(self, x: Tensor, pick: Pick) -> Tensor:
        """(B, any channels, ...) to (B, the wider of both candidates, ...)."""
        y = self.layer(with_channels(x, self.full))
        most = max(self.choices[i] for i in pick.chosen)
        parts = [interpolate_channels(self.norms[i](y[:, : self.choices[i]]), most) for i in pick.chosen]
        mixed = parts[0] * pick.weights[0]
        return mixed + parts[1] * pick.weights[1] if len(parts) > 1 else mixed


class SearchNetwork(nn.Module):
    """The backbone with layers of many widths and stages of many depths."""

    def __init__(self, back: Backbone) -> None:
        super().__init__()
        self.depths = back.depths
        inputs = [back.inputs, *back.widths[:-1]]
        self.layers = nn.ModuleList()
        for before, after, stride in zip(inputs, back.widths, back.strides, strict=True):
            layer: nn.Linear | nn.Conv2d = nn.Linear(before, after, bias=False)
            if back.depths:
                layer = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
            self.layers.append(Layer(layer, width_choices(after), before))
        self.strides = back.strides
        self.last = back.widths[-1]
        self.head = nn.Linear(self.last, back.outputs)
        he_normal(self)

    def forward(self, x: Tensor, picks: list[Pick], depths: list[Tensor]) -> Tensor:
        """(B, ...) to logits (B, outputs), under what `Architecture.draw` drew."""
        x = x if self.depths else x.flatten(1)
        x, i = F.relu(self.layers[0](x, picks[0])), 1
        for blocks, weights in zip(self.depths, depths, strict=True):
            after = []
            for _ in range(blocks):
                x = self._block(x, i, picks)
                after.append(x)
                i += 2
            x = mixed_depth([after[d - 1] for d in depth_choices(blocks)], weights)
        for layer, pick in zip(self.layers[i:], picks[i:], strict=True):
            x = F.relu(layer(x, pick))
        x = x.mean((-2, -1)) if self.depths else x
        return self.head(with_channels(x, self.last))

    def _block(self, x: Tensor, i: int, picks: list[Pick]) -> Tensor:
        """Layers i and i + 1 around a shortcut."""
        y = self.layers[i + 1](F.relu(self.layers[i](x, picks[i])), picks[i + 1])
        stride = self.strides[i]
        return F.relu(y + with_channels(x[..., ::stride, ::stride], y.shape[1]))


def mixed_depth(features: list[Tensor], weights: Tensor) -> Tensor:
    """sum_d q_d CWI(features after depth d), at the widest of them."""
    most = max(f.shape[1] for f in features)
    parts = [interpolate_channels(f, most) * q for f, q in zip(features, weights, strict=True)]
    return torch.stack(parts).sum(0)


# ---- the search -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Searched:
    """What a search found."""

    sizes: Sizes
    macs: int
    target: float
    tolerance: float
    course: Tensor
    """(epochs, 2) multiply-adds of the most probable sizes and their expectation, after each epoch."""

    @property
    def met(self) -> bool:
        """Whether the target is met: not exceeded, and missed by no more than the tolerance."""
        return self.meets(self.macs)

    def meets(self, macs: float) -> bool:
        """Whether so many multiply-adds would meet the target."""
        return self.target - self.tolerance <= macs <= self.target


def search(task: Task, keep: float, settings: SearchSettings, seed: int = 0, device: str = "cpu") -> Searched:
    """Search for sizes that cost the share `keep` of the full network's multiply-adds.

    Args:
        task: with one of the networks that `backbone` knows.
        keep: target, in (0, 1].
        settings: of the search.
        seed: decides the halves of the data, first values, orders and draws.
        device: where the network runs.
    """
    back, s = backbone(task), settings
    chance = generator(seed, "tas")
    full = back.macs(back.full)
    target, tolerance = keep * full, s.tolerance * full
    sizes = Architecture(back, chance)
    with seeded(seed_for(seed, "tas network")):
        network = SearchNetwork(back).to(device).train()
    weights = torch.optim.SGD(network.parameters(), s.lr, momentum=0.9, nesterov=True, weight_decay=s.weight_decay)
    logits = torch.optim.Adam(sizes.logits, s.size_lr, betas=(0.5, 0.999), weight_decay=s.size_decay)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(weights, s.epochs)
    order = torch.randperm(len(task.train), generator=chance)
    halves, course, after = order.tensor_split(2), [], []
    for epoch in range(s.epochs):
        tau = temperature(epoch / max(s.epochs - 1, 1), s.hot, s.cold)
        streams = [_batches(task, half, s.batch_size, seed, epoch, device) for half in halves]
        for (x, y), (x_held, y_held) in zip(*streams, strict=False):
            loss = F.cross_entropy(network(x, *sizes.draw(tau, chance)), y)
            _step(weights, loss, list(network.parameters()))
            held = F.cross_entropy(network(x_held, *sizes.draw(tau, chance)), y_held)
            cost = cost_loss(sizes.expected(), back.macs(sizes.sizes), target, tolerance)
            _step(logits, held + s.cost_weight * cost.to(held.device), sizes.logits)
        falling.step()
        after.append(sizes.sizes)
        course.append([float(back.macs(after[-1])), float(sizes.expected().detach())])
    every = [Searched(a, back.macs(a), target, tolerance, torch.tensor(course, dtype=torch.float64)) for a in after]
    return next((found for found in reversed(every) if found.met), every[-1])


def _step(optimiser: torch.optim.Optimizer, loss: Tensor, parameters: list[Tensor] | list[nn.Parameter]) -> None:
    """One step of these parameters; what else the loss depends on keeps no gradient."""
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    optimiser.step()


def _batches(
    task: Task, half: Tensor, size: int, seed: int, epoch: int, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over a half, in batches of nearly equal size, augmented as the task's recipe says."""
    order = half[torch.randperm(len(half), generator=generator(seed, "tas order", epoch, int(half[0])))]
    draws = None
    if task.train.kind == "image":
        draws = draw(task.recipe.augment, [seed], epoch, task.train.shape, len(task.train), torch.device("cpu"))
    for rows in order.tensor_split(-(-len(half) // size)):
        x = task.train.inputs[rows]
        if draws is not None:
            x = augment(x[None], task.recipe.augment, draws, rows[None])[0]
        yield task.prepare(x).to(device), task.train.targets[rows].to(device)
