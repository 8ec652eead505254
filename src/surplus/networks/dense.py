"""Fully connected networks.

    h_0 = flatten(x),  h_l = phi(W_l h_{l-1} + b_l),  logits = W_L h_{L-1} + b_L

LeNet-300-100 is the one of LeCun et al. 1998, "Gradient-based learning applied to document recognition", section III,
with the ReLU and the Gaussian Glorot start of Frankle & Carbin 2019 (arXiv 1803.03635).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from surplus.networks.layers import activation as nonlinearity
from surplus.networks.layers import chain, glorot_normal
from surplus.networks.shapes import check_positive, read_vector
from surplus.registry import method


@method("network")
def mlp(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    widths: Sequence[int] = (256, 256),
    activation: str = "relu",
    bias: bool = True,
) -> nn.Module:
    """Fully connected network of any widths; flattens its input.

    Intrinsic dimension's nets (Li et al. 2018, arXiv 1804.08838) are widths (200, 200): 199,210 parameters on MNIST and
    656,810 on CIFAR-10.

    Args:
        input_shape: shape of one example.
        outputs: number of outputs.
        widths: units per hidden layer; () is a linear model.
        activation: "relu", "tanh", "gelu", "silu", "sigmoid", "softplus" or "identity".
        bias: whether layers have biases.

    Raises:
        InputError: a width that is not positive, an unknown activation.
    """
    return _dense("mlp", input_shape, outputs, tuple(widths), activation, bias)


@method("network", paper="LeCun, Bottou, Bengio & Haffner 1998; Frankle & Carbin 2019, arXiv 1803.03635")
def lenet_300_100(input_shape: tuple[int, ...], outputs: int, *, activation: str = "relu") -> nn.Module:
    """LeNet-300-100: two hidden layers; 266,200 weights and 410 biases on MNIST (the papers' "266K").

    Args:
        input_shape: shape of one example.
        outputs: number of outputs.
        activation: as in `mlp`.
    """
    return glorot_normal(_dense("lenet-300-100", input_shape, outputs, (300, 100), activation, True))


def _dense(
    network: str, input_shape: tuple[int, ...], outputs: int, widths: tuple[int, ...], activation: str, bias: bool
) -> nn.Module:
    inputs = read_vector(network, input_shape, outputs)
    for width in widths:
        check_positive(network, widths=width)
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for i, (before, after) in enumerate(pairwise((inputs, *widths)), start=1):
        layers[f"linear{i}"] = nn.Linear(before, after, bias=bias)
        layers[f"act{i}"] = nonlinearity(network, activation)
    return chain(**layers, head=nn.Linear((inputs, *widths)[-1], outputs, bias=bias))
