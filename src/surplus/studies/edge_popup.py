"""Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted Neural Network?".

Subnetworks of untrained networks, found by a score per weight: how good they are, over the share of weights that is
used, the width of the network and the distribution of its weights; beside random subnetworks and trained networks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surplus.pruning import random_mask
from surplus.pruning.schedules.imp import Level
from surplus.pruning.schedules.popup import Weights, edge_popup, random_point, untrained
from surplus.space import generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid, plain
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, above, arm, beats, two_stderr
from surplus.tasks import Augment, Duration, Recipe, Task, task_from

EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
ACCURACY = "test accuracy"

MIDDLE = Claim(
    "the-middle-is-best",
    "Accuracy over the share k of the weights that is used is an inverted U: half of a random network is better than"
    " nearly all of it.",
    "Ramanujan et al. 2020, section 4",
    "The wide network: test accuracy at k = 0.5 - k = 0.9 > 2 SE and k = 0.5 - k = 1 (the random network itself) > 2"
    " SE, paired by seed.",
    EVERYWHERE,
)
WIDER = Claim(
    "wider-is-better",
    "A wider random network holds a better subnetwork of the same relative size.",
    "Ramanujan et al. 2020, section 4",
    "Test accuracy at k = 0.5: 256 - 64 hidden units a layer > 2 SE, paired by seed.",
    EVERYWHERE,
)
SIGNED = Claim(
    "signed-constants-are-better",
    "Random weights of one size and random signs hold a better subnetwork than Gaussian ones.",
    "Ramanujan et al. 2020, section 4",
    "Conv-4 on CIFAR-10, 30 epochs, k = 0.5: test accuracy of signed constants - Kaiming-normal weights > 2 SE, paired"
    " by seed.",
    ("gpu",),
)
TRAINED = Claim(
    "nearly-as-good-as-trained",
    "In a wide convolutional network the subnetwork comes close to the trained network.",
    "Ramanujan et al. 2020, section 4",
    "Conv-6 of twice the width on CIFAR-10, 30 epochs: test accuracy of the subnetwork at k = 0.5 - the trained network"
    " of the same width has a 2 SE interval, paired by seed, above -5 points.",
    ("gpu",),
)


class PopupProtocol(Protocol):
    """Sizes of one scale."""

    keep: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Shares of the weights that are used."""
    narrow: int = 64
    wide: int = 256
    """Units of each of two hidden layers."""
    test_share: float = 0.332
    """Share of the digits to test on."""
    recipe: Recipe = Recipe(lr=0.1, weight_decay=1e-4, batch_size=128, duration=Duration("800it"))
    """How scores are learnt."""
    dense: Recipe = Recipe(optimiser="adam", lr=1.2e-3, batch_size=128, schedule="constant")
    """How networks are trained that scores are compared with, for as many steps."""
    images: Duration = Duration("30ep")
    """Length of training on CIFAR-10."""
    dense_images: Recipe = Recipe(optimiser="adam", lr=3e-4, batch_size=128)
    """How Conv-6 is trained, for as long."""
    width: float = 2.0
    """Multiplies the width of Conv-6."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": PopupProtocol(
        seeds=2,
        keep=(0.1, 0.5, 0.9),
        narrow=8,
        wide=32,
        recipe=Recipe(lr=0.1, weight_decay=1e-4, batch_size=128, duration=Duration("40it")),
        dense=Recipe(optimiser="adam", lr=3e-3, batch_size=128, schedule="constant"),
    ),
    "laptop": PopupProtocol(seeds=3),
    "gpu": PopupProtocol(seeds=3),
}


def draw(result: StudyResult) -> Any:
    """Error over the share of the weights that is used, both widths; then what decided each claim."""
    sheet, (curve, conditions) = grid(2)
    middle, wider = (plain(m.rows) for m in result.measured[:2])
    rows = [*wider, *({**r, "row": "the random network itself"} for r in middle if r["row"] == "k = 1")]
    for name in dict.fromkeys(r["row"] for r in rows):
        points = sorted((r for r in rows if r["row"] == name), key=lambda r: float(r["density"]))
        shares, errors = [r["density"] for r in points], [1 - r["value"] for r in points]
        ends = [[abs(r["value"] - (r["value"] if r[k] is None else r[k])) for r in points] for k in ("high", "low")]
        curve.errorbar(shares, errors, ends, marker="o", ms=3, lw=1, label=name)
    curve.set_xlabel("k, share of the weights that is used", fontsize=7)
    curve.set_ylabel("test error", fontsize=7)
    curve.set_yscale("log")  # the interesting differences lie within a few points of the best
    curve.set_ylim(top=30)  # room for the legend
    curve.legend(fontsize=5, frameon=False, ncols=2, loc="upper center")
    curve.tick_params(labelsize=7)
    dots(conditions, [r for m in result.measured for r in m.rows if " - " in r["row"]])
    conditions.axvline(0, color=COLOURS["undecided"], lw=0.5)
    conditions.set_xscale("symlog", linthresh=0.01)
    conditions.set_xlabel(f"difference in {ACCURACY}, 2 SE either side", fontsize=7)
    for axes, m in zip((curve, conditions), result.measured, strict=False):
        axes.set_title(f"{m.claim.slug}: {m.verdict}", fontsize=8, color=COLOURS[m.verdict], loc="left")
    return sheet


@study(
    slug="edge-popup",
    paper="Ramanujan, Wortsman, Kembhavi, Farhadi & Rastegari 2020, arXiv 1911.13299",
    title="What's Hidden in a Randomly Weighted Neural Network?",
    claims=(MIDDLE, WIDER, SIGNED, TRAINED),
    protocols=PROTOCOLS,
    draw=draw,
)
def edge_popup_study(claim: Claim, bench: Bench[PopupProtocol]) -> Measured:
    """How good are the subnetworks of an untrained network?"""
    tests = {MIDDLE: middle_is_best, WIDER: wider_is_better, SIGNED: signed_is_better, TRAINED: nearly_trained}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def middle_is_best(bench: Bench[PopupProtocol]) -> Measured:
    """Accuracy of the wide network's subnetworks over their share of the weights, and what they stand beside."""
    p, task = bench.protocol, _digits(bench, bench.protocol.wide)
    arms = {k: _found(bench, task, k) for k in p.keep}
    whole = _as_it_is(bench, task, 1.0)
    checks = [
        beats("k = 0.5", "k = 0.9", ACCURACY, arms[0.5], arms[0.9]),
        beats("k = 0.5", "k = 1", ACCURACY, arms[0.5], whole),
    ]
    left = beats("k = 0.5", "k = 0.1", ACCURACY, arms[0.5], arms[0.1])  # the other side of the inverted U
    rows = [left.detail(), *(arm(f"k = {k:g}", ACCURACY, v, density=k) for k, v in (arms | {1.0: whole}).items())]
    rows += [
        arm("random subnetwork", ACCURACY, _as_it_is(bench, task, 0.5), density=0.5),
        arm("Kaiming-normal weights", ACCURACY, _found(bench, task, 0.5, "kaiming-normal"), density=0.5),
        arm("trained", ACCURACY, _trained(bench, task, p.dense), density=1.0),
    ]
    return decide(MIDDLE, checks, rows)


def wider_is_better(bench: Bench[PopupProtocol]) -> Measured:
    """The wide network against the narrow one, at half of their weights and over all shares."""
    p, checks, rows = bench.protocol, [], []
    for k in p.keep:
        wide, narrow = (_found(bench, _digits(bench, h), k) for h in (p.wide, p.narrow))
        rows += [arm(f"{h} units", ACCURACY, v, density=k) for h, v in ((p.wide, wide), (p.narrow, narrow))]
        checks += [beats(f"{p.wide} units", f"{p.narrow} units", ACCURACY, wide, narrow, density=k)] * (k == 0.5)
    for h in (p.wide, p.narrow):
        task = _digits(bench, h)
        rows.append(arm(f"random subnetwork, {h} units", ACCURACY, _as_it_is(bench, task, 0.5), density=0.5))
        rows.append(arm(f"trained, {h} units", ACCURACY, _trained(bench, task, p.dense), density=1.0))
    return decide(WIDER, checks, rows)


def signed_is_better(bench: Bench[PopupProtocol]) -> Measured:
    """Signed constants against Kaiming-normal weights in Conv-4."""
    task = _images(bench, "conv-4", 1.0)
    signed, normal = (_found(bench, task, 0.5, w) for w in ("signed-kaiming", "kaiming-normal"))
    rows = [arm(n, ACCURACY, v, density=0.5) for n, v in (("signed constants", signed), ("Kaiming-normal", normal))]
    rows.append(arm("random subnetwork", ACCURACY, _as_it_is(bench, task, 0.5), density=0.5))
    return decide(SIGNED, [beats("signed constants", "Kaiming-normal", ACCURACY, signed, normal)], rows)


def nearly_trained(bench: Bench[PopupProtocol]) -> Measured:
    """Conv-6's subnetwork against Conv-6 trained, both of twice the width; the usual width is shown."""
    rows = []
    for width in (1.0, bench.protocol.width):
        task = _images(bench, "conv-6", width)
        found, trained = _found(bench, task, 0.5), _trained(bench, task, bench.protocol.dense_images)
        rows.append(arm(f"subnetwork, width x{width:g}", ACCURACY, found, density=0.5))
        rows.append(arm(f"random subnetwork, width x{width:g}", ACCURACY, _as_it_is(bench, task, 0.5), density=0.5))
        rows.append(arm(f"trained, width x{width:g}", ACCURACY, trained, density=1.0))
    gap = two_stderr(found, trained)
    return decide(TRAINED, [Check("subnetwork - trained", ACCURACY, "> -0.05", gap, above(gap, -0.05))], rows)


# ---- runs -----------------------------------------------------------------------------------------------------------


def _digits(bench: Bench[PopupProtocol], units: int) -> Task:
    p = bench.protocol
    return task_from(splits("digits", 0, p.test_share), "mlp", recipe=p.recipe, widths=(units, units), bias=False)


def _images(bench: Bench[PopupProtocol], network: str, width: float) -> Task:
    changes = {"duration": bench.protocol.images, "augment": Augment(shift=4, flip=True), "precision": "bfloat16"}
    recipe = bench.protocol.recipe.model_copy(update=changes)
    return task_from(splits("cifar10", 0), network, recipe=recipe, width=width)


def _found(bench: Bench[PopupProtocol], task: Task, keep: float, weights: Weights = "signed-kaiming") -> Tensor:
    """Test accuracy (K,) of the learnt subnetworks."""
    (level,) = edge_popup(task, density=keep, weights=weights, seeds=bench.seeds, **_options(bench))
    return _accuracy(bench, level)


def _as_it_is(bench: Bench[PopupProtocol], task: Task, keep: float) -> Tensor:
    """Test accuracy (K,) of the random networks, or of random subnetworks of them."""
    chance = [generator(s, "study edge-popup", "random", keep) for s in bench.seeds]
    masks = torch.stack([random_mask(task.space, keep, g, "uniform") for g in chance])
    start = torch.stack([random_point(task.space, s, "signed-kaiming") for s in bench.seeds])
    return _accuracy(bench, untrained(task, masks, start, bench.seeds, **_options(bench)))


def _trained(bench: Bench[PopupProtocol], task: Task, recipe: Recipe) -> Tensor:
    """Test accuracy (K,) of the network trained as usual, for as long and on the same augmented data."""
    recipe = recipe.model_copy(update={n: getattr(task.recipe, n) for n in ("duration", "augment", "precision")})
    return bench.accuracy(bench.fit(task, seeds=bench.seeds, recipe=recipe, execution="stacked"))


def _options(bench: Bench[PopupProtocol]) -> dict[str, Any]:
    return {**bench.options, "execution": "stacked"}


def _accuracy(bench: Bench[PopupProtocol], level: Level) -> Tensor:
    return bench.accuracy(bench.noted(level.run))
