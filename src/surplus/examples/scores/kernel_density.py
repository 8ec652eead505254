"""Kernel proxies of the C-score: is an example among its like? (Jiang, Zhang, Talwar & Mozer 2021, arXiv 2002.03206).

    density(x)       = 1/n sum_i K(x_i, x)                        K(a, b) = exp(-||a - b||^2 / h^2)
    same_class(x, y) = 1/n sum_i [y_i = y] K(x_i, x)
    signed(x, y)     = 1/n sum_i (2 [y_i = y] - 1) K(x_i, x)

h is half the mean distance between two examples. The example itself stays in the sum: it adds 1/n to all alike.
Nothing is trained; all pairs of examples are compared, a block of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.examples.evidence import check, real
from surplus.registry import method
from surplus.stats import Estimate

PAPER = "Jiang, Zhang, Talwar & Mozer 2021, arXiv 2002.03206"
ENTRIES = 2**24  # of the (rows, n) kernel block held at a time


@method("example score", paper=PAPER, high="easy", cost="pairs")
def density(inputs: Tensor, *, bandwidth: float | None = None) -> Estimate:
    """Mean kernel similarity to all examples, whatever their class.

    Args:
        inputs: (n, ...) examples or embeddings.
        bandwidth: h; half the mean pairwise distance when None.

    Returns:
        Estimate of shape (n,) with one repeat.

    Raises:
        InputError: all inputs are equal, so there is no bandwidth.
    """
    check(inputs=inputs)
    return _kernel_mean(inputs, lambda kernel, rows: kernel, bandwidth)


@method("example score", paper=PAPER, high="easy", cost="pairs")
def same_class_density(inputs: Tensor, labels: Tensor, *, bandwidth: float | None = None) -> Estimate:
    """Kernel similarity to the examples of the same class, summed and divided by the number of all examples.

    Args:
        inputs: (n, ...) examples or embeddings.
        labels: (n,) integers.
        bandwidth: h; half the mean pairwise distance when None.

    Returns:
        Estimate of shape (n,) with one repeat.

    Raises:
        InputError: all inputs are equal, so there is no bandwidth.
    """
    check(inputs=inputs, labels=labels)
    return _kernel_mean(inputs, lambda kernel, rows: kernel * (labels[rows, None] == labels), bandwidth)


@method("example score", paper=PAPER, high="easy", cost="pairs")
def signed_density(inputs: Tensor, labels: Tensor, *, bandwidth: float | None = None) -> Estimate:
    """Kernel similarity to the same class minus that to the other classes.

    Args:
        inputs: (n, ...) examples or embeddings.
        labels: (n,) integers.
        bandwidth: h; half the mean pairwise distance when None.

    Returns:
        Estimate of shape (n,) with one repeat.

    Raises:
        InputError: all inputs are equal, so there is no bandwidth.
    """
    check(inputs=inputs, labels=labels)
    return _kernel_mean(inputs, lambda kernel, rows: kernel * (2 * (labels[rows, None] == labels) - 1), bandwidth)


def _kernel_mean(inputs: Tensor, weigh: Callable[[Tensor, slice], Tensor], bandwidth: float | None) -> Estimate:
    """Row means of the weighed kernel matrix."""
    x = real(inputs).flatten(1)
    h = half_mean_distance(x) if bandwidth is None else bandwidth
    means = [weigh((torch.cdist(x[rows], x) / h).square().neg().exp(), rows).mean(1) for rows in _blocks(len(x))]
    return Estimate.over(torch.cat(means)[None])


def half_mean_distance(x: Tensor) -> float:
    """Half the mean Euclidean distance between two different rows of x (n, d)."""
    total = sum(float(torch.cdist(x[rows], x).sum(dtype=torch.float64)) for rows in _blocks(len(x)))
    if total == 0:
        raise InputError("all inputs are equal, so their distances set no bandwidth; pass one, or look at the data")
    return total / (len(x) * (len(x) - 1)) / 2


def _blocks(n: int) -> Iterator[slice]:
    """Slices of rows whose (rows, n) block stays small."""
    rows = max(1, ENTRIES // n)
    return (slice(start, start + rows) for start in range(0, n, rows))
