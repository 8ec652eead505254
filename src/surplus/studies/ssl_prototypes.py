"""Sorscher et al. 2022, "Beyond neural scaling laws": pruning beats the power law, by hard examples once data abound.

Four claims are about a perceptron whose test error is known exactly: each is simulated at finite size and compared with
`surplus.theory.perceptron_pruning`. A fifth asks what theory says of the law itself, the sixth whether the label-free
distance to k-means prototypes turns the same way on pictures. Random examples, as many as are kept, are always a row.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.examples import select
from surplus.examples.active import principal_components
from surplus.examples.scores.prototypes import prototype_distance
from surplus.space import generator
from surplus.stats import Estimate, Interval
from surplus.studies.base import Bench, Protocol, Untestable, study
from surplus.studies.data import provided, splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, exactly, not_above, table_row, two_stderr, within
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.theory import fit_law, perceptron_pruning, pruning_frontier, simulate_perceptron_pruning
from surplus.theory.perceptron_pruning import Keep
from surplus.training import features

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = "Sorscher, Geirhos, Shekhar, Ganguli & Morcos 2022, arXiv 2206.14486"
ERROR, THEORY, ACCURACY, EXPONENT = "test error", "test error by theory", "test accuracy", "exponent"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")

TURN = Claim(
    "keep-hard-when-data-abound",
    "With little data the easiest half teaches more, with much data the hardest half, which then costs nothing.",
    "Sorscher et al. 2022, section 2",
    "Test error of a max-margin perceptron (200 dimensions, 20 repeats, perfect probe). With 1 example per dimension:"
    " hardest - easiest half > 5 SE, easiest half - all not above 0 by 2 SE. With 10: easiest - hardest half > 2 SE,"
    " hardest half - all within 2 SE of 0.",
    EVERYWHERE,
)
POOL = Claim(
    "choosing-from-more-helps",
    "Of equally many examples taught, the hardest of a larger pool teach more.",
    "Sorscher et al. 2022, section 2",
    "Test error with 5 examples taught per dimension (200 dimensions, 20 repeats): within 3 SE of theory, .0938, .0492"
    " and .0200, for the hardest 1, 1/2 and 1/5 of the pool; and each smaller share lower by > 2 SE.",
    EVERYWHERE,
)
SCARCE = Claim(
    "choosing-hard-hurts-when-few-are-taught",
    "With one example taught per dimension the order is reversed: the hardest of a larger pool teach less.",
    "Sorscher et al. 2022, section 2",
    "Test error with 1 example taught per dimension (200 dimensions, 20 repeats): within 3 SE of theory, .2657 and"
    " .4177, for the hardest 1 and 1/5 of the pool; and higher by > 2 SE from 1 to 1/2 and to 1/5.",
    EVERYWHERE,
)
PROBE = Claim(
    "an-imperfect-probe-costs",
    "The theory holds for a probe at an angle to the teacher, whose choice teaches less.",
    "Sorscher et al. 2022, section 2",
    "Test error (200 dimensions, 20 repeats) within 3 SE of theory for five windows: 10 examples per dimension, hardest"
    " .3, 0 and 20 degrees; 6, hardest .5, 10 and 40 degrees; 1, easiest .5, 40 degrees. And 20 degrees - 0 > 2 SE.",
    EVERYWHERE,
)
LAW = Claim(
    "pruning-bends-the-power-law",
    "Test error falls as one over the examples taught; chosen by a perfect probe it falls faster and faster, by an"
    " imperfect one as a power again.",
    "Sorscher et al. 2022, section 2",
    "By theory, exponents of power laws fitted to the error. All data, 10 to 60 examples per dimension: within 0.05 of"
    " 1. Best share of a pool of 1000: with a perfect probe above 1 from 2 to 4 examples taught, and larger than from 1"
    " to 2; at 20 degrees from 32 to 128 within 0.1 of 1.",
    EVERYWHERE,
)
METRIC = Claim(
    "prototypes-turn-the-same-way",
    "By the distance to k-means prototypes, without labels, the easiest examples are the ones to keep of scarce data.",
    "Sorscher et al. 2022, sections 3 to 5",
    "Test accuracy at 5% kept (MNIST where provided, else digits; 50 principal components; classes half balanced):"
    " easiest - hardest > 2 SE, paired by seed. gpu, CIFAR-10: easiest - hardest > 2 SE at 10% kept; at 80% hardest -"
    " random above -0.005 by its 2 SE interval.",
    EVERYWHERE,
)

Taught = tuple[float, float, float, Keep]
"""Examples per dimension before pruning, share kept, angle of the probe in degrees, part kept."""


class PrototypesProtocol(Protocol):
    """Sizes of one scale."""

    dimension: int = 200
    """Dimensions of the simulated perceptrons."""
    repeats: int = 20
    """Simulated students per arm."""
    points: int = 13
    """Points of each theoretical curve."""
    shares: int = 13
    """Shares on the grid from which the best is sought."""
    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA; "mnist" gives way to the digits where it is missing."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (256,)})
    """Options of the network."""
    embedding: str = ""
    """A network, trained on all examples, whose features are clustered; principal components of the pixels if empty."""
    dims: int = 50
    """Principal components."""
    keeps: tuple[float, ...] = (0.05, 0.5)
    """Shares of the pictures to train on."""
    execution: str = "auto"
    """How replicas are trained, see `fit`."""
    recipe: Recipe = Recipe(lr=0.05, nesterov=True, weight_decay=5e-4, batch_size=64, duration=Duration("2000it"))
    """Training; as many steps for every share."""


PROTOCOLS: dict[Scale, PrototypesProtocol] = {
    "smoke": PrototypesProtocol(
        seeds=2,
        dimension=30,
        repeats=5,
        points=2,
        shares=4,
        options={"widths": (32,)},
        keeps=(0.05,),
        recipe=Recipe(lr=0.05, batch_size=32, duration=Duration("100it")),
    ),
    "laptop": PrototypesProtocol(seeds=5, data="mnist"),
    "gpu": PrototypesProtocol(
        seeds=5,
        data="cifar10",
        network="speed-net",
        options={},
        embedding="resnet-20",
        execution="spread",
        keeps=(0.1, 0.8),
        recipe=Recipe(
            lr=0.05,
            nesterov=True,
            weight_decay=5e-4,
            batch_size=128,
            duration=Duration("7800it"),
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


def draw(result: StudyResult) -> Figure:
    """Theory as lines, simulated students as points with their intervals; and the pictures' accuracies."""
    claims = {m.claim.slug: m for m in result.measured}
    panels = (
        (TURN, "examples owned per dimension"),
        (POOL, "examples taught per dimension"),
        (LAW, "examples taught per dimension"),
        (PROBE, "share of the pool that is kept"),
    )
    sheet, axes = grid(len(panels) + 1)
    sheet.set_size_inches(9, 10)
    for panel, (claim, label) in zip(axes, panels, strict=False):
        extra = claims[SCARCE.slug].rows if claim is POOL else ()
        _curves(panel, [*claims[claim.slug].rows, *extra])
        panel.set_xlabel(label, fontsize=7)
        _title(panel, *(claims[c.slug] for c in ((POOL, SCARCE) if claim is POOL else (claim,))))
    told = [r for r in claims[METRIC.slug].rows if r["quantity"] == ACCURACY and "needs" not in r and "keep" in r]
    dots(axes[-1], [r for r in told if " - " not in r["row"]])
    axes[-1].set_xlabel(ACCURACY, fontsize=7)
    _title(axes[-1], claims[METRIC.slug])
    return sheet


@study(
    slug="ssl-prototypes",
    paper=PAPER,
    title="Beyond neural scaling laws: beating power law scaling via data pruning",
    claims=(TURN, POOL, SCARCE, PROBE, LAW, METRIC),
    protocols=PROTOCOLS,
    draw=draw,
)
def ssl_prototypes(claim: Claim, bench: Bench[PrototypesProtocol]) -> Measured:
    """Hard or easy examples, and by which law: perceptrons with an exact theory, then pictures."""
    tests = {TURN: order_turns, POOL: more_to_choose_from, SCARCE: few_taught, PROBE: imperfect_probe}
    tests |= {LAW: law_bends, METRIC: prototypes_turn}
    return tests[claim](bench)


# ---- perceptrons ----------------------------------------------------------------------------------------------------


def order_turns(bench: Bench[PrototypesProtocol]) -> Measured:
    """Half of little and half of much data: hardest, easiest, random; and all of it."""
    few, many = ({n: errors(bench, w) for n, w in _halves(owned).items()} for owned in (1.0, 10.0))
    flip = beats("hardest half", "easiest half", ERROR, few["hardest half"], few["easiest half"], alpha=1)
    five = _stderrs(few["hardest half"] - few["easiest half"], 5)
    spare = beats("easiest half", "all", ERROR, few["easiest half"], few["all"], alpha=1)
    same = two_stderr(many["hardest half"], many["all"])
    checks = [
        Check(flip.name, ERROR, "> 5 SE", five, above(five), flip.notes),
        Check(spare.name, ERROR, "not > 2 SE", spare.interval, not_above(spare.interval), spare.notes),
        beats("easiest half", "hardest half", ERROR, many["easiest half"], many["hardest half"], alpha=10),
        Check("hardest half - all", ERROR, "0 within 2 SE", same, _holding(same, 0.0), {"alpha": 10}),
    ]
    rows = [arm(n, ERROR, e, alpha=a, curve=n) for a, arms in ((1, few), (10, many)) for n, e in arms.items()]
    for owned in _between(0.5, 20, bench.protocol.points):
        for name, window in _halves(owned).items():
            rows.append(_by_theory(name, theory(window), owned))
    return decide(TURN, checks, rows)


def _halves(owned: float) -> dict[str, Taught]:
    """What may be taught of so many examples per dimension."""
    return {
        "hardest half": (owned, 0.5, 0.0, "hard"),
        "easiest half": (owned, 0.5, 0.0, "easy"),
        "random half": (owned / 2, 1.0, 0.0, "hard"),
        "all": (owned, 1.0, 0.0, "hard"),
    }


def more_to_choose_from(bench: Bench[PrototypesProtocol]) -> Measured:
    """As many taught, from larger and larger pools."""
    return _same_taught(POOL, bench, 5.0, falls=True, compared=(1.0, 0.5, 0.2))


def few_taught(bench: Bench[PrototypesProtocol]) -> Measured:
    """The same where few are taught."""
    return _same_taught(SCARCE, bench, 1.0, falls=False, compared=(1.0, 0.2))


def _same_taught(
    claim: Claim, bench: Bench[PrototypesProtocol], alpha: float, falls: bool, compared: tuple[float, ...]
) -> Measured:
    """`alpha` per dimension taught, the hardest share f of a pool of alpha / f, for falling f."""
    names = {1.0: "random", 0.5: "hardest 1/2", 0.2: "hardest 1/5"}
    arms: dict[float, Taught] = {f: (alpha / f, f, 0.0, "hard") for f in names}
    checks = [agrees(bench, names[f], arms[f], alpha=alpha, curve=names[f]) for f in compared]
    for f, smaller in ((1.0, 0.5), (0.5, 0.2)):
        high, low = (f, smaller) if falls else (smaller, f)
        a, b = errors(bench, arms[high]), errors(bench, arms[low])
        checks.append(beats(names[high], names[low], ERROR, a, b, alpha=alpha))
    rows = [
        arm(names[f], ERROR, errors(bench, arms[f]), alpha=alpha, curve=names[f]) for f in names if f not in compared
    ]
    if falls:
        for taught in _between(0.5, 20, bench.protocol.points):
            rows += [_by_theory(name, theory((taught / f, f, 0.0, "hard")), taught) for f, name in names.items()]
    return decide(claim, checks, rows)


def imperfect_probe(bench: Bench[PrototypesProtocol]) -> Measured:
    """Students of probes at an angle, against theory."""
    arms: list[Taught] = [(10, 0.3, 0, "hard"), (10, 0.3, 20, "hard"), (6, 0.5, 10, "hard")]
    arms += [(6, 0.5, 40, "hard"), (1, 0.5, 40, "easy")]
    checks = [agrees(bench, _named(taught), taught) for taught in arms]
    for check, (owned, f, degrees, _) in zip(checks, arms, strict=True):
        if owned == 10:
            check.notes.update(alpha=f, curve=f"{degrees:g} degrees")
    exact, turned = (errors(bench, taught) for taught in arms[:2])
    checks.append(beats("20 degrees", "0 degrees", ERROR, turned, exact, alpha_tot=10))
    rows = [
        arm(f"random, {alpha:g} per dimension", ERROR, errors(bench, (alpha, 1.0, 0.0, "hard"))) for alpha in (3.0, 0.5)
    ]
    for f in _between(0.05, 1, bench.protocol.points):
        for degrees in (0, 10, 20, 40):
            rows.append(_by_theory(f"{degrees} degrees", theory((10.0, f, degrees, "hard")), f))
        rows.append(_by_theory("random", perceptron_pruning(10 * f).error, f))
    note = "The curves are those of 10 examples owned per dimension; the arms with 6 and 1 are rows only."
    return decide(PROBE, checks, rows, note)


def law_bends(bench: Bench[PrototypesProtocol]) -> Measured:
    """Exponents of the error of theory, for all data and along the best that a pool of 1000 per dimension allows."""
    pool, shares = 1000.0, bench.protocol.shares
    random = exactly(_exponent({a: perceptron_pruning(a).error for a in _between(10, 60, 6)}))
    ranges = {"perfect probe, 1 to 2": (1, 2, 0), "perfect probe, 2 to 4": (2, 4, 0)}
    ranges["20 degrees, 32 to 128"] = (32, 128, 20)
    slopes = {}
    for name, (low, high, degrees) in ranges.items():
        slopes[name] = _exponent({a: best(a, pool, degrees, shares) for a in (low, high)})
    early, late, back = (exactly(slope) for slope in slopes.values())
    gain = exactly(late.value - early.value)
    checks = [
        Check("random, 10 to 60", EXPONENT, "in [0.95, 1.05]", random, within(random, 0.95, 1.05)),
        Check("perfect probe, 2 to 4", EXPONENT, "> 1", late, above(late, 1.0)),
        Check("perfect probe, 2 to 4 - 1 to 2", EXPONENT, "> 0", gain, above(gain)),
        Check("20 degrees, 32 to 128", EXPONENT, "in [0.9, 1.1]", back, within(back, 0.9, 1.1)),
    ]
    rows = [table_row("perfect probe, 1 to 2", EXPONENT, early)]
    for alpha in _between(0.5, 128, bench.protocol.points):
        rows.append(_by_theory("random", perceptron_pruning(alpha).error, alpha))
        for degrees in (0, 10, 20, 40):
            rows.append(_by_theory(f"best share, {degrees} degrees", best(alpha, pool, degrees, shares), alpha))
    note = (
        "A pool of 1000 examples per dimension is the floor of the perfect probe, the error of teaching them all; from"
        " an endless pool its error falls in proportion to the share, at any number taught above 2 per dimension."
    )
    return decide(LAW, checks, rows, note)


@cache
def best(alpha: float, pool: float, degrees: float, shares: int) -> float:
    """Test error of the best part of the pool."""
    return pruning_frontier(alpha, pool, math.radians(degrees), shares).error


def theory(taught: Taught) -> float:
    """Test error in the limit of many dimensions."""
    owned, f, degrees, keep = taught
    return perceptron_pruning(owned, f, math.radians(degrees), keep).error


def errors(bench: Bench[PrototypesProtocol], taught: Taught) -> Tensor:
    """(repeats,) test errors of simulated students; the same draws for every arm with as many examples owned."""
    return _simulated(taught, bench.protocol.dimension, bench.protocol.repeats)


@cache
def _simulated(taught: Taught, dimension: int, repeats: int) -> Tensor:
    owned, f, degrees, keep = taught
    return simulate_perceptron_pruning(owned, f, math.radians(degrees), keep, dimension, repeats).error


def agrees(bench: Bench[PrototypesProtocol], name: str, taught: Taught, **notes: Any) -> Check:
    """The condition that the simulated error is within three standard errors of theory."""
    expected = theory(taught)
    interval = _stderrs(errors(bench, taught), 3)
    needs = f"{expected:.4f} within 3 SE"
    return Check(name, ERROR, needs, interval, _holding(interval, expected), {"theory": expected, **notes})


def _holding(interval: Interval, value: float) -> Any:
    """Whether the interval holds the value."""
    if math.isnan(interval.low):
        return "undecided"
    return "holds" if interval.low <= value <= interval.high else "fails"


def _stderrs(samples: Tensor, many: float) -> Interval:
    """The mean, plus and minus so many standard errors."""
    from scipy.stats import t as student

    estimate, freedom = Estimate.over(samples), len(samples) - 1
    mean, reach = float(estimate.mean), many * float(estimate.stderr)
    level = float(2 * student.cdf(many, freedom) - 1) if freedom else 0.0
    return Interval(mean, mean - reach, mean + reach, level, len(samples))


def _exponent(curve: dict[float, float]) -> float:
    """Of the power law A alpha^-a through the curve, a; to nine digits, beyond which rounding decides comparisons."""
    return round(fit_law(list(curve), list(curve.values()), "power", bootstrap=0).parameters["a"], 9)


def _between(low: float, high: float, points: int) -> list[float]:
    """Evenly spaced logarithms, both ends included."""
    return [low * (high / low) ** (i / (points - 1)) for i in range(points)]


def _by_theory(curve: str, error: float, alpha: float) -> Row:
    return table_row(f"{curve}, theory", THEORY, exactly(error), alpha=alpha, curve=curve)


def _named(taught: Taught) -> str:
    owned, f, degrees, keep = taught
    return f"{'hardest' if keep == 'hard' else 'easiest'} {f:g} of {owned:g}, {degrees:g} degrees"


# ---- pictures -------------------------------------------------------------------------------------------------------


def prototypes_turn(bench: Bench[PrototypesProtocol]) -> Measured:
    """Train on the easiest, hardest and random part by the distance to prototypes."""
    source = _source(bench.protocol.data)
    tables: dict[float, dict[str, list[float]]] = {keep: {} for keep in bench.protocol.keeps}
    for seed in bench.seeds:
        task = _task(bench, source, seed)
        distance = prototype_distance(_embedded(bench, task, seed), k=task.classes, seed=seed).mean
        for keep, arms in tables.items():
            for name, value in _accuracies(bench, task, distance, keep, seed).items():
                arms.setdefault(name, []).append(value)
    scarce = min(tables)
    few = tables[scarce]
    checks = [beats("easiest", "hardest", ACCURACY, few["easiest"], few["hardest"], keep=scarce)]
    if bench.scale == "gpu":
        much = tables[max(tables)]
        cost = two_stderr(much["hardest"], much["random"])
        checks.append(Check("hardest - random", ACCURACY, "> -0.005", cost, above(cost, -0.005), {"keep": max(tables)}))
    rows = [arm(name, ACCURACY, values, keep=keep) for keep, arms in tables.items() for name, values in arms.items()]
    note = (
        f"Data: {source}. Only the smallest share is part of the criterion." if len(tables) > 1 else f"Data: {source}."
    )
    return decide(METRIC, checks, rows, note if bench.scale != "gpu" else f"Data: {source}.")


def _source(name: str) -> str:
    """The data to use: MNIST gives way to the digits where it is missing."""
    try:
        return name if name == "digits" else provided(name)[0].name
    except Untestable:
        if name != "mnist":
            raise
        return "digits"


def _task(bench: Bench[PrototypesProtocol], source: str, seed: int) -> Task:
    p = bench.protocol
    return task_from(splits(source, seed), p.network, recipe=p.recipe, **p.options)


def _embedded(bench: Bench[PrototypesProtocol], task: Task, seed: int) -> Tensor:
    """(n, d): principal components of the pixels, or the penultimate features of a network trained on everything."""
    p = bench.protocol
    if not p.embedding:
        return torch.as_tensor(principal_components(task.train.inputs.flatten(1).float() / 255, p.dims, seed=seed))
    full = task_from(splits(p.data, seed), p.embedding, recipe=p.recipe)
    run = bench.fit(full, seeds=[1000 + seed], execution=p.execution)
    return features(full, run.theta[0].to(bench.device), full.train).cpu()


def _accuracies(
    bench: Bench[PrototypesProtocol], task: Task, distance: Tensor, keep: float, seed: int
) -> dict[str, float]:
    """Test accuracy after training on each part, from one initial point and for as many steps."""
    count, labels = round(keep * len(distance)), task.train.targets
    subsets = {
        "easiest": select("prototypes", distance, count, labels=labels, prefer="easiest"),
        "hardest": select("prototypes", distance, count, labels=labels, prefer="hardest"),
        "random": select("random", distance, count, generator=generator(seed, "study", "random subset")),
    }
    how = bench.protocol.execution
    run = bench.fit(task, seeds=[seed] * len(subsets), subsets=list(subsets.values()), execution=how)
    return dict(zip(subsets, bench.accuracy(run).tolist(), strict=True))


# ---- the figure -----------------------------------------------------------------------------------------------------

SHADES = ("#b3372f", "#1f4e79", "#d98c2b", "#4a9bb5", "#7a5195")


def _curves(axes: Axes, rows: list[Row]) -> None:
    """Lines of theory and points of simulation against `alpha`, a colour per curve, random choice in grey."""
    rows = [r for r in rows if "curve" in r]
    lines = dict.fromkeys(r["curve"] for r in rows if r["quantity"] == THEORY)
    shades = iter(SHADES)
    for name in lines:
        own = [r for r in rows if r["curve"] == name]
        plain = name.startswith("random")
        shade, dash = ("#777777", "--") if plain else (next(shades), "-")
        points = sorted((r["alpha"], r["value"]) for r in own if r["quantity"] == THEORY)
        axes.plot(*zip(*points, strict=True), dash, color=shade, lw=1.4, label=name)
        for row in (r for r in own if r["quantity"] == ERROR):
            axes.plot([row["alpha"]] * 2, [row["low"], row["high"]], color=shade, lw=1)
            axes.plot(row["alpha"], row["value"], "o", color=shade, ms=3.5, mec="white", mew=0.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, (low, high) in ((axes.xaxis, axes.dataLim.intervalx), (axes.yaxis, axes.dataLim.intervaly)):
        ticks = [m * 10.0**e for e in range(-4, 3) for m in (1, 2, 5) if 0.9 * low <= m * 10.0**e <= 1.1 * high]
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set_ylabel(ERROR, fontsize=7)
    axes.tick_params(labelsize=7, which="both")
    axes.legend(fontsize=6, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _title(axes: Axes, *measured: Measured) -> None:
    text = "\n".join(f"{m.claim.slug}: {m.verdict}" for m in measured)
    axes.set_title(text, fontsize=8, color=COLOURS[measured[0].verdict], loc="left")
