"""The smallest network for an error: a large one, pruned until its error is that (Rosenfeld et al. 2021, section 7).

    minimise   l w^2 d   over depth l, width w, density d   subject to   error(l, w, d) = the error wanted

The paper (arXiv 2006.10621) takes eps_np(l, w), the error of unpruned networks, from a scaling law or between measured
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from surplus.errors import InputError
from surplus.theory.pruning_law import PruningFit


@dataclass(frozen=True)
class SmallestNetwork:
    """The network that reaches an error with the fewest weights, in units of depth x width^2 x density."""

    depth: float
    width: float
    density: float
    size: float


def smallest_network(
    fit: PruningFit,
    error: float,
    depths: Sequence[float],
    widths: Sequence[float],
    eps_np: Callable[[float, float], float],
) -> SmallestNetwork:
    """Minimise depth * width^2 * density subject to the predicted error, over networks on a grid.

    Args:
        fit: a joint fit.
        error: what is to be reached.
        depths: candidates.
        widths: candidates.
        eps_np: (depth, width) -> unpruned error: `dense_error_between`, or a scaling law.

    Raises:
        InputError: no candidate reaches the error even unpruned.
    """
    found = []
    for depth in depths:
        for width in widths:
            own = eps_np(depth, width)
            if own <= error:
                density = 1.0 if own == error else fit.density_at(error, width, depth, own)
                found.append(SmallestNetwork(depth, width, density, depth * width**2 * density))
    if not found:
        raise InputError(f"no network of these depths and widths has an error of {error:g} or less, even unpruned")
    return min(found, key=lambda network: network.size)


def dense_error_between(depths: Any, widths: Any, errors: Any) -> Callable[[float, float], float]:
    """Unpruned errors between measured networks: exact at those, interpolated in the logarithms of all three."""
    import numpy as np
    from scipy.interpolate import RBFInterpolator

    places = np.log(np.stack([np.asarray(v, dtype=float) for v in (depths, widths)], 1))
    surface = RBFInterpolator(places, np.log(np.asarray(errors, dtype=float)), kernel="linear", degree=0)
    return lambda depth, width: float(np.exp(surface(np.log([[depth, width]]))[0]))
