"""CRAIG: a weighted subset whose gradient is that of all (Mirzasoleiman, Bilmes & Leskovec 2020, arXiv 1906.01827).

    f(S) = sum_i max_{j in S} ( c - || G_i - G_j || )        w_j = how many examples have j as their nearest in S

The error of the weighted gradient is at most sum_i min_{j in S} || G_i - G_j ||, which maximising f makes small. G_i is
the last-layer gradient (see `gradients`). The authors select class by class: `select("craig", ..., by_class=True)`.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.examples.selections.base import Compat, check_keep, mask_of
from surplus.examples.selections.gradients import Products, check_chosen, last_layer_gradients
from surplus.examples.selections.greedy import Greedy, greedy_order
from surplus.examples.selections.submodular import ENTRIES, FacilityLocation, Pairs
from surplus.registry import method


def craig_weights(
    chosen: Tensor,
    *,
    labels: Tensor,
    embeddings: Tensor,
    probabilities: Tensor,
    by_class: bool = False,
    compat: Compat = None,
) -> Tensor:
    """How many examples each chosen one stands for.

    Args:
        chosen: (n,) bool, what `craig` kept.
        labels: (n,) integers.
        embeddings: (n, d) what enters the last layer.
        probabilities: (n, classes) of the same network.
        by_class: examples are stood for by their own class only, as when `craig` ran class by class.
        compat: "deepcore" adds 1 to each weight, as that code does.

    Returns:
        (n,) weights, 0 where not chosen; they sum to n.

    Raises:
        InputError: something does not fit, or a class with examples has none that is chosen.
    """
    n = len(check_chosen(chosen, labels, by_class))
    g = last_layer_gradients("craig", n, embeddings, probabilities, labels, compat)
    weights = torch.zeros_like(g.left[:, 0])
    for own in (labels == c for c in labels.unique()) if by_class else [torch.ones_like(chosen)]:
        members, picks = own.nonzero().squeeze(1), (own & chosen).nonzero().squeeze(1)
        blocks = members.split(max(1, ENTRIES // len(picks)))
        nearest = torch.cat([distances(g[rows], g[picks]).argmin(1) for rows in blocks])
        weights[picks] = nearest.bincount(minlength=len(picks)).to(weights)
    return weights + chosen if compat == "deepcore" else weights


@method("selection", paper="Mirzasoleiman, Bilmes & Leskovec 2020, arXiv 1906.01827", weights=craig_weights)
def craig(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    embeddings: Tensor | None = None,
    probabilities: Tensor | None = None,
    greedy: Greedy = "lazy",
    compat: Compat = None,
) -> Tensor:
    """Keep examples such that the gradient of every example is near that of a kept one.

    Args:
        scores: (n,) not used but for n.
        keep: how many examples stay.
        labels: (n,) integers.
        generator: for greedy="stochastic".
        embeddings: (n, d) what enters the last layer.
        probabilities: (n, classes) of the same network.
        greedy: "lazy", "naive" (the same picks, slower) or "stochastic".
        compat: "deepcore": gradients through two softmaxes, as that code takes them.

    Returns:
        (n,) bool; nested for growing `keep`, unless stochastic. `craig_weights` gives the weights.

    Raises:
        InputError: what the rule needs is missing or does not fit.
    """
    check_keep(scores, keep)
    g = last_layer_gradients("craig", len(scores), embeddings, probabilities, labels, compat)
    return mask_of(greedy_order(FacilityLocation(Nearness(g)), keep, greedy, generator=generator), len(scores))


def distances(a: Products, b: Products) -> Tensor:
    """|| G_i - G_j || between two sets: (n, m)."""
    return a.inner(b).mul_(-2).add_(a.squares()[:, None]).add_(b.squares()).clamp_(min=0).sqrt_()


class Nearness(Pairs):
    """s_ij = c - || G_i - G_j ||, with c twice the longest gradient: no distance is larger."""

    def __init__(self, gradients: Products) -> None:
        self.g = gradients
        self.c = 2 * gradients.squares().max().sqrt()
        super().__init__(self.c.expand(len(gradients)))

    def block(self, rows: Tensor) -> Tensor:
        """Compute s (m, n) for indices (m,)."""
        near = distances(self.g[rows], self.g).neg_().add_(self.c)
        near[torch.arange(len(rows), device=rows.device), rows] = self.c  # not the rounding of 0
        return near
