"""Conv-2, Conv-4 and Conv-6: the small VGG-like networks of the lottery ticket hypothesis.

    [conv 3x3 (c), conv 3x3 (c), max-pool 2] for c = 64, 128, 256 (as many as named), then dense 256, 256, outputs

Frankle & Carbin 2019, arXiv 1803.03635, figure 2. Weights start Gaussian Glorot, as there.
"""

from __future__ import annotations

from torch import nn

from surplus.networks.layers import chain, glorot_normal
from surplus.networks.shapes import read_image, scaled
from surplus.registry import method

_PAPER = "Frankle & Carbin 2019, arXiv 1803.03635"


@method("network", paper=_PAPER)
def conv_2(input_shape: tuple[int, ...], outputs: int, *, width: float = 1.0) -> nn.Module:
    """Conv-2: two convolutions; 4,301,642 parameters on CIFAR-10 (the paper's 4.3M).

    Args:
        input_shape: (channels, height, width), at least 2x2.
        outputs: number of outputs.
        width: multiplies every number of channels and units.
    """
    return _conv("conv-2", input_shape, outputs, (64,), width)


@method("network", paper=_PAPER)
def conv_4(input_shape: tuple[int, ...], outputs: int, *, width: float = 1.0) -> nn.Module:
    """Conv-4: four convolutions; 2,425,930 parameters on CIFAR-10 (the paper's 2.4M).

    Args:
        input_shape: (channels, height, width), at least 4x4.
        outputs: number of outputs.
        width: multiplies every number of channels and units.
    """
    return _conv("conv-4", input_shape, outputs, (64, 128), width)


@method("network", paper=_PAPER)
def conv_6(input_shape: tuple[int, ...], outputs: int, *, width: float = 1.0) -> nn.Module:
    """Conv-6: six convolutions; 2,262,602 parameters on CIFAR-10, of which 1.1M in convolutions as in the paper.

    The paper's figure 2 prints 1.7M for the whole network; the layers that it lists make 2.26M.

    Args:
        input_shape: (channels, height, width), at least 8x8.
        outputs: number of outputs.
        width: multiplies every number of channels and units.
    """
    return _conv("conv-6", input_shape, outputs, (64, 128, 256), width)


def _conv(network: str, input_shape: tuple[int, ...], outputs: int, stages: tuple[int, ...], width: float) -> nn.Module:
    channels, height, breadth = read_image(network, input_shape, outputs, least=2 ** len(stages))
    layers: dict[str, nn.Module] = {}
    for i, base in enumerate(stages, start=1):
        maps = scaled(network, base, width)
        layers[f"conv{2 * i - 1}"] = nn.Conv2d(channels, maps, 3, padding=1)
        layers[f"act{2 * i - 1}"] = nn.ReLU()
        layers[f"conv{2 * i}"] = nn.Conv2d(maps, maps, 3, padding=1)
        layers[f"act{2 * i}"] = nn.ReLU()
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        channels, height, breadth = maps, height // 2, breadth // 2
    units = scaled(network, 256, width)
    dense = chain(
        flatten=nn.Flatten(),
        linear1=nn.Linear(channels * height * breadth, units),
        relu1=nn.ReLU(),
        linear2=nn.Linear(units, units),
        relu2=nn.ReLU(),
        head=nn.Linear(units, outputs),
    )
    return glorot_normal(chain(**layers, **dict(dense.named_children())))
