"""Residual networks whose blocks, or the channels inside them, are switched on and off by gates that see the input.

    blocks:    y = x + g(x) F(x)                 channels:    y = x + F_2(g(x) * F_1(x))
    g(x) = 1[sigmoid(l(x)) > 1/2],   l = linear -> relu -> linear of x, pooled over places

Backward, g passes the gradient of sigmoid(l) (straight-through). In training the network gives its logits with the
gates behind them, (B, outputs + gates), so that a training rule may ask something of the gates; otherwise logits alone.
Zhi et al. 2025, arXiv 2302.10798, for the idea; its code is not public, so form, place and start of gates are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.networks.layers import chain, he_normal, normaliser
from surplus.networks.resnet import Block
from surplus.networks.shapes import check_positive, choose, read_image, read_vector, scaled
from surplus.registry import method

_PAPER = "Zhi, Babbar, Liu, Sun, Silavong, Shi & Moran 2025, arXiv 2302.10798"


@method("network", paper=_PAPER)
def gated_mlp(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: int = 64,
    blocks: int = 8,
    gated: str = "blocks",
    shared: bool = False,
    hidden: int = 16,
    start: float = 1.5,
    clip: float = 0.0,
) -> nn.Module:
    """Residual fully connected network with gates: F = layer norm -> linear -> relu -> linear.

    Args:
        input_shape: shape of one example; flattened.
        outputs: number of outputs.
        width: units between the blocks and inside them.
        blocks: how many.
        gated: "blocks" for a gate each, "channels" for one on each unit inside a block.
        shared: one gate network on the first layer's output, instead of one in each block on its input.
        hidden: units of a gate network.
        start: the gates' first bias; above 0, so that all begin open.
        clip: pass a gate's gradient only where |l| is at most this; everywhere at 0.

    Raises:
        InputError: an unknown option, or a size that is not positive.
    """
    inputs = read_vector("gated-mlp", input_shape, outputs)
    check_positive("gated-mlp", width=width, blocks=blocks, hidden=hidden)
    choose("gated-mlp", "gated", gated, ("blocks", "channels"))
    every = [DenseBlock(width, gated) for _ in range(blocks)]
    stem = chain(flatten=nn.Flatten(), linear=nn.Linear(inputs, width), act=nn.ReLU())
    module = Gated(stem, every, nn.LayerNorm(width), nn.Linear(width, outputs))
    module.add_gates(width, shared, hidden, start, clip)
    return module


@method("network", paper=_PAPER)
def gated_resnet(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    depth: int = 20,
    width: float = 1.0,
    norm: str = "batch",
    groups: int = 8,
    shortcut: str = "pad",
    gated: str = "blocks",
    shared: bool = False,
    hidden: int = 16,
    start: float = 1.5,
    clip: float = 0.0,
) -> nn.Module:
    """The ResNet of depth 6n + 2 for small images with gates; a block that halves the image is never skipped.

    Args:
        input_shape: (channels, height, width), at least 4x4.
        outputs: number of outputs.
        depth: 8, 14, 20, 26, 32, ...
        width: multiplies every number of channels.
        norm: "batch" or "group".
        groups: groups of channels, for norm="group".
        shortcut: "pad" (option A) or "project" (option B).
        gated: "blocks" for a gate each; "channels" for one on each channel between a block's convolutions.
        shared: one gate network on the first layer's output, instead of one in each block on its input.
        hidden: units of a gate network.
        start: the gates' first bias; above 0, so that all begin open.
        clip: pass a gate's gradient only where |l| is at most this; everywhere at 0.

    Raises:
        InputError: a depth that is not 6n + 2, an unknown option, gated channels in groups.
    """
    if depth < 8 or depth % 6 != 2:
        raise InputError(f"gated-resnet: depth is 6n + 2 (8, 14, 20, 26, 32, ...); got {depth}")
    channels, _, _ = read_image("gated-resnet", input_shape, outputs, least=4)
    choose("gated-resnet", "shortcut", shortcut, ("pad", "project"))
    choose("gated-resnet", "gated", gated, ("blocks", "channels"))
    check_positive("gated-resnet", hidden=hidden)
    if gated == "channels" and norm == "group":
        raise InputError("gated-resnet: a group norm ties channels, so that none can go alone; choose norm='batch'")
    maps = [scaled("gated-resnet", base, width) for base in (16, 32, 64)]
    make, every = normaliser("gated-resnet", norm, groups), list[_Block]()
    for stage, (before, after) in enumerate(pairwise((maps[0], *maps))):
        for i in range((depth - 2) // 6):
            halves = bool(stage) and not i
            kind = "" if halves and gated == "blocks" else gated
            every.append(ImageBlock(after if i else before, after, 2 if halves else 1, make, shortcut, kind))
    stem = chain(conv=nn.Conv2d(channels, maps[0], 3, padding=1, bias=False), norm=make(maps[0]), act=nn.ReLU())
    pool = chain(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    module = Gated(stem, every, pool, nn.Linear(maps[-1], outputs))
    he_normal(module)
    module.add_gates(maps[0], shared, hidden, start, clip)
    return module


class Gated(nn.Module):
    """A stem, gated blocks, and a head.

    Args:
        stem: inputs to what the first block takes.
        blocks: modules called with (x, gates or None) that know `units`, their number of gates, and `features`, the
            channels that enter them.
        last: between the last block and the head.
        head: the output layer.
    """

    def __init__(self, stem: nn.Module, blocks: Sequence[_Block], last: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.stem, self.blocks, self.last, self.head = stem, nn.ModuleList(blocks), last, head
        self.shared: Gate | None = None

    @property
    def units(self) -> list[int]:
        """How many gates each block has."""
        return [int(block.units) for block in self.blocks]  # type: ignore[arg-type]

    def add_gates(self, features: int, shared: bool, hidden: int, start: float, clip: float) -> None:
        """A gate network for every block that has units, or one for all on the stem's output of so many `features`."""
        if shared:
            self.shared = Gate(features, sum(self.units), hidden, start, clip)
            return
        for block, units in zip(self.blocks, self.units, strict=True):
            if units:
                block.gate = Gate(int(block.features), units, hidden, start, clip)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to logits (B, outputs), in training with the gates behind them (B, outputs + units)."""
        logits, gates = self.run(x)
        return torch.cat([logits, gates], 1) if self.training else logits

    def run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, outputs) and gates (B, units)."""
        x = self.stem(x)
        parts = None if self.shared is None else iter(self.shared(x).split([u for u in self.units if u], 1))
        seen = [x.new_zeros(len(x), 0)]
        for block in self.blocks:
            gates = None
            if block.units:
                gates = block.gate(x) if parts is None else next(parts)  # type: ignore[operator]
                seen.append(gates)
            x = block(x, gates)
        return self.head(self.last(x)), torch.cat(seen, 1)

    def static(self, kept: Tensor) -> Gated:
        """A network of its own without gates, in which only the units kept (units,) bool are there."""
        small = copy.deepcopy(self)
        parts = zip(small.blocks, kept.split(self.units), strict=True)
        small.blocks = nn.ModuleList([block for block, mine in parts if block.fix(mine)])  # type: ignore[operator]
        small.shared = None
        return small


class _Block(nn.Module):
    """What both kinds of blocks share: their gates, and how these become final.

    Args:
        features: channels that enter.
        inner: channels between the two layers.
        gated: "blocks", "channels", or "" for a block that always runs.
    """

    def __init__(self, features: int, inner: int, gated: str) -> None:
        super().__init__()
        self.features, self.gated = features, gated
        self.units = {"": 0, "blocks": 1, "channels": inner}[gated]
        self.gate: nn.Module | None = None

    def fix(self, kept: Tensor) -> bool:
        """Drop the gates, and the channels that are not kept (units,); False if the block as a whole goes."""
        if self.gated == "channels":
            self.keep(kept)
        stays = self.gated != "blocks" or bool(kept)
        self.gated, self.units, self.gate = "", 0, None
        return stays

    def keep(self, kept: Tensor) -> None:
        """Cut the inner channels down to those kept (units,)."""
        raise NotImplementedError


class DenseBlock(_Block):
    """x + F(x) with F = layer norm -> linear -> relu -> linear."""

    def __init__(self, width: int, gated: str) -> None:
        super().__init__(width, width, gated)
        self.norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, x: Tensor, gates: Tensor | None) -> Tensor:
        """(B, width), (B, units) to (B, width)."""
        h = F.relu(self.linear1(self.norm(x)))
        if gates is None:
            return x + self.linear2(h)
        return x + gates * self.linear2(h) if self.gated == "blocks" else x + self.linear2(gates * h)

    def keep(self, kept: Tensor) -> None:
        _cut(self.linear1, self.linear2, kept)


class ImageBlock(_Block):
    """The basic block of a residual network, with a gate on its branch or on the channels inside."""

    def __init__(
        self, before: int, after: int, stride: int, norm: Callable[[int], nn.Module], shortcut: str, gated: str
    ) -> None:
        super().__init__(before, after, gated)
        self.block = Block(before, after, stride, norm, shortcut)

    def forward(self, x: Tensor, gates: Tensor | None) -> Tensor:
        """(B, before, H, W), (B, units) to (B, after, H / stride, W / stride)."""
        b, g = self.block, 1 if gates is None else gates[:, :, None, None]
        h = F.relu(b.norm1(b.conv1(x)))
        y = b.norm2(b.conv2(g * h if self.gated == "channels" else h))
        return F.relu((g * y if self.gated == "blocks" else y) + b.shortcut(x))

    def keep(self, kept: Tensor) -> None:
        _cut(self.block.conv1, self.block.conv2, kept)
        norm: Any = self.block.norm1
        rows = _rows(kept)
        for name in ("weight", "bias"):
            setattr(norm, name, nn.Parameter(getattr(norm, name).detach()[rows]))
        norm.running_mean, norm.running_var = norm.running_mean[rows], norm.running_var[rows]
        norm.num_features = len(rows)


class Gate(nn.Module):
    """Binary gates of an input, with the gradient of their sigmoid: (B, features, ...) -> (B, units) of 0 and 1."""

    def __init__(self, features: int, units: int, hidden: int, start: float, clip: float) -> None:
        super().__init__()
        self.clip = clip
        self.linear = nn.Linear(features, hidden)
        self.last = nn.Linear(hidden, units)
        nn.init.constant_(self.last.bias, start)

    def forward(self, x: Tensor) -> Tensor:
        """The input is averaged over places, if it has any."""
        x = x.flatten(2).mean(2) if x.dim() > 2 else x
        logit = self.last(F.relu(self.linear(x)))
        hard = (logit > 0).to(logit.dtype)
        if not self.training:
            return hard
        soft = logit.sigmoid()
        if self.clip:
            soft = torch.where(logit.abs() <= self.clip, soft, soft.detach())
        return hard + (soft - soft.detach())  # the bracket is exactly zero


def _cut(first: Any, second: Any, kept: Tensor) -> None:
    """Cut the channels between two layers down to those kept; where none is, one stays that counts for nothing."""
    rows = _rows(kept)
    first.weight = nn.Parameter(first.weight.detach()[rows])
    if first.bias is not None:
        first.bias = nn.Parameter(first.bias.detach()[rows])
    into = second.weight.detach()[:, rows]
    second.weight = nn.Parameter(into * kept[rows].view(1, -1, *[1] * (into.dim() - 2)))
    kind = "features" if isinstance(first, nn.Linear) else "channels"
    setattr(first, f"out_{kind}", len(rows))
    setattr(second, f"in_{kind}", len(rows))


def _rows(kept: Tensor) -> Tensor:
    """Positions (n,) of what is kept, at least one."""
    return kept.nonzero().squeeze(1) if bool(kept.any()) else kept.new_zeros(1, dtype=torch.int64)
