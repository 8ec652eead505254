"""How numbers come into this room: anything array-like, as double precision numpy; and how chance comes in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from surplus.errors import InputError
from surplus.space import generator

Array = NDArray[np.float64]


def as_array(values: Any) -> Array:
    """Any tensor, array, list or number in double precision, on the CPU."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def as_vector(values: Any, what: str) -> Array:
    """One number per item, shape (n,).

    Raises:
        InputError: another shape.
    """
    array = np.atleast_1d(as_array(values))
    if array.ndim != 1:
        raise InputError(
            f"{what} holds one number per item, shape (n,); got shape {array.shape}. Average or pick an axis first."
        )
    return array


def as_pairs(first: Any, second: Any, what: tuple[str, str]) -> tuple[Array, Array]:
    """Two vectors whose entries belong together, without the pairs in which either is NaN (missing).

    Raises:
        InputError: lengths that differ, or no complete pair.
    """
    a, b = as_vector(first, what[0]), as_vector(second, what[1])
    if len(a) != len(b):
        raise InputError(f"{what[0]} and {what[1]} are paired item by item; got {len(a)} and {len(b)} items.")
    present = ~(np.isnan(a) | np.isnan(b))
    if not present.any():
        raise InputError(
            f"no item has both {what[0]} and {what[1]}: got {len(a)} pairs, each empty or with a NaN in it."
        )
    return a[present], b[present]


def rounding(*values: Any) -> float:
    """The largest difference that is rounding alone, given the precision and size of the values as they came."""
    size = max(np.abs(a[np.isfinite(a)]).max(initial=0.0) for a in map(as_array, values))
    return float(4 * max(map(_eps, values)) * size)


def _eps(values: Any) -> float:
    if isinstance(values, torch.Tensor):
        return torch.finfo(values.dtype).eps if values.is_floating_point() else 2.0**-52
    kind = np.asarray(values).dtype
    return float(np.finfo(kind).eps) if kind.kind == "f" else 2.0**-52


def check_level(level: float) -> float:
    """The coverage of an interval, a share in (0, 1).

    Raises:
        InputError: anything else; 95 for 95% is the usual slip.
    """
    if not 0 < level < 1:
        hint = f" Did you mean {level / 100:g}?" if 1 < level < 100 else ""
        raise InputError(f"level is the share of intervals that cover, so it lies in (0, 1); got {level}.{hint}")
    return level


def check_margin(margin: float) -> float:
    """The largest loss that counts as none, a number >= 0 in the metric's own units.

    Raises:
        InputError: negative or not finite.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise InputError(
            f"margin is the largest loss that counts as none, a number >= 0 in the metric's units; got {margin}."
        )
    return margin


def as_generator(seed: int | Generator, *purpose: object) -> Generator:
    """The generator itself, or a fresh one for this seed and purpose."""
    return seed if isinstance(seed, Generator) else generator(seed, *purpose)
