"""Zhang et al. 2017, "Understanding deep learning requires rethinking generalization", and the kit that makes noise.

A network with more weights than examples is trained on true labels, on random labels, and on true labels of pictures
whose pixels were shuffled (once for all, or each anew) or drawn from a normal law. Then every generator of label noise
is held against the transition matrix that it promises.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pydantic import Field
from scipy.stats import truncnorm
from torch import Tensor

from surplus.data import Dataset, Splits, corrupt_labels, empirical_transition
from surplus.data.corruptions import gaussian_pixels, random_pixels, shuffled_pixels
from surplus.data.noise import FLIPS, NoisyLabels, random_labels
from surplus.space import generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid, plain
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide, undecided
from surplus.studies.verdicts import Check, Row, arm, beats, exactly, exceeds, over_seeds, within
from surplus.tasks import Duration, Recipe, Task, task_from
from surplus.training import Run

PAPER = "Zhang, Bengio, Hardt, Recht & Vinyals 2017, arXiv 1611.03530"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
ARMS = ("true labels", "random labels", "shuffled pixels", "random pixels", "gaussian pixels")
TRAIN, TEST, TIME, EXCESS = "training accuracy", "test accuracy", "epochs to fit", "largest deviation in SE"

FITS = Claim(
    "random-labels-are-fitted",
    "A network with more weights than examples fits labels drawn at random, and then answers at chance.",
    "Zhang et al. 2017, section 2.1",
    "Random labels of ten classes, at the end of training: the 95% interval over seeds of the accuracy on the training"
    " labels lies above 99%, and that of the accuracy on the true labels of the test set within 8 to 12%.",
    EVERYWHERE,
)
SOONER = Claim(
    "true-labels-are-fitted-sooner",
    "Random labels take longer to fit than true ones.",
    "Zhang et al. 2017, section 2.2 and figure 1a",
    "Epochs until the accuracy during an epoch first reaches 99%: random labels - true labels > 2 SE, paired by seed."
    " A network that never fits random labels counts as one epoch more than it was given; undecided where one never"
    " fits true labels. Pictures without structure are rows, no part of the criterion.",
    EVERYWHERE,
)
PROMISED = Claim(
    "noise-keeps-its-promise",
    "Every generator of label noise flips labels as often as its transition matrix says.",
    "Patrini et al. 2017, section 2, for the matrix; Xia et al. 2020, section 4.2, for the law that has none",
    "One large draw per generator and rate: in every cell of the transition matrix the observed share differs by at"
    " most 4 binomial standard errors, and not at all where the promise is 0 or 1. Noise by input promises no matrix:"
    " there the share of wrong labels is compared with the mean of its cut normal law.",
    EVERYWHERE,
)


class NoiseProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA; ten classes."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (256, 256)})
    """Options of the network."""
    fitted: float = 0.99
    """Accuracy during an epoch from which on the data count as fitted."""
    labels: int = 200_000
    """Labels per draw of the third claim."""
    rates: tuple[float, ...] = (0.2, 0.4)
    """Noise rates of the third claim."""
    recipe: Recipe = Recipe(optimiser="adam", lr=1e-3, batch_size=64, duration=Duration("300ep"), schedule="constant")
    """Training on random labels."""
    sooner: Duration = Duration("60ep")
    """Length of training where labels are true; the rate of the recipe does not depend on the length."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": NoiseProtocol(
        seeds=2,
        options={"widths": (64,)},
        labels=20_000,
        recipe=Recipe(optimiser="adam", lr=3e-3, batch_size=64, duration=Duration("15ep"), schedule="constant"),
        sooner=Duration("10ep"),
    ),
    "laptop": NoiseProtocol(seeds=10),
    "gpu": NoiseProtocol(
        seeds=3,
        data="cifar10",
        network="speed-net",
        options={},
        recipe=Recipe(
            lr=0.05,
            batch_size=128,
            duration=Duration("80ep"),
            schedule="step",
            milestones=tuple(Duration(f"{epoch}ep") for epoch in range(1, 80)),
            gamma=0.95,
            precision="bfloat16",
            channels_last=True,
        ),
        sooner=Duration("40ep"),
    ),
}


def draw(result: StudyResult) -> Any:
    """Accuracy while training; epochs to fit; accuracies at the end; deviations of the generators."""
    fits, sooner, promised = result.measured
    sheet, panels = grid(4)
    curves = panels[0]
    for name in ARMS:
        points = [r for r in sooner.rows if r["row"] == name and r["quantity"] == TRAIN]
        curves.plot([r["epoch"] for r in points], [r["value"] for r in points], marker="o", ms=2.5, lw=1, label=name)
    curves.set_xscale("log")
    curves.legend(fontsize=6, frameon=False)
    curves.tick_params(labelsize=7)
    curves.set_xlabel("epoch", fontsize=7)
    curves.set_ylabel(TRAIN, fontsize=7)
    worst: dict[str, Row] = {}
    for row in sorted(promised.rows, key=lambda r: float(r["value"] or 0)):
        worst[row["row"].rpartition(" ")[0]] = row
    plotted = ([r for r in sooner.rows if r["quantity"] == TIME], [r for r in fits.rows if r["quantity"] == TEST])
    for axes, rows, quantity in zip(panels[1:], (*plotted, list(worst.values())), (TIME, TEST, EXCESS), strict=True):
        dots(axes, plain(rows))
        axes.set_xlabel(quantity, fontsize=7)
    panels[1].set_xlim(left=0)
    panels[3].tick_params(axis="y", labelsize=5)
    for axes, m in zip(panels, (sooner, sooner, fits, promised), strict=True):
        axes.set_title(f"{m.claim.slug}: {m.verdict}", fontsize=8, color=COLOURS[m.verdict], loc="left")
    return sheet


@study(
    slug="noise-and-outliers",
    paper=PAPER,
    title="Understanding deep learning requires rethinking generalization",
    claims=(FITS, SOONER, PROMISED),
    protocols=PROTOCOLS,
    draw=draw,
)
def noise_and_outliers(claim: Claim, bench: Bench[NoiseProtocol]) -> Measured:
    """Random labels and pictures without structure: are they fitted, how soon, and is the noise what it says it is?"""
    tests = {FITS: random_labels_are_fitted, SOONER: true_labels_are_fitted_sooner, PROMISED: noise_keeps_its_promise}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def random_labels_are_fitted(bench: Bench[NoiseProtocol]) -> Measured:
    """Accuracy at the end, on the labels trained on and on the test set's true ones."""
    train: dict[str, list[float]] = {name: [] for name in ARMS[:2]}
    test: dict[str, list[float]] = {name: [] for name in ARMS[:2]}
    for seed in bench.seeds:
        for name in ARMS[:2]:
            run = _trained(bench, name, seed)
            right = bench.outputs(run, "train").argmax(-1) == run.task.train.targets
            train[name].append(float(right.double().mean()))
            test[name].append(float(bench.accuracy(run)))
    chance = over_seeds(test["random labels"])
    checks = [
        exceeds("random labels", TRAIN, train["random labels"], 0.99),
        Check("random labels", TEST, "in [0.08, 0.12]", chance, within(chance, 0.08, 0.12)),
    ]
    weights, examples = run.task.space.size, len(run.task.train)
    rows = [arm("true labels", TRAIN, train["true labels"]), arm("true labels", TEST, test["true labels"])]
    return decide(FITS, checks, rows, f"{weights:,} weights, {examples:,} training examples.")


def true_labels_are_fitted_sooner(bench: Bench[NoiseProtocol]) -> Measured:
    """Epochs until each arm is fitted, and its accuracy along the way."""
    curves = {name: torch.stack([accuracy_by_epoch(_trained(bench, name, s)) for s in bench.seeds]) for name in ARMS}
    times = {name: epochs_to(bench.protocol.fitted, c) for name, c in curves.items()}
    never = {name: int((t > curves[name].shape[1]).sum()) for name, t in times.items()}
    rows: list[Row] = [arm(name, TIME, t, never=never[name]) for name, t in times.items() if not never[name]]
    rows += [
        beats("random labels", n, TIME, times["random labels"], times[n]).detail() for n in ARMS[2:] if not never[n]
    ]
    rows += [arm(n, TRAIN, c[:, epoch - 1], epoch=epoch) for n, c in curves.items() for epoch in _looks(c.shape[1])]
    if never["true labels"]:
        return undecided(SOONER, f"too short to tell: {never['true labels']} networks never fit true labels", rows)
    return decide(
        SOONER, [beats("random labels", "true labels", TIME, times["random labels"], times["true labels"])], rows
    )


def noise_keeps_its_promise(bench: Bench[NoiseProtocol]) -> Measured:
    """The largest deviation of each generator from its promise, in standard errors."""
    n, checks = bench.protocol.labels, []
    for rate in bench.protocol.rates:
        for name, generate, classes in _generators():
            labels = torch.randint(classes, (n,), generator=generator(0, "study", "classes", name))
            noisy = generate(labels, rate, classes, generator(0, "study", "noise", name, rate))
            excess = deviation(labels, noisy, classes) if noisy.transition is not None else _mean_deviation(noisy, rate)
            interval = exactly(excess, n)
            notes = {"rate": rate, "wrong": noisy.rate}
            checks.append(Check(f"{name} {rate:g}", EXCESS, "<= 4", interval, within(interval, 0, 4), notes))
    return decide(PROMISED, checks)


def deviation(labels: Tensor, noisy: NoisyLabels, classes: int) -> float:
    """max_ij |observed_ij - P_ij| / SE_ij with SE = sqrt(P (1 - P) / n_i); infinite where a sure cell is missed."""
    assert noisy.transition is not None
    promised, counts = noisy.transition, labels.bincount(minlength=classes).double()[:, None]
    away = (empirical_transition(labels, noisy.labels, classes) - promised).abs()
    away = torch.where(away < 1e-9, 0.0, away)  # 0 / 0 where a sure cell is met
    stderr = (promised * (1 - promised)).clamp(min=0).sqrt() / counts.sqrt()
    return float(torch.where(away > 0, away / stderr, 0.0).max())


def accuracy_by_epoch(run: Run) -> Tensor:
    """(epochs,) share of the examples that were right when training met them."""
    return run.record["correct"][0].double().mean(-1)


def epochs_to(accuracy: float, curves: Tensor) -> Tensor:
    """First epoch, from 1, at which each of the curves (seeds, epochs) is so high; one past the last if none is."""
    reached = curves >= accuracy
    first = reached.int().argmax(1) + 1
    return torch.where(reached.any(1), first, curves.shape[1] + 1).double()


# ---- tasks, runs and generators -------------------------------------------------------------------------------------


def spoilt(data: Splits, how: str, seed: int) -> Splits:
    """The data of one arm; where pixels change, those of the test set change by the same rule."""
    train, test = data.train, data.test
    if how == "true labels":
        return data
    if how == "random labels":
        drawn = random_labels(train.targets, 1.0, len(train.classes), generator(seed, "study", how))
        return replace(data, train=train.with_targets(drawn.labels))
    shared = (generator(seed, "study", how), generator(seed, "study", how))
    own = (generator(seed, "study", how, "train"), generator(seed, "study", how, "test"))
    if how == "shuffled pixels":
        pictures = [shuffled_pixels(part.inputs, g) for part, g in zip((train, test), shared, strict=True)]
    elif how == "random pixels":
        pictures = [random_pixels(part.inputs, g) for part, g in zip((train, test), own, strict=True)]
    else:
        mean, std = _moments(train)
        pictures = [gaussian_pixels(part.inputs, g, mean, std) for part, g in zip((train, test), own, strict=True)]
    return replace(data, train=replace(train, inputs=pictures[0]), test=replace(test, inputs=pictures[1]))


def _moments(data: Dataset) -> tuple[Tensor, Tensor]:
    pixels = data.inputs.float() / 255 if data.inputs.dtype == torch.uint8 else data.inputs
    return pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))


def _trained(bench: Bench[NoiseProtocol], how: str, seed: int) -> Run:
    p = bench.protocol
    task: Task = task_from(spoilt(splits(p.data, seed), how, seed), p.network, recipe=p.recipe, **p.options)
    length = p.recipe.duration if how == "random labels" else p.sooner
    return bench.fit(task, seeds=[seed], recipe=p.recipe.model_copy(update={"duration": length}), record=True)


def _generators() -> list[tuple[str, Any, int]]:
    """Every generator of label noise: name, function of (labels, rate, classes, generator), classes."""
    plain = ("symmetric", "pairflip", "trid", "uniform-resample", "random-labels", "permute")
    rows: list[tuple[str, Any, int]] = [(name, partial(corrupt_labels, name), 10) for name in plain]
    for name in ("symmetric", "pairflip", "trid", "uniform-resample"):
        rows.append((f"{name}, exact", partial(corrupt_labels, name, exact=True), 10))
    for table in FLIPS:
        classes = 100 if table == "cifar100" else 10
        rows.append((f"asymmetric, {table}", partial(corrupt_labels, "asymmetric", flips=table), classes))
    return [*rows, ("instance-dependent", _by_input, 10)]


def _by_input(labels: Tensor, rate: float, classes: int, chance: torch.Generator) -> NoisyLabels:
    """Noise by input, on uniform inputs of 16 numbers; the share of wrong labels does not hang on them."""
    inputs = torch.rand(len(labels), 16, generator=chance)
    return corrupt_labels("instance-dependent", labels, rate, classes, chance, inputs=inputs)


def _mean_deviation(noisy: NoisyLabels, rate: float, spread: float = 0.1) -> float:
    """How far the share of wrong labels is from the mean of the normal law cut to [0, 1], in standard errors."""
    mean = float(truncnorm.mean(-rate / spread, (1 - rate) / spread, loc=rate, scale=spread))
    return abs(noisy.rate - mean) / (mean * (1 - mean) / len(noisy.labels)) ** 0.5


def _looks(epochs: int) -> list[int]:
    """Epochs to show on a logarithmic axis."""
    return [e for e in (1, 2, 3, 5, 8, 13, 20, 32, 50, 80, 126, 200) if e < epochs] + [epochs]
