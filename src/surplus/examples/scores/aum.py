"""AUM, the area under the margin: how far the label leads over training (Pleiss et al. 2020, arXiv 2001.10528, eq. 1).

    aum(x, y) = 1/T sum_t ( z_y(t) - max_{k != y} z_k(t) )        z: logits at epoch t

Mislabelled examples are pulled towards another class by their likes, so their margin stays low or negative.
"""

from __future__ import annotations

from torch import Tensor

from surplus.examples.evidence import check
from surplus.examples.scores.learning_speed import cumulative_mean
from surplus.registry import method
from surplus.stats import Estimate


@method("example score", paper="Pleiss et al. 2020, arXiv 2001.10528", high="easy")
def aum(margin: Tensor, *, epochs: int | None = None) -> Estimate:
    """Mean margin of the label over the epochs, averaged over runs.

    Args:
        margin: (runs, epochs, n) logit of the label minus the largest other; NaN where an epoch did not visit.
        epochs: take the first so many only (the paper stops at the first drop of the learning rate); all when None.

    Returns:
        Estimate of shape (n,); low = probably mislabelled.

    Raises:
        InputError: the record has fewer epochs.
    """
    check(margin=margin)
    return cumulative_mean(margin, epochs)
