"""ConvNet: the small network that condensed data are learned on.

    depth x [conv 3x3 (width) -> norm -> relu -> average pool 2] -> linear

Gidaris & Komodakis 2018, arXiv 1804.09458; with instance norm in Zhao, Mopuri & Bilen 2021, arXiv 2006.05929. Weights
start as torch starts them.
"""

from __future__ import annotations

from torch import nn

from surplus.networks.layers import chain
from surplus.networks.shapes import check_positive, choose, read_image
from surplus.registry import method


@method("network", paper="Gidaris & Komodakis 2018, arXiv 1804.09458")
def conv_net(
    input_shape: tuple[int, ...], outputs: int, *, width: int = 128, depth: int = 3, norm: str = "instance"
) -> nn.Module:
    """ConvNet with instance norm: 320,010 parameters on CIFAR-10, 317,706 on MNIST.

    Images of 28x28 are padded to 32x32 by the first convolution, so that three poolings leave 4x4.

    Args:
        input_shape: (channels, height, width), at least 2 to the power of depth a side.
        outputs: number of outputs.
        width: channels of every convolution.
        depth: blocks of convolution and pooling.
        norm: "instance" (a group per channel, with scale and shift), "batch" or "none".

    Raises:
        InputError: an image too small, an unknown norm, a width or depth below one.
    """
    check_positive("conv-net", width=width, depth=depth)
    choose("conv-net", "norm", norm, ("instance", "batch", "none"))
    channels, height, breadth = read_image("conv-net", input_shape, outputs, least=2**depth)
    layers: dict[str, nn.Module] = {}
    for i in range(1, depth + 1):
        padding = 3 if i == 1 and (height, breadth) == (28, 28) else 1
        layers[f"conv{i}"] = nn.Conv2d(channels, width, 3, padding=padding)
        layers[f"norm{i}"] = _norm(norm, width)
        layers[f"act{i}"] = nn.ReLU()
        layers[f"pool{i}"] = nn.AvgPool2d(2)
        channels, height, breadth = width, (height + 2 * padding - 2) // 2, (breadth + 2 * padding - 2) // 2
    return chain(**layers, flatten=nn.Flatten(), head=nn.Linear(channels * height * breadth, outputs))


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "instance":
        return nn.GroupNorm(channels, channels)
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.Identity()
