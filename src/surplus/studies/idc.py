"""Kim et al. 2022, "Dataset Condensation via Efficient Synthetic-Data Parameterization" (IDC).

A stored image that decodes into four is tested against one that is a single image, and both against random real images
at equal storage (equal numbers of pixels), all under one evaluation. Every seed has its own part of the data, its own
condensation and its own network to evaluate on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD

from surplus.data import Dataset, Splits
from surplus.examples.condensation.condensed import Condensed
from surplus.examples.condensation.diff_augment import DiffAugment
from surplus.examples.condensation.evaluation import EvaluationSettings, random_real
from surplus.examples.condensation.idc import MIXED, IdcSettings
from surplus.examples.condensation.matching import gradient, matched
from surplus.examples.condensation.networks import train_epoch
from surplus.examples.condensation.scene import Scene, task_of
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.condensing import ACCURACY, draw, learned, part, picture, worth
from surplus.studies.data import splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import Row, arm, beats, exceeds

PAPER = "Kim et al. 2022, arXiv 2205.14959"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")

FORMATION = Claim(
    "four-in-one-beats-one-beats-random",
    "Images stored four in one teach more than images stored as they are, and those more than random real images.",
    "Kim et al. 2022; README of the official code",
    "Test accuracy at equal storage: IDC (f = 2) - IDC-I (f = 1) > 2 SE, IDC-I - random > 2 SE, and IDC - random above"
    " 0.05 by its 95% interval (gpu: above 0), paired by seed.",
    EVERYWHERE,
)
MIX = Claim(
    "shrinking-alone-helps",
    "Four real images shrunk into one teach more than one real image, before anything is learned.",
    "Kim et al. 2022; the official code's start of multi-formation",
    "Test accuracy at equal storage: four shrunk real images - one random real image > 2 SE, paired by seed (gpu:"
    " ten times as many of either).",
    EVERYWHERE,
)
NORMS = Claim(
    "real-data-keep-gradients-large",
    "The gradient on real data keeps its size while the inner network trains on real data, and collapses while it"
    " trains on the synthetic set.",
    "Kim et al. 2022, on training the inner network with real data",
    "Mean over classes of |g_real| (convolutions) after 100 inner steps: log ratio of the network trained on real"
    " data to that trained on the synthetic set above 0 by its 95% interval over seeds.",
    EVERYWHERE,
)


class IdcProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    train: int | None = None
    """Training examples, drawn anew for each seed; all when None."""
    test: int | None = None
    """Test examples, likewise."""
    network: str = "conv-net:width=32"
    """Where gradients are matched, and what is evaluated."""
    per_class: int = 1
    """Stored images per class."""
    condensation: dict[str, Any] = Field(default={})
    """Settings of IDC."""
    epochs: int = 300
    """Of the evaluation; the paper has 1000."""
    steps: int = 100
    """Inner steps of the third claim."""
    least_gain: float = 0.05
    """What IDC must gain over random real images."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": IdcProtocol(
        seeds=2,
        train=300,
        network="conv-net:width=8,depth=2",
        condensation={"outer": 1, "inner": 3, "image_lr": 0.1, "net_examples": 64},
        epochs=30,
        steps=10,
    ),
    "laptop": IdcProtocol(
        seeds=3,
        data="mnist",
        train=5000,
        test=2000,
        condensation={"outer": 2, "inner": 40, "image_lr": 0.03, "net_examples": 192, "real_batch": 32},
        epochs=200,
    ),
    "gpu": IdcProtocol(
        seeds=3,
        data="cifar10",
        network="conv-net",
        per_class=10,
        condensation={"outer": 200, "net_examples": 2000},
        epochs=1000,
        least_gain=0.0,
    ),
}


@study(
    slug="idc",
    paper=PAPER,
    title="Dataset Condensation via Efficient Synthetic-Data Parameterization",
    claims=(FORMATION, MIX, NORMS),
    protocols=PROTOCOLS,
    draw=draw,
)
def idc(claim: Claim, bench: Bench[IdcProtocol]) -> Measured:
    """Several images in the room of one: do they teach more? And what does an inner network on real data do?"""
    tests = {FORMATION: formation, MIX: shrinking, NORMS: gradient_norms}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def formation(bench: Bench[IdcProtocol]) -> Measured:
    """Accuracy after training on what IDC, IDC-I and chance store in the same room."""
    sets = {
        "IDC, f = 2": lambda data, seed: _condensed(bench, data, seed, 2).decode(),
        "IDC-I, f = 1": lambda data, seed: _condensed(bench, data, seed, 1).decode(),
        "random real": lambda data, seed: random_real(data.train, bench.protocol.per_class, seed),
    }
    values = _accuracies(bench, sets)
    idc_, one, chance = values
    gain = [a - b for a, b in zip(values[idc_], values[chance], strict=True)]
    checks = [
        beats(idc_, one, ACCURACY, values[idc_], values[one]),
        beats(one, chance, ACCURACY, values[one], values[chance]),
        exceeds(f"{idc_} - {chance}", ACCURACY, gain, bench.protocol.least_gain),
    ]
    data = _data(bench, 0)
    shown = {idc_: _condensed(bench, data, 0, 2).images, one: _condensed(bench, data, 0, 1).images}
    return decide(FORMATION, checks, _arms(values, {**shown, chance: _pictures(sets[chance](data, 0))}))


def shrinking(bench: Bench[IdcProtocol]) -> Measured:
    """Accuracy after training on the start of IDC, which is real images shrunk and enlarged again."""
    sets = {
        "four shrunk real": lambda data, seed: _condensed(
            bench, data, seed, 2, image_lr=0.0, outer=1, inner=1
        ).decode(),
        "random real": lambda data, seed: random_real(data.train, bench.protocol.per_class, seed),
    }
    values = _accuracies(bench, sets)
    first, second = values
    start = _condensed(bench, _data(bench, 0), 0, 2, image_lr=0.0, outer=1, inner=1).images
    return decide(MIX, [beats(first, second, ACCURACY, values[first], values[second])], _arms(values, {first: start}))


def gradient_norms(bench: Bench[IdcProtocol]) -> Measured:
    """Gradient norms along networks that train on different sets, all from one start per seed."""
    on_real, on_made = "|g_real| after the last inner step", "|g_synthetic| after the last inner step"
    norms: dict[str, dict[str, list[float]]] = {on_real: {}, on_made: {}}
    for seed in bench.seeds:
        scene, made = _scene(bench, seed), _condensed(bench, _data(bench, seed), seed, 2).decode()
        chance = random_real(scene.task.train, bench.protocol.per_class, seed)
        arms = {
            "trained on real data": None,
            "trained on the synthetic set": made,
            "random real: trained on them": chance,
            "at the start": chance,
        }
        for name, examples in arms.items():
            module = _trained(scene, examples, 0 if name == "at the start" else bench.protocol.steps)
            norms[on_real].setdefault(name, []).append(_norm(scene, module, None))
            norms[on_made].setdefault(name, []).append(_norm(scene, module, made))
    real, other = (norms[on_real][f"trained on {what}"] for what in ("real data", "the synthetic set"))
    ratio = [math.log(a / b) for a, b in zip(real, other, strict=True)]
    check = exceeds("real - synthetic", f"log ratio of {on_real}", ratio, 0.0)
    rows = [arm(name, quantity, values) for quantity, each in norms.items() for name, values in each.items()]
    note = "The rows |g_synthetic| ask the same of the gradient on the synthetic set; no verdict rests on them."
    return decide(NORMS, [check], rows, note)


# ---- sets and their worth -------------------------------------------------------------------------------------------


def _data(bench: Bench[IdcProtocol], seed: int) -> Splits:
    p = bench.protocol
    return part(splits(p.data, seed), p.train, p.test, seed)


def _condensed(bench: Bench[IdcProtocol], data: Splits, seed: int, factor: int, **changes: Any) -> Condensed:
    p = bench.protocol
    settings = {"network": p.network, **p.condensation, **changes}
    return learned(bench, data, "idc", p.per_class, seed, factor=factor, **settings)


def _accuracies(bench: Bench[IdcProtocol], sets: dict[str, Callable[[Splits, int], Dataset]]) -> dict[str, list[float]]:
    """Accuracy per arm, one number per seed."""
    p, evaluation = bench.protocol, _evaluation(bench)
    values: dict[str, list[float]] = {name: [] for name in sets}
    for seed in bench.seeds:
        data = _data(bench, seed)
        for name, make in sets.items():
            values[name] += worth(bench, data, p.network, make(data, seed), evaluation, [seed]).tolist()
    return values


def _evaluation(bench: Bench[IdcProtocol]) -> EvaluationSettings:
    return MIXED.model_copy(update={"epochs": bench.protocol.epochs})


def _arms(values: dict[str, list[float]], images: dict[str, Tensor]) -> list[Row]:
    pictures = {name: {"picture": picture(made[:10])} for name, made in images.items()}
    return [arm(name, ACCURACY, v, **pictures.get(name, {})) for name, v in values.items()]


def _pictures(data: Dataset) -> Tensor:
    return data.inputs.float() / 255 if data.inputs.dtype == torch.uint8 else data.inputs


# ---- gradient norms -------------------------------------------------------------------------------------------------


def _scene(bench: Bench[IdcProtocol], seed: int) -> Scene:
    p, data = bench.protocol, _data(bench, seed)
    settings = IdcSettings(**{"network": p.network, **p.condensation})
    task = task_of(data, p.network).to(bench.device)
    return Scene(task, settings, p.per_class, seed, torch.device(bench.device))


def _trained(scene: Scene, examples: Dataset | None, steps: int) -> nn.Module:
    """The first network after so many inner steps on real data (None), or on a set that comes round again."""
    s, g, module = scene.settings, scene.draws("norms"), scene.network(0)
    optimiser = SGD(module.parameters(), s.net_lr, momentum=s.net_momentum, weight_decay=s.net_decay)
    augment = DiffAugment("color-crop", "stacked")
    for _ in range(steps):
        x, y = scene.anything(s.net_examples, g) if examples is None else _again(scene, examples, g)
        train_epoch(module, optimiser, x, y, g, batch=s.net_batch, augment=augment, cutmix=s.cutmix)
    return module


def _again(scene: Scene, examples: Dataset, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As many examples as a step on real data has, each as often as the others, in random order."""
    count, n = scene.settings.net_examples, len(examples)
    rows = torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-count // n))])[:count]
    return scene.task.prepare(examples.inputs[rows].to(scene.device)), examples.targets[rows].to(scene.device)


def _norm(scene: Scene, module: nn.Module, examples: Dataset | None, batch: int = 256) -> float:
    """Mean over classes of the norm of the matched gradient, on real images (None) or on those of a set."""
    g, weights, norms = scene.draws("probe"), matched(module.train(), scene.settings.layers), []
    for c in range(scene.classes):
        if examples is None:
            images = scene.real(c, batch, g)
        else:
            images = scene.task.prepare(examples.inputs[examples.targets == c].to(scene.device))
        parts = gradient(module, weights, images, scene.label(c, len(images)))
        norms.append(float(torch.cat([p.flatten() for p in parts]).norm()))
    return sum(norms) / len(norms)
