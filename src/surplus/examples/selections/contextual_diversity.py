"""Contextual diversity: k-center on what the network predicts (Agarwal, Arora, Anand & Arora 2020, arXiv 2008.05723).

    s_{t+1} = argmax_i  min_{j in S} d(p_i, p_j)        d(p, q) = 1/2 sum_c (p_c - q_c) (ln p_c - ln q_c)

d is the symmetric Kullback-Leibler divergence between two predictions.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.examples.selections.base import check_keep, check_probabilities, mask_of
from surplus.examples.selections.k_center import farthest_first, first_pick
from surplus.registry import method


@method("selection", paper="Agarwal, Arora, Anand & Arora 2020, arXiv 2008.05723")
def contextual_diversity(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    probabilities: Tensor | None = None,
    first: int | None = None,
) -> Tensor:
    """Keep examples picked one by one, each predicted most unlike those already kept.

    Args:
        scores: (n,) not used but for n.
        keep: how many examples stay.
        labels: not used; `select(..., by_class=True)` works class by class.
        generator: draws the first pick.
        probabilities: (n, classes) of one network, or (runs, n, classes) to be averaged.
        first: the first pick, instead of a drawn one.

    Returns:
        (n,) bool; nested for growing `keep` from the same first pick.

    Raises:
        InputError: probabilities are missing or do not fit, or `first` is no example.
    """
    check_keep(scores, keep)
    p = check_probabilities(probabilities, len(scores), "contextual-diversity")
    return mask_of(contextual_diversity_order(p, keep, first_pick(first, scores, generator)), len(scores))


def contextual_diversity_order(probabilities: Tensor, keep: int, first: int) -> Tensor:
    """The first `keep` picks, in order, from probabilities (n, classes): (keep,) indices."""
    p, ln = probabilities, log_probabilities(probabilities)
    return farthest_first(lambda j: symmetric_kl(p, ln, p[j], ln[j]), len(p), keep, first)


def symmetric_kl(p: Tensor, ln_p: Tensor, q: Tensor, ln_q: Tensor) -> Tensor:
    """1/2 KL(p || q) + 1/2 KL(q || p) over the last axis."""
    return 0.5 * ((p - q) * (ln_p - ln_q)).sum(-1)


def log_probabilities(p: Tensor) -> Tensor:
    """The logarithms; of a probability that has rounded to 0 that of the smallest number there is."""
    return p.clamp(min=torch.finfo(p.dtype).tiny).log()
