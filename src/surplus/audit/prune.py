"""Prune a task by any method of the catalogue, beside its controls, with what that is worth on held-out data.

    found = prune(load("digits"), method="imp", density=0.05)
    found.evidence["sentences"]
    found.save("pruned")          # ticket, masks, weights, curve.csv, controls.csv, pruning.json

A method is a pruning schedule, a structured pruning, or a weight score: scores that look at data, or draw lots, prune
before training (`at_start`), the others after it, iteratively (`imp`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args, get_type_hints

import torch
from pydantic import BaseModel

from surplus.audit.pruned import Pruned, Pruning
from surplus.errors import InputError, settings_of, unknown
from surplus.pruning.controls import DENSE, MASKED, train_controls, train_scratch
from surplus.pruning.evidence import report, report_structured
from surplus.pruning.imp import Level, at_start, early_step, imp, imp_levels
from surplus.pruning.masks import check_scope, pattern_of
from surplus.pruning.training_cost import training_budget
from surplus.registry import Method, find, methods
from surplus.stats import non_inferior_over_both
from surplus.tasks import CLASSIFICATION, Task
from surplus.theory.pruning_law import predict_matching
from surplus.training import Run, Store, fit

KINDS = ("pruning schedule", "structured pruning", "weight score")
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
    s = Pruning.model_validate({**(settings.model_dump() if settings else {}), **changes})
    row, tell = find_method(s.method), tell or (lambda _: None)
    fitting: dict[str, Any] = {"device": s.device, "store": store}
    arguments = check_arguments(task, s, row)
    tell(f"training {s.seeds} dense networks")
    if row.kind == "structured pruning":
        return _structured(task, s, row, arguments, fitting, tell)
    dense = fit(task, seeds=s.seeds, **fitting)
    tell(f"pruning by {row.name}")
    levels, law = _levels(task, s, row, dense, arguments, fitting, tell)
    tell("training controls: " + ", ".join(s.controls))
    step = arguments.get("rewind_step", 0) if levels[-1].density < 1 else 0
    score = s.score if row.fn is at_start else row.name if row.kind == "weight score" and _at_start(row) else None
    controls = {}
    if levels[-1].density < 1:
        how: dict[str, Any] = {"step": step, "names": s.controls, "score": score, "exclude": s.exclude}
        controls = train_controls(task, levels[-1], **how, budget=training_budget(levels), **fitting)
    tell("weighing the evidence")
    found = report(task, dense, levels, controls, margin=s.margin, level=s.level)
    return Pruned(task, s, dense, levels, [], dict(controls), found | {"law": law})


def find_method(name: str) -> Method:
    """The pruning schedule, structured pruning or weight score of this name.

    Raises:
        InputError: there is none; the message offers the nearest.
    """
    there = {kind: [m.name for m in methods(kind)] for kind in KINDS}
    for kind in KINDS:
        if name in there[kind]:
            return find(kind, name)
    raise unknown("pruning method", name, [n for kind in KINDS for n in there[kind]])


def check_arguments(task: Task, s: Pruning, row: Method) -> dict[str, Any]:
    """The arguments of the method's function, checked against what it takes.

    Raises:
        InputError: a setting that the method does not take.
    """
    takes = _takes(row)
    arguments: dict[str, Any] = {"seeds": s.seeds}
    if s.scope is not None:
        check_scope(s.scope)
        if pattern_of(s.scope) and row.name not in ("one-shot", "at-start") and not _at_start(row):
            raise InputError(
                f"the pattern {s.scope} is one cut to its density; use it with one-shot, or a score before training"
            )
    given = {"score": s.score, "scope": s.scope, "exclude": s.exclude or None, "rewind_step": s.rewind}
    for name, value in given.items():
        if value is not None and name not in takes:
            raise InputError(f"{row.name} takes no {name.removesuffix('_step')}; got {value!r}. Leave it out")
        if value is not None:
            arguments[name] = value
    if "rewind_step" in takes and s.rewind is None:
        arguments["rewind_step"] = early_step(task)
    if s.until is not None and row.kind == "structured pruning":
        raise InputError(f"{row.name} leaves smaller networks of a size that is asked for; leave until out")
    arguments |= _options(s, row, [n for n in takes if n not in ("task", "density", "keep", *given, *_FIT)])
    if s.score is not None:
        find("weight score", s.score)
    for name in s.controls:
        if name not in (*MASKED, *DENSE):
            raise unknown("control", name, (*MASKED, *DENSE))
    if row.kind == "weight score":
        arguments["score"] = row.name
    return arguments


def _options(s: Pruning, row: Method, own: Sequence[str]) -> dict[str, Any]:
    """The method's own settings; those of a settings object by their names, too.

    Raises:
        InputError: an option that the method does not have, or a value that it cannot take.
    """
    hint = get_type_hints(row.fn).get("settings") if "settings" in own else None
    kinds = [k for k in (hint, *get_args(hint)) if isinstance(k, type) and issubclass(k, BaseModel)]
    inner = [n for k in kinds for n in k.model_fields]
    for name in s.options:
        if name not in (*own, *inner):
            raise unknown(f"option of {row.name}", name, [*(n for n in own if n != "settings"), *inner])
    changes = {k: v for k, v in s.options.items() if k in inner and k not in own}
    found = {k: v for k, v in s.options.items() if k not in changes}
    if changes:
        found["settings"] = settings_of(kinds[0], **changes)
    return found


def _takes(row: Method) -> Mapping[str, inspect.Parameter]:
    """The parameters of the function behind a method."""
    if row.kind == "weight score":
        fn: Callable[..., Any] = at_start if _at_start(row) else imp_levels
    else:
        fn = imp_levels if row.fn is imp else row.fn
    found = dict(inspect.signature(fn).parameters)
    if row.kind == "weight score":
        del found["score"]
    return found


def _at_start(row: Method) -> bool:
    """Whether a score prunes before training: it looks at data, or draws lots."""
    needs = row.traits.get("needs", ())
    return row.kind == "weight score" and bool({"batch", "generator"} & set(needs))


_FIT = tuple(inspect.signature(fit).parameters)


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
    kept, law = [_dense_level(task, dense)], None
    for level in _falling(task, s, row, arguments, fitting):
        test = non_inferior_over_both(
            level.run.evaluate("test").per_example, dense.evaluate("test").per_example, s.margin, s.level
        )
        tell(
            f"density {level.density:.3g}: {level.accuracy.mean():.4f}, {'matches' if test.verdict else 'falls short'}"
        )
        if not test.verdict:
            break
        kept.append(level)
        if len(kept) == _ENOUGH and (law := _law(task, s, kept)):
            tell(law["sentence"])
    return kept, law


def _falling(
    task: Task, s: Pruning, row: Method, arguments: dict[str, Any], fitting: dict[str, Any]
) -> Iterator[Level]:
    """Ever sparser levels, down to the density of the settings: those of one chain, or one call for each."""
    if row.fn is imp or (row.kind == "weight score" and not _at_start(row)):
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
        schedule = at_start if _at_start(row) else imp
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
    return Pruned(dense.task, s, dense, [], runs, dict(controls), found | {"law": None})
