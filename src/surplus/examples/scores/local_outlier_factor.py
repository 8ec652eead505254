"""Local outlier factor: how much sparser an example's surroundings are than its neighbours' (Breunig et al. 2000).

    lof(x) = mean over the k nearest neighbours b of x of  lrd(b) / lrd(x)

lrd is the local reachability density. About 1 inside a cluster, larger outside. It never looks at the labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.examples.evidence import check
from surplus.registry import method
from surplus.stats import Estimate


@method("example score", paper="Breunig et al. 2000, doi 10.1145/342009.335388", high="hard", cost="pairs")
def local_outlier_factor(inputs: Tensor, *, neighbours: int = 20) -> Estimate:
    """Density around the neighbours of an example relative to the density around itself, by scikit-learn.

    Args:
        inputs: (n, ...) examples or embeddings.
        neighbours: k; at most n - 1 are used.

    Returns:
        Estimate of shape (n,) with one repeat.

    Raises:
        InputError: fewer than two examples, or no neighbour asked for.
    """
    from sklearn.neighbors import LocalOutlierFactor

    check(inputs=inputs)
    if len(inputs) < 2 or neighbours < 1:
        raise InputError(f"an outlier needs at least 2 examples and 1 neighbour; got {len(inputs)} and {neighbours}")
    finder = LocalOutlierFactor(n_neighbors=min(neighbours, len(inputs) - 1))
    finder.fit(inputs.flatten(1).cpu().numpy())
    factor = torch.as_tensor(-finder.negative_outlier_factor_, device=inputs.device)
    return Estimate.over(factor.to(inputs.dtype if inputs.is_floating_point() else torch.get_default_dtype())[None])
