"""Feldman 2020, "Does Learning Require Memorization?", with the estimators of Feldman & Zhang 2020.

An example is memorised as far as networks get it right with it in the training set and not without. Wrong labels are
wholly so. The theory says what refusing costs where kinds of example have a long tail of frequencies: tau_1 for each
kind seen once; it is met here by simulation. A random ranking or choice is a row of every claim on networks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.examples import influential_pairs, memorization
from surplus.examples.subsets import balanced_subsets
from surplus.space import generator
from surplus.stats import Estimate, Interval, auc
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import flipped, splits
from surplus.studies.figures import figure
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide, undecided
from surplus.studies.verdicts import Check, Verdict, above, arm, beats, exactly, exceeds, table_row
from surplus.tasks import Duration, Recipe, Task, task_from
from surplus.theory import (
    LongTailSimulation,
    draw_frequencies,
    long_tail,
    simulate_long_tail,
    singleton_floor,
    zipf,
)
from surplus.training import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = "Feldman 2020, arXiv 1906.05271; Feldman & Zhang 2020, arXiv 2008.03703"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
MEMORY, AREA, PAIRS = "mean memorization", "AUC for flipped labels", "pairs of high influence"
PICTURED = (MEMORY, AREA, PAIRS, "n tau_1", "n tau_l", "test accuracy")
"""Quantities that the figure shows."""

WRONG = Claim(
    "wrong-labels-are-memorised",
    "Networks that fit their training set know wrong labels by heart, and most right ones not.",
    "Feldman & Zhang 2020, arXiv 2008.03703",
    "5% flipped labels, subsets of 70%: mean memorization of the flipped above 0.8, and its area under the ROC curve"
    " for flipped labels above 0.95, by 95% intervals over seeds. Undecided where the networks' accuracy on what they"
    " were trained on is not above 0.99: they have memorised nothing yet.",
    EVERYWHERE,
)
PRICE = Claim(
    "refusing-singletons-costs-tau-1-each",
    "A learner that guesses on kinds seen once errs more than one that fits them, by tau_1 for each it gets wrong.",
    "Feldman 2020, theorem 2.3",
    "1,000 kinds by Zipf, samples of 1,000, guesses among 10 labels: err(guessing) - err(fitting) - tau_1 * errn(1)"
    " within 3 standard errors of 0 over 400 samples (smoke: 100), with frequencies drawn anew and with the list in"
    " random order, and these 3 standard errors below a tenth of the cost.",
    EVERYWHERE,
)
TAIL = Claim(
    "only-a-long-tail-makes-singletons-matter",
    "Under a long tail the singletons together cost much; without rare kinds tau_1 is large, but nothing is seen once.",
    "Feldman 2020, section 2",
    "n = 50,000, in closed form: tau_1 * E[kinds seen once] of Zipf's list of 50,000 kinds above 10 times that of"
    " 2,500 equally frequent kinds, and n * tau_1 of Zipf above its lower bound, a fifth of the mass of middling"
    " frequencies.",
    EVERYWHERE,
)
REMOVAL = Claim(
    "removing-the-memorised-costs-accuracy",
    "Without the memorised examples, networks generalise worse than without as many random ones.",
    "Feldman & Zhang 2020, arXiv 2008.03703, on CIFAR-100 and ImageNet",
    "CIFAR-10 with its own labels, examples of memorization 0.3 and more: test accuracy without as many random ones -"
    " without them > 2 SE over 5 seeds, paired. At laptop size too few clean examples are memorised to tell.",
    ("gpu",),
)


class MemorizationProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (128,)})
    """Options of the network."""
    share: float = 0.7
    """Part of the data that each network trains on."""
    runs: int = 60
    """Networks per seed; the paper has thousands."""
    flips: float = 0.05
    """Share of labels moved to another class."""
    execution: str = "stacked"
    """How replicas are trained, see `fit`."""
    recipe: Recipe = Recipe(lr=0.1, batch_size=64, duration=Duration("100ep"), schedule="constant")
    """Training; long enough to fit wrong labels, and without augmentation."""
    samples: int = 400
    """Samples of the simulation."""
    removal_seeds: int = 5
    """Networks per arm of the removal."""
    least_memorization: float = 0.3
    """Memorization from which on an example is removed."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": MemorizationProtocol(
        seeds=2,
        runs=10,
        samples=100,
        recipe=Recipe(lr=0.1, batch_size=32, duration=Duration("40ep"), schedule="constant"),
    ),
    "laptop": MemorizationProtocol(seeds=5),
    "gpu": MemorizationProtocol(
        seeds=3,
        data="cifar10",
        network="speed-net",
        options={},
        runs=200,
        execution="spread",
        recipe=Recipe(
            lr=0.05,
            nesterov=True,
            batch_size=128,
            duration=Duration("30ep"),
            schedule="onecycle",
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


def picture(result: StudyResult) -> Figure:
    """The study's figure: the quantities of which several arms are compared."""
    kept = [replace(m, rows=tuple(r for r in m.rows if r["quantity"] in PICTURED)) for m in result.measured]
    return figure(replace(result, measured=tuple(kept)))


@study(
    slug="memorization",
    paper=PAPER,
    title="Does Learning Require Memorization? A Short Tale about a Long Tail",
    claims=(WRONG, PRICE, TAIL, REMOVAL),
    protocols=PROTOCOLS,
    draw=picture,
)
def memorization_study(claim: Claim, bench: Bench[MemorizationProtocol]) -> Measured:
    """What networks know by heart, and what it would cost them not to."""
    tests = {WRONG: wrong_labels, PRICE: price_of_refusing, TAIL: tail_matters, REMOVAL: removing}
    return tests[claim](bench)


# ---- the claims on networks -----------------------------------------------------------------------------------------


def wrong_labels(bench: Bench[MemorizationProtocol]) -> Measured:
    """Memorization of flipped and clean labels, and which pairs of examples influence each other."""
    marks = ("memorization", "held-out error", "random")
    areas: dict[str, list[float]] = {name: [] for name in marks}
    means: dict[str, list[float]] = {"flipped labels": [], "clean labels": []}
    pairs: dict[str, list[float]] = {"memorised, test": [], "random memberships": []}
    fitted, many = [], []
    for seed in bench.seeds:
        task, wrong = _task(bench, seed, bench.protocol.flips)
        found = measured_memorization(bench, task, seed)
        scores = {
            "memorization": found.score.mean,
            "held-out error": 1 - _mean_where(found.hits, ~found.run.trained_on),
            "random": torch.rand(len(wrong), generator=generator(seed, "study", "random score")),
        }
        for name, values in scores.items():
            areas[name].append(float(auc(values, wrong).mean))
        for name, which in (("flipped labels", wrong), ("clean labels", ~wrong)):
            means[name].append(float(found.score.mean[which].nanmean()))
        many.append(float((found.score.mean[~wrong] > 0.25).double().mean()))
        fitted.append(float(found.hits[found.run.trained_on].double().mean()))
        for name, count in pair_counts(bench, task, found, seed).items():
            pairs[name].append(count)
    rows = [
        *(arm(name, AREA, areas[name]) for name in marks[1:]),
        arm("clean labels", MEMORY, means["clean labels"]),
        arm("clean labels", "share of memorization above 0.25", many),
        arm("training examples", "accuracy of the networks", fitted),
        *(arm(name, PAIRS, counts) for name, counts in pairs.items()),
    ]
    reason = _not_fitted(fitted)
    checks = [
        exceeds("flipped labels", MEMORY, means["flipped labels"], 0.8),
        exceeds("memorization", AREA, areas["memorization"], 0.95),
    ]
    if reason:
        return undecided(WRONG, reason, [*(check.detail() for check in checks), *rows])
    note = (
        "Pairs: memorization at least 0.25, influence on a test example at least 0.15. 'random memberships' counts them"
        f" with the networks' subsets exchanged: what chance alone finds with {bench.protocol.runs} networks."
    )
    return decide(WRONG, checks, rows, note)


def _not_fitted(accuracies: list[float]) -> str:
    """Why nothing can be said, if training examples were not fitted."""
    check = exceeds("", "", accuracies, 0.99)
    if check.verdict == "holds":
        return ""
    found = f"{check.interval.value:.4f} [{check.interval.low:.4f}, {check.interval.high:.4f}]"
    return f"the networks do not surely fit their training examples: accuracy {found}, needed above 0.99"


def removing(bench: Bench[MemorizationProtocol]) -> Measured:
    """Train again without the memorised examples, and without as many random ones."""
    p, (task, _) = bench.protocol, _task(bench, bench.seeds[0], 0.0)
    memorised = measured_memorization(bench, task, bench.seeds[0]).score.mean >= p.least_memorization
    count, n = int(memorised.sum()), len(memorised)
    if not 0 < count < n:
        return undecided(REMOVAL, f"{count:,} of {n:,} examples have a memorization of {p.least_memorization} or more")
    chosen = [
        torch.randperm(n, generator=generator(s, "study", "random removal"))[:count] for s in range(p.removal_seeds)
    ]
    others = torch.ones(p.removal_seeds, n, dtype=torch.bool).scatter(1, torch.stack(chosen), False)
    subsets = {"random removed": others, "memorised removed": ~memorised.expand_as(others), "all examples": None}
    arms = {}
    for name, masks in subsets.items():
        run = bench.fit(task, seeds=range(p.removal_seeds), subsets=masks, execution=p.execution)
        arms[name] = bench.accuracy(run).tolist()
    first, second, keep = "random removed", "memorised removed", (n - count) / n
    check = beats(first, second, "test accuracy", arms[first], arms[second], keep=keep)
    rows = [arm(k, "test accuracy", v, keep=1.0 if k == "all examples" else keep) for k, v in arms.items()]
    return decide(REMOVAL, [check], rows)


# ---- the claims on theory -------------------------------------------------------------------------------------------


def price_of_refusing(bench: Bench[MemorizationProtocol]) -> Measured:
    """A thousand kinds in a thousand draws: the simulated cost of refusing singletons against tau_1 for each."""
    size, samples = 1000, bench.protocol.samples
    checks, rows = [], []
    for prior, redraw in (("drawn anew", True), ("list in random order", False)):
        tau = _tau_1(size, redraw)
        seen = simulate_long_tail(zipf(size), size, 2, samples, redraw=redraw, labels=10)
        checks += _agreement(prior, tau, seen)
        rows += [
            table_row(f"theory, {prior}", "n tau_1", _interval(tau, size)),
            table_row(f"simulation, {prior}", "n tau_1", _interval(seen.price, size)),
            table_row(prior, "error paid by the guessing learner", _interval(seen.cost)),
            table_row(prior, "kinds seen once", _interval(_item(seen.kinds, 1))),
        ]
    return decide(PRICE, checks, rows)


def _tau_1(size: int, redraw: bool) -> Estimate:
    """Theory's tau_1, with the standard error that draws of the frequencies leave in it."""
    if not redraw:
        return Estimate(long_tail(zipf(size), size, 2).tau[1], torch.tensor(0.0), 1)
    chance = generator(0, "study", "frequencies")
    return Estimate.over(
        torch.stack([long_tail(draw_frequencies(zipf(size), 200, chance), size, 2).tau[1] for _ in range(10)])
    )


def _agreement(prior: str, tau: Estimate, seen: LongTailSimulation) -> list[Check]:
    """That error and price agree within 3 standard errors, and that these are small enough to tell."""
    errn, stderr = float(seen.unfitted.mean), float(tau.stderr.hypot(seen.price.stderr))
    value, width = float(seen.price.mean - tau.mean) * errn, 3 * stderr * errn
    quantity = "err(guessing) - err(fitting) - tau_1 errn(1)"
    gap = Interval(value, value - width, value + width, 0.9973, int(seen.cost.repeats))
    agrees: Verdict = "holds" if gap.low <= 0 <= gap.high else "fails"
    blur = exactly(width / float(seen.cost.mean), gap.repeats)
    fine: Verdict = "holds" if blur.value < 0.1 else "undecided"
    return [
        Check(f"cost - price, {prior}", quantity, "within 3 SE of 0", gap, agrees),
        Check(f"precision, {prior}", "3 SE / cost", "< 0.1", blur, fine),
    ]


def tail_matters(bench: Bench[MemorizationProtocol]) -> Measured:
    """Closed forms for a list with a long tail and for one without rare kinds."""
    n = 50_000
    lists = {"Zipf, 50,000 kinds": zipf(n), "2,500 equal kinds": torch.full((n // 20,), 20 / n, dtype=torch.float64)}
    tails = {name: long_tail(alpha, n, counts=4) for name, alpha in lists.items()}
    zipfs, equal = tails.values()
    ratio, floor = exactly(float(zipfs.cost[1] / equal.cost[1])), n * singleton_floor(zipf(n), n)
    above_floor = exactly(n * float(zipfs.tau[1]) - floor)
    checks = [
        Check("Zipf / equal kinds", "ratio of the costs of singletons", "> 10", ratio, above(ratio, 10)),
        Check("n tau_1 - lower bound, Zipf", "n tau_1", "> 0", above_floor, above(above_floor)),
    ]
    rows = [table_row(name, "cost of all singletons", exactly(float(t.cost[1]))) for name, t in tails.items()]
    rows += [
        table_row(f"{name}, l = {l}", "n tau_l", exactly(n * float(t.tau[l])))
        for name, t in tails.items()
        for l in range(4)
    ]
    return decide(TAIL, checks, [*rows, table_row("lower bound of n tau_1, Zipf", "n tau_l", exactly(floor))])


def _item(estimate: Estimate, i: int) -> Estimate:
    return Estimate(estimate.mean[i], estimate.stderr[i], estimate.repeats)


def _interval(estimate: Estimate, scale: float = 1.0) -> Interval:
    """A number with its 95% interval, in other units."""
    low, high = estimate.interval()
    repeats = int(torch.as_tensor(estimate.repeats))
    return Interval(scale * float(estimate.mean), scale * float(low), scale * float(high), 0.95, repeats)


# ---- runs and scores ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ensemble:
    """Networks trained on random subsets of one size, and what they know by heart."""

    run: Run
    hits: Tensor
    """(runs, n) whether each is right on each training example."""
    score: Estimate
    """(n,) memorization."""


def _task(bench: Bench[MemorizationProtocol], seed: int, flips: float) -> tuple[Task, Tensor]:
    p = bench.protocol
    data, wrong = flipped(splits(p.data, seed), flips, seed)
    return task_from(data, p.network, recipe=p.recipe, **p.options), wrong


def measured_memorization(bench: Bench[MemorizationProtocol], task: Task, seed: int) -> Ensemble:
    """Memorization of the training examples, by training on random subsets of one size; every network has its seed."""
    p = bench.protocol
    masks = balanced_subsets(len(task.train), p.share, p.runs, seed)
    seeds = [10_000 * (seed + 1) + k for k in range(p.runs)]
    run = bench.fit(task, seeds=seeds, subsets=masks, execution=p.execution)
    hits = bench.outputs(run, "train").argmax(-1) == task.train.targets
    return Ensemble(run, hits, memorization(hits, run.trained_on, torch.full((p.runs,), p.share)))


def pair_counts(bench: Bench[MemorizationProtocol], task: Task, found: Ensemble, seed: int) -> dict[str, int]:
    """Pairs of high influence on test examples; with the networks' subsets exchanged, what chance finds."""
    right = bench.outputs(found.run, "test").argmax(-1) == task.test.targets  # (runs, m)
    exchanged = torch.randperm(len(right), generator=generator(seed, "study", "memberships"))
    members = {"memorised, test": found.run.trained_on, "random memberships": found.run.trained_on[exchanged]}
    return {
        name: len(influential_pairs(right, trained_on, found.score.mean).influence)
        for name, trained_on in members.items()
    }


def _mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over runs where counted: (runs, n) -> (n,)."""
    return torch.where(counted, values.double(), torch.nan).nanmean(0)
