"""Liu et al. 2023, "AP: Selective Activation for De-sparsifying Pruned Networks": do cuts that wake neurons help?

Iterative magnitude pruning, 20% a round, against 18% by magnitude and 2% of slow negative weights (AP), with two
controls that spend the 2% on slow positive and on random weights. All take one training a round, from the same seeds.
The paper's code trains twice a round for AP; here the run that is reported is the one that is cut next. Departure of
the laptop scale: an MLP on digits in place of ResNet-20 on CIFAR-10.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from surplus.pruning.masks import random_mask
from surplus.pruning.schedules.activating import Choice, activating_while_pruning, dead_rate_on_task
from surplus.pruning.schedules.imp import Level, from_masks, imp
from surplus.space import generator
from surplus.stats import rank_correlation
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, exactly
from surplus.tasks import Augment, Duration, Recipe, Task, task_from

PAPER = "Liu, Ghosh, Tan & Motani 2023, arXiv 2212.06145"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
ACCURACY, DYNAMIC, STATIC = "test accuracy", "dynamic dead-neuron rate", "static dead-neuron rate"

FALLS = Claim(
    "dead-neurons-fall-with-density",
    "The sparser the network, the fewer of its ReLU outputs are zero.",
    "Liu et al. 2023, on the dead-neuron rate along pruning",
    "Along 12 levels of iterative magnitude pruning: the rank correlation over levels of density and dynamic"
    " dead-neuron rate on the test set is above 0.9 in all seeds.",
    EVERYWHERE,
)
WAKES = Claim(
    "activating-wakes-neurons",
    "At equal density, spending a tenth of each cut on slow negative weights leaves fewer ReLU outputs at zero.",
    "Liu et al. 2023, the method",
    "At the last level (density 6.9%): dynamic dead-neuron rate of magnitude (20% a round) - AP (18% and 2%) > 2 SE,"
    " paired by seed.",
    EVERYWHERE,
)
GAINS = Claim(
    "activating-gains-accuracy",
    "It also makes the pruned network more accurate.",
    "Liu et al. 2023, abstract: 3% to 4% on CIFAR",
    "ResNet-20 on CIFAR-10 at densities 20%, 10% and 5%: test accuracy of AP - magnitude > 2 SE at each, paired by"
    " seed.",
    ("gpu",),
)
CHOICE = Claim(
    "slow-negative-weights-are-the-ones",
    "It is the negative weights that do it: the same part spent on positive or random weights wakes fewer neurons.",
    "Liu et al. 2023, the method's reason; the controls are ours",
    "At the last level (density 6.9%): dynamic dead-neuron rate with slow positive weights - AP > 2 SE, and with random"
    " weights - AP > 2 SE, paired by seed.",
    EVERYWHERE,
)


class ActivatingProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    test_share: float = 0.332
    """Share of the digits to test on."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (128, 64)})
    """Options of the network."""
    levels: int = 12
    """Rounds that remove `rate` each."""
    rate: float = 0.2
    """Share of the surviving weights that a round removes."""
    activating: float = 0.02
    """The part of it that is spent on activation."""
    densities: tuple[float, ...] = (0.2, 0.1, 0.05)
    """Of the claim on accuracy."""
    execution: str = "stacked"
    recipe: Recipe = Recipe(optimiser="adam", lr=1.2e-3, batch_size=50, duration=Duration("600it"), schedule="constant")


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": ActivatingProtocol(
        seeds=2,
        options={"widths": (32, 16)},
        levels=3,
        rate=0.5,
        activating=0.05,
        recipe=Recipe(optimiser="adam", lr=3e-3, batch_size=50, duration=Duration("60it"), schedule="constant"),
    ),
    "laptop": ActivatingProtocol(seeds=5),
    "gpu": ActivatingProtocol(
        seeds=3,
        data="cifar10",
        network="resnet-20",
        options={},
        execution="spread",
        recipe=Recipe(
            lr=0.1,
            weight_decay=5e-4,
            batch_size=64,
            duration=Duration("50ep"),
            schedule="step",
            milestones=(Duration("25ep"), Duration("32ep")),
            warmup=Duration("20000it"),
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


def draw(result: StudyResult) -> Any:
    """Dead neurons and accuracy against density, one line per arm; then what decided."""
    sheet, (dead, accuracy, conditions, correlations) = grid(4)
    of = {m.claim.slug: m for m in result.measured}
    rows = [r for r in of[CHOICE.slug].rows if " - " not in r["row"]]
    for axes, quantity in ((dead, DYNAMIC), (accuracy, ACCURACY)):
        for name in dict.fromkeys(r["row"] for r in rows):
            points = [r for r in rows if r["row"] == name and r["quantity"] == quantity]
            ends = [[abs(r["value"] - (r["value"] if r[k] is None else r[k])) for r in points] for k in ("low", "high")]
            x, y = [r["density"] for r in points], [r["value"] for r in points]
            axes.errorbar(x, y, ends, marker="o", ms=3, lw=1, elinewidth=0.5, label=name)
        axes.set_xscale("log")
        axes.set_xlabel("density", fontsize=7)
        axes.set_ylabel(quantity, fontsize=7)
        axes.tick_params(labelsize=7)
    dead.legend(fontsize=6, frameon=False)
    compared = {r["row"]: r for c in (WAKES, CHOICE) for r in of[c.slug].rows if "needs" in r}
    dots(conditions, list(compared.values()))
    conditions.axvline(0, color=COLOURS["undecided"], lw=0.5)
    conditions.set_xlabel(f"difference in {DYNAMIC}, 2 SE either side", fontsize=7)
    dots(correlations, [r for r in of[FALLS.slug].rows if r["quantity"].startswith("rank")])
    correlations.set_xlabel("rank correlation of density and dead-neuron rate", fontsize=7)
    for axes, claim in ((dead, WAKES), (conditions, CHOICE), (correlations, FALLS)):
        verdict = of[claim.slug].verdict
        axes.set_title(f"{claim.slug}: {verdict}", fontsize=8, color=COLOURS[verdict], loc="left")
    return sheet


@study(
    slug="activating-while-pruning",
    paper=PAPER,
    title="AP: Selective Activation for De-sparsifying Pruned Networks",
    claims=(FALLS, WAKES, GAINS, CHOICE),
    protocols=PROTOCOLS,
    draw=draw,
)
def activating_study(claim: Claim, bench: Bench[ActivatingProtocol]) -> Measured:
    """Dead neurons along pruning, and cuts that wake them."""
    tests = {FALLS: dead_neurons_fall, WAKES: activating_wakes, GAINS: activating_gains, CHOICE: choice_matters}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def dead_neurons_fall(bench: Bench[ActivatingProtocol]) -> Measured:
    """Density and dead neurons along iterative pruning; beside it, masks of random places."""
    levels = chain(bench, "magnitude")
    rates = torch.stack([dead(bench, level)[0] for level in levels])  # (levels, K)
    order = [rank_correlation([x.density for x in levels], rates[:, k]).value for k in range(rates.shape[1])]
    least = exactly(min(order), len(order))
    check = Check(
        "density - dead-neuron rate", "rank correlation, the lowest over seeds", "> 0.9", least, above(least, 0.9)
    )
    chance = [random_places(bench, level) for level in levels[1:]]
    rows = [arm("magnitude, mean over seeds", "rank correlation", order, per_seed=order)]
    return decide(FALLS, [check], [*rows, *_rows(bench, "magnitude", levels), *_rows(bench, "random mask", chance)])


def activating_wakes(bench: Bench[ActivatingProtocol]) -> Measured:
    """AP against magnitude alone, at equal density."""
    without, with_ap = chain(bench, "magnitude"), chain(bench, "negative")
    check = _fewer(bench, "magnitude", without[-1], with_ap[-1])
    other = beats("AP", "magnitude", ACCURACY, _accuracy(bench, with_ap[-1]), _accuracy(bench, without[-1]))
    earlier = [_fewer(bench, "magnitude", a, b).detail() for a, b in zip(without[1:-1], with_ap[1:-1], strict=True)]
    rows = [*earlier, *_rows(bench, "magnitude", without), *_rows(bench, "AP", with_ap)]
    return decide(WAKES, [check], [other.detail(), *rows])


def activating_gains(bench: Bench[ActivatingProtocol]) -> Measured:
    """Accuracy of AP against magnitude, at three densities."""
    p, checks, rows = bench.protocol, [], []
    for d in p.densities:
        options: dict[str, Any] = {"density": d, "rate": p.rate, "seeds": bench.seeds, **_options(bench)}
        without = imp(_task(bench), **options)[-1]
        with_ap = activating_while_pruning(_task(bench), activating=p.activating, **options)[-1]
        a, b = _accuracy(bench, with_ap), _accuracy(bench, without)
        checks.append(beats("AP", "magnitude", ACCURACY, a, b, density=with_ap.density))
        for name, level in (("AP", with_ap), ("magnitude", without), ("random mask", random_places(bench, without))):
            rows += _rows(bench, name, [level])
    return decide(GAINS, checks, rows)


def choice_matters(bench: Bench[ActivatingProtocol]) -> Measured:
    """AP against the same part spent on other weights."""
    arms = {"AP": chain(bench, "negative"), "slow positive": chain(bench, "positive"), "random": chain(bench, "random")}
    checks = [_fewer(bench, name, arms[name][-1], arms["AP"][-1]) for name in ("slow positive", "random")]
    arms["magnitude"] = chain(bench, "magnitude")
    return decide(CHOICE, checks, [row for name, levels in arms.items() for row in _rows(bench, name, levels)])


# ---- runs -----------------------------------------------------------------------------------------------------------


def chain(bench: Bench[ActivatingProtocol], choose: Choice | Literal["magnitude"]) -> list[Level]:
    """All levels of one arm, the dense one first: "magnitude", or a choice of `activating_cut`."""
    p = bench.protocol
    density = (1 - p.rate) ** p.levels
    options: dict[str, Any] = {"density": density, "rate": p.rate, "seeds": bench.seeds, **_options(bench)}
    if choose == "magnitude":
        levels = imp(_task(bench), **options)
    else:
        levels = activating_while_pruning(_task(bench), choose=choose, activating=p.activating, **options)
    for level in levels:
        bench.noted(level.run)
    return levels


def random_places(bench: Bench[ActivatingProtocol], level: Level) -> Level:
    """Weights drawn from the whole network at once, as many as a level has."""
    task, seeds = level.run.task, level.run.seeds
    chances = [generator(s, "study activating", "random mask", level.density) for s in seeds]
    masks = torch.stack([random_mask(task.space, level.density, g) for g in chances])
    control = from_masks(task, masks, level.start, seeds, **_options(bench))
    bench.noted(control.run)
    return control


def dead(bench: Bench[ActivatingProtocol], level: Level) -> tuple[Tensor, Tensor]:
    """Dynamic and static dead-neuron rates (K,) on the test set."""
    task = level.run.task.to(bench.device)
    found = [dead_rate_on_task(task, theta.to(bench.device), task.test) for theta in level.run.theta]
    return torch.tensor([d.dynamic for d in found]), torch.tensor([d.static for d in found])


def _fewer(bench: Bench[ActivatingProtocol], name: str, other: Level, with_ap: Level) -> Check:
    """The condition that AP leaves fewer dead neurons than another arm."""
    return beats(name, "AP", DYNAMIC, dead(bench, other)[0], dead(bench, with_ap)[0], density=with_ap.density)


def _rows(bench: Bench[ActivatingProtocol], name: str, levels: list[Level]) -> list[Row]:
    lines = []
    for level in levels:
        dynamic, static = dead(bench, level)
        values = ((DYNAMIC, dynamic), (STATIC, static), (ACCURACY, _accuracy(bench, level)))
        lines += [arm(name, quantity, v, density=level.density) for quantity, v in values]
    return lines


def _accuracy(bench: Bench[ActivatingProtocol], level: Level) -> Tensor:
    return bench.accuracy(bench.noted(level.run))


def _task(bench: Bench[ActivatingProtocol]) -> Task:
    p = bench.protocol
    return task_from(splits(p.data, 0, p.test_share), p.network, recipe=p.recipe, **p.options)


def _options(bench: Bench[ActivatingProtocol]) -> dict[str, Any]:
    return {**bench.options, "execution": bench.protocol.execution}
