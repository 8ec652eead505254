"""Part 2 of an audit: which examples can go. Scores, accuracy against kept fraction, and the recommended subset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surplus.audit.bench import Bench, accuracy_summary, change, number
from surplus.audit.ensemble import Ensemble
from surplus.audit.settings import ExamplesPlan
from surplus.errors import InputError
from surplus.examples import correlations, hardness, reliability, select
from surplus.registry import find
from surplus.space import generator
from surplus.stats import Estimate, NonInferiority, non_inferior_over_both
from surplus.training import Run

_SCORE = "el2n"
"""What the rules rank by: the published choice for keeping a half."""


_NOISY = 0.02
"""From this estimated share of wrong labels on, the recommendation rests on the coverage rule, which drops them."""


@dataclass
class Kept:
    """The recommended subset."""

    keep: Tensor
    """(n,) boolean."""
    found: bool
    """Whether any subset passed; otherwise everything is kept."""


def scores_table(bench: Bench, ensemble: Ensemble, scores: Mapping[str, Estimate]) -> dict[str, Any]:
    """What is known of each score, and how they agree."""
    evidence = ensemble.evidence()
    rows = []
    for name, estimate in scores.items():
        found = find("example score", name)
        rows.append(
            {
                "name": name,
                "paper": found.paper,
                "high": found.traits.get("high", ""),
                "mean": number(estimate.mean.nanmean()),
                "reliability": _reliability(name, evidence),
                "repeats": int(torch.as_tensor(estimate.repeats).max()),
            }
        )
    order = bench.task.train
    shown = [int(i) for i in scores[_SCORE].mean.nan_to_num(0).argsort(descending=True, stable=True)]
    listed = [{"id": order.ids[i].item(), "label": order.classes[int(order.targets[i])]} for i in shown]
    return {"scores": rows, "correlation": _correlation(scores), "hardest": listed[:24], "easiest": listed[::-1][:24]}


def examples_part(
    bench: Bench, plan: ExamplesPlan, full: Run, scores: Mapping[str, Estimate], wrong: float
) -> tuple[dict[str, Any], Kept]:
    """Train on subsets by every rule and fraction beside random ones, with the seeds of the full runs.

    `wrong` is the estimated share of wrong labels, which the coverage rule leaves out at the hard end.
    """
    hard = hardness(_SCORE, scores[_SCORE].mean).nan_to_num(0)
    labels, steps = (
        bench.task.train.targets,
        full.task.recipe.duration.steps(-(-len(hard) // full.task.recipe.batch_size)),
    )
    rule = "ccs" if wrong > _NOISY else "class-balanced-hardest"
    rules = tuple(dict.fromkeys((*plan.rules, rule, "random")))
    arms = [(r, f) for r in rules for f in plan.fractions]
    subsets = {arm: _subsets(bench, arm, hard, labels, full.seeds, wrong) for arm in arms}
    task = bench.task.with_recipe(duration=f"{steps}it")  # as many steps as on all data
    run = bench.fit(
        "examples", task, seeds=[s for _ in arms for s in full.seeds], subsets=[s for arm in arms for s in subsets[arm]]
    )
    correct = run.evaluate("test").per_example.view(len(arms), len(full.seeds), -1)
    results = dict(zip(arms, correct, strict=True))
    reference = full.evaluate("test").per_example
    curves = [
        {
            "rule": r,
            "score": None if r == "random" else _SCORE,
            "points": [_point(f, results[r, f], bench) for f in plan.fractions],
        }
        for r in rules
    ]
    recommendation, kept = _recommend(bench, plan, rule, results, reference, subsets)
    return {
        "full": accuracy_summary(reference, bench.settings.level),
        "curves": curves,
        "recommendation": recommendation,
    }, kept


def _subsets(
    bench: Bench, arm: tuple[str, float], hard: Tensor, labels: Tensor, seeds: tuple[int, ...], wrong: float
) -> list[Tensor]:
    """One subset per seed: a rule without chance gives every seed the same, random draws one for each."""
    rule, fraction = arm
    keep = max(2, round(fraction * len(hard)))
    options: dict[str, Any] = (
        {"beta": wrong} if rule == "ccs" else {}
    )  # coverage drops as many of the hardest as labels look wrong
    made = []
    for seed in seeds:
        chance = generator(seed if rule == "random" else bench.settings.seed, "subset", rule, fraction)
        made.append(select(rule, hard, keep, labels=labels, generator=chance, **options))
    return made


def _recommend(
    bench: Bench,
    plan: ExamplesPlan,
    rule: str,
    results: Mapping[tuple[str, float], Tensor],
    reference: Tensor,
    subsets: Mapping[tuple[str, float], list[Tensor]],
) -> tuple[dict[str, Any], Kept]:
    """The smallest fraction of one rule that is not inferior to all data.

    The rule is named before any of its accuracies is seen, and its fractions are walked down from the largest until one
    fails; tests in a fixed order need no correction for their number. The other rules are shown, not tested.
    """
    tests: dict[float, NonInferiority] = {}
    for fraction in plan.fractions:
        tests[fraction] = non_inferior_over_both(
            results[rule, fraction], reference, bench.settings.margin, bench.settings.level
        )
        if not tests[fraction].verdict:
            break
    passed = [fraction for fraction, test in tests.items() if test.verdict]
    fraction, n = min(passed) if passed else plan.fractions[0], len(bench.task.train)
    kept = Kept(subsets[rule, fraction][0] if passed else torch.ones(n, dtype=torch.bool), bool(passed))
    told = f"Keep {fraction:.0%} of the examples by {rule}: {change(tests[fraction])}."
    if not passed:
        told = (
            f"No tested subset is shown to match all data: keeping {fraction:.0%} by {rule}, {change(tests[fraction])}."
        )
    return _verdict(tests[fraction], (rule, fraction), kept, told), kept


def _verdict(test: NonInferiority, arm: tuple[str, float], kept: Kept, sentence: str) -> dict[str, Any]:
    return {
        "fraction": arm[1] if kept.found else 1.0,
        "tried": arm[1],
        "rule": arm[0],
        "kept": int(kept.keep.sum()),
        "of": len(kept.keep),
        "difference": number(test.difference),
        "low": number(test.low),
        "margin": test.margin,
        "p_value": number(test.p_value),
        "level": test.level,
        "verdict": kept.found,
        "sentence": sentence,
    }


def _point(fraction: float, correct: Tensor, bench: Bench) -> dict[str, Any]:
    values = [number(v) for v in correct.double().mean(1)]
    return {"fraction": fraction, "accuracy": accuracy_summary(correct, bench.settings.level), "values": values}


def _reliability(name: str, evidence: Mapping[str, object]) -> float | None:
    try:
        return number(reliability(name, evidence, splits=5))
    except InputError:  # rests on no runs, or evidence that only some runs have
        return None


def _correlation(scores: Mapping[str, Estimate]) -> dict[str, Any]:
    names, matrix = correlations(scores)
    return {"names": names, "matrix": [[number(v) for v in row] for row in matrix]}
