"""Memorisation: what an example gains from being in the training set (Feldman & Zhang 2020, arXiv 2008.03703).

    mem(i)     = Pr_{D with i}[ f(x_i; D) = y_i ] - Pr_{D without i}[ f(x_i; D) = y_i ]
    infl(j, i) = Pr_{D with i}[ f(x_j; D) = y_j ] - Pr_{D without i}[ f(x_j; D) = y_j ]

D is a random share of the data (0.7 in the paper). Both need networks that fit their training set: one that has not
interpolated has memorised nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.examples.evidence import check, real
from surplus.examples.scores.c_score import accuracy_profile, over_shares
from surplus.registry import method
from surplus.stats import Estimate


@method("example score", paper="Feldman & Zhang 2020, arXiv 2008.03703", high="hard")
def memorization(hits: Tensor, trained_on: Tensor, share: Tensor) -> Estimate:
    """Accuracy on an example with it in the training set minus accuracy without.

    Its standard error is sqrt(q1 (1 - q1) / (n1 - 1) + q0 (1 - q0) / (n0 - 1)) for accuracies q over n runs with (1)
    and without (0) the example; the paper's estimator has n for n - 1, which is too small for few runs.

    Args:
        hits: (runs, n) 1 where the finished network is right, on all examples, without augmentation.
        trained_on: (runs, n) whether the run had the example in its training set.
        share: (runs,) share of the data that each run trained on. The paper has one; several are compared within each
            share and averaged, because larger shares are both more accurate and more often "with".

    Returns:
        Estimate of shape (n,) in [-1, 1]; NaN where one side has no run.
    """
    check(hits=hits, trained_on=trained_on, share=share)
    inside = accuracy_profile(hits, trained_on.bool(), share)
    outside = accuracy_profile(hits, ~trained_on.bool(), share)
    runs = torch.as_tensor(inside.repeats) + torch.as_tensor(outside.repeats)
    return over_shares(Estimate(inside.mean - outside.mean, inside.stderr.hypot(outside.stderr), runs))


def influence(hits: Tensor, trained_on: Tensor) -> Tensor:
    """Accuracy on each evaluated example with each training example minus without it.

    Args:
        hits: (runs, m) 1 where the finished network is right, on m evaluated examples.
        trained_on: (runs, n) whether the run had the example in its training set; all runs trained on the same share.

    Returns:
        (m, n) values in [-1, 1]; NaN where no run, or every run, trained on the example. For large m, see
        `influence_blocks`.

    Raises:
        InputError: the two do not describe the same runs.
    """
    return real(hits).T @ _contrast(hits, trained_on)


def influence_blocks(hits: Tensor, trained_on: Tensor, block: int = 1024) -> Iterator[tuple[slice, Tensor]]:
    """`influence`, a block of evaluated examples at a time: 10,000 x 60,000 values would take 2.4 GB at once.

    Args:
        hits: (runs, m) 1 where the finished network is right, on m evaluated examples.
        trained_on: (runs, n) whether the run had the example in its training set; all runs trained on the same share.
        block: evaluated examples at a time.

    Yields:
        Which evaluated examples, and their influences (at most block, n).

    Raises:
        InputError: the two do not describe the same runs, or a block without examples.
    """
    if block < 1:
        raise InputError(f"block is how many evaluated examples are taken at a time, at least 1; got {block}")
    contrast = _contrast(hits, trained_on)
    for start in range(0, hits.shape[1], block):
        rows = slice(start, min(start + block, hits.shape[1]))
        yield rows, real(hits[:, rows]).T @ contrast


def _contrast(hits: Tensor, trained_on: Tensor) -> Tensor:
    """Weights (runs, n) that turn correctness over runs into the difference of its means with and without."""
    if hits.ndim != 2 or trained_on.ndim != 2 or len(hits) != len(trained_on):
        got = f"{tuple(hits.shape)} and {tuple(trained_on.shape)}"
        raise InputError(f"hits must be (runs, m) and trained_on (runs, n), of the same runs; got {got}")
    member = trained_on.to(real(hits[:0]).dtype)
    return member / member.sum(0) - (1 - member) / (1 - member).sum(0)  # 0 / 0 = NaN


class Pairs(NamedTuple):
    """Training examples that matter for evaluated ones; all three have shape (pairs,)."""

    evaluated: Tensor
    trained: Tensor
    influence: Tensor

    @property
    def distinct(self) -> tuple[int, int]:
        """How many different evaluated examples, and how many different training examples, are in the pairs."""
        return len(self.evaluated.unique()), len(self.trained.unique())


def influential_pairs(
    hits: Tensor,
    trained_on: Tensor,
    memorised: Tensor,
    *,
    least_memorization: float = 0.25,
    least_influence: float = 0.15,
    block: int = 1024,
) -> Pairs:
    """Pairs in which a memorised training example carries an evaluated one, found without holding the (m, n) matrix.

    With few runs most pairs are chance, for m n of them are tried: compare with the number that is found when the rows
    of `trained_on` are shuffled.

    Args:
        hits: (runs, m) 1 where the finished network is right, on m evaluated examples.
        trained_on: (runs, n) whether the run had the example in its training set; all runs trained on the same share.
        memorised: (n,) memorisation of the training examples.
        least_memorization: smallest memorisation of a pair's training example; the paper's value.
        least_influence: smallest influence of a pair; the paper's value.
        block: evaluated examples at a time.

    Raises:
        InputError: as for `influence_blocks`.
    """
    candidates = (memorised >= least_memorization).nonzero().squeeze(1)  # NaN is no candidate
    found = []
    for block_rows, values in influence_blocks(hits, trained_on[:, candidates], block):
        rows, columns = (values >= least_influence).nonzero(as_tuple=True)
        found.append((rows + block_rows.start, candidates[columns], values[rows, columns]))
    return Pairs(*(torch.cat(parts) for parts in zip(*found, strict=True)))
