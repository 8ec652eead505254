"""Selection rules: which `keep` of n examples stay. Here the look-up, the checks, and the rules that read one score.

Every rule is `rule(scores, keep, *, labels=None, generator=None, ...)` and returns a boolean (n,) with exactly `keep`
entries set. High scores mean hard (`surplus.examples.hardness` turns a score that way); ties go to the lowest index.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from surplus.errors import InputError, unknown
from surplus.registry import find, method

Rule = Callable[..., Tensor]

Compat = Literal["deepcore"] | None
"""None: a method as it was published; "deepcore": as DeepCore's code has it, to compare with its numbers."""


def select(
    rule: str,
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    embeddings: Tensor | None = None,
    probabilities: Tensor | None = None,
    generator: Generator | None = None,
    by_class: bool = False,
    **options: Any,
) -> Tensor:
    """Apply a registered rule; one call for all of them. A rule is handed what it asks for by argument name.

    Args:
        rule: its name ("hardest", "k-center").
        scores: (n,) high = hard. Rules that ignore scores take n from it.
        keep: how many examples stay, 1 to n.
        labels: (n,) integers, for the rules that look at classes.
        embeddings: (n, ...) for the rules that look at positions.
        probabilities: (n, classes), or (runs, n, classes) to be averaged, for the rules that look at predictions.
        generator: for the rules that draw.
        by_class: apply the rule inside each class, with budgets in proportion to the classes.
        options: the rule's own settings, and whatever else it asks for (`validation`).

    Returns:
        (n,) bool, exactly `keep` of them True.

    Raises:
        InputError: no such rule or setting, or what the rule needs is missing.
    """
    found = find("selection", rule)
    accepted = inspect.signature(found.fn).parameters
    surplus = [option for option in options if option not in accepted]
    if surplus:
        raise InputError(f"the rule {found.name!r} has no setting {surplus[0]!r}; it takes {', '.join(accepted)}")
    if probabilities is not None and probabilities.ndim == 3:
        probabilities = probabilities.mean(0)
    given = {"labels": labels, "embeddings": embeddings, "probabilities": probabilities, "generator": generator}
    given = {name: value for name, value in (given | options).items() if name in accepted}
    needed = [p.name for p in list(accepted.values())[2:] if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    missing = [name for name in needed if given.get(name) is None]
    if missing:
        raise InputError(f"the rule {found.name!r} needs more: pass {', '.join(name + '=' for name in missing)}")
    if by_class:
        from surplus.examples.selections.balanced import within_classes  # which builds on this module

        options = {name: value for name, value in given.items() if name != "labels"}
        return within_classes(found.fn, scores, keep, labels, **options)
    chosen: Tensor = found.fn(scores, keep, **given)
    return chosen


@method("selection", paper="Paul, Ganguli & Dziugaite 2021, arXiv 2107.07075")
def hardest(scores: Tensor, keep: int, *, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
    """Keep the highest scores."""
    check_selection(scores, keep)
    return mask_of(hardest_first(scores)[:keep], len(scores))


@method("selection")
def easiest(scores: Tensor, keep: int, *, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
    """Keep the lowest scores."""
    check_selection(scores, keep)
    return mask_of(scores.argsort(stable=True)[:keep], len(scores))


@method("selection", name="random")
def random_subset(
    scores: Tensor, keep: int, *, labels: Tensor | None = None, generator: Generator | None = None
) -> Tensor:
    """Keep a uniform sample, blind to the scores; the same generator seed gives nested samples for growing `keep`."""
    check_keep(scores, keep)
    return mask_of(shuffled(len(scores), generator, scores.device)[:keep], len(scores))


@method("selection", paper="Paul, Ganguli & Dziugaite 2021, arXiv 2107.07075")
def offset_window(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    offset: int | None = None,
    drop: float = 0.05,
) -> Tensor:
    """Keep the hardest after leaving out the very hardest, which are often mislabelled.

    Args:
        scores: (n,) high = hard.
        keep: how many examples stay.
        labels: not used.
        generator: not used.
        offset: the paper's setting: how many of the easiest lie below the window, 0 to n - keep; replaces `drop`.
        drop: share of all examples left out at the hard end (about the noise rate), as far as `keep` leaves room.

    Returns:
        (n,) bool.

    Raises:
        InputError: the window does not lie within the examples.
    """
    check_selection(scores, keep)
    check_share("drop", drop)
    room = len(scores) - keep
    if offset is not None and not 0 <= offset <= room:
        raise InputError(f"keeping {keep} of {len(scores)} leaves room for an offset of 0 to {room}; got {offset}")
    above = min(room, round(drop * len(scores))) if offset is None else room - offset
    return mask_of(hardest_first(scores)[above : above + keep], len(scores))


def hardest_first(scores: Tensor) -> Tensor:
    """Indices by falling score; equal scores by rising index."""
    return scores.argsort(descending=True, stable=True)


def mask_of(indices: Tensor, n: int) -> Tensor:
    """(k,) indices -> (n,) bool."""
    return torch.zeros(n, dtype=torch.bool, device=indices.device).index_fill(0, indices, True)


def shuffled(n: int, generator: Generator | None, device: torch.device) -> Tensor:
    """A random order of n things."""
    if generator is None:
        raise InputError("this rule draws at random; pass generator=surplus.space.generator(seed, 'selection')")
    return torch.randperm(n, generator=generator, device=generator.device).to(device)


def check_keep(scores: Tensor, keep: int) -> None:
    """Refuse scores that are no list, and a count outside 1..n."""
    if scores.ndim != 1:
        raise InputError(f"scores must be one number per example, shape (n,); got {tuple(scores.shape)}")
    if not isinstance(keep, int) or not 1 <= keep <= len(scores):
        raise InputError(f"keep is a whole number of examples from 1 to {len(scores)}; got {keep!r}")


def check_selection(scores: Tensor, keep: int) -> None:
    """As `check_keep`, and refuse scores that cannot be ordered."""
    check_keep(scores, keep)
    bad = scores.isnan().nonzero().squeeze(1).tolist()
    if bad:
        raise InputError(f"{len(bad)} scores are NaN (rows {_some(bad)}); fill them in, or select among the others")


def check_share(name: str, value: float) -> None:
    """Refuse a share outside [0, 1)."""
    if not 0 <= value < 1:
        raise InputError(f"{name} is a share of the examples in [0, 1); got {value}")


def check_labels(labels: Tensor | None, n: int, rule: str) -> Tensor:
    """The labels, or an error that says the rule needs them."""
    if labels is None:
        raise InputError(f"the rule {rule!r} looks at classes; pass labels=, shape ({n},)")
    if labels.shape != (n,):
        raise InputError(f"labels must have shape ({n},), one per score; got {tuple(labels.shape)}")
    return labels


def check_embeddings(embeddings: Tensor | None, n: int, rule: str) -> Tensor:
    """The embeddings as (n, d), or an error that says the rule needs them."""
    if embeddings is None:
        raise InputError(f"the rule {rule!r} looks at positions; pass embeddings=, shape ({n}, d), say features")
    if embeddings.ndim < 2 or len(embeddings) != n or not embeddings.is_floating_point():
        got = f"{embeddings.dtype} {tuple(embeddings.shape)}"
        raise InputError(f"embeddings must be floats of shape ({n}, d), one row per score; got {got}")
    if not bool(embeddings.isfinite().all()):
        raise InputError("embeddings must be finite; some are NaN or infinite")
    return embeddings.flatten(1)


def check_probabilities(probabilities: Tensor | None, n: int, rule: str) -> Tensor:
    """The probabilities as (n, classes), or an error that says the rule needs them."""
    if probabilities is None:
        raise InputError(f"the rule {rule!r} looks at predictions; pass probabilities=, shape ({n}, classes)")
    p = probabilities.mean(0) if probabilities.ndim == 3 else probabilities
    if p.ndim != 2 or len(p) != n or not p.is_floating_point():
        got = f"{probabilities.dtype} {tuple(probabilities.shape)}"
        raise InputError(f"probabilities must be floats of shape ({n}, classes) or (runs, {n}, classes); got {got}")
    if not bool(((p >= 0) & (p <= 1 + 1e-3)).all()) or not bool(((p.sum(1) - 1).abs() < 1e-2).all()):
        raise InputError("probabilities must be from 0 to 1 and sum to 1 in every row; take the softmax of the outputs")
    return p


def check_compat(compat: Compat) -> None:
    """Refuse the name of a code that is not reproduced."""
    if compat not in (None, "deepcore"):
        raise unknown("compat setting", compat, ["deepcore"])


def _some(rows: list[int]) -> str:
    """The first five rows, for a message."""
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
