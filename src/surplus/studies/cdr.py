"""Xia et al. 2021, "Robust Early-learning: Hindering the Memorization of Noisy Labels": CDR.

At every step only the weights with the largest |gradient x weight| follow the (damped) gradient, the others decay. CDR
is compared with plain training on the same noisy labels, at the last epoch and at that of best accuracy on held-out
noisy labels. Two controls share its budget: as many weights drawn at random, and plain training at the damped rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.examples.rules.cdr import CDR, critical_weights
from surplus.pruning.scoring import first_gradient
from surplus.space import generator
from surplus.stats import Interval, paired
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import flipped, splits
from surplus.studies.figures import COLOURS, dots, grid, plain
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Verdict, arm, beats, exactly, not_above, table_row
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import Moment, Rule, Run, evaluate

PAPER = "Xia, Liu, Han, Gong, Wang, Ge & Chang 2021, ICLR (OpenReview Eql5b1_hTE4)"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
LAST, BEST = "test accuracy, last epoch", "test accuracy, best epoch"
MEMORIZED, JACCARD = "training accuracy, flipped labels", "Jaccard index"

LATE = Claim(
    "cdr-resists-memorization",
    "Under label noise, CDR memorizes fewer wrong labels than plain training and tests better after the last epoch.",
    PAPER,
    "40% symmetric noise (digits): test accuracy at the last epoch, CDR - plain > 2 SE, and training accuracy on"
    " flipped labels, plain - CDR > 2 SE, paired by seed. CDR as in the authors' code.",
    EVERYWHERE,
)
EARLY = Claim(
    "nothing-is-lost-at-the-best-epoch",
    "Stopped at the epoch of best accuracy on held-out noisy labels, CDR is no worse than plain training.",
    PAPER,
    "Test accuracy at the epoch of best validation accuracy (10% of the noisy data): plain - CDR not above 0 by more"
    " than 1 SE, paired by seed.",
    EVERYWHERE,
)
PLAIN = Claim(
    "without-noise-it-is-sgd",
    "With a noise rate of 0 all weights are critical and the factor is 1, so that CDR is SGD.",
    PAPER,
    "Largest difference between the final weights under CDR(0) and under plain training, both modes, all seeds: 0"
    " exactly.",
    EVERYWHERE,
)
OVERLAP = Claim(
    "critical-sets-overlap-more-early",
    "The critical weights of one step are more those of the next early in training than late (exploratory).",
    "Not a claim of the paper; its mechanism suggests it",
    "Jaccard index of the critical sets of consecutive steps on disjoint batches (CDR): first two steps - last two > 2"
    " SE, paired by seed.",
    EVERYWHERE,
)


@dataclass(frozen=True)
class RandomWeights(Rule):
    """The control: as many weights as CDR moves, drawn anew at each step, follow the gradient as damped."""

    noise: float

    def gradient(self, now: Moment, z: Tensor, grad: Tensor) -> Tensor:
        """Damped for the weights drawn, zero for others; whole for biases and norms."""
        for row, seed in zip(grad, now.seeds, strict=True):
            chance = generator(seed, "random weights", now.step, device=grad.device)
            draw = torch.rand(grad.shape[1], generator=chance, device=grad.device)
            for block in now.task.space.blocks:
                if len(block.shape) >= 2:
                    row[block.slice] *= (draw[block.slice] >= self.noise) * (1 - self.noise)
        return grad


class CdrProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (256, 256)})
    """Options of the network."""
    noise: float = 0.4
    """Share of flipped labels, which CDR is told."""
    validation: float = 0.1
    """Share of the noisy training data that chooses the epoch."""
    recipe: Recipe = Recipe(
        lr=0.01, momentum=0.9, weight_decay=1e-3, batch_size=32, duration=Duration("50ep"), schedule="constant"
    )
    """As in the authors' code for MNIST, but for the length and without drops of the rate."""
    l1: float = 1e-3
    """Decay of the paper's mode."""
    sample: int | None = None
    """Scores that the threshold is read off; all when None."""
    arms: tuple[str, ...] = ("plain", "CDR", "CDR, paper's mode", "random weights", "plain, damped rate")
    """What is trained on the noisy labels."""
    looks: tuple[float, ...] = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
    """Epochs at which critical sets of consecutive steps are compared; the last is the end."""
    batches: int = 8
    """Pairs of batches per look."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": CdrProtocol(
        seeds=2,
        options={"widths": (32,)},
        recipe=Recipe(
            lr=0.02, momentum=0.9, weight_decay=1e-3, batch_size=64, duration=Duration("6ep"), schedule="constant"
        ),
        looks=(0.0, 1.0, 6.0),
        batches=2,
    ),
    "laptop": CdrProtocol(seeds=5),
    "gpu": CdrProtocol(
        seeds=3,
        data="cifar10",
        network="resnet-18",
        options={},
        recipe=Recipe(
            lr=0.01,
            momentum=0.9,
            weight_decay=1e-3,
            batch_size=64,
            duration=Duration("30ep"),
            schedule="step",
            milestones=(Duration("6ep"), Duration("12ep")),
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
        sample=200_000,
        arms=("plain", "CDR", "random weights"),
        looks=(0.0, 1.0, 5.0, 30.0),
        batches=2,
    ),
}


def draw(result: StudyResult) -> Any:
    """Test accuracy and memorization at the end, test accuracy at the best epoch, overlap of critical sets by epoch."""
    sheet, panels = grid(4)
    late, early, _, overlapping = result.measured
    for panel, m, quantity in zip(panels, (late, late, early), (LAST, MEMORIZED, BEST), strict=False):
        dots(panel, [r for r in plain(m.rows) if r["quantity"] == quantity])
        panel.set_xlabel(quantity, fontsize=7)
    steps = [r for r in plain(overlapping.rows) if r["quantity"] == JACCARD and "epoch" in r]
    for name in ("CDR", "plain"):
        points = [r for r in steps if r["row"].startswith(f"{name},")]
        panels[3].plot([r["epoch"] for r in points], [r["value"] for r in points], marker="o", ms=3, lw=1, label=name)
    for r in (r for r in overlapping.rows if r["row"] == "random sets"):
        panels[3].axhline(r["value"], color=COLOURS["undecided"], lw=0.8, label=r["row"])
    panels[3].set_xlabel("epoch", fontsize=7)
    panels[3].set_ylabel(f"{JACCARD}, consecutive steps", fontsize=7)
    panels[3].legend(fontsize=6, frameon=False)
    panels[3].tick_params(labelsize=7)
    for panel, m in zip(panels, (late, late, early, overlapping), strict=True):
        panel.set_title(f"{m.claim.slug}: {m.verdict}", fontsize=8, color=COLOURS[m.verdict], loc="left")
    return sheet


@study(
    slug="cdr",
    paper=PAPER,
    title="Robust Early-learning: Hindering the Memorization of Noisy Labels",
    claims=(LATE, EARLY, PLAIN, OVERLAP),
    protocols=PROTOCOLS,
    draw=draw,
)
def cdr_study(claim: Claim, bench: Bench[CdrProtocol]) -> Measured:
    """Does moving only critical weights keep a network from memorizing wrong labels?"""
    tests = {LATE: last_epoch, EARLY: best_epoch, PLAIN: without_noise, OVERLAP: overlap}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def last_epoch(bench: Bench[CdrProtocol]) -> Measured:
    """Test accuracy and memorization after equal steps."""
    found: dict[str, dict[str, list[float]]] = {LAST: {}, MEMORIZED: {}, "training accuracy, right labels": {}}
    for seed in bench.seeds:
        task, wrong = noisy(bench, seed)
        for name in bench.protocol.arms:
            run = trained(bench, task, name, seed)
            hits = (bench.outputs(run, "train")[0].argmax(-1) == task.train.targets).double()
            numbers = (float(bench.accuracy(run)), float(hits[wrong].mean()), float(hits[~wrong].mean()))
            for quantity, value in zip(found, numbers, strict=True):
                found[quantity].setdefault(name, []).append(value)
    test, memory = found[LAST], found[MEMORIZED]
    checks = [
        beats("CDR", "plain", LAST, test["CDR"], test["plain"]),
        beats("plain", "CDR", MEMORIZED, memory["plain"], memory["CDR"]),
    ]
    controls = [name for name in ("random weights", "plain, damped rate") if name in test]
    details = [beats("CDR", name, LAST, test["CDR"], test[name]).detail() for name in controls]
    rows = [arm(name, quantity, v) for quantity, arms in found.items() for name, v in arms.items()]
    note = "The controls are no part of the criterion: they tell whether the choice of weights does it, or the damping."
    return decide(LATE, checks, [*rows, *details], note)


def best_epoch(bench: Bench[CdrProtocol]) -> Measured:
    """Test accuracy at the epoch that the noisy validation set chooses."""
    tests: dict[str, list[float]] = {}
    chosen: dict[str, list[float]] = {}
    for seed in bench.seeds:
        task, _ = noisy(bench, seed)
        for name in bench.protocol.arms:
            run = trained(bench, task, name, seed)
            epoch, accuracy = stopped(bench, run)
            tests.setdefault(name, []).append(accuracy)
            chosen.setdefault(name, []).append(epoch)
    c = paired(tests["plain"], tests["CDR"])
    one = Interval(c.difference, c.difference - c.stderr, c.difference + c.stderr, 0.68, c.seeds)
    check = Check(
        "plain - CDR", BEST, "not > 1 SE", one, not_above(one), {"student_low": c.low, "student_high": c.high}
    )
    rows = [arm(n, BEST, v) for n, v in tests.items()] + [arm(n, "epoch chosen", v) for n, v in chosen.items()]
    return decide(EARLY, [check], rows, "No loss by 1 SE is no proof of none: the rows say how large it may be.")


def without_noise(bench: Bench[CdrProtocol]) -> Measured:
    """CDR at noise 0 against plain training, weight by weight."""
    checks = []
    for mode, decay in (("code", bench.protocol.recipe.weight_decay), ("paper", 0.0)):
        recipe = bench.protocol.recipe.model_copy(update={"duration": Duration("2ep"), "weight_decay": decay})
        rule, apart = CDR(0.0, "code" if mode == "code" else "paper", l1=0.0), []
        for seed in bench.seeds:
            task, _ = noisy(bench, seed)
            pair = [bench.fit(task, seeds=[seed], recipe=recipe, rule=r).theta for r in (rule, None)]
            apart.append(float((pair[0] - pair[1]).abs().max()))
        largest = exactly(max(apart), len(apart))
        verdict: Verdict = "holds" if max(apart) == 0 else "fails"
        checks.append(Check(f"CDR(0) - plain, {mode}'s mode", "largest difference", "= 0", largest, verdict))
    return decide(PLAIN, checks, note="Two epochs of training.")


def overlap(bench: Bench[CdrProtocol]) -> Measured:
    """Jaccard index of critical sets from one step to the next, along training by CDR and by plain SGD."""
    p = bench.protocol
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for seed in bench.seeds:
        task, _ = noisy(bench, seed)
        for name in ("CDR", "plain"):
            run = trained(bench, task, name, seed)
            for look in p.looks:
                found.setdefault((name, look), []).append(agreement(bench, run, look, seed))
    first, last = (torch.tensor(found["CDR", look])[:, 0] for look in (p.looks[0], p.looks[-1]))
    check = beats("CDR, first steps", "last steps", JACCARD, first, last)
    rows = []
    for (name, look), values in found.items():
        jaccard, share = torch.tensor(values).unbind(1)
        rows.append(arm(f"{name}, epoch {look:g}", JACCARD, jaccard, epoch=look))
        rows.append(arm(f"{name}, epoch {look:g}", "share of critical weights", share, epoch=look))
    keep = 1 - p.noise
    rows.append(table_row("random sets", JACCARD, exactly(keep / (2 - keep))))
    note = f"Critical: |g w| reaches the threshold of the largest {keep:.0%}; weights tied at zero may all be in."
    return decide(OVERLAP, [check], rows, note)


# ---- tasks and runs -------------------------------------------------------------------------------------------------


def noisy(bench: Bench[CdrProtocol], seed: int) -> tuple[Task, Tensor]:
    """A task with flipped labels, a tenth of them held out for validation, and which of the rest are wrong (n,)."""
    p = bench.protocol
    data, wrong = flipped(splits(p.data, seed), p.noise, seed)
    order = torch.randperm(len(data.train), generator=generator(seed, "study cdr", "validation"))
    held, kept = order[: round(p.validation * len(order))], order[round(p.validation * len(order)) :]
    data = replace(data, train=data.train[kept], validation=data.train[held])
    return task_from(data, p.network, recipe=p.recipe, **p.options), wrong[kept]


def trained(bench: Bench[CdrProtocol], task: Task, name: str, seed: int) -> Run:
    """One arm, with its weights after each epoch and at both ends of the steps that are looked at."""
    p, recipe = bench.protocol, bench.protocol.recipe
    if name == "CDR, paper's mode":
        recipe = recipe.model_copy(update={"weight_decay": 0.0})
    if name == "plain, damped rate":
        recipe = recipe.model_copy(update={"lr": recipe.lr * (1 - p.noise)})
    rules: dict[str, Rule] = {
        "CDR": CDR(p.noise, sample=p.sample),
        "CDR, paper's mode": CDR(p.noise, "paper", p.l1, p.sample),
        "random weights": RandomWeights(p.noise),
    }
    steps = [s for look in p.looks for s in consecutive(task, look)]
    return bench.fit(task, seeds=[seed], recipe=recipe, rule=rules.get(name), keep=[*ends(task), *steps])


def ends(task: Task) -> Sequence[int]:
    """Steps at the ends of the epochs."""
    per_epoch = -(-len(task.train) // task.recipe.batch_size)
    return range(per_epoch, task.recipe.duration.steps(per_epoch) + 1, per_epoch)


def consecutive(task: Task, look: float) -> tuple[int, int]:
    """Two steps that follow each other, from that epoch on; the last two at the end."""
    per_epoch = -(-len(task.train) // task.recipe.batch_size)
    step = min(round(look * per_epoch), ends(task)[-1] - 1)
    return step, step + 1


def stopped(bench: Bench[CdrProtocol], run: Run) -> tuple[int, float]:
    """The epoch (from 1) of best accuracy on the validation set, the first of equal ones, and test accuracy there."""
    task, steps = run.task, ends(run.task)
    assert task.validation is not None
    points = [run.at(step).to(bench.device) for step in steps]
    valid = torch.stack([evaluate(task, point, task.validation).metric.cpu() for point in points])
    best = int(valid[:, 0].argmax())
    return best + 1, float(evaluate(task, points[best], task.test).metric)


def agreement(bench: Bench[CdrProtocol], run: Run, look: float, seed: int) -> tuple[float, float]:
    """Jaccard index of the critical sets of two consecutive steps, each on a batch of its own, and their mean share."""
    task, p = run.task.to(bench.device), bench.protocol
    points = [run.at(step)[0].to(bench.device) for step in consecutive(run.task, look)]
    both = torch.zeros(2)
    size = p.recipe.batch_size
    for k in range(p.batches):
        rows = torch.randperm(len(task.train), generator=generator(seed, "study cdr", "batches", look, k))
        batches = (rows[:size].to(bench.device), rows[size : 2 * size].to(bench.device))
        first, second = (critical_set(task, theta, r, p) for theta, r in zip(points, batches, strict=True))
        shared, either = (first & second).sum(), (first | second).sum()
        both += torch.tensor([float(shared / either), float((first.sum() + second.sum()) / (2 * len(first)))])
    jaccard, share = (both / p.batches).tolist()
    return jaccard, share


def critical_set(task: Task, theta: Tensor, rows: Tensor, p: CdrProtocol) -> Tensor:
    """Which weights (m,) are critical at theta (P,) on these training examples."""
    batch = (task.prepare(task.train.inputs[rows]), task.train.targets[rows])
    grad, _ = first_gradient(task.space, theta, batch, train=True)
    parts = [b.slice for b in task.space.blocks if len(b.shape) >= 2]
    return torch.cat(critical_weights([theta[s] for s in parts], [grad[s] for s in parts], p.noise, p.sample))
