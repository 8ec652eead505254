"""Last-layer gradients of all examples, kept as the two factors they are products of.

    G_i = (p_i - y_i) outer [h_i, 1]        <G_i, G_j> = <e_i, e_j> (1 + <h_i, h_j>)        e_i = p_i - y_i

h enters the last layer, p leaves the softmax, y is the one-hot label. A gradient has classes x (d + 1) numbers, so the
table of all of them would be that many times larger than the features; every quantity here comes from the factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from surplus.errors import InputError
from surplus.examples.selections.base import (
    Compat,
    check_compat,
    check_embeddings,
    check_labels,
    check_probabilities,
)


class Validation(NamedTuple):
    """Held-out examples, seen by the same network: what they are matched on or improved for."""

    embeddings: Tensor
    """(m, d)"""
    probabilities: Tensor
    """(m, classes)"""
    labels: Tensor
    """(m,) integers"""

    def of_class(self, c: Tensor) -> Validation:
        """The examples of one class."""
        own = self.labels == c.to(self.labels.device)
        return Validation(*(part[own] for part in self))


@dataclass(frozen=True)
class Products:
    """n matrices, each the outer product of a row of `left` (n, a) and a row of `right` (n, b)."""

    left: Tensor
    right: Tensor

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, rows: Tensor | slice) -> Products:
        return Products(self.left[rows], self.right[rows])

    def inner(self, other: Products) -> Tensor:
        """Inner products with all of another set: (n, m)."""
        right = self.right @ other.right.T
        if self.left.shape[1] == 1:
            return right.mul_(other.left[:, 0]).mul_(self.left)
        return right.mul_(self.left @ other.left.T)

    def squares(self) -> Tensor:
        """Squared lengths (n,)."""
        return self.left.square().sum(1) * self.right.square().sum(1)

    def sum(self, weights: Tensor | None = None) -> Tensor:
        """The (weighted) sum of the matrices, (a, b)."""
        return (self.left if weights is None else self.left * weights[:, None]).T @ self.right

    def onto(self, matrix: Tensor) -> Tensor:
        """Inner products with one matrix (a, b): (n,)."""
        return ((self.left @ matrix) * self.right).sum(1)

    def normalised(self) -> Products:
        """The same directions at length 1; what has no length stays 0."""
        length = self.squares().sqrt()[:, None]
        return Products(torch.where(length > 0, self.left / length, 0), self.right)


def last_layer_gradients(
    rule: str,
    n: int,
    embeddings: Tensor | None,
    probabilities: Tensor | None,
    labels: Tensor | None,
    compat: Compat = None,
) -> Products:
    """The gradients of the cross-entropy over the last linear layer, weights and bias.

    Args:
        rule: who asks, for messages.
        n: number of examples.
        embeddings: (n, d) what enters the last layer.
        probabilities: (n, classes) what its softmax gives, or (runs, n, classes).
        labels: (n,) integers.
        compat: "deepcore" takes the softmax twice, as that code does.

    Raises:
        InputError: something is missing or does not fit.
    """
    h = check_embeddings(embeddings, n, rule)
    p = check_probabilities(probabilities, n, rule).to(h.dtype)
    return Products(errors(p, check_labels(labels, n, rule), compat), with_one(h))


def directions(embeddings: Tensor) -> Products:
    """Embeddings (n, d) in place of gradients."""
    return Products(torch.ones_like(embeddings[:, :1]), embeddings)


def with_one(features: Tensor) -> Tensor:
    """(n, d) -> (n, d + 1): the last column meets the bias."""
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)


def errors(probabilities: Tensor, labels: Tensor, compat: Compat = None) -> Tensor:
    """The gradients p - y with respect to the logits, (n, classes)."""
    check_compat(compat)
    if int(labels.max()) >= probabilities.shape[1] or int(labels.min()) < 0:
        raise InputError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but probabilities have "
            f"{probabilities.shape[1]} classes: labels must be their column numbers"
        )
    y = one_hot(labels, probabilities.shape[1]).to(probabilities)
    if compat is None:
        return probabilities - y
    outer = probabilities.softmax(1) - y  # of cross_entropy(softmax(z), y) with respect to softmax(z)
    return probabilities * (outer - (probabilities * outer).sum(1, keepdim=True))


def check_chosen(chosen: Tensor, labels: Tensor, by_class: bool) -> Tensor:
    """The kept examples (n,) bool, or an error: nothing is kept, or nothing of a class that must stand for itself."""
    if chosen.ndim != 1 or chosen.dtype != torch.bool or not bool(chosen.any()):
        given = f"{chosen.dtype} {tuple(chosen.shape)}"
        raise InputError(f"chosen is what a rule kept, (n,) bool and not empty; got {given}")
    check_labels(labels, len(chosen), "weights of a subset")
    lost = sorted(set(labels.tolist()) - set(labels[chosen].tolist())) if by_class else []
    if lost:
        raise InputError(f"nothing is chosen of class {lost[0]}, so nothing stands for it; pass by_class=False")
    return chosen
