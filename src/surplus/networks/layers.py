"""The small parts that several architectures share: activations, normalisation, first values of the weights.

Everything here works out of place, so that K networks can be stacked with `torch.func.vmap`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from surplus.errors import InputError
from surplus.networks.shapes import check_positive, choose

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "identity": nn.Identity,  # makes deep linear networks
}


def activation(network: str, name: str) -> nn.Module:
    """The nonlinearity of this name."""
    return ACTIVATIONS[choose(network, "activation", name, tuple(ACTIVATIONS))]()


def normaliser(network: str, kind: str, groups: int, *, none: bool = False) -> Callable[[int], nn.Module]:
    """What builds the normalisation of feature maps (B, channels, H, W) from a number of channels.

    Args:
        network: the name that messages use.
        kind: "batch"; "group"; or "none" where the network can train without.
        groups: groups of channels for "group" (1 normalises over the whole map, as layer normalisation does).
        none: whether "none" is allowed.

    Raises:
        InputError: unknown kind; and when called, channels that do not fall into equal groups.
    """
    choose(network, "norm", kind, ("batch", "group", "none") if none else ("batch", "group"))
    check_positive(network, groups=groups)

    def group(channels: int) -> nn.Module:
        if channels % groups:
            raise InputError(
                f"{network}: {channels} channels do not fall into groups={groups} equal groups; "
                "choose groups, or a width, so that they do"
            )
        return nn.GroupNorm(groups, channels)

    builders: dict[str, Callable[[int], nn.Module]] = {
        "batch": nn.BatchNorm2d,
        "group": group,
        "none": lambda _: nn.Identity(),
    }
    return builders[kind]


def chain(**layers: nn.Module) -> nn.Sequential:
    """Named layers, one after another."""
    return nn.Sequential(OrderedDict(layers))


def he_normal(module: nn.Module) -> nn.Module:
    """Gaussian weights of variance 2 / fan-in and zero biases (He et al. 2015, arXiv 1502.01852)."""
    return _fill(module, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"))


def glorot_normal(module: nn.Module) -> nn.Module:
    """Gaussian weights of variance 2 / (fan-in + fan-out) and zero biases (Glorot & Bengio 2010)."""
    return _fill(module, nn.init.xavier_normal_)


def _fill(module: nn.Module, draw: Callable[[Tensor], Tensor]) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
