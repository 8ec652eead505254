"""Residual networks of any sizes: a width for every convolution, a depth for every stage.

    y = relu(F(x) + S(x)),  F = conv 3x3 -> norm -> relu -> conv 3x3 -> norm

S has no weights: every second pixel where the image is halved, and channels cut off or filled up with zeros at the end,
so that the first channels of all layers lie on each other. What searches over widths and depths find is such a network;
Dong & Yang 2019, arXiv 1905.09717, whose own networks put a 1x1 convolution where widths differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.networks.layers import he_normal
from surplus.networks.shapes import check_positive, read_image
from surplus.registry import method


@method("network", paper="Dong & Yang 2019, arXiv 1905.09717; He, Zhang, Ren & Sun 2016, arXiv 1512.03385")
def sized_resnet(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] = (3, 3, 3),
) -> nn.Module:
    """Residual network for small images with a width for each convolution and a depth for each stage.

    Args:
        input_shape: (channels, height, width), at least 2x2 for every stage after the first.
        outputs: number of outputs.
        widths: output channels of the first convolution, then of both convolutions of each block; those of the ResNet
            of these depths (16, 32, 64, ... by stage) when None.
        depths: blocks per stage; every stage after the first halves the image.

    Raises:
        InputError: sizes that are not positive, or not one width per convolution.
    """
    for depth in depths:
        check_positive("sized-resnet", depths=depth)
    channels, _, _ = read_image("sized-resnet", input_shape, outputs, least=2 ** max(len(depths) - 1, 0))
    widths = resnet_widths(depths) if widths is None else tuple(widths)
    for width in widths:
        check_positive("sized-resnet", widths=width)
    if len(widths) != 1 + 2 * sum(depths):
        raise InputError(
            f"sized-resnet: depths {tuple(depths)} have {1 + 2 * sum(depths)} convolutions, one width each;"
            f" got {len(widths)} widths"
        )
    return SizedResNet(channels, outputs, widths, depths)


def resnet_widths(depths: Sequence[int]) -> tuple[int, ...]:
    """Widths of the usual residual network: 16 channels in the first stage, twice as many in each that follows."""
    return (16, *(16 * 2**stage for stage, depth in enumerate(depths) for _ in range(2 * depth)))


class SizedResNet(nn.Module):
    """A 3x3 stem, stages of blocks, global mean, linear head; arguments as for `sized_resnet`."""

    def __init__(self, channels: int, outputs: int, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        strides = [2 if stage and not i else 1 for stage, depth in enumerate(depths) for i in range(depth)]
        ends = widths[::2]  # the stem and the blocks
        rows = zip(pairwise(ends), widths[1::2], strides, strict=True)
        self.blocks = nn.Sequential(*(SizedBlock(before, inner, after, s) for (before, after), inner, s in rows))
        self.head = nn.Linear(ends[-1], outputs)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, outputs)."""
        x = self.blocks(F.relu(self.norm(self.conv(x))))
        return self.head(x.mean((-2, -1)))


class SizedBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without weights."""

    def __init__(self, before: int, inner: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(before, inner, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H / stride, W / stride)."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + with_channels(x[..., :: self.stride, :: self.stride], y.shape[1]))


def with_channels(x: Tensor, channels: int) -> Tensor:
    """The first `channels` channels of x (B, C, ...), with zeros where there are fewer."""
    missing = channels - x.shape[1]
    return F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing)) if missing > 0 else x[:, :channels]
