"""BADGE: gradients that are long and unlike each other (Ash, Zhang, Krishnamurthy, Langford & Agarwal 2020).

    g_i = (p_i - onehot(argmax p_i)) outer h_i        last-layer gradient under the model's own answer

k-means++ seeding over g: the longest first, then each with chance proportional to its squared distance to the nearest
pick. Products of gradients factor, <g_i, g_j> = <e_i, e_j> <h_i, h_j>, so no g is ever formed. arXiv 1906.03671.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from surplus.examples.active.base import Pool, draw
from surplus.registry import method


@method("query strategy", paper="Ash et al. 2020, arXiv 1906.03671", needs="probabilities")
def badge(pool: Pool, budget: int, *, generator: Generator | None = None) -> Tensor:
    """Sample examples whose last-layer gradients spread, by the seeding rule of k-means++.

    Args:
        pool: probabilities (averaged over passes), and the features that the last layer reads.
        budget: how many.
        generator: draws all but the first pick.

    Returns:
        (budget,) positions; nested for growing budgets from the same generator state.
    """
    p, h = pool.prediction.to(pool.features.dtype), pool.features
    e = p - one_hot(p.argmax(1), p.shape[1])  # (n, C)
    length = e.square().sum(1) * h.square().sum(1)  # ||g||^2
    picks, free = [length.masked_fill(~pool.open, -1).argmax()], pool.open.clone()
    gap = torch.full_like(length, torch.inf)
    while len(picks) < budget:
        last = picks[-1]
        free[last] = False
        apart = length + length[last] - 2 * (e @ e[last]) * (h @ h[last])
        gap = gap.minimum(apart.clamp(min=0))
        chances = gap * free
        picks.append(draw(generator, chances if bool(chances.sum() > 0) else free.to(gap.dtype)))
    return torch.stack(picks)
