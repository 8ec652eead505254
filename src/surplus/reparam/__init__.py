"""Coordinates on weight space: theta = r(z), and training moves z."""

from surplus.reparam.base import Reparametrisation, Stack, fingerprint, stack
from surplus.reparam.dct import DctPlusSparse, cosine_matrix, cosine_weight
from surplus.reparam.direct import Identity, Mask
from surplus.reparam.frozen import Frozen, signed_constant
from surplus.reparam.projection import Dense, Fastfood, Projection, Sparse, fwht
from surplus.reparam.simplex import Line, Simplex, squared_cosine
from surplus.reparam.subspace import RandomSubspace, Subspace
from surplus.reparam.supermask import LearntMask, Supermask, TopK

__all__ = [
    "DctPlusSparse",
    "Dense",
    "Fastfood",
    "Frozen",
    "Identity",
    "LearntMask",
    "Line",
    "Mask",
    "Projection",
    "RandomSubspace",
    "Reparametrisation",
    "Simplex",
    "Sparse",
    "Stack",
    "Subspace",
    "Supermask",
    "TopK",
    "cosine_matrix",
    "cosine_weight",
    "fingerprint",
    "fwht",
    "signed_constant",
    "squared_cosine",
    "stack",
]
