"""Morcos et al. 2019, "One ticket to win them all": do tickets serve other data and other optimisers?

Tickets of a source, trained on a target, stand beside the target's own tickets, the dense network, and random tickets:
the carried mask permuted over the whole network or within each layer, on fresh weights. Departures of the laptop scale:
MLPs in place of VGG-19 and ResNet-50; MNIST and CIFAR-10 in grey, on 32x32 pixels, in place of MNIST and Fashion-MNIST;
5,000 training examples of each. "Shuffled" rows have the masks of the layerwise random tickets on the ticket's weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field
from torch import Tensor

from surplus.data import Dataset, Splits, split
from surplus.pruning.schedules.transfer import Transfer, recovered_fraction, transfers, unify
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Row, arm, beats, exactly, table_row, two_stderr, within
from surplus.tasks import Augment, Duration, Recipe, Task, task_from

PAPER = "Morcos, Yu, Paganini & Tian 2019, arXiv 1906.02773"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
ACCURACY = "test accuracy"
PLACES = "An MLP's ticket is tied to places in the picture, that of the paper's convolutional networks is not."
REWOUND = (
    "Carried weights have had their first steps on the source, which fresh ones lack: the shuffled row has the same"
    " weights at random places."
)

WITHIN = Claim(
    "transfer-within-a-distribution",
    "A ticket found on one half of a data set serves the other half as well as its own ticket does.",
    "Morcos et al. 2019, on transfer within one data distribution",
    "Tickets of half a, trained on half b, at density 5%: test accuracy of transferred - layerwise random > 2 SE, and"
    " own - transferred: its 2 SE interval ends below 1 point; both paired by seed.",
    EVERYWHERE,
)
ACROSS = Claim(
    "transfer-across-data",
    "A ticket found on one image set beats random tickets of its layer densities on another.",
    "Morcos et al. 2019, abstract, on data sets",
    "Two data sets of 10 classes, whose output layer is carried too, at density 5%: test accuracy of transferred -"
    " layerwise random > 2 SE in both directions, paired by seed.",
    EVERYWHERE,
)
BIGGER = Claim(
    "bigger-source-is-better",
    "A ticket found on more data transfers better.",
    "Morcos et al. 2019, abstract, on larger data sets",
    "Tickets from all of CIFAR-10 and from 10% of it, trained on CIFAR-100, at density 5%: test accuracy of the first -"
    " the second > 2 SE, paired by seed.",
    ("gpu",),
)
OPTIMISERS = Claim(
    "transfer-across-optimisers",
    "A ticket found with Adam serves SGD.",
    "Morcos et al. 2019, abstract, on optimisers",
    "Tickets found with Adam, trained with SGD on the same data, at density 5%: test accuracy of transferred -"
    " layerwise random > 2 SE, paired by seed.",
    EVERYWHERE,
)


class TransferProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "mnist"
    """"digits", or a folder below $SURPLUS_DATA; "digits 0-4" takes some classes."""
    others: tuple[str, str] = ("mnist", "cifar10")
    """The data sets between which tickets pass, of as many classes each."""
    wider: tuple[str, str] = ("cifar10", "cifar100")
    """Source and target of the claim on bigger sources."""
    part: float = 0.1
    """Share of that source in its small version."""
    examples: int | None = 5_000
    """Training examples, class by class; all when None."""
    channels: int = 1
    """1 or 3: of all images, once unified."""
    size: int = 32
    """Height and width of all images, once unified."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (100, 50)})
    """Options of the network."""
    densities: tuple[float, ...] = (0.05,)
    """Where tickets are compared; the last one decides."""
    rate: float = 0.2
    """Share of the surviving weights that a cut removes."""
    rewind_step: int = 80
    """Where tickets are rewound to: about an epoch, fixed before any target was seen."""
    execution: str = "stacked"
    recipe: Recipe = Recipe(optimiser="adam", lr=1.2e-3, batch_size=60, duration=Duration("500it"), schedule="constant")
    sgd: Recipe = Recipe(optimiser="sgd", lr=0.03, batch_size=60, duration=Duration("500it"), schedule="constant")
    """The other recipe of the claim on optimisers."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": TransferProtocol(
        seeds=2,
        data="digits",
        others=("digits 0-4", "digits 5-9"),
        examples=None,
        size=8,
        options={"widths": (32, 16)},
        rate=0.7,
        rewind_step=10,
        recipe=Recipe(optimiser="adam", lr=3e-3, batch_size=50, duration=Duration("60it"), schedule="constant"),
        sgd=Recipe(optimiser="sgd", lr=0.05, batch_size=50, duration=Duration("60it"), schedule="constant"),
    ),
    "laptop": TransferProtocol(seeds=5),
    "gpu": TransferProtocol(
        seeds=3,
        data="cifar10",
        others=("cifar10", "mnist"),
        examples=None,
        channels=3,
        network="conv-6",
        options={},
        densities=(0.2, 0.05),
        rewind_step=390,
        execution="spread",
        recipe=Recipe(
            optimiser="adam", lr=3e-4, batch_size=128, duration=Duration("11700it"), augment=Augment(shift=4)
        ),
        sgd=Recipe(lr=0.03, weight_decay=1e-4, batch_size=128, duration=Duration("11700it"), augment=Augment(shift=4)),
    ),
}


def draw(result: StudyResult) -> Any:
    """Accuracy of all arms, a panel per claim and target; then the differences, which decide."""
    panels: list[tuple[Measured, str, list[Row]]] = []
    for m in result.measured:
        arms = [r for r in m.rows if r["quantity"] == ACCURACY and " - " not in r["row"]]
        for target in dict.fromkeys(_target(r) for r in arms):
            rows = [r for r in arms if _target(r) == target]
            panels.append((m, target, [{**r, "row": r["row"].removesuffix(f" to {target}")} for r in rows]))
    sheet, axes = grid(len(panels) + 1)
    for panel, (m, target, rows) in zip(axes, panels, strict=False):
        dots(panel, [{**r, "density": None} for r in rows])
        panel.set_title(f"{m.claim.slug}: {m.verdict}", fontsize=8, color=COLOURS[m.verdict], loc="left")
        panel.set_xlabel(f"{ACCURACY} on {target}", fontsize=7)
    differences = [r for m in result.measured for r in m.rows if " - " in r["row"]]
    dots(axes[-1], [{**r, "density": None} for r in differences])
    axes[-1].axvline(0, color=COLOURS["undecided"], lw=0.5)
    axes[-1].set_xlabel(f"difference in {ACCURACY}, 2 SE either side", fontsize=7)
    return sheet


def _target(row: Row) -> str:
    """What an arm was trained on, the last part of its name: "own, a to a", "dense, a"."""
    return str(re.split(" to |, ", row["row"])[-1])


@study(
    slug="one-ticket",
    paper=PAPER,
    title="One ticket to win them all: generalizing lottery ticket initializations across datasets and optimizers",
    claims=(WITHIN, ACROSS, BIGGER, OPTIMISERS),
    protocols=PROTOCOLS,
    draw=draw,
)
def one_ticket(claim: Claim, bench: Bench[TransferProtocol]) -> Measured:
    """Tickets on data and under optimisers that they were not found with."""
    tests = {
        WITHIN: within_a_distribution,
        ACROSS: across_data,
        BIGGER: bigger_source_is_better,
        OPTIMISERS: across_optimisers,
    }
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def within_a_distribution(bench: Bench[TransferProtocol]) -> Measured:
    """From one half of the training data to the other."""
    p, whole = bench.protocol, pictures(bench, bench.protocol.data)
    first, second = split(whole.train, 0.5, seed=0)
    tasks = {"a": _task(p, replace(whole, train=first)), "b": _task(p, replace(whole, train=second))}
    found = trained(bench, tasks, [("a", "b"), ("b", "b")])
    own, moved = found["b", "b", "own"], found["a", "b", "transferred"]
    gap = two_stderr(own, moved)
    checks = [
        _beats_chance(bench, found, "a", "b"),
        Check("own - transferred, a to b", ACCURACY, "< 0.01", gap, within(gap, -1, 0.01), _at(bench)),
    ]
    rows = [_beats_shuffle(bench, found, "a", "b"), _recovered(found, "a", "b"), *_rows(bench, found)]
    return decide(WITHIN, checks, rows, REWOUND)


def across_data(bench: Bench[TransferProtocol]) -> Measured:
    """From each of two data sets to the other."""
    p, (one, two) = bench.protocol, bench.protocol.others
    tasks = {name: _task(p, pictures(bench, name)) for name in (one, two)}
    found = trained(bench, tasks, [(one, two), (two, one), (one, one), (two, two)])
    checks = [_beats_chance(bench, found, *pair) for pair in ((one, two), (two, one))]
    rows = [_beats_shuffle(bench, found, *pair) for pair in ((one, two), (two, one))]
    rows += [_recovered(found, *pair) for pair in ((one, two), (two, one))]
    return decide(ACROSS, checks, [*rows, *_rows(bench, found)], PLACES if p.network == "mlp" else "")


def bigger_source_is_better(bench: Bench[TransferProtocol]) -> Measured:
    """From all of a data set and from a part of it, to one with more classes."""
    p, (source, target) = bench.protocol, bench.protocol.wider
    whole = pictures(bench, source)
    few = replace(whole, train=split(whole.train, p.part, seed=0)[1])
    part, all_of_it = f"{p.part:.0%} of {source}", f"all of {source}"
    tasks = {all_of_it: _task(p, whole), part: _task(p, few), target: _task(p, pictures(bench, target))}
    found = trained(bench, tasks, [(all_of_it, target), (part, target)])
    many, less = (found[name, target, "transferred"] for name in (all_of_it, part))
    return decide(BIGGER, [beats(all_of_it, part, ACCURACY, many, less, **_at(bench))], _rows(bench, found))


def across_optimisers(bench: Bench[TransferProtocol]) -> Measured:
    """From Adam to SGD, and back."""
    p = bench.protocol
    adam = _task(p, pictures(bench, p.data))
    tasks = {"adam": adam, "sgd": adam.with_recipe(**p.sgd.model_dump())}
    found = trained(bench, tasks, [("adam", "sgd"), ("sgd", "sgd"), ("sgd", "adam"), ("adam", "adam")])
    rows = [_beats_shuffle(bench, found, "adam", "sgd"), _beats_chance(bench, found, "sgd", "adam").detail()]
    rows += [_recovered(found, "adam", "sgd"), *_rows(bench, found)]
    return decide(OPTIMISERS, [_beats_chance(bench, found, "adam", "sgd")], rows, REWOUND)


# ---- runs -----------------------------------------------------------------------------------------------------------

Found = dict[tuple[str, str, str], Tensor]
"""(source, target, arm) -> test accuracy (K,) at the last density, or of the dense network."""


def trained(bench: Bench[TransferProtocol], tasks: Mapping[str, Task], pairs: Sequence[tuple[str, str]]) -> Found:
    """Train all arms."""
    p, options = bench.protocol, {**bench.options, "execution": bench.protocol.execution}
    settings: dict[str, Any] = {"densities": p.densities, "rate": p.rate, "rewind_step": p.rewind_step}
    arms = transfers(tasks, pairs=pairs, seeds=bench.seeds, **settings, **options)
    return {(a.source, a.target, a.arm): _accuracy(bench, a) for a in arms}  # densities fall: the last one stays


def pictures(bench: Bench[TransferProtocol], name: str) -> Splits:
    """A data set, its images in the protocol's shape and no more of them than the protocol says."""
    p = bench.protocol
    base, _, classes = name.partition(" ")
    data = splits(base, 0)
    if p.examples is not None and p.examples < len(data.train):
        data = replace(data, train=split(data.train, p.examples / len(data.train), seed=0)[1])
    first, _, last = classes.partition("-")
    parts = [_of_classes(d, int(first), int(last)) if classes else d for d in (data.train, data.test)]
    train, test = (unify(d, p.channels, p.size) for d in parts)
    return replace(data, name=name, train=train, test=test, validation=None)


def _of_classes(data: Dataset, first: int, last: int) -> Dataset:
    """The examples of some neighbouring classes, numbered from 0."""
    part = data[(data.targets >= first) & (data.targets <= last)]
    return replace(part, targets=part.targets - first, classes=data.classes[first : last + 1])


def _task(p: TransferProtocol, data: Splits) -> Task:
    return task_from(data, p.network, recipe=p.recipe, **p.options)


def _accuracy(bench: Bench[TransferProtocol], found: Transfer) -> Tensor:
    return bench.accuracy(bench.noted(found.level.run))


# ---- rows -----------------------------------------------------------------------------------------------------------


def _beats_chance(bench: Bench[TransferProtocol], found: Found, source: str, target: str) -> Check:
    """A carried ticket against its layer densities in random places, on fresh weights."""
    return _against(bench, found, source, target, "random-layer")


def _beats_shuffle(bench: Bench[TransferProtocol], found: Found, source: str, target: str) -> Row:
    """The same against random places on its own weights, of which no verdict is made."""
    return _against(bench, found, source, target, "shuffled").detail()


def _against(bench: Bench[TransferProtocol], found: Found, source: str, target: str, other: str) -> Check:
    ticket, control = (found[source, target, name] for name in ("transferred", other))
    check = beats("transferred", other, ACCURACY, ticket, control, **_at(bench))
    return replace(check, name=f"{check.name}, {source} to {target}")


def _recovered(found: Found, source: str, target: str) -> Row:
    """How much of the own tickets' lead over chance the carried ones have."""
    own, chance = found[target, target, "own"], found[target, target, "random-layer"]
    share = recovered_fraction(own, found[source, target, "transferred"], chance)
    return table_row(f"{source} to {target}", "recovered fraction", exactly(share, len(own)))


def _rows(bench: Bench[TransferProtocol], found: Found) -> list[Row]:
    """A line per arm."""
    lines = []
    for (source, target, name), values in found.items():
        label = f"dense, {target}" if name == "dense" else f"{name}, {source} to {target}"
        lines.append(arm(label, ACCURACY, values, **({} if name == "dense" else _at(bench))))
    return lines


def _at(bench: Bench[TransferProtocol]) -> Row:
    return {"density": bench.protocol.densities[-1]}
