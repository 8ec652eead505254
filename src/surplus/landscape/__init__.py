"""Curvature, connectivity and dimension of the loss around trained networks."""

from surplus.landscape.coherence import (
    Coherence,
    alpha_of_examples,
    alpha_of_microbatches,
    coherence_of,
    gradient_coherence,
)
from surplus.landscape.connectivity import (
    Barrier,
    ExampleBarriers,
    barrier,
    example_barriers,
    instability,
    on_examples,
    siblings,
)
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
from surplus.landscape.geometry import Geometry, feature_angle, feature_geometry, feature_margin, feature_norm
from surplus.landscape.imp_geometry import (
    chain_barriers,
    largest_cut,
    perturbation_robustness,
    projection_errors,
    refilled_gap,
)
from surplus.landscape.lanczos import Eigenvalues, Krylov, SpectralDensity, lanczos, spectral_density, top_eigenvalue
from surplus.landscape.matching import Matching, chain_axes, permute, weight_matching
from surplus.landscape.robustness import Robustness, Variant, occlusion, robustness, variants_of

__all__ = [
    "Barrier",
    "Coherence",
    "Eigenvalues",
    "ExampleBarriers",
    "Geometry",
    "IntrinsicDimension",
    "Krylov",
    "Matching",
    "Robustness",
    "SpectralDensity",
    "Variant",
    "across_subsets",
    "alpha_of_examples",
    "alpha_of_microbatches",
    "ascent",
    "barrier",
    "chain_axes",
    "chain_barriers",
    "coherence_of",
    "example_barriers",
    "feature_angle",
    "feature_geometry",
    "feature_margin",
    "feature_norm",
    "frobenius",
    "gradient_coherence",
    "hessian_operator",
    "hvp",
    "instability",
    "intrinsic_dimension",
    "lanczos",
    "largest_cut",
    "mean_loss",
    "occlusion",
    "on_examples",
    "permute",
    "perturbation_robustness",
    "projection_errors",
    "refilled_gap",
    "robustness",
    "sam_sharpness",
    "siblings",
    "spectral_density",
    "top_eigenvalue",
    "trace",
    "variants_of",
    "weight_matching",
]
