"""Hacohen, Dekel & Weinshall 2022, "Active Learning on a Budget": opposite strategies suit low and high budgets.

Strategies choose the labels of a linear classifier on a fixed embedding, round by round; random choice is always a row,
with the same split and, for strategies that start at random, the same first labels. On the digits the embedding is 30
principal components, on CIFAR-10 a self-supervised one that the user provides.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from surplus.errors import InputError
from surplus.examples.active import LearningCurve, clusters_of, learn_actively, principal_components, purity_radius
from surplus.space import generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import provided, splits
from surplus.studies.figures import COLOURS, dots, figure, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, table_row, two_stderr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = "Hacohen, Dekel & Weinshall 2022, arXiv 2202.02794"
EMBEDDINGS = "embeddings/cifar10.npz"
ACCURACY, GAP, CLASSES = "test accuracy", "gain in test accuracy", "classes among the first 10 labels"
STRATEGIES = (
    "typiclust",
    "prob-cover",
    "random",
    "margin",
    "badge",
    "coreset",
    "least-confidence",
    "entropy",
    "dbal",
    "bald",
)
NEED_NO_MODEL = ("typiclust", "prob-cover", "coreset", "random")
SHADES = {"typiclust": "#b3372f", "prob-cover": "#d98c2b", "random": "#222222", "margin": "#1f4e79", "badge": "#4a9bb5"}

TYPICAL = Claim(
    "typical-examples-win-with-few-labels",
    "With few labels, the most typical example of each cluster teaches more than a random one.",
    "Hacohen et al. 2022, figures of the low-budget regime",
    "Test accuracy of a logistic regression (digits, 30 principal components, C = 10) with 10, 20 and 40 labels:"
    " typiclust - random > 2 SE at each, paired by seed.",
)
COVERAGE = Claim(
    "typical-examples-cover-the-classes",
    "The first labels that TypiClust asks for hit more classes than random ones.",
    "Hacohen et al. 2022, on class balance of the first queries",
    "Distinct classes among the first 10 labels (digits): typiclust - random > 2 SE, paired by seed.",
)
TURN = Claim(
    "the-order-turns-with-the-budget",
    "Uncertainty loses to typicality with few labels and wins with many.",
    "Hacohen et al. 2022, title, and section on the theory",
    "Test accuracy (digits), paired by seed: typiclust - margin > 2 SE with 20 labels; margin - typiclust, averaged"
    " over all budgets of at least 300 labels, > 2 SE; and the second difference exceeds that of 20 labels by > 2 SE.",
)
CIFAR = Claim(
    "the-order-turns-on-cifar-10",
    "On CIFAR-10 with a self-supervised embedding, typicality wins with 10 and 50 labels, and loses with 5000.",
    "Hacohen et al. 2022, linear evaluation on CIFAR-10",
    "Test accuracy of a logistic regression on the embedding: typiclust - margin > 2 SE with 10 and with 50 labels,"
    " margin - typiclust > 2 SE with 5000, paired by seed.",
    ("gpu",),
)


class TypiclustProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or "cifar10" with the user's embedding of it."""
    dims: int = 30
    """Principal components of the digits."""
    strategies: tuple[str, ...] = STRATEGIES
    """Who plays; typiclust, margin and random always."""
    budgets: tuple[int, ...] = (10, 20, 40, 60, 80, 100, 150, 200, 300, 400, 500, 600)
    """Labels after each round."""
    many: int = 300
    """From how many labels on uncertainty is meant to win."""
    passes: int = 20
    """Predictions with dropout, for DBAL and BALD."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": TypiclustProtocol(seeds=2, strategies=("typiclust", "random", "margin"), budgets=(10, 20, 40, 300)),
    "laptop": TypiclustProtocol(seeds=20),
    "gpu": TypiclustProtocol(
        seeds=5,
        data="cifar10",
        strategies=("typiclust", "prob-cover", "random", "margin", "badge", "coreset"),
        budgets=(10, 20, 30, 40, 50, 100, 200, 500, 1000, 2000, 3000, 4000, 5000),
        many=5000,
    ),
}


def draw(result: StudyResult) -> Figure:
    """Accuracy against the number of labels, the gap that turns, and the classes that the first labels hit."""
    claims = {m.claim.slug: m for m in result.measured}
    course = claims[CIFAR.slug if claims[CIFAR.slug].rows else TURN.slug]
    rows = list(course.rows)
    if not rows:
        return figure(result)
    sheet, (curves, gap, first, few) = grid(4)
    sheet.set_size_inches(9, 7)
    _lines(curves, [r for r in rows if r["quantity"] == ACCURACY and "needs" not in r])
    _gap(gap, [r for r in rows if r["row"] == "margin - typiclust" and "needs" not in r])
    _title(gap, course)
    for axes, claim, quantity in ((first, COVERAGE, CLASSES), (few, TYPICAL, GAP)):
        measured = claims[claim.slug]
        told = [r for r in measured.rows if r["quantity"] == quantity and ("needs" not in r or quantity == GAP)]
        dots(axes, [{**r, "row": f"{r['row']}, {r['labels']} labels"} if quantity == GAP else r for r in told])
        axes.set_xlabel(quantity, fontsize=7)
        _title(axes, measured)
    few.axvline(0, color="#999999", lw=0.8)
    return sheet


@study(
    slug="typiclust",
    paper=PAPER,
    title="Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets",
    claims=(TYPICAL, COVERAGE, TURN, CIFAR),
    protocols=PROTOCOLS,
    draw=draw,
)
def typiclust_study(claim: Claim, bench: Bench[TypiclustProtocol]) -> Measured:
    """Typical examples first, uncertain ones later: does the better question depend on the budget?"""
    tests = {TYPICAL: typical_wins, COVERAGE: coverage, TURN: order_turns, CIFAR: order_turns_on_cifar}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def typical_wins(bench: Bench[TypiclustProtocol]) -> Measured:
    """TypiClust against random choice with few labels."""
    few = (10, 20, 40)
    a = {name: accuracies(bench, name) for name in ("typiclust", "random", "margin")}
    checks = [beats("typiclust", "random", GAP, a["typiclust"][b], a["random"][b], labels=b) for b in few]
    rows = [arm(name, ACCURACY, at[b], labels=b) for b in few for name, at in a.items()]
    return decide(TYPICAL, checks, rows, "Margin's first 10 labels are random, for it has no model yet.")


def coverage(bench: Bench[TypiclustProtocol]) -> Measured:
    """How many classes the first ten labels hit."""
    hit = {
        name: torch.stack([curve.classes[0] for curve in curves(bench, name)]).double()
        for name in NEED_NO_MODEL
        if name in bench.protocol.strategies
    }
    check = beats("typiclust", "random", "more classes among the first 10 labels", hit["typiclust"], hit["random"])
    return decide(COVERAGE, [check], [arm(name, CLASSES, values) for name, values in hit.items()])


def order_turns(bench: Bench[TypiclustProtocol]) -> Measured:
    """Margin against TypiClust as the number of labels grows."""
    typical, unsure = accuracies(bench, "typiclust"), accuracies(bench, "margin")
    many = [b for b in bench.protocol.budgets if b >= bench.protocol.many]
    gap = {b: unsure[b] - typical[b] for b in bench.protocol.budgets}
    late, none = _mean(gap, many), torch.zeros(len(bench.seeds))
    grown = two_stderr(late, gap[20])
    notes = {"labels": f"{many[0]} to {many[-1]}"}
    checks = [
        beats("typiclust", "margin", GAP, typical[20], unsure[20], labels=20),
        beats("margin", "typiclust", GAP, late, none, **notes),
        Check("margin - typiclust, many - 20 labels", GAP, "> 2 SE", grown, above(grown), notes),
    ]
    chance = _mean(accuracies(bench, "random"), many)
    parts = [
        beats("margin", "random", GAP, _mean(unsure, many), chance, **notes).detail(),
        beats("random", "typiclust", GAP, chance, _mean(typical, many), **notes).detail(),
    ]
    note = "With many labels the gap has two parts: what margin gains on random choice, and what TypiClust loses to it."
    return decide(TURN, checks, [*parts, *courses(bench)], note)


def order_turns_on_cifar(bench: Bench[TypiclustProtocol]) -> Measured:
    """Margin against TypiClust at the two ends, on the user's embedding."""
    typical, unsure = accuracies(bench, "typiclust"), accuracies(bench, "margin")
    most = bench.protocol.many
    checks = [beats("typiclust", "margin", GAP, typical[b], unsure[b], labels=b) for b in (10, 50)]
    checks.append(beats("margin", "typiclust", GAP, unsure[most], typical[most], labels=most))
    return decide(CIFAR, checks, courses(bench), "Margin's first 10 labels are random, for it has no model yet.")


def courses(bench: Bench[TypiclustProtocol]) -> list[Row]:
    """Accuracy of every strategy after every round, and the gain of margin over TypiClust."""
    found = {name: accuracies(bench, name) for name in bench.protocol.strategies}
    rows = [arm(name, ACCURACY, values, labels=b) for name, at in found.items() for b, values in at.items()]
    for b in bench.protocol.budgets:
        rows.append(
            table_row("margin - typiclust", GAP, two_stderr(found["margin"][b], found["typiclust"][b]), labels=b)
        )
    return rows


# ---- runs -----------------------------------------------------------------------------------------------------------


def accuracies(bench: Bench[TypiclustProtocol], strategy: str) -> dict[int, Tensor]:
    """Test accuracy (seeds,) by number of labels."""
    table = torch.stack([curve.accuracy for curve in curves(bench, strategy)])  # (seeds, rounds)
    return dict(zip(bench.protocol.budgets, table.T, strict=True))


def _mean(by_budget: dict[int, Tensor], budgets: list[int]) -> Tensor:
    """(seeds,) averaged over some budgets."""
    return torch.stack([by_budget[b] for b in budgets]).mean(0)


def curves(bench: Bench[TypiclustProtocol], strategy: str) -> list[LearningCurve]:
    """One course per seed."""
    return [play(bench.protocol, bench.device, strategy, seed) for seed in bench.seeds]


@cache
def play(protocol: TypiclustProtocol, device: str, strategy: str, seed: int) -> LearningCurve:
    """One strategy, all rounds; several claims read the same course."""
    x, y, x_test, y_test = embedded(protocol, seed)
    options: dict[str, Any] = {}
    if strategy == "prob-cover":
        pseudo = clusters_of(x, int(y.max()) + 1, generator(seed, "study", "pseudo-labels"))
        options["delta"] = purity_radius(x, pseudo)
    return learn_actively(
        strategy,
        x.to(device),
        y.to(device),
        x_test.to(device),
        y_test.to(device),
        protocol.budgets,
        generator=generator(seed, "study", "query"),
        passes=protocol.passes,
        **options,
    )


def embedded(protocol: TypiclustProtocol, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training features and labels, test features and labels; rows of length 1."""
    if protocol.data == "digits":
        data = splits("digits", seed)
        pixels, pixels_test = (part.inputs.flatten(1).float() / 255 for part in (data.train, data.test))
        x, x_test = principal_components(pixels, protocol.dims, pixels_test)
    else:
        path = provided(protocol.data, EMBEDDINGS)[1]
        data = splits(protocol.data, seed)
        with np.load(path) as file:
            x, x_test = (torch.from_numpy(file[part]).float().flatten(1) for part in ("train", "test"))
        if len(x) != len(data.train) or len(x_test) != len(data.test):
            need = f"({len(data.train)}, d) and ({len(data.test)}, d)"
            raise InputError(
                f"{EMBEDDINGS} holds `train` {tuple(x.shape)} and `test` {tuple(x_test.shape)}, not {need}"
            )
    return normalize(x), data.train.targets, normalize(x_test), data.test.targets


# ---- the figure -----------------------------------------------------------------------------------------------------


def _lines(axes: Axes, rows: list[Row]) -> None:
    """A line per strategy; the less known ones in grey."""
    for name in dict.fromkeys(r["row"] for r in rows):
        own = [r for r in rows if r["row"] == name]
        x, y = ([r[k] for r in own] for k in ("labels", "value"))
        if name in SHADES:
            low, high = ([r["value"] if r[k] is None else r[k] for r in own] for k in ("low", "high"))
            axes.fill_between(x, low, high, color=SHADES[name], alpha=0.15, lw=0)
            axes.plot(x, y, color=SHADES[name], lw=1.5, label=name)
        else:
            dash = (0, (1 + len(axes.lines) % 5, 1.5))
            axes.plot(x, y, color="#999999", lw=1, ls=dash, label=name)
    axes.set_title("accuracy by number of labels, with 95% intervals", fontsize=8, loc="left")
    axes.set_ylabel(ACCURACY, fontsize=7)
    axes.legend(fontsize=6, frameon=False, loc="lower right", ncols=2)
    _against_labels(axes)


def _gap(axes: Axes, rows: list[Row]) -> None:
    """The gain of margin over TypiClust, with two standard errors."""
    x, y, low, high = ([r[k] for r in rows] for k in ("labels", "value", "low", "high"))
    axes.fill_between(x, low, high, color=SHADES["margin"], alpha=0.2, lw=0)
    axes.plot(x, y, "o-", color=SHADES["margin"], lw=1.5, ms=3)
    axes.axhline(0, color="#999999", lw=0.8)
    axes.set_ylabel("margin - typiclust, with 2 SE", fontsize=7)
    _against_labels(axes)


def _against_labels(axes: Axes) -> None:
    axes.set_xscale("log")
    ticks = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    low, high = axes.dataLim.intervalx
    axes.set_xticks([t for t in ticks if low <= t <= high], [str(t) for t in ticks if low <= t <= high])
    axes.minorticks_off()
    axes.set_xlabel("labels", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _title(axes: Axes, measured: Measured) -> None:
    colour = COLOURS[measured.verdict]
    axes.set_title(f"{measured.claim.slug}: {measured.verdict}", fontsize=8, color=colour, loc="left")
