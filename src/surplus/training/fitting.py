"""`fit`: train any number of replicas of a task, stacked in one program or spread over processes, and keep the result.

run = fit(load("digits"), seeds=range(10), record=True)
run.theta            # (10, P)
run.evaluate("test").metric.mean()
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from surplus.errors import InputError, check_device
from surplus.reparam import Identity, Mask, Reparametrisation
from surplus.tasks import CLASSIFICATION, Recipe, Task
from surplus.training.compact import Compact
from surplus.training.engine import Engine, engine_for
from surplus.training.executor import fan_out, processors, threads
from surplus.training.loop import Loop, Plan, curve_table, history_table
from surplus.training.observers import Observer
from surplus.training.rules import Rule, check_pairs, check_parts, check_rule
from surplus.training.run import Run
from surplus.training.sparse import Kept, SparseChain
from surplus.training.store import Entry, Store, code_version

Make = Callable[[Tensor, int], Reparametrisation]
Execution = Literal["auto", "stacked", "spread"]
_STACK_BYTES = 2**31
"""A stack's weights, gradients and moments stay below this on a CPU."""


class Diverged(UserWarning):
    """A replica's loss became NaN or infinite."""


def fit(
    task: Task,
    *,
    seeds: int | Iterable[int] = 1,
    subsets: Sequence[Tensor] | Tensor | None = None,
    masks: Tensor | None = None,
    start: Tensor | None = None,
    start_step: int = 0,
    coordinates: Make | Sequence[Make] | None = None,
    recipe: Recipe | None = None,
    rule: Rule | None = None,
    record: bool = False,
    keep: Iterable[int] = (),
    curve: int | None = None,
    observers: Sequence[Observer] = (),
    execution: Execution = "auto",
    device: str = "cpu",
    jobs: int | None = None,
    store: Store | None = None,
) -> Run:
    """Train K replicas, or find them in the store where they were trained before.

    Args:
        task: data, network, objective, recipe.
        seeds: one per replica, or how many (0, 1, ...); a seed decides initialisation, order and augmentation.
        subsets: training examples per replica, as (K, n) booleans or K tensors of positions; all when None.
        masks: (K, P) or (P,) booleans; removed weights stay exactly zero.
        start: (K, P) where to start instead of the seeds' initial points.
        start_step: where in the schedule and the data order to start (rewinding).
        coordinates: (theta0 (P,), seed) -> the coordinates that a replica is trained in, one for all or one each;
            weights themselves when None.
        recipe: instead of the task's.
        rule: what changes about a step: which examples of a batch are used, how they weigh, how gradients are joined.
        record: keep the example record.
        keep: steps after which to keep the weights.
        curve: note the test metric every so many steps, and at the end: `run.curve`.
        observers: watch training; with observers a run stays in this process and is trained, not looked up.
        execution: "stacked" in one program, "spread" over processes, or "auto": whichever a short measurement favours.
        device: "cpu", "cuda", "cuda:1", "mps".
        jobs: processes for "spread"; one per processor when None.
        store: where runs are kept; $SURPLUS_HOME, else the platform's cache folder, when None.

    Returns:
        Run of K replicas.

    Raises:
        InputError: anything that does not fit together, before training starts.
    """
    recipe, store = recipe or task.recipe, store or Store()
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(s) for s in seeds)
    positions = _positions(subsets, seeds, len(task.train))
    _check(task, recipe, seeds, positions, masks, start, device, record)
    if curve is not None and (not isinstance(curve, int) or curve < 1):
        raise InputError(f"curve is a number of steps, at least 1; got {curve}")
    if rule is not None:
        check_rule(rule)
        check_pairs(rule, len(seeds), positions)
        check_parts(rule, task, recipe)
        rule.check(task, recipe, len(seeds))
    if coordinates is not None and masks is not None:
        raise InputError("masks and coordinates are two ways to say how weights move; give one of them")
    if isinstance(coordinates, Sequence) and len(coordinates) != len(seeds):
        raise InputError(
            f"there are {len(seeds)} seeds and {len(coordinates)} coordinates; give one each, or one for all"
        )
    plan = Plan(
        task,
        recipe,
        seeds,
        positions,
        _coordinates(task, seeds, masks, start, coordinates),
        start_step,
        record,
        tuple(sorted(set(keep))),
        curve,
        device,
        rule=rule,
        observers=tuple(observers),
    )
    plan = replace(plan, stacked=_choose(plan, execution, store))
    groups = _groups(plan, jobs or processors())
    plans = [_part(plan, g, _threads(plan, len(groups))) for g in groups]
    entries = [store.entry(_spec(p)) for p in plans]
    todo = [(p, e) for p, e in zip(plans, entries, strict=True) if observers or not e.usable()]
    here = bool(observers) or torch.device(device).type != "cpu" or len(todo) < 2
    for _ in fan_out(train_part, todo, 1 if here else jobs):
        pass
    rows = {replica: (i, row) for i, group in enumerate(groups) for row, replica in enumerate(group)}
    run = Run(
        task if recipe == task.recipe else task.with_recipe(**recipe.model_dump()),
        tuple(entries),
        tuple(rows[k] for k in range(len(seeds))),
        seeds,
        positions,
        store,
        device,
    )
    if run.diverged:
        warnings.warn(
            f"training diverged (loss NaN or infinite) for seeds {run.diverged}; lower the learning rate",
            Diverged,
            stacklevel=2,
        )
    return run


def train_part(plan: Plan, entry: Entry) -> str:
    """Train one stack to its end and complete its folder; a finished one is left alone. Returns the folder's name."""
    with entry.locked():
        if plan.observers or (entry.complete and entry.damage()):
            entry.clear()
        if entry.complete:
            return entry.key
        with threads(plan.threads):
            loop = Loop(plan, entry)
            began = time.time()
            _save(entry, loop, loop.run(), began)
    return entry.key


def _save(entry: Entry, loop: Loop, theta: Tensor, began: float) -> None:
    import pyarrow as pa

    entry.write_tensors("theta.safetensors", {"theta": theta})
    if not all(isinstance(c, Identity | Mask) for c in loop.plan.coordinates):
        entry.write_tensors("coordinates.safetensors", {"z": loop.z})
    entry.write_table("history.parquet", pa.table(history_table(loop.history, loop.plan.seeds)))
    if loop.plan.curve:
        entry.write_table("curve.parquet", pa.table(curve_table(loop.curve, loop.plan.seeds)))
    diverged = [s for s, at in zip(loop.plan.seeds, loop.diverged_at.tolist(), strict=True) if at >= 0]
    entry.finish(
        diverged=diverged,
        steps=loop.step,
        seconds=round(time.time() - began, 3),
        finished=time.time(),
        torch=torch.__version__,
    )


# ---- what a run is made of ------------------------------------------------------------------------------------------


def _spec(plan: Plan) -> dict[str, Any]:
    """Everything that decides the result, as plain JSON: its hash names the folder."""
    return {
        "kind": "fit",
        "version": code_version("space", "data", "networks", "reparam", "tasks", "training"),
        "torch": torch.__version__,
        "task": plan.task.identity | ({"test": plan.task.test.fingerprint} if plan.curve else {}),
        "recipe": plan.recipe.model_dump(mode="json"),
        "seeds": list(plan.seeds),
        "subsets": [_digest(s) for s in plan.subsets] if plan.subsets else None,
        "coordinates": [c.spec() for c in plan.coordinates],
        "start_step": plan.start_step,
        "record": plan.record,
        "keep": list(plan.keep),
        "curve": plan.curve,
        "device": torch.device(plan.device).type,
        "observed": bool(plan.observers),
        "threads": plan.threads,
        "rule": plan.rule.spec() if plan.rule else None,
        **({"separate": True} if len(plan.seeds) > 1 and not plan.stacked else {}),
    }


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:32]


def _coordinates(
    task: Task, seeds: tuple[int, ...], masks: Tensor | None, start: Tensor | None, make: Make | Sequence[Make] | None
) -> tuple[Reparametrisation, ...]:
    points = task.space.init_many(seeds) if start is None else start.detach().to("cpu", task.space.dtype)
    if masks is not None:
        every = masks.cpu().expand(len(seeds), task.space.size)
        return tuple(Mask(p, m) for p, m in zip(points, every, strict=True))
    if make is None:
        return tuple(map(Identity, points))
    makers = list(make) if isinstance(make, Sequence) else [make] * len(seeds)
    return tuple(m(p, s) for m, p, s in zip(makers, points, seeds, strict=True))


def _positions(subsets: Sequence[Tensor] | Tensor | None, seeds: tuple[int, ...], n: int) -> tuple[Tensor, ...] | None:
    if subsets is None:
        return None
    rows = [torch.as_tensor(s).cpu() for s in subsets]
    if len(rows) != len(seeds):
        raise InputError(f"there are {len(seeds)} seeds and {len(rows)} subsets; give one subset per replica")
    positions = []
    for k, row in enumerate(rows):
        if row.dtype == torch.bool and len(row) != n:
            raise InputError(f"subset {k} has {len(row)} booleans for {n} training examples")
        where = row.nonzero().squeeze(1) if row.dtype == torch.bool else row.long()
        if len(where) == 0:
            raise InputError(f"subset {k} is empty; every replica needs at least one training example")
        if int(where.min()) < 0 or int(where.max()) >= n:
            raise InputError(f"subset {k} names example {int(where.max())}, but positions lie in 0..{n - 1}")
        positions.append(where)
    return tuple(positions)


def _check(
    task: Task,
    recipe: Recipe,
    seeds: tuple[int, ...],
    subsets: tuple[Tensor, ...] | None,
    masks: Tensor | None,
    start: Tensor | None,
    device: str,
    record: bool,
) -> None:
    p, k = task.space.size, len(seeds)
    if not k:
        raise InputError("no seeds were given; one per replica is expected, or their number")
    if start is not None and tuple(start.shape) != (k, p):
        raise InputError(f"start has shape {tuple(start.shape)}; {k} replicas of {p:,} weights need ({k}, {p})")
    if masks is not None and (masks.dtype != torch.bool or tuple(masks.shape) not in {(p,), (k, p)}):
        raise InputError(
            f"masks have type {masks.dtype} and shape {tuple(masks.shape)};"
            f" booleans of shape ({p},) or ({k}, {p}) are expected"
        )
    if recipe.patience and task.validation is None:
        raise InputError(
            "early stopping (patience) needs a validation set, and the task has none; give one, or set patience=None"
        )
    if task.objective is not CLASSIFICATION and recipe.label_smoothing:
        raise InputError(f"label smoothing is for classes; the task is {task.objective.name}")
    if task.space.batch_norms and min(len(s) for s in subsets or (range(len(task.train)),)) < 2:
        raise InputError("batch normalisation cannot train on a single example; give every replica at least two")
    if (
        recipe.augment != type(recipe.augment)()
        and task.train.kind == "image"
        and recipe.augment.shift >= min(task.train.shape[1:])
    ):
        raise InputError(
            f"a shift of {recipe.augment.shift} pixels does not fit images of"
            f" {task.train.shape[1]}x{task.train.shape[2]}"
        )
    check_device(device)


# ---- stacked or spread ----------------------------------------------------------------------------------------------


def _groups(plan: Plan, jobs: int) -> list[list[int]]:
    """Which replicas go together: those of one subset size, in stacks that fit memory and feed all processors.

    Replicas that a rule binds together are never parted.
    """
    bound = plan.rule.together if plan.rule else 1
    units = [list(range(k, k + bound)) for k in range(0, len(plan.seeds), bound)]
    if not plan.stacked:
        return units
    sizes: dict[tuple[Any, ...], list[list[int]]] = {}
    for unit in units:
        k = unit[0]
        size = len(plan.subsets[k]) if plan.subsets else len(plan.task.train)
        sizes.setdefault((size, plan.coordinates[k].size, type(plan.coordinates[k])), []).append(unit)
    most = max(2, _STACK_BYTES // (plan.task.space.size * 4 * 5)) if plan.device == "cpu" else _gpu_stack(plan)
    share_out = jobs if plan.device == "cpu" and not plan.observers else 1
    return [part for group in sizes.values() for part in _even(group, max(1, most // bound), share_out)]


def _even(units: list[list[int]], most: int, jobs: int) -> list[list[int]]:
    """Cut units into stacks of at most `most`, and at least `jobs` of them while each has two replicas."""
    replicas = sum(map(len, units))
    parts = min(len(units), max(-(-len(units) // most), min(jobs, replicas // 2)))
    cuts = torch.arange(len(units)).tensor_split(parts)
    return [[k for i in cut.tolist() for k in units[i]] for cut in cuts]


def _gpu_stack(plan: Plan) -> int:
    free = torch.cuda.mem_get_info(plan.device)[0] if torch.device(plan.device).type == "cuda" else 2**32
    sample = plan.recipe.batch_size * plan.task.train.inputs[0].numel() * 4 * 64  # activations, a generous guess
    return max(1, int(free * 0.6 // (plan.task.space.size * 4 * 6 + sample)))


def _threads(plan: Plan, groups: int) -> int:
    """Torch threads of each part: all for one large network; one where parts run side by side or steps are short."""
    short = plan.task.space.size * plan.recipe.batch_size < 20_000_000
    return 1 if groups > 1 or short else torch.get_num_threads()


def _part(plan: Plan, group: list[int], threads: int) -> Plan:
    return replace(
        plan,
        threads=threads,
        stacked=plan.stacked and len(group) > 1,
        rule=plan.rule.part(group) if plan.rule else None,
        seeds=tuple(plan.seeds[k] for k in group),
        subsets=tuple(plan.subsets[k] for k in group) if plan.subsets else None,
        coordinates=tuple(plan.coordinates[k] for k in group),
    )


def _choose(plan: Plan, execution: Execution, store: Store) -> bool:
    """True for stacked. The measurement is kept in the store, so that a resumed run finds its own parts."""
    if execution not in ("auto", "stacked", "spread"):
        raise InputError(f"execution must be 'auto', 'stacked' or 'spread'; got {execution!r}")
    if len(plan.seeds) == 1 or execution == "spread":
        return False
    if not plan.task.space.vmaps:
        if execution == "stacked":
            raise InputError("this network cannot be stacked: torch.func.vmap cannot follow it; use execution='spread'")
        return False
    if plan.task.space.has_dropout:
        if execution == "stacked":
            raise InputError(
                "a network with dropout cannot be stacked: its replicas would share one stream of masks;"
                " use execution='spread'"
            )
        return False
    if execution == "stacked" or torch.device(plan.device).type == "cuda":
        return True
    first = _first(plan, min(len(plan.seeds), 8))
    small = first.compact()
    spec = {
        "of": "stacked or spread",
        "network": plan.task.network.identity,
        "weights": small.space.size if small else plan.task.space.size,
        "batch": plan.recipe.batch_size,
        "precision": plan.recipe.precision,
        "replicas": len(first.seeds),
        "processors": processors(),
        "version": code_version("space", "networks", "training"),
    }
    return bool(store.cached(spec, lambda: {"stacked": torch.tensor(_stacking_wins(first, small))})["stacked"])


def _first(plan: Plan, k: int) -> Plan:
    """The plan of the first k replicas."""
    return replace(plan, seeds=plan.seeds[:k], coordinates=plan.coordinates[:k])


def _stacking_wins(plan: Plan, small: Compact | Kept | None, steps: int = 4) -> bool:
    """Time a few steps of a stack of up to eight against one replica alone, both on one thread."""
    rows = torch.arange(min(plan.recipe.batch_size, len(plan.task.train)))
    x, y = plan.task.prepare(plan.task.train.inputs[rows]), plan.task.train.targets[rows]
    try:
        with threads(1):
            alone = _step_seconds(_first(plan, 1), _first(plan, 1).compact(), x, y, steps)
            return _step_seconds(plan, small, x, y, steps) < len(plan.seeds) * alone
    except RuntimeError:  # the user's module does something that vmap cannot follow
        return False


def _step_seconds(plan: Plan, small: Compact | Kept | None, x: Tensor, y: Tensor, steps: int) -> float:
    """One forward and backward pass of all replicas: stacked, or of the one that there is."""
    k, space, objective = len(plan.seeds), small.space if small else plan.task.space, plan.task.objective
    x, y = x.expand(k, *x.shape), y.expand(k, *y.shape)
    theta = plan.task.space.init_many(plan.seeds)
    theta = small.gather(theta) if small else theta
    x = small.inputs(x) if isinstance(small, Compact) else x
    if isinstance(small, Kept):
        return _seconds(SparseChain(small, objective, plan.recipe), theta, x, y, steps)
    engine = engine_for(space, objective, plan.recipe, plan.seeds, x.device, stacked=k > 1)
    return _seconds(engine, theta, x, y, steps)


def _seconds(engine: Engine, theta: Tensor, x: Tensor, y: Tensor, steps: int) -> float:
    engine(theta, x, y, 0)
    times = []
    for step in range(steps):
        began = time.perf_counter()
        engine(theta, x, y, step)
        times.append(time.perf_counter() - began)
    return min(times)
