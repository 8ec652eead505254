"""LeNet-5: two convolutions of 5x5 and three dense layers (LeCun, Bottou, Bengio & Haffner 1998, section II.B).

    x -> conv 6 -> phi -> pool 2 -> conv 16 -> phi -> pool 2 -> 120 -> phi -> 84 -> phi -> outputs

As today's papers use it: every map of the second convolution sees every map of the first, pooling has no weights, and
the last layer is linear.
"""

from __future__ import annotations

from torch import nn

from surplus.errors import InputError
from surplus.networks.layers import activation as nonlinearity
from surplus.networks.layers import chain
from surplus.networks.shapes import choose, read_image, scaled
from surplus.registry import method

_KERNEL = 5
_POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


@method("network", paper="LeCun, Bottou, Bengio & Haffner 1998")
def lenet_5(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: float = 1.0,
    padding: int = 0,
    activation: str = "relu",
    pool: str = "max",
) -> nn.Module:
    """LeNet-5 with 6, 16 maps and 120, 84 units.

    Parameters: 44,426 on MNIST and 62,006 on CIFAR-10, as Li et al. 2018 (arXiv 1804.08838) count them; 61,706 on MNIST
    with padding=2, which gives the first layer the 32x32 pixels of 1998.

    Args:
        input_shape: (channels, height, width), at least 16x16 without padding.
        outputs: number of outputs.
        width: multiplies every number of maps and units.
        padding: rows of zeros around the input of the first convolution.
        activation: as in `mlp`; 1998 had "tanh".
        pool: "max" or "average"; 1998 had averages.

    Raises:
        InputError: an image too small, an unknown option.
    """
    if padding < 0:
        raise InputError(f"lenet-5: padding counts rows of zeros, so it is 0 or more; got {padding}")
    channels, *sides = read_image("lenet-5", input_shape, outputs, least=max(1, 16 - 2 * padding))
    c1, c2, d1, d2 = (scaled("lenet-5", n, width) for n in (6, 16, 120, 84))
    rows, columns = (_after_pool(_after_pool(side + 2 * padding)) for side in sides)
    pooling = _POOLS[choose("lenet-5", "pool", pool, tuple(_POOLS))]
    return chain(
        conv1=nn.Conv2d(channels, c1, _KERNEL, padding=padding),
        act1=nonlinearity("lenet-5", activation),
        pool1=pooling(2),
        conv2=nn.Conv2d(c1, c2, _KERNEL),
        act2=nonlinearity("lenet-5", activation),
        pool2=pooling(2),
        flatten=nn.Flatten(),
        linear1=nn.Linear(c2 * rows * columns, d1),
        act3=nonlinearity("lenet-5", activation),
        linear2=nn.Linear(d1, d2),
        act4=nonlinearity("lenet-5", activation),
        head=nn.Linear(d2, outputs),
    )


def _after_pool(side: int) -> int:
    return (side - _KERNEL + 1) // 2
