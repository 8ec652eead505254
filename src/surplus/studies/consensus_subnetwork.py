"""Zhi et al. 2025, "Learning a Consensus Sub-Network with Polarization Regularization and One Pass Training".

Gated networks are trained with and without the polarisation that makes all inputs agree. Beside the static network that
comes out stand the same network with all blocks, one with as many blocks at random trained by the same recipe, and the
full one with as many blocks taken out at random after training.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from surplus.pruning.structured.consensus import Consensus, NoConsensus, frozen, gate_statistics, standing, static_task
from surplus.pruning.structured.smaller import smaller_task
from surplus.space import generator
from surplus.stats import Interval
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import Check, Row, Verdict, above, arm, beats, over_seeds, two_stderr, within
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import Run

PAPER = "Zhi, Babbar, Liu, Sun, Silavong, Shi & Moran 2025, arXiv 2302.10798"
ACCURACY = "test accuracy"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
WITH, WITHOUT = "polarised", "not polarised"

SAME = Claim(
    "static-equals-dynamic",
    "After polarisation the gates can be frozen without a loss; without polarisation freezing them costs accuracy.",
    "Zhi et al. 2025, abstract (one pass of training, no fine-tuning)",
    "Test accuracy, mean +- 2 SE over seeds, paired: polarised, static - gated within [-0.005, 0.005]; not polarised,"
    " gated - static > 2 SE.",
    EVERYWHERE,
)
BUDGET = Claim(
    "activity-is-met",
    "The share of blocks that stays is the one that was asked for, up to one block.",
    "Zhi et al. 2025, abstract (user-chosen sparsity)",
    "|share of blocks in the static network - wanted share|: its 95% interval over seeds below one block's share.",
    EVERYWHERE,
)
AGREE = Claim(
    "inputs-agree",
    "Polarisation makes all inputs agree on the gates; without it they do not.",
    "Zhi et al. 2025, abstract (consensus); the thresholds are ours",
    "Consensus rate over the training set, 95% interval over seeds: above 0.99 with polarisation, below 0.95 without.",
    EVERYWHERE,
)
IMAGES = Claim(
    "close-to-dense-on-images",
    "On CIFAR-10 the static network with 70% of the blocks is close to the full one and better than random blocks.",
    "Zhi et al. 2025, abstract (half of the connections at less than one point)",
    "ResNet-20 and ResNet-56 on CIFAR-10, wanted share 0.7: static - all blocks > -0.015 by 2 SE, and static - random"
    " blocks trained by the same recipe > 2 SE; paired by seed, for both depths.",
    ("gpu",),
)


class ConsensusProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "gated-mlp"
    options: dict[str, Any] = Field(default={"width": 64, "blocks": 8})
    activity: float = 0.5
    """The share of blocks that shall stay."""
    act: float = 3.0
    """Weight of the distance from it."""
    pol: float = 1.0
    """Weight of the polarisation at its height."""
    depths: tuple[int, ...] = (20, 56)
    """Of the residual networks on images."""
    recipe: Recipe = Recipe(lr=0.1, weight_decay=5e-4, batch_size=128, duration=Duration("30ep"))


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": ConsensusProtocol(
        seeds=2,
        options={"width": 16, "blocks": 4},
        recipe=Recipe(lr=0.1, weight_decay=5e-4, batch_size=128, duration=Duration("6ep")),
    ),
    "laptop": ConsensusProtocol(seeds=5),
    "gpu": ConsensusProtocol(
        seeds=5,
        data="cifar10",
        network="gated-resnet",
        options={"depth": 20},
        activity=0.7,
        recipe=Recipe(
            lr=0.1,
            weight_decay=5e-4,
            batch_size=128,
            duration=Duration("150ep"),
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


@study(
    slug="consensus-subnetwork",
    paper=PAPER,
    title="Learning a Consensus Sub-Network with Polarization Regularization and One Pass Training",
    claims=(SAME, BUDGET, AGREE, IMAGES),
    protocols=PROTOCOLS,
)
def consensus_study(claim: Claim, bench: Bench[ConsensusProtocol]) -> Measured:
    """Gates that are pushed to agree: may they be frozen, and what is left?"""
    tests = {SAME: static_equals_dynamic, BUDGET: activity_is_met, AGREE: inputs_agree, IMAGES: close_to_dense}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def static_equals_dynamic(bench: Bench[ConsensusProtocol]) -> Measured:
    """Accuracy before and after the gates are frozen, beside the controls."""
    found = {name: [_trained(bench, seed, name) for seed in bench.seeds] for name in (WITH, WITHOUT)}
    static, gated = _both(found[WITH])
    interval = two_stderr(static, gated)
    verdict = within(interval, -0.005, 0.005)
    near = Check(f"{WITH}: static - gated", ACCURACY, "within 0.005", interval, verdict)
    loose, free = _both(found[WITHOUT])
    worse = beats(f"{WITHOUT}: gated", "static", ACCURACY, free, loose)
    others = controls(bench, bench.protocol.options)
    rows = [
        *(beats(f"{WITH}, static", name, ACCURACY, static, values).detail() for name, values in others.items()),
        arm(f"{WITH}, static", ACCURACY, static),
        arm(f"{WITH}, gated", ACCURACY, gated),
        arm(f"{WITHOUT}, static", ACCURACY, loose),
        arm(f"{WITHOUT}, gated", ACCURACY, free),
        *(arm(name, ACCURACY, values) for name, values in others.items()),
    ]
    return decide(SAME, [near, worse], rows)


def activity_is_met(bench: Bench[ConsensusProtocol]) -> Measured:
    """Blocks that stay against blocks that were to stay."""
    wanted, rows = bench.protocol.activity, list[Row]()
    for name in (WITH, WITHOUT):
        shares = [_trained(bench, seed, name).share for seed in bench.seeds]
        rows.append(arm(name, "share of blocks", shares))
    off = over_seeds([abs(_trained(bench, seed, WITH).share - wanted) for seed in bench.seeds])
    one = 1 / len(_trained(bench, 0, WITH).kept)
    check = Check(f"{WITH}: |share - wanted|", "share of blocks", f"< {one:.4g}", off, below(off, one))
    return decide(BUDGET, [check], rows)


def inputs_agree(bench: Bench[ConsensusProtocol]) -> Measured:
    """Consensus rates."""
    rates = {
        name: over_seeds([_trained(bench, seed, name).consensus for seed in bench.seeds]) for name in (WITH, WITHOUT)
    }
    checks = [
        Check(WITH, "consensus rate", "> 0.99", rates[WITH], above(rates[WITH], 0.99)),
        Check(WITHOUT, "consensus rate", "< 0.95", rates[WITHOUT], below(rates[WITHOUT], 0.95)),
    ]
    return decide(AGREE, checks)


def close_to_dense(bench: Bench[ConsensusProtocol]) -> Measured:
    """Residual networks on images."""
    checks, rows = list[Check](), list[Row]()
    for depth in bench.protocol.depths:
        options = {**bench.protocol.options, "depth": depth}
        static, _ = _both([_trained(bench, seed, WITH, options) for seed in bench.seeds])
        others = controls(bench, options)
        gap = two_stderr(static, others["all blocks"])
        dense = Check(f"{WITH} - all blocks", ACCURACY, "> -0.015", gap, above(gap, -0.015), {"depth": depth})
        checks += [dense, beats(WITH, "random blocks", ACCURACY, static, others["random blocks"], depth=depth)]
        rows += [arm(f"{name}, depth {depth}", ACCURACY, values) for name, values in {WITH: static, **others}.items()]
    return decide(IMAGES, checks, rows)


def below(interval: Interval, threshold: float) -> Verdict:
    """Whether the quantity lies below the threshold."""
    return above(Interval(-interval.value, -interval.high, -interval.low, interval.level, interval.repeats), -threshold)


# ---- what is trained ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """One gated network and what is left of it."""

    gated: float
    """Test accuracy with gates that see the input."""
    static: float
    """Test accuracy of the static network."""
    kept: Tensor
    """(units,) the blocks that stay."""
    consensus: float

    @property
    def share(self) -> float:
        """Share of the gated blocks that stays."""
        return float(self.kept.double().mean())


def controls(bench: Bench[ConsensusProtocol], options: dict[str, Any]) -> dict[str, list[float]]:
    """Accuracy per seed without gates: all blocks; as many as the polarised network has, at random before or after."""
    arms: dict[str, list[float]] = {"all blocks": [], "random blocks": [], "random blocks, cut after training": []}
    for seed in bench.seeds:
        task, kept = _task(bench, seed, options), _trained(bench, seed, WITH, options).kept
        order = torch.randperm(len(kept), generator=generator(seed, "study", "random blocks"))
        chance = torch.zeros(len(kept), dtype=torch.bool).index_fill(0, order[: int(kept.sum())], True)
        start = task.space.init(seed)
        whole = _from(bench, *static_task(task, start, torch.ones_like(kept)), seed)
        arms["all blocks"].append(_accuracy(bench, whole))
        arms["random blocks"].append(_accuracy(bench, _from(bench, *static_task(task, start, chance), seed)))
        cut = standing(*_without(whole, _units(task), chance), seed, **bench.options)
        arms["random blocks, cut after training"].append(_accuracy(bench, bench.noted(cut)))
    return arms


def _trained(bench: Bench[ConsensusProtocol], seed: int, name: str, options: dict[str, Any] | None = None) -> Found:
    p = bench.protocol
    task = _task(bench, seed, options or p.options)
    rule = Consensus((1.0,) * sum(_units(task)), p.activity, p.act, p.pol if name == WITH else 0.0)
    run = bench.fit(task, seeds=[seed], rule=rule)
    found = gate_statistics(task, run.theta[0].to(bench.device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoConsensus)  # what is measured here
        static = bench.noted(frozen(run, 0, **bench.options))
    return Found(_accuracy(bench, run), _accuracy(bench, static), found.kept, found.consensus)


def _task(bench: Bench[ConsensusProtocol], seed: int, options: dict[str, Any]) -> Task:
    p = bench.protocol
    return task_from(splits(p.data, seed), p.network, recipe=p.recipe, **options)


def _units(task: Task) -> list[int]:
    """Gates of each block."""
    module: Any = task.space.module
    return list(module.units)


def _from(bench: Bench[ConsensusProtocol], task: Task, theta: Tensor, seed: int) -> Run:
    return bench.fit(task, seeds=[seed], start=theta[None])


def _without(run: Run, units: Sequence[int], kept: Tensor) -> tuple[Task, Tensor]:
    """A trained network without gates, cut down to the blocks that have no unit in `units`, or one that is kept."""
    module: Any = run.task.space.write(run.theta[0])
    wanted = iter(kept.tolist())
    stays = [not unit or next(wanted) for unit in units]
    module.blocks = nn.ModuleList([block for block, stay in zip(module.blocks, stays, strict=True) if stay])
    return smaller_task(run.task, module)


def _accuracy(bench: Bench[ConsensusProtocol], run: Run) -> float:
    return float(bench.accuracy(run))


def _both(found: Sequence[Found]) -> tuple[list[float], list[float]]:
    """Static and gated accuracies."""
    return [f.static for f in found], [f.gated for f in found]
