"""Magnitude: how large a weight is.

    s_q = |theta_q|

At a trained point this is the score of the lottery ticket papers (Frankle & Carbin 2019, arXiv 1803.03635); at an
initial point it empties wide layers first, whose weights start small.
"""

from __future__ import annotations

from torch import Tensor

from surplus.pruning.scoring import Batch
from surplus.registry import method
from surplus.space import WeightSpace


@method("weight score", paper="Han et al. 2015, arXiv 1506.02626", needs=())
def magnitude(space: WeightSpace, theta: Tensor, batch: Batch | None = None) -> Tensor:
    """Absolute value of each weight.

    Args:
        space: the network (not used).
        theta: (P,).
        batch: not used.

    Returns:
        (P,), high = keep.
    """
    return theta.detach().abs()
