"""Random linear maps from few coordinates to many weights, y = P z, with columns of (about) unit length.

    dense:     P_ij ~ N(0, 1), then each column divided by its norm
    sparse:    P_ij = +1 or -1 with probability 1 / (2 sqrt D) each, else 0, then the same (Li, Hastie & Church 2006)
    fastfood:  P z = H G Pi H B z, first D entries, divided by ||G|| sqrt D (Le, Sarlos & Smola 2013, arXiv 1408.3060)

H is the unnormalised Walsh-Hadamard matrix of side L = 2^ceil(log2 D), B random signs, Pi a random permutation that
gathers, G a Gaussian diagonal. Fastfood needs O(L) memory and O(L log L) time; its columns have unit
length in the mean.

Each `draw` takes a tensor `like` (..., D), which lends its D, device and dtype. The numbers are drawn on the device of
the generator, in float32 whatever the dtype, so one seed gives one map everywhere.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.reparam.base import Movable, fingerprint


class Projection(Movable, ABC):
    """A linear map P from z (d,) to y (D,)."""

    size: int
    """d, the number of columns."""

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """P z: (..., d) -> (..., D)."""

    @abstractmethod
    def transpose(self, y: Tensor) -> Tensor:
        """P^T y: (..., D) -> (..., d)."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What makes two maps the same, as JSON."""


class Dense(Projection):
    """A matrix held whole, by its columns (d, D): d D numbers of memory.

    Any basis will do; `draw` makes a random one.
    """

    def __init__(self, columns: Tensor) -> None:
        self.columns = columns
        self.size = len(columns)

    @classmethod
    def draw(cls, like: Tensor, size: int, generator: Generator) -> Dense:
        """Gaussian columns of unit length, not orthogonalised."""
        columns = torch.randn(size, like.shape[-1], generator=generator, device=generator.device)
        return cls(F.normalize(columns.to(like.device, _wide(like)), dim=1).to(like.dtype))

    def forward(self, z: Tensor) -> Tensor:
        """Z @ columns."""
        return z @ self.columns

    def transpose(self, y: Tensor) -> Tensor:
        """Y @ columns^T."""
        return y @ self.columns.T

    def spec(self) -> dict[str, Any]:
        """Name and columns."""
        return {"name": "dense", "columns": fingerprint(self.columns)}


class Sparse(Projection):
    """The few entries of a sparse matrix: y_i is the sum of value_e z_c over the entries e = (row i, column c)."""

    def __init__(self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        self.rows, self.columns, self.values = rows, columns, values  # (entries,) each
        self.height, self.size = shape

    @classmethod
    def draw(cls, like: Tensor, size: int, generator: Generator) -> Sparse:
        """About sqrt(D) signs per column, each column then scaled to unit length; a column of zeros is redrawn."""
        height = like.shape[-1]
        columns, rows = _cells(size, height, generator)
        while len(empty := (columns.bincount(minlength=size) == 0).nonzero().squeeze(1)):
            again, more = _cells(len(empty), height, generator)
            columns, rows = torch.cat([columns, empty[again]]), torch.cat([rows, more])
        signs = 1 - 2 * torch.randint(2, rows.shape, generator=generator, device=generator.device)
        values = signs.to(_wide(like)) / columns.bincount().to(_wide(like)).sqrt()[columns]
        return cls(rows.to(like.device), columns.to(like.device), values.to(like), (height, size))

    def forward(self, z: Tensor) -> Tensor:
        """Each entry adds value z_c to its row."""
        return _add_up(self.values * z[..., self.columns], self.rows, self.height)

    def transpose(self, y: Tensor) -> Tensor:
        """Each entry adds value y_i to its column."""
        return _add_up(self.values * y[..., self.rows], self.columns, self.size)

    def spec(self) -> dict[str, Any]:
        """Name, shape and entries."""
        parts = {"rows": self.rows, "columns": self.columns, "values": self.values}
        return {"name": "sparse", "shape": [self.height, self.size], **{n: fingerprint(t) for n, t in parts.items()}}


class Fastfood(Projection):
    """H G Pi H B without forming a matrix; the three diagonals (L,), or (K, L) for K maps at once."""

    def __init__(self, signs: Tensor, order: Tensor, gauss: Tensor, height: int, size: int) -> None:
        self.signs, self.order, self.gauss = signs, order, gauss
        self.height, self.size = height, size
        self.inverse = order.argsort(-1)
        self.weights = gauss / (gauss.norm(dim=-1, keepdim=True) * math.sqrt(height))  # the normalisation rides along

    @classmethod
    def draw(cls, like: Tensor, size: int, generator: Generator) -> Fastfood:
        """Random signs B, permutation Pi and Gaussian diagonal G."""
        height = like.shape[-1]
        length = 1 << (height - 1).bit_length()
        options: dict[str, Any] = {"generator": generator, "device": generator.device}
        signs = 1 - 2 * torch.randint(2, (length,), **options)
        order = torch.randperm(length, **options)
        gauss = torch.randn(length, **options)
        return cls(signs.to(like), order.to(like.device), gauss.to(like), height, size)

    @classmethod
    def stacked(cls, parts: Sequence[Fastfood]) -> Fastfood:
        """K maps of one shape as one map of (K, d) to (K, D)."""
        signs, order, gauss = (torch.stack(t) for t in zip(*[(p.signs, p.order, p.gauss) for p in parts], strict=True))
        return cls(signs, order, gauss, parts[0].height, parts[0].size)

    def forward(self, z: Tensor) -> Tensor:
        """H G Pi H B z."""
        u = fwht(self.signs * F.pad(z, (0, self.signs.shape[-1] - self.size)))  # H B z
        u = self.weights * u.gather(-1, self.order.expand(u.shape))  # G Pi
        return fwht(u)[..., : self.height]

    def transpose(self, y: Tensor) -> Tensor:
        """B H Pi^T G H y, for H is its own transpose."""
        u = self.weights * fwht(F.pad(y, (0, self.signs.shape[-1] - self.height)))
        u = fwht(u.gather(-1, self.inverse.expand(u.shape)))
        return (self.signs * u)[..., : self.size]

    def spec(self) -> dict[str, Any]:
        """Name, shape and diagonals."""
        parts = {"signs": self.signs, "order": self.order, "gauss": self.gauss}
        return {"name": "fastfood", "shape": [self.height, self.size], **{n: fingerprint(t) for n, t in parts.items()}}


Drawn = type[Dense] | type[Sparse] | type[Fastfood]
PROJECTIONS: dict[str, Drawn] = {"dense": Dense, "sparse": Sparse, "fastfood": Fastfood}


def fwht(x: Tensor) -> Tensor:
    """Fast Walsh-Hadamard transform, unnormalised, along the last axis: (..., 2^m) -> (..., 2^m).

    H of side 2^m is a Kronecker power, so it acts on the bits of the index a few at a time, in any order: multiply the
    lowest six by H_64, rotate the axes, go on.

    Raises:
        InputError: the last axis is not a power of two long.
    """
    length = x.shape[-1]
    if length < 1 or length & (length - 1):
        raise InputError(f"a Walsh-Hadamard transform needs a length that is a power of two; got {length}: pad with 0")
    bits = length.bit_length() - 1
    while bits:
        taken = min(bits, 6)
        blocks = x.reshape(*x.shape[:-1], -1, 1 << taken) @ _hadamard(taken, x.dtype, x.device)
        x = blocks.transpose(-1, -2).flatten(-2)
        bits -= taken
    return x


@cache
def _hadamard(bits: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2^bits, 2^bits) in Sylvester's order."""
    h = torch.ones(1, 1, dtype=dtype, device=device)
    for _ in range(bits):
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


def _cells(columns: int, rows: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Each cell of a grid independently with probability 1 / sqrt(rows): (column, row) of those that came, in order.

    Jumps from one to the next, whose lengths are geometric, so the time goes with the cells that come.
    """
    cells, density = columns * rows, rows**-0.5
    enough = round(cells * density + 12 * math.sqrt(cells * density) + 12)  # reaches the end but for odds below 1e-20
    u = 1 - torch.rand(enough, generator=generator, device=generator.device, dtype=torch.float64)
    jumps = (u.log() / math.log1p(-density)).floor() + 1 if rows > 1 else torch.ones_like(u)
    position = jumps.long().cumsum(0) - 1
    position = position[position < cells]
    return position // rows, position % rows


def _add_up(terms: Tensor, index: Tensor, length: int) -> Tensor:
    """Sum terms (..., entries) into (..., length), each at its index (entries,)."""
    return terms.new_zeros(*terms.shape[:-1], length).index_add(-1, index, terms)


def _wide(like: Tensor) -> torch.dtype:
    """At least float32: lengths are not to be measured in half precision."""
    return torch.promote_types(like.dtype, torch.float32)
