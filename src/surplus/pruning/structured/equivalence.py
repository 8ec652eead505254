"""Whether two networks compute the same function, on inputs that are given.

max |f(x) - g(x)|  <=  tol * max(1, max |f(x)|)
"""

from __future__ import annotations

from torch import Tensor, nn

from surplus.errors import InputError
from surplus.space.units import evaluating


def same_function(big: nn.Module, small: nn.Module, x: Tensor, tol: float = 1e-5) -> bool:
    """Whether a network and what `remove_dead_units`, a checkpoint or an export made of it answer alike.

    Args:
        big: the network; both are asked in evaluation mode, on the device where each lies, and left as they are.
        small: what was made of it.
        x: (B, ...) inputs as the network sees them. Only on these are the two compared: take many, and unlike ones.
        tol: the largest difference that counts as none, for outputs of size 1; relative to the largest output beyond.

    Raises:
        InputError: there are no inputs, or the outputs have different shapes.
    """
    if not len(x):
        raise InputError("networks are compared on inputs; got a batch of none")
    first, second = (_outputs(module, x) for module in (big, small))
    if first.shape != second.shape:
        raise InputError(
            f"the outputs have shapes {tuple(first.shape)} and {tuple(second.shape)}, so these are networks for"
            " different tasks; give two of one task"
        )
    apart = (first - second).abs().max()
    return bool(apart <= tol * first.abs().max().clamp(min=1))


def _outputs(module: nn.Module, x: Tensor) -> Tensor:
    """(B, ...) in double precision on the CPU."""
    place = next(module.parameters(), x).device
    with evaluating(module):
        out: Tensor = module(x.to(place))
    return out.detach().cpu().double()
