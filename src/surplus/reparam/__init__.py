"""Coordinates on weight space: theta = r(z), and training moves z."""

from surplus.reparam.base import Reparametrisation, Stack, fingerprint, stack
from surplus.reparam.direct import Identity, Mask
from surplus.reparam.projection import Dense, Fastfood, Projection, Sparse, fwht
from surplus.reparam.simplex import Line, Simplex, squared_cosine
from surplus.reparam.subspace import RandomSubspace, Subspace

__all__ = [
    "Dense",
    "Fastfood",
    "Identity",
    "Line",
    "Mask",
    "Projection",
    "RandomSubspace",
    "Reparametrisation",
    "Simplex",
    "Sparse",
    "Stack",
    "Subspace",
    "fingerprint",
    "fwht",
    "squared_cosine",
    "stack",
]
