"""Dong & Yang 2019, "Network Pruning via Transformable Architecture Search".

Each seed searches sizes at a share of the multiply-adds and trains, by one recipe, networks of the sizes found, of all
layers narrowed alike, and of candidate sizes drawn at random, the latter two at the cost of the first; each of them on
the labels alone and distilled from the full network of its seed.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.pruning.structured.tas import searched, student
from surplus.pruning.structured.tas_search import Searched, SearchSettings
from surplus.pruning.structured.tas_sizes import Backbone, Sizes, backbone, random_sizes, uniform_sizes
from surplus.space import generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import Check, Row, Verdict, arm, beats, exactly
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import Run

PAPER = "Dong & Yang 2019, arXiv 1905.09717"
ACCURACY, COST = "test accuracy", "share of multiply-adds"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")

TARGET = Claim(
    "search-meets-target",
    "The sizes that the search gives meet the target cost within the tolerance.",
    "Dong & Yang 2019, section 3.2",
    "Exact multiply-adds of the sizes found, as a share of the full network's: for every seed between target - 0.05 and"
    " target.",
    EVERYWHERE,
)
UNIFORM = Claim(
    "searched-beats-uniform",
    "Sizes that were searched are better than all layers narrowed alike, at equal cost and with the same teacher.",
    "Dong & Yang 2019, section 4.2, table 1",
    "Test accuracy with distillation: searched - uniform > 2 SE, paired by seed.",
    EVERYWHERE,
)
TEACHER = Claim(
    "distillation-helps",
    "Distillation from the full network helps narrow networks, searched or uniform.",
    "Dong & Yang 2019, section 4.2, table 1",
    "Test accuracy: searched, distilled - searched, labels alone > 2 SE, and the same for uniform; paired by seed.",
    EVERYWHERE,
)
RANDOM = Claim(
    "searched-beats-random",
    "Sizes that were searched are better than candidate sizes at random, at equal cost and with the same teacher.",
    "the control of this study; Dong & Yang 2019, table 1, has random sizes too",
    "Test accuracy with distillation: searched - random > 2 SE, paired by seed.",
    EVERYWHERE,
)
_FAMILIES = ("searched", "uniform", "random")


class TasProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (64, 64, 64)})
    keep: float = 0.5
    """Target cost as a share of the full network's multiply-adds."""
    search: SearchSettings = SearchSettings(epochs=60, batch_size=64)
    alpha: float = 0.9
    """Weight of the teacher."""
    temperature: float = 4.0
    """Of the distillation."""
    recipe: Recipe = Recipe(
        lr=0.05,
        nesterov=True,
        weight_decay=5e-4,
        batch_size=64,
        duration=Duration("65ep"),
        warmup=Duration("5ep"),
        clip=1.0,
    )
    """Of teachers and students alike. Distillation is T times as steep as the labels alone, and mlp has no batch norm:
    without warm-up and clipping some students collapse."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": TasProtocol(
        seeds=2,
        options={"widths": (32, 24, 16)},
        search=SearchSettings(epochs=3, batch_size=128),
        recipe=Recipe(lr=0.05, nesterov=True, batch_size=64, duration=Duration("4ep"), clip=1.0),
    ),
    "laptop": TasProtocol(seeds=5),
    "gpu": TasProtocol(
        seeds=5,
        data="cifar10",
        network="resnet-20",
        options={},
        search=SearchSettings(epochs=60),
        recipe=Recipe(
            lr=0.1,
            nesterov=True,
            weight_decay=5e-4,
            batch_size=256,
            duration=Duration("305ep"),
            warmup=Duration("5ep"),
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


@study(
    slug="tas",
    paper=PAPER,
    title="Network Pruning via Transformable Architecture Search",
    claims=(TARGET, UNIFORM, TEACHER, RANDOM),
    protocols=PROTOCOLS,
)
def tas_study(claim: Claim, bench: Bench[TasProtocol]) -> Measured:
    """Searched sizes against uniform and random ones at equal cost, with and without a teacher."""
    tests = {TARGET: search_meets_target, UNIFORM: beats_uniform, TEACHER: distillation_helps, RANDOM: beats_random}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def search_meets_target(bench: Bench[TasProtocol]) -> Measured:
    """Cost of what was found, seed by seed."""
    checks, ends, met = list[Check](), list[float](), 0
    for seed in bench.seeds:
        found, back = _search(bench, seed)
        full, verdict = back.macs(back.full), _met(found)
        sizes = {"widths": "-".join(map(str, back.used(found.sizes))), "depths": "-".join(map(str, found.sizes.depths))}
        low, high = (found.target - found.tolerance) / full, found.target / full
        share = exactly(found.macs / full)
        checks.append(Check(f"seed {seed}", COST, f"in [{low:.3g}, {high:.3g}]", share, verdict, sizes))
        ends.append(float(found.course[-1, 0]) / full)
        met += found.meets(float(found.course[-1, 0]))
    note = (
        "The sizes are those of the last epoch that met the target, as the authors' code prefers; those of the very"
        f" last epoch met it for {met} of {len(checks)} seeds."
    )
    return decide(TARGET, checks, [arm("after the last epoch", COST, ends)], note)


def _met(found: Searched) -> Verdict:
    return "holds" if found.met else "fails"


def beats_uniform(bench: Bench[TasProtocol]) -> Measured:
    """All families at equal cost, with and without the teacher; the searched against the uniform decides."""
    arms = {(family, kd): _accuracies(bench, family, kd) for family in _FAMILIES for kd in (True, False)}
    check = beats("searched", "uniform", ACCURACY, arms["searched", True], arms["uniform", True])
    alone = beats("searched", "uniform, labels alone", ACCURACY, arms["searched", False], arms["uniform", False])
    rows = [arm(_name(family, kd), ACCURACY, values) for (family, kd), values in arms.items()]
    full = [float(bench.accuracy(_teacher(bench, seed))) for seed in bench.seeds]
    rows += [arm("full network", ACCURACY, full), *_costs(bench)]
    return decide(UNIFORM, [check], [alone.detail(), *rows])


def distillation_helps(bench: Bench[TasProtocol]) -> Measured:
    """The teacher against the labels alone."""
    both = [[_accuracies(bench, family, kd) for kd in (True, False)] for family in _FAMILIES]
    names = [f"{family}, distilled" for family in _FAMILIES]
    checks = [beats(name, "labels alone", ACCURACY, *pair) for name, pair in zip(names, both, strict=True)]
    return decide(TEACHER, checks[:2], [checks[2].detail()])


def beats_random(bench: Bench[TasProtocol]) -> Measured:
    """Searched against random sizes."""
    searched_, random = (_accuracies(bench, family, True) for family in ("searched", "random"))
    return decide(RANDOM, [beats("searched", "random", ACCURACY, searched_, random)])


# ---- what is trained ------------------------------------------------------------------------------------------------


def _task(bench: Bench[TasProtocol], seed: int) -> Task:
    p = bench.protocol
    return task_from(splits(p.data, seed), p.network, recipe=p.recipe, **p.options)


def _search(bench: Bench[TasProtocol], seed: int) -> tuple[Searched, Backbone]:
    """What the search of this seed found, and the backbone."""
    p, task = bench.protocol, _task(bench, seed)
    return searched(task, p.keep, seed, p.search, **bench.options), backbone(task)


def _sizes(bench: Bench[TasProtocol], seed: int, family: str) -> Sizes:
    """Sizes of one family, at the cost of the searched ones."""
    found, back = _search(bench, seed)
    if family == "searched":
        return found.sizes
    if family == "uniform":
        return uniform_sizes(back, found.macs)
    return random_sizes(back, found.macs, generator(seed, "study", "random sizes"))


def _teacher(bench: Bench[TasProtocol], seed: int) -> Run:
    return bench.fit(_task(bench, seed), seeds=[seed])


def _accuracies(bench: Bench[TasProtocol], family: str, distilled: bool) -> Tensor:
    """(seeds,) test accuracy of one family."""
    return torch.tensor([_accuracy(bench, seed, family, distilled) for seed in bench.seeds])


def _accuracy(bench: Bench[TasProtocol], seed: int, family: str, distilled: bool) -> float:
    p = bench.protocol
    logits = bench.outputs(_teacher(bench, seed), "train")[0] if distilled else None
    how = {"alpha": p.alpha, "temperature": p.temperature, **bench.options}
    run = student(_task(bench, seed), _sizes(bench, seed, family), seed, logits, **how)
    return float(bench.accuracy(bench.noted(run)))


def _costs(bench: Bench[TasProtocol]) -> list[Row]:
    """What each family costs."""
    rows = []
    for family in _FAMILIES:
        backs = [(seed, backbone(_task(bench, seed))) for seed in bench.seeds]
        shares = [back.macs(_sizes(bench, seed, family)) / back.macs(back.full) for seed, back in backs]
        rows.append(arm(family, COST, shares))
    return rows


def _name(family: str, distilled: bool) -> str:
    return f"{family}, distilled" if distilled else f"{family}, labels alone"
