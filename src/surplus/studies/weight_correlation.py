"""Liu et al. 2021, "Lottery Ticket Preserves Weight Correlation": is it the learning rate that makes tickets?

R_p, the overlap of the largest weights before and after training, at several learning rates; and from one mask, found
by iterative pruning at the same rate in all layers: the ticket, the mask on fresh weights (reinit), the trained weights
trained on with the schedule restarted (fine-tuned), and dense networks trained once and twice. Departure of the laptop
scale: an MLP on digits in place of ResNet-20 on CIFAR-10.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.pruning.masks import random_mask
from surplus.pruning.schedules.imp import Level, from_masks, levels_from, to_density
from surplus.pruning.schedules.overlap import fine_tuned, overlap, ticket_arms
from surplus.space import generator, seed_for
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, exactly, two_stderr, within
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import Run

PAPER = "Liu et al. 2021, arXiv 2102.11068"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
ACCURACY = "test accuracy"
SEE_ACCURACY = (
    "The overlap does not rank trainings: a rate that is too large moves weights without teaching them anything, so"
    " read the accuracies beside it."
)
_HARDLY = 0.8
"""Networks hardly train at a rate where their accuracy is below this share of that at the best rate."""

FALLS = Claim(
    "overlap-falls-with-the-learning-rate",
    "The larger the learning rate, the less of the largest initial weights are among the largest trained ones.",
    "Liu et al. 2021, on weight correlation",
    "R_0.2(theta_0, theta_T) falls from each learning rate to the next larger one in all seeds; and for fresh initial"
    " weights theta'_0, R_0.2(theta'_0, theta_T) is within 0.03 of 0.2 at every rate in all seeds.",
    EVERYWHERE,
)
TUNING = Claim(
    "fine-tuning-is-no-worse-than-rewinding",
    "From one mask, training on from the trained weights is at least as good as training from the initial ones.",
    "Liu et al. 2021, on pruning and fine-tuning",
    "Density 10%, the fine-tuning as long as the ticket's training and with the schedule restarted: test accuracy of"
    " fine-tuned - ticket, paired by seed: its 2 SE interval lies above -1 point.",
    EVERYWHERE,
)
SHRINKS = Claim(
    "ticket-gap-shrinks-with-the-learning-rate",
    "Tickets beat the same mask on fresh weights at a small learning rate more than at a large one.",
    "Liu et al. 2021, on the winning property at small and large learning rates",
    "ResNet-20 on CIFAR-10 at 62% sparsity: test accuracy of (ticket - reinit) at learning rate 0.01 - (ticket -"
    " reinit) at 0.1 > 2 SE, paired by seed.",
    ("gpu",),
)


class CorrelationProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    test_share: float = 0.332
    """Share of the digits to test on."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (128, 64)})
    """Options of the network."""
    rates: tuple[float, ...] = (0.003, 0.03, 0.3)
    """Learning rates of the claim on the overlap, rising."""
    shares: tuple[float, ...] = (0.1, 0.2, 0.5)
    """Values of p; 0.2 decides."""
    sparse: tuple[float, ...] = (0.7, 0.5, 0.3)
    """Densities of R_0.2 between initial weights under a mask and the fine-tuned end."""
    late: int = 60
    """A step k for R_p(theta_k, theta_T), which is reported beside R_p(theta_0, theta_T)."""
    density: float = 0.1
    """Kept share of each layer's weights in the claim on fine-tuning."""
    gap_density: float = 0.38
    gap_rates: tuple[float, float] = (0.01, 0.1)
    """Density and learning rates of the claim on the gap."""
    exclude: tuple[str, ...] = ()
    """Layers kept whole."""
    execution: str = "stacked"
    recipe: Recipe = Recipe(
        lr=0.03,
        batch_size=50,
        duration=Duration("600it"),
        schedule="step",
        milestones=(Duration("320it"), Duration("480it")),
    )
    """SGD with momentum 0.9; the rate drops tenfold after 80/150 and 120/150 of training, as in the paper."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": CorrelationProtocol(
        seeds=2,
        options={"widths": (32, 16)},
        sparse=(0.5,),
        late=10,
        density=0.3,
        recipe=Recipe(
            lr=0.03, batch_size=50, duration=Duration("60it"), schedule="step", milestones=(Duration("40it"),)
        ),
    ),
    "laptop": CorrelationProtocol(seeds=5),
    "gpu": CorrelationProtocol(
        seeds=5,
        data="cifar10",
        network="resnet-20",
        options={},
        rates=(0.01, 0.1),
        late=390,
        exclude=("conv",),
        execution="spread",
        recipe=Recipe(
            lr=0.1,
            weight_decay=1e-4,
            batch_size=128,
            duration=Duration("30ep"),
            schedule="step",
            milestones=(Duration("16ep"), Duration("24ep")),
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


@study(
    slug="weight-correlation",
    paper=PAPER,
    title="Lottery Ticket Preserves Weight Correlation: Is It Desirable or Not?",
    claims=(FALLS, TUNING, SHRINKS),
    protocols=PROTOCOLS,
)
def weight_correlation(claim: Claim, bench: Bench[CorrelationProtocol]) -> Measured:
    """Overlap of the largest weights, and rewinding against fine-tuning."""
    tests = {FALLS: overlap_falls, TUNING: fine_tuning_is_no_worse, SHRINKS: gap_shrinks}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def overlap_falls(bench: Bench[CorrelationProtocol]) -> Measured:
    """R_p at each learning rate, for the initial weights, for later ones, and for fresh ones."""
    p, rows = bench.protocol, []
    found: dict[float, Tensor] = {}
    reached: dict[float, float] = {}
    astray = 0.0
    for rate in p.rates:
        task = _task(bench).with_recipe(lr=rate)
        run = bench.fit(task, seeds=bench.seeds, keep=(p.late,), execution=p.execution)
        starts = {
            "theta_0": task.space.init_many(bench.seeds),
            f"theta_{p.late}": run.at(p.late),
            "fresh theta_0": task.space.init_many([seed_for(s, "study weight correlation") for s in bench.seeds]),
        }
        for (name, start), share in ((item, share) for item in starts.items() for share in p.shares):
            values = overlap(task.space, start, run.theta, share, exclude=p.exclude)
            rows.append(arm(f"{name}, lr {rate:g}", f"R_{share:g} with theta_T", values, lr=rate))
        found[rate] = overlap(task.space, starts["theta_0"], run.theta, 0.2, exclude=p.exclude)
        fresh = overlap(task.space, starts["fresh theta_0"], run.theta, 0.2, exclude=p.exclude)
        astray = max(astray, float((fresh - 0.2).abs().max()))
        rows += _masked_overlaps(bench, run, rate)
        rows.append(arm(f"lr {rate:g}", ACCURACY, bench.accuracy(run), lr=rate))
        reached[rate] = float(bench.accuracy(run).mean())
    falls = exactly(min(float((found[a] - found[b]).min()) for a, b in pairwise(p.rates)), p.seeds)
    off = exactly(astray, p.seeds)
    checks = [
        Check("R_0.2 at a rate - at the next", "smallest fall over seeds and rates", "> 0", falls, above(falls)),
        Check("fresh R_0.2 - 0.2", "largest size over seeds and rates", "<= 0.03", off, within(off, 0, 0.03)),
    ]
    return decide(FALLS, checks, rows, " ".join([SEE_ACCURACY, *_hardly_trained(reached)]))


def fine_tuning_is_no_worse(bench: Bench[CorrelationProtocol]) -> Measured:
    """All arms from one mask, fine-tuning in every round, and masks of random places."""
    p, task = bench.protocol, _task(bench)
    arms = _arms(bench, task, p.density)
    settings: dict[str, Any] = {"scope": "layer", "seeds": bench.seeds, "exclude": p.exclude}
    arms["fine-tuned in rounds"] = fine_tuned(task, density=p.density, **settings, **_options(bench))[-1]
    arms["random mask"] = _by_chance(bench, task, arms["ticket"])
    found = {name: bench.accuracy(bench.noted(level.run)) for name, level in arms.items()}
    interval = two_stderr(found["fine-tuned"], found["ticket"])
    check = Check(
        "fine-tuned - ticket", ACCURACY, "> -0.01", interval, within(interval, -0.01, 1), {"density": p.density}
    )
    others = [
        beats("ticket", "reinit", ACCURACY, found["ticket"], found["reinit"], density=p.density),
        beats("dense twice", "fine-tuned", ACCURACY, found["dense twice"], found["fine-tuned"], density=p.density),
    ]
    rows = [arm(name, ACCURACY, values, density=arms[name].density) for name, values in found.items()]
    return decide(TUNING, [check], [*(c.detail() for c in others), *_sparse_overlaps(bench, arms), *rows])


def gap_shrinks(bench: Bench[CorrelationProtocol]) -> Measured:
    """The ticket's lead over its mask on fresh weights, at two learning rates."""
    p, rows = bench.protocol, []
    gaps: dict[float, Tensor] = {}
    for rate in p.gap_rates:
        arms = _arms(bench, _task(bench).with_recipe(lr=rate), p.gap_density)
        found = {name: bench.accuracy(bench.noted(level.run)) for name, level in arms.items()}
        gaps[rate] = found["ticket"] - found["reinit"]
        rows += [arm(f"{n}, lr {rate:g}", ACCURACY, v, density=arms[n].density) for n, v in found.items()]
    small, large = p.gap_rates
    check = beats(f"gap at lr {small:g}", f"gap at lr {large:g}", ACCURACY, gaps[small], gaps[large])
    return decide(SHRINKS, [check], rows)


# ---- runs -----------------------------------------------------------------------------------------------------------


def _task(bench: Bench[CorrelationProtocol]) -> Task:
    p = bench.protocol
    return task_from(splits(p.data, 0, p.test_share), p.network, recipe=p.recipe, **p.options)


def _arms(bench: Bench[CorrelationProtocol], task: Task, density: float) -> dict[str, Level]:
    settings: dict[str, Any] = {"seeds": bench.seeds, "exclude": bench.protocol.exclude}
    return ticket_arms(task, density=density, **settings, **_options(bench))


def _by_chance(bench: Bench[CorrelationProtocol], task: Task, ticket: Level) -> Level:
    """Masks of random places with the ticket's layer densities, on its initial weights."""
    p, seeds = bench.protocol, ticket.run.seeds
    chances = [generator(s, "study weight correlation", "random mask") for s in seeds]
    masks = torch.stack([random_mask(task.space, p.density, g, "uniform", p.exclude) for g in chances])
    return from_masks(task, masks, ticket.start, seeds, **_options(bench))


def _sparse_overlaps(bench: Bench[CorrelationProtocol], arms: dict[str, Level]) -> list[Row]:
    """R_0.2 among the weights that remain, between where each sparse arm begins and where it ends."""
    lines = []
    for name in ("ticket", "reinit", "fine-tuned"):
        level = arms[name]
        values = overlap(
            level.run.task.space, level.start, level.run.theta, 0.2, level.masks, exclude=bench.protocol.exclude
        )
        lines.append(arm(name, "R_0.2 of start and end", values, density=level.density))
    return lines


def _masked_overlaps(bench: Bench[CorrelationProtocol], run: Run, rate: float) -> list[Row]:
    """R_0.2 of initial and of fresh weights under a mask with the end of fine-tuning under it, down a chain of cuts."""
    p, task, space, seeds, lines = bench.protocol, run.task, run.task.space, bench.seeds, list[Row]()
    first = space.init_many(seeds)
    dense = Level(1.0, torch.ones_like(first, dtype=torch.bool), first, run)
    cuts = [to_density(d, scope="layer", exclude=p.exclude) for d in p.sparse]
    fresh = space.init_many([seed_for(s, "study weight correlation") for s in seeds])
    for level in list(levels_from(dense, cuts, **_options(bench)))[1:]:
        end = bench.noted(from_masks(task, level.masks, dense.run.theta, seeds, **_options(bench)).run).theta
        for name, start in (("theta_0 m", first), ("fresh theta_0 m", fresh)):
            values = overlap(space, start, end, 0.2, level.masks, exclude=p.exclude)
            quantity = f"R_0.2 with fine-tuned end, {100 * level.density:.3g}% kept"
            lines.append(arm(f"{name}, lr {rate:g}", quantity, values, lr=rate))
    return lines


def _hardly_trained(reached: dict[float, float]) -> list[str]:
    """A sentence about the rates at which there is little to read off an overlap."""
    low = {r: a for r, a in reached.items() if a < _HARDLY * max(reached.values())}
    if not low:
        return []
    told = ", ".join(f"{rate:g} (mean accuracy {accuracy:.2f})" for rate, accuracy in low.items())
    return [
        f"Networks hardly train at the rate {told}, all or some of them: the overlap there is of weights thrown about."
    ]


def _options(bench: Bench[CorrelationProtocol]) -> dict[str, Any]:
    return {**bench.options, "execution": bench.protocol.execution}
