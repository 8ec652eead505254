"""Learning speed: how early training gets an example right (Jiang, Zhang, Talwar & Mozer 2021, arXiv 2002.03206).

    speed_T(x, y) = 1/T sum_{t <= T} q_t(x, y)        q: probability of the label, correctness, or loss at epoch t

One ordinary run (better a few) stands in for the thousands behind a C-score: regular examples are learnt first.
"""

from __future__ import annotations

from torch import Tensor

from surplus.errors import InputError
from surplus.examples.evidence import check
from surplus.examples.scores.forgetting import forgetting
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


def speed_proxies(logits: Tensor, labels: Tensor) -> dict[str, Estimate]:
    """All the paper's proxies from outputs on all examples at the end of every epoch, turned so that high = regular.

    Args:
        logits: (runs, epochs, n, classes), in evaluation mode and without augmentation.
        labels: (n,) integers.

    Returns:
        Estimates of shape (n,): means over epochs of the probability of the label, accuracy, the largest probability,
        minus the entropy of the prediction and minus the loss; and minus the forgetting count, an example never learnt
        last.

    Raises:
        InputError: logits of another shape.
    """
    check(labels=labels)
    if logits.ndim != 4 or logits.shape[2] != len(labels):
        raise InputError(
            f"logits are (runs, epochs, n, classes) for n = {len(labels)}, as many labels; got {tuple(logits.shape)}"
        )
    log_p = logits.log_softmax(-1)
    p, own = log_p.exp(), log_p.gather(-1, labels.expand(*log_p.shape[:2], -1)[..., None]).squeeze(-1)
    correct = (logits.argmax(-1) == labels).to(p)  # (runs, epochs, n)
    quantities = {
        "label probability": own.exp(),
        "accuracy": correct,
        "largest probability": p.amax(-1),
        "entropy": (p * log_p).nan_to_num(0.0).sum(-1),  # 0 log 0 = 0
        "loss": own,
    }
    lost = forgetting(correct)
    return {name: cumulative_mean(values, None) for name, values in quantities.items()} | {
        "forgetting": Estimate(-lost.mean, lost.stderr, lost.repeats)
    }
