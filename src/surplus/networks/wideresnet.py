"""Wide residual networks: few layers, many channels, normalisation before each convolution.

    y = x + conv(relu(norm(conv(relu(norm(x))))))

Where the shape changes, a 1x1 convolution of relu(norm(x)) stands in for x. Depth 6n + 4: three stages of n blocks with
16k, 32k and 64k channels. Zagoruyko & Komodakis 2016, arXiv 1605.07146, table 1; no dropout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.networks.layers import he_normal, normaliser
from surplus.networks.shapes import read_image, scaled
from surplus.registry import method


@method("network", paper="Zagoruyko & Komodakis 2016, arXiv 1605.07146")
def wide_resnet(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    depth: int = 16,
    widen: float = 4,
    norm: str = "batch",
    groups: int = 8,
) -> nn.Module:
    """Wide ResNet WRN-depth-widen.

    Parameters on CIFAR-10: WRN-28-10 has 36,479,194 (the paper's 36.5M), WRN-16-4 has 2,748,890 (2.75M).

    Args:
        input_shape: (channels, height, width), at least 4x4.
        outputs: number of outputs.
        depth: 10, 16, 22, 28, 40, ...: 6n + 4.
        widen: the paper's k, which multiplies the channels of the stages, not of the stem.
        norm: "batch" or "group".
        groups: groups of channels, for norm="group".

    Raises:
        InputError: a depth that is not 6n + 4, an unknown norm, channels that do not fall into groups.
    """
    channels, _, _ = read_image("wide-resnet", input_shape, outputs, least=4)
    if depth < 10 or depth % 6 != 4:
        raise InputError(f"wide-resnet: depth is 6n + 4 (10, 16, 22, 28, 34, 40, ...); got {depth}")
    maps = [scaled("wide-resnet", base, widen, "widen") for base in (16, 32, 64)]
    return WideResNet(channels, outputs, maps, (depth - 4) // 6, normaliser("wide-resnet", norm, groups))


class WideResNet(nn.Module):
    """A 3x3 stem of 16 channels, stages of pre-activation blocks, a last normalisation, global mean, linear head."""

    def __init__(
        self, channels: int, outputs: int, maps: list[int], blocks: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        before = 16
        self.conv = nn.Conv2d(channels, before, 3, padding=1, bias=False)
        self.blocks = nn.Sequential()
        for stage, after in enumerate(maps):
            for i in range(blocks):
                self.blocks.append(WideBlock(before, after, 2 if stage and not i else 1, norm))
                before = after
        self.norm = norm(before)
        self.head = nn.Linear(before, outputs)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, outputs)."""
        x = F.relu(self.norm(self.blocks(self.conv(x))))
        return self.head(x.mean((-2, -1)))


class WideBlock(nn.Module):
    """The pre-activation block."""

    def __init__(self, before: int, after: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm1 = norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm2 = norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        same = stride == 1 and before == after
        self.shortcut = None if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H / stride, W / stride)."""
        a = F.relu(self.norm1(x))
        y = self.conv2(F.relu(self.norm2(self.conv1(a))))
        return y + (x if self.shortcut is None else self.shortcut(a))
