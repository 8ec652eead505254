"""Rosenfeld et al. 2021, "On the Predictability of Pruning Across Scales": a formula for the error of pruned networks.

The law against two simpler ones on the curve of iterative magnitude pruning, and on that of SynFlow; one law over
widths, with each width predicted from the others; and a larger network, pruned, against a smaller dense one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.pruning import density, random_mask
from surplus.pruning.schedules.imp import Level, at_start, from_masks, imp_levels
from surplus.space import generator
from surplus.stats import Interval
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, exactly, table_row, within
from surplus.tasks import Augment, Duration, Network, Recipe, Task, task_from
from surplus.theory.law_fits import compare_forms, fit_law
from surplus.theory.pruning_curve import pruning_form
from surplus.theory.pruning_law import PruningFit, crossing, fit_pruning_law, predict_matching

PAPER = "Rosenfeld, Frankle, Carbin & Shavit 2021, arXiv 2006.10621"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
ERROR, ACCURACY, RELATIVE = "test error", "test accuracy", "relative error of the fit"
OTHERS = {"power": "power law", "power-offset": "offset power law"}
LEAST_SQUARES: dict[str, Any] = {"residuals": "relative", "delta": 1e6}
NOISE = (
    "The test error of so few examples has binomial noise, which the mean over seeds does not remove: all answer the"
    " same test set."
)

FITS = Claim(
    "the-law-fits-iterative-pruning",
    "One formula of three constants describes the test error of iterative magnitude pruning over density, better than"
    " power laws do.",
    "Rosenfeld et al. 2021, section 4, figure 3",
    "Fitted by least squares on relative errors to the mean test error over seeds at every density below 1, the plateau"
    " held at chance unless the errors reach 80% of it: the mean of the relative error lies within 5% of 0 and its"
    " standard deviation below 15%; and AICc of the pure power law and of the power law with an offset, each less the"
    " law's, lie above 0. All with their whole 95% bootstrap interval over seeds.",
    EVERYWHERE,
)
WIDTHS = Claim(
    "one-law-across-widths",
    "One law with width inside an invariant describes networks of all widths, and predicts a width that it has not"
    " seen.",
    "Rosenfeld et al. 2021, section 5",
    "ResNet-20 of half, one and two times the width on CIFAR-10: standard deviation of the relative error of the joint"
    " fit at most 1.5 times the mean of those of the single fits; and with each width held out in turn, that of its"
    " prediction below 12%.",
    ("gpu",),
)
SYNFLOW = Claim(
    "the-law-fits-synflow",
    "The same formula describes networks that SynFlow prunes before training.",
    "Rosenfeld et al. 2020, arXiv 2006.10621v1, appendix",
    "As for iterative pruning, without the comparison of laws: mean of the relative error within 5% of 0, standard"
    " deviation below 15%, with their whole 95% bootstrap interval over seeds.",
    ("smoke", "laptop"),
)
LARGER = Claim(
    "larger-then-pruned-beats-smaller-dense",
    "A larger network, pruned, is better than a dense one with as many weights.",
    "Rosenfeld et al. 2021, section 7",
    "Test accuracy at each of the compared densities (four on the laptop): pruned - small dense > 2 SE, paired by"
    " seed.",
    EVERYWHERE,
)


class WidthsProtocol(Protocol):
    """Sizes of the claim across widths."""

    data: str = "cifar10"
    network: str = "resnet-20"
    widths: tuple[float, ...] = (0.5, 1.0, 2.0)
    levels: int = 16
    rewind_step: int = 500
    exclude: tuple[str, ...] = ("head",)
    execution: str = "spread"
    recipe: Recipe = Recipe(
        lr=0.1,
        weight_decay=1e-4,
        batch_size=128,
        duration=Duration("20ep"),
        schedule="step",
        milestones=(Duration("10ep"), Duration("15ep")),
        augment=Augment(shift=4, flip=True),
        precision="bfloat16",
        channels_last=True,
    )


class LawProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (128, 64)})
    """Options of the network."""
    small: str = "mlp"
    """The network of the small dense control: two hidden layers in the proportion of the large one's."""
    widths: tuple[int, int] = (128, 64)
    """Hidden layers of the large network."""
    levels: int = 20
    """Cuts, each of:"""
    rate: float = 0.2
    compared_at: tuple[int, ...] = (5, 8, 11, 14)
    """Levels at whose densities there is a small dense network, and a random mask."""
    synflow_at: tuple[int, ...] = (2, 5, 8, 11, 13, 15, 17, 19, 20)
    """Levels at whose densities SynFlow prunes."""
    rounds: int = 100
    """Cuts of SynFlow."""
    first: tuple[int, ...] = (6, 9, 12)
    """Levels from which the matching density is predicted, in rows that no verdict rests on."""
    margin: float = 0.01
    """Loss of accuracy that counts as none there."""
    resamples: int = 60
    """Bootstrap draws of the seeds."""
    test_share: float = 0.332
    """Share of the digits to test on."""
    recipe: Recipe = Recipe(optimiser="adam", lr=1.2e-3, batch_size=50, duration=Duration("600it"), schedule="constant")
    across: WidthsProtocol = WidthsProtocol(seeds=3)


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": LawProtocol(
        seeds=2,
        options={"widths": (32, 16)},
        widths=(32, 16),
        levels=5,
        rate=0.5,
        compared_at=(2,),
        synflow_at=(1, 3, 4, 5),
        rounds=5,
        first=(3,),
        resamples=2,
        recipe=Recipe(optimiser="adam", lr=3e-3, batch_size=50, duration=Duration("60it"), schedule="constant"),
    ),
    "laptop": LawProtocol(seeds=5),
    "gpu": LawProtocol(
        seeds=5,
        data="mnist",
        network="lenet-300-100",
        options={},
        widths=(300, 100),
        levels=28,
        compared_at=(5, 10, 15, 20),
        recipe=Recipe(optimiser="adam", lr=1.2e-3, batch_size=60, duration=Duration("5000it"), schedule="constant"),
    ),
}


def draw(result: StudyResult) -> Any:
    """Measured errors under each law; what decided; and the small dense networks."""
    sheet, (curve, synflow, fits, sizes) = grid(4)
    of = {m.claim.slug: m for m in result.measured}
    for axes, m in ((curve, of[FITS.slug]), (synflow, of[SYNFLOW.slug])):
        rows = [r for r in m.rows if r["quantity"] == ERROR]
        for name in dict.fromkeys(r["row"] for r in rows):
            points = sorted((float(r["density"]), float(r["value"])) for r in rows if r["row"] == name)
            drawn: dict[str, Any] = (
                {"ls": "--", "lw": 1} if name.endswith("law") else {"ls": "", "marker": "o", "ms": 3}
            )
            axes.plot(*zip(*points, strict=True), label=name, **drawn)
        axes.set(xscale="log", yscale="log")
        axes.set_xlabel("density", fontsize=7)
        axes.set_ylabel(ERROR, fontsize=7)
        axes.tick_params(labelsize=7, which="both")
        if rows:
            axes.legend(fontsize=6, frameon=False)
    shown = [r for m in (of[FITS.slug], of[SYNFLOW.slug]) for r in m.rows if r["quantity"] == RELATIVE]
    dots(fits, [r for r in shown if "verdict" in r])
    fits.locator_params(axis="x", nbins=5)
    fits.set_xlabel(f"{RELATIVE}; limits 5% (mean) and 15% (spread)", fontsize=7)
    dots(sizes, [r for r in of[LARGER.slug].rows if " - " in r["row"]])
    sizes.axvline(0, color=COLOURS["undecided"], lw=0.5)
    sizes.set_xlabel(f"difference in {ACCURACY}, 2 SE either side", fontsize=7)
    for axes, claim in ((curve, FITS), (synflow, SYNFLOW), (fits, FITS), (sizes, LARGER)):
        m = of[claim.slug]
        axes.set_title(f"{m.claim.slug}: {m.verdict}", fontsize=7, color=COLOURS[m.verdict], loc="left")
    return sheet


@study(
    slug="pruning-law",
    paper=PAPER,
    title="On the Predictability of Pruning Across Scales",
    claims=(FITS, WIDTHS, SYNFLOW, LARGER),
    protocols=PROTOCOLS,
    draw=draw,
)
def pruning_law_study(claim: Claim, bench: Bench[LawProtocol]) -> Measured:
    """Can the error of a pruned network be written down, for one network and for all widths?"""
    tests: dict[Claim, Callable[[Bench[LawProtocol]], Measured]] = {
        FITS: fits_iterative_pruning,
        WIDTHS: fits_across_widths,
        SYNFLOW: fits_synflow,
        LARGER: larger_then_pruned,
    }
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def fits_iterative_pruning(bench: Bench[LawProtocol]) -> Measured:
    """The law on the curve of iterative magnitude pruning, and two power laws beside it."""
    levels = _levels(bench)
    d, errors = _densities(levels[1:]), _errors(bench, levels)  # (levels,), (seeds, 1 + levels)
    chance = _chance(levels[0].run.task)
    mean, spread, *gaps = _over_seeds(bench, errors, lambda m: _numbers(d, m, chance, OTHERS))
    checks = _fit_checks("law", mean, spread)
    for name, gap in zip(OTHERS.values(), gaps, strict=True):
        checks.append(Check(f"{name} - pruning law", "AICc", "> 0", gap, above(gap)))
    rows = [
        *_curve("iterative pruning", errors, d),
        *_drawn(d, errors, chance),
        *_sensitivity(d, errors, chance),
        *_ahead(bench, d, errors, levels[0].run.task.classes),
    ]
    rows += [arm("random mask", ERROR, 1 - v, density=levels[at].density) for at, v in _random(bench, levels).items()]
    return decide(FITS, checks, rows, NOISE)


def fits_synflow(bench: Bench[LawProtocol]) -> Measured:
    """The law on networks that SynFlow pruned before training."""
    p, task = bench.protocol, _task(bench)
    levels = [_levels(bench)[0]]
    for at in p.synflow_at:
        how: dict[str, Any] = {"density": (1 - p.rate) ** at, "score": "synflow", "rounds": p.rounds}
        (level,) = at_start(task, seeds=bench.seeds, **how, **_options(bench))
        levels.append(_noted(bench, level))
    d, errors = _densities(levels[1:]), _errors(bench, levels)
    checks = _fit_checks("SynFlow, law", *_over_seeds(bench, errors, lambda m: _numbers(d, m, _chance(task), {})))
    fit = _fit(d, errors.mean(0), _chance(task), 200)
    rows = [*_curve("SynFlow", errors, d), *_constants("SynFlow, law", fit), *_law_rows("pruning law", d, fit)]
    return decide(SYNFLOW, checks, rows, NOISE)


def larger_then_pruned(bench: Bench[LawProtocol]) -> Measured:
    """The pruned network and a dense one with at most as many weights."""
    levels, checks, rows = _levels(bench), [], []
    chance = _random(bench, levels)
    for at in bench.protocol.compared_at:
        d, task = levels[at].density, levels[0].run.task
        few = smaller(task, bench.protocol, int(d * task.space.prunable.sum()))
        dense = bench.accuracy(bench.fit(few, seeds=bench.seeds, execution="stacked"))
        pruned = bench.accuracy(levels[at].run)
        checks.append(beats("pruned", "small dense", ACCURACY, pruned, dense, density=d))
        arms = {"pruned": pruned, "small dense": dense, "random mask": chance[at]}
        rows += [arm(name, ACCURACY, values, density=d) for name, values in arms.items()]
    return decide(LARGER, checks, rows)


def fits_across_widths(bench: Bench[LawProtocol]) -> Measured:
    """One law for three widths, against one for each, and each width from the two others."""
    p = bench.protocol.across
    d, y, low, width = (torch.cat(parts) for parts in zip(*(_width(bench, w) for w in p.widths), strict=True))
    how: dict[str, Any] = {"chance": 0.9, "bootstrap": 0}
    joint = fit_pruning_law(d, y, low, widths=width, **how)
    checks, rows, single = [], [table_row("psi", "exponent of width", exactly(joint.law.parameters["psi"]))], []
    for w in p.widths:
        own = width == w
        single.append(fit_pruning_law(d[own], y[own], low[own], **how).sigma)
        rest = fit_pruning_law(d[~own], y[~own], low[~own], widths=width[~own], **how)
        off = rest.error_at(d[own], width=w, eps_np=float(low[own][0])) / y[own] - 1
        spread = exactly(float(off.std()), p.seeds)
        checks.append(Check(f"width {w:g} held out", RELATIVE, "SD < 0.12", spread, within(spread, 0, 0.12)))
        rows.append(table_row(f"width {w:g} held out, mean", RELATIVE, exactly(float(off.mean()), p.seeds)))
        rows.append(table_row(f"width {w:g}, law of its own", RELATIVE, exactly(single[-1], p.seeds)))
    ratio = exactly(joint.sigma / (sum(single) / len(single)), p.seeds)
    checks.append(Check("joint fit, to the single ones", "ratio of spreads", "<= 1.5", ratio, within(ratio, 0, 1.5)))
    return decide(WIDTHS, checks, rows)


# ---- fits -----------------------------------------------------------------------------------------------------------


def _fit(d: Tensor, means: Tensor, chance: float, draws: int = 0) -> PruningFit:
    """The law on mean errors (1 + levels,), the unpruned network first."""
    return fit_pruning_law(d, means[1:], float(means[0]), chance=chance, bootstrap=draws)


def _numbers(d: Tensor, means: Tensor, chance: float, others: Mapping[str, str]) -> list[float]:
    """Mean and spread of the law's relative error, and by how much other laws' AICc exceed its own."""
    fit = _fit(d, means, chance)
    told = [fit_law(d, means[1:], form, bootstrap=0, **LEAST_SQUARES) for form in others]
    return [fit.mu, fit.sigma, *(other.aicc - fit.law.aicc for other in told)]


def _over_seeds(
    bench: Bench[LawProtocol], errors: Tensor, numbers: Callable[[Tensor], Sequence[float]]
) -> list[Interval]:
    """Numbers of the mean curve (1 + levels,), each with its percentile interval over seeds drawn again."""
    shape = (bench.protocol.resamples, len(errors))
    rows = torch.randint(len(errors), shape, generator=generator(0, "study pruning law", "seeds"))
    draws = torch.tensor([numbers(errors[row].mean(0)) for row in rows], dtype=torch.float64)  # (resamples, numbers)
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0).tolist()
    return [Interval(*v, 0.95, len(errors)) for v in zip(numbers(errors.mean(0)), low, high, strict=True)]


def _fit_checks(name: str, mean: Interval, spread: Interval) -> list[Check]:
    return [
        Check(f"{name}: mean", RELATIVE, "within 0.05 of 0", mean, within(mean, -0.05, 0.05)),
        Check(f"{name}: spread", RELATIVE, "< 0.15", spread, within(spread, 0, 0.15)),
    ]


def _drawn(d: Tensor, errors: Tensor, chance: float) -> list[Row]:
    """Every law along the curve, and how far each is off at the smallest densities when fitted to the others."""
    means, names, rows = errors.mean(0), {"pruning": "pruning law", **OTHERS}, []
    form = pruning_form(float(means[0]), chance if _fit(d, means, chance).plateau == "held" else None)
    told = compare_forms(d, means[1:], (form, *OTHERS), downward=True, bootstrap=0, **LEAST_SQUARES)
    for key, fit in told.fits.items():
        pairs = zip(d.tolist(), fit.predict(d).tolist(), strict=True)
        rows += [table_row(names[key], ERROR, exactly(value), density=at) for at, value in pairs]
        off = exactly(told.extrapolation[key])
        rows.append(table_row(names[key], "RMS log error at the three tenths of densities held out", off))
    return rows


def _ahead(bench: Bench[LawProtocol], d: Tensor, errors: Tensor, classes: int) -> list[Row]:
    """The matching density as the first levels alone predict it, and as it was measured."""
    p, means = bench.protocol, errors.mean(0)
    quantity = f"density at which the mean error exceeds the dense one by {p.margin:g}"
    rows = []
    for few in p.first:
        told = predict_matching(d[:few], errors[:, 1 : few + 1].T, errors[:, 0], p.margin, classes)
        if told.density is not None and told.low is not None and told.high is not None:
            interval = Interval(told.density, told.low, told.high, 0.95, few)
            notes = {"smallest_seen": told.smallest, "held_out_error": told.held_out(d[few:], means[few + 1 :])}
            rows.append(table_row(f"predicted from the first {few} levels", quantity, interval, **notes))
    found = crossing(torch.cat([torch.ones(1).double(), d]), means, float(means[0]) + p.margin)
    return [*rows, table_row("measured", quantity, exactly(math.nan if found is None else found))]


def _sensitivity(d: Tensor, errors: Tensor, chance: float) -> list[Row]:
    """The constants; with a free plateau; without densities above 0.3, where a dip is not modelled."""
    means, rows = errors.mean(0), []
    low, sparse = float(means[0]), d <= 0.3
    fits = {
        "all densities": _fit(d, means, chance, 200),
        "plateau free": fit_pruning_law(d, means[1:], low),
        "density at most 0.3": fit_pruning_law(d[sparse], means[1:][sparse], low, chance=chance),
    }
    for name, fit in fits.items():
        rows += _constants(name, fit)
        off = fit.error_at(d) / means[1:] - 1
        told = {"plateau": fit.plateau, "spread": float(off.std())}
        rows.append(table_row(name, "mean relative error over all densities", exactly(float(off.mean())), **told))
    return rows


def _constants(name: str, fit: PruningFit) -> list[Row]:
    """The law's constants; no number where the errors stay so far below the plateau that they do not tell it."""
    rows, told = [], fit.law
    for key, value in told.parameters.items():
        ends, notes = (value, *told.intervals[key]), {}
        if fit.plateau == "unidentified" and key in ("eps_up", "p"):  # the curve tells p eps_up^(1/gamma) alone
            ends, notes = (math.nan,) * 3, {"note": "unidentified: the errors stay far below the plateau"}
        rows.append(table_row(name, key, Interval(*ends, told.level, told.points), **notes))
    return rows


def _law_rows(name: str, d: Tensor, fit: PruningFit) -> list[Row]:
    pairs = zip(d.tolist(), fit.error_at(d).tolist(), strict=True)
    return [table_row(name, ERROR, exactly(value), density=at) for at, value in pairs]


def _curve(name: str, errors: Tensor, d: Tensor) -> list[Row]:
    """Measured errors, the unpruned network first."""
    return [arm(name, ERROR, e, density=at) for at, e in zip([1.0, *d.tolist()], errors.T, strict=True)]


# ---- runs -----------------------------------------------------------------------------------------------------------


def _task(bench: Bench[LawProtocol]) -> Task:
    p = bench.protocol
    return task_from(splits(p.data, 0, p.test_share), p.network, recipe=p.recipe, **p.options)


def _levels(bench: Bench[LawProtocol]) -> list[Level]:
    """Iterative pruning with one threshold, from the initial weights; read back from the store when asked for again."""
    p = bench.protocol
    chain = imp_levels(_task(bench), levels=p.levels, rate=p.rate, seeds=bench.seeds, **_options(bench))
    return [_noted(bench, level) for level in chain]


def _random(bench: Bench[LawProtocol], levels: Sequence[Level]) -> dict[int, Tensor]:
    """Test accuracy (K,) of random masks of equal density, at the compared levels."""
    found = {}
    for at in bench.protocol.compared_at:
        level, task = levels[at], levels[0].run.task
        chances = [generator(s, "study pruning law", "random mask", at) for s in level.run.seeds]
        masks = torch.stack([random_mask(task.space, level.density, g) for g in chances])
        control = from_masks(task, masks, level.start, level.run.seeds, **_options(bench))
        found[at] = bench.accuracy(_noted(bench, control).run)
    return found


def _width(bench: Bench[LawProtocol], width: float) -> tuple[Tensor, ...]:
    """Densities, mean errors, the unpruned error and the width, each (levels,)."""
    p = bench.protocol.across
    task = task_from(splits(p.data, 0), p.network, recipe=p.recipe, width=width)
    how: dict[str, Any] = {**bench.options, "execution": p.execution, "exclude": p.exclude}
    chain = imp_levels(task, levels=p.levels, rewind_step=p.rewind_step, seeds=list(range(p.seeds)), **how)
    levels = [_noted(bench, level) for level in chain]
    means = _errors(bench, levels).mean(0)
    d = _densities(levels[1:], p.exclude)
    return d, means[1:], means[:1].expand(p.levels), torch.full((p.levels,), width).double()


def smaller(task: Task, p: LawProtocol, weights: int) -> Task:
    """The task with a dense network of the same proportions and at most so many weights."""
    inputs, outputs = task.train.inputs[0].numel(), task.classes
    pairs = [(a, max(1, round(a * p.widths[1] / p.widths[0]))) for a in range(1, p.widths[0] + 1)]
    fitting = [(a, b) for a, b in pairs if inputs * a + a * b + b * outputs <= weights]
    return replace(task, network=Network(p.small, task.train.shape, outputs, {"widths": max(fitting or pairs[:1])}))


def _densities(levels: Sequence[Level], exclude: Sequence[str] = ()) -> Tensor:
    """Kept shares of the weights that cuts may touch."""
    kept = [density(level.run.task.space, level.masks[0], exclude) for level in levels]
    return torch.tensor(kept, dtype=torch.float64)


def _errors(bench: Bench[LawProtocol], levels: Sequence[Level]) -> Tensor:
    """(seeds, levels) test errors; none below half an example, for the law is one of logarithms."""
    least = 0.5 / len(levels[0].run.task.test)
    return torch.stack([1 - bench.accuracy(level.run).double() for level in levels], 1).clamp(min=least)


def _chance(task: Task) -> float:
    return 1 - 1 / task.classes


def _options(bench: Bench[LawProtocol]) -> dict[str, Any]:
    return {**bench.options, "execution": "stacked"}


def _noted(bench: Bench[LawProtocol], level: Level) -> Level:
    bench.noted(level.run)
    return level
