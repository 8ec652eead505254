"""SNIP, GraSP and SynFlow, three scores before training: do layers collapse, and does it matter which weights stay?

Each score is cut at initialisation and trained once from there. Beside them stand the magnitude of initial weights, a
mask drawn at random with the same density in each layer, the scores' own masks with each layer's places shuffled, and
tickets of iterative magnitude pruning, which may look at training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from surplus.pruning import iterate_score, random_mask, shuffle, synflow
from surplus.pruning.schedules.imp import from_masks, imp
from surplus.pruning.scoring import iterate_on_task
from surplus.space import WeightSpace, generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import (
    Check,
    Row,
    Verdict,
    arm,
    beats,
    exactly,
    not_above,
    over_seeds,
    two_stderr,
    within,
)
from surplus.tasks import Augment, Duration, Recipe, Task, task_from

PAPER = "Lee et al. 2019, arXiv 1810.02340; Wang et al. 2020, arXiv 2002.07376; Tanaka et al. 2020, arXiv 2006.05467"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
ACCURACY = "test accuracy"
FEWEST = "fewest weights left in a layer"

COLLAPSE = Claim(
    "synflow-avoids-layer-collapse",
    "SynFlow in a hundred rounds leaves weights in every layer; cut at once it empties one, and SNIP and magnitude come"
    " closer to that.",
    "Tanaka et al. 2020, sections 4 and 6",
    "MLP 64-(64)x6-10 without biases, density 1%, fewest weights left in a layer: SynFlow(100) at least 1 and"
    " SynFlow(1) 0 in every seed (undecided where only some seeds agree); SynFlow(100) - SNIP and SynFlow(100) -"
    " magnitude, cut at once, > 2 SE, paired by seed.",
    EVERYWHERE,
)
CONSERVED = Claim(
    "synflow-is-conserved",
    "In a network of ReLUs without biases the scores of each layer add up to the same flow, and so do those into and"
    " out of each hidden unit.",
    "Tanaka et al. 2020, section 5, theorems 1 and 2",
    "Largest relative difference, over seeds, a dense and a convolutional network: at most 1e-9 between layers and"
    " between both sides of a unit.",
    EVERYWHERE,
)
SHUFFLED = Claim(
    "shuffling-does-not-hurt",
    "Each layer's mask in random places does as well as that of SNIP, SynFlow or initial magnitude; that of a ticket"
    " does not.",
    "Frankle et al. 2021, arXiv 2009.08576, section 5",
    "Convolutional network at density 20%, test accuracy: own - shuffled is not more than 2 SE above 0 for SNIP,"
    " SynFlow(100) and magnitude; for iterative magnitude pruning it is, paired by seed.",
    EVERYWHERE,
)
ORDER = Claim(
    "better-than-random-worse-than-tickets",
    "At 5% of the weights, scores before training beat a random mask and do not reach rewound tickets.",
    "Wang et al. 2020, table 2; Tanaka et al. 2020, figure 6; Frankle et al. 2021, figure 1",
    "ResNet-20 on CIFAR-10, density 5%: SNIP, GraSP and SynFlow(100) - random > 2 SE each, ticket - the best of the"
    " three > 2 SE, paired by seed.",
    ("gpu",),
)

ROUNDS = {"SNIP": ("snip", 1), "GraSP": ("grasp", 1), "SynFlow(100)": ("synflow", 100), "magnitude": ("magnitude", 1)}
"""Name in the tables: registered score, rounds."""
LESS = ("SNIP", "magnitude")
BIASES = (
    "The network of the verdict has no biases, as the theorem asks. It was chosen so after a first run with biases, in"
    " which the claim failed: biases pass on a flow of their own, so that SynFlow(100) may empty a layer (see the"
    " rows)."
)


class PaiProtocol(Protocol):
    """Sizes of one scale."""

    width: int = 64
    depth: int = 6
    """Hidden layers of the dense network, and their units."""
    low: float = 0.01
    """Density at which layers may collapse."""
    trained_at: float = 0.03
    """Density at which those masks are also trained, for the table."""
    data: str = "digits"
    network: str = "small-conv"
    options: dict[str, Any] = Field(default={"channels": (8, 16, 32)})
    density: float = 0.2
    """Of the shuffled masks: every unit keeps several inputs."""
    rate: float = 0.3
    """Largest share that one cut of iterative magnitude pruning removes."""
    recipe: Recipe = Recipe(optimiser="adam", lr=2e-3, batch_size=64, duration=Duration("300it"), schedule="constant")
    densities: tuple[float, ...] = (0.2, 0.05, 0.01)
    """Of the comparison on CIFAR-10; the second decides."""
    rewind_step: int = 500
    execution: str = "stacked"


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": PaiProtocol(
        seeds=2,
        options={"channels": (4, 8)},
        rate=0.6,
        recipe=Recipe(optimiser="adam", lr=3e-3, batch_size=64, duration=Duration("30it"), schedule="constant"),
    ),
    "laptop": PaiProtocol(seeds=10),
    "gpu": PaiProtocol(
        seeds=3,
        data="cifar10",
        network="resnet-20",
        options={},
        rate=0.2,
        execution="spread",
        recipe=Recipe(
            lr=0.1,
            weight_decay=1e-4,
            batch_size=128,
            duration=Duration("30ep"),
            schedule="step",
            milestones=(Duration("15ep"), Duration("22ep")),
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


@study(
    slug="snip-grasp-synflow",
    paper=PAPER,
    title="Scores before training: SNIP, GraSP and SynFlow",
    claims=(COLLAPSE, CONSERVED, SHUFFLED, ORDER),
    protocols=PROTOCOLS,
)
def snip_grasp_synflow(claim: Claim, bench: Bench[PaiProtocol]) -> Measured:
    """Pruning at initialisation: collapse, conservation, shuffles and order."""
    tests = {COLLAPSE: no_collapse, CONSERVED: conserved, SHUFFLED: shuffling, ORDER: order}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def no_collapse(bench: Bench[PaiProtocol]) -> Measured:
    """The emptiest layer of each method's mask, and what the masks are worth a little above that density."""
    p, task, methods = bench.protocol, _deep(bench), ROUNDS | {"SynFlow(1)": ("synflow", 1), "SNIP(100)": ("snip", 100)}
    fewest = {name: _fewest(task, _masks(bench, task, p.low, *how)) for name, how in methods.items()}
    fewest["random"] = _fewest(task, _random(bench, task, p.low))
    checks = [
        _always("SynFlow(100)", ">= 1", p.low, fewest["SynFlow(100)"], fewest["SynFlow(100)"] >= 1),
        _always("SynFlow(1)", "= 0", p.low, fewest["SynFlow(1)"], fewest["SynFlow(1)"] == 0),
        *(beats("SynFlow(100)", n, FEWEST, fewest["SynFlow(100)"], fewest[n], density=p.low) for n in LESS),
    ]
    rows = [arm(n, FEWEST, counts, density=p.low) for n, counts in fewest.items() if not n.startswith("SynFlow")]
    rows += _with_biases(bench)
    for name, how in methods.items():
        rows.append(_trained(bench, task, name, _masks(bench, task, p.trained_at, *how), p.trained_at))
    rows.append(_trained(bench, task, "random", _random(bench, task, p.trained_at), p.trained_at))
    return decide(COLLAPSE, checks, rows, BIASES)


def conserved(bench: Bench[PaiProtocol]) -> Measured:
    """How far the sums of scores are from each other."""
    layers, units = [], []
    for seed in bench.seeds:
        for make, shape in ((partial(_dense, bench.protocol), (64,)), (_convolutions, (1, 8, 8))):
            space = WeightSpace(make)
            score = synflow(space, space.init(seed), torch.zeros(1, *shape))
            found = _imbalance(space, score)
            layers.append(found[0])
            units.append(found[1])
    checks = [
        Check(name, "largest relative difference", "<= 1e-9", exactly(max(v), len(v)), within(exactly(max(v)), 0, 1e-9))
        for name, v in (("sums of layers", layers), ("in and out of units", units))
    ]
    return decide(CONSERVED, checks)


def shuffling(bench: Bench[PaiProtocol]) -> Measured:
    """Every mask against the same one with each layer's places shuffled."""
    p, task = bench.protocol, _images(bench)
    checks: list[Check] = []
    rows: list[Row] = []
    arms = {name: _masks(bench, task, p.density, *how) for name, how in ROUNDS.items() if name != "GraSP"}
    arms["ticket"] = _tickets(bench, task, (p.density,), step=0)[p.density]
    for name, masks in arms.items():
        moved = [shuffle(task.space, m, _chance(s, "shuffle")) for s, m in zip(bench.seeds, masks, strict=True)]
        own, other = _accuracy(bench, task, masks), _accuracy(bench, task, torch.stack(moved))
        rows += [
            arm(name, ACCURACY, own, density=p.density),
            arm(f"{name}, shuffled", ACCURACY, other, density=p.density),
        ]
        if name == "ticket":
            checks.append(beats(name, f"{name}, shuffled", ACCURACY, own, other))
        else:
            harm = two_stderr(own, other)
            checks.append(Check(f"{name} - {name}, shuffled", ACCURACY, "not > 2 SE", harm, not_above(harm)))
    rows.append(_trained(bench, task, "random", _random(bench, task, p.density), p.density))
    rows.append(_trained(bench, task, "dense", torch.ones_like(masks), 1.0))
    return decide(SHUFFLED, checks, rows)


def order(bench: Bench[PaiProtocol]) -> Measured:
    """Random masks, scores and tickets on CIFAR-10."""
    p, task = bench.protocol, _images(bench)
    tickets, deciding = _tickets(bench, task, p.densities, step=p.rewind_step), p.densities[1]
    rows: list[Row] = []
    found: dict[float, dict[str, Tensor]] = {}
    for d in p.densities:
        arms = {name: _accuracy(bench, task, _masks(bench, task, d, *how)) for name, how in ROUNDS.items()}
        arms["random"] = _accuracy(bench, task, _random(bench, task, d))
        arms["ticket"] = _accuracy(bench, task, tickets[d], step=p.rewind_step)
        found[d] = arms
        rows += [arm(name, ACCURACY, values, density=d) for name, values in arms.items()]
    at = found[deciding]
    scores = ("SNIP", "GraSP", "SynFlow(100)")
    best = max(scores, key=lambda name: float(at[name].mean()))
    checks = [beats(name, "random", ACCURACY, at[name], at["random"], density=deciding) for name in scores]
    checks.append(beats("ticket", best, ACCURACY, at["ticket"], at[best], density=deciding))
    return decide(ORDER, checks, rows)


# ---- tasks, masks and runs ------------------------------------------------------------------------------------------


def _deep(bench: Bench[PaiProtocol], bias: bool = False) -> Task:
    """The narrow deep network on digits."""
    p = bench.protocol
    recipe = PaiProtocol(seeds=1).recipe if bench.scale == "gpu" else p.recipe
    return task_from(splits("digits", 0), "mlp", recipe=recipe, widths=(p.width,) * p.depth, bias=bias)


def _with_biases(bench: Bench[PaiProtocol]) -> list[Row]:
    """The same counts on a network with torch's own biases, for SynFlow with their share of the flow and without."""
    p, task = bench.protocol, _deep(bench, bias=True)
    fewest = {f"{n}, with biases": _fewest(task, _masks(bench, task, p.low, *how)) for n, how in ROUNDS.items()}
    batch = task.prepare(task.train.inputs[:1]), task.train.targets[:1]
    points = [task.space.init(s) for s in bench.seeds]
    silent = [iterate_score("synflow", task.space, t, batch, density=p.low, biases=False) for t in points]
    fewest["SynFlow(100), with biases left out"] = _fewest(task, torch.stack(silent))
    return [arm(name, FEWEST, counts, density=p.low) for name, counts in fewest.items()]


def _images(bench: Bench[PaiProtocol]) -> Task:
    p = bench.protocol
    return task_from(splits(p.data, 0), p.network, recipe=p.recipe, **p.options)


def _masks(bench: Bench[PaiProtocol], task: Task, density: float, score: str, rounds: int) -> Tensor:
    """A score's masks (K, P) at the initial points, with nothing that keeps a layer alive."""
    how: dict[str, Any] = {"density": density, "rounds": rounds}
    return torch.stack([iterate_on_task(score, task, task.space.init(s), seed=s, **how) for s in bench.seeds])


def _random(bench: Bench[PaiProtocol], task: Task, density: float) -> Tensor:
    """Masks (K, P) with the same density in each layer."""
    draws = [_chance(s, "random", density) for s in bench.seeds]
    return torch.stack([random_mask(task.space, density, draw, "uniform") for draw in draws])


def _tickets(bench: Bench[PaiProtocol], task: Task, densities: Sequence[float], step: int) -> dict[float, Tensor]:
    """Masks (K, P) of iterative magnitude pruning to each density."""
    options: dict[str, Any] = {**bench.options, "execution": bench.protocol.execution}
    found = {}
    for d in densities:
        levels = imp(task, density=d, rate=bench.protocol.rate, seeds=bench.seeds, rewind_step=step, **options)
        for level in levels:
            bench.noted(level.run)
        found[d] = levels[-1].masks
    return found


def _accuracy(bench: Bench[PaiProtocol], task: Task, masks: Tensor, step: int = 0) -> Tensor:
    """Test accuracy (K,) after training from the initial weights, or from those of a few steps later."""
    options: dict[str, Any] = {**bench.options, "execution": bench.protocol.execution}
    start = task.space.init_many(bench.seeds)
    if step:
        start = bench.fit(task, seeds=bench.seeds, keep=(step,), execution=options["execution"]).at(step)
    return bench.accuracy(bench.noted(from_masks(task, masks, start, bench.seeds, step, **options).run))


def _trained(bench: Bench[PaiProtocol], task: Task, name: str, masks: Tensor, density: float) -> Row:
    return arm(name, ACCURACY, _accuracy(bench, task, masks), density=density)


def _chance(seed: int, *purpose: object) -> torch.Generator:
    return generator(seed, "study snip-grasp-synflow", *purpose)


# ---- counts and sums ------------------------------------------------------------------------------------------------


def _fewest(task: Task, masks: Tensor) -> Tensor:
    """How many weights (K,) the emptiest layer has, from masks (K, P)."""
    return torch.stack([masks[:, b.slice].sum(1) for b in task.space.blocks if b.prunable]).amin(0).double()


def _always(name: str, needs: str, density: float, counts: Tensor, right: Tensor) -> Check:
    """A condition on every seed: it holds in all, fails in all, or neither."""
    verdict: Verdict = "holds" if bool(right.all()) else "undecided" if bool(right.any()) else "fails"
    return Check(name, FEWEST, f"{needs} in every seed", over_seeds(counts), verdict, {"density": density})


def _imbalance(space: WeightSpace, score: Tensor) -> tuple[float, float]:
    """Largest relative differences between the layers' sums, and between the sums into and out of a hidden unit."""
    parts = list(space.split(score).values())
    totals = torch.stack([part.sum() for part in parts])
    between = (totals - totals[0]).abs().max() / totals[0]
    gaps = []
    for before, after in pairwise(parts):
        entering, units = before.flatten(1).sum(1), len(before)
        leaving = after.reshape(len(after), units, -1).sum((0, 2))
        gaps.append(((entering - leaving).abs() / entering.clamp(min=1e-300)).max())
    return float(between), float(torch.stack(gaps).max())


def _dense(p: PaiProtocol) -> nn.Module:
    sizes = [64, *[p.width] * p.depth, 10]
    layers = [m for pair in pairwise(sizes) for m in (nn.Linear(*pair, bias=False), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 10, bias=False),
    )
