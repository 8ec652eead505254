"""Architectures, each a registered factory `name(input_shape, outputs, *, options) -> nn.Module`.

Every network works under `torch.func.functional_call` and `vmap` over stacked parameters, in training and evaluation,
and calls its last layer `head`, so that a method can spare the output layer or read the features that enter it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from surplus.errors import InputError
from surplus.networks.causal import causal_transformer
from surplus.networks.cnn9 import cnn_9
from surplus.networks.conv import conv_2, conv_4, conv_6
from surplus.networks.convnet import conv_net
from surplus.networks.dense import lenet_300_100, mlp
from surplus.networks.gated import gated_mlp, gated_resnet
from surplus.networks.lenet5 import lenet_5
from surplus.networks.resnet import resnet_18, resnet_20, resnet_32, resnet_56, resnet_cifar
from surplus.networks.sized import sized_resnet
from surplus.networks.smallconv import small_conv
from surplus.networks.speednet import speed_net
from surplus.networks.vgg import vgg_11, vgg_16, vgg_19
from surplus.networks.vit import vit_small
from surplus.networks.wideresnet import wide_resnet
from surplus.registry import find

__all__ = [
    "build",
    "causal_transformer",
    "cnn_9",
    "conv_2",
    "conv_4",
    "conv_6",
    "conv_net",
    "gated_mlp",
    "gated_resnet",
    "lenet_5",
    "lenet_300_100",
    "mlp",
    "resnet_18",
    "resnet_20",
    "resnet_32",
    "resnet_56",
    "resnet_cifar",
    "sized_resnet",
    "small_conv",
    "speed_net",
    "vgg_11",
    "vgg_16",
    "vgg_19",
    "vit_small",
    "wide_resnet",
]


def build(name: str, input_shape: Sequence[int], outputs: int, **options: Any) -> nn.Module:
    """The network of this name.

    Args:
        name: as in the catalogue, such as "resnet-20".
        input_shape: shape of one example: (channels, height, width), (features,), or (vocabulary, context) for text.
        outputs: number of outputs.
        options: the factory's own.

    Raises:
        InputError: no such network, no such option, or a value that the network refuses.
    """
    row = find("network", name)
    known = _options(row.fn)
    strange = [option for option in options if option not in known]
    if strange:
        valid = ", ".join(f"{option}={default!r}" for option, default in known.items()) or "none"
        raise InputError(f"{row.name} has no option {' or '.join(map(repr, strange))}; its options: {valid}")
    module: nn.Module = row.fn(tuple(input_shape), outputs, **options)
    return module


def _options(factory: Callable[..., nn.Module]) -> dict[str, Any]:
    """Keyword-only parameters and their defaults."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
