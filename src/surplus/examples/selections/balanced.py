"""Class-balanced selection: the same share of every class, by a rule applied inside each (Guo, Zhao & Bai 2022).

    budget_c = keep * n_c / n

The budgets are rounded by largest remainder, so that they sum to keep. arXiv 2204.08499, section 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.examples.selections.base import Rule, check_keep, check_labels, check_selection, hardest, random_subset
from surplus.registry import method

PAPER = "Guo, Zhao & Bai 2022, arXiv 2204.08499"
PER_EXAMPLE = ("embeddings", "probabilities")


@method("selection", paper=PAPER)
def class_balanced_hardest(
    scores: Tensor, keep: int, *, labels: Tensor | None = None, generator: Generator | None = None
) -> Tensor:
    """Keep the highest scores of each class, the same share of each."""
    check_selection(scores, keep)
    return within_classes(hardest, scores, keep, check_labels(labels, len(scores), "class-balanced-hardest"))


@method("selection", paper=PAPER)
def class_balanced_random(
    scores: Tensor, keep: int, *, labels: Tensor | None = None, generator: Generator | None = None
) -> Tensor:
    """Keep a uniform sample of each class, the same share of each."""
    check_keep(scores, keep)
    labels = check_labels(labels, len(scores), "class-balanced-random")
    return within_classes(random_subset, scores, keep, labels, generator=generator)


def within_classes(rule: Rule, scores: Tensor, keep: int, labels: Tensor | None, **options: Any) -> Tensor:
    """Apply any selection rule inside each class, with budgets in proportion to the classes.

    Args:
        rule: a selection rule (`herding`, say).
        scores: (n,) high = hard.
        keep: how many examples stay in all.
        labels: (n,) integers.
        options: passed on to the rule: of `embeddings` and `probabilities` the rows of the class, of `validation` the
            examples of the class, the rest as it is.

    Returns:
        (n,) bool, exactly `keep` of them True.

    Raises:
        InputError: labels are missing or do not fit.
    """
    check_keep(scores, keep)
    labels = check_labels(labels, len(scores), "any rule within classes")
    for name, rows in ((name, options.get(name)) for name in PER_EXAMPLE):
        if rows is not None and len(rows) != len(scores):
            raise InputError(f"{name} must have {len(scores)} rows, one row per score; got {tuple(rows.shape)}")
    chosen = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    classes, own, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    members = own.argsort(stable=True).split(sizes.tolist())  # one sort, however many classes
    for c, rows, budget in zip(classes, members, largest_remainder(keep, sizes.tolist()), strict=True):
        if budget:
            chosen[rows] = rule(scores[rows], budget, labels=labels[rows], **of_class(options, rows, c))
    return chosen


def of_class(options: dict[str, Any], rows: Tensor, c: Tensor) -> dict[str, Any]:
    """What a rule is given, cut down to one class."""
    per_example = {k: options[k][rows] for k in PER_EXAMPLE if options.get(k) is not None}
    validation = options.get("validation")
    return options | per_example | ({} if validation is None else {"validation": validation.of_class(c)})


def largest_remainder(total: int, sizes: list[int]) -> list[int]:
    """Whole numbers in proportion to `sizes` that sum to `total` (at most sum(sizes), so none exceeds its size)."""
    everything = sum(sizes)
    budgets = [total * size // everything for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda c: -(total * sizes[c] % everything))  # ties: first class
    for c in by_remainder[: total - sum(budgets)]:
        budgets[c] += 1
    return budgets
