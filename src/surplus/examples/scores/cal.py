"""CAL: is an example predicted unlike those it lies among? (Margatina, Vernikos, Barrault & Aletras 2021).

    cal(x) = 1/k sum_j  1/2 KL(p_j || p_x) + 1/2 KL(p_x || p_j)        j: the k nearest neighbours of x

High = near a decision boundary. arXiv 2109.03764, where the neighbours are the labelled examples and the divergence is
KL(p_j || p_x); where all are labelled, DeepCore (Guo, Zhao & Bai 2022, arXiv 2204.08499) takes the symmetric one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.examples.evidence import check, real
from surplus.examples.selections.base import Compat, check_compat
from surplus.examples.selections.contextual_diversity import log_probabilities, symmetric_kl
from surplus.registry import method
from surplus.stats import Estimate

ENTRIES = 2**24  # of the (rows, n) distances held at a time


@method("example score", paper="Margatina et al. 2021, arXiv 2109.03764", high="hard", cost="pairs")
def cal(inputs: Tensor, probabilities: Tensor, *, neighbours: int = 10, compat: Compat = None) -> Estimate:
    """Mean symmetric divergence between the prediction and those of the nearest neighbours.

    Args:
        inputs: (n, ...) embeddings in which neighbours are looked for (or the examples themselves).
        probabilities: (runs, n, classes).
        neighbours: k; all others if there are fewer.
        compat: "deepcore" turns the sign: its code keeps the smallest divergences.

    Returns:
        Estimate of shape (n,).

    Raises:
        InputError: there is one example only, or `neighbours` is below 1.
    """
    check(inputs=inputs, probabilities=probabilities)
    check_compat(compat)
    if neighbours < 1 or len(inputs) < 2:
        raise InputError(f"cal compares with at least one other example; got {neighbours} of {len(inputs)} examples")
    near = nearest_neighbours(real(inputs).flatten(1), min(neighbours, len(inputs) - 1))
    ln = log_probabilities(probabilities)
    total = torch.zeros_like(probabilities[..., 0])  # (runs, n)
    for j in near.T:
        total += symmetric_kl(probabilities, ln, probabilities[:, j], ln[:, j])
    return Estimate.over(total / (-near.shape[1] if compat == "deepcore" else near.shape[1]))


def nearest_neighbours(x: Tensor, k: int) -> Tensor:
    """The k nearest other rows of each row of x (n, d), by Euclidean distance: (n, k) indices."""
    found = []
    for rows in torch.arange(len(x), device=x.device).split(max(1, ENTRIES // len(x))):
        distance = torch.cdist(x[rows], x)
        distance[torch.arange(len(rows), device=x.device), rows] = torch.inf  # not itself
        found.append(distance.topk(k, largest=False).indices)
    return torch.cat(found)
