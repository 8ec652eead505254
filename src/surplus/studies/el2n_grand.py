"""Paul, Ganguli & Dziugaite 2021, "Deep Learning on a Data Diet": which examples matter shows early in training.

Its scores are tested for what they find (wrong labels) and for what they leave behind (test accuracy after training
from scratch on the kept part, for the same number of steps at every size). Random subsets of equal size are always a
row. GraNd at initialisation did not reproduce for Kirsch 2023; the fourth claim is his.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.examples import el2n_from_logits, forgetting, grand, select
from surplus.space import generator
from surplus.stats import auc, rank_correlation
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import flipped, human_labels, joined, splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import Check, Row, arm, beats, exceeds, not_above, over_seeds, two_stderr, within
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import Run, predict

PAPER = "Paul, Ganguli & Dziugaite 2021, arXiv 2107.07075"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")

NOISE = Claim(
    "noise-is-hard",
    "Examples with wrong labels have the highest EL2N early in training.",
    "Paul et al. 2021, section 4",
    "Area under the ROC curve of EL2N at epoch 5 (mean over networks) for wrong against right labels; 95% interval over"
    " seeds above 0.95 (digits, 10% flips; gpu: above 0.8, CIFAR-10N aggregate and worse labels).",
    EVERYWHERE,
)
OFFSET = Claim(
    "offset-beats-hardest-under-noise",
    "With 10% wrong labels, training on the highest scores fails, and a window below the very highest wins.",
    "Paul et al. 2021, section 4",
    "Test accuracy at 25% kept: offset window - random > 2 SE and random - hardest > 2 SE, paired by seed.",
    EVERYWHERE,
)
HARDEST = Claim(
    "hardest-half-is-best",
    "With clean labels, the half of highest EL2N teaches more than a random half, and that more than the easiest half.",
    "Paul et al. 2021, section 3",
    "Test accuracy at 50% kept: hardest - random > 2 SE and random - easiest > 2 SE, paired by seed (gpu: hardest -"
    " random above 0 by its 2 SE interval).",
    EVERYWHERE,
)
INIT = Claim(
    "grand-at-init-is-blind",
    "GraNd at initialisation is not informative: it agrees little with later GraNd, and prunes no better than chance.",
    "Kirsch 2023, arXiv 2303.14753",
    "|Spearman| of GraNd at step 0 with GraNd at epoch 5 below 0.3 by its 95% interval over seeds, and at 50% kept,"
    " highest GraNd at step 0 - random not above 0 by 2 SE.",
    EVERYWHERE,
)
IMAGES = Claim(
    "hard-images-are-worth-random-ones",
    "On natural images the hardest part, by EL2N, GraNd or forgetting, teaches no less than a random part.",
    "Paul et al. 2021, figure 1",
    "5,000 CIFAR-10 images (gpu: all), 60% kept, steps of full training: hardest - random not below 0 by 2 SE, for each"
    " of the three scores, paired by seed. The curve down to 30% is shown and not tested: with so few images theory"
    " expects the easy ones to win (Sorscher et al. 2022).",
    ("laptop", "gpu"),
)


class El2nProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (256, 256)})
    """Options of the network."""
    nets: int = 10
    """Networks that a score is averaged over."""
    score_epoch: int = 5
    """Epochs before scoring."""
    epochs: int = 60
    """Epochs of full training; a subset is trained for the same number of steps."""
    noise: float = 0.1
    """Share of flipped labels."""
    human_noise: bool = False
    """Whether the first claim takes the wrong labels that people gave (CIFAR-10N)."""
    least_area: float = 0.95
    """Threshold of the first claim."""
    images: int | None = 5000
    """CIFAR-10 images of the pruning curves, drawn anew for each seed; all when None."""
    image_width: float = 0.25
    """Width of their network, speed-net."""
    image_epochs: int = 8
    """Epochs of full training on them."""
    image_nets: int = 3
    """Networks behind each of their scores."""
    image_kept: tuple[float, ...] = (0.6, 0.3)
    """Shares that are kept; the first is tested."""
    recipe: Recipe = Recipe(lr=0.05, nesterov=True, weight_decay=5e-4, batch_size=64)
    """Training; the rate falls to a fifth after 30, 60 and 80% of the steps, as in the paper."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": El2nProtocol(seeds=2, options={"widths": (32,)}, nets=2, epochs=6),
    "laptop": El2nProtocol(seeds=5),
    "gpu": El2nProtocol(
        seeds=5,
        data="cifar10",
        network="speed-net",
        options={},
        nets=5,
        epochs=30,
        human_noise=True,
        images=None,
        image_width=1.0,
        image_epochs=30,
        image_nets=5,
        image_kept=(0.6, 0.8, 0.4, 0.2),
        least_area=0.8,
        recipe=Recipe(
            lr=0.05,
            nesterov=True,
            weight_decay=5e-4,
            batch_size=128,
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


@study(
    slug="el2n-grand",
    paper=PAPER,
    title="Deep Learning on a Data Diet: Finding Important Examples Early in Training",
    claims=(NOISE, OFFSET, HARDEST, INIT, IMAGES),
    protocols=PROTOCOLS,
)
def el2n_grand(claim: Claim, bench: Bench[El2nProtocol]) -> Measured:
    """Early error and gradient norms: do they find wrong labels, and which examples may be left out?"""
    tests = {NOISE: noise_is_hard, OFFSET: offset_wins, HARDEST: hardest_half, INIT: grand_at_init, IMAGES: on_images}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def noise_is_hard(bench: Bench[El2nProtocol]) -> Measured:
    """Area under the ROC curve of each score for the wrong labels."""
    quantity, least = "AUC for wrong labels", bench.protocol.least_area
    checks, rows = [], []
    for kind in ("aggregate", "worse") if bench.protocol.human_noise else ("flips",):
        areas: dict[str, list[float]] = {"EL2N": [], "EL2N at step 0": [], "GraNd": [], "random": []}
        for seed in bench.seeds:
            task, wrong = _noisy(bench, seed) if kind == "flips" else _human(bench, seed, kind)
            for name, values in _scores(bench, task, seed).items():
                areas[name].append(float(auc(values, wrong).mean))
        checks.append(exceeds("EL2N", quantity, areas.pop("EL2N"), least, noise=kind))
        rows += [arm(name, quantity, values, noise=kind) for name, values in areas.items()]
    return decide(NOISE, checks, rows)


def offset_wins(bench: Bench[El2nProtocol]) -> Measured:
    """Train on a quarter of data with wrong labels, chosen four ways."""
    keep, accuracies = 0.25, _Table()
    for seed in bench.seeds:
        task, _ = _noisy(bench, seed)
        scores = el2n(bench, task, seed)
        subsets = {
            "offset window": _kept("offset-window", scores, keep, seed, drop=bench.protocol.noise),
            "random": _kept("random", scores, keep, seed),
            "hardest": _kept("hardest", scores, keep, seed),
            "easiest": _kept("easiest", scores, keep, seed),
        }
        accuracies.add(train_on(bench, task, subsets, seed))
    checks = [accuracies.beats("offset window", "random", keep), accuracies.beats("random", "hardest", keep)]
    return decide(OFFSET, checks, accuracies.rows(keep))


def hardest_half(bench: Bench[El2nProtocol]) -> Measured:
    """Train on half of clean data, chosen three ways; and on a twentieth, where theory expects the order to turn."""
    half, few = 0.5, 0.05
    tables = {half: _Table(), few: _Table()}
    for seed in bench.seeds:
        task = _clean(bench, seed)
        scores = el2n(bench, task, seed)
        for keep, accuracies in tables.items():
            subsets = {rule: _kept(rule, scores, keep, seed) for rule in ("hardest", "random", "easiest")}
            accuracies.add(train_on(bench, task, subsets, seed))
    checks = [tables[half].beats("hardest", "random", half)]
    if bench.protocol.data == "digits":
        checks.append(tables[half].beats("random", "easiest", half))
    less = [row for row in tables[few].rows(few) if row["row"] != "all examples"]
    rows = [*tables[half].rows(half), *less, tables[few].beats("hardest", "random", few).detail()]
    note = "The rows at 5% kept are no part of the criterion: by Sorscher et al. 2022 the order should turn there."
    return decide(HARDEST, checks, rows, note)


def grand_at_init(bench: Bench[El2nProtocol]) -> Measured:
    """Compare GraNd at step 0 with GraNd later, and prune by it."""
    keep, accuracies = 0.5, _Table()
    later: dict[str, list[float]] = {"epoch 5": [], "end (one network)": []}
    for seed in bench.seeds:
        task = _clean(bench, seed)
        start, full = gradient_norms(bench, task, _starts(bench, task, seed)), _everything(bench, task, seed)
        for name, thetas in (("epoch 5", _early(bench, task, seed).theta), ("end (one network)", full.theta)):
            later[name].append(rank_correlation(start, gradient_norms(bench, task, thetas)).value)
        subsets = {"GraNd at step 0": _kept("hardest", start, keep, seed), "random": _kept("random", start, keep, seed)}
        accuracies.add(train_on(bench, task, subsets, seed))
    agreement = over_seeds(later["epoch 5"])
    pruning = accuracies.beats("GraNd at step 0", "random", keep)
    checks = [
        Check("GraNd at step 0, at epoch 5", "Spearman", "in [-0.3, 0.3]", agreement, within(agreement, -0.3, 0.3)),
        replace(pruning, needs="not > 2 SE", verdict=not_above(pruning.interval)),
    ]
    rows = [arm("GraNd at step 0, at the end (one network)", "Spearman", later["end (one network)"])]
    note = "No gain by 2 SE is no proof of none: the interval of the difference says how large it may be."
    return decide(INIT, checks, rows + accuracies.rows(keep), note)


def on_images(bench: Bench[El2nProtocol]) -> Measured:
    """Pruning curves of three scores and of random choice on CIFAR-10."""
    p = bench.protocol
    tables = {keep: _Table() for keep in p.image_kept}
    for seed in bench.seeds[:3] if bench.scale == "laptop" else bench.seeds:
        task = _image_task(bench, seed)
        scores = _image_scores(bench, task, seed)
        arms = {
            (name, keep): _kept("random" if name == "random" else "hardest", values, keep, seed)
            for keep in p.image_kept
            for name, values in {**scores, "random": scores["EL2N"]}.items()
        }
        found = bench.fit(task, seeds=[seed] * len(arms), subsets=list(arms.values()), recipe=_equal_steps(task))
        for (name, keep), accuracy in zip(arms, bench.accuracy(found).tolist(), strict=True):
            tables[keep].add({name: accuracy})
    first, checks = p.image_kept[0], []
    for name in ("EL2N", "GraNd", "forgetting"):
        compared = tables[first].beats(name, "random", first)
        lacking = two_stderr(tables[first].arms["random"], tables[first].arms[name])
        checks.append(replace(compared, needs="not below by 2 SE", verdict=not_above(lacking)))
    rows = [row for keep, table in tables.items() for row in table.rows(keep)]
    return decide(IMAGES, checks, rows)


# ---- tasks ----------------------------------------------------------------------------------------------------------


def _clean(bench: Bench[El2nProtocol], seed: int) -> Task:
    p = bench.protocol
    return task_from(splits(p.data, seed), p.network, recipe=p.recipe, **p.options)


def _noisy(bench: Bench[El2nProtocol], seed: int) -> tuple[Task, Tensor]:
    p = bench.protocol
    data, wrong = flipped(splits(p.data, seed), p.noise, seed)
    return task_from(data, p.network, recipe=p.recipe, **p.options), wrong


def _human(bench: Bench[El2nProtocol], seed: int, kind: str) -> tuple[Task, Tensor]:
    """CIFAR-10 under the labels that people gave, and which of them are wrong."""
    people, task = human_labels(), _clean(bench, seed)
    train = task.train
    at = joined(torch.arange(len(train)), train.targets, people.index, people.clean, "CIFAR-10 and CIFAR-10N")
    labels = (people.aggregate if kind == "aggregate" else people.worse(seed))[at]
    return replace(task, train=train.with_targets(labels)), labels != train.targets


def _image_task(bench: Bench[El2nProtocol], seed: int) -> Task:
    """Some images of CIFAR-10 and a fast narrow network."""
    p, data = bench.protocol, splits("cifar10", seed)
    rows = torch.randperm(len(data.train), generator=generator(seed, "study", "images"))[: p.images]
    some = replace(data, train=data.train[rows.sort().values])
    task = task_from(some, "speed-net", width=p.image_width)
    return task.with_recipe(duration=f"{p.image_epochs}ep")


def _equal_steps(task: Task) -> Recipe:
    steps = task.recipe.duration.steps(-(-len(task.train) // task.recipe.batch_size))
    return task.recipe.model_copy(update={"duration": Duration(f"{steps}it")})


def _image_scores(bench: Bench[El2nProtocol], task: Task, seed: int) -> dict[str, Tensor]:
    """Each (n,): EL2N and GraNd at a quarter of training, forgetting over all of it."""
    per_epoch = -(-len(task.train) // task.recipe.batch_size)
    early = per_epoch * max(1, bench.protocol.image_epochs // 4)
    nets = [1000 * (seed + 1) + k for k in range(bench.protocol.image_nets)]
    run = bench.fit(task, seeds=nets, record=True, keep=(early,))
    thetas = run.at(early)
    outputs = predict(task, thetas.to(bench.device), task.train).cpu()
    return {
        "EL2N": el2n_from_logits(outputs, task.train.targets).mean,
        "GraNd": gradient_norms(bench, task, thetas),
        "forgetting": forgetting(run.record["correct"]).mean,
    }


# ---- runs and scores ------------------------------------------------------------------------------------------------


def _training(bench: Bench[El2nProtocol], task: Task) -> Recipe:
    """The recipe of full training, its length in steps, so that a subset gets as many."""
    p = bench.protocol
    steps = p.epochs * -(-len(task.train) // p.recipe.batch_size)
    falls = tuple(Duration(f"{round(share * steps)}it") for share in (0.3, 0.6, 0.8))
    return p.recipe.model_copy(
        update={"duration": Duration(f"{steps}it"), "schedule": "step", "milestones": falls, "gamma": 0.2}
    )


def _nets(bench: Bench[El2nProtocol], seed: int) -> list[int]:
    """Seeds of the scoring networks; no other network has them."""
    return [1000 * (seed + 1) + k for k in range(bench.protocol.nets)]


def _starts(bench: Bench[El2nProtocol], task: Task, seed: int) -> Tensor:
    return task.space.init_many(_nets(bench, seed))


def _early(bench: Bench[El2nProtocol], task: Task, seed: int) -> Run:
    """The scoring networks: the first epochs of full training, whose rate has not fallen yet."""
    p = bench.protocol
    recipe = p.recipe.model_copy(update={"duration": Duration(f"{p.score_epoch}ep"), "schedule": "constant"})
    return bench.fit(task, seeds=_nets(bench, seed), recipe=recipe, execution="spread")


def el2n(bench: Bench[El2nProtocol], task: Task, seed: int) -> Tensor:
    """EL2N (n,) of the training examples, in evaluation mode."""
    return el2n_from_logits(bench.outputs(_early(bench, task, seed), "train"), task.train.targets).mean


def gradient_norms(bench: Bench[El2nProtocol], task: Task, thetas: Tensor) -> Tensor:
    """GraNd (n,) of the training examples at the points thetas (runs, P)."""
    task, thetas = task.to(bench.device), thetas.to(bench.device)
    inputs = task.prepare(task.train.inputs)
    return grand(task.space, thetas, inputs, task.train.targets, task.statistics(thetas)).mean.cpu()


def _scores(bench: Bench[El2nProtocol], task: Task, seed: int) -> dict[str, Tensor]:
    """Every score whose power to find wrong labels is compared, each (n,)."""
    starts, labels = _starts(bench, task, seed), task.train.targets
    first = predict(task, starts.to(bench.device), task.train).cpu()
    return {
        "EL2N": el2n(bench, task, seed),
        "EL2N at step 0": el2n_from_logits(first, labels).mean,
        "GraNd": gradient_norms(bench, task, _early(bench, task, seed).theta),
        "random": torch.rand(len(labels), generator=generator(seed, "study", "random score")),
    }


def _kept(rule: str, scores: Tensor, share: float, seed: int, **options: Any) -> Tensor:
    draw = generator(seed, "study", "random subset")
    return select(rule, scores, round(share * len(scores)), generator=draw, **options)


def _everything(bench: Bench[El2nProtocol], task: Task, seed: int) -> Run:
    return bench.fit(task, seeds=[seed], recipe=_training(bench, task), execution="spread")


def train_on(bench: Bench[El2nProtocol], task: Task, subsets: Mapping[str, Tensor], seed: int) -> dict[str, float]:
    """Test accuracy after training on each subset (n,) and on everything, from one initial point."""
    masks, recipe = list(subsets.values()), _training(bench, task)
    run = bench.fit(task, seeds=[seed] * len(masks), subsets=masks, recipe=recipe, execution="spread")
    arms = dict(zip(subsets, bench.accuracy(run).tolist(), strict=True))
    return {**arms, "all examples": float(bench.accuracy(_everything(bench, task, seed)))}


class _Table:
    """Accuracy per arm, a number per seed."""

    def __init__(self) -> None:
        self.arms: dict[str, list[float]] = {}

    def add(self, accuracies: Mapping[str, float]) -> None:
        """One more seed."""
        for name, value in accuracies.items():
            self.arms.setdefault(name, []).append(value)

    def beats(self, first: str, second: str, keep: float) -> Check:
        """The condition that one arm exceeds another by more than two standard errors."""
        return beats(first, second, "test accuracy", self.arms[first], self.arms[second], keep=keep)

    def rows(self, keep: float) -> list[Row]:
        """A line per arm."""
        shares = {"all examples": 1.0}
        return [arm(name, "test accuracy", v, keep=shares.get(name, keep)) for name, v in self.arms.items()]
