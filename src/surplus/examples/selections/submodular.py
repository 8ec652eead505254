"""Subsets that stand for all: facility location, graph cut and log-determinant, maximised greedily.

    facility location   f(S) = sum_i max_{j in S} s_ij                                    every example has a like in S
    graph cut           f(S) = lam sum_i sum_{j in S} s_ij - sum_{i, j in S} s_ij         typical, and unlike each other
    log-determinant     f(S) = log det s_SS                                               unlike each other
    s_ij = 1/2 + 1/2 cos(G_i, G_j)

G_i is the last-layer gradient (see `gradients`), or the embedding where no probabilities are given. No table of all
pairs is made: similarities come in blocks from the factors. As in Iyer & Bilmes 2013 (arXiv 1311.2106), Kulesza &
Taskar 2012 (arXiv 1207.6083); in DeepCore by Guo, Zhao & Bai 2022 (arXiv 2204.08499).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.examples.selections.base import Compat, check_compat, check_embeddings, check_keep, mask_of
from surplus.examples.selections.gradients import Products, directions, last_layer_gradients
from surplus.examples.selections.greedy import Greedy, greedy_order
from surplus.registry import method

PAPER = "Guo, Zhao & Bai 2022, arXiv 2204.08499"
ENTRIES = 2**18  # of a block of similarities: it stays near the processor
STORED = 2**27  # of all similarities, if they are to be kept: half a gigabyte


@method("selection", paper="Guo, Zhao & Bai 2022, arXiv 2204.08499; Mirzasoleiman et al. 2020, arXiv 1906.01827")
def facility_location(
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
    """Keep examples such that every example has one of its like among them.

    Args:
        scores: (n,) not used but for n.
        keep: how many examples stay.
        labels: (n,) integers, for gradients; `select(..., by_class=True)` works class by class.
        generator: for greedy="stochastic".
        embeddings: (n, d) what enters the last layer.
        probabilities: (n, classes) of the same network; None compares embeddings instead of gradients.
        greedy: "lazy", "naive" (the same picks, slower) or "stochastic".
        compat: "deepcore": gradients through two softmaxes, as that code takes them.

    Returns:
        (n,) bool; nested for growing `keep`, unless stochastic.

    Raises:
        InputError: what the rule needs is missing or does not fit.
    """
    s = _similarity("facility-location", scores, keep, labels, embeddings, probabilities, compat)
    return mask_of(greedy_order(FacilityLocation(s), keep, greedy, generator=generator), len(scores))


@method("selection", paper=PAPER)
def graph_cut(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    embeddings: Tensor | None = None,
    probabilities: Tensor | None = None,
    greedy: Greedy = "lazy",
    lam: float = 1.0,
    compat: Compat = None,
) -> Tensor:
    """Keep examples that are like all the others and unlike each other.

    Args:
        scores: (n,) not used but for n.
        keep: how many examples stay.
        labels: (n,) integers, for gradients; `select(..., by_class=True)` works class by class.
        generator: for greedy="stochastic".
        embeddings: (n, d) what enters the last layer.
        probabilities: (n, classes) of the same network; None compares embeddings instead of gradients.
        greedy: "lazy", "naive" (the same picks, slower) or "stochastic".
        lam: weight of the likeness to all; from 2 on the function never falls, whatever is added.
        compat: "deepcore": gradients through two softmaxes, and no s_xx in the gain.

    Returns:
        (n,) bool; nested for growing `keep`, unless stochastic.

    Raises:
        InputError: what the rule needs is missing or does not fit, or lam is negative.
    """
    if not lam >= 0:
        raise InputError(f"lam weighs the likeness to all examples, 0 or more; got {lam}")
    s = _similarity("graph-cut", scores, keep, labels, embeddings, probabilities, compat)
    f = GraphCut(s, lam, with_self=compat is None)
    return mask_of(greedy_order(f, keep, greedy, generator=generator), len(scores))


@method("selection", paper=PAPER)
def log_determinant(
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
    """Keep examples whose similarities span the largest volume: each unlike all those before it.

    Args:
        scores: (n,) not used but for n.
        keep: how many examples stay.
        labels: (n,) integers, for gradients; `select(..., by_class=True)` works class by class.
        generator: for greedy="stochastic".
        embeddings: (n, d) what enters the last layer.
        probabilities: (n, classes) of the same network; None compares embeddings instead of gradients.
        greedy: "lazy", "naive" (the same picks) or "stochastic".
        compat: "deepcore": gradients through two softmaxes, and the gain with its sign turned: each pick the best
            explained by those before.

    Returns:
        (n,) bool; nested for growing `keep`, unless stochastic.

    Raises:
        InputError: what the rule needs is missing or does not fit.
    """
    s = _similarity("log-determinant", scores, keep, labels, embeddings, probabilities, compat)
    f = LogDeterminant(s, keep, turned=compat is not None)
    greedy = "naive" if compat is not None and greedy == "lazy" else greedy  # turned gains grow: nothing is a bound
    return mask_of(greedy_order(f, keep, greedy, generator=generator), len(scores))


class Pairs(ABC):
    """A number s_ij >= 0 for every two of n examples, symmetric and largest where i = j, a few columns at a time."""

    _table: Tensor | None = None

    def __init__(self, diagonal: Tensor) -> None:
        self.diagonal = diagonal  # (n,)

    def __len__(self) -> int:
        return len(self.diagonal)

    @abstractmethod
    def block(self, rows: Tensor) -> Tensor:
        """Compute s (m, n) for indices (m,)."""

    def columns(self, rows: Tensor) -> Tensor:
        """(m,) indices -> s (m, n), the caller's to change."""
        if len(rows) > 1 and self._table is None and len(self) ** 2 <= STORED:
            self._table = self.block(torch.arange(len(self), device=rows.device))
        return self.block(rows) if self._table is None else self._table[rows]

    def sums(self) -> Tensor:
        """sum_i s_ij (n,)."""
        everything = torch.arange(len(self), device=self.diagonal.device)
        return torch.cat([self.columns(rows).sum(1) for rows in everything.split(max(1, ENTRIES // len(self)))])


class Similarity(Pairs):
    """s_ij = 1/2 + 1/2 cos(G_i, G_j); with an example that has no length the cosine is 0."""

    def __init__(self, gradients: Products) -> None:
        self.unit = gradients.normalised()
        super().__init__(0.5 + 0.5 * self.unit.squares())

    def block(self, rows: Tensor) -> Tensor:
        """Compute s (m, n) for indices (m,)."""
        return self.unit[rows].inner(self.unit).mul_(0.5).add_(0.5)

    def sums(self) -> Tensor:
        """sum_i s_ij (n,), without the pairs."""
        return 0.5 * len(self) + 0.5 * self.unit.onto(self.unit.sum())


class FacilityLocation:
    """f(S) = sum_i max_{j in S} s_ij, and 0 for the empty set."""

    def __init__(self, similarity: Pairs) -> None:
        self.s = similarity
        self.nearest = torch.zeros_like(similarity.diagonal)  # (n,) similarity to the likest pick

    def first_gains(self) -> Tensor:
        """Gains (n,) while nothing is chosen: all similarities count in full."""
        return self.s.sums()

    def gains(self, candidates: Tensor) -> Tensor:
        """sum_i max(0, s_ix - nearest_i), (m,)."""
        blocks = candidates.split(max(1, ENTRIES // len(self.s)))
        return torch.cat([self.s.columns(rows).sub_(self.nearest).clamp_(min=0).sum(1) for rows in blocks])

    def add(self, pick: int) -> None:
        """Choose one example."""
        self.nearest = self.nearest.maximum(self.s.columns(torch.tensor([pick], device=self.nearest.device))[0])


class GraphCut:
    """f(S) = lam sum_i sum_{j in S} s_ij - sum_{i, j in S} s_ij."""

    def __init__(self, similarity: Similarity, lam: float, *, with_self: bool = True) -> None:
        self.s = similarity
        self.now = lam * similarity.sums() - (similarity.diagonal if with_self else 0)

    def first_gains(self) -> Tensor:
        """Gains (n,) while nothing is chosen."""
        return self.now

    def gains(self, candidates: Tensor) -> Tensor:
        """Gains lam sum_i s_ix - 2 sum_{j in S} s_jx - s_xx, (m,)."""
        return self.now[candidates]

    def add(self, pick: int) -> None:
        """Choose one example."""
        self.now = self.now - 2 * self.s.columns(torch.tensor([pick], device=self.now.device))[0]


class LogDeterminant:
    """f(S) = log det s_SS, by one row of its Cholesky factor per pick (Chen, Zhang & Zhou 2018, arXiv 1709.05135).

    The gains are s_xx - s_xS s_SS^-1 s_Sx, whose logarithm f grows by; `turned`, what is subtracted there.
    """

    def __init__(self, similarity: Similarity, keep: int, *, turned: bool = False) -> None:
        self.s, self.turned, self.done = similarity, turned, 0
        self.rest = similarity.diagonal.clone()
        self.factor = self.rest.new_zeros(keep, len(similarity))

    def first_gains(self) -> Tensor:
        """Gains (n,) while nothing is chosen."""
        return torch.zeros_like(self.rest) if self.turned else self.rest

    def gains(self, candidates: Tensor) -> Tensor:
        """Variance of each example that the picks leave unexplained, or explain: (m,)."""
        rest = self.rest[candidates]
        return self.s.diagonal[candidates] - rest if self.turned else rest

    def add(self, pick: int) -> None:
        """Choose one example."""
        before = self.factor[: self.done]
        column = self.s.columns(torch.tensor([pick], device=self.rest.device))[0] - before[:, pick] @ before
        least = 16 * torch.finfo(self.rest.dtype).eps
        if float(self.rest[pick]) > least:  # what the picks span already adds nothing
            row = column / self.rest[pick].sqrt()
            self.factor[self.done] = row
            self.rest = (self.rest - row.square()).clamp(min=0)
            self.rest = torch.where(self.rest > least, self.rest, 0)
        self.done += 1


def _similarity(
    rule: str,
    scores: Tensor,
    keep: int,
    labels: Tensor | None,
    embeddings: Tensor | None,
    probabilities: Tensor | None,
    compat: Compat,
) -> Similarity:
    check_keep(scores, keep)
    check_compat(compat)
    if probabilities is None:
        return Similarity(directions(check_embeddings(embeddings, len(scores), rule)))
    return Similarity(last_layer_gradients(rule, len(scores), embeddings, probabilities, labels, compat))
