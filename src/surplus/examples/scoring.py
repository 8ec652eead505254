"""Every registered example score from whatever evidence is at hand.

A score names what it needs by its arguments, out of the vocabulary in `surplus.examples.evidence`; a score of your own
joins by registering with `@method("example score", high=...)` and using the same names.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.examples.evidence import EVIDENCE
from surplus.registry import find, methods
from surplus.space import generator
from surplus.stats import Estimate, rank_correlation, split_half_reliability


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
    check_served(found.name, evidence)
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
    return {m.name: score(m.name, evidence) for m in table if not missing(m.name, evidence)}


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
    runs, chance = runs_of(name, evidence), generator(seed, "reliability", name)
    values = []
    for _ in range(splits if runs > 1 else 0):
        order = torch.randperm(runs, generator=chance)
        halves = order[: runs // 2], order[runs // 2 : runs // 2 * 2]
        both = torch.stack([score(name, of_runs(name, evidence, rows), **options).mean for rows in halves])
        values.append(split_half_reliability(both, splits=1))
    return sum(values) / len(values) if values else float("nan")


def runs_of(name: str, evidence: Mapping[str, object]) -> int:
    """How many independent runs a score rests on.

    Raises:
        InputError: on none.
    """
    counts = [len(v) for v in _by_run(name, evidence).values() if isinstance(v, Tensor)]
    if not counts:
        raise InputError(f"the score {name!r} rests on no independent runs here, so it cannot be split into halves")
    return counts[0]


def of_runs(name: str, evidence: Mapping[str, object], rows: Tensor) -> dict[str, object]:
    """The same evidence for a score, of some of its runs."""
    return {**evidence, **{k: _of_runs(v, rows) for k, v in _by_run(name, evidence).items()}}


def _by_run(name: str, evidence: Mapping[str, object]) -> dict[str, object]:
    asked = set(arguments(name))
    return {k: v for k, v in evidence.items() if k in asked and v is not None and _runs_lead(k)}


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


def arguments(name: str, *, required: bool = False) -> list[str]:
    """What a score may ask for, by argument name; with `required`, what it cannot do without."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(find("example score", name).fn).parameters.values()
    return [p.name for p in parameters if p.kind in named and (not required or p.default is p.empty)]


def takes(name: str, setting: str) -> bool:
    """Whether a score has a setting of this name."""
    return setting in inspect.signature(find("example score", name).fn).parameters


def check_served(name: str, evidence: Mapping[str, object]) -> None:
    """Refuse evidence that lacks what the score cannot do without.

    Raises:
        InputError: says what is missing, and what provides it.
    """
    lacking = missing(name, evidence)
    if lacking:
        needs = "; ".join(f"{m} [{EVIDENCE[m]}]" if m in EVIDENCE else m for m in lacking)
        raise InputError(f"the score {name!r} needs evidence that was not given: {needs}")


def correlations(scores: Mapping[str, Estimate], most: int = 20_000) -> tuple[list[str], Tensor]:
    """Spearman's rank correlations of scores, each turned so that high = hard.

    Args:
        scores: estimates of shape (n,) by the scores' names; an example that one of two lacks is left out of that pair.
        most: with more examples, every so many-th is compared.

    Returns:
        The names, and the matrix (scores, scores) in double precision; NaN where a score never varies.
    """
    turned = {name: hardness(name, e.mean)[:: max(1, len(e.mean) // most)] for name, e in scores.items()}
    return list(turned), torch.tensor([[_spearman(a, b) for b in turned.values()] for a in turned.values()]).double()


def _spearman(a: Tensor, b: Tensor) -> float:
    both = a.isfinite() & b.isfinite()
    return rank_correlation(a[both], b[both]).value if int(both.sum()) > 2 else float("nan")


def missing(name: str, evidence: Mapping[str, object]) -> list[str]:
    """Arguments without a default for which the evidence has nothing."""
    return [a for a in arguments(name, required=True) if evidence.get(a) is None]
