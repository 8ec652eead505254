"""SNIP: how much the loss feels a weight's removal, at first order (Lee, Ajanthan & Torr 2019, arXiv 1810.02340).

    s_q = |dL/dc_q| at c = 1  =  |g_q theta_q|,    L the loss of the network c * theta

The paper divides by the sum of all scores, which leaves the order as it is. The authors' code also scores biases and
draws the weights anew after the cut. Here biases are never pruned, since a density counts weights everywhere in this
library; and where a mask starts from is not the score's affair: `reinitialised` trains it on fresh weights. Cut in a
hundred rounds (`iterate_score(rounds=100)`) it is the iterative SNIP of de Jorge et al. 2021 (arXiv 2006.09081).
"""

from __future__ import annotations

from torch import Tensor

from surplus.pruning.scoring import Batch, Loss, each_cross_entropy, first_gradient
from surplus.registry import method
from surplus.space import WeightSpace
from surplus.space.weightspace import Buffers


@method("weight score", paper="Lee, Ajanthan & Torr 2019, arXiv 1810.02340", needs=("batch",))
def snip(
    space: WeightSpace,
    theta: Tensor,
    batch: Batch,
    *,
    loss: Loss = each_cross_entropy,
    buffers: Buffers | None = None,
    train: bool = False,
) -> Tensor:
    """Connection sensitivity |g * theta|.

    Args:
        space: the network.
        theta: (P,).
        batch: (x, y) examples without augmentation; the paper takes about 100.
        loss: per example, (logits, targets) -> (B,).
        buffers: batch-norm statistics; fresh ones when None, so that normalisation is the identity at first.
        train: use the batch's own statistics.

    Returns:
        (P,), high = keep.
    """
    g, _ = first_gradient(space, theta, batch, loss, buffers=buffers, train=train)
    return g.mul_(theta.detach()).abs_()
