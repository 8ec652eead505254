"""Sizes that a search may give a network: widths of layers, depths of stages, and what they cost.

    cost = sum_l k_l^2 H_l W_l c_in c_out P(layer l is used) + c_last outputs        (multiply-adds)

For one network every P is 0 or 1, and the cost is exact where shortcuts have no weights, as in the networks that are
built from these sizes; the projections of a backbone that has some are not counted. With expected widths and depths it
is the expected cost of Dong & Yang 2019, arXiv 1905.09717. Backbones are the residual networks for small images and the
fully connected one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Generator

from surplus.errors import InputError
from surplus.networks.resnet import Block, ResNet
from surplus.tasks import Network, Task

RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_GRID = 2000
"""Common ratios that `uniform_sizes` looks at."""


def width_choices(channels: int) -> tuple[int, ...]:
    """Candidate widths of a layer with so many channels: 30% to 100% of them, rounded down, at least one."""
    return tuple(sorted({max(1, int(channels * r)) for r in RATIOS}))


def depth_choices(blocks: int) -> tuple[int, ...]:
    """Candidate depths of a stage: all up to three blocks, else every second one, and all of the blocks."""
    if blocks <= 3:
        return tuple(range(1, blocks + 1))
    return tuple(sorted({*range(1, blocks + 1, 2), blocks}))


@dataclass(frozen=True)
class Sizes:
    """Sizes of one network."""

    widths: tuple[int, ...]
    """Channels of every layer of the backbone, in order; those of unused blocks count for nothing."""
    depths: tuple[int, ...]
    """Blocks of every stage; empty without stages."""


@dataclass(frozen=True)
class Backbone:
    """The network whose sizes are searched: a first layer, stages of blocks of two layers, further layers, a head."""

    inputs: int
    outputs: int
    widths: tuple[int, ...]
    """Full widths."""
    places: tuple[int, ...]
    """For each layer, its kernel's area times its output positions."""
    strides: tuple[int, ...]
    """Of each layer."""
    depths: tuple[int, ...]
    """Blocks of every stage; empty for a chain of fully connected layers."""

    @property
    def full(self) -> Sizes:
        """The sizes of the backbone itself."""
        return Sizes(self.widths, self.depths)

    def macs(self, sizes: Sizes) -> int:
        """Multiply-adds of the network of these sizes."""
        ends = [[int(i + 1 == d) for i in range(n)] for n, d in zip(self.depths, sizes.depths, strict=True)]
        return int(self.cost(sizes.widths, ends))

    def cost(self, widths: Sequence[Any], ends: Sequence[Sequence[Any]]) -> Any:
        """Multiply-adds from numbers or tensors.

        Args:
            widths: of each layer, or their expectations.
            ends: for each stage and block, the probability that the stage ends after it.
        """
        before = widths[0]
        total, layer = self.places[0] * self.inputs * before, 1
        for end in ends:
            used = list(accumulate(reversed(end)))[::-1]  # a block is used if the stage ends there or later
            outs = []
            for share in used:
                inner, after = widths[layer : layer + 2]
                first, second = self.places[layer : layer + 2]
                total = total + share * inner * (first * before + second * after)
                before, layer = after, layer + 2
                outs.append(after)
            before = sum(e * o for e, o in zip(end, outs, strict=True))
        for place, width in zip(self.places[layer:], widths[layer:], strict=True):
            total, before = total + place * before * width, width
        return total + before * self.outputs

    def used(self, sizes: Sizes) -> tuple[int, ...]:
        """Widths of the layers that are there."""
        kept, layer = [sizes.widths[0]], 1
        for blocks, depth in zip(self.depths, sizes.depths, strict=True):
            kept += sizes.widths[layer : layer + 2 * depth]
            layer += 2 * blocks
        return tuple(kept) + sizes.widths[layer:]


def backbone(task: Task) -> Backbone:
    """The backbone that a task's network is: `mlp`, or one of the residual networks for small images.

    Raises:
        InputError: another network.
    """
    module, shape = task.space.module, task.train.shape
    if task.network.name == "mlp":
        layers = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
        hidden = tuple(m.out_features for m in layers[:-1])
        if hidden:
            ones = (1,) * len(hidden)
            return Backbone(layers[0].in_features, layers[-1].out_features, hidden, ones, ones, ())
    if isinstance(module, ResNet):
        return _residual(module, shape)
    raise InputError(
        f"sizes are searched for mlp (with hidden layers) and the residual networks resnet-cifar, -20, -32, -56 and"
        f" -18; the task has {task.network.name}"
    )


def _residual(module: ResNet, shape: tuple[int, ...]) -> Backbone:
    blocks: list[Block] = [b for b in module.blocks if isinstance(b, Block)]
    convolutions = [module.conv, *(c for b in blocks for c in (b.conv1, b.conv2))]
    strides = tuple(int(c.stride[0]) for c in convolutions)
    places, (_, height, width) = list[int](), shape
    for stride in strides:
        height, width = -(-height // stride), -(-width // stride)
        places.append(9 * height * width)
    depths = [0]
    for block in blocks:
        depths += [0] if block.conv1.stride[0] == 2 else []
        depths[-1] += 1
    widths = tuple(c.out_channels for c in convolutions)
    head = module.head.out_features
    return Backbone(module.conv.in_channels, head, widths, tuple(places), strides, tuple(depths))


def sized_task(task: Task, sizes: Sizes) -> Task:
    """The task with a network of these sizes, of which nothing is trained yet.

    A residual network becomes `sized-resnet`: batch norms, and shortcuts without weights.
    """
    own, widths = task.network, backbone(task).used(sizes)
    if own.name == "mlp":
        made = replace(task, network=replace(own, options={**own.options, "widths": widths}))
    else:
        options = {"widths": widths, "depths": sizes.depths}
        outputs = backbone(task).outputs
        made = replace(task, network=Network("sized-resnet", task.train.shape, outputs, options))
    _ = made.space  # builds it now, so that a misfit is an error here
    return made


# ---- controls at equal cost -----------------------------------------------------------------------------------------


def uniform_sizes(back: Backbone, macs: int) -> Sizes:
    """All layers narrowed by one ratio, at full depth: of all ratios the one whose cost is nearest to `macs`."""
    ratios = [(i + 1) / _GRID for i in range(_GRID)]
    rows = {tuple(max(1, round(w * r)) for w in back.widths): None for r in ratios}
    return min((Sizes(widths, back.depths) for widths in rows), key=lambda s: abs(back.macs(s) - macs))


def random_sizes(back: Backbone, macs: int, generator: Generator, within: float = 0.02, tries: int = 5000) -> Sizes:
    """Candidate widths and depths at random, drawn until the cost is that close to `macs`; else the nearest drawn."""

    def pick(choices: Sequence[int]) -> int:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    widths, depths = [width_choices(w) for w in back.widths], [depth_choices(d) for d in back.depths]
    nearest = back.full
    for _ in range(tries):
        drawn = Sizes(tuple(map(pick, widths)), tuple(map(pick, depths)))
        nearest = min(nearest, drawn, key=lambda s: abs(back.macs(s) - macs))
        if abs(back.macs(nearest) - macs) <= within * macs:
            break
    return nearest
