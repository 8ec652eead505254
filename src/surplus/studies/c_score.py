"""Jiang, Zhang, Talwar & Mozer 2021, "Characterizing Structural Regularities of Labeled Data": the C-score.

C is the chance that networks trained without an example foretell its label, over training sets of several sizes. Its
cheap proxies are compared with it and with the published scores of CIFAR-10, and these with the labels that people
gave. The last claim is ours: that dropping the slowest learnt examples during training helps under wrong labels. A
random ranking or choice is always a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.examples import c_score, density, local_outlier_factor, same_class_density, signed_density
from surplus.examples.rules.outlier_filter import OutlierFilter, detection, removed
from surplus.examples.scores.c_score import lacking_a_class
from surplus.examples.scores.learning_speed import speed_proxies
from surplus.examples.subsets import balanced_subsets, mixed_subsets
from surplus.space import generator
from surplus.stats import Interval, auc, rank_correlation
from surplus.studies.base import Bench, Protocol, Untestable, study
from surplus.studies.data import CIFAR10N, CSCORES, flipped, human_labels, joined, provided, published_c_scores, splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, exactly, exceeds, over_seeds, table_row, within
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import code_version, predict

PAPER = "Jiang, Zhang, Talwar & Mozer 2021, arXiv 2002.03206"
KERNELS = ("density", "same-class density", "signed density")
SPEEDS = ("accuracy", "largest probability", "entropy", "loss", "forgetting")
"""Further proxies from the same networks, see `speed_proxies`."""

FLIPPED = Claim(
    "wrong-labels-have-the-lowest-scores",
    "Examples with wrong labels sit at the bottom of the C-score.",
    PAPER,
    "Area under the ROC curve of C for right against flipped labels (digits, 5% flips): 95% interval over seeds above"
    " 0.97. gpu: Spearman of our C on CIFAR-10 with the published scores above 0.7, by its 95% interval over examples.",
    ("smoke", "laptop", "gpu"),
)
PROXY = Claim(
    "learning-speed-is-a-good-proxy",
    "The mean probability of the label over early epochs stands in for C, better than any kernel proxy.",
    PAPER,
    "Spearman of the mean probability of the label over 5 epochs with C: 95% interval over seeds above 0.7, and its"
    " excess over that of each kernel proxy above 0.",
)
DENSITY = Claim(
    "density-without-labels-is-a-poor-proxy",
    "How densely an example lies among all others says little of C, and nothing of its label.",
    PAPER,
    "Spearman with C of the same-class density - that of the plain density: 95% interval over seeds above 0.2; and the"
    " area under the ROC curve of the plain density for flipped labels within 0.1 of 0.5.",
)
HUMAN = Claim(
    "published-scores-foretell-human-trouble",
    "The published C-scores of CIFAR-10 are low where people mislabel the picture.",
    "Scores of Jiang et al. 2021; labels of Wei et al. 2022 (CIFAR-10N), arXiv 2110.12088",
    "Area under the ROC curve of -C for wrong labels within 0.01 of 0.695 (aggregate), 0.603 (worse) and 0.614 (first"
    " single answer).",
    ("smoke", "laptop", "gpu"),
)
REAL = Claim(
    "learning-speed-foretells-published-scores",
    "On CIFAR-10, a few epochs of a small network stand in for the published scores, better than any kernel proxy.",
    PAPER,
    "Part of CIFAR-10 (laptop: other 10,000 images for each of 3 seeds, 8 epochs of one network; gpu: all images):"
    " Spearman of the mean probability of the label over the epochs with the published scores: 95% interval over seeds"
    " above 0.7, and its excess over that of each kernel proxy on pixels above 0.",
    ("laptop", "gpu"),
)
FILTER = Claim(
    "dropping-the-slowest-helps-under-wrong-labels",
    "Dropping the slowest learnt examples early, as many as there are wrong labels, raises test accuracy.",
    "Ours, exploratory; the filter is that of Jiang et al. 2021",
    "20% flipped labels, cut after 5 epochs: test accuracy with the filter - without > 2 SE, paired by seed; and the"
    " share of wrong labels among the dropped: 95% interval over seeds above 0.5.",
    ("smoke", "laptop", "gpu"),
)
AREAS = {"aggregate": 0.695, "worse": 0.603, "random1": 0.614}


CIFAR_RECIPE = Recipe(
    lr=0.05,
    nesterov=True,
    weight_decay=5e-4,
    batch_size=128,
    duration=Duration("10ep"),
    schedule="onecycle",
    augment=Augment(shift=4, flip=True),
    precision="bfloat16",
    channels_last=True,
)


class RealProtocol(Protocol):
    """Sizes of the claim on the published scores."""

    data: str = "cifar10"
    examples: int = 10_000
    """Images per seed, drawn anew."""
    network: str = "speed-net"
    options: dict[str, Any] = Field(default={"width": 0.25})
    nets: int = 1
    """Networks per seed."""
    epochs: int = 8
    """Length of training; every epoch counts."""
    recipe: Recipe = CIFAR_RECIPE


class FilterProtocol(Protocol):
    """Sizes of the claim on the outlier filter."""

    data: str = "digits"
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (128,)})
    flips: float = 0.2
    """Share of labels moved to another class, and of examples dropped."""
    epoch: int = 5
    """When they are dropped."""
    recipe: Recipe = Recipe(lr=0.1, batch_size=32, duration=Duration("60ep"), schedule="constant")
    """Long enough to fit wrong labels."""


class CScoreProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (64,)})
    """Options of the network."""
    ratios: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Shares of the data to train on."""
    runs: int = 40
    """Networks per ratio."""
    flips: float = 0.05
    """Share of labels moved to another class."""
    proxy_nets: int = 5
    """Networks on all examples whose learning is watched."""
    proxy_epochs: int = 5
    """Epochs over which the probability of the label is averaged."""
    execution: str = "stacked"
    """How replicas are trained, see `fit`."""
    recipe: Recipe = Recipe(lr=0.1, batch_size=32, duration=Duration("20ep"), schedule="constant")
    """Training; small batches, so that a tenth of the data is fitted too."""
    real: RealProtocol = RealProtocol(seeds=3)
    filter: FilterProtocol = FilterProtocol(seeds=5)


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": CScoreProtocol(
        seeds=2,
        ratios=(0.3, 0.7),
        runs=6,
        proxy_nets=2,
        recipe=Recipe(lr=0.1, batch_size=64, duration=Duration("6ep"), schedule="constant"),
        filter=FilterProtocol(
            seeds=2,
            options={"widths": (32,)},
            epoch=2,
            recipe=Recipe(lr=0.1, batch_size=64, duration=Duration("8ep"), schedule="constant"),
        ),
    ),
    "laptop": CScoreProtocol(seeds=5),
    "gpu": CScoreProtocol(
        seeds=1,
        data="cifar10",
        network="speed-net",
        options={},
        ratios=(0.3, 0.5, 0.7),
        runs=30,
        flips=0.0,
        execution="spread",
        recipe=CIFAR_RECIPE,
        real=RealProtocol(seeds=5, examples=50_000, options={}, nets=2, epochs=15),
        filter=FilterProtocol(
            seeds=5,
            data="cifar10",
            network="speed-net",
            options={},
            recipe=CIFAR_RECIPE.model_copy(update={"duration": Duration("40ep"), "augment": Augment()}),
        ),
    ),
}


@study(
    slug="c-score",
    paper=PAPER,
    title="Characterizing Structural Regularities of Labeled Data in Overparameterized Models",
    claims=(FLIPPED, PROXY, DENSITY, HUMAN, REAL, FILTER),
    protocols=PROTOCOLS,
)
def c_score_study(claim: Claim, bench: Bench[CScoreProtocol]) -> Measured:
    """Held-out consistency of an example: does it mark wrong labels, and what stands in for it?"""
    tests = {
        FLIPPED: wrong_labels,
        PROXY: learning_speed,
        DENSITY: density_alone,
        HUMAN: published,
        REAL: published_proxies,
        FILTER: outlier_filter,
    }
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def wrong_labels(bench: Bench[CScoreProtocol]) -> Measured:
    """Flipped labels at the bottom; without flips, agreement with the published scores."""
    if not bench.protocol.flips:
        return against_published(bench)
    quantity = "AUC for flipped labels"
    areas: dict[str, list[float]] = {"C-score": [], "learning speed": [], "random": []}
    means: dict[str, list[float]] = {"flipped": [], "clean": []}
    for seed in bench.seeds:
        task, wrong = _task(bench, seed)
        scores = {
            "C-score": measured_c(bench, task, seed),
            "learning speed": speed(bench, task, seed),
            "random": _random(task, seed),
        }
        for name, values in scores.items():
            areas[name].append(float(auc(-values, wrong).mean))
        for name, which in (("flipped", wrong), ("clean", ~wrong)):
            means[name].append(float(scores["C-score"][which].mean()))
    check = exceeds("C-score", quantity, areas.pop("C-score"), 0.97)
    rows = [arm(name, quantity, values) for name, values in areas.items()]
    return decide(
        FLIPPED, [check], rows + [arm(f"{name} labels", "mean C-score", values) for name, values in means.items()]
    )


def against_published(bench: Bench[CScoreProtocol]) -> Measured:
    """Spearman of our C-scores with the published ones, over the examples of both."""
    provided(bench.protocol.data, CSCORES)
    index, labels, scores = published_c_scores()
    task, _ = _task(bench, bench.seeds[0])
    at = joined(index, labels, torch.arange(len(task.train)), task.train.targets, "the published C-scores and CIFAR-10")
    ours = measured_c(bench, task, bench.seeds[0])[at]
    agreement, chance = (
        _spearman(values, scores, len(bench.protocol.ratios) * bench.protocol.runs)
        for values in (ours, _random(task, 0)[at])
    )
    check = Check("C-score", "Spearman with the published scores", "> 0.7", agreement, above(agreement, 0.7))
    return decide(FLIPPED, [check], [table_row("random", check.quantity, chance)])


def learning_speed(bench: Bench[CScoreProtocol]) -> Measured:
    """Rank correlation of each proxy with C."""
    others = {"local outlier factor": _outlier, "random": _chance}
    proxies = {"learning speed": speed} | _KERNEL_PROXIES | {name: _of_speed(name) for name in SPEEDS} | others
    found = _agreements(bench, proxies)
    return decide(PROXY, *_stands_in(found, "Spearman with C"))


def _stands_in(found: dict[str, list[float]], quantity: str) -> tuple[list[Check], list[Row]]:
    """The conditions that learning speed agrees well, and better than each kernel proxy; a row for each other one."""
    best = found["learning speed"]
    checks = [exceeds("learning speed", quantity, best, 0.7)]
    for kernel in KERNELS:
        gap = [a - b for a, b in zip(best, found[kernel], strict=True)]
        checks.append(exceeds(f"learning speed - {kernel}", quantity, gap, 0))
    return checks, [arm(name, quantity, v) for name, v in found.items() if name != "learning speed"]


def density_alone(bench: Bench[CScoreProtocol]) -> Measured:
    """What is left of the kernel proxy without labels."""
    found = _agreements(bench, _KERNEL_PROXIES | {"random": _chance})
    areas: dict[str, list[float]] = {"density": [], "random": []}
    for seed in bench.seeds:
        task, wrong = _task(bench, seed)
        for name, proxy in (("density", _KERNEL_PROXIES["density"]), ("random", _chance)):
            areas[name].append(float(auc(-proxy(bench, task, seed), wrong).mean))
    quantity, gap = (
        "Spearman with C",
        [a - b for a, b in zip(found["same-class density"], found["density"], strict=True)],
    )
    blind = over_seeds(areas["density"])
    checks = [
        exceeds("same-class density - density", quantity, gap, 0.2),
        Check("density", "AUC for flipped labels", "in [0.4, 0.6]", blind, within(blind, 0.4, 0.6)),
    ]
    rows = [arm(name, quantity, values) for name, values in found.items()]
    return decide(DENSITY, checks, [*rows, arm("random", "AUC for flipped labels", areas["random"])])


def published(bench: Bench[CScoreProtocol]) -> Measured:
    """The published scores against the labels that people gave; nothing is trained."""
    provided(CSCORES, CIFAR10N)
    people, (index, labels, scores) = human_labels(), published_c_scores()
    at = joined(index, labels, people.index, people.clean, "the published C-scores and CIFAR-10N")
    wrong = {
        "aggregate": (people.aggregate != people.clean)[at],
        "worse": people.worse_is_wrong[at],
        "random1": (people.singles[0] != people.clean)[at],
    }
    checks, rows = [], []
    for name, target in AREAS.items():
        area = auc(-scores, wrong[name])
        low, high = (float(limit) for limit in area.interval())
        point, need = exactly(float(area.mean)), f"in [{target - 0.01:.3f}, {target + 0.01:.3f}]"
        notes = {"labels": name, "examples": len(scores), "sampling_low": low, "sampling_high": high}
        checks.append(
            Check(
                f"-C, {name} label",
                "AUC for wrong labels",
                need,
                point,
                within(point, target - 0.01, target + 0.01),
                notes,
            )
        )
    chance = auc(torch.rand(len(scores), generator=generator(0, "study", "random score")), wrong["aggregate"])
    low, high = (float(limit) for limit in chance.interval())
    rows.append(
        table_row("random, aggregate label", "AUC for wrong labels", Interval(float(chance.mean), low, high, 0.95, 1))
    )
    note = f"Computed from the {len(scores):,} rows of the score file; nothing is drawn at random but the control."
    return decide(HUMAN, checks, rows, note)


def published_proxies(bench: Bench[CScoreProtocol]) -> Measured:
    """Rank correlation of each proxy, on part of CIFAR-10, with the published scores."""
    p = bench.protocol.real
    provided(p.data, CSCORES)
    whole, (index, labels, scores) = splits(p.data, 0), published_c_scores()
    found: dict[str, list[float]] = {}
    for seed in range(p.seeds):
        rows = torch.randperm(len(whole.train), generator=generator(seed, "study", "images"))[: p.examples]
        task = task_from(replace(whole, train=whole.train[rows]), p.network, recipe=p.recipe, **p.options)
        shared = torch.isin(index, rows)
        what = "the published C-scores and CIFAR-10"
        at = joined(index[shared], labels[shared], rows, task.train.targets, what)
        measured = watched(bench, task, p.nets, p.epochs, seed)
        measured["learning speed"] = measured.pop("label probability")
        measured |= {name: proxy(bench, task, seed) for name, proxy in _KERNEL_PROXIES.items()}
        for name, values in (measured | {"random": _random(task, seed)}).items():
            found.setdefault(name, []).append(rank_correlation(values[at], scores[shared]).value)
    return decide(REAL, *_stands_in(found, "Spearman with the published scores"))


def outlier_filter(bench: Bench[CScoreProtocol]) -> Measured:
    """Train under wrong labels: on all examples, without those that the filter drops, and on a random part."""
    p, rule = bench.protocol.filter, OutlierFilter(bench.protocol.filter.epoch, bench.protocol.filter.flips)
    arms: dict[str, list[float]] = {"filter": [], "all examples": [], "random": [], "clean only": []}
    precisions, recalls, chances = [], [], []
    for seed in range(p.seeds):
        data, wrong = flipped(splits(p.data, seed), p.flips, seed)
        task, n = task_from(data, p.network, recipe=p.recipe, **p.options), len(data.train)
        part = balanced_subsets(n, 1 - p.flips, 1, seed)[0]
        run = bench.fit(task, seeds=[seed], rule=rule, record=True)
        arms["filter"].append(float(bench.accuracy(run)))
        for name, subset in (("all examples", None), ("random", part), ("clean only", ~wrong)):
            plain = bench.fit(task, seeds=[seed], subsets=None if subset is None else subset[None])
            arms[name].append(float(bench.accuracy(plain)))
        found = detection(removed(run, p.epoch)[0], wrong)
        precisions.append(float(found.precision))
        recalls.append(float(found.recall))
        chances.append(float(detection(~part, wrong).precision))
    quantity, share = "test accuracy", "share wrong among the dropped"
    checks = [
        beats("filter", "all examples", quantity, arms["filter"], arms["all examples"]),
        exceeds("filter", share, precisions, 0.5),
    ]
    rows = [arm(name, quantity, values) for name, values in arms.items()]
    rows += [arm("random", share, chances), arm("filter", "share dropped among the wrong", recalls)]
    return decide(FILTER, checks, rows, "The arm 'clean only' knows which labels are wrong: what is there to gain.")


# ---- runs and scores ------------------------------------------------------------------------------------------------


def _task(bench: Bench[CScoreProtocol], seed: int) -> tuple[Task, Tensor]:
    p = bench.protocol
    data, wrong = flipped(splits(p.data, seed), p.flips, seed)
    return task_from(data, p.network, recipe=p.recipe, **p.options), wrong


def measured_c(bench: Bench[CScoreProtocol], task: Task, seed: int) -> Tensor:
    """C (n,) of the training examples, by training on random subsets of several sizes."""
    p = bench.protocol
    masks, share = mixed_subsets(len(task.train), p.ratios, p.runs, seed)
    if lacking := int(lacking_a_class(masks, task.train.targets).sum()):
        raise Untestable(f"{lacking} of {len(masks)} subsets hold no example of some class; take larger ratios")
    seeds = [10_000 * (seed + 1) + k for k in range(len(masks))]
    run = bench.fit(task, seeds=seeds, subsets=masks, execution=p.execution)
    hits = bench.outputs(run, "train").argmax(-1) == task.train.targets  # (runs, n)
    return c_score(hits, masks, share).mean


def speed(bench: Bench[CScoreProtocol], task: Task, seed: int) -> Tensor:
    """Mean probability of the label (n,) over the ends of the first epochs, on all examples in evaluation mode."""
    p = bench.protocol
    return watched(bench, task, p.proxy_nets, p.proxy_epochs, seed)["label probability"]


def watched(bench: Bench[CScoreProtocol], task: Task, nets: int, epochs: int, seed: int) -> dict[str, Tensor]:
    """Every proxy (n,) of `speed_proxies` over the ends of so many epochs, by networks trained on all examples."""
    per_epoch = -(-len(task.train) // task.recipe.batch_size)
    ends = [per_epoch * (e + 1) for e in range(epochs)]
    recipe = task.recipe.model_copy(update={"duration": Duration(f"{ends[-1]}it")})
    seeds = [1000 * (seed + 1) + k for k in range(nets)]
    run = bench.fit(task, seeds=seeds, recipe=recipe, keep=ends, execution=bench.protocol.execution)

    def outputs() -> dict[str, Tensor]:
        points = (run.at(end).to(bench.device) for end in ends)
        return {"outputs": torch.stack([predict(task, theta, task.train).cpu() for theta in points], 1)}

    spec = {
        "of": "outputs at the ends of epochs",
        "runs": run.keys,
        "rows": [list(r) for r in run.rows],
        "ends": ends,
        "version": code_version("space", "networks", "tasks", "training"),
    }
    logits = bench.store.cached(spec, outputs)["outputs"]  # (nets, epochs, n, classes)
    return {name: estimate.mean for name, estimate in speed_proxies(logits, task.train.targets).items()}


Proxy = Callable[[Bench[CScoreProtocol], Task, int], Tensor]

_KERNEL_PROXIES: dict[str, Proxy] = {
    "density": lambda bench, task, seed: density(task.prepare(task.train.inputs)).mean,
    "same-class density": lambda bench, task, seed: (
        same_class_density(task.prepare(task.train.inputs), task.train.targets).mean
    ),
    "signed density": lambda bench, task, seed: (
        signed_density(task.prepare(task.train.inputs), task.train.targets).mean
    ),
}


def _of_speed(name: str) -> Proxy:
    """Another proxy from the networks behind `speed`."""
    return lambda bench, task, seed: watched(bench, task, bench.protocol.proxy_nets, bench.protocol.proxy_epochs, seed)[
        name
    ]


def _outlier(bench: Bench[CScoreProtocol], task: Task, seed: int) -> Tensor:
    """Local outlier factor, turned so that high = regular."""
    return -local_outlier_factor(task.prepare(task.train.inputs)).mean


def _chance(bench: Bench[CScoreProtocol], task: Task, seed: int) -> Tensor:
    return _random(task, seed)


def _random(task: Task, seed: int) -> Tensor:
    return torch.rand(len(task.train), generator=generator(seed, "study", "random score"))


def _agreements(bench: Bench[CScoreProtocol], proxies: dict[str, Proxy]) -> dict[str, list[float]]:
    """Spearman of every proxy with C, a number per seed."""
    found: dict[str, list[float]] = {name: [] for name in proxies}
    for seed in bench.seeds:
        task, _ = _task(bench, seed)
        c = measured_c(bench, task, seed)
        for name, proxy in proxies.items():
            found[name].append(rank_correlation(proxy(bench, task, seed), c).value)
    return found


def _spearman(a: Tensor, b: Tensor, nets: int) -> Interval:
    r = rank_correlation(a, b)
    return Interval(r.value, r.low, r.high, r.level, nets)
