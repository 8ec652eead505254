"""Part 3 of an audit: which weights can go. Iterative pruning beside its rivals, the ticket, the smaller network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surplus.audit.bench import Bench, accuracy_summary, change, number
from surplus.audit.settings import WeightsPlan
from surplus.errors import InputError, MissingExtra
from surplus.pruning import balanced_rows, count, keep_top, latency, random_mask, shrink, snip
from surplus.pruning.imp import Level, from_masks, imp
from surplus.space import WeightSpace, generator
from surplus.stats import non_inferior_over_both
from surplus.tasks import Network, Task
from surplus.training import Run

_CHANNELS = 0.5
"""Share of the channels that the smaller network keeps: about a quarter of the weights."""


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
    seeds, rewind = list(full.seeds[: plan.seeds]), rewind_step(bench.task)
    levels = imp(bench.task, levels=plan.levels, rate=plan.rate, rewind_step=rewind, seeds=seeds, **bench.options)
    for level in levels:
        bench.note("weights", level.run)
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
        "ticket": told,
        "structured": None,
    }
    smaller = _smaller(bench, levels[0].run, result)
    return result, ticket, smaller


def rewind_step(task: Task) -> int:
    """One twentieth of training: early, and past the first chaotic steps."""
    return max(1, task.recipe.duration.steps(-(-len(task.train) // task.recipe.batch_size)) // 20)


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
    network = Network(f"{task.network.name}, smaller", factory=_Rebuild(small))
    recipe = task.with_recipe(lr=task.recipe.lr / 5).recipe
    tuned = Task(task.name, task.train, task.test, network, task.objective, recipe, task.validation, task.carved)
    start = WeightSpace(network).read(small)[None]
    return bench.fit("weights", tuned, seeds=bench.seeds("fine-tune", 1), start=start)


@dataclass(frozen=True)
class _Rebuild:
    """A factory of copies of one module, which processes can share."""

    module: nn.Module

    def __call__(self) -> nn.Module:
        import copy

        return copy.deepcopy(self.module)


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
