"""Coreset: the examples farthest from every labelled one (Sener & Savarese 2018, arXiv 1708.00489).

    x_t = argmax_i  min_{j labelled or picked} || h_i - h_j ||

This is k-center greedy that starts from the labels; without any, from one example drawn at random.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.examples.active.base import Pool, draw
from surplus.registry import method


@method("query strategy", paper="Sener & Savarese 2018, arXiv 1708.00489")
def coreset(pool: Pool, budget: int, *, generator: Generator | None = None) -> Tensor:
    """Take, one by one, the example farthest from the labels and from the picks.

    Args:
        pool: features, the penultimate ones of the present model in the paper.
        budget: how many.
        generator: draws the first pick where nothing is labelled.

    Returns:
        (budget,) positions; nested for growing budgets.
    """
    h, free, picks = pool.features, pool.open.clone(), []
    gap = torch.full_like(h[:, 0], torch.inf)  # (n,) distance to the nearest label or pick
    for row in h[pool.labelled]:
        gap = gap.minimum((h - row).norm(dim=1))
    if not bool(pool.labelled.any()):
        picks.append(draw(generator, free.float()))
    while len(picks) < budget:
        if picks:
            gap, free = gap.minimum((h - h[picks[-1]]).norm(dim=1)), free.index_fill(0, picks[-1], False)
        picks.append(gap.masked_fill(~free, -1).argmax())
    return torch.stack(picks)
