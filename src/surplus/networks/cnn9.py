"""The nine-layer network of Laine & Aila 2017 (arXiv 1610.02242) as Co-teaching trains it (Han et al. 2018).

    3 x conv 128 -> pool -> drop -> 3 x conv 256 -> pool -> drop -> conv 512, 256, 128 -> mean -> linear

Every convolution is 3x3, followed by batch normalisation and a leaky ReLU of slope 0.01; the last three are not padded.
"""

from __future__ import annotations

from torch import nn

from surplus.networks.layers import chain
from surplus.networks.shapes import read_image, scaled
from surplus.registry import method


@method("network", paper="Laine & Aila 2017, arXiv 1610.02242; Han et al. 2018, arXiv 1804.06872")
def cnn_9(input_shape: tuple[int, ...], outputs: int, *, width: float = 1.0, dropout: float = 0.25) -> nn.Module:
    """Nine-layer CNN with dropout of whole feature maps: 4,434,570 parameters on CIFAR-10.

    Args:
        input_shape: (channels, height, width), from 28x28 up.
        outputs: number of outputs.
        width: multiplies the channels.
        dropout: share of feature maps that training leaves out after each pooling.

    Raises:
        InputError: an image too small.
    """
    before, _, _ = read_image("cnn-9", input_shape, outputs, least=28)
    layers: dict[str, nn.Module] = {}
    for i, (base, padding) in enumerate([(128, 1)] * 3 + [(256, 1)] * 3 + [(512, 0), (256, 0), (128, 0)], start=1):
        after = scaled("cnn-9", base, width)
        layers[f"conv{i}"] = nn.Conv2d(before, after, 3, padding=padding)
        layers[f"norm{i}"] = nn.BatchNorm2d(after)
        layers[f"act{i}"] = nn.LeakyReLU(0.01)
        before = after
        if i in (3, 6):
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            layers[f"drop{i}"] = nn.Dropout2d(dropout)
    layers |= {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return chain(**layers, head=nn.Linear(before, outputs))
