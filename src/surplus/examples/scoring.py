"""Every registered example score from whatever evidence is at hand.

A score names what it needs by its arguments, out of the vocabulary in `surplus.examples.evidence`; a score of your own
joins by registering with `@method("example score", high=...)` and using the same names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.examples.evidence import EVIDENCE
from surplus.registry import find, methods
from surplus.space import generator
from surplus.stats import Estimate, split_half_reliability


def score(name: str, evidence: Mapping[str, object], **options: Any) -> Estimate:
    """One registered score.

    Args:
        name: of the score ("el2n").
        evidence: what is known of the examples, by argument name; None counts as absent. More than needed is no harm.
        options: the score's own settings (`epoch=10`).

    Returns:
        Estimate of shape (n,).

    Raises:
        InputError: no such score or setting, or evidence is missing; the message says what, and what provides it.
    """
    found = find("example score", name)
    missing = _missing(found.fn, evidence)
    if missing:
        needs = "; ".join(f"{m} [{EVIDENCE[m]}]" if m in EVIDENCE else m for m in missing)
        raise InputError(f"the score {found.name!r} needs evidence that was not given: {needs}")
    accepted = inspect.signature(found.fn).parameters
    surplus = [option for option in options if option not in accepted]
    if surplus:
        raise InputError(f"the score {found.name!r} has no setting {surplus[0]!r}; it takes {', '.join(accepted)}")
    given = {k: v for k, v in evidence.items() if k in accepted and v is not None}
    estimate: Estimate = found.fn(**{**given, **options})
    return estimate


def score_all(evidence: Mapping[str, object], names: Iterable[str] | None = None) -> dict[str, Estimate]:
    """Every registered score whose required arguments are all in the evidence.

    Args:
        evidence: what is known of the examples, by argument name; None counts as absent.
        names: look at these scores only; all registered ones when None.

    Returns:
        Estimates of shape (n,) by name; empty where the evidence serves no score.
    """
    table = methods("example score") if names is None else [find("example score", name) for name in names]
    return {m.name: score(m.name, evidence) for m in table if not _missing(m.fn, evidence)}


def reliability(name: str, evidence: Mapping[str, object], *, splits: int = 20, seed: int = 0, **options: Any) -> float:
    """How well a score would agree with itself on as many new runs, in [-1, 1].

    The runs are halved at random, the score is taken on either half, and the correlation of the two across examples is
    stepped up to both halves together by the formula of Spearman and Brown; an odd run sits out. The mean over splits.

    Args:
        name: of a score whose evidence has a leading axis of runs.
        evidence: as for `score`.
        splits: how many random halvings; each takes the score twice, so ask for few of a slow one.
        seed: for the halvings.
        options: the score's own settings.

    Returns:
        The reliability; NaN where halves cannot be compared: fewer than two runs, or a score that does not vary.

    Raises:
        InputError: as for `score`, or the score rests on no runs.
    """
    score(name, evidence, **options)  # refuses what is missing or does not fit, before anything is split
    asked = set(inspect.signature(find("example score", name).fn).parameters)
    by_run = {k: v for k, v in evidence.items() if k in asked and v is not None and _runs_lead(k)}
    counts = [len(v) for v in by_run.values() if isinstance(v, Tensor)]
    if not counts:
        raise InputError(f"the score {name!r} rests on no independent runs here, so it cannot be split into halves")
    runs, chance = counts[0], generator(seed, "reliability", name)

    def half(rows: Tensor) -> Tensor:
        return score(name, {**evidence, **{k: _of_runs(v, rows) for k, v in by_run.items()}}, **options).mean

    values = []
    for _ in range(splits if runs > 1 else 0):
        order = torch.randperm(runs, generator=chance)
        halves = torch.stack([half(order[: runs // 2]), half(order[runs // 2 : runs // 2 * 2])])
        values.append(split_half_reliability(halves, splits=1))
    return sum(values) / len(values) if values else float("nan")


def hardness(name: str, scores: Tensor) -> Tensor:
    """A score turned so that high = hard, which is what the selection rules expect."""
    return -scores if find("example score", name).traits.get("high") == "easy" else scores


def _runs_lead(name: str) -> bool:
    """Whether this piece of evidence has one entry per run."""
    return name in EVIDENCE and EVIDENCE[name].axes[:1] == ("runs",)


def _of_runs(value: Any, rows: Tensor) -> Any:
    """The entries of some runs, of a tensor or of each tensor of a mapping."""
    if isinstance(value, Mapping):
        return {name: _of_runs(part, rows) for name, part in value.items()}
    return value[rows.to(value.device)]


def _missing(fn: Callable[..., Any], evidence: Mapping[str, object]) -> list[str]:
    """Arguments without a default for which the evidence has nothing."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = [p for p in inspect.signature(fn).parameters.values() if p.kind in named]
    return [p.name for p in parameters if p.default is p.empty and evidence.get(p.name) is None]
