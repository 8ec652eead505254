"""EL2N: how far a young network's answer is from the label (Paul, Ganguli & Dziugaite 2021, arXiv 2107.07075).

    el2n_t(x, y) = E_w || softmax f_w(x) - onehot(y) ||_2

w ranges over independent runs stopped after t epochs. 0 = sure and right, sqrt(2) = sure and wrong. For softmax and
cross-entropy it is the length of the loss gradient with respect to the logits.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from surplus.errors import InputError, unknown
from surplus.examples.evidence import check
from surplus.registry import method
from surplus.stats import Estimate


@method("example score", paper="Paul, Ganguli & Dziugaite 2021, arXiv 2107.07075", high="hard")
def el2n(error: Tensor, *, epoch: int | None = None) -> Estimate:
    """Length of the error vector early in training, averaged over runs.

    Args:
        error: (runs, epochs, n) lengths of softmax minus one-hot label; NaN where an epoch did not visit the example.
        epoch: which epoch of the record (1 = the first); each example is measured at its visit in it, by the training
            pass. None: see `early_epoch`. `el2n_from_logits` takes networks stopped there, in evaluation mode.

    Returns:
        Estimate of shape (n,); NaN for an example that no run visited in that epoch.

    Raises:
        InputError: the epoch is not in the record.
    """
    check(error=error)
    epochs = error.shape[1]
    epoch = early_epoch(epochs) if epoch is None else epoch
    if not 1 <= epoch <= epochs:
        raise InputError(f"the record holds epochs 1 to {epochs}; EL2N was asked for at epoch {epoch}")
    return Estimate.over(error[:, epoch - 1])  # the mean of the lengths, not the length of the mean


@method("example score", paper="Paul, Ganguli & Dziugaite 2021, arXiv 2107.07075 (its code)", high="hard")
def error_l1(probabilities: Tensor, labels: Tensor) -> Estimate:
    """Sum of absolute errors of the probabilities, || p - y ||_1 = 2 (1 - p_y), averaged over runs.

    Args:
        probabilities: (runs, n, classes) early in training.
        labels: (n,) integers.

    Returns:
        Estimate of shape (n,).
    """
    return Estimate.over(_errors(probabilities, labels).abs().sum(-1))


@method("example score", paper="Paul, Ganguli & Dziugaite 2021, arXiv 2107.07075 (its code)", high="hard")
def probability_gap(probabilities: Tensor, labels: Tensor, *, over: Literal["largest", "all"] = "largest") -> Estimate:
    """How far other classes are ahead of the label, max_k or sum_k (p_k - p_y) over k != y, averaged over runs.

    Args:
        probabilities: (runs, n, classes) early in training.
        labels: (n,) integers.
        over: "largest" takes the class that is most ahead, "all" the sum over the others.

    Returns:
        Estimate of shape (n,).

    Raises:
        InputError: `over` is none of the two.
    """
    if over not in get_args(Literal["largest", "all"]):
        raise unknown("choice of classes", over, ("largest", "all"))
    check(probabilities=probabilities, labels=labels)
    own = probabilities.gather(2, labels.expand(len(probabilities), -1)[..., None])  # (runs, n, 1)
    others = (probabilities - own).scatter(2, labels.expand(len(probabilities), -1)[..., None], -torch.inf)
    return Estimate.over(others.amax(2) if over == "largest" else (probabilities - own).sum(2))


def _errors(probabilities: Tensor, labels: Tensor) -> Tensor:
    """P - y (runs, n, classes)."""
    check(probabilities=probabilities, labels=labels)
    return probabilities - one_hot(labels, probabilities.shape[-1])


def early_epoch(epochs: int) -> int:
    """A tenth of training, as in the paper (20 of 200), but not before epoch 5: the first few tell less."""
    return min(epochs, max(5, round(0.1 * epochs)))


def el2n_from_logits(logits: Tensor, labels: Tensor) -> Estimate:
    """EL2N of networks at hand, without a training record.

    Args:
        logits: (runs, n, classes), one network per leading index, in evaluation mode and without augmentation.
        labels: (n,) integers.

    Returns:
        Estimate of shape (n,).

    Raises:
        InputError: the shapes do not fit together.
    """
    check(labels=labels)
    if logits.ndim != 3 or logits.shape[1] != len(labels):
        raise InputError(f"logits must be (runs, n = {len(labels)}, classes), as labels are; got {tuple(logits.shape)}")
    error = logits.softmax(-1) - one_hot(labels, logits.shape[-1])
    return Estimate.over(error.norm(dim=-1))
