"""Price & Tanner 2021, "Dense for the Price of Sparse": a fixed cosine matrix under few trainable weights.

Each arm trains the same places of the same seeds by the same recipe. Plain sparse starts those weights at their usual
random values and has zeros elsewhere; "rescaled" starts them larger, by 1 / sqrt(the layer's density), so that signals
keep their variance; DCT + sparse starts them at zero on top of the offset; "offset alone" trains no sparse weight, only
one factor for each layer, biases and normalisation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from surplus.networks import build
from surplus.pruning import random_mask
from surplus.pruning.budgets import Rule
from surplus.pruning.schedules.dct_plus_sparse import dct_plus_sparse
from surplus.pruning.schedules.imp import Level, from_masks
from surplus.reparam import DctPlusSparse
from surplus.space import WeightSpace, generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, over_seeds, two_stderr, within
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import fit

EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
ACCURACY, SPREAD = "test accuracy", "log10 of variance, largest over smallest layer (12 or more: 12)"
DCT, PLAIN, RESCALED, ALONE = "DCT + sparse", "random sparse", "random sparse, rescaled", "offset alone"

BETTER = Claim(
    "beats-plain-sparse",
    "With very few trainable weights, a sparse layer on a cosine offset beats the same sparse layer without one.",
    "Price & Tanner 2021, section 4",
    "Test accuracy, as many non-zeros in each layer: DCT + sparse - plain sparse > 2 SE at the two lowest densities"
    " (20 and 100 non-zeros per layer on digits; 0.01% and 0.1% on CIFAR-10), paired by seed.",
    EVERYWHERE,
)
SHRINKS = Claim(
    "gap-shrinks-with-density",
    "The advantage shrinks as the density grows, and is gone at 10%.",
    "Price & Tanner 2021, figures 2 to 4",
    "Test accuracy: gap at the lowest density - gap at 10% > 2 SE, paired by seed; and the gap at 10%, with 2 SE either"
    " side, within 1 point of zero.",
    EVERYWHERE,
)
SCALE = Claim(
    "signals-keep-their-scale",
    "At the start, pre-activations keep their scale from layer to layer under the offset, and vanish without it.",
    "Price & Tanner 2021, section 3",
    "Ten ReLU layers of one width without biases, at the start: largest over smallest variance of the layers'"
    " pre-activations at most 4 under the offset, and above 100 in the plain sparse network at density 0.1%, each by"
    " its 95% interval over seeds.",
    EVERYWHERE,
)
RULE = Claim(
    "equal-per-layer-beats-uniform",
    "At 0.1% density, as many weights in each layer are better than the same density in each layer.",
    "Price & Tanner 2021, section 4",
    "CIFAR-10, test accuracy of DCT + sparse at density 0.1%: equal per layer - uniform > 2 SE, paired by seed.",
    ("gpu",),
)


class DctProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (256, 256)})
    """Options of the network."""
    counts: tuple[int, ...] = (20, 100, 500)
    """Non-zeros in each layer, and then"""
    shares: tuple[float, ...] = (0.1,)
    """shares of all the layers' weights: the densities, lowest first."""
    depth: int = 10
    """Layers of the network whose signals are measured."""
    width: int = 256
    """Units of its layers."""
    thin: float = 0.001
    """Density of the plain sparse network whose signals are measured."""
    execution: str = "stacked"
    recipe: Recipe = Recipe(optimiser="adam", lr=1e-3, batch_size=128, duration=Duration("800it"), schedule="constant")


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": DctProtocol(
        seeds=2,
        options={"widths": (64, 64)},
        counts=(8, 80),
        width=64,
        thin=0.01,
        recipe=Recipe(optimiser="adam", lr=3e-3, batch_size=128, duration=Duration("60it"), schedule="constant"),
    ),
    "laptop": DctProtocol(seeds=5),
    "gpu": DctProtocol(
        seeds=3,
        data="cifar10",
        network="vgg-11",
        options={},
        execution="spread",
        counts=(),
        shares=(1e-4, 1e-3, 1e-2, 0.1),
        recipe=Recipe(
            lr=0.1,
            weight_decay=5e-4,
            batch_size=128,
            duration=Duration("30ep"),
            schedule="step",
            milestones=(Duration("15ep"), Duration("23ep")),
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


def draw(result: StudyResult) -> Any:
    """Accuracy against density for the arms; the gaps; and how the signals spread."""
    sheet, panels = grid(3)
    curve, gaps, scale = panels
    by_slug = {m.claim.slug: m for m in result.measured}
    rows = [r for r in by_slug[SHRINKS.slug].rows if r["quantity"] == ACCURACY and " - " not in r["row"]]
    for name in dict.fromkeys(r["row"] for r in rows):
        points = [r for r in rows if r["row"] == name]
        values = [r["value"] for r in points]
        ends = [[abs(r["value"] - (r["value"] if r[k] is None else r[k])) for r in points] for k in ("low", "high")]
        curve.errorbar([r["density"] for r in points], values, ends, marker="o", ms=3, lw=1, label=name)
    rest = {r["row"]: r for r in by_slug[BETTER.slug].rows}
    if ALONE in rest:
        curve.axhline(rest[ALONE]["value"], color=COLOURS["undecided"], lw=0.8, ls="--", label=ALONE)
    curve.set_xscale("log")
    curve.set_xlabel("density", fontsize=7)
    curve.set_ylabel(ACCURACY, fontsize=7)
    curve.legend(fontsize=6, frameon=False)
    curve.tick_params(labelsize=7)
    found = [r for r in by_slug[SHRINKS.slug].rows if r["row"] == f"{DCT} - {PLAIN}"]
    dots(gaps, [{**r, "row": "density"} for r in found])
    gaps.axvline(0, color=COLOURS["undecided"], lw=0.5)
    gaps.set_xlabel(f"difference in {ACCURACY}, 2 SE either side", fontsize=7)
    dots(scale, by_slug[SCALE.slug].rows)
    scale.axvline(math.log10(4), color=COLOURS["undecided"], lw=0.5)
    scale.set_xlabel(SPREAD, fontsize=7)
    for axes, claim in zip(panels, (BETTER, SHRINKS, SCALE), strict=True):
        verdict = by_slug[claim.slug].verdict
        axes.set_title(f"{claim.slug}: {verdict}", fontsize=8, color=COLOURS[verdict], loc="left")
    return sheet


@study(
    slug="dct-plus-sparse",
    paper="Price & Tanner 2021, arXiv 2102.07655",
    title="Dense for the Price of Sparse: Improved Performance of Sparsely Initialized Networks via a Subspace Offset",
    claims=(BETTER, SHRINKS, SCALE, RULE),
    protocols=PROTOCOLS,
    draw=draw,
)
def dct_plus_sparse_study(claim: Claim, bench: Bench[DctProtocol]) -> Measured:
    """A fixed cosine matrix under sparse weights: does it help where few are trained?"""
    tests = {BETTER: beats_plain, SHRINKS: gap_shrinks, SCALE: keeps_scale, RULE: equal_per_layer}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def beats_plain(bench: Bench[DctProtocol]) -> Measured:
    """Both kinds of sparse network, and the offset with no sparse weight at all."""
    alone = _alone(bench)
    rows, checks, extra = [arm(ALONE, ACCURACY, alone, density=0.0)], [], []
    for density in _densities(bench)[:2]:
        ours, plain = _arms(bench, density)
        larger = _accuracy(bench, _plain(bench, density, rescale=True))
        arms = {DCT: ours, PLAIN: plain, RESCALED: larger}
        rows += [arm(n, ACCURACY, v, density=density) for n, v in arms.items()]
        checks.append(beats(DCT, PLAIN, ACCURACY, ours, plain, density=density))
        others = {ALONE: alone, RESCALED: larger}
        extra += [beats(DCT, n, ACCURACY, ours, v, density=density).detail() for n, v in others.items()]
    return decide(BETTER, checks, [*extra, *rows])


def gap_shrinks(bench: Bench[DctProtocol]) -> Measured:
    """The gap over densities; the lowest against the highest decides."""
    rows: list[Row] = []
    gaps: dict[float, Tensor] = {}
    densities = _densities(bench)
    for density in densities:
        ours, plain = _arms(bench, density)
        gaps[density] = ours - plain
        rows += [arm(n, ACCURACY, v, density=density) for n, v in ((DCT, ours), (PLAIN, plain))]
        rows.append(beats(DCT, PLAIN, ACCURACY, ours, plain, density=density).detail())
    low, high = gaps[densities[0]], gaps[densities[-1]]
    smaller, at_high = two_stderr(low, high), two_stderr(high, torch.zeros_like(high))
    checks = [
        Check("gap at the lowest - gap at the highest density", ACCURACY, "> 2 SE", smaller, above(smaller)),
        Check("gap at the highest - 0", ACCURACY, "within 0.01", at_high, within(at_high, -0.01, 0.01)),
    ]
    return decide(SHRINKS, checks, rows)


def keeps_scale(bench: Bench[DctProtocol]) -> Measured:
    """How far the variances of ten layers lie apart at the start; logarithms, base ten."""
    found = torch.tensor([_spreads(bench, seed) for seed in bench.seeds], dtype=torch.float64).log10()  # (seeds, 3)
    offset, thin, dense = over_seeds(found[:, 0]), over_seeds(found[:, 1]), over_seeds(found[:, 2])
    checks = [
        Check("offset", SPREAD, "<= 0.602 (4 times)", offset, within(offset, 0.0, math.log10(4))),
        Check("random sparse", SPREAD, "> 2 (100 times)", thin, above(thin, 2.0), {"density": bench.protocol.thin}),
    ]
    return decide(SCALE, checks, [Check("dense, usual start", SPREAD, "", dense, "undecided").detail()])


def equal_per_layer(bench: Bench[DctProtocol]) -> Measured:
    """The same number of weights, spread by layer or by size."""
    density = 1e-3
    arms = {rule: _accuracy(bench, _ours(bench, density, rule)) for rule in _RULES}
    rows = [arm(f"{DCT}, {name}", ACCURACY, arms[rule], density=density) for rule, name in _RULES.items()]
    return decide(RULE, [beats("equal per layer", "uniform", ACCURACY, arms["epl"], arms["uniform"])], rows)


_RULES: dict[Rule, str] = {"epl": "equal per layer", "epf": "equal per filter", "erk": "ERK", "uniform": "uniform"}


# ---- runs -----------------------------------------------------------------------------------------------------------


def _task(bench: Bench[DctProtocol]) -> Task:
    p = bench.protocol
    return task_from(splits(p.data, 0), p.network, recipe=p.recipe, **p.options)


def _densities(bench: Bench[DctProtocol]) -> list[float]:
    p, blocks = bench.protocol, [b for b in _task(bench).space.blocks if b.prunable]
    return [n * len(blocks) / sum(b.size for b in blocks) for n in p.counts] + list(p.shares)


def _options(bench: Bench[DctProtocol]) -> dict[str, Any]:
    return {**bench.options, "execution": bench.protocol.execution}


def _ours(bench: Bench[DctProtocol], density: float, rule: Rule = "epl") -> Level:
    (level,) = dct_plus_sparse(_task(bench), density=density, rule=rule, seeds=bench.seeds, **_options(bench))
    bench.noted(level.run)
    return level


def _plain(bench: Bench[DctProtocol], density: float, *, rescale: bool = False) -> Level:
    """Sparse networks without the offset, in the same places."""
    task, masks = _task(bench), _ours(bench, density).masks
    start = task.space.init_many(bench.seeds)
    if rescale:
        for block in (b for b in task.space.blocks if b.prunable):
            start[:, block.slice] /= masks[:, block.slice].double().mean(1, keepdim=True).sqrt().to(start)
    level = from_masks(task, masks, start, bench.seeds, **_options(bench))
    bench.noted(level.run)
    return level


def _arms(bench: Bench[DctProtocol], density: float) -> tuple[Tensor, Tensor]:
    """Test accuracies (seeds,) with the offset and without."""
    return _accuracy(bench, _ours(bench, density)), _accuracy(bench, _plain(bench, density))


def _alone(bench: Bench[DctProtocol]) -> Tensor:
    """Test accuracies (seeds,) of the offset without sparse weights."""
    task = _task(bench)
    nothing = ~task.space.prunable
    offset = lambda theta, _: DctPlusSparse(task.space, theta, nothing)  # noqa: E731
    run = bench.noted(fit(task, seeds=bench.seeds, coordinates=offset, **_options(bench)))
    return bench.accuracy(run).double()


def _accuracy(bench: Bench[DctProtocol], level: Level) -> Tensor:
    return bench.accuracy(level.run).double()


def _spreads(bench: Bench[DctProtocol], seed: int) -> tuple[float, float, float]:
    """Largest over smallest variance of the layers' pre-activations: offset, random sparse, dense."""
    p, task = bench.protocol, _task(bench)
    data = splits(p.data, seed).train[:512]
    x = task.prepare(data.inputs)
    space = WeightSpace(
        lambda: build("mlp", tuple(x.shape[1:]), p.width, widths=(p.width,) * (p.depth - 1), bias=False)
    )
    theta = space.init(seed)
    mask = random_mask(space, p.thin, generator(seed, "study", "signals"), "epl")
    offset = DctPlusSparse(space, theta, torch.zeros_like(mask))
    points = (offset.to_theta(offset.start()), theta * mask, theta)
    return tuple(_spread(space.write(point), x) for point in points)  # type: ignore[return-value]


def _spread(module: nn.Module, x: Tensor) -> float:
    """Largest over smallest variance among the outputs of all linear layers; 1e12 where a signal is as good as gone."""
    found: list[float] = []
    hooks = [
        m.register_forward_hook(lambda _, __, out: found.append(float(out.double().var())))
        for m in module.modules()
        if isinstance(m, nn.Linear)
    ]
    with torch.no_grad():
        module.double()(x.double())
    for hook in hooks:
        hook.remove()
    return max(found) / max(min(found), 1e-12 * max(found))
