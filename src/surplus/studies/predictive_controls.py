"""What makes a pruning result believable: Blalock et al. 2020, Liu et al. 2019, Frankle et al. 2021, Su et al. 2020.

Four statements about the controls themselves: which methods a shuffled mask hurts, whether compression and theoretical
speed-up rank methods alike, whether a pruned architecture needs the pruned weights, and how seeds scatter.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.networks import build
from surplus.pruning import count, keep_fraction, keep_top, random_mask, shrink
from surplus.pruning.evidence.controls import USUAL, train_controls, train_scratch
from surplus.pruning.schedules.imp import Level, at_start, from_masks, imp, levels_from, to_density
from surplus.pruning.structured.smaller import smaller_task
from surplus.space import WeightSpace, generator
from surplus.stats import Interval, bootstrap
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, exactly, not_above, table_row, two_stderr
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import Run

PAPER = (
    "Blalock et al. 2020, arXiv 2003.03033; Frankle et al. 2021, arXiv 2009.08576; Liu et al. 2019, arXiv 1810.05270;"
    " Su et al. 2020, arXiv 2009.11094"
)
ACCURACY, COST = "test accuracy", "test accuracy lost by shuffling"
SPEEDUP, SPREAD = "speed-up of global / of uniform", "SD over seeds of test accuracy"
SCORES = {"SNIP": "snip", "GraSP": "grasp", "SynFlow": "synflow", "magnitude at init": "magnitude"}
NET_CONTROLS = ("shuffle", "reinit", "inversion", "random-global", "random-erk")

SHUFFLE = Claim(
    "shuffle-separates",
    "Shuffling each layer's mask hurts iterative magnitude pruning, and does not hurt pruning at initialisation.",
    "Frankle et al. 2021, section 5",
    "At 5% density, paired by seed: iterative - its shuffle > 2 SE; and for each of SNIP, GraSP, SynFlow and magnitude"
    " at initialisation, method - its shuffle does not lie above 0 by 2 SE, and is smaller than that of iterative"
    " pruning by > 2 SE.",
    ("smoke", "laptop", "gpu"),
)
RANKING = Claim(
    "compression-is-not-speed-up",
    "Compression and theoretical speed-up rank global and uniform pruning differently.",
    "Blalock et al. 2020, section 7",
    "Largest initial weights of at least one of the conv nets, exact counts: global pruning keeps a tenth fewer weights"
    " than uniform pruning to 10% density, and yet its theoretical speed-up is smaller for every seed (ratio < 1).",
    ("smoke", "laptop", "gpu"),
)
SCRATCH = Claim(
    "scratch-is-as-good",
    "A channel-pruned architecture trained from scratch with the dense network's compute is as good as fine-tuned.",
    "Liu et al. 2019, section 4",
    "VGG-11 on CIFAR-10 with 50% of each layer's channels: test accuracy of scratch-B - fine-tuned, 2 SE interval"
    " paired by seed above -0.005.",
    ("gpu",),
)
SCATTER = Claim(
    "seeds-scatter-more",
    "The further a network is pruned, the more its accuracy depends on the seed.",
    "Blalock et al. 2020, section 6, on reporting the spread over seeds",
    "SD over 20 seeds of test accuracy at compression 16 / at compression 1: 95% bootstrap interval over seeds lies"
    " above 1.",
    ("smoke", "laptop"),
)


class ScratchProtocol(Protocol):
    """Sizes of the claim on training from scratch."""

    data: str = "cifar10"
    network: str = "vgg-11"
    options: dict[str, Any] = Field(default={})
    channels: float = 0.5
    """Share of each layer's channels that stays."""
    execution: str = "spread"
    recipe: Recipe = Recipe(
        lr=0.1,
        weight_decay=1e-4,
        batch_size=128,
        duration=Duration("60ep"),
        schedule="step",
        milestones=(Duration("30ep"), Duration("45ep")),
        augment=Augment(shift=4, flip=True),
        precision="bfloat16",
        channels_last=True,
    )
    tuning: Duration = Duration("15ep")
    """Length of fine-tuning, at a hundredth of the rate."""


class ControlsProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (128, 64)})
    exclude: tuple[str, ...] = ()
    """Layers kept whole."""
    scores: tuple[str, ...] = tuple(SCORES)
    """Pruning at the start, by these."""
    density: float = 0.05
    """Kept share in the claim on shuffling."""
    rate: float = 0.2
    """Largest share that one cut of iterative pruning removes."""
    rewind_step: int = 0
    spread_seeds: int = 20
    """Seeds of the claim on scatter."""
    compressions: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Of the whole network."""
    at: int = 16
    """Compression that decides the claim on scatter."""
    nets: dict[str, dict[str, Any]] = Field(default={"resnet-20": {}, "vgg-11": {}, "conv-4": {}, "lenet-5": {}})
    """Conv nets of the claim on speed-up, for pictures of 3 x 32 x 32, with their options."""
    kept: float = 0.1
    """Density of uniform pruning there; global pruning keeps nine tenths of it."""
    execution: str = "stacked"
    test_share: float = 0.332
    """Share of the digits to test on."""
    recipe: Recipe = Recipe(optimiser="adam", lr=1.2e-3, batch_size=50, duration=Duration("600it"), schedule="constant")
    scratch: ScratchProtocol = ScratchProtocol(seeds=3)


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": ControlsProtocol(
        seeds=2,
        options={"widths": (16, 8)},
        scores=("SNIP", "magnitude at init"),
        rate=0.8,
        spread_seeds=3,
        compressions=(4, 8),
        at=8,
        nets={"small-conv": {}},
        recipe=Recipe(optimiser="adam", lr=3e-3, batch_size=50, duration=Duration("20it"), schedule="constant"),
    ),
    "laptop": ControlsProtocol(seeds=5),
    "gpu": ControlsProtocol(
        seeds=5,
        data="cifar10",
        network="resnet-20",
        options={},
        exclude=("head",),
        rewind_step=500,
        execution="spread",
        recipe=Recipe(
            lr=0.1,
            weight_decay=1e-4,
            batch_size=128,
            duration=Duration("40ep"),
            schedule="step",
            milestones=(Duration("20ep"), Duration("30ep")),
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


def draw(result: StudyResult) -> Any:
    """What shuffling costs, speed-up ratios, and accuracy and its scatter over compression."""
    sheet, (shuffling, ratio, curve, spread) = grid(4)
    of = {m.claim.slug: m for m in result.measured}
    dots(shuffling, [r for r in of[SHUFFLE.slug].rows if r["quantity"] == COST])
    shuffling.set_xlabel(f"{COST}, 2 SE either side", fontsize=7)
    dots(ratio, [r for r in of[RANKING.slug].rows if r["quantity"] == SPEEDUP and "needs" not in r])
    ratio.set_xlabel(f"{SPEEDUP}, range over seeds", fontsize=7)
    for axes, at in ((shuffling, 0), (ratio, 1)):
        axes.axvline(at, color=COLOURS["undecided"], lw=0.5)
    rows = of[SCATTER.slug].rows
    for axes, quantity in ((curve, ACCURACY), (spread, SPREAD)):
        for name in ("iterative", "random"):
            points = [r for r in rows if r["quantity"] == quantity and r["row"] == name]
            ends = [[abs(r["value"] - r[k]) for r in points] for k in ("low", "high")]
            x, y = [r["compression"] for r in points], [r["value"] for r in points]
            axes.errorbar(x, y, ends, marker="o", ms=3, lw=1, label=name)
        axes.set_xscale("log", base=2)
        ticks = sorted({round(r["compression"]) for r in rows if "compression" in r})
        axes.set_xticks(ticks, ticks)
        axes.set_xlabel("compression", fontsize=7)
        axes.set_ylabel(quantity, fontsize=7)
        axes.tick_params(labelsize=7)
    spread.set_yscale("log")
    curve.legend(fontsize=6, frameon=False)
    for axes, claim in ((shuffling, SHUFFLE), (ratio, RANKING), (curve, SCATTER), (spread, SCATTER)):
        m = of[claim.slug]
        axes.set_title(f"{claim.slug}: {m.verdict}", fontsize=8, color=COLOURS[m.verdict], loc="left")
    return sheet


@study(
    slug="predictive-controls",
    paper=PAPER,
    title="What is the State of Neural Network Pruning?",
    claims=(SHUFFLE, RANKING, SCRATCH, SCATTER),
    protocols=PROTOCOLS,
    draw=draw,
)
def predictive_controls(claim: Claim, bench: Bench[ControlsProtocol]) -> Measured:
    """The controls that a pruning result has to beat, and what they say of its methods."""
    tests = {
        SHUFFLE: shuffle_separates,
        RANKING: speed_up_disagrees,
        SCRATCH: scratch_is_as_good,
        SCATTER: seeds_scatter_more,
    }
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def shuffle_separates(bench: Bench[ControlsProtocol]) -> Measured:
    """What shuffling costs iterative pruning, and pruning at the start by four scores."""
    task, ticket, rows = _task(bench), iterative(bench), list[Row]()
    found = {"iterative": (ticket, _controls(bench, ticket, None))}
    for name in bench.protocol.scores:
        how: dict[str, Any] = {"density": bench.protocol.density, "score": SCORES[name], "seeds": bench.seeds}
        early = _noted(bench, at_start(task, **how, **_pruned(bench))[-1])
        found[name] = (early, _controls(bench, early, SCORES[name]))
    costs = {name: _accuracy(bench, a) - _accuracy(bench, c["shuffle"]) for name, (a, c) in found.items()}
    zero = torch.zeros(len(bench.seeds))
    checks = [_cost(bench, "iterative", costs["iterative"], above(two_stderr(costs["iterative"], zero)), "> 2 SE")]
    for name in bench.protocol.scores:
        interval = two_stderr(costs[name], zero)
        checks += [_cost(bench, name, costs[name], not_above(interval), "not > 2 SE")]
        checks += [beats("cost for iterative", f"for {name}", ACCURACY, costs["iterative"], costs[name])]
    for name, (level, controls) in found.items():
        rows.append(arm(name, ACCURACY, _accuracy(bench, level), density=level.density))
        rows += [
            arm(_control_name(name, n), ACCURACY, _accuracy(bench, c), density=level.density)
            for n, c in controls.items()
        ]
    return decide(SHUFFLE, checks, rows, " ".join(_collapsed(task, {n: a for n, (a, _) in found.items()})))


def speed_up_disagrees(bench: Bench[ControlsProtocol]) -> Measured:
    """Global pruning to fewer weights beside uniform pruning: which one saves more multiply-adds?"""
    d, rows, worst = bench.protocol.kept, list[Row](), []
    for name, options in bench.protocol.nets.items():
        space = WeightSpace(partial(build, name, (3, 32, 32), 10, **options))
        ratios = [_speedup_ratio(space, seed, d) for seed in bench.seeds]
        worst.append(max(ratios))
        middle = sum(ratios) / len(ratios)
        interval = Interval(middle, min(ratios), max(ratios), 1.0, len(ratios))
        rows.append(table_row(name, SPEEDUP, interval, density=d))
    ratio = exactly(min(worst), len(bench.seeds))
    check = Check("least of the largest ratios", SPEEDUP, "< 1", ratio, "holds" if ratio.value < 1 else "fails")
    return decide(RANKING, [check], rows)


def scratch_is_as_good(bench: Bench[ControlsProtocol]) -> Measured:
    """Fine-tuning half of the channels, against training them from fresh weights."""
    p = bench.protocol.scratch
    task = task_from(splits(p.data, 0), p.network, recipe=p.recipe, **p.options)
    options: dict[str, Any] = {**bench.options, "execution": p.execution}
    dense = bench.fit(task, seeds=range(p.seeds), execution=p.execution)
    tuned = [_tuned(bench, task, dense, k) for k in range(p.seeds)]
    scratch = train_scratch(task, tuned, **options)
    arms = {"fine-tuned": tuned, **scratch}
    values = {n: torch.cat([bench.accuracy(bench.noted(r)) for r in runs]) for n, runs in arms.items()}
    interval = two_stderr(values["scratch-B"], values["fine-tuned"])
    check = Check("scratch-B - fine-tuned", ACCURACY, "> -0.005", interval, above(interval, -0.005))
    rows = [arm(n, ACCURACY, v) for n, v in {"dense": bench.accuracy(dense), **values}.items()]
    return decide(SCRATCH, [check], rows)


def seeds_scatter_more(bench: Bench[ControlsProtocol]) -> Measured:
    """Accuracy and its scatter over compression, for iterative pruning and for random masks."""
    p, rows, values = bench.protocol, list[Row](), dict[int, Tensor]()
    task, levels = _task(bench), compressed(bench)
    x = task.prepare(task.train.inputs[:1])
    for times, level in zip((1, *p.compressions), levels, strict=True):
        size = count(task.space.module, x, level.masks[0])
        notes = {"compression": size.compression, "speedup": size.speedup}
        values[times] = _accuracy(bench, level)
        arms = {"iterative": values[times]} | ({"random": _accuracy(bench, _random(bench, level))} if times > 1 else {})
        for name, v in arms.items():
            rows.append(arm(name, ACCURACY, v, **notes))
            rows.append(table_row(name, SPREAD, bootstrap(v.double(), _sd), **notes))
    both = torch.stack([values[p.at], values[1]], 1).double()
    ratio = bootstrap(both, lambda rows: _sd(rows[:, 0]) / max(_sd(rows[:, 1]), 1e-12))
    check = Check(f"SD at {p.at} / at 1", "ratio of SDs over seeds", "> 1", ratio, above(ratio, 1.0))
    return decide(SCATTER, [check], rows)


# ---- runs -----------------------------------------------------------------------------------------------------------


def iterative(bench: Bench[ControlsProtocol]) -> Level:
    """Iterative magnitude pruning to the density of the claim on shuffling."""
    p = bench.protocol
    how: dict[str, Any] = {"density": p.density, "rate": p.rate, "rewind_step": p.rewind_step, "seeds": bench.seeds}
    *_, last = (_noted(bench, level) for level in imp(_task(bench), **how, **_pruned(bench)))
    return last


def compressed(bench: Bench[ControlsProtocol]) -> list[Level]:
    """The dense networks, and each compression cut from the one before and rewound."""
    p, task = bench.protocol, _task(bench)
    seeds, options = list(range(p.spread_seeds)), _options(bench)
    first = imp(task, levels=0, rewind_step=p.rewind_step, seeds=seeds, **options)[0]
    cuts = [to_density(keep_fraction(task.space, c, p.exclude), exclude=p.exclude) for c in p.compressions]
    return [_noted(bench, level) for level in levels_from(first, cuts, step=p.rewind_step, **options)]


def _random(bench: Bench[ControlsProtocol], level: Level) -> Level:
    """Masks of random places with as many weights, from the same points."""
    p, seeds, space = bench.protocol, level.run.seeds, level.run.task.space
    chances = [generator(s, "study controls", "random", level.density) for s in seeds]
    masks = torch.stack([random_mask(space, level.density, g, exclude=p.exclude) for g in chances])
    return _noted(bench, from_masks(level.run.task, masks, level.start, seeds, p.rewind_step, **_options(bench)))


def _controls(bench: Bench[ControlsProtocol], level: Level, score: str | None) -> dict[str, Level]:
    """The controls of a method; those of iterative pruning also hold one cut after training."""
    p = bench.protocol
    names = (*NET_CONTROLS, *(n for n in USUAL if n == "magnitude-after-training" and score is None))
    step = p.rewind_step if score is None else 0
    found = train_controls(_task(bench), level, step=step, names=names, score=score, **_pruned(bench))
    return {n: _noted(bench, c) for n, c in found.items() if isinstance(c, Level)}


def _control_name(method: str, control: str) -> str:
    """Random masks come first in a row's name: they are the same kind of thing for every method."""
    return f"{control}, for {method}" if control.startswith("random") else f"{method}, {control}"


def _collapsed(task: Task, levels: dict[str, Level]) -> list[str]:
    """A sentence for each method that leaves a layer the one weight that no cut may take, in most seeds."""
    told = []
    for name, level in levels.items():
        for block in (b for b in task.space.blocks if b.prunable):
            alone, n = int((level.masks[:, block.slice].sum(1) <= 1).sum()), len(level.masks)
            if 2 * alone > n:
                what = f"one of the {block.size:,} weights of {block.name} in {alone} of {n} networks"
                told.append(
                    f"{name[0].upper()}{name[1:]} leaves {what}: a layer collapses, and that of its shuffle and"
                    " its inversion, too."
                )
    return told


def _cost(bench: Bench[ControlsProtocol], name: str, costs: Tensor, verdict: Any, needs: str) -> Check:
    interval = two_stderr(costs, torch.zeros_like(costs))
    return Check(name, COST, needs, interval, verdict, {"density": bench.protocol.density})


def _speedup_ratio(space: WeightSpace, seed: int, density: float) -> float:
    """Theoretical speed-up of global pruning to nine tenths of the density, over that of uniform pruning to it."""
    size = space.init(seed).abs()
    masks = keep_top(space, size, density=0.9 * density), keep_top(space, size, density=density, scope="layer")
    fewer, uniform = (count(space.module, (3, 32, 32), mask) for mask in masks)
    assert fewer.compression > uniform.compression
    return fewer.speedup / uniform.speedup


def _tuned(bench: Bench[ControlsProtocol], task: Task, dense: Run, k: int) -> Run:
    """The k-th dense network with fewer channels, fine-tuned."""
    p, theta = bench.protocol.scratch, dense.theta[k]
    module = task.space.write(theta, task.statistics(theta))
    x = task.prepare(task.train.inputs[:1])
    small, start = smaller_task(task, shrink(module, x, keep=p.channels, scope="layer"))
    small = small.with_recipe(lr=p.recipe.lr / 100, duration=p.tuning, schedule="constant", milestones=())
    return bench.fit(small, seeds=[dense.seeds[k]], start=start[None], execution=p.execution)


def _sd(values: Tensor) -> float:
    return float(values.std())


def _task(bench: Bench[ControlsProtocol]) -> Task:
    p = bench.protocol
    return task_from(splits(p.data, 0, p.test_share), p.network, recipe=p.recipe, **p.options)


def _accuracy(bench: Bench[ControlsProtocol], level: Level) -> Tensor:
    return bench.accuracy(level.run)


def _noted(bench: Bench[ControlsProtocol], level: Level) -> Level:
    bench.noted(level.run)
    return level


def _options(bench: Bench[ControlsProtocol]) -> dict[str, Any]:
    return {**bench.options, "execution": bench.protocol.execution}


def _pruned(bench: Bench[ControlsProtocol]) -> dict[str, Any]:
    return {**_options(bench), "exclude": bench.protocol.exclude}
