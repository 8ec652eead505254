"""Paul et al. 2022, "Lottery Tickets on a Data Diet": what data the dense training before iterative pruning needs.

Tickets rewound to points that were reached on all the data, on a few random examples, on the easiest, or not at all;
and the share of examples that two children of such a point are linearly connected on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.data import split
from surplus.examples import el2n_from_logits
from surplus.landscape.connectivity import ExampleBarriers, example_barriers, on_examples, siblings
from surplus.pruning import random_mask
from surplus.pruning.schedules.data_diet import Diet, pretrain_subset
from surplus.pruning.schedules.imp import Level, by_rate, from_masks, levels_from
from surplus.space import generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, exactly, not_above, two_stderr, within
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import predict

PAPER = "Paul, Larsen, Ganguli, Frankle & Dziugaite 2022, arXiv 2206.01278"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
NO_CONTROL = "A small dense network such as LeNet trains well from step 0 too, so equality is weak evidence there."
LATE = "Where the shared steps reach past the first fall of the rate the children hardly part, so a rise is expected."
ACCURACY, CONNECTED, BARRIER = "test accuracy", "share of linearly connected examples", "error barrier"

REWINDING = Claim(
    "pre-training-is-needed",
    "At low density, tickets rewound to a point a little after the start beat those rewound to the start.",
    "Paul et al. 2022, section 3; Frankle et al. 2020, section 4",
    "ResNet-20 on CIFAR-10 at learning rate 0.1, last level (density about 0.1): test accuracy when rewound to the"
    " point reached on all data - when rewound to step 0, 2 SE interval paired by seed above 1 point.",
    ("gpu",),
)
FEW = Claim(
    "few-random-examples-suffice",
    "With the number of steps fixed, a small random fraction is as good for pre-training as all the data.",
    "Paul et al. 2022, section 4",
    "Test accuracy at the last level, pre-trained on all data - on 6.4% of them: its 2 SE interval, paired by seed,"
    " does not lie above 0, and ends below 1 point.",
    EVERYWHERE,
)
EASY = Claim(
    "easy-examples-are-enough-sooner",
    "In half as many steps, the easiest examples pre-train at least as well as random ones.",
    "Paul et al. 2022, section 4",
    "ResNet-20 on CIFAR-10, 3,200 examples, 100 steps, last level: test accuracy of random - easiest: its 2 SE"
    " interval, paired by seed, does not lie above 0, and ends below 1 point.",
    ("gpu",),
)
CONNECTION = Claim(
    "connection-rises-with-pre-training",
    "The longer the shared pre-training, the more examples two runs from there are linearly connected on.",
    "Paul et al. 2022, section 5",
    "Share of training examples that are answered rightly all along the line between two children of one parent: shared"
    " steps (laptop: 500) - none > 2 SE, paired by parent.",
    ("smoke", "laptop"),
)
MATCHING = Claim(
    "tickets-match-at-a-fifth",
    "Rewound tickets keep the accuracy of the dense network at a fifth of the weights.",
    "Paul et al. 2022, section 3",
    "Every level keeps 0.8^level of the weights, to 2.5 weights (the sum of all roundings), inside the mask before; and"
    " test accuracy of dense - ticket at the first level below 21%: its 2 SE interval, paired by seed, ends below 1"
    " point.",
    EVERYWHERE,
)


class DietProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "mnist"
    """"digits", or a folder below $SURPLUS_DATA."""
    examples: int | None = 10_000
    """Training examples, class by class; all when None."""
    network: str = "lenet-300-100"
    options: dict[str, Any] = Field(default={})
    """Options of the network."""
    steps: int = 100
    """Length of pre-training."""
    sooner: int = 50
    """Its length in the claim on easy examples."""
    share: float = 0.064
    """Share of the examples in the small sets: the paper's 3,200 of 50,000."""
    levels: int = 8
    """Cuts of a fifth."""
    fifth: int = 7
    """Level of the claim that tickets match: 0.8^7 = 21%."""
    exclude: tuple[str, ...] = ()
    """Layers kept whole."""
    nets: int = 5
    """Networks whose EL2N is averaged, and, in steps, its time:"""
    score_steps: int = 200
    parents: int = 3
    """Parents of the claim on connection."""
    shared: int = 500
    """Steps that two children share there."""
    subset: int = 1_000
    """Easiest, hardest and random examples whose barrier is measured."""
    points: int = 11
    """Points on a line."""
    execution: str = "spread"
    recipe: Recipe = Recipe(
        lr=0.1,
        weight_decay=1e-4,
        batch_size=128,
        duration=Duration("5ep"),
        schedule="step",
        milestones=(Duration("3ep"), Duration("4ep")),
    )
    """Training of a level."""
    longer: Recipe = Recipe(
        lr=0.1,
        weight_decay=1e-4,
        batch_size=128,
        duration=Duration("8ep"),
        schedule="step",
        milestones=(Duration("4ep"), Duration("6ep")),
    )
    """Training in the claim on connection."""


_SHORT = Recipe(lr=0.05, batch_size=64, duration=Duration("3ep"), schedule="step", milestones=(Duration("2ep"),))

PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": DietProtocol(
        seeds=2,
        data="digits",
        examples=None,
        network="mlp",
        options={"widths": (32, 16)},
        steps=10,
        levels=2,
        fifth=2,
        nets=2,
        score_steps=40,
        parents=2,
        shared=40,
        subset=100,
        points=5,
        execution="stacked",
        recipe=_SHORT,
        longer=_SHORT,
    ),
    "laptop": DietProtocol(seeds=5),
    "gpu": DietProtocol(
        seeds=3,
        data="cifar10",
        examples=None,
        network="resnet-20",
        steps=200,
        sooner=100,
        levels=10,
        score_steps=980,
        recipe=Recipe(
            lr=0.1,
            weight_decay=1e-4,
            batch_size=512,
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
    """Accuracy against density; what decided; shares of connected examples; barriers of subsets."""
    sheet, (curve, decided, connected, barriers) = grid(4)
    of = {m.claim.slug: m for m in result.measured}
    levels = [r for m in result.measured for r in m.rows if r["quantity"] == ACCURACY and " - " not in r["row"]]
    for name in dict.fromkeys(r["row"] for r in levels):
        points = sorted(
            {r["density"]: r for r in levels if r["row"] == name}.values(), key=lambda r: float(r["density"])
        )
        ends = [[abs(r["value"] - (r["value"] if r[k] is None else r[k])) for r in points] for k in ("low", "high")]
        x, y = [r["density"] for r in points], [r["value"] for r in points]
        curve.errorbar(x, y, ends, marker="o", ms=3, lw=1, label=name)
    curve.set_xscale("log")
    ticks = sorted({r["density"] for r in levels})[::2]
    curve.set_xticks(ticks, [f"{100 * d:.3g}%" for d in ticks])
    curve.minorticks_off()
    curve.legend(fontsize=6, frameon=False)
    curve.tick_params(labelsize=7)
    curve.set_xlabel("density", fontsize=7)
    curve.set_ylabel(ACCURACY, fontsize=7)
    few, matching, connection = (of[c.slug] for c in (FEW, MATCHING, CONNECTION))
    differences = [r for m in (few, matching) for r in m.rows if " - " in r["row"] and r["quantity"] == ACCURACY]
    dots(decided, list({r["row"]: r for r in differences}.values()))
    decided.axvline(0, color=COLOURS["undecided"], lw=0.5)
    for axes, quantity in ((connected, CONNECTED), (barriers, BARRIER)):
        dots(axes, [r for r in connection.rows if r["quantity"] == quantity and " - " not in r["row"]])
        axes.set_xlabel(quantity, fontsize=7)
    decided.set_xlabel(f"difference in {ACCURACY}, 2 SE either side", fontsize=7)
    for axes, m in ((curve, matching), (decided, few), (connected, connection), (barriers, connection)):
        axes.set_title(f"{m.claim.slug}: {m.verdict}", fontsize=8, color=COLOURS[m.verdict], loc="left")
    return sheet


@study(
    slug="tickets-on-a-data-diet",
    paper=PAPER,
    title="Lottery Tickets on a Data Diet: Finding Initializations with Sparse Trainable Networks",
    claims=(REWINDING, FEW, EASY, CONNECTION, MATCHING),
    protocols=PROTOCOLS,
    draw=draw,
)
def tickets_on_a_data_diet(claim: Claim, bench: Bench[DietProtocol]) -> Measured:
    """Dense training before pruning: does it need all the data, and what does it do to the landscape?"""
    tests = {
        REWINDING: pre_training_is_needed,
        FEW: few_random_examples_suffice,
        EASY: easy_examples_are_enough,
        CONNECTION: connection_rises,
        MATCHING: tickets_match,
    }
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def pre_training_is_needed(bench: Bench[DietProtocol]) -> Measured:
    """Rewound to the point reached on all data, against the initial weights."""
    rewound, initial = chain(bench, "all", bench.protocol.steps), chain(bench, "all", 0)
    a, b = accuracy(bench, rewound[-1]), accuracy(bench, initial[-1])
    interval = two_stderr(a, b)
    check = Check("all data - step 0", ACCURACY, "> 0.01", interval, above(interval, 0.01))
    rows = [*_curve(bench, "all data", rewound), *_curve(bench, "step 0", initial), _by_chance(bench, rewound[-1])]
    return decide(REWINDING, [check], rows)


def few_random_examples_suffice(bench: Bench[DietProtocol]) -> Measured:
    """Pre-trained on all data, against a small random set for as many steps."""
    p = bench.protocol
    whole, few = chain(bench, "all", p.steps), chain(bench, "random", p.steps)
    name = f"random {_size(bench)}"
    checks = _no_worse(name, "all data", accuracy(bench, few[-1]), accuracy(bench, whole[-1]))
    return decide(FEW, checks, [*_curve(bench, "all data", whole), *_curve(bench, name, few)], NO_CONTROL)


def easy_examples_are_enough(bench: Bench[DietProtocol]) -> Measured:
    """Pre-trained on the easiest examples, against as many random ones, for half as many steps."""
    p = bench.protocol
    easy, few = chain(bench, "easiest", p.sooner), chain(bench, "random", p.sooner)
    first, second = (f"{diet} {_size(bench)}, {p.sooner} steps" for diet in ("easiest", "random"))
    checks = _no_worse(first, second, accuracy(bench, easy[-1]), accuracy(bench, few[-1]))
    return decide(EASY, checks, [*_curve(bench, first, easy), *_curve(bench, second, few)])


def connection_rises(bench: Bench[DietProtocol]) -> Measured:
    """Lines between two children of one parent, after no and after many shared steps."""
    p, found = bench.protocol, {step: lines(bench, step) for step in (0, bench.protocol.shared)}
    shares = {step: [float(line.connected().double().mean()) for line in f] for step, f in found.items()}
    check = beats(f"{p.shared} shared steps", "0 shared steps", CONNECTED, shares[p.shared], shares[0])
    rows: list[Row] = [arm(f"{step} shared steps", CONNECTED, v) for step, v in shares.items()]
    for name, which in subsets(bench).items():
        for step, f in found.items():
            rows.append(arm(f"{name}, {step} shared steps", BARRIER, [line.error_barrier(which) for line in f]))
    for step, f in found.items():
        heights = [float(line.height.double().mean()) for line in f]
        rows.append(arm(f"{step} shared steps", "mean loss barrier of an example", heights))
    return decide(CONNECTION, [check], rows, LATE)


def tickets_match(bench: Bench[DietProtocol]) -> Measured:
    """Counts, nesting, and the accuracy at a fifth of the weights."""
    p = bench.protocol
    levels = chain(bench, "all", p.steps)
    at = levels[p.fifth]
    interval = two_stderr(accuracy(bench, levels[0]), accuracy(bench, at))
    off, escaped = exactly(_off_count(levels)), exactly(_escaped(levels))
    checks = [
        Check("dense - ticket", ACCURACY, "< 0.01", interval, within(interval, -1, 0.01), {"density": at.density}),
        Check("count of a level", "weights off 0.8^level", "<= 2.5", off, within(off, 0, 2.5)),
        Check("mask of a level", "weights outside the mask before", "= 0", escaped, within(escaped, 0, 0)),
    ]
    return decide(MATCHING, checks, [*_curve(bench, "all data", levels), _by_chance(bench, at)])


# ---- tickets --------------------------------------------------------------------------------------------------------


def chain(bench: Bench[DietProtocol], diet: Diet, steps: int) -> list[Level]:
    """All levels, rewound to where `steps` steps on a diet led; read back from the store when asked for again."""
    p, task = bench.protocol, _task(bench, bench.protocol.recipe)
    start = task.space.init_many(bench.seeds)
    if steps:
        scores = el2n(bench) if diet in ("easiest", "hardest") else None
        run = pretrain_subset(
            task, diet, _size(bench), steps=steps, seeds=bench.seeds, scores=scores, **_options(bench)
        )
        start = bench.noted(run).theta
    whole = torch.ones_like(start, dtype=torch.bool)
    first = from_masks(task, whole, start, bench.seeds, steps, **_options(bench))
    cuts = [by_rate(0.2, exclude=p.exclude)] * p.levels
    levels = list(levels_from(first, cuts, step=steps, **_options(bench)))
    for level in levels:
        bench.noted(level.run)
    return levels


def accuracy(bench: Bench[DietProtocol], level: Level) -> Tensor:
    """(K,) on the test set."""
    return bench.accuracy(level.run)


def _no_worse(name: str, other: str, a: Tensor, b: Tensor) -> list[Check]:
    """The conditions that arm a is not worse than b, and not by a point."""
    interval, label = two_stderr(b, a), f"{other} - {name}"
    return [
        Check(label, ACCURACY, "not > 2 SE", interval, not_above(interval)),
        Check(label, ACCURACY, "< 0.01", interval, within(interval, -1, 0.01)),
    ]


def _curve(bench: Bench[DietProtocol], name: str, levels: Sequence[Level]) -> list[Row]:
    return [arm(name, ACCURACY, accuracy(bench, level), density=level.density) for level in levels]


def _by_chance(bench: Bench[DietProtocol], level: Level) -> Row:
    """Masks of random places with as many weights, from the same points."""
    task, p = level.run.task, bench.protocol
    chances = [generator(s, "study data diet", "random mask", level.density) for s in level.run.seeds]
    masks = torch.stack([random_mask(task.space, level.density, g, exclude=p.exclude) for g in chances])
    control = from_masks(task, masks, level.start, level.run.seeds, p.steps, **_options(bench))
    return arm("random mask", ACCURACY, bench.accuracy(bench.noted(control.run)), density=level.density)


def _off_count(levels: Sequence[Level]) -> float:
    """Largest distance, in weights, between a level's count and 0.8^level of all."""
    prunable = levels[0].run.task.space.prunable
    kept = torch.stack([level.masks[:, prunable].sum(1) for level in levels])  # (levels, K)
    ideal = int(prunable.sum()) * 0.8 ** torch.arange(len(levels), dtype=torch.float64)
    return float((kept - ideal[:, None]).abs().max())


def _escaped(levels: Sequence[Level]) -> float:
    """Weights that a level keeps and the one before does not."""
    return float(sum(int((after.masks & ~before.masks).sum()) for before, after in pairwise(levels)))


# ---- lines ----------------------------------------------------------------------------------------------------------


def lines(bench: Bench[DietProtocol], shared: int) -> list[ExampleBarriers]:
    """A line between two children of each parent, that share so many steps."""
    p, task = bench.protocol, _task(bench, bench.protocol.longer)
    parents = list(range(p.parents))
    start = task.space.init_many(parents)
    if shared:
        recipe = p.longer.model_copy(update={"duration": Duration(f"{shared}it")})
        start = bench.fit(task, seeds=parents, recipe=recipe, execution=p.execution).theta
    children = [
        bench.noted(run).theta.to(bench.device) for run in siblings(task, start, shared, parents, **_options(bench))
    ]
    return [example_barriers(on_examples(task), a, b, p.points) for a, b in zip(*children, strict=True)]


def subsets(bench: Bench[DietProtocol]) -> dict[str, Tensor]:
    """Positions of the easiest, the hardest and of random training examples."""
    scores, m = el2n(bench), bench.protocol.subset
    order = scores.argsort(stable=True)
    chance = torch.randperm(len(scores), generator=generator(0, "study data diet", "random examples"))
    return {f"easiest {m}": order[:m], f"hardest {m}": order[-m:], f"random {m}": chance[:m]}


def el2n(bench: Bench[DietProtocol]) -> Tensor:
    """EL2N (n,) of the training examples, early in training, averaged over networks of other seeds."""
    p, task = bench.protocol, _task(bench, bench.protocol.recipe)
    recipe = p.recipe.model_copy(update={"duration": Duration(f"{p.score_steps}it"), "schedule": "constant"})
    run = bench.fit(task, seeds=[30_000 + k for k in range(p.nets)], recipe=recipe, execution=p.execution)
    return el2n_from_logits(predict(task, run.theta.to(bench.device), task.train).cpu(), task.train.targets).mean


# ---- shared ---------------------------------------------------------------------------------------------------------


def _task(bench: Bench[DietProtocol], recipe: Recipe) -> Task:
    p = bench.protocol
    data = splits(p.data, 0)
    if p.examples is not None and p.examples < len(data.train):
        data = replace(data, train=split(data.train, p.examples / len(data.train), seed=0)[1])
    return task_from(data, p.network, recipe=recipe, **p.options)


def _size(bench: Bench[DietProtocol]) -> int:
    """Examples in the small sets."""
    return round(bench.protocol.share * len(_task(bench, bench.protocol.recipe).train))


def _options(bench: Bench[DietProtocol]) -> dict[str, Any]:
    return {**bench.options, "execution": bench.protocol.execution}
