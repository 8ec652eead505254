"""Part 4 of an audit: which directions training uses, and whether more data would help."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surplus.audit.bench import Bench, number, summary
from surplus.audit.settings import DirectionsPlan
from surplus.errors import InputError
from surplus.landscape import barrier, hessian_operator, intrinsic_dimension, top_eigenvalue, trace
from surplus.reparam import RandomSubspace
from surplus.space import generator
from surplus.stats import Estimate
from surplus.tasks import Task
from surplus.theory import fit_law
from surplus.training import Run, code_version, evaluate


def directions_part(bench: Bench, plan: DirectionsPlan, full: Run) -> dict[str, Any]:
    """Intrinsic dimension, curvature, barrier between two runs, learning curve."""
    return {
        "intrinsic_dimension": _dimension(bench, plan, full),
        "curvature": _curvature(bench, plan, full),
        "barrier": _barrier(bench, full),
        "learning_curve": _learning_curve(bench, plan, full),
    }


def _dimension(bench: Bench, plan: DirectionsPlan, full: Run) -> dict[str, Any]:
    """Train in random subspaces; the smallest that reaches 90% of the ordinary accuracy."""
    task = _subspace_task(bench.task)
    seeds = list(full.seeds[:2])
    grid = [d for d in plan.dimensions if d < task.space.size] or [max(1, task.space.size // 2)]
    kind = "dense" if task.space.size * max(grid) < 2e7 else "fastfood"

    arms = [(d, seed) for d in sorted(grid, reverse=True) for seed in seeds]  # the longest first
    run = bench.fit("directions", task, seeds=[s for _, s in arms], coordinates=[_Subspace(d, kind) for d, _ in arms])
    reached = run.evaluate("test").metric

    def performance(d: int) -> list[float]:
        return [float(v) for v, (at, _) in zip(reached, arms, strict=True) if at == d]

    baseline = float(full.evaluate("test").metric.mean())
    found = intrinsic_dimension(performance, grid, baseline, search="grid")
    return {
        "dimension": found.dimension,
        "threshold": found.threshold,
        "baseline": baseline,
        "parameters": task.space.size,
        "points": [{"dimension": d, "accuracy": _clipped(e)} for d, e in found.points.items()],
    }


class _Subspace:
    """Random subspaces of one dimension, a different one per seed; a class, so that processes can share it."""

    def __init__(self, dimension: int, kind: str) -> None:
        self.dimension, self.kind = dimension, kind

    def __call__(self, theta: Tensor, seed: int) -> RandomSubspace:
        return RandomSubspace(theta, self.dimension, projection=self.kind, seed=seed)


def _subspace_task(task: Task) -> Task:
    """The task by Adam at a rate fit for subspace coordinates, without weight decay, as Li et al. train."""
    return task.with_recipe(optimiser="adam", lr=0.05, weight_decay=0.0, schedule="cosine", clip=None)


def _clipped(estimate: Estimate) -> dict[str, Any]:
    mean, error = float(estimate.mean), number(estimate.stderr)
    width = 1.96 * (error or 0.0)
    return {
        "mean": mean,
        "low": max(0.0, mean - width),
        "high": min(1.0, mean + width),
        "stderr": error,
        "repeats": int(torch.as_tensor(estimate.repeats).max()),
    }


def _curvature(bench: Bench, plan: DirectionsPlan, full: Run) -> dict[str, Any]:
    """Largest Hessian eigenvalue over the full runs, and the trace of the first one's Hessian over probes."""
    task = full.task
    rows = torch.randperm(len(task.train), generator=generator(bench.settings.seed, "hessian"))[: plan.hessian_examples]
    x, y = task.prepare(task.train.inputs[rows]), task.train.targets[rows]
    tops, traces = [], None
    spec = {
        "of": "curvature",
        "runs": full.keys,
        "examples": plan.hessian_examples,
        "probes": plan.hessian_probes,
        "networks": plan.seeds,
        "seed": bench.settings.seed,
        "version": code_version("space", "landscape", "audit"),
    }

    def compute() -> dict[str, Tensor]:
        nonlocal tops, traces
        for theta in full.theta[: plan.seeds]:
            product = hessian_operator(task.space, theta, x, y, task.loss, task.statistics(theta))
            chance = generator(bench.settings.seed, "lanczos")
            tops.append(top_eigenvalue(product, task.space.size, chance, tol=1e-2, steps=60).values[0])
            if traces is None:
                traces = trace(product, task.space.size, plan.hessian_probes, generator(bench.settings.seed, "probes"))
        assert traces is not None
        return {"tops": torch.stack(tops), "trace": torch.stack([traces.mean, traces.stderr])}

    found = bench.store.cached(spec, compute)
    mean, error = (float(v) for v in found["trace"])
    return {
        "top_eigenvalue": summary(found["tops"], bench.settings.level),
        "trace": {
            "mean": mean,
            "low": mean - 1.96 * error,
            "high": mean + 1.96 * error,
            "stderr": error,
            "repeats": plan.hessian_probes,
        },
        "examples": len(rows),
    }


def _barrier(bench: Bench, full: Run) -> dict[str, Any]:
    """Error and loss on the lines between neighbouring full runs, batch-norm statistics re-estimated at every point."""
    task = full.task
    pairs = [(i, i + 1) for i in range(0, len(full) - 1, 2)][:3]

    def compute() -> dict[str, Tensor]:
        def measure(thetas: Tensor) -> tuple[Tensor, Tensor]:
            e = evaluate(task, thetas, task.test)
            return 1 - e.metric, e.loss

        lines = [barrier(measure, full.theta[i], full.theta[j], points=15) for i, j in pairs]
        return {
            "errors": torch.stack([b.errors for b in lines]),
            "losses": torch.stack([b.losses for b in lines]),
            "at": lines[0].at,
        }

    spec = {
        "of": "barrier",
        "runs": full.keys,
        "pairs": [list(p) for p in pairs],
        "test": task.test.fingerprint,
        "version": code_version("space", "landscape", "audit"),
    }
    found = bench.store.cached(spec, compute)
    errors, losses, at = found["errors"], found["losses"], found["at"]
    height = [(v - (v[:, :1] + v[:, -1:]) / 2).amax(1) for v in (errors, losses)]
    mean = [v.mean(0) for v in (errors, losses)]
    return {
        "error": summary(height[0], bench.settings.level),
        "loss": summary(height[1], bench.settings.level),
        "curve": [{"at": number(a), "error": number(e), "loss": number(v)} for a, e, v in zip(at, *mean, strict=True)],
    }


def _learning_curve(bench: Bench, plan: DirectionsPlan, full: Run) -> dict[str, Any]:
    """Error against the number of examples, a power law with offset through it, and its reading at twice the data."""
    n, seeds = len(bench.task.train), list(full.seeds[: plan.seeds])
    per_epoch = -(-n // bench.task.recipe.batch_size)
    task = bench.task.with_recipe(
        duration=f"{bench.task.recipe.duration.steps(per_epoch)}it"
    )  # equal steps at all sizes
    sizes = [min(n, max(task.classes, round(s * n))) for s in plan.sizes]
    arms = [(size, seed) for size in sizes for seed in seeds]
    subsets = [torch.randperm(n, generator=generator(seed, "learning curve"))[:size] for size, seed in arms]
    run = bench.fit("directions", task, seeds=[s for _, s in arms], subsets=subsets)
    errors = torch.cat(
        [1 - run.evaluate("test").metric.view(len(sizes), -1), (1 - full.evaluate("test").metric[: plan.seeds])[None]]
    )
    points = [
        {"n": size, "error": summary(e, bench.settings.level)} for size, e in zip([*sizes, n], errors, strict=True)
    ]
    return {"points": points, **_law([*sizes, n], errors, bench)}


def _law(sizes: list[int], errors: Tensor, bench: Bench) -> dict[str, Any]:
    floor = 0.5 / len(bench.task.test)  # no error seen is not an error of zero
    mean = errors.mean(1).clamp(min=floor).double()
    try:
        fit = fit_law(
            torch.tensor(sizes).double(),
            mean,
            "power-offset",
            bootstrap=200,
            seed=bench.settings.seed,
            level=bench.settings.level,
        )
    except InputError as error:
        return {"law": None, "twice": None, "now": None, "sentence": f"No law could be fitted: {error}"}
    at, now = (
        torch.tensor([2.0 * sizes[-1]], dtype=torch.float64),
        torch.tensor([float(sizes[-1])], dtype=torch.float64),
    )
    (low, high), value, today = fit.predict_interval(at), float(fit.predict(at)[0]), float(fit.predict(now)[0])
    low_, high_ = number(low[0]), number(high[0])
    sure = high_ is not None and high_ < today
    sentence = (
        f"Twice the data would bring the test error from {today:.2%} to about {value:.2%}"
        f" (interval {'unbounded' if high_ is None else f'{low_:.2%} to {high_:.2%}'}); "
        + ("that is a gain beyond the fit's uncertainty." if sure else "the fit is too uncertain to promise a gain.")
    )
    parameters = {
        k: {"value": number(v), "low": number(fit.intervals[k][0]), "high": number(fit.intervals[k][1])}
        for k, v in fit.parameters.items()
    }
    return {
        "law": {"form": "power-offset", "parameters": parameters},
        "twice": {"n": 2 * sizes[-1], "error": value, "low": low_, "high": high_},
        "now": {"n": sizes[-1], "error": today},
        "sentence": sentence,
    }
