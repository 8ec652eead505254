"""Objectives: a per-example loss, the metric people read, and what a training record keeps of each example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """What is minimised and what is reported, each (B, ...) outputs and targets -> (B,) per example."""

    name: str
    loss: Callable[[Tensor, Tensor, float], Tensor]
    """(outputs, targets, label smoothing) -> (B,)."""
    metric: Loss
    metric_name: str
    higher_is_better: bool
    record: Callable[[Tensor, Tensor], dict[str, Tensor]]
    """(outputs, targets) -> what the example record keeps, each (B,)."""


def classification_record(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What one visit says of an example: (B, classes), (B,) -> five numbers each (B,).

    margin = z_y - max_{k != y} z_k (negative: another class leads; AUM is its mean over training);
    confidence = softmax(z)_y; error = || softmax(z) - onehot(y) ||_2 (EL2N).
    """
    index = labels.unsqueeze(-1)
    own, top = logits.gather(-1, index).squeeze(-1), logits.amax(-1, keepdim=True)
    e = (logits - top).exp()  # the softmax by hand: for few classes several times faster than torch's
    total = e.sum(-1)
    loss = total.log() + top.squeeze(-1) - own
    p_own = (-loss).exp()
    others = e.scatter(-1, index, 0.0)  # so that the error of a sure answer is not a difference of two large numbers
    squared = others.square().sum(-1) + others.sum(-1).square()  # (1 - p_y)^2 is the square of the others' sum
    margin = own - logits.scatter(-1, index, -torch.inf).amax(-1)
    return {
        "loss": loss,
        "correct": (margin >= 0).to(logits.dtype),
        "margin": margin,
        "confidence": p_own,
        "error": squared.sqrt() / total,
    }


def _squared_error(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    outputs = outputs.reshape(len(outputs), -1)
    return (outputs - targets.reshape(len(outputs), -1)).square().mean(1)


def _token_loss(logits: Tensor, tokens: Tensor, smoothing: float = 0.0) -> Tensor:
    """(B, T, vocabulary), (B, T) -> mean cross-entropy per sequence (B,)."""
    return F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none", label_smoothing=smoothing).mean(1)


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


CLASSIFICATION = Objective(
    "classification",
    _cross_entropy,
    lambda z, y: (z.argmax(-1) == y).float(),
    "accuracy",
    True,
    classification_record,
)
REGRESSION = Objective(
    "regression",
    _squared_error,
    _squared_error,
    "mean squared error",
    False,
    lambda z, y: {"loss": _squared_error(z, y), "error": _squared_error(z, y).sqrt()},
)
LANGUAGE = Objective(
    "language modelling",
    _token_loss,
    lambda z, y: (z.argmax(-1) == y).float().mean(1),
    "token accuracy",
    True,
    lambda z, y: {"loss": _token_loss(z, y), "correct": (z.argmax(-1) == y).float().mean(1)},
)


def custom(loss: Loss, metric: Loss | None = None, *, higher_is_better: bool = False) -> Objective:
    """An objective from a user's own functions, each (outputs, targets) -> (B,), one number per example."""

    def smoothed(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return loss(outputs, targets)

    return Objective(
        getattr(loss, "__name__", "custom"),
        smoothed,
        metric or loss,
        getattr(metric or loss, "__name__", "metric"),
        higher_is_better if metric else False,
        lambda z, y: {"loss": loss(z, y)},
    )
