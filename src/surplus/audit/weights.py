"""Part 3 of an audit: which weights can go. Iterative pruning beside its rivals, the ticket, the smaller network.

After its first levels a law says at which density the margin will be passed; the levels to come are its test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surplus.audit.bench import Bench, accuracy_summary, change, number
from surplus.audit.settings import WeightsPlan
from surplus.errors import InputError, MissingExtra
from surplus.pruning import balanced_rows, count, keep_top, latency, random_mask, shrink, smaller_task, snip
from surplus.pruning.schedules.imp import Level, early_step, from_masks, imp_levels
from surplus.space import generator
from surplus.stats import non_inferior_over_both
from surplus.tasks import Task
from surplus.theory.pruning_law import MatchingPrediction, PruningFit, crossing, predict_matching
from surplus.training import Run

_CHANNELS = 0.5
"""Share of the channels that the smaller network keeps: about a quarter of the weights."""
_FITTED = 0.6
"""Share of the levels that the law is fitted to; the rest test it."""
_DRAWN = 24
"""Points of the law's curve."""


@dataclass
class Ticket:
    """The sparsest network that matches, or the dense one."""

    mask: Tensor
    final: Tensor
    density: float
    seed: int


@dataclass
class Smaller:
    """A network with fewer channels, trained."""

    module: nn.Module


def weights_part(bench: Bench, plan: WeightsPlan, full: Run) -> tuple[dict[str, Any], Ticket, Smaller | None]:
    """Iterative magnitude pruning, one-shot, SNIP and random masks at equal densities and paired seeds."""
    seeds, rewind = list(full.seeds[: plan.seeds]), early_step(bench.task)
    levels, law = _iterative(bench, plan, seeds, rewind)
    curves = [{"method": "imp", "points": [_point(level.density, level, bench) for level in levels[1:]]}]
    for name, rival in (("one-shot", _one_shot), ("snip", _snip), ("random", _random)):
        points = []
        for at in plan.compared:
            start, masks, step = rival(bench, levels[0], levels[at].density, seeds, rewind)
            level = from_masks(bench.task, masks, start, seeds, step, **bench.options)
            bench.note("weights", level.run)
            points.append(_point(level.density, level, bench))
        curves.append({"method": name, "points": points})
    ticket, told = _sparsest(bench, levels)
    dense = levels[0].run.evaluate("test").per_example
    result: dict[str, Any] = {
        "dense": accuracy_summary(dense, bench.settings.level),
        "curves": curves,
        "law": law,
        "ticket": told,
        "structured": None,
    }
    smaller = _smaller(bench, levels[0].run, result)
    return result, ticket, smaller


def _iterative(bench: Bench, plan: WeightsPlan, seeds: list[int], rewind: int) -> tuple[list[Level], dict[str, Any]]:
    """All levels, and what the law said of them when the first were there."""
    enough = min(plan.levels, max(3, math.ceil(_FITTED * plan.levels)))
    levels: list[Level] = []
    how: dict[str, Any] = {"levels": plan.levels, "rate": plan.rate, "rewind_step": rewind, "seeds": seeds}
    for level in imp_levels(bench.task, **how, **bench.options):
        bench.note("weights", level.run)
        levels.append(level)
        if len(levels) == enough + 1:
            told = _predicted(bench, levels)
            bench.progress(f"weights. {told.sentence}".replace(":", ","))
    return levels, _law(levels, enough, told)


def _one_shot(bench: Bench, dense: Level, density: float, seeds: list[int], rewind: int) -> tuple[Tensor, Tensor, int]:
    masks = torch.stack(
        [keep_top(bench.task.space, t.abs(), density=density, min_per_layer=1) for t in dense.run.theta]
    )
    return dense.start, masks, rewind


def _snip(bench: Bench, dense: Level, density: float, seeds: list[int], rewind: int) -> tuple[Tensor, Tensor, int]:
    task, start = bench.task, bench.task.space.init_many(seeds)
    masks = []
    for theta, seed in zip(start, seeds, strict=True):
        rows = balanced_rows(task.train.targets, max(1, 128 // task.classes), generator(seed, "snip batch"))
        batch = (task.prepare(task.train.inputs[rows]), task.train.targets[rows])
        score = snip(task.space, theta, batch, buffers=task.statistics(theta))
        masks.append(keep_top(task.space, score, density=density, min_per_layer=1))
    return start, torch.stack(masks), 0


def _random(bench: Bench, dense: Level, density: float, seeds: list[int], rewind: int) -> tuple[Tensor, Tensor, int]:
    masks = torch.stack([random_mask(bench.task.space, density, generator(s, "random mask", density)) for s in seeds])
    return bench.task.space.init_many(seeds), masks, 0


def _point(density: float, level: Level, bench: Bench) -> dict[str, Any]:
    correct = level.run.evaluate("test").per_example
    return {
        "density": density,
        "accuracy": accuracy_summary(correct, bench.settings.level),
        "values": [number(v) for v in correct.mean(1)],
    }


def _sparsest(bench: Bench, levels: list[Level]) -> tuple[Ticket, dict[str, Any]]:
    """Walk down the levels while each is not inferior to the dense networks; the last that passes is the ticket."""
    dense = levels[0].run.evaluate("test").per_example
    passed, test = levels[0], None
    for level in levels[1:]:
        t = non_inferior_over_both(
            level.run.evaluate("test").per_example, dense, bench.settings.margin, bench.settings.level
        )
        test = test or t
        if not t.verdict:
            break
        passed, test = level, t
    assert test is not None
    found = passed is not levels[0]
    best = int(passed.run.evaluate("test").metric.argmax())
    ticket = Ticket(passed.masks[best], passed.run.theta[best], passed.density, passed.run.seeds[best])
    if found:
        sentence = f"{passed.density:.1%} of the prunable weights suffice: {change(test)}."
    else:
        sentence = (
            f"No pruned level is shown to match: at {levels[1].density:.0%} density, {change(test)}."
            " The ticket file holds the dense network."
        )
    correct = passed.run.evaluate("test").per_example
    return ticket, {
        "density": passed.density,
        "kept": int(ticket.mask[bench.task.space.prunable].sum()),
        "accuracy": accuracy_summary(correct, bench.settings.level),
        "difference": number(test.difference),
        "low": number(test.low),
        "margin": bench.settings.margin,
        "p_value": number(test.p_value),
        "verdict": found,
        "file": "ticket.safetensors",
        "sentence": sentence,
    }


# ---- the pruning law ------------------------------------------------------------------------------------------------


def _predicted(bench: Bench, levels: list[Level]) -> MatchingPrediction:
    """Where the mean error will pass the margin, from these levels."""
    d, errors = _densities(levels), _errors(levels)
    settings = bench.settings
    how: dict[str, Any] = {"classes": bench.task.classes, "level": settings.level, "seed": settings.seed}
    return predict_matching(d[1:], errors[1:], errors[0], settings.margin, **how)


def _law(levels: list[Level], fitted: int, told: MatchingPrediction) -> dict[str, Any]:
    """The prediction from the first levels beside what all show, as the report reads it."""
    d, means = _densities(levels), _errors(levels).mean(1)
    found = crossing(d, means, told.eps_np + told.margin)
    off = told.held_out(d[1 + fitted :], means[1 + fitted :])
    result: dict[str, Any] = {
        "levels": fitted,
        "predicted": {"mean": told.density, "low": told.low, "high": told.high},
        "found": found,
        "held_out_error": off,
        "plateau": None,
        "parameters": {},
        "points": [],
        "sentence": _told(told, d, found, off),
    }
    return result | (_drawn(told.fit, d, fitted, means) if told.fit is not None else {})


def _told(told: MatchingPrediction, d: Tensor, found: float | None, off: float | None) -> str:
    """What was predicted, then what was found."""
    if told.fit is None:
        return told.sentence
    margin = f"{100 * told.margin:g} {'point' if told.margin == 0.01 else 'points'}"
    seen = f"passes {margin} at {found:.1%}" if found is not None else f"stays within {margin} down to {d[-1]:.1%}"
    text = f"{told.sentence} Measured, the mean loss {seen}"
    return (
        f"{text}; at the sparser levels the law is off by {off:.0%} of the error (RMS)."
        if off is not None
        else f"{text}."
    )


def _drawn(fit: PruningFit, d: Tensor, fitted: int, means: Tensor) -> dict[str, Any]:
    """The law's constants, its curve, and each level beside it."""
    law = fit.law
    grid = torch.linspace(float(d[1].log()), float(d[-1].log()), _DRAWN, dtype=d.dtype).exp()
    return {
        "plateau": fit.plateau,
        "parameters": {
            name: {
                "value": number(value),
                "low": number(law.intervals[name][0]),
                "high": number(law.intervals[name][1]),
            }
            for name, value in law.parameters.items()
        },
        "points": _accuracies(fit, grid),
        "checked": [
            point | {"measured": number(1 - mean), "fitted": i < fitted}
            for i, (point, mean) in enumerate(zip(_accuracies(fit, d[1:]), means[1:], strict=True))
        ],
    }


def _accuracies(fit: PruningFit, d: Tensor) -> list[dict[str, Any]]:
    """Predicted accuracy with its interval at densities (n,)."""
    rows = torch.stack([d, 1 - fit.error_at(d), *(1 - end for end in reversed(fit.error_interval(d)))], 1)
    return [
        {"density": number(at), "accuracy": {"mean": number(mean), "low": number(low), "high": number(high)}}
        for at, mean, low, high in rows
    ]


def _densities(levels: list[Level]) -> Tensor:
    return torch.tensor([level.density for level in levels], dtype=torch.float64)


def _errors(levels: list[Level]) -> Tensor:
    """(levels, seeds)."""
    return torch.stack([1 - level.accuracy.double() for level in levels])


# ---- really smaller -------------------------------------------------------------------------------------------------


def _smaller(bench: Bench, dense: Run, result: dict[str, Any]) -> Smaller | None:
    """Half of the channels of the best dense network, fine-tuned by the same recipe at a fifth of its rate."""
    task, best = dense.task, int(dense.evaluate("test").metric.argmax())
    theta = dense.theta[best]
    module = task.space.write(theta, task.statistics(theta))
    shape = task.prepare(task.train.inputs[:1])
    try:
        small = shrink(module, shape, keep=_CHANNELS)
    except (MissingExtra, InputError) as error:
        bench.skip("weights", "the structured variant", str(error))
        return None
    tuned = _fine_tune(bench, task, small)
    trained = tuned.task.space.write(tuned.theta[0], tuned.task.statistics(tuned.theta[0]))
    before, after = count(module, shape), count(trained, shape)
    accuracy = [dense.evaluate("test").per_example[best : best + 1], tuned.evaluate("test").per_example]
    rows: list[dict[str, Any]] = [
        {
            "parameters": c.parameters,
            "macs": c.macs,
            "bytes": c.bytes,
            "accuracy": accuracy_summary(a, bench.settings.level),
        }
        for c, a in zip((before, after), accuracy, strict=True)
    ]
    result["structured"] = {
        "before": rows[0],
        "after": rows[1],
        "file": "smaller-model",
        "sentence": (
            f"Half of the channels: {before.parameters / after.parameters:.1f} times fewer parameters,"
            f" {before.macs / after.macs:.1f} times fewer multiply-adds; test accuracy"
            f" {rows[0]['accuracy']['mean']:.1%} before, {rows[1]['accuracy']['mean']:.1%} after fine-tuning."
        ),
    }
    return Smaller(trained)


def _fine_tune(bench: Bench, task: Task, small: nn.Module) -> Run:
    """Train the small network on from where the cut left it."""
    tuned, theta = smaller_task(task.with_recipe(lr=task.recipe.lr / 5), small)
    return bench.fit("weights", tuned, seeds=bench.seeds("fine-tune", 1), start=theta[None])


def latencies(bench: Bench, dense: nn.Module, small: nn.Module) -> dict[str, Any]:
    """Milliseconds of a forward pass of one and of 64 examples, before and after; measured, so not repeatable."""
    x = bench.task.prepare(bench.task.train.inputs[:1])
    rows: dict[str, Any] = {}
    for name, module in (("before", dense), ("after", small)):
        for batch in (1, 64):
            e = latency(module, x, batch)
            low, high = e.interval()
            rows[f"{name}_ms" if batch == 1 else f"{name}_ms_{batch}"] = {
                "mean": 1000 * float(e.mean),
                "low": 1000 * float(low),
                "high": 1000 * float(high),
                "stderr": 1000 * float(e.stderr),
                "repeats": 30,
            }
    return rows
