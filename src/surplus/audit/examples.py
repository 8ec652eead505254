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
from surplus.examples import hardness, reliability, select
from surplus.registry import find
from surplus.space import generator
from surplus.stats import Estimate, NonInferiority, non_inferior_over_both, rank_correlation
from surplus.training import Run

_SCORE = "el2n"
"""What the rules rank by: the published choice for keeping a half."""


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
    arms = [(rule, f) for rule in (*plan.rules, "random") for f in plan.fractions]
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
            "rule": rule,
            "score": None if rule == "random" else _SCORE,
            "points": [_point(f, results[rule, f], bench) for f in plan.fractions],
        }
        for rule in (*plan.rules, "random")
    ]
    recommendation, kept = _recommend(bench, plan, results, reference, subsets)
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
    results: Mapping[tuple[str, float], Tensor],
    reference: Tensor,
    subsets: Mapping[tuple[str, float], list[Tensor]],
) -> tuple[dict[str, Any], Kept]:
    """The smallest fraction that is not inferior to all data, walking down from the largest and stopping where none is.

    The rules share the error of a fraction evenly (Bonferroni), and each fraction is tested only if one rule passed the
    fraction above it.
    """
    margin, rules = bench.settings.margin, (*plan.rules, "random")
    level = 1 - (1 - bench.settings.level) / len(rules)
    best: tuple[str, float] | None = None
    tests: dict[tuple[str, float], NonInferiority] = {}
    for fraction in plan.fractions:
        arms = [(rule, fraction) for rule in rules]
        tests |= {arm: non_inferior_over_both(results[arm], reference, margin, level) for arm in arms}
        passing = [arm for arm in arms if tests[arm].verdict]
        if not passing:
            break
        best = max(passing, key=lambda arm: float(results[arm].mean()))
    arm = best or max(((rule, plan.fractions[0]) for rule in rules), key=lambda arm: tests[arm].low)
    n = len(bench.task.train)
    kept = Kept(subsets[arm][0] if best else torch.ones(n, dtype=torch.bool), best is not None)
    told = f"Keep {arm[1]:.0%} of the examples by {arm[0]}: {change(tests[arm])}."
    if best is None:
        told = f"No tested subset is shown to match all data: keeping {arm[1]:.0%} by {arm[0]}, {change(tests[arm])}."
    return _verdict(tests[arm], arm, kept, told), kept


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
    """Spearman's rank correlations, every score turned so that high = hard."""
    names = list(scores)
    turned = {k: hardness(k, e.mean) for k, e in scores.items()}
    sample = torch.arange(0, len(turned[names[0]]), max(1, len(turned[names[0]]) // 20_000))
    matrix = [[number(_spearman(turned[a][sample], turned[b][sample])) for b in names] for a in names]
    return {"names": names, "matrix": matrix}


def _spearman(a: Tensor, b: Tensor) -> float:
    both = a.isfinite() & b.isfinite()
    return rank_correlation(a[both], b[both]).value if int(both.sum()) > 2 else float("nan")
