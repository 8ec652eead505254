"""Weight space is R^P: a network's parameters as one flat vector, and the geometry of such vectors."""

from surplus.space.directions import (
    angle,
    filter_normalised_direction,
    interpolate,
    norm,
    random_direction,
)
from surplus.space.randomness import generator, seed_for, seeded
from surplus.space.weightspace import Block, Buffers, WeightSpace

__all__ = [
    "Block",
    "Buffers",
    "WeightSpace",
    "angle",
    "filter_normalised_direction",
    "generator",
    "interpolate",
    "norm",
    "random_direction",
    "seed_for",
    "seeded",
]
