"""Selection rules: which `keep` of n examples stay. Here the look-up, the checks, and the rules that read one score.

Every rule is `rule(scores, keep, *, labels=None, generator=None, ...)` and returns a boolean (n,) with exactly `keep`
entries set. High scores mean hard (`surplus.examples.hardness` turns a score that way); ties go to the lowest index.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.registry import find, method

Rule = Callable[..., Tensor]


def select(
    rule: str,
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    embeddings: Tensor | None = None,
    generator: Generator | None = None,
    **options: Any,
) -> Tensor:
    """Apply a registered rule; one call for all of them.

    Args:
        rule: its name ("hardest", "k-center").
        scores: (n,) high = hard. Rules that ignore scores take n from it.
        keep: how many examples stay, 1 to n.
        labels: (n,) integers, for the rules that look at classes.
        embeddings: (n, ...) for the rules that look at positions.
        generator: for the rules that draw.
        options: the rule's own settings.

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
    if "embeddings" in accepted:
        options["embeddings"] = embeddings
    chosen: Tensor = found.fn(scores, keep, labels=labels, generator=generator, **options)
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


def _some(rows: list[int]) -> str:
    """The first five rows, for a message."""
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
