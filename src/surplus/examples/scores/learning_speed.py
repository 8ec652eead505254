"""Learning speed: how early training gets an example right (Jiang, Zhang, Talwar & Mozer 2021, arXiv 2002.03206).

    speed_T(x, y) = 1/T sum_{t <= T} q_t(x, y)        q: probability of the label, correctness, or loss at epoch t

One ordinary run (better a few) stands in for the thousands behind a C-score: regular examples are learnt first.
"""

from __future__ import annotations

from torch import Tensor

from surplus.errors import InputError
from surplus.examples.evidence import check
from surplus.registry import method
from surplus.stats import Estimate

PAPER = "Jiang, Zhang, Talwar & Mozer 2021, arXiv 2002.03206"


@method("example score", paper=PAPER, high="easy")
def cumulative_confidence(confidence: Tensor, *, epochs: int | None = None) -> Estimate:
    """Mean probability of the label over the epochs, averaged over runs; the proxy nearest to the C-score.

    Args:
        confidence: (runs, epochs, n) softmax probability of the label; NaN where an epoch did not visit the example.
        epochs: take the first so many only; all when None.

    Returns:
        Estimate of shape (n,).

    Raises:
        InputError: the record has fewer epochs.
    """
    check(confidence=confidence)
    return cumulative_mean(confidence, epochs)


@method("example score", paper=PAPER, high="easy")
def cumulative_accuracy(correct: Tensor, *, epochs: int | None = None) -> Estimate:
    """Share of the epochs in which the answer was right, averaged over runs.

    Args:
        correct: (runs, epochs, n) 1 right, 0 wrong, NaN where an epoch did not visit the example.
        epochs: take the first so many only; all when None.

    Returns:
        Estimate of shape (n,).

    Raises:
        InputError: the record has fewer epochs.
    """
    check(correct=correct)
    return cumulative_mean(correct, epochs)


@method("example score", paper=PAPER, high="hard")
def cumulative_loss(loss: Tensor, *, epochs: int | None = None) -> Estimate:
    """Mean loss over the epochs, averaged over runs.

    Args:
        loss: (runs, epochs, n) training loss; NaN where an epoch did not visit the example.
        epochs: take the first so many only; all when None.

    Returns:
        Estimate of shape (n,).

    Raises:
        InputError: the record has fewer epochs.
    """
    check(loss=loss)
    return cumulative_mean(loss, epochs)


def cumulative_mean(record: Tensor, epochs: int | None = None) -> Estimate:
    """Mean over the first epochs, then over runs: (runs, epochs, n) -> (n,). Epochs without a visit do not count."""
    if epochs is not None and not 1 <= epochs <= record.shape[1]:
        raise InputError(f"the record holds {record.shape[1]} epochs; the mean of the first {epochs} was asked for")
    return Estimate.over(record[:, :epochs].nanmean(1))
