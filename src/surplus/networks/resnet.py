"""Residual networks for small images.

    y = relu(F(x) + S(x)),  F = conv 3x3 -> norm -> relu -> conv 3x3 -> norm

S is the identity; where the shape changes, either every second pixel padded with zero channels (option A of the paper,
no weights) or a 1x1 convolution with its own normalisation (option B). He, Zhang, Ren & Sun 2016, arXiv 1512.03385:
section 4.2 for depths 6n + 2 with 16, 32, 64 channels; table 1 for ResNet-18, whose 7x7 stem and max-pool give way to
one 3x3 convolution at small images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.networks.layers import chain, he_normal, normaliser
from surplus.networks.shapes import choose, read_image, scaled
from surplus.registry import method

_PAPER = "He, Zhang, Ren & Sun 2016, arXiv 1512.03385"


@method("network", paper=_PAPER)
def resnet_cifar(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    depth: int = 20,
    width: float = 1.0,
    norm: str = "batch",
    groups: int = 8,
    shortcut: str = "pad",
) -> nn.Module:
    """ResNet of depth 6n + 2 for small images: three stages of n blocks with 16, 32 and 64 channels.

    Args:
        input_shape: (channels, height, width), at least 4x4.
        outputs: number of outputs.
        depth: 8, 14, 20, 26, 32, ...
        width: multiplies every number of channels.
        norm: "batch" or "group".
        groups: groups of channels, for norm="group"; 1 is layer normalisation.
        shortcut: "pad" (option A) or "project" (option B).

    Raises:
        InputError: a depth that is not 6n + 2, an unknown option, channels that do not fall into groups.
    """
    if depth < 8 or depth % 6 != 2:
        raise InputError(f"resnet-cifar: depth is 6n + 2 (8, 14, 20, 26, 32, ...); got {depth}")
    return _cifar("resnet-cifar", input_shape, outputs, depth, width, norm, groups, shortcut)


@method("network", paper=_PAPER)
def resnet_20(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: float = 1.0,
    norm: str = "batch",
    groups: int = 8,
    shortcut: str = "pad",
) -> nn.Module:
    """ResNet-20 for small images; on CIFAR-10 269,722 parameters (the paper's 0.27M), 272,474 with projections.

    Args:
        input_shape: (channels, height, width), at least 4x4.
        outputs: number of outputs.
        width: multiplies every number of channels.
        norm: "batch" or "group".
        groups: groups of channels, for norm="group"; 1 is layer normalisation.
        shortcut: "pad" (option A) or "project" (option B, as in open_lth).
    """
    return _cifar("resnet-20", input_shape, outputs, 20, width, norm, groups, shortcut)


@method("network", paper=_PAPER)
def resnet_32(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: float = 1.0,
    norm: str = "batch",
    groups: int = 8,
    shortcut: str = "pad",
) -> nn.Module:
    """ResNet-32 for small images; on CIFAR-10 464,154 parameters (the paper's 0.46M), 466,906 with projections.

    Args:
        input_shape: (channels, height, width), at least 4x4.
        outputs: number of outputs.
        width: multiplies every number of channels.
        norm: "batch" or "group".
        groups: groups of channels, for norm="group"; 1 is layer normalisation.
        shortcut: "pad" (option A) or "project" (option B).
    """
    return _cifar("resnet-32", input_shape, outputs, 32, width, norm, groups, shortcut)


@method("network", paper=_PAPER)
def resnet_56(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: float = 1.0,
    norm: str = "batch",
    groups: int = 8,
    shortcut: str = "pad",
) -> nn.Module:
    """ResNet-56 for small images; on CIFAR-10 853,018 parameters (the paper's 0.85M), 855,770 with projections.

    Args:
        input_shape: (channels, height, width), at least 4x4.
        outputs: number of outputs.
        width: multiplies every number of channels.
        norm: "batch" or "group".
        groups: groups of channels, for norm="group"; 1 is layer normalisation.
        shortcut: "pad" (option A) or "project" (option B).
    """
    return _cifar("resnet-56", input_shape, outputs, 56, width, norm, groups, shortcut)


@method("network", paper=_PAPER)
def resnet_18(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: float = 1.0,
    norm: str = "batch",
    groups: int = 8,
    shortcut: str = "project",
) -> nn.Module:
    """ResNet-18 with a stem for small images: four stages of two blocks, 64 to 512 channels.

    11,173,962 parameters on CIFAR-10, the 11.17M of the common PyTorch CIFAR implementations. Deep double descent's
    family of k = 1..64 base channels is width = k / 64.

    Args:
        input_shape: (channels, height, width), at least 8x8.
        outputs: number of outputs.
        width: multiplies every number of channels.
        norm: "batch" or "group".
        groups: groups of channels, for norm="group"; 1 is layer normalisation.
        shortcut: "project" (option B) or "pad" (option A).
    """
    channels, _, _ = read_image("resnet-18", input_shape, outputs, least=8)
    maps = [scaled("resnet-18", base, width) for base in (64, 128, 256, 512)]
    return _resnet("resnet-18", channels, outputs, maps, 2, norm, groups, shortcut)


def _cifar(
    network: str,
    input_shape: tuple[int, ...],
    outputs: int,
    depth: int,
    width: float,
    norm: str,
    groups: int,
    shortcut: str,
) -> nn.Module:
    channels, _, _ = read_image(network, input_shape, outputs, least=4)
    maps = [scaled(network, base, width) for base in (16, 32, 64)]
    return _resnet(network, channels, outputs, maps, (depth - 2) // 6, norm, groups, shortcut)


def _resnet(
    network: str, channels: int, outputs: int, maps: list[int], blocks: int, norm: str, groups: int, shortcut: str
) -> nn.Module:
    choose(network, "shortcut", shortcut, ("pad", "project"))
    return ResNet(channels, outputs, maps, blocks, normaliser(network, norm, groups), shortcut)


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks, global mean, linear head; every stage after the first halves the image.

    Args:
        channels: channels of the input.
        outputs: number of outputs.
        maps: channels of each stage.
        blocks: blocks per stage.
        norm: builds a normalisation from a number of channels.
        shortcut: "pad" or "project".
    """

    def __init__(
        self, channels: int, outputs: int, maps: list[int], blocks: int, norm: Callable[[int], nn.Module], shortcut: str
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, maps[0], 3, padding=1, bias=False)
        self.norm = norm(maps[0])
        self.blocks = nn.Sequential()
        before = maps[0]
        for stage, after in enumerate(maps):
            for i in range(blocks):
                stride = 2 if stage and not i else 1
                self.blocks.append(Block(before, after, stride, norm, shortcut))
                before = after
        self.head = nn.Linear(before, outputs)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, outputs)."""
        x = self.blocks(F.relu(self.norm(self.conv(x))))
        return self.head(x.mean((-2, -1)))


class Block(nn.Module):
    """The basic block: two 3x3 convolutions around a shortcut."""

    def __init__(self, before: int, after: int, stride: int, norm: Callable[[int], nn.Module], shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = norm(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 1 and before == after:
            return
        if shortcut == "pad":
            self.shortcut = PadShortcut(after - before, stride)
        else:
            conv = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = chain(conv=conv, norm=norm(after))

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H / stride, W / stride)."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, with `extra` channels of zeros shared between both ends."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad = (0, 0, 0, 0, extra // 2, extra - extra // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C + extra, H / stride, W / stride)."""
        return F.pad(x[..., :: self.stride, :: self.stride], self.pad)
