"""Paul et al. 2023, "Unmasking the Lottery Ticket Hypothesis": what a mask says about the loss around a network.

Barriers between successive levels of iterative pruning and to the dense network, beside whether a level still matches;
what retraining does to the gap that a cut leaves; and one large cut against four small ones to the same density.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.landscape.connectivity import barrier, on_data
from surplus.landscape.imp_geometry import (
    ChainBarriers,
    chain_barriers,
    matching,
    perturbation_robustness,
    projection_errors,
    refilled_gap,
)
from surplus.pruning import density, random_mask
from surplus.pruning.moved import cuttable
from surplus.pruning.schedules.imp import Level, from_masks, imp, imp_levels
from surplus.space import generator
from surplus.stats import Interval, rank_correlation
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide, undecided
from surplus.studies.verdicts import Check, Row, above, arm, beats, exactly, exceeds, over_seeds, table_row, within
from surplus.tasks import Augment, Duration, Recipe, Task, task_from

PAPER = "Paul, Chen, Larsen, Frankle, Ganguli & Dziugaite 2023, arXiv 2210.03044"
SMALL: tuple[Scale, ...] = ("smoke", "laptop")
ERROR, GAP, STEP = "test error", "share refilled", "barrier to the level before"
BACK, BACK_LOSS = "barrier to the dense network", "loss barrier to the dense network"
COARSE = "One test example is {:.2f} points of error, so barriers near epsilon are a few examples; losses stand beside."

CONNECTED = Claim(
    "barrier-small-while-matching",
    "While levels match the dense network they are linearly connected to the level before, and barriers rise with the"
    " excess error.",
    "Paul et al. 2023, section 3",
    "epsilon = standard deviation over seeds of the dense test error. Of the matching levels of a seed, the share whose"
    " error barrier to the level before is at most epsilon: 95% interval over seeds above 0.9. Spearman correlation"
    " over levels between error in excess of dense and that barrier: 95% interval over seeds above 0.5.",
    SMALL,
)
REFILLED = Claim(
    "retraining-refills-the-gap",
    "Retraining brings weights below the threshold of the cut before it, so that there is something small to cut"
    " again.",
    "Paul et al. 2023, section 6",
    "Share of surviving weights below the last threshold: 0 right after each cut; after retraining, its smallest value"
    " over levels > 0.05, 95% interval over seeds.",
    ("smoke", "laptop", "gpu"),
)
ONE_CUT = Claim(
    "one-large-cut-leaves-farther",
    "One cut of 80% leads to a solution behind a higher barrier to the dense network than four cuts of a third.",
    "Paul et al. 2023, section 5",
    "Error barrier to the dense network at density 0.2: one cut - four cuts > 2 SE, paired by seed.",
    ("smoke", "laptop", "gpu"),
)
IFF = Claim(
    "connected-iff-matching",
    "A level is linearly connected to the level before exactly when it matches the dense network.",
    "Paul et al. 2023, section 3, figure 2",
    "ResNet-20 on CIFAR-10, rewound to steps 0 and 1,000, density down to 2.8%: of all pairs of level and seed, the"
    " share where (barrier <= epsilon) = (matching) is at least 0.9 for both, epsilon as above.",
    ("gpu",),
)


class GeometryProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (128, 64)})
    """Options of the network."""
    levels: int = 18
    """Cuts of a fifth."""
    rewind_steps: tuple[int, ...] = (0,)
    """Where to rewind to; the first serves all claims but the last."""
    exclude: tuple[str, ...] = ()
    """Layers kept whole."""
    points: int = 11
    """Points on a line."""
    density: float = 0.2
    """Of the claim on one cut, reached in so many smaller ones:"""
    cuts: int = 4
    scales: tuple[float, ...] = (1.0, 4.0)
    """Random moves of the start, in units of the first cut's."""
    random_at: tuple[int, ...] = (7, 14)
    """Levels at whose densities random masks are trained too."""
    execution: str = "stacked"
    test_share: float = 0.332
    """Share of the digits to test on."""
    recipe: Recipe = Recipe(optimiser="adam", lr=1.2e-3, batch_size=50, duration=Duration("600it"), schedule="constant")


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": GeometryProtocol(
        seeds=2,
        options={"widths": (32, 16)},
        levels=4,
        points=5,
        scales=(1.0,),
        random_at=(2,),
        recipe=Recipe(optimiser="adam", lr=3e-3, batch_size=50, duration=Duration("60it"), schedule="constant"),
    ),
    "laptop": GeometryProtocol(seeds=5),
    "gpu": GeometryProtocol(
        seeds=3,
        data="cifar10",
        network="resnet-20",
        options={},
        levels=16,
        rewind_steps=(0, 1000),
        exclude=("head",),
        random_at=(8, 16),
        execution="spread",
        recipe=Recipe(
            lr=0.1,
            weight_decay=1e-4,
            batch_size=128,
            duration=Duration("20ep"),
            schedule="step",
            milestones=(Duration("10ep"), Duration("15ep")),
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


def draw(result: StudyResult) -> Any:
    """Barriers and excess error over density, refilled shares, and the two ways to one density."""
    sheet, (lines, gaps, correlations, cuts) = grid(4)
    of = {m.claim.slug: m for m in result.measured}
    connected = of[CONNECTED.slug].rows
    shown = ("error in excess of dense", STEP, BACK, "epsilon")
    chain = [r for r in connected if r["row"] in ("iterative pruning", "dense networks")]
    _over_density(lines, [r for r in chain if r["quantity"] in shown])
    _over_density(gaps, [r for r in of[REFILLED.slug].rows if r["quantity"] == GAP and r.get("density")])
    for axes, label in ((lines, "share of test examples"), (gaps, GAP)):
        axes.set_ylabel(label, fontsize=7)
    dots(correlations, [r for r in connected if "verdict" in r])
    correlations.set_xlabel("share of levels, and Spearman's rho over levels", fontsize=7)
    dots(cuts, [r for r in of[ONE_CUT.slug].rows if r["quantity"] == BACK and " - " not in r["row"]])
    cuts.set_xlabel(BACK, fontsize=7)
    for axes, claim in ((lines, CONNECTED), (gaps, REFILLED), (correlations, CONNECTED), (cuts, ONE_CUT)):
        m = of[claim.slug]
        axes.set_title(f"{m.claim.slug}: {m.verdict}", fontsize=7, color=COLOURS[m.verdict], loc="left")
    return sheet


def _over_density(axes: Any, rows: Sequence[Row]) -> None:
    for quantity in dict.fromkeys(r["quantity"] for r in rows):
        points = sorted((r for r in rows if r["quantity"] == quantity), key=lambda r: float(r["density"]))
        ends = [[abs(r["value"] - (r["value"] if r[k] is None else r[k])) for r in points] for k in ("low", "high")]
        x, y = [r["density"] for r in points], [r["value"] for r in points]
        axes.errorbar(x, y, ends, marker="o", ms=3, lw=1, label=quantity)
    axes.set_xscale("log")
    ticks = sorted({float(r["density"]) for r in rows})[::3]
    axes.set_xticks(ticks, [f"{100 * d:.2g}%" for d in ticks])
    axes.minorticks_off()
    axes.set_xlabel("density", fontsize=7)
    axes.tick_params(labelsize=7)
    if rows:
        axes.legend(fontsize=6, frameon=False)


@study(
    slug="imp-geometry",
    paper=PAPER,
    title="Unmasking the Lottery Ticket Hypothesis: What's Encoded in a Winning Ticket's Mask?",
    claims=(CONNECTED, REFILLED, ONE_CUT, IFF),
    protocols=PROTOCOLS,
    draw=draw,
)
def imp_geometry_study(claim: Claim, bench: Bench[GeometryProtocol]) -> Measured:
    """Do levels of pruning stay in one mode of the loss while they match, and why can a level be cut again?"""
    tests: dict[Claim, Callable[[Bench[GeometryProtocol]], Measured]] = {
        CONNECTED: connected_while_matching,
        REFILLED: gap_is_refilled,
        ONE_CUT: one_cut_or_four,
        IFF: connected_iff_matching,
    }
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def connected_while_matching(bench: Bench[GeometryProtocol]) -> Measured:
    """Barriers along the chain, beside matching and excess error."""
    levels = _levels(bench)
    errors = _errors(bench, levels)  # (levels, seeds)
    epsilon = float(errors[0].std())
    found, losses = _barriers(bench, levels), _barriers(bench, levels, "loss")
    steps = torch.stack([f.to_previous for f in found], 1)  # (levels - 1, seeds)
    good = matching(errors[1:], errors[0], epsilon)
    rows = _chain_rows(bench, levels, errors, epsilon, found, losses) + _projections(bench, levels)
    rows += [*_random_rows(bench, levels), *_robustness_rows(bench, levels)]
    if not bool(good.any(0).all()):
        return undecided(CONNECTED, f"no level matches for some seed, with epsilon = {epsilon:.2g}", rows)
    rows.append(_all_connected(steps, good, epsilon))
    share = over_seeds([float((s[g] <= epsilon).double().mean()) for s, g in zip(steps.T, good.T, strict=True)])
    excess = errors[1:] - errors[0]
    rho = over_seeds([rank_correlation(e, s).value for e, s in zip(excess.T, steps.T, strict=True)])
    c = rank_correlation(excess.mean(1), steps.mean(1))
    of_means = Interval(c.value, c.low, c.high, c.level, len(bench.seeds))
    rows.append(table_row("excess error and barrier, means over seeds", "Spearman over levels", of_means))
    checks = [
        Check("matching levels that are connected", "share of levels", "> 0.9", share, above(share, 0.9)),
        Check("excess error and barrier", "Spearman over levels", "> 0.5", rho, above(rho, 0.5)),
    ]
    return decide(CONNECTED, checks, rows, COARSE.format(100 / len(levels[0].run.task.test)))


def gap_is_refilled(bench: Bench[GeometryProtocol]) -> Measured:
    """The share of surviving weights below the threshold of the last cut, before and after retraining."""
    levels, exclude = _levels(bench), bench.protocol.exclude
    pairs = list(pairwise(levels))
    after = torch.tensor([[_gap(a, b, k, b.run.theta[k], exclude) for k in range(len(a.run))] for a, b in pairs])
    right = max(_gap(a, b, k, a.run.theta[k], exclude) for a, b in pairs for k in range(len(a.run)))
    none = exactly(right, len(bench.seeds))
    checks = [
        exceeds("smallest over levels", GAP, after.amin(0), 0.05),
        Check("right after a cut, largest over levels", GAP, "= 0", none, within(none, 0, 0)),
    ]
    rows = [arm("after retraining", GAP, g, density=_kept(bench, b)) for g, (_, b) in zip(after, pairs, strict=True)]
    return decide(REFILLED, checks, rows)


def one_cut_or_four(bench: Bench[GeometryProtocol]) -> Measured:
    """Barriers to the dense network at one density, reached in one cut, in four, or at random."""
    p, dense = bench.protocol, _levels(bench)[0]
    once, slowly = (_in_cuts(bench, n)[-1] for n in (1, p.cuts))
    arms = {"one cut": once, f"{p.cuts} cuts": slowly, "random mask": _random(bench, dense, p.density)}
    heights = {name: _to_dense(bench, dense, level) for name, level in arms.items()}
    names = list(arms)
    error = {name: heights[name][0] for name in names}
    check = beats(names[0], names[1], BACK, error[names[0]], error[names[1]], density=p.density)
    rows = [arm(name, BACK, values, density=p.density) for name, values in error.items()]
    rows += [arm(name, BACK_LOSS, heights[name][1], density=p.density) for name in names]
    rows += [arm(name, ERROR, 1 - bench.accuracy(arms[name].run), density=p.density) for name in names]
    rows.append(
        beats(names[0], names[1], BACK_LOSS, heights[names[0]][1], heights[names[1]][1], density=p.density).detail()
    )
    return decide(ONE_CUT, [check], rows)


def connected_iff_matching(bench: Bench[GeometryProtocol]) -> Measured:
    """Agreement of the two over all levels and seeds, for each rewinding step."""
    checks, rows = [], []
    for step in bench.protocol.rewind_steps:
        levels = _levels(bench, step)
        errors = _errors(bench, levels)
        epsilon, found = float(errors[0].std()), _barriers(bench, levels)
        steps = torch.stack([f.to_previous for f in found], 1)
        same = (steps <= epsilon) == matching(errors[1:], errors[0], epsilon)
        share = exactly(float(same.double().mean()), len(bench.seeds))
        name = f"rewound to step {step}"
        checks.append(Check(name, "share of pairs that agree", ">= 0.9", share, within(share, 0.9, 1)))
        kept = [_kept(bench, level) for level in levels]
        rows += [arm(name, STEP, s, density=d) for s, d in zip(steps, kept[1:], strict=True)]
        rows += [arm(name, ERROR, e, density=d) for e, d in zip(errors, kept, strict=True)]
    return decide(IFF, checks, [*rows, *_random_rows(bench, _levels(bench))])


# ---- rows -----------------------------------------------------------------------------------------------------------


def _all_connected(steps: Tensor, good: Tensor, epsilon: float) -> Row:
    """Of all matching levels of all seeds (levels, seeds), how many are connected: the paper says all."""
    joined, matched = int((good & (steps <= epsilon)).sum()), int(good.sum())
    seen = exactly(joined / matched, good.shape[1])
    counts = {"connected": joined, "matching": matched}
    return table_row(
        "matching levels that are connected, all seeds", "share of levels (the paper: all)", seen, **counts
    )


def _chain_rows(
    bench: Bench[GeometryProtocol],
    levels: Sequence[Level],
    errors: Tensor,
    epsilon: float,
    found: Sequence[ChainBarriers],
    losses: Sequence[ChainBarriers],
) -> list[Row]:
    rows = []
    for i, level in enumerate(levels[1:]):
        d = _kept(bench, level)
        numbers: dict[str, Any] = {
            "error in excess of dense": errors[i + 1] - errors[0],
            STEP: [float(f.to_previous[i]) for f in found],
            BACK: [float(f.to_first[i]) for f in found],
            "loss barrier to the level before": [float(f.to_previous[i]) for f in losses],
            BACK_LOSS: [float(f.to_first[i]) for f in losses],
        }
        rows += [arm("iterative pruning", quantity, v, density=d) for quantity, v in numbers.items()]
        rows.append(table_row("dense networks", "epsilon", exactly(epsilon), density=d))
    return rows


def _projections(bench: Bench[GeometryProtocol], levels: Sequence[Level]) -> list[Row]:
    """Errors of weights that were cut and not retrained."""
    look = on_data(levels[0].run.task.to(bench.device))
    chains, masks = _stacked(bench, levels)
    errors = torch.stack([projection_errors(look, c, m).cpu() for c, m in zip(chains, masks, strict=True)], 1)
    pairs = zip(errors, levels[1:], strict=True)
    return [arm("cut, not retrained", ERROR, e, density=_kept(bench, level)) for e, level in pairs]


def _random_rows(bench: Bench[GeometryProtocol], levels: Sequence[Level]) -> list[Row]:
    """Random masks of equal density: error, and barrier to the dense network."""
    rows = []
    for at in bench.protocol.random_at:
        d = _kept(bench, levels[at])
        level = _random(bench, levels[0], d)
        rows.append(arm("random mask", ERROR, 1 - bench.accuracy(level.run), density=d))
        rows.append(arm("random mask", BACK, _to_dense(bench, levels[0], level)[0], density=d))
    return rows


def _robustness_rows(bench: Bench[GeometryProtocol], levels: Sequence[Level]) -> list[Row]:
    """Starts moved at random as far as the first cut moves them, and farther: barrier to where the level ended."""
    p = bench.protocol
    how: dict[str, Any] = {"step": p.rewind_steps[0], "points": p.points, "exclude": p.exclude, **_options(bench)}
    found = perturbation_robustness(levels[0], levels[1], p.scales, **how)
    names = [f"start moved by {scale:g} x the first cut's" for scale in p.scales]
    rows = [arm(n, "barrier to the unmoved solution", b) for n, b in zip(names, found.barriers, strict=True)]
    return rows + [arm(n, ERROR, e) for n, e in zip(names, found.errors, strict=True)]


# ---- measures on the runs -------------------------------------------------------------------------------------------


def _barriers(bench: Bench[GeometryProtocol], levels: Sequence[Level], mode: str = "error") -> list[ChainBarriers]:
    """Along each seed's chain; batch-norm statistics re-estimated at every point."""
    look = on_data(levels[0].run.task.to(bench.device))
    return [chain_barriers(look, chain, bench.protocol.points, mode) for chain in _stacked(bench, levels)[0]]


def _to_dense(bench: Bench[GeometryProtocol], dense: Level, level: Level) -> tuple[list[float], list[float]]:
    """Error and loss barriers (K,) between a level and the dense networks."""
    look, p = on_data(level.run.task.to(bench.device)), bench.protocol
    pairs = [(a.to(bench.device), b.to(bench.device)) for a, b in zip(dense.run.theta, level.run.theta, strict=True)]
    error, loss = (
        [barrier(look, a, b, p.points, mode, "linear").height for a, b in pairs] for mode in ("error", "loss")
    )
    return error, loss


def _gap(before: Level, after: Level, k: int, theta: Tensor, exclude: Sequence[str]) -> float:
    """Refilled share of one seed at weights theta (P,), among those that cuts may touch."""
    kept = after.masks[k] & cuttable(before.run.task.space, exclude)
    return refilled_gap(before.run.theta[k], kept, theta)


def _kept(bench: Bench[GeometryProtocol], level: Level) -> float:
    """Kept share of the weights that cuts may touch."""
    return density(level.run.task.space, level.masks[0], bench.protocol.exclude)


def _stacked(bench: Bench[GeometryProtocol], levels: Sequence[Level]) -> tuple[Tensor, Tensor]:
    """Trained weights and masks of each seed's chain, (K, levels, P)."""
    thetas, masks = (torch.stack(parts, 1) for parts in ([v.run.theta for v in levels], [v.masks for v in levels]))
    return thetas.to(bench.device), masks.to(bench.device)


# ---- runs -----------------------------------------------------------------------------------------------------------


def _task(bench: Bench[GeometryProtocol]) -> Task:
    p = bench.protocol
    return task_from(splits(p.data, 0, p.test_share), p.network, recipe=p.recipe, **p.options)


def _levels(bench: Bench[GeometryProtocol], step: int | None = None) -> list[Level]:
    """Iterative pruning with one threshold; read back from the store when asked for again."""
    p = bench.protocol
    how: dict[str, Any] = {"rewind_step": p.rewind_steps[0] if step is None else step, "exclude": p.exclude}
    chain = list(imp_levels(_task(bench), levels=p.levels, seeds=bench.seeds, **how, **_options(bench)))
    for level in chain:
        bench.noted(level.run)
    return chain


def _in_cuts(bench: Bench[GeometryProtocol], cuts: int) -> list[Level]:
    """Iterative pruning to the density of the claim in so many cuts of equal shares."""
    p = bench.protocol
    rate = 1 - p.density ** (1 / cuts) + 1e-9  # a hair more, so that rounding adds no cut
    how: dict[str, Any] = {"rewind_step": p.rewind_steps[0], "seeds": bench.seeds, "exclude": p.exclude}
    chain = imp(_task(bench), density=p.density, rate=rate, **how, **_options(bench))
    for level in chain:
        bench.noted(level.run)
    return chain


def _random(bench: Bench[GeometryProtocol], dense: Level, keep: float) -> Level:
    """Random masks of this density on the same starts."""
    task, p = dense.run.task, bench.protocol
    chances = [generator(s, "study imp geometry", "random mask", keep) for s in dense.run.seeds]
    masks = torch.stack([random_mask(task.space, keep, g, exclude=p.exclude) for g in chances])
    level = from_masks(task, masks, dense.start, dense.run.seeds, p.rewind_steps[0], **_options(bench))
    bench.noted(level.run)
    return level


def _errors(bench: Bench[GeometryProtocol], levels: Sequence[Level]) -> Tensor:
    """(levels, seeds) test errors."""
    return torch.stack([1 - bench.accuracy(level.run).double() for level in levels])


def _options(bench: Bench[GeometryProtocol]) -> dict[str, Any]:
    return {**bench.options, "execution": bench.protocol.execution}
