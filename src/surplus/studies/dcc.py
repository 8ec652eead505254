"""Lee et al. 2022, "Dataset Condensation with Contrastive Signals" (DCC), beside DC of Zhao, Mopuri & Bilen 2021.

Both learn from the same start with the same numbers of steps; they differ in whether gradients are matched class by
class or summed over classes. The classes look alike, which is where the paper expects the sum to help. Random real
images at equal storage are always a row, under the same evaluation.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from surplus.data import Dataset, Splits
from surplus.examples.condensation.class_gradients import image_gradient
from surplus.examples.condensation.condensed import Condensed
from surplus.examples.condensation.dcc import DccSettings
from surplus.examples.condensation.evaluation import EvaluationSettings, random_real
from surplus.examples.condensation.scene import Scene, task_of
from surplus.stats import paired
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.condensing import ACCURACY, draw, learned, picture, worth
from surplus.studies.data import splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import Check, Verdict, arm, beats, exactly, exceeds, two_stderr
from surplus.tasks import Task, task_from

PAPER = "Lee et al. 2022, arXiv 2202.02916"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")

ALIKE = Claim(
    "sum-helps-where-classes-are-alike",
    "On classes that look alike, matching the gradient of all classes together teaches no less than class by class, and"
    " both teach more than random real images.",
    "Lee et al. 2022, abstract: fine-grained data",
    "Test accuracy at 1 image per class (gpu: 10): DCC - DC at least -1 SE (gpu: > 2 SE), DCC - random > 2 SE and"
    " DC - random > 2 SE, paired by seed.",
    EVERYWHERE,
)
ONE_CLASS = Claim(
    "one-class-makes-them-equal",
    "With a single class the two losses are one and the same.",
    "Lee et al. 2022: both losses at K = 1",
    "Largest relative difference of loss and image gradient at K = 1, over seeds, at most 1e-4.",
    EVERYWHERE,
)
WARM_UP = Claim(
    "warm-up-steadies-the-start",
    "Without the warm-up the loss varies more at the beginning.",
    "Lee et al. 2022: bi-level warm-up",
    "Distance of the gradients of all classes together, per outer iteration: log ratio of its variance over the first"
    " 50, without warm-up over with it, above 0 by its 95% interval over seeds.",
    EVERYWHERE,
)


class DccProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    alike: tuple[int, ...] = (3, 5, 8, 9)
    """Classes that look alike."""
    network: str = "conv-net:width=32,depth=2"
    """Where gradients are matched, and what is evaluated; two poolings, for instance norms of 2x2 maps do not match."""
    per_class: int = 1
    """Images per class."""
    condensation: dict[str, Any] = Field(default={})
    """Settings of DC and DCC alike."""
    warm_up: int = 50
    """Outer iterations of DCC's warm-up."""
    first: int = 50
    """Outer iterations whose losses the third claim looks at."""
    nets: int = 5
    """Networks that each set is evaluated on."""
    epochs: int = 300
    """Of the evaluation."""
    strictly: bool = False
    """Whether DCC must beat DC by two standard errors, rather than not fall behind by more than one."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": DccProtocol(
        seeds=2,
        network="conv-net:width=4,depth=2",
        condensation={"outer": 6, "inner": 2, "epochs": 1, "real_batch": 16},
        warm_up=4,
        first=4,
        nets=2,
        epochs=40,
    ),
    "laptop": DccProtocol(seeds=3, condensation={"outer": 150, "inner": 10, "epochs": 5, "real_batch": 64}),
    "gpu": DccProtocol(
        seeds=5,
        data="cifar10",
        alike=(3, 4, 5, 7),  # cat, deer, dog, horse
        network="conv-net",
        per_class=10,
        condensation={"outer": 1000, "inner": 10, "epochs": 50},
        warm_up=250,
        nets=20,
        strictly=True,
    ),
}


@study(
    slug="dcc",
    paper=PAPER,
    title="Dataset Condensation with Contrastive Signals",
    claims=(ALIKE, ONE_CLASS, WARM_UP),
    protocols=PROTOCOLS,
    draw=draw,
)
def dcc(claim: Claim, bench: Bench[DccProtocol]) -> Measured:
    """Gradients matched class by class or summed over classes: which images teach more, and what is the warm-up for?"""
    tests = {ALIKE: alike_classes, ONE_CLASS: one_class, WARM_UP: warm_up}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def alike_classes(bench: Bench[DccProtocol]) -> Measured:
    """Accuracy after training on sets of both methods, and on random real images."""
    values: dict[str, list[float]] = {"DCC": [], "DC": [], "random real": []}
    for seed in bench.seeds:
        data = _data(bench, seed)
        for method in ("dcc", "dc"):
            values[method.upper()].append(_worth(bench, data, _learned(bench, data, method, seed).decode(), seed))
        few = [random_real(data.train, bench.protocol.per_class, net) for net in _nets(bench, seed)]
        each = [_worth(bench, data, real, seed, [net]) for real, net in zip(few, _nets(bench, seed), strict=True)]
        values["random real"].append(sum(each) / len(each))
    compare = beats if bench.protocol.strictly else _not_behind
    checks = [
        compare("DCC", "DC", ACCURACY, values["DCC"], values["DC"]),
        beats("DCC", "random real", ACCURACY, values["DCC"], values["random real"]),
        beats("DC", "random real", ACCURACY, values["DC"], values["random real"]),
    ]
    data = _data(bench, 0)
    images = {m.upper(): {"picture": picture(_learned(bench, data, m, 0).images[:12])} for m in ("dcc", "dc")}
    return decide(ALIKE, checks, [arm(name, ACCURACY, v, **images.get(name, {})) for name, v in values.items()])


def one_class(bench: Bench[DccProtocol]) -> Measured:
    """Loss and image gradient of both methods at one class, on a network with an output for each of four."""
    quantity, apart = "relative difference", dict[str, list[float]]()
    for seed in bench.seeds:
        for classes in (1, len(bench.protocol.alike)):
            scene = _scene(bench, seed, classes)
            images, module = scene.normalise(scene.real_start()), scene.network(0)
            a = image_gradient(scene, module, images, False, scene.draws("claim"))
            b = image_gradient(scene, module, images, True, scene.draws("claim"))
            for name, i in (("image gradient", 0), ("loss", 1)):
                apart.setdefault(f"{name}, K = {classes}", []).append(_apart(a[i], b[i]))
    worst = [max(apart[f"{name}, K = 1"]) for name in ("loss", "image gradient")]
    checks = [
        Check(f"DCC - DC, {name}, K = 1", quantity, "<= 1e-4", exactly(value, len(bench.seeds)), _at_most(value, 1e-4))
        for name, value in zip(("loss", "image gradient"), worst, strict=True)
    ]
    rows = [arm(f"random real: {name}", quantity, values) for name, values in apart.items()]
    return decide(ONE_CLASS, checks, rows, "The images are random real ones; K = 4 shows that the test could fail.")


def warm_up(bench: Bench[DccProtocol]) -> Measured:
    """Variance of the loss over the first outer iterations, with warm-up, without, and without any learning."""
    first, quantity = bench.protocol.first, "variance of the first losses"
    arms: dict[str, list[float]] = {"with warm-up": [], "without warm-up": [], "random real, not learned": []}
    for seed in bench.seeds:
        data = _data(bench, seed)
        none = {"outer": first, "outer_warmup": 0, "inner_warmup": 0}
        made = [
            _learned(bench, data, "dcc", seed),
            _learned(bench, data, "dcc", seed, **none),
            _learned(bench, data, "dcc", seed, **none, image_lr=0.0),
        ]
        for name, one in zip(arms, made, strict=True):
            arms[name].append(float(torch.tensor(one.history["together"][:first], dtype=torch.float64).var()))
    with_, without, _ = (torch.tensor(v, dtype=torch.float64) for v in arms.values())
    check = exceeds("without - with warm-up", f"log ratio of {quantity}", (without / with_).log(), 0.0)
    return decide(WARM_UP, [check], [arm(name, quantity, v) for name, v in arms.items()])


# ---- what is compared -----------------------------------------------------------------------------------------------


def _data(bench: Bench[DccProtocol], seed: int) -> Splits:
    """The classes that look alike, alone."""
    data = splits(bench.protocol.data, seed)
    train, test = (_only(d, bench.protocol.alike) for d in (data.train, data.test))
    return Splits(data.name, train, test, carved=data.carved)


def _only(data: Dataset, classes: tuple[int, ...]) -> Dataset:
    """The examples of some classes, numbered anew in their order."""
    number = torch.full((len(data.classes),), -1)
    number[list(classes)] = torch.arange(len(classes))
    kept = data[number[data.targets] >= 0]
    return Dataset(kept.inputs, number[kept.targets], kept.ids, tuple(data.classes[c] for c in classes), data.kind)


def _learned(bench: Bench[DccProtocol], data: Splits, method: str, seed: int, **changes: Any) -> Condensed:
    p = bench.protocol
    own = {"outer_warmup": p.warm_up, "inner_warmup": p.condensation["inner"]} if method == "dcc" else {}
    settings = {"network": p.network, "start": "real", **p.condensation, **own, **changes}
    return learned(bench, data, method, p.per_class, seed, **settings)


def _nets(bench: Bench[DccProtocol], seed: int) -> list[int]:
    """Seeds of the evaluating networks; no other seed has them."""
    return [1000 * (seed + 1) + k for k in range(bench.protocol.nets)]


def _worth(
    bench: Bench[DccProtocol], data: Splits, examples: Dataset, seed: int, nets: list[int] | None = None
) -> float:
    """Mean accuracy over networks."""
    p = bench.protocol
    settings = EvaluationSettings(epochs=p.epochs)
    return float(worth(bench, data, p.network, examples, settings, nets or _nets(bench, seed)).mean())


def _not_behind(first: str, second: str, quantity: str, a: list[float], b: list[float]) -> Check:
    """The condition that arm a lies at most one standard error below arm b; the interval is that of two."""
    interval, c = two_stderr(a, b), paired(a, b)
    verdict: Verdict = "holds" if c.difference >= -c.stderr else "fails"
    return Check(f"{first} - {second}", quantity, ">= -1 SE", interval, verdict, {"p_value": c.p_value})


# ---- one class ------------------------------------------------------------------------------------------------------


def _scene(bench: Bench[DccProtocol], seed: int, classes: int) -> Scene:
    """A scene of the first classes only, on a network that has an output for every class."""
    p, data = bench.protocol, _data(bench, seed)
    every = task_of(data, p.network)
    few = _only(data.train, tuple(range(classes)))
    task: Task = task_from(Splits(data.name, few, few), _Factory(every))
    settings = DccSettings(network=None, **p.condensation)
    return Scene(task.to(bench.device), settings, p.per_class, seed, torch.device(bench.device))


class _Factory:
    """Builds another task's network."""

    def __init__(self, task: Task) -> None:
        self.network = task.network
        self.__qualname__ = task.network.name

    def __call__(self) -> nn.Module:
        return self.network()


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / a.norm())


def _at_most(value: float, limit: float) -> Verdict:
    return "holds" if value <= limit else "fails"
