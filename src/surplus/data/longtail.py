"""Long-tailed training sets: which examples to keep so that class sizes fall off as asked.

    exponential  n_k = n_max r^(-k / (K - 1))            (Cui et al. 2019, arXiv 1901.05555, section 5.1)
    step         n_k = n_max, then n_max / r for the last half of the classes   (Buda et al. 2018, arXiv 1710.05381)

r is the imbalance ratio, largest class over smallest. Sizes are cut down to whole numbers, as in common code. Leave the
test set balanced.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.registry import method


@method("corruption", paper="Cui et al. 2019, arXiv 1901.05555", on="classes")
def exponential_imbalance(
    labels: Tensor,
    ratio: float,
    classes: int,
    generator: Generator,
    *,
    largest: int | None = None,
    order: Tensor | None = None,
) -> Tensor:
    """Keep examples so that class sizes fall geometrically, from the first class to the last.

    Args:
        labels: (n,) classes.
        ratio: r, largest class over smallest; 1 keeps classes equal.
        classes: K.
        generator: chooses which examples stay.
        largest: n_max; the largest that every class can meet if None.
        order: (K,) classes from the most to the least frequent; 0 .. K-1 if None.

    Returns:
        (n,) bool, the examples to keep.

    Raises:
        InputError: a class lacks the examples, or would lose all of them.
    """
    _check(ratio, classes)
    return _keep(
        labels, ratio ** -(torch.arange(classes, dtype=torch.float64) / (classes - 1)), generator, largest, order
    )


@method("corruption", paper="Buda, Maki & Mazurowski 2018, arXiv 1710.05381", on="classes")
def step_imbalance(
    labels: Tensor,
    ratio: float,
    classes: int,
    generator: Generator,
    *,
    largest: int | None = None,
    order: Tensor | None = None,
) -> Tensor:
    """Keep n_max / ratio examples of the last K // 2 classes, n_max of the others; as `exponential_imbalance`."""
    _check(ratio, classes)
    rare = torch.arange(classes) >= classes - classes // 2
    return _keep(labels, torch.where(rare, 1 / ratio, 1.0).double(), generator, largest, order)


def keep_counts(labels: Tensor, counts: Tensor, generator: Generator) -> Tensor:
    """Choose exactly counts[k] examples of each class k at random; (n,) bool."""
    keep = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    for k, count in enumerate(counts.tolist()):
        members = (labels == k).nonzero().squeeze(1)
        if len(members) < count:
            raise InputError(
                f"{count} examples of class {k} were asked for, and there are {len(members)}; lower the largest class"
            )
        chosen = torch.randperm(len(members), generator=generator, device=generator.device)[:count].to(labels.device)
        keep[members[chosen]] = True
    return keep


def _keep(labels: Tensor, profile: Tensor, generator: Generator, largest: int | None, order: Tensor | None) -> Tensor:
    """`profile` (K,): class sizes as shares of n_max, from the most frequent class to the least."""
    classes = len(profile)
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(
            f"with classes={classes} labels run from 0 to {classes - 1}; got {labels.min()} to {labels.max()}"
        )
    order = torch.arange(classes) if order is None else order.cpu()
    if not torch.equal(order.sort().values, torch.arange(classes)):
        raise InputError(f"order lists each of the {classes} classes once, most frequent first; got {order.tolist()}")
    share = torch.empty_like(profile).index_copy_(0, order, profile)
    here = labels.cpu().bincount(minlength=classes)
    largest = int((here / share).min() + 1e-6) if largest is None else largest
    counts = (largest * share + 1e-6).long()  # the margin keeps 5000 * 0.01 at 50
    if (counts < 1).any():
        gone = (counts < 1).nonzero().squeeze(1).tolist()
        raise InputError(
            f"with {largest} examples in the largest class, classes {gone} would have none; "
            "lower the ratio or raise the largest class"
        )
    return keep_counts(labels, counts, generator)


def _check(ratio: float, classes: int) -> None:
    if not 1 <= ratio < float("inf"):
        raise InputError(f"ratio is the size of the largest class over that of the smallest, at least 1; got {ratio}")
    if classes < 2:
        raise InputError(f"imbalance is between classes: there must be at least 2; got {classes}")
