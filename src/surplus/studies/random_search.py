"""Farahani 2024, "Random Search as a Baseline for Sparse Neural Network Architecture Search".

For each seed one parent: the best of many random small networks cut out of it (lowest loss on training data before any
training), three further random ones, and as many units with fresh weights; all trained by the parent's recipe. The
smaller the networks, the more they differ, so the more seeds there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surplus.pruning.structured.random_search import candidates, search
from surplus.space import generator
from surplus.stats import paired
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Row, above, arm, over_seeds, two_stderr, within
from surplus.tasks import Duration, Recipe, Task, task_from
from surplus.training import Run, code_version

ACCURACY, STEPS, LOSS = "test accuracy", "steps to 95% of the final accuracy", "loss before training"
BEST, RANDOM, FRESH, DENSE = "best of search", "random", "fresh weights", "dense parent"
_RANDOM = 3
_MARGIN, _LEVEL = 0.01, 0.9
_ROOMS = ("space", "networks", "tasks", "training", "pruning")
"""What a search that is kept in the store rests on."""

NOTHING = Claim(
    "search-gains-nothing",
    "The best-placed of many random small networks ends no better by a point, and learns no faster, than a random one.",
    "Farahani 2024, abstract",
    "Digits, one hidden layer, at each share of units kept (50%, 10%, 2%): the 90% interval of test accuracy, best -"
    " mean of three random ones, lies within 1 point of zero; and the steps to 95% of the final accuracy do not differ"
    " (paired t test, p > 0.05).",
)
PLACED = Claim(
    "search-finds-lower-loss",
    "The search works: its network starts at a lower loss than the candidates on average.",
    "Farahani 2024, method",
    "Loss on training data before training: mean of the candidates - best > 2 SE, paired by seed, at each share kept.",
)
CLOSE = Claim(
    "a-tenth-is-within-two-points",
    "A tenth of the hidden units costs no more than two points of accuracy.",
    "Farahani 2024, abstract",
    "Digits: test accuracy, best of search at 10% of the units - dense parent + 0.02 > 2 SE, paired by seed.",
)
IMAGES = Claim(
    "search-gains-nothing-on-images",
    "On CIFAR-10, too, the best of a thousand candidates is no better by a point than a random one.",
    "Farahani 2024, abstract",
    "CIFAR-10, hidden layers of 1,024 units, 1,000 candidates, at each share kept (50%, 10%, 2%): both conditions of"
    " the claim on digits.",
    ("gpu",),
)


class SearchProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    widths: tuple[int, ...] = (256,)
    """Hidden layers of the parent."""
    keeps: tuple[float, ...] = (0.5, 0.1, 0.02)
    """Shares of the hidden units."""
    repeats: tuple[int, ...] = (10, 40, 400)
    """Seeds at each share; the dense parent is trained for the first `seeds` of them."""
    budget: int = 100
    """Candidates of a search."""
    every: int = 10
    """Steps between two looks at the test accuracy."""
    recipe: Recipe = Recipe(optimiser="adam", lr=1.2e-3, batch_size=50, duration=Duration("600it"), schedule="constant")


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": SearchProtocol(
        seeds=3,
        widths=(64,),
        keeps=(0.5, 0.1),
        repeats=(3, 4),
        budget=10,
        recipe=Recipe(optimiser="adam", lr=3e-3, batch_size=50, duration=Duration("60it"), schedule="constant"),
    ),
    "laptop": SearchProtocol(seeds=10),
    "gpu": SearchProtocol(
        seeds=5,
        data="cifar10",
        widths=(1024, 1024),
        repeats=(5, 5, 10),
        budget=1000,
        every=100,
        recipe=Recipe(optimiser="adam", lr=1e-3, batch_size=128, duration=Duration("20ep"), schedule="constant"),
    ),
}


@dataclass(frozen=True)
class _Arms:
    """What one share of units gives, each (seeds,)."""

    keep: float
    accuracy: dict[str, Tensor]
    steps: dict[str, Tensor]
    gain: Tensor
    """Mean of the candidates' losses before training, less the best one's."""


def draw(result: StudyResult) -> Any:
    """Accuracy and speed against the share of units kept; then what decided."""
    measured = next(m for m in result.measured if m.claim in (NOTHING, IMAGES) and m.rows)
    sheet, panels = grid(4)
    for axes, quantity in zip(panels[:2], (ACCURACY, STEPS), strict=True):
        rows = [r for r in measured.rows if r["quantity"] == quantity and " - " not in r["row"]]
        for name in dict.fromkeys(r["row"] for r in rows):
            points = [r for r in rows if r["row"] == name]
            ends = [[abs(r["value"] - (r["value"] if r[k] is None else r[k])) for r in points] for k in ("low", "high")]
            axes.errorbar(
                [r["keep"] for r in points], [r["value"] for r in points], ends, marker="o", ms=3, lw=1, label=name
            )
        axes.set_xscale("log")
        shares = sorted({r["keep"] for r in rows})
        axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
        axes.minorticks_off()
        axes.set_xlabel("share of hidden units", fontsize=7)
        axes.set_ylabel(quantity, fontsize=7)
        axes.legend(fontsize=6, frameon=False)
        axes.tick_params(labelsize=7)
    for axes, quantity in zip(panels[2:], (ACCURACY, STEPS), strict=True):
        rows = [r for r in measured.rows if r["quantity"] == quantity and r["row"] == f"{BEST} - {RANDOM}"]
        dots(axes, [{**r, "row": "kept"} for r in rows])
        axes.axvline(0, color=COLOURS["undecided"], lw=0.5)
        axes.set_xlabel(f"{quantity}: {BEST} - {RANDOM}", fontsize=7)
    panels[2].locator_params(axis="x", nbins=5)
    for edge in (-_MARGIN, _MARGIN):
        panels[2].axvline(edge, color=COLOURS["undecided"], lw=0.5, ls="--")
    panels[0].set_title(
        f"{measured.claim.slug}: {measured.verdict}", fontsize=8, color=COLOURS[measured.verdict], loc="left"
    )
    return sheet


@study(
    slug="random-search",
    paper="Farahani 2024, arXiv 2403.08265",
    title="Random Search as a Baseline for Sparse Neural Network Architecture Search",
    claims=(NOTHING, PLACED, CLOSE, IMAGES),
    protocols=PROTOCOLS,
    draw=draw,
)
def random_search_study(claim: Claim, bench: Bench[SearchProtocol]) -> Measured:
    """Random search over sub-networks before training: does it find anything?"""
    tests = {NOTHING: gains_nothing, PLACED: finds_lower_loss, CLOSE: tenth_is_close, IMAGES: gains_nothing_on_images}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def gains_nothing(bench: Bench[SearchProtocol], claim: Claim = NOTHING) -> Measured:
    """Equivalence in accuracy, and no difference in speed, at each share."""
    checks: list[Check] = []
    rows: list[Row] = []
    gains = []
    for arms in _all_arms(bench):
        checks += [_equivalent(arms), _as_fast(arms)]
        d = arms.accuracy[BEST] - arms.accuracy[RANDOM]
        gains.append(f"{100 * float(d.mean()):+.2f} at {arms.keep:.0%} ({len(d)} seeds)")
        rows += [arm(n, ACCURACY, v, keep=arms.keep) for n, v in arms.accuracy.items()]
        rows += [arm(n, STEPS, v, keep=arms.keep) for n, v in arms.steps.items()]
    note = f"Points of accuracy that the search gains, by share of the units: {', '.join(gains)}."
    return decide(claim, checks, [*rows, arm(DENSE, ACCURACY, _dense(bench), keep=1.0)], note)


def gains_nothing_on_images(bench: Bench[SearchProtocol]) -> Measured:
    """The same test with the protocol for images."""
    return gains_nothing(bench, IMAGES)


def finds_lower_loss(bench: Bench[SearchProtocol]) -> Measured:
    """How far the best candidate's loss lies below the mean."""
    checks = []
    for arms in _all_arms(bench):
        interval = two_stderr(arms.gain, torch.zeros_like(arms.gain))
        checks.append(Check("random - best of search", LOSS, "> 2 SE", interval, above(interval), {"keep": arms.keep}))
    return decide(PLACED, checks)


def tenth_is_close(bench: Bench[SearchProtocol]) -> Measured:
    """Small networks against the parents of the same seeds."""
    dense, tenth = _dense(bench), next(a for a in _all_arms(bench) if a.keep == 0.1)
    small = {n: v[: len(dense)] for n, v in tenth.accuracy.items()}
    interval = two_stderr(small[BEST] + 0.02, dense)
    check = Check(f"{BEST} - {DENSE} + 0.02", ACCURACY, "> 2 SE", interval, above(interval), {"keep": 0.1})
    rows = [arm(n, ACCURACY, v, keep=0.1) for n, v in small.items()]
    return decide(CLOSE, [check], [*rows, arm(DENSE, ACCURACY, dense, keep=1.0)])


def _equivalent(arms: _Arms) -> Check:
    interval = over_seeds(arms.accuracy[BEST] - arms.accuracy[RANDOM], _LEVEL)
    verdict = within(interval, -_MARGIN, _MARGIN)
    return Check(f"{BEST} - {RANDOM}", ACCURACY, "90% interval within 0.01", interval, verdict, {"keep": arms.keep})


def _as_fast(arms: _Arms) -> Check:
    first, second = arms.steps[BEST], arms.steps[RANDOM]
    p = paired(first, second).p_value
    notes = {"keep": arms.keep, "p_value": p}
    return Check(
        f"{BEST} - {RANDOM}", STEPS, "p > 0.05", two_stderr(first, second), "holds" if p > 0.05 else "fails", notes
    )


# ---- runs -----------------------------------------------------------------------------------------------------------


def _task(bench: Bench[SearchProtocol], keep: float = 1.0) -> Task:
    """The parent's task, or that of a network with as many units as are kept, and weights of its own."""
    p = bench.protocol
    widths = tuple(max(1, round(keep * w)) for w in p.widths)
    return task_from(splits(p.data, 0), "mlp", recipe=p.recipe, widths=widths)


def _all_arms(bench: Bench[SearchProtocol]) -> list[_Arms]:
    return [_arms(bench, k, list(range(n))) for k, n in zip(bench.protocol.keeps, bench.protocol.repeats, strict=True)]


def _arms(bench: Bench[SearchProtocol], keep: float, seeds: list[int]) -> _Arms:
    task, fresh = _task(bench), _task(bench, keep)
    small, first = _chance(task, keep, seeds, 0)
    others = [first, *(_chance(task, keep, seeds, i)[1] for i in range(1, _RANDOM))]
    best, losses = _searched(bench, task, keep, seeds)
    runs = {
        BEST: [_fit(bench, small, seeds, best)],
        RANDOM: [_fit(bench, small, seeds, start) for start in others],
        FRESH: [_fit(bench, fresh, seeds, fresh.space.init_many(seeds))],
    }
    accuracy = {n: torch.stack([bench.accuracy(r).double() for r in rs]).mean(0) for n, rs in runs.items()}
    steps = {n: torch.stack([_steps(r) for r in rs]).mean(0) for n, rs in runs.items()}
    return _Arms(keep, accuracy, steps, (losses.mean(1) - losses.min(1).values).double())


def _searched(bench: Bench[SearchProtocol], task: Task, keep: float, seeds: list[int]) -> tuple[Tensor, Tensor]:
    """The best candidate of each seed (seeds, P'), and all candidates' losses (seeds, budget); kept in the store."""
    budget = bench.protocol.budget

    def compute() -> dict[str, Tensor]:
        found = []
        for seed in seeds:
            draws = generator(seed, "study", "search", keep)
            theta = task.space.init(seed)
            found.append(search(task, theta, keep=keep, budget=budget, draws=draws, device=bench.device))
        return {"theta": torch.stack([f.theta for f in found]), "losses": torch.stack([f.scores for f in found])}

    spec = {"of": "random search", "task": task.identity, "keep": keep, "seeds": seeds, "budget": budget}
    told = bench.store.cached({**spec, "version": code_version(*_ROOMS)}, compute)
    return told["theta"], told["losses"]


def _chance(task: Task, keep: float, seeds: list[int], draw: int) -> tuple[Task, Tensor]:
    """A random small network of each seed's parent: their task, and the points (seeds, P')."""
    points = []
    for seed in seeds:
        draws = generator(seed, "study", "random", keep, draw)
        small, random = candidates(task, task.space.init(seed), keep=keep, draws=draws)
        points.append(next(random))
    return small, torch.stack(points)


def _fit(bench: Bench[SearchProtocol], task: Task, seeds: list[int], start: Tensor) -> Run:
    """All networks of one share have one shape, so they train together."""
    return bench.fit(task, seeds=seeds, start=start, curve=bench.protocol.every, execution="stacked")


def _dense(bench: Bench[SearchProtocol]) -> Tensor:
    """Test accuracies (seeds,) of the parents."""
    return bench.accuracy(bench.fit(_task(bench), seeds=bench.seeds, execution="stacked")).double()


def _steps(run: Run) -> Tensor:
    """For each seed (K,) the first look at which 95% of the final test accuracy is reached."""
    curve = run.curve
    looks: dict[float, list[tuple[float, float]]] = {float(s): [] for s in run.seeds}
    for seed, step, metric in zip(curve["seed"], curve["step"], curve["metric"], strict=True):
        looks[float(seed)].append((step, metric))
    ordered = [sorted(row) for row in looks.values()]
    return torch.tensor([next(s for s, m in row if m >= 0.95 * row[-1][1]) for row in ordered], dtype=torch.float64)
