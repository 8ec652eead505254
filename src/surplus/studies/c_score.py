"""Jiang, Zhang, Talwar & Mozer 2021, "Characterizing Structural Regularities of Labeled Data": the C-score.

C is the chance that networks trained without an example foretell its label, over training sets of several sizes. Its
cheap proxies are compared with it, and the published scores of CIFAR-10 with the labels that people gave. A random
ranking is always a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.examples import (
    c_score,
    cumulative_confidence,
    density,
    local_outlier_factor,
    same_class_density,
    signed_density,
)
from surplus.examples.subsets import mixed_subsets
from surplus.space import generator
from surplus.stats import Interval, auc, rank_correlation
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import CIFAR10N, CSCORES, flipped, human_labels, joined, provided, published_c_scores, splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import Check, above, arm, exactly, exceeds, over_seeds, table_row, within
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import predict

PAPER = "Jiang, Zhang, Talwar & Mozer 2021, arXiv 2002.03206"
KERNELS = ("density", "same-class density", "signed density")

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
AREAS = {"aggregate": 0.695, "worse": 0.603, "random1": 0.614}


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


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": CScoreProtocol(
        seeds=2,
        ratios=(0.3, 0.7),
        runs=6,
        proxy_nets=2,
        recipe=Recipe(lr=0.1, batch_size=64, duration=Duration("6ep"), schedule="constant"),
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
        recipe=Recipe(
            lr=0.05,
            nesterov=True,
            weight_decay=5e-4,
            batch_size=128,
            duration=Duration("10ep"),
            schedule="onecycle",
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


@study(
    slug="c-score",
    paper=PAPER,
    title="Characterizing Structural Regularities of Labeled Data in Overparameterized Models",
    claims=(FLIPPED, PROXY, DENSITY, HUMAN),
    protocols=PROTOCOLS,
)
def c_score_study(claim: Claim, bench: Bench[CScoreProtocol]) -> Measured:
    """Held-out consistency of an example: does it mark wrong labels, and what stands in for it?"""
    tests = {FLIPPED: wrong_labels, PROXY: learning_speed, DENSITY: density_alone, HUMAN: published}
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
    found = _agreements(
        bench, {"learning speed": speed} | _KERNEL_PROXIES | {"local outlier factor": _outlier, "random": _chance}
    )
    quantity, best = "Spearman with C", found["learning speed"]
    checks = [exceeds("learning speed", quantity, best, 0.7)]
    for kernel in KERNELS:
        checks.append(
            exceeds(
                f"learning speed - {kernel}", quantity, [a - b for a, b in zip(best, found[kernel], strict=True)], 0
            )
        )
    return decide(PROXY, checks, [arm(n, quantity, v) for n, v in found.items() if n != "learning speed"])


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


# ---- runs and scores ------------------------------------------------------------------------------------------------


def _task(bench: Bench[CScoreProtocol], seed: int) -> tuple[Task, Tensor]:
    p = bench.protocol
    data, wrong = flipped(splits(p.data, seed), p.flips, seed)
    return task_from(data, p.network, recipe=p.recipe, **p.options), wrong


def measured_c(bench: Bench[CScoreProtocol], task: Task, seed: int) -> Tensor:
    """C (n,) of the training examples, by training on random subsets of several sizes."""
    p = bench.protocol
    masks, share = mixed_subsets(len(task.train), p.ratios, p.runs, seed)
    seeds = [10_000 * (seed + 1) + k for k in range(len(masks))]
    run = bench.fit(task, seeds=seeds, subsets=masks, execution=p.execution)
    hits = bench.outputs(run, "train").argmax(-1) == task.train.targets  # (runs, n)
    return c_score(hits, masks, share).mean


def speed(bench: Bench[CScoreProtocol], task: Task, seed: int) -> Tensor:
    """Mean probability of the label (n,) over the ends of the first epochs, on all examples in evaluation mode."""
    p = bench.protocol
    per_epoch = -(-len(task.train) // p.recipe.batch_size)
    ends = [per_epoch * (e + 1) for e in range(p.proxy_epochs)]
    recipe = p.recipe.model_copy(update={"duration": Duration(f"{ends[-1]}it")})
    run = bench.fit(
        task,
        seeds=[1000 * (seed + 1) + k for k in range(p.proxy_nets)],
        recipe=recipe,
        keep=ends,
        execution=p.execution,
    )
    logits = torch.stack([predict(task, run.at(end), task.train) for end in ends], 1)  # (nets, epochs, n, classes)
    labels = task.train.targets.expand(*logits.shape[:2], -1)[..., None]
    return cumulative_confidence(logits.softmax(-1).gather(-1, labels).squeeze(-1)).mean


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
