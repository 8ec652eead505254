"""A light convolutional network for small images of any size, cheap on a CPU.

    3 x [conv 3x3 -> norm -> relu -> pool 2 while there are 4 pixels a side] -> mean down to 4x4 -> linear

From 16 pixels a side the first convolution moves in steps of two, so that little is computed at full size.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from surplus.errors import InputError
from surplus.networks.layers import chain, he_normal, normaliser
from surplus.networks.shapes import check_positive, read_image, scaled
from surplus.registry import method

_LAST = 4  # sides of the map that the head reads, at most


@method("network")
def small_conv(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    channels: Sequence[int] = (16, 32, 64),
    width: float = 1.0,
    norm: str = "none",
    groups: int = 8,
) -> nn.Module:
    """Light CNN, the default for images: 25,866 parameters on the 8x8 digits, 29,066 on MNIST.

    Args:
        input_shape: (channels, height, width), from 4x4 up.
        outputs: number of outputs.
        channels: channels of each convolution.
        width: multiplies them.
        norm: "none", "batch" or "group".
        groups: groups of channels, for norm="group".

    Raises:
        InputError: an image too small, no channels, an unknown norm, channels that do not fall into groups.
    """
    before, height, breadth = read_image("small-conv", input_shape, outputs, least=4)
    if not channels:
        raise InputError("small-conv: channels names at least one convolution, such as (16, 32, 64); got ()")
    normalise = normaliser("small-conv", norm, groups, none=True)
    layers: dict[str, nn.Module] = {}
    for i, base in enumerate(channels, start=1):
        check_positive("small-conv", channels=base)
        after, stride = scaled("small-conv", base, width), 2 if i == 1 and min(height, breadth) >= 16 else 1
        layers[f"conv{i}"] = nn.Conv2d(before, after, 3, stride, padding=1)
        layers[f"norm{i}"] = normalise(after)
        layers[f"act{i}"] = nn.ReLU()
        before, height, breadth = after, -(-height // stride), -(-breadth // stride)
        if min(height, breadth) >= 4:
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            height, breadth = height // 2, breadth // 2
    if max(height, breadth) > _LAST:
        height, breadth = min(height, _LAST), min(breadth, _LAST)
        layers["mean"] = nn.AdaptiveAvgPool2d((height, breadth))
    return he_normal(chain(**layers, flatten=nn.Flatten(), head=nn.Linear(before * height * breadth, outputs)))
