"""Chatterjee & Zielinski 2022, "On the Generalization Mystery in Deep Learning": gradients of real data are coherent.

Coherence of per-example gradients is compared between real and random labels and between easy and hard examples; robust
averages, which keep only what many examples ask for, are tested for what they do to memorization and to test accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import log2
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.data import Dataset, Splits
from surplus.data.noise import random_labels
from surplus.examples import el2n_from_logits, select
from surplus.examples.rules.robust_gradients import M3, RM3, Winsorized
from surplus.landscape.coherence import Coherence, gradient_coherence
from surplus.space import generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import flipped, splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import arm, beats, exceeds
from surplus.tasks import Duration, Recipe, Task, task_from
from surplus.training import Rule, Run, evaluate

PAPER = "Chatterjee & Zielinski 2022, arXiv 2203.10036"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
COHERENCE, MEMORIZED = "m-coherence of the training examples", "training accuracy, flipped labels"

REAL = Claim(
    "real-labels-are-more-coherent",
    "Early in training, gradients are several times as coherent under real labels as under random ones.",
    "Chatterjee & Zielinski 2022, section on m-coherence of real and random data",
    "m-coherence of all training examples (digits, 500), real / random labels, the least over the ends of epochs 1 to"
    " 8: 95% interval over seeds of its base-2 logarithm above log2(3) (a ratio of 3).",
    EVERYWHERE,
)
MEMORY = Claim(
    "robust-averages-memorize-less",
    "Steps by a robust average of gradients memorize wrong labels less than plain SGD.",
    "Chatterjee 2020, arXiv 2002.10657; Zielinski, Krishnan & Chatterjee 2020, arXiv 2003.07422",
    "Training accuracy on flipped labels (half of all) after equal steps, mean of the 10 epochs from the first in which"
    " SGD, averaged over seeds, has 75% of them (of the last 10 if it never has): SGD - RM3, SGD - M3 and SGD -"
    " winsorized (8% on each side) above 0.05, each by its 95% interval over seeds.",
    EVERYWHERE,
)
BETTER = Claim(
    "robust-averages-generalise-better",
    "Under label noise, networks trained by a robust average test better at equal progress on the right labels.",
    "Chatterjee 2020, arXiv 2002.10657; Zielinski, Krishnan & Chatterjee 2020, arXiv 2003.07422",
    "Test accuracy (MNIST, 10,000 training examples, half of the labels flipped) at the epoch from which on training"
    " accuracy on right labels stays as high as the lowest of the arms has it at the end: RM3 - SGD > 2 SE and M3 - SGD"
    " > 2 SE, paired by seed.",
    ("laptop", "gpu"),
)
EASY = Claim(
    "easy-examples-are-more-coherent",
    "The gradients of easy examples agree with one another more than those of hard examples.",
    "Chatterjee & Zielinski 2022, section on easy and hard examples",
    "alpha among the 100 examples of lowest EL2N - alpha among the 100 of highest, after one epoch: > 2 SE, paired by"
    " seed; EL2N from 5 other networks at epoch 5.",
    EVERYWHERE,
)


class CoherenceProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (128, 128)})
    """Options of the network; no batch norm, so that every example has a gradient of its own."""
    examples: int = 500
    """Training examples of the claims on coherence, all of which are measured."""
    recipe: Recipe = Recipe(lr=0.1, momentum=0.0, batch_size=50, duration=Duration("200ep"), schedule="constant")
    """Plain SGD, as in the papers."""
    looks: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 50, 100, 200)
    """Epochs after which coherence is measured."""
    group: int = 100
    """Easy, hard and random examples."""
    nets: int = 5
    """Networks that tell easy from hard."""
    noise: float = 0.5
    """Share of flipped labels."""
    noisy_examples: int = 400
    """Training examples of the claim on memorization."""
    noisy_recipe: Recipe = Recipe(lr=0.3, momentum=0.0, batch_size=64, duration=Duration("120ep"), schedule="constant")
    """Long enough for plain SGD to memorize most wrong labels."""
    images: str = "mnist"
    """Folder below $SURPLUS_DATA of the claim on generalisation."""
    image_examples: int = 10_000
    image_recipe: Recipe = Recipe(lr=0.1, momentum=0.0, batch_size=100, duration=Duration("60ep"), schedule="constant")


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": CoherenceProtocol(
        seeds=2,
        options={"widths": (32,)},
        examples=200,
        recipe=Recipe(lr=0.1, momentum=0.0, batch_size=50, duration=Duration("8ep"), schedule="constant"),
        looks=(0, 1, 2, 4, 8),
        group=40,
        nets=2,
        noisy_examples=150,
        noisy_recipe=Recipe(lr=0.3, momentum=0.0, batch_size=50, duration=Duration("15ep"), schedule="constant"),
    ),
    "laptop": CoherenceProtocol(seeds=5),
    "gpu": CoherenceProtocol(
        seeds=3,
        data="cifar10",
        network="resnet-20",
        options={"norm": "group"},
        examples=5000,
        recipe=Recipe(lr=0.1, momentum=0.0, batch_size=50, duration=Duration("50ep"), schedule="constant"),
        looks=(0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 50),
        noisy_examples=2000,
        noisy_recipe=Recipe(lr=0.1, momentum=0.0, batch_size=64, duration=Duration("60ep"), schedule="constant"),
        images="cifar10",
        image_examples=50_000,
        image_recipe=Recipe(lr=0.1, momentum=0.0, batch_size=128, duration=Duration("40ep"), schedule="constant"),
    ),
}
RULES: dict[str, Rule | None] = {"SGD": None, "RM3": RM3(), "M3": M3(), "winsorized": Winsorized(0.08)}


def draw(result: StudyResult) -> Any:
    """Coherence by epoch; memorization and test accuracy by rule; coherence of easy and hard examples."""
    sheet, panels = grid(4)
    real, memory, better, easy = result.measured
    for name in ("real labels", "random labels"):
        points = [r for r in real.rows if r["row"] == name and r["quantity"] == COHERENCE]
        ends = [[abs(r["value"] - (r["value"] if r[k] is None else r[k])) for r in points] for k in ("low", "high")]
        panels[0].errorbar(
            [r["epoch"] for r in points], [r["value"] for r in points], ends, marker="o", ms=3, lw=1, label=name
        )
    panels[0].set_xscale("symlog", linthresh=10)
    panels[0].set_xlabel("epoch", fontsize=7)
    panels[0].set_ylabel("m-coherence", fontsize=7)
    panels[0].legend(fontsize=6, frameon=False, loc="upper center")
    panels[0].tick_params(labelsize=7)
    quantities = (MEMORIZED, "test accuracy", "alpha")
    for panel, m, quantity in zip(panels[1:], (memory, better, easy), quantities, strict=True):
        dots(panel, [r for r in m.rows if r["quantity"] == quantity and " - " not in r["row"]])
        panel.set_xlabel(quantity, fontsize=7)
    for panel, m in zip(panels, result.measured, strict=True):
        panel.set_title(f"{m.claim.slug}: {m.verdict}", fontsize=8, color=COLOURS[m.verdict], loc="left")
    return sheet


@study(
    slug="coherence",
    paper=PAPER,
    title="On the Generalization Mystery in Deep Learning",
    claims=(REAL, MEMORY, BETTER, EASY),
    protocols=PROTOCOLS,
    draw=draw,
)
def coherence_study(claim: Claim, bench: Bench[CoherenceProtocol]) -> Measured:
    """Do gradients of real data agree, and what happens to memorization when only agreement is followed?"""
    tests = {REAL: real_and_random, MEMORY: memorization, BETTER: generalisation, EASY: easy_and_hard}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def real_and_random(bench: Bench[CoherenceProtocol]) -> Measured:
    """m-coherence along training under both kinds of labels."""
    p = bench.protocol
    curves: dict[str, list[list[float]]] = {"real labels": [], "random labels": []}
    fitted: dict[str, list[float]] = {"real labels": [], "random labels": []}
    for seed in bench.seeds:
        for name, task in zip(curves, (_clean(bench, seed), _random(bench, seed)), strict=True):
            run = _watched(bench, task, seed)
            curves[name].append([float(_at(bench, run, look).m_coherence) for look in p.looks])
            fitted[name].append(float(_hits(bench, run).mean()))
    early = [i for i, look in enumerate(p.looks) if 1 <= look <= 8]
    pairs = zip(curves["real labels"], curves["random labels"], strict=True)
    least = [min(log2(a[i] / b[i]) for i in early) for a, b in pairs]
    check = exceeds("real - random labels, least of epochs 1 to 8", "log2 of m-coherence", least, log2(3))
    rows = [
        arm(name, COHERENCE, [curve[i] for curve in curves[name]], epoch=look)
        for name in curves
        for i, look in enumerate(p.looks)
    ]
    ends = [arm(name, "training accuracy at the end", values) for name, values in fitted.items()]
    note = f"m = {p.examples:,} examples; the last epochs are no part of the criterion."
    return decide(REAL, [check], [*rows, *ends], note)


def memorization(bench: Bench[CoherenceProtocol]) -> Measured:
    """Accuracy on wrong labels after equal steps; and, as rows, at the end and at equal progress on the right ones."""
    wrong_curves: dict[str, list[Tensor]] = {name: [] for name in RULES}
    found: dict[str, dict[str, list[float]]] = {}
    p = bench.protocol
    for seed in bench.seeds:
        task, wrong = _noisy(bench, p.data, p.noisy_examples, p.noisy_recipe, seed)
        runs = {name: _trained(bench, task, rule, seed) for name, rule in RULES.items()}
        epochs = equal_progress(runs, ~wrong)
        for name, run in runs.items():
            wrong_curves[name].append(by_epoch(run, wrong))
            hits = _hits(bench, run)
            numbers = {
                f"{MEMORIZED}, at the end": float(hits[wrong].mean()),
                f"{MEMORIZED}, at equal progress": float(wrong_curves[name][-1][epochs[name]]),
                "training accuracy, right labels, at the end": float(hits[~wrong].mean()),
                "test accuracy at the end": float(bench.accuracy(run)),
            }
            for quantity, value in numbers.items():
                found.setdefault(quantity, {}).setdefault(name, []).append(value)
    curves = {name: torch.stack(rows) for name, rows in wrong_curves.items()}  # each (seeds, epochs)
    window = half_way(curves["SGD"].mean(0))
    share = {name: curve[:, window].mean(1) for name, curve in curves.items()}
    others = [name for name in RULES if name != "SGD"]
    checks = [exceeds(f"SGD - {name}", MEMORIZED, share["SGD"] - share[name], 0.05) for name in others]
    rows = [arm(name, MEMORIZED, values) for name, values in share.items()]
    rows += [arm(name, quantity, v) for quantity, arms in found.items() for name, v in arms.items()]
    note = (
        f"Measured in epochs {window.start + 1} to {window.stop}, as recorded while training. Equal progress: see the"
        " next claim. Rows at the end and at equal progress are no part of the criterion. This criterion replaced a"
        " first one after a first run: after 120 epochs every arm had memorized all wrong labels, and the verdict was"
        " fails."
    )
    return decide(MEMORY, checks, rows, note)


def generalisation(bench: Bench[CoherenceProtocol]) -> Measured:
    """Test accuracy at equal progress on the right labels, on images."""
    tests: dict[str, list[float]] = {}
    more: dict[str, dict[str, list[float]]] = {"test accuracy at the end": {}, f"{MEMORIZED}, at equal progress": {}}
    p = bench.protocol
    for seed in bench.seeds:
        task, wrong = _noisy(bench, p.images, p.image_examples, p.image_recipe, seed)
        ends = range(0, p.image_recipe.duration.steps(_per_epoch(task)) + 1, _per_epoch(task))
        runs = {name: _trained(bench, task, RULES[name], seed, ends) for name in ("SGD", "RM3", "M3")}
        for name, epoch in equal_progress(runs, ~wrong).items():
            point = runs[name].at(ends[epoch + 1]).to(bench.device)
            tests.setdefault(name, []).append(float(evaluate(task, point, task.test).metric))
            numbers = (float(bench.accuracy(runs[name])), float(by_epoch(runs[name], wrong)[epoch]))
            for quantity, value in zip(more, numbers, strict=True):
                more[quantity].setdefault(name, []).append(value)
    checks = [beats(name, "SGD", "test accuracy", tests[name], tests["SGD"]) for name in ("RM3", "M3")]
    rows = [
        arm(name, quantity, v)
        for quantity, arms in {"test accuracy": tests, **more}.items()
        for name, v in arms.items()
    ]
    note = (
        f"{p.image_examples:,} training examples; test accuracy at equal progress. This criterion replaced a first one"
        " after a first run: the first epoch of equal progress is not unique, as the curve rises, falls and rises; the"
        " verdict was fails then, too."
    )
    return decide(BETTER, checks, rows, note)


def easy_and_hard(bench: Bench[CoherenceProtocol]) -> Measured:
    """Compare alpha within groups of equal size, chosen by EL2N."""
    alphas: dict[str, list[float]] = {}
    p = bench.protocol
    for seed in bench.seeds:
        task = _clean(bench, seed)
        scores, run = _el2n(bench, task, seed), _watched(bench, task, seed)
        for name, chosen in _groups(scores, task.train.targets, p.group, seed).items():
            alphas.setdefault(name, []).append(float(_at(bench, run, 1, chosen).alpha))
    check = beats("easiest", "hardest", "alpha", alphas["easiest"], alphas["hardest"])
    same = ("easiest, classes balanced", "hardest, classes balanced")
    detail = beats(*same, "alpha", *(alphas[name] for name in same)).detail()
    note = (
        f"m = {p.group} in every group. The rows with balanced classes are no part of the criterion: they tell whether"
        " easy examples agree because they are of one class."
    )
    return decide(EASY, [check], [*(arm(n, "alpha", v) for n, v in alphas.items()), detail], note)


# ---- tasks ----------------------------------------------------------------------------------------------------------


def _few(data: Splits, examples: int, seed: int) -> Splits:
    """The same data with a random part of its training examples."""
    order = torch.randperm(len(data.train), generator=generator(seed, "study coherence", "examples"))
    return replace(data, train=data.train[order[:examples]])


def _clean(bench: Bench[CoherenceProtocol], seed: int) -> Task:
    p = bench.protocol
    return task_from(_few(splits(p.data, seed), p.examples, seed), p.network, recipe=p.recipe, **p.options)


def _random(bench: Bench[CoherenceProtocol], seed: int) -> Task:
    """The same pictures, every label drawn anew."""
    task = _clean(bench, seed)
    draw = generator(seed, "study coherence", "random labels")
    noise = random_labels(task.train.targets, 1.0, task.classes, draw)
    return replace(task, train=task.train.with_targets(noise.labels))


def _noisy(bench: Bench[CoherenceProtocol], data: str, examples: int, recipe: Recipe, seed: int) -> tuple[Task, Tensor]:
    """A task with half of its training labels flipped, and which (n,)."""
    few, wrong = flipped(_few(splits(data, seed), examples, seed), bench.protocol.noise, seed)
    return task_from(few, bench.protocol.network, recipe=recipe, **bench.protocol.options), wrong


def _per_epoch(task: Task) -> int:
    return -(-len(task.train) // task.recipe.batch_size)


# ---- runs and measures ----------------------------------------------------------------------------------------------


def _watched(bench: Bench[CoherenceProtocol], task: Task, seed: int) -> Run:
    return bench.fit(task, seeds=[seed], keep=[look * _per_epoch(task) for look in bench.protocol.looks])


def _trained(
    bench: Bench[CoherenceProtocol], task: Task, rule: Rule | None, seed: int, keep: Iterable[int] = ()
) -> Run:
    return bench.fit(task, seeds=[seed], rule=rule, record=True, keep=keep)


def _at(bench: Bench[CoherenceProtocol], run: Run, epoch: int, chosen: Tensor | None = None) -> Coherence:
    """Coherence of the training examples, or of some (n,) of them, after so many epochs."""
    task = run.task.to(bench.device)
    data: Dataset = task.train if chosen is None else task.train[chosen.nonzero().squeeze(1).to(bench.device)]
    theta = run.at(epoch * _per_epoch(task))[0].to(bench.device)
    return gradient_coherence(task.space, theta, task.prepare(data.inputs), data.targets)


def by_epoch(run: Run, which: Tensor) -> Tensor:
    """Accuracy (epochs,) of one replica on some (n,) of its training examples, recorded while it trained."""
    return run.record["correct"][0][:, which].nanmean(1)


def half_way(curve: Tensor, level: float = 0.75, length: int = 10) -> slice:
    """The epochs from the first at which a curve (epochs,) reaches the level; the last ones where it never does."""
    reached = (curve >= level).nonzero()
    first = min(int(reached[0]) if len(reached) else len(curve), max(len(curve) - length, 0))
    return slice(first, min(first + length, len(curve)))


def equal_progress(runs: Mapping[str, Run], right: Tensor) -> dict[str, int]:
    """For each arm the epoch from which on accuracy on right labels stays at what the slowest arm has at the end.

    The first epoch at that level would not do: accuracy on right labels rises, falls while the wrong ones are learnt,
    and rises again.
    """
    curves = {name: by_epoch(run, right) for name, run in runs.items()}
    level = min(float(curve[-1]) for curve in curves.values())
    lower = {name: (curve < level).nonzero() for name, curve in curves.items()}
    return {name: int(below[-1]) + 1 if len(below) else 0 for name, below in lower.items()}


def _el2n(bench: Bench[CoherenceProtocol], task: Task, seed: int) -> Tensor:
    recipe = task.recipe.model_copy(update={"duration": Duration("5ep")})
    seeds = [1000 * (seed + 1) + k for k in range(bench.protocol.nets)]
    run = bench.fit(task, seeds=seeds, recipe=recipe, execution="stacked", jobs=1)
    return el2n_from_logits(bench.outputs(run, "train"), task.train.targets).mean


def _groups(scores: Tensor, labels: Tensor, size: int, seed: int) -> dict[str, Tensor]:
    """Groups (n,) of one size by difficulty, and at random."""
    chance = generator(seed, "study coherence", "random group")
    plain = {rule: select(rule, scores, size, generator=chance) for rule in ("easiest", "hardest", "random")}
    return plain | {
        f"{rule}, classes balanced": select(rule, scores, size, labels=labels, by_class=True)
        for rule in ("easiest", "hardest")
    }


def _hits(bench: Bench[CoherenceProtocol], run: Run) -> Tensor:
    """(n,) whether the trained network gives each training example its label."""
    return (bench.outputs(run, "train")[0].argmax(-1) == run.task.train.targets).double()
