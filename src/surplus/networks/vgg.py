"""VGG for small images: 3x3 convolutions with batch normalisation, one linear head.

    [conv 3x3 -> norm -> relu] x depth, with a max-pool 2 after each of the first four stages, -> global mean -> linear

Simonyan & Zisserman 2015 (arXiv 1409.1556), table 1, columns A, D and E, in the form that CIFAR-10 papers use: the
three dense layers are one. At 32x32 the global mean stands where open_lth has its average pool and others a fifth
max-pool.
"""

from __future__ import annotations

from torch import nn

from surplus.networks.layers import chain, he_normal, normaliser
from surplus.networks.shapes import read_image, scaled
from surplus.registry import method

_PAPER = "Simonyan & Zisserman 2015, arXiv 1409.1556"
_CHANNELS = (64, 128, 256, 512, 512)


@method("network", paper=_PAPER)
def vgg_11(
    input_shape: tuple[int, ...], outputs: int, *, width: float = 1.0, norm: str = "batch", groups: int = 8
) -> nn.Module:
    """VGG-11: 8 convolutions and a linear head; 9,231,114 parameters on CIFAR-10 with batch norm.

    Args:
        input_shape: (channels, height, width), at least 16x16.
        outputs: number of outputs.
        width: multiplies every number of channels.
        norm: "batch", "group" or "none".
        groups: groups of channels, for norm="group".
    """
    return _vgg("vgg-11", input_shape, outputs, (1, 1, 2, 2, 2), width, norm, groups)


@method("network", paper=_PAPER)
def vgg_16(
    input_shape: tuple[int, ...], outputs: int, *, width: float = 1.0, norm: str = "batch", groups: int = 8
) -> nn.Module:
    """VGG-16: 13 convolutions and a linear head; 14,728,266 parameters on CIFAR-10 with batch norm (printed as 14.7M).

    Args:
        input_shape: (channels, height, width), at least 16x16.
        outputs: number of outputs.
        width: multiplies every number of channels.
        norm: "batch", "group" or "none".
        groups: groups of channels, for norm="group".
    """
    return _vgg("vgg-16", input_shape, outputs, (2, 2, 3, 3, 3), width, norm, groups)


@method("network", paper=_PAPER)
def vgg_19(
    input_shape: tuple[int, ...], outputs: int, *, width: float = 1.0, norm: str = "batch", groups: int = 8
) -> nn.Module:
    """VGG-19: 16 convolutions and a linear head; 20,040,522 parameters on CIFAR-10 with batch norm (printed as 20.0M).

    Args:
        input_shape: (channels, height, width), at least 16x16.
        outputs: number of outputs.
        width: multiplies every number of channels.
        norm: "batch", "group" or "none".
        groups: groups of channels, for norm="group".
    """
    return _vgg("vgg-19", input_shape, outputs, (2, 2, 4, 4, 4), width, norm, groups)


def _vgg(
    network: str,
    input_shape: tuple[int, ...],
    outputs: int,
    repeats: tuple[int, ...],
    width: float,
    kind: str,
    groups: int,
) -> nn.Module:
    channels, _, _ = read_image(network, input_shape, outputs, least=16)
    normalise = normaliser(network, kind, groups, none=True)
    layers: dict[str, nn.Module] = {}
    for stage, (base, times) in enumerate(zip(_CHANNELS, repeats, strict=True), start=1):
        for i in range(1, times + 1):
            maps = scaled(network, base, width)
            layers[f"conv{stage}_{i}"] = nn.Conv2d(channels, maps, 3, padding=1)
            layers[f"norm{stage}_{i}"] = normalise(maps)
            layers[f"act{stage}_{i}"] = nn.ReLU()
            channels = maps
        if stage < len(repeats):
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
    return he_normal(
        chain(**layers, mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=nn.Linear(channels, outputs))
    )
