"""Frankle & Carbin 2019, "The Lottery Ticket Hypothesis", and Frankle et al. 2020 on rewinding.

Tickets of iterative magnitude pruning against controls of equal density, all from the same seeds and by the same
recipe: the mask on fresh weights (reinit), each layer's mask in random places (shuffle), random masks of the network as
a whole (random) and of one density in every layer (random, uniform), one cut to the same layer densities (one-shot),
and a dense network with as few weights (small dense).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from surplus.data import Splits, split
from surplus.pruning import density, keep_top, layer_densities, random_mask, shuffle
from surplus.pruning.evidence.small_dense import small_dense
from surplus.pruning.moved import moved_ratio
from surplus.pruning.schedules.imp import Level, from_masks, imp_levels, reinitialised
from surplus.space import generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide, undecided
from surplus.studies.verdicts import Check, Row, arm, beats, smaller_by_sign
from surplus.tasks import Augment, Duration, Network, Recipe, Task, task_from
from surplus.training import Run, evaluate

PAPER = "Frankle & Carbin 2019, arXiv 1803.03635; Frankle, Dziugaite, Roy & Carbin 2020, arXiv 1912.05671"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
ACCURACY, MOVED = "test accuracy", "way of kept weights over that of removed ones"
RANDOM: dict[str, Literal["global", "uniform"]] = {"random": "global", "random, uniform": "uniform"}
"""Random masks: drawn from the network as a whole, and at one density in every layer."""

TICKET = Claim(
    "ticket-beats-reinit-and-shuffle",
    "A ticket of iterative pruning beats its mask on fresh weights, and its layer densities in random places.",
    "Frankle & Carbin 2019, section 2; Frankle et al. 2021, section 5, for the shuffle",
    "Test accuracy at the last level (density at most 6%): ticket - reinit > 2 SE and ticket - shuffle > 2 SE, paired"
    " by seed.",
    EVERYWHERE,
)
ITERATIVE = Claim(
    "iterative-beats-one-shot",
    "At low density, cutting a little at a time beats one cut to the same layer densities.",
    "Frankle & Carbin 2019, section 2",
    "Test accuracy at the last level (density at most 3%): ticket - one-shot > 2 SE, paired by seed.",
    EVERYWHERE,
)
EARLIER = Claim(
    "ticket-learns-earlier",
    "A ticket at a fifth of the weights reaches its lowest validation loss before the dense network and before the same"
    " mask on fresh weights.",
    "Frankle & Carbin 2019, section 2",
    "Step of the lowest validation loss, among evaluations at equal distances: smaller than the dense network's and"
    " than the reinit's, each by a one-sided sign test over seeds at 5%. Undecided where more than half of the tickets"
    " are still improving at the last step, for then the runs are too short to tell.",
    EVERYWHERE,
)
REWINDING = Claim(
    "rewinding-is-needed",
    "At the high learning rate of a deep network, tickets need weights from a little after the start.",
    "Frankle et al. 2020, section 4",
    "ResNet-20 on CIFAR-10 at learning rate 0.1, density 17%: test accuracy when rewound to the latest step - when"
    " rewound to step 0 > 2 SE, paired by seed.",
    ("gpu",),
)


class RewindingProtocol(Protocol):
    """Sizes of the claim on rewinding."""

    data: str = "cifar10"
    network: str = "resnet-20"
    options: dict[str, Any] = Field(default={})
    levels: int = 8
    """Cuts of a fifth: 17% remain after 8."""
    steps: tuple[int, ...] = (0, 500, 2000)
    """Where to rewind to."""
    exclude: tuple[str, ...] = ("head",)
    """Layers kept whole, as in the paper."""
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


class ImpProtocol(Protocol):
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
    levels: int = 17
    """Cuts."""
    rate: float = 0.2
    """Share of each layer's weights that a cut removes; half of it in the output layer."""
    controls_at: tuple[int, ...] = (7, 12, 14, 17)
    """Levels at which the controls are trained; the last one decides."""
    early_level: int = 7
    """Level of the claim on speed: a fifth of the weights."""
    every: int = 20
    """Steps between two looks at the validation loss; the paper's 100 where training is as long as its (gpu), and 20 on
    the laptop, where 600 steps are all and their lowest would be one of six."""
    test_share: float = 0.332
    """Share of the digits to test on."""
    validation_share: float = 0.167
    """Share of the training data to validate on."""
    recipe: Recipe = Recipe(optimiser="adam", lr=1.2e-3, batch_size=50, duration=Duration("600it"), schedule="constant")
    rewinding: RewindingProtocol = RewindingProtocol(seeds=3)


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": ImpProtocol(
        seeds=2,
        options={"widths": (32, 16)},
        widths=(32, 16),
        levels=3,
        rate=0.6,
        controls_at=(3,),
        early_level=1,
        every=20,
        recipe=Recipe(optimiser="adam", lr=3e-3, batch_size=50, duration=Duration("60it"), schedule="constant"),
    ),
    "laptop": ImpProtocol(seeds=5),
    "gpu": ImpProtocol(
        seeds=5,
        data="mnist",
        network="lenet-300-100",
        options={},
        widths=(300, 100),
        levels=16,
        controls_at=(7, 12, 16),
        every=100,
        validation_share=1 / 12,
        recipe=Recipe(optimiser="adam", lr=1.2e-3, batch_size=60, duration=Duration("5000it"), schedule="constant"),
    ),
}


def draw(result: StudyResult) -> Any:
    """Accuracy against density for the ticket and its controls; then what decided each claim."""
    sheet, (curve, conditions) = grid(2)
    rows = [r for m in result.measured[:2] for r in m.rows if r["quantity"] == ACCURACY and " - " not in r["row"]]
    for name in dict.fromkeys(r["row"] for r in rows):
        points = sorted({r["density"]: r for r in rows if r["row"] == name}.values(), key=lambda r: float(r["density"]))
        densities, values = [r["density"] for r in points], [r["value"] for r in points]
        ends = [[abs(r["value"] - (r["value"] if r[k] is None else r[k])) for r in points] for k in ("low", "high")]
        curve.errorbar(densities, values, ends, marker="o", ms=3, lw=1, label=name)
    curve.set_xscale("log")
    curve.set_xlabel("density", fontsize=7)
    curve.set_ylabel(ACCURACY, fontsize=7)
    curve.legend(fontsize=6, frameon=False)
    curve.tick_params(labelsize=7)
    decided = [r for m in result.measured[:2] for r in m.rows if " - " in r["row"]]
    dots(conditions, decided)
    for axes, m in zip((curve, conditions), result.measured, strict=False):
        axes.set_title(f"{m.claim.slug}: {m.verdict}", fontsize=8, color=COLOURS[m.verdict], loc="left")
    conditions.axvline(0, color=COLOURS["undecided"], lw=0.5)
    conditions.set_xlabel(f"difference in {ACCURACY}, 2 SE either side", fontsize=7)
    return sheet


@study(
    slug="imp",
    paper=PAPER,
    title="The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks",
    claims=(TICKET, ITERATIVE, EARLIER, REWINDING),
    protocols=PROTOCOLS,
    draw=draw,
)
def imp_study(claim: Claim, bench: Bench[ImpProtocol]) -> Measured:
    """Iterative magnitude pruning with rewinding: are its tickets better than their controls?"""
    tests = {
        TICKET: ticket_beats_controls,
        ITERATIVE: iterative_beats_one_shot,
        EARLIER: learns_earlier,
        REWINDING: rewinding_is_needed,
    }
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def ticket_beats_controls(bench: Bench[ImpProtocol]) -> Measured:
    """The ticket against all its controls, over densities."""
    levels = _levels(bench)
    rows = [arm("ticket", ACCURACY, _accuracy(bench, level), density=level.density) for level in levels]
    for at in bench.protocol.controls_at:
        arms = controls(bench, levels, at)
        rows += [arm(name, ACCURACY, values, density=levels[at].density) for name, values in arms.items()]
    ticket, d = _accuracy(bench, levels[-1]), levels[-1].density
    checks = [beats("ticket", name, ACCURACY, ticket, arms[name], density=d) for name in ("reinit", "shuffle")]
    others = [beats("ticket", name, ACCURACY, ticket, arms[name], density=d) for name in (*RANDOM, "small dense")]
    return decide(TICKET, checks, [*(c.detail() for c in others), *rows, *_moved_rows(levels)])


def iterative_beats_one_shot(bench: Bench[ImpProtocol]) -> Measured:
    """The ticket against one cut, at equal layer densities."""
    levels, rows = _levels(bench), []
    for at in bench.protocol.controls_at:
        one, iterative, d = (
            _accuracy(bench, one_cut(bench, levels, at)),
            _accuracy(bench, levels[at]),
            levels[at].density,
        )
        chance = {name: _accuracy(bench, random_places(bench, levels, at, name)) for name in RANDOM}
        arms = {"one-shot": one, "ticket": iterative, **chance}
        rows += [arm(name, ACCURACY, values, density=d) for name, values in arms.items()]
        check = beats("ticket", "one-shot", ACCURACY, iterative, one, density=d)
        rows += [check.detail()] if at != bench.protocol.controls_at[-1] else []
    return decide(ITERATIVE, [check], rows)


def learns_earlier(bench: Bench[ImpProtocol]) -> Measured:
    """When each arm's validation loss is lowest, and its test accuracy then and at the end."""
    p, levels = bench.protocol, _levels(bench)
    level, task = levels[p.early_level], levels[0].run.task
    last = _steps(task)
    looks = list(range(p.every, last + 1, p.every))
    options = {**bench.options, "execution": "stacked", "keep": looks}
    seeds, start = level.run.seeds, levels[0].start
    arms = {
        "ticket": from_masks(task, level.masks, start, seeds, **options),
        "dense": from_masks(task, levels[0].masks, start, seeds, **options),
        "reinit": reinitialised(task, level, **options),
        **{name: from_masks(task, _random_masks(level, name), start, seeds, **options) for name in RANDOM},
    }
    best = {name: _best_step(bench, a.run, looks) for name, a in arms.items()}  # each (seeds,)
    quantity = "step of lowest validation loss"
    rows = [
        arm(n, quantity, steps.double(), density=arms[n].density, steps=steps.tolist()) for n, steps in best.items()
    ]
    for name, a in arms.items():
        early, late = _accuracy_at(bench, a.run, best[name]), _accuracy(bench, a)
        rows.append(arm(name, f"{ACCURACY} at the lowest validation loss", early, density=a.density))
        rows.append(arm(name, f"{ACCURACY} at the end", late, density=a.density))
    unfinished = int((best["ticket"] == looks[-1]).sum())
    if 2 * unfinished > len(seeds):
        reason = f"too short to tell: {unfinished} of {len(seeds)} tickets still improve at the last step, {last}"
        return undecided(EARLIER, reason, rows)
    checks = []
    for other in ("dense", "reinit"):
        share, verdict = smaller_by_sign(best["ticket"], best[other])
        checks.append(Check(f"ticket before {other}", "share of seeds", "sign test at 5%", share, verdict))
    return decide(EARLIER, checks, rows)


def rewinding_is_needed(bench: Bench[ImpProtocol]) -> Measured:
    """Tickets rewound to several early steps of a deep network."""
    p, found = bench.protocol.rewinding, {}
    task = task_from(splits(p.data, 0), p.network, recipe=p.recipe, **p.options)
    options: dict[str, Any] = {**bench.options, "execution": p.execution}
    seeds = list(range(p.seeds))
    for step in p.steps:
        levels = imp_levels(task, levels=p.levels, rewind_step=step, seeds=seeds, exclude=p.exclude, **options)
        *_, last = (_noted(bench, level) for level in levels)
        found[step] = _accuracy(bench, last)
    d = density(task.space, last.masks[0], p.exclude)
    rows = [arm(f"rewound to step {k}", ACCURACY, v, density=d) for k, v in found.items()]
    for name, rule in RANDOM.items():
        chances = [_chance(s, "deep", rule) for s in seeds]
        masks = torch.stack([random_mask(task.space, d, g, rule, p.exclude) for g in chances])
        control = _accuracy(bench, from_masks(task, masks, last.start, seeds, p.steps[-1], **options))
        rows.append(arm(f"{name}, from step {p.steps[-1]}", ACCURACY, control, density=d))
    check = beats(
        f"rewound to step {p.steps[-1]}",
        f"rewound to step {p.steps[0]}",
        ACCURACY,
        found[p.steps[-1]],
        found[p.steps[0]],
    )
    return decide(REWINDING, [check], rows)


# ---- runs -----------------------------------------------------------------------------------------------------------


def _task(bench: Bench[ImpProtocol]) -> Task:
    p = bench.protocol
    whole = splits(p.data, 0, p.test_share)
    train, validation = split(whole.train, p.validation_share, seed=0)
    data = Splits(whole.name, train, whole.test, validation, whole.carved)
    return task_from(data, p.network, recipe=p.recipe, **p.options)


def _levels(bench: Bench[ImpProtocol]) -> list[Level]:
    """Iterative pruning by layer, rewound to the initial weights; read back from the store when asked for again."""
    p, options = bench.protocol, {**bench.options, "execution": "stacked"}
    levels = imp_levels(_task(bench), levels=p.levels, rate=p.rate, seeds=bench.seeds, scope="layer", **options)
    return [_noted(bench, level) for level in levels]


def controls(bench: Bench[ImpProtocol], levels: Sequence[Level], at: int) -> dict[str, Tensor]:
    """Test accuracy (K,) of each control of the ticket at this level."""
    level, task, options = levels[at], levels[0].run.task, {**bench.options, "execution": "stacked"}
    moved = [
        shuffle(task.space, m, _chance(s, "shuffle", at)) for s, m in zip(level.run.seeds, level.masks, strict=True)
    ]
    few = smaller(task, bench.protocol, int(level.density * task.space.prunable.sum()))
    return {
        "reinit": _accuracy(bench, reinitialised(task, level, **options)),
        "shuffle": _accuracy(bench, from_masks(task, torch.stack(moved), level.start, level.run.seeds, **options)),
        **{name: _accuracy(bench, random_places(bench, levels, at, name)) for name in RANDOM},
        "small dense": bench.accuracy(bench.fit(few, seeds=level.run.seeds, execution="stacked")),
    }


def one_cut(bench: Bench[ImpProtocol], levels: Sequence[Level], at: int) -> Level:
    """One cut of the trained dense networks to the layer densities of the ticket at this level."""
    dense, task = levels[0], levels[0].run.task
    masks = [
        keep_top(task.space, theta.abs(), layer_density=layer_densities(task.space, mask))
        for theta, mask in zip(dense.run.theta, levels[at].masks, strict=True)
    ]
    return from_masks(task, torch.stack(masks), dense.start, dense.run.seeds, **bench.options, execution="stacked")


def random_places(bench: Bench[ImpProtocol], levels: Sequence[Level], at: int, name: str = "random") -> Level:
    """As many weights as the ticket at this level has, in random places; `name` is one of RANDOM."""
    level, task = levels[at], levels[0].run.task
    masks = _random_masks(level, name)
    return from_masks(task, masks, level.start, level.run.seeds, **bench.options, execution="stacked")


def _random_masks(level: Level, name: str) -> Tensor:
    space = level.run.task.space
    chances = [_chance(s, name, level.density) for s in level.run.seeds]
    return torch.stack([random_mask(space, level.density, g, RANDOM[name]) for g in chances])


def _moved_rows(levels: Sequence[Level]) -> list[Row]:
    """How far the dense networks moved what each of the first cuts left, and what masks of random places keep."""
    rows = []
    for level in levels[1:4]:
        arms = {"ticket": level, **{name: replace(level, masks=_random_masks(level, name)) for name in RANDOM}}
        rows += [arm(n, MOVED, moved_ratio(levels[0], a), density=level.density) for n, a in arms.items()]
    return rows


def smaller(task: Task, p: ImpProtocol, weights: int) -> Task:
    """The task with a dense network of the same proportions and at most so many weights."""
    large = Network(p.small, task.train.shape, task.classes, {"widths": p.widths})
    return small_dense(replace(task, network=large), [0], weights=weights)[0]


def _best_step(bench: Bench[ImpProtocol], run: Run, looks: Sequence[int]) -> Tensor:
    """Step (K,) of the lowest validation loss among `looks`; the first of equal ones."""
    assert run.task.validation is not None
    bench.noted(run)
    losses = torch.stack(
        [evaluate(run.task, run.at(step).to(bench.device), run.task.validation).loss.cpu() for step in looks]
    )
    return torch.tensor(looks)[losses.argmin(0)]


def _accuracy_at(bench: Bench[ImpProtocol], run: Run, steps: Tensor) -> Tensor:
    """Test accuracy (K,) of each replica at its own step (K,)."""
    theta = torch.stack([run.at(step)[k] for k, step in enumerate(steps.tolist())])
    return evaluate(run.task, theta.to(bench.device), run.task.test).metric.cpu()


def _accuracy(bench: Bench[ImpProtocol], level: Level) -> Tensor:
    return bench.accuracy(bench.noted(level.run))


def _noted(bench: Bench[ImpProtocol], level: Level) -> Level:
    bench.noted(level.run)
    return level


def _chance(seed: int, *purpose: object) -> torch.Generator:
    return generator(seed, "study imp", *purpose)


def _steps(task: Task) -> int:
    return task.recipe.duration.steps(-(-len(task.train) // task.recipe.batch_size))
