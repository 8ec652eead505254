"""Transformable Architecture Search: search widths and depths by gradient, then train the found network on a teacher.

    sizes = argmax A after the search,   student = the network of these sizes, from fresh weights, distilled from the
                                         full network                          Dong & Yang 2019, arXiv 1905.09717

`tas_search` is the search and `tas_sizes` what it searches over. The backbones here have shortcuts without weights and,
when fully connected, batch norms in the search alone.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surplus.pruning.budgets import check_density
from surplus.pruning.structured import tas_search, tas_sizes
from surplus.pruning.structured.distillation import Distillation
from surplus.pruning.structured.tas_search import Searched, SearchSettings, search
from surplus.pruning.structured.tas_sizes import Sizes, backbone, sized_task
from surplus.registry import method
from surplus.tasks import Task
from surplus.training import Run, Store, code_version, fit


class MissedTarget(UserWarning):
    """The most probable sizes met the target after no epoch of the search."""


@method("structured pruning", paper="Dong & Yang 2019, arXiv 1905.09717")
def tas(
    task: Task,
    *,
    keep: float,
    seeds: int | Sequence[int] = 5,
    settings: SearchSettings | None = None,
    alpha: float = 0.9,
    temperature: float = 4.0,
    **options: Any,
) -> list[Run]:
    """Search sizes that cost a share of the multiply-adds, and train each network found by distillation.

    Args:
        task: with the network mlp or a residual network for small images; its recipe trains teacher and student.
        keep: share of the multiply-adds.
        seeds: one search, one teacher and one student each.
        settings: of the search.
        alpha: weight of the teacher's answers; 0 trains on the labels alone, without a teacher.
        temperature: of the distillation.
        options: of `fit`.

    Returns:
        For each seed a run of one replica, on the task with its own sizes.

    Raises:
        InputError: a network whose sizes cannot be searched.
    """
    check_density(keep)
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    where = {name: options[name] for name in ("device", "store") if name in options}
    found = [searched(task, keep, seed, settings or SearchSettings(), **where) for seed in seeds]
    for seed, s in zip(seeds, found, strict=True):
        if not s.met:
            warnings.warn(
                f"seed {seed}: the search never met its target of {s.target - s.tolerance:,.0f} to {s.target:,.0f}"
                f" multiply-adds and ended at {s.macs:,}; search for more epochs, or with a higher cost_weight",
                MissedTarget,
                stacklevel=2,
            )
    logits = fit(task, seeds=seeds, **options).predict("train") if alpha else [None] * len(seeds)
    rows = zip(seeds, found, logits, strict=True)
    return [student(task, s.sizes, seed, t, alpha, temperature, **options) for seed, s, t in rows]


def student(
    task: Task,
    sizes: Sizes,
    seed: int,
    teacher: Tensor | None = None,
    alpha: float = 0.9,
    temperature: float = 4.0,
    **options: Any,
) -> Run:
    """Train a network of these sizes from fresh weights, on a teacher's logits (n, classes) or on the labels alone."""
    rule = None if teacher is None else Distillation(teacher, alpha, temperature)
    return fit(sized_task(task, sizes), seeds=[seed], rule=rule, **options)


def searched(
    task: Task, keep: float, seed: int, settings: SearchSettings, device: str = "cpu", store: Store | None = None
) -> Searched:
    """What `search` finds, kept in the store: a search that was done is not repeated."""
    spec = {
        "of": "searched sizes",
        "task": task.identity,
        "augment": task.recipe.augment.model_dump(mode="json"),
        "keep": keep,
        "seed": seed,
        "settings": json.loads(settings.model_dump_json()),
        "device": torch.device(device).type,
        "version": code_version("space", "data", "networks", "tasks", "training"),
        "code": hashlib.sha256("".join(map(inspect.getsource, (tas_search, tas_sizes))).encode()).hexdigest(),
    }

    def compute() -> dict[str, Tensor]:
        found = search(task, keep, settings, seed, device)
        widths, depths = (torch.tensor(x, dtype=torch.int64) for x in (found.sizes.widths, found.sizes.depths))
        return {"widths": widths, "depths": depths, "course": found.course}

    kept, back = (store or Store()).cached(spec, compute), backbone(task)
    sizes = Sizes(tuple(kept["widths"].tolist()), tuple(kept["depths"].tolist()))
    full = back.macs(back.full)
    return Searched(sizes, back.macs(sizes), keep * full, settings.tolerance * full, kept["course"])
