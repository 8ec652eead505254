"""Which function stands behind the name of a pruning method, and whether settings, network and data suit it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

from surplus.audit.pruned import Pruning
from surplus.errors import InputError, settings_of, unknown
from surplus.pruning.budgets import prunable_blocks
from surplus.pruning.evidence.controls import DENSE, MASKED, USUAL
from surplus.pruning.masks import check_scope, pattern_of
from surplus.pruning.schedules.imp import at_start, early_step, imp, imp_levels
from surplus.registry import Method, find, methods
from surplus.tasks import CLASSIFICATION, Task
from surplus.training import fit

KINDS = ("pruning schedule", "structured pruning", "weight score")

_FIT = tuple(inspect.signature(fit).parameters)


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
        _check_pattern(s, row)
    given = {"score": s.score, "scope": s.scope, "exclude": s.exclude or None, "rewind_step": s.rewind}
    for name, value in given.items():
        if value is not None and name not in takes:
            raise InputError(f"{row.name} takes no {name.removesuffix('_step')}; got {value!r}. Leave it out")
        if value is not None:
            arguments[name] = value
    if "rewind_step" in takes and s.rewind is None:
        arguments["rewind_step"] = early_step(task)
    if row.kind == "structured pruning":
        _check_structured(s, row)
    named = [n for n, p in takes.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    own = [n for n in named if n not in ("task", "density", "keep", "levels", *given, *_FIT)]
    arguments |= _options(s, row, own)
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
    for name, value in s.options.items():
        if name in own:
            _check_type(row, name, value)
        if name not in (*own, *inner):
            raise unknown(f"option of {row.name}", name, [*(n for n in own if n != "settings"), *inner])
    changes = {k: v for k, v in s.options.items() if k in inner and k not in own}
    found = {k: v for k, v in s.options.items() if k not in changes}
    if changes:
        found["settings"] = settings_of(kinds[0], **changes)
    return found


def _check_type(row: Method, name: str, value: Any) -> None:
    """Refuse what is of another type than the setting's default, and shares outside (0, 1)."""
    default = _takes(row)[name].default
    number = isinstance(default, int | float) and not isinstance(default, bool)
    odd = number and (isinstance(value, bool) or not isinstance(value, int | float))
    odd = odd or (isinstance(default, bool) and not isinstance(value, bool))
    odd = odd or (isinstance(default, str) and not isinstance(value, str))
    if odd:
        raise InputError(
            f"the option {name} of {row.name} is a {type(default).__name__}, such as {default!r}; got {value!r}"
        )
    if name == "rate" and not 0 < value < 1:
        raise InputError(f"rate is the share that each cut removes, so it lies in (0, 1); got {value}")


def _check_pattern(s: Pruning, row: Method) -> None:
    """Refuse an unknown scope, and a pattern N:M where it cannot be reached."""
    assert s.scope is not None
    check_scope(s.scope)
    pattern = pattern_of(s.scope)
    if pattern is None:
        return
    if row.name not in ("one-shot", "at-start") and not prunes_at_start(row):
        raise InputError(f"the pattern {s.scope} is one cut; use it with one-shot, or with a score before training")
    if s.density != pattern[0] / pattern[1]:
        raise InputError(f"the pattern {s.scope} has density {pattern[0] / pattern[1]:g}; got density {s.density:g}")


def _check_structured(s: Pruning, row: Method) -> None:
    """Refuse settings that are about masks."""
    if s.until is not None:
        raise InputError(f"{row.name} leaves smaller networks of a size that is asked for; leave --until out")
    if s.controls not in (USUAL, ()):
        raise InputError(
            f"{row.name} leaves smaller networks, whose controls are the same networks trained from scratch; leave"
            f" --controls out (got {', '.join(s.controls)})"
        )


def check_sizes(task: Task, s: Pruning, row: Method, arguments: Mapping[str, Any]) -> None:
    """Refuse what the network, the data and the recipe do not allow."""
    if len(task.test) < 2:
        raise InputError(f"verdicts need two test examples at least; {task.name} has {len(task.test)}")
    steps = task.recipe.duration.steps(-(-len(task.train) // task.recipe.batch_size))
    if arguments.get("rewind_step", 0) >= steps:
        raise InputError(
            f"--rewind {arguments['rewind_step']} lies beyond the {steps} steps of training; name a step below {steps}"
        )
    if row.kind == "structured pruning":
        return
    blocks = prunable_blocks(task.space, s.exclude)
    if round(s.density * sum(b.size for b in blocks)) < len(blocks):
        raise InputError(
            f"density {s.density:g} of {sum(b.size for b in blocks):,} weights is less than one in each of"
            f" {len(blocks)} layers; raise the density"
        )
    if "random-labels" in s.controls and task.objective is not CLASSIFICATION:
        raise InputError(
            f"the control random-labels draws classes, and the task is {task.objective.name}; leave it out"
        )


def _takes(row: Method) -> Mapping[str, inspect.Parameter]:
    """The parameters of the function behind a method."""
    if row.kind == "weight score":
        fn: Callable[..., Any] = at_start if prunes_at_start(row) else imp_levels
    else:
        fn = imp_levels if row.fn is imp else row.fn
    found = dict(inspect.signature(fn).parameters)
    if row.kind == "weight score":
        del found["score"]
    return found


def prunes_at_start(row: Method) -> bool:
    """Whether a score prunes before training: it looks at data, or draws lots."""
    needs = row.traits.get("needs", ())
    return row.kind == "weight score" and bool({"batch", "generator"} & set(needs))
