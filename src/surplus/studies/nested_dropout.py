"""Chen et al. 2022: ordered features and networks that filter for each other, against learning wrong labels by heart.

Co-teaching (Han et al. 2018) is half of the method and is tested alone first. Validation data are clean, as in both
papers; the training labels alone are flipped. A pair of networks counts by the mean of its two accuracies.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from surplus.data.noise import pairflip, symmetric
from surplus.examples.rules.co_teaching import CoTeaching, label_precision
from surplus.examples.rules.nested_dropout import (
    NestedCoTeaching,
    best_prefix,
    compressed,
    freeze_norms,
    predict_prefix,
)
from surplus.space import generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, exceeds, over_seeds, two_stderr
from surplus.tasks import Augment, Recipe, Task, task_from
from surplus.training import Run

PAPER = "Chen, Hu, Shen, Ai & Suykens 2022, arXiv 2206.13140"
NOISES = {"pair 45%": 0.45, "symmetric 50%": 0.5}

BETTER = Claim(
    "co-teaching-beats-plain",
    "With many wrong labels, two networks that filter for each other end above plain training.",
    "Han et al. 2018, tables 3 to 5",
    "Test accuracy of the last epoch, pair noise 45% and symmetric noise 50% (digits, 100 epochs): co-teaching - plain"
    " > 2 SE for both, paired by seed.",
)
CLEANER = Claim(
    "what-is-kept-is-cleaner",
    "What the networks show each other holds more right labels than the data do.",
    "Han et al. 2018, figures 3 to 5 (lower rows)",
    "Share of right labels among what is shown, mean over the epochs after the ramp: above 1 - noise rate by its 95%"
    " interval over seeds, both noises.",
)
SHORT = Claim(
    "few-features-are-enough",
    "Under label noise a short prefix of ordered features is best, and better than the same network without the order.",
    "Chen et al. 2022, section 4",
    "Symmetric noise 50%: best prefix below a quarter of the features by its 95% interval over seeds; test accuracy at"
    " the last epoch, nested at its best prefix - plain > 2 SE, paired by seed.",
)
LARGE = Claim(
    "ten-points-on-images",
    "On CIFAR-10 with half of the labels wrong, co-teaching ends more than ten points above plain training.",
    "Han et al. 2018, table 4",
    "CIFAR-10, symmetric noise 50%, nine-layer CNN, 20 epochs: co-teaching - plain - 0.1 > 2 SE at the last epoch,"
    " paired by seed.",
    ("gpu",),
)


class NestedProtocol(Protocol):
    """Sizes of one scale."""

    widths: tuple[int, ...] = (256, 256)
    """Hidden layers; the last is what nested dropout orders."""
    epochs: int = 100
    """Epochs of plain training, of co-teaching, and of nested dropout."""
    ramp: int = 10
    """Epochs until co-teaching leaves out as much as there is noise."""
    sigma: float = 10.0
    """Width of the law of the prefix length."""
    tuned: int = 20
    """Epochs of the second stage."""
    image_epochs: int = 20
    """Epochs on CIFAR-10."""
    recipe: Recipe = Recipe(optimiser="adam", lr=1e-3, batch_size=128, schedule="constant")
    """Training: the defaults of Co-teaching's code, at a constant rate."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": NestedProtocol(seeds=2, widths=(64, 64), epochs=12, ramp=4, tuned=2),
    "laptop": NestedProtocol(seeds=5),
    "gpu": NestedProtocol(seeds=3),
}


@study(
    slug="nested-dropout",
    paper=PAPER,
    title="Compressing Features for Learning with Noisy Labels",
    claims=(BETTER, CLEANER, SHORT, LARGE),
    protocols=PROTOCOLS,
)
def nested_dropout(claim: Claim, bench: Bench[NestedProtocol]) -> Measured:
    """Co-teaching and ordered features under label noise."""
    tests = {BETTER: co_teaching_better, CLEANER: kept_is_cleaner, SHORT: short_prefix, LARGE: on_images}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def co_teaching_better(bench: Bench[NestedProtocol]) -> Measured:
    """Last-epoch accuracy of pairs against the same networks trained plainly."""
    checks: list[Check] = []
    rows: list[Row] = []
    for noise in NOISES:
        arms: dict[str, list[float]] = {"co-teaching": [], "plain": []}
        for seed in bench.seeds:
            task, _ = _digits(bench, seed, noise)
            arms["co-teaching"].append(_mean(bench, _paired(bench, task, seed, noise)))
            arms["plain"].append(_mean(bench, _plain(bench, task, seed)))
        checks.append(beats("co-teaching", "plain", "test accuracy", *arms.values(), noise=noise))
        rows += [arm(name, "test accuracy", values, noise=noise) for name, values in arms.items()]
    return decide(BETTER, checks, rows)


def kept_is_cleaner(bench: Bench[NestedProtocol]) -> Measured:
    """Label precision after the ramp."""
    checks = []
    for noise, rate in NOISES.items():
        shares = []
        for seed in bench.seeds:
            task, wrong = _digits(bench, seed, noise)
            precision = label_precision(_paired(bench, task, seed, noise).record["loss"], wrong)
            shares.append(float(precision[:, bench.protocol.ramp :].mean()))
        checks.append(exceeds("what is shown", "share of right labels", shares, 1 - rate, noise=noise))
    return decide(CLEANER, checks)


def short_prefix(bench: Bench[NestedProtocol]) -> Measured:
    """Best prefix and its accuracy, before and after the second stage."""
    width, lengths = bench.protocol.widths[-1], []
    arms: dict[str, list[float]] = {
        "nested, best prefix": [], "plain": [], "nested, all features": [], "nested + co-teaching": []
    }  # fmt: skip
    for seed in bench.seeds:
        task, _ = _digits(bench, seed, "symmetric 50%")
        nested = compressed(task, sigma=bench.protocol.sigma)
        first = bench.fit(nested, seeds=_pair(seed), recipe=_recipe(bench, bench.protocol.epochs))
        lengths.append(float(best_prefix(nested, first.theta).length.double().mean()) / width)
        arms["nested, best prefix"].append(_at_best_prefix(nested, first.theta))
        arms["nested, all features"].append(_mean(bench, first))
        plain = compressed(task, dropout=0.0)  # the same network, bias and all, without the mask
        arms["plain"].append(_mean(bench, _plain(bench, plain, seed)))
        arms["nested + co-teaching"].append(_second_stage(bench, nested, first, seed))
    share = over_seeds(lengths)
    shorter = over_seeds([0.25 - v for v in lengths])
    checks = [
        Check("best prefix", "share of the features", "< 0.25", share, above(shorter)),
        beats("nested, best prefix", "plain", "test accuracy", arms["nested, best prefix"], arms["plain"]),
    ]
    rows = [arm(name, "test accuracy", values) for name, values in arms.items()]
    return decide(SHORT, checks, rows, "The second stage is shown and not tested; it averages the pair's outputs.")


def on_images(bench: Bench[NestedProtocol]) -> Measured:
    """The nine-layer network on CIFAR-10."""
    arms: dict[str, list[float]] = {"co-teaching": [], "plain": []}
    for seed in bench.seeds:
        data = splits("cifar10", seed)
        flips = symmetric(data.train.targets, 0.5, 10, generator(seed, "study", "flips"), exact=True)
        recipe = Recipe(
            optimiser="adam", lr=1e-3, batch_size=128, schedule="linear", milestones=("8ep",),
            duration=f"{bench.protocol.image_epochs}ep", augment=Augment(shift=4, flip=True), precision="bfloat16",
            channels_last=True,
        )  # fmt: skip
        task = task_from(replace(data, train=data.train.with_targets(flips.labels)), "cnn-9", recipe=recipe)
        arms["co-teaching"].append(_mean(bench, bench.fit(task, seeds=_pair(seed), rule=CoTeaching(0.5, ramp=5))))
        arms["plain"].append(_mean(bench, bench.fit(task, seeds=_pair(seed))))
    gain = torch.tensor(arms["co-teaching"]) - 0.1
    interval = two_stderr(gain, arms["plain"])
    check = Check("co-teaching - plain - 0.1", "test accuracy", "> 2 SE", interval, above(interval))
    return decide(LARGE, [check], [arm(name, "test accuracy", values) for name, values in arms.items()])


# ---- tasks and runs -------------------------------------------------------------------------------------------------


def _digits(bench: Bench[NestedProtocol], seed: int, noise: str) -> tuple[Task, Tensor]:
    """Digits with a clean fifth for validation, and which labels (n,) of the rest are wrong."""
    data, rate = splits("digits", seed), NOISES[noise]
    order = torch.randperm(len(data.train), generator=generator(seed, "study", "validation"))
    cut = len(order) // 5
    train, validation = data.train[order[cut:].sort().values], data.train[order[:cut].sort().values]
    draw = generator(seed, "study", "flips", noise)
    flip = pairflip if noise.startswith("pair") else symmetric
    flips = flip(train.targets, rate, 10, draw, exact=True)
    noisy = replace(data, train=train.with_targets(flips.labels), validation=validation)
    task = task_from(noisy, "mlp", recipe=_recipe(bench, bench.protocol.epochs), widths=bench.protocol.widths)
    return task, flips.changed


def _recipe(bench: Bench[NestedProtocol], epochs: int) -> Recipe:
    return bench.protocol.recipe.model_copy(update={"duration": type(bench.protocol.recipe.duration)(f"{epochs}ep")})


def _pair(seed: int) -> list[int]:
    return [2 * seed, 2 * seed + 1]


def _paired(bench: Bench[NestedProtocol], task: Task, seed: int, noise: str) -> Run:
    rule = CoTeaching(NOISES[noise], ramp=bench.protocol.ramp)
    return bench.fit(task, seeds=_pair(seed), rule=rule, record=True)


def _plain(bench: Bench[NestedProtocol], task: Task, seed: int) -> Run:
    return bench.fit(task, seeds=_pair(seed))


def _mean(bench: Bench[NestedProtocol], run: Run) -> float:
    return float(bench.accuracy(run).mean())


def _at_best_prefix(task: Task, thetas: Tensor) -> float:
    """Mean test accuracy of the networks, each at the prefix that is best on validation data."""
    outputs = predict_prefix(task, thetas, task.test, best_prefix(task, thetas).length)
    return float((outputs.argmax(-1) == task.test.targets).float().mean())


def _second_stage(bench: Bench[NestedProtocol], nested: Task, first: Run, seed: int) -> float:
    """Test accuracy of the pair's mean output after fine-tuning on each other's small losses."""
    task, thetas = freeze_norms(nested, first.theta)
    recipe = _recipe(bench, bench.protocol.tuned)
    run = bench.fit(task, seeds=_pair(seed), start=thetas, rule=NestedCoTeaching(forget=0.2), recipe=recipe)
    outputs = predict_prefix(task, run.theta, task.test, best_prefix(task, run.theta).length).mean(0)
    return float((outputs.argmax(-1) == task.test.targets).float().mean())
