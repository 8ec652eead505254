"""Prune a task by any method of the catalogue, beside its controls, with what that is worth on held-out data.

    found = prune(load("digits"), method="imp", density=0.05)
    found.evidence["sentences"]
    found.save("pruned")          # ticket, masks, weights, curve.csv, controls.csv, pruning.json

A method is a pruning schedule, a structured pruning, or a weight score: scores that look at data, or draw lots, prune
before training (`at_start`), the others after it, iteratively (`imp`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from surplus.audit.pruned import Pruned, Pruning
from surplus.audit.pruning_methods import check_arguments, check_sizes, find_method, prunes_at_start
from surplus.errors import InputError, settings_of
from surplus.pruning.evidence.controls import train_controls, train_scratch
from surplus.pruning.evidence.reporting import report, report_structured
from surplus.pruning.evidence.training_cost import training_budget
from surplus.pruning.schedules.imp import Level, at_start, imp, imp_levels
from surplus.registry import Method
from surplus.stats import non_inferior_over_both
from surplus.tasks import CLASSIFICATION, Task
from surplus.theory.pruning_law import predict_matching
from surplus.training import Run, Store, fit

STEP = 0.8
"""By how much the density falls from one try to the next when looking for the sparsest that matches."""

_ENOUGH = 5
"""Levels, the dense one counted, after which the law says what density will match."""

Tell = Callable[[str], None]


def prune(
    task: Task, settings: Pruning | None = None, *, store: Store | None = None, tell: Tell | None = None, **changes: Any
) -> Pruned:
    """Prune, train the controls, and weigh the evidence.

    Args:
        task: data, network and recipe; a user's own as well.
        settings: how; the usual when None.
        store: where runs are kept.
        tell: called with a line of text as work goes on.
        changes: settings by name, instead of `settings` or on top of it.

    Raises:
        InputError: an unknown method, or settings that it does not take, before anything is trained.
    """
    s = settings_of(Pruning, **{**(settings.model_dump() if settings else {}), **changes})
    row, tell = find_method(s.method), tell or (lambda _: None)
    fitting: dict[str, Any] = {"device": s.device, "store": store}
    arguments = check_arguments(task, s, row)
    check_sizes(task, s, row, arguments)
    tell(f"training {s.seeds} dense networks")
    if row.kind == "structured pruning":
        return _structured(task, s, row, arguments, fitting, tell)
    dense = _converged(fit(task, seeds=s.seeds, **fitting))
    tell(f"pruning by {row.name}")
    levels, law = _levels(task, s, row, dense, arguments, fitting, tell)
    tell("training controls: " + ", ".join(s.controls))
    step = arguments.get("rewind_step", 0) if levels[-1].density < 1 else 0
    early = row.fn is at_start or prunes_at_start(row)
    trained = levels[1:] if levels[0].run is dense and (early or s.until is None) else levels  # what the method trains
    score = arguments.get("score", "snip" if row.fn is at_start else None)
    how: dict[str, Any] = {
        "step": step,
        "names": s.controls,
        "exclude": s.exclude,
        "score": score,
        "trained": not early,
    }
    controls = {}
    if levels[-1].density < 1:
        controls = train_controls(task, levels[-1], **how, budget=training_budget(trained), **fitting)
    tell("weighing the evidence")
    found = report(task, dense, trained, controls, margin=s.margin, level=s.level)
    found["sentences"] = [*_remarks(s, found, levels), *found["sentences"]]
    return Pruned(task, s, dense, levels, [], dict(controls), found | {"law": law})


def _converged(dense: Run) -> Run:
    """The dense networks, if there are any to prune.

    Raises:
        InputError: training diverged.
    """
    if dense.diverged:
        raise InputError(
            f"the dense networks of seeds {dense.diverged} diverged; lower the learning"
            f" rate ({dense.task.recipe.lr:g} now)"
        )
    return dense


def _remarks(s: Pruning, found: dict[str, Any], levels: Sequence[Level]) -> list[str]:
    """What a reader of the verdicts must know of how the networks came about."""
    said, last = [], levels[-1]
    if s.until is not None and len(levels) == 2 and _falls_short(s, levels[0].run, last):
        said.append(f"No network sparser than the dense one is shown to match; the first try kept {last.density:.3g}.")
    if s.until is None and abs(last.density - s.density) > 0.002:
        why = "whole units are cut" if s.scope == "neuron" else "layers are left whole"
        said.append(f"Asked to keep {s.density:.3g}, {last.density:.3g} of all prunable weights are kept, since {why}.")
    rows = {r["name"]: r for r in found["networks"]}
    spent = [r.get("search_macs") for r in found["networks"] if r["role"] == "level" and r.get("search_macs")]
    if spent and rows["dense"]["training_macs"] and spent[-1] > 1.05 * rows["dense"]["training_macs"]:
        times = spent[-1] / rows["dense"]["training_macs"]
        longer = "" if "dense-longer" in s.controls else "; the control dense-longer trains a dense network as long"
        said.append(f"Finding these networks took {times:.1f} times the training of a dense network{longer}.")
    return said


# ---- by masks -------------------------------------------------------------------------------------------------------


def _levels(
    task: Task,
    s: Pruning,
    row: Method,
    dense: Run,
    arguments: dict[str, Any],
    fitting: dict[str, Any],
    tell: Tell,
) -> tuple[list[Level], dict[str, Any] | None]:
    """The levels that were asked for, dense first; and what the law predicted of them, where they were searched."""
    if s.until is None:
        return _from_dense(task, dense, _call(task, row, s.density, arguments, fitting)), None
    kept, law = [_dense_level(task, dense)], None  # a level that falls short ends the search, and is dropped
    for level in _falling(task, s, row, arguments, fitting):
        short = _falls_short(s, dense, level)
        tell(
            f"density {level.density:.3g}: {level.accuracy.mean():.4f}, {'not shown to match' if short else 'matches'}"
        )
        if short:
            return (kept if len(kept) > 1 else [*kept, level]), law
        kept.append(level)
        if len(kept) == _ENOUGH and (law := _law(task, s, kept)):
            tell(law["sentence"])
    return kept, law


def _falls_short(s: Pruning, dense: Run, level: Level) -> bool:
    """Whether a level is not shown to match the dense networks."""
    ours, theirs = (run.evaluate("test").per_example for run in (level.run, dense))
    sign = 1 if level.run.task.objective.higher_is_better else -1
    return not non_inferior_over_both(sign * ours, sign * theirs, s.margin, s.level).verdict


def _falling(
    task: Task, s: Pruning, row: Method, arguments: dict[str, Any], fitting: dict[str, Any]
) -> Iterator[Level]:
    """Ever sparser levels, down to the density of the settings: those of one chain, or one call for each."""
    if row.fn is imp or (row.kind == "weight score" and not prunes_at_start(row)):
        for level in imp_levels(task, density=s.density, **arguments, **fitting):
            if level.density < 1:
                yield level
        return
    density = STEP
    while True:
        density = max(density, s.density)
        yield _call(task, row, density, arguments, fitting)[-1]
        if density == s.density:
            return
        density *= STEP


def _call(
    task: Task, row: Method, density: float, arguments: dict[str, Any], fitting: dict[str, Any]
) -> Sequence[Level]:
    """What a schedule, or a score's usual schedule, leaves at this density."""
    if row.kind == "weight score":
        schedule = at_start if prunes_at_start(row) else imp
        found: Sequence[Level] = schedule(task, density=density, **arguments, **fitting)
        return found
    found = row.fn(task, density=density, **arguments, **fitting)
    return found


def _from_dense(task: Task, dense: Run, levels: Sequence[Level]) -> list[Level]:
    return list(levels) if levels[0].density == 1 else [_dense_level(task, dense), *levels]


def _dense_level(task: Task, dense: Run) -> Level:
    start = task.space.init_many(dense.seeds)
    return Level(1.0, torch.ones_like(start, dtype=torch.bool), start, dense)


def _law(task: Task, s: Pruning, levels: Sequence[Level]) -> dict[str, Any] | None:
    """Where the law says that the margin is passed, from the levels so far; None where they are too few."""
    if task.objective is not CLASSIFICATION or len(levels) < 4:
        return None
    errors = torch.stack([1 - level.accuracy for level in levels])
    densities = torch.tensor([level.density for level in levels])
    told = predict_matching(densities[1:], errors[1:], errors[0], s.margin, task.classes, level=s.level)
    if told.fit is None:
        return None
    return {"density": told.density, "low": told.low, "high": told.high, "sentence": told.sentence}


# ---- smaller networks -----------------------------------------------------------------------------------------------


def _structured(
    task: Task, s: Pruning, row: Method, arguments: dict[str, Any], fitting: dict[str, Any], tell: Tell
) -> Pruned:
    """Smaller networks beside the dense ones that they came from, which are the method's own where it has any."""
    reference, seeds = row.traits.get("reference"), list(range(s.seeds))
    network = {"network": arguments["network"]} if "network" in arguments else {}
    dense = fit(task, seeds=seeds, **fitting) if reference is None else reference(task, seeds, **network, **fitting)
    tell(f"pruning by {row.name}")
    runs = list(row.fn(task, keep=s.density, **arguments, **fitting))
    tell("training the smaller networks from scratch")
    controls = train_scratch(dense.task, runs, **fitting)
    tell("weighing the evidence")
    found = report_structured(dense.task, dense, runs, controls, margin=s.margin, level=s.level)
    found["sentences"].append("What the search for these networks took to train is not in the tables.")
    return Pruned(dense.task, s, dense, [], runs, dict(controls), found | {"law": None})
