"""Curvature, connectivity and dimension of the loss around trained networks."""

from surplus.landscape.coherence import (
    Coherence,
    alpha_of_examples,
    alpha_of_microbatches,
    coherence_of,
    gradient_coherence,
)
from surplus.landscape.connectivity import Barrier, ExampleBarriers, barrier, example_barriers, on_examples, siblings
from surplus.landscape.curvature import (
    across_subsets,
    ascent,
    frobenius,
    hessian_operator,
    hvp,
    mean_loss,
    sam_sharpness,
    trace,
)
from surplus.landscape.dimension import IntrinsicDimension, intrinsic_dimension
from surplus.landscape.lanczos import Eigenvalues, Krylov, SpectralDensity, lanczos, spectral_density, top_eigenvalue
from surplus.landscape.matching import Matching, chain_axes, permute, weight_matching

__all__ = [
    "Barrier",
    "Coherence",
    "Eigenvalues",
    "ExampleBarriers",
    "IntrinsicDimension",
    "Krylov",
    "Matching",
    "SpectralDensity",
    "across_subsets",
    "alpha_of_examples",
    "alpha_of_microbatches",
    "ascent",
    "barrier",
    "chain_axes",
    "coherence_of",
    "example_barriers",
    "frobenius",
    "gradient_coherence",
    "hessian_operator",
    "hvp",
    "intrinsic_dimension",
    "lanczos",
    "mean_loss",
    "on_examples",
    "permute",
    "sam_sharpness",
    "siblings",
    "spectral_density",
    "top_eigenvalue",
    "trace",
    "weight_matching",
]
