"""Guo, Zhao & Bai 2022, "DeepCore": the classic rules for choosing a subset, each as it was published, on equal terms.

A network trains on everything for a few epochs; rules choose a share of the examples from its scores, features and
last-layer gradients; a new network trains from scratch on the choice, for the same number of steps at every size. All
rules choose class by class, the random one too, which is always a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from surplus.examples import aum, el2n_from_logits, forgetting, herding_order, score, select
from surplus.examples.rules.weighted import Weighted, normalised
from surplus.examples.scores.uncertainty import entropy
from surplus.examples.selections.craig import craig_weights
from surplus.examples.selections.grad_match import grad_match_weights
from surplus.space import generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid, need_matplotlib, plain
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, exactly, exceeds, not_above
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training.fitting import Execution
from surplus.training.predict import features

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = "Guo, Zhao & Bai 2022, arXiv 2204.08499"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
HARD_FIRST, COVERING = ("EL2N", "forgetting", "entropy"), ("facility-location", "graph-cut")

SMALL = Claim(
    "covering-wins-at-small-budgets",
    "With little kept, the hardest examples teach less than random ones, and those that stand for all teach more.",
    "Guo et al. 2022, table 1",
    "Test accuracy at 1% kept (digits: 2%): random - rule > 2 SE for EL2N, forgetting and entropy, and rule - random"
    " > 2 SE for facility location and graph cut, paired by seed (gpu: at 10% kept, EL2N and graph cut only).",
    EVERYWHERE,
)
HERDING = Claim(
    "herding-holds-the-mean",
    "Herding keeps the mean of the features far better than chance; taking the farthest, as DeepCore does, worse.",
    "Welling 2009; Guo et al. 2022, code",
    "Distance of the mean feature of the 1% kept (digits: 2%, gpu: 10%) from that of all: random / herding above 10 by"
    " the 95% interval over seeds, and reversed - random > 2 SE, paired by seed.",
    EVERYWHERE,
)
CCS = Claim(
    "coverage-beats-plain-hardness",
    "A sample over all degrees of hardness but the worst teaches more than the hardest, and no less than chance.",
    "Zheng et al. 2023, arXiv 2210.15809, table 1",
    "Test accuracy at 10% kept, by AUM, share 0.3 cut off: CCS - hardest > 2 SE, and random - CCS not above 0 by 2 SE,"
    " paired by seed.",
    EVERYWHERE,
)
PARITY = Claim(
    "deepcore-is-reproduced",
    'With compat="deepcore" the rules pick what DeepCore\'s code picks.',
    "Guo et al. 2022, code",
    "On ten stored points, 4 kept: each of nine rules agrees with the stored picks of that code's formulas in 10 of 10"
    " points.",
    EVERYWHERE,
)

POINTS = """
     1.84  0.52 -1.71   0.30 0.16 0.54
    -1.70  2.02 -0.27   0.26 0.22 0.52
    -0.13 -1.44  0.39   0.48 0.48 0.04
    -0.02 -1.35 -0.73   0.10 0.06 0.84
     0.99 -0.42 -0.56   0.71 0.07 0.22
     0.78 -0.26 -0.73   0.75 0.17 0.08
     1.70 -0.18  1.92   0.17 0.26 0.57
     0.29  0.23 -0.06   0.03 0.03 0.94
    -0.15  0.90  0.55   0.43 0.45 0.12
    -1.64 -1.82 -0.21   0.35 0.34 0.31
"""
"""Features and predictions of ten points, whose labels are 0, 1, 2, 0, 1, ..."""
PICKS: dict[str, tuple[int, ...]] = {
    "herding": (1, 2, 8, 9),
    "entropy": (3, 4, 5, 7),
    "cal": (0, 1, 6, 9),
    "glister": (0, 1, 3, 9),
    "craig": (0, 1, 7, 9),
    "grad-match": (0, 1, 3, 9),
    "graph-cut": (1, 7, 8, 9),
    "facility-location": (3, 5, 7, 8),
    "log-determinant": (0, 3, 7, 9),
}
"""What the formulas of DeepCore's code keep of them, worked out in plain numpy (see the tests)."""


class CoresetProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "digits"
    """"digits", or a folder below $SURPLUS_DATA."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (128, 128)})
    """Options of the network."""
    nets: int = 3
    """Networks that look at everything; scores are averaged over them, features are those of the first."""
    looks: int = 3
    """Epochs that they train."""
    shares: tuple[float, ...] = (0.005, 0.01, 0.05)
    """Shares of the data kept, for the curves."""
    rules: tuple[str, ...] = ("EL2N", "forgetting", "entropy", "herding", "k-center", *COVERING)
    """Rules beside random whose curves are drawn."""
    once: tuple[str, ...] = ("moderate", "contextual-diversity", "craig", "grad-match", "glister")
    """Rules that are tried at the share of the first claim only."""
    hard_first: tuple[str, ...] = HARD_FIRST
    """Rules that the first claim expects below random."""
    covering: tuple[str, ...] = COVERING
    """Rules that the first claim expects above random."""
    judged: float = 0.01
    """Share of the first two claims."""
    coverage_share: float = 0.1
    """Share of the third claim."""
    steps: int = 1000
    """Steps of training on a choice, whatever its size."""
    execution: Execution = "auto"
    """How replicas are trained, see `fit`."""
    jobs: int | None = None
    """Processes that train; as many as there are processors when None."""
    recipe: Recipe = Recipe(lr=0.05, nesterov=True, weight_decay=5e-4, batch_size=64)
    """Training; the rate falls along a cosine when training on a choice, and stays while looking."""


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": CoresetProtocol(
        seeds=2,
        options={"widths": (32,)},
        nets=2,
        shares=(0.02,),
        once=("craig",),
        judged=0.02,
        steps=40,
        execution="stacked",
        jobs=1,
    ),
    "laptop": CoresetProtocol(seeds=5, data="mnist"),
    "gpu": CoresetProtocol(
        seeds=3,
        data="cifar10",
        network="resnet-18",
        options={},
        nets=5,
        looks=10,
        shares=(0.1,),
        rules=("EL2N", "graph-cut", "facility-location"),
        once=(),
        hard_first=("EL2N",),
        covering=("graph-cut",),
        judged=0.1,
        steps=4000,
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


def draw(result: StudyResult) -> Figure:
    """Accuracy against the share kept, a curve per rule; then a panel of dots for each of the other claims."""
    first, *others = result.measured
    sheet, axes = grid(1 + sum(bool(m.rows) for m in others))
    curves: dict[str, list[Row]] = {}
    for row in plain(first.rows):
        curves.setdefault(row["row"], []).append(row)
    colours = iter(need_matplotlib().colormaps["tab20"].colors)
    for name, rows in curves.items():
        rows = sorted(rows, key=lambda row: float(row["keep"]))
        x = [100 * row["keep"] for row in rows]
        ink = {"color": "black", "lw": 1.8} if name == "random" else {"color": next(colours), "lw": 0.9}
        (line,) = axes[0].plot(x, [row["value"] for row in rows], "o-", ms=2.5, label=name, **ink)
        axes[0].fill_between(
            x, [row["low"] for row in rows], [row["high"] for row in rows], color=line.get_color(), alpha=0.08, lw=0
        )
    values = [row["value"] for rows in curves.values() for row in rows]
    axes[0].set_ylim(min(values) - 0.05, max(values) + 0.05)
    axes[0].set_xscale("log")
    shares = sorted({100 * row["keep"] for rows in curves.values() for row in rows})
    axes[0].set_xticks(shares, [f"{share:g}" for share in shares])
    axes[0].set_xticks([], minor=True)
    axes[0].set_xlabel("share kept, %", fontsize=7)
    axes[0].set_ylabel("test accuracy", fontsize=7)
    axes[0].tick_params(labelsize=7)
    axes[0].legend(fontsize=5, ncols=2, frameon=False)
    axes[0].set_title(f"{first.claim.slug}: {first.verdict}", fontsize=7, color=COLOURS[first.verdict], loc="left")
    for panel, m in zip(axes[1:], (m for m in others if m.rows), strict=False):
        dots(panel, plain(m.rows))
        panel.set_title(f"{m.claim.slug}: {m.verdict}", fontsize=7, color=COLOURS[m.verdict], loc="left")
        panel.set_xlabel(plain(m.rows)[0]["quantity"], fontsize=7)
    return sheet


@study(
    slug="coreset-baselines",
    paper=PAPER,
    title="DeepCore: A Comprehensive Library for Coreset Selection in Deep Learning",
    claims=(SMALL, HERDING, CCS, PARITY),
    protocols=PROTOCOLS,
    draw=draw,
)
def coreset_baselines(claim: Claim, bench: Bench[CoresetProtocol]) -> Measured:
    """The classic selection rules side by side: which of them beat chance, and does DeepCore's code have them right?"""
    tests = {SMALL: small_budgets, HERDING: herding_and_its_reversal, CCS: coverage, PARITY: parity}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def small_budgets(bench: Bench[CoresetProtocol]) -> Measured:
    """Train on little, chosen by every rule."""
    p, table = bench.protocol, _Table()
    for seed in bench.seeds:
        seen = look(bench, seed)
        for keep in p.shares:
            rules = ("random", *p.rules, *(p.once if keep == p.judged else ()))
            table.add(keep, train_on(bench, seen, {rule: choose(seen, rule, keep, seed) for rule in rules}, seed))
    checks = [table.beats("random", rule, p.judged) for rule in p.hard_first]
    checks += [table.beats(rule, "random", p.judged) for rule in p.covering]
    return decide(SMALL, checks, table.rows())


def herding_and_its_reversal(bench: Bench[CoresetProtocol]) -> Measured:
    """Distance of the mean of the kept features from the mean of all; nothing is trained but the network that looks."""
    quantity, keep = "distance of the means", bench.protocol.judged
    found: dict[str, list[float]] = {"herding": [], "random": [], "reversed herding": []}
    for seed in bench.seeds:
        h = look(bench, seed).embeddings.double()
        size = round(keep * len(h))
        picks = {
            "herding": herding_order(h, size),
            "random": torch.randperm(len(h), generator=generator(seed, "study", "random subset"))[:size],
            "reversed herding": herding_order(h, size, farthest=True),
        }
        for name, rows in picks.items():
            found[name].append(float((h[rows].mean(0) - h.mean(0)).norm()))
    ratio = [a / b for a, b in zip(found["random"], found["herding"], strict=True)]
    checks = [
        exceeds("random / herding - 10", "ratio of the distances", [r - 10 for r in ratio], 0),
        beats("reversed herding", "random", quantity, found["reversed herding"], found["random"], keep=keep),
    ]
    return decide(HERDING, checks, [arm(name, quantity, values, keep=keep) for name, values in found.items()])


def coverage(bench: Bench[CoresetProtocol]) -> Measured:
    """Train on a tenth, chosen by AUM in two ways and at random."""
    table, keep = _Table(), bench.protocol.coverage_share
    for seed in bench.seeds:
        seen = look(bench, seed)
        subsets = {rule: choose(seen, rule, keep, seed) for rule in ("random", "CCS", "hardest by AUM")}
        table.add(keep, train_on(bench, seen, subsets, seed))
    short = table.beats("random", "CCS", keep)
    checks = [
        table.beats("CCS", "hardest by AUM", keep),
        replace(short, needs="not > 2 SE", verdict=not_above(short.interval)),
    ]
    return decide(CCS, checks, table.rows())


def parity(bench: Bench[CoresetProtocol]) -> Measured:
    """Picks on ten stored points; nothing is trained."""
    quantity, rows = "points of 10 that agree", []
    agreed = []
    for name, stored in PICKS.items():
        kept = deepcore_pick(name, len(stored))
        agreed.append(sum((i in stored) == bool(kept[i]) for i in range(10)))
        rows.append(arm(name, quantity, [agreed[-1]]))
    chance = [
        sum((i in stored) == bool(kept[i]) for i in range(10))
        for seed in range(100)
        for stored in PICKS.values()
        for kept in [select("random", torch.zeros(10), len(stored), generator=generator(seed, "study", "parity"))]
    ]
    least = exactly(float(min(agreed)), len(agreed))
    check = Check("all rules - 10", quantity, "= 10", least, "holds" if above(least, 9.5) == "holds" else "fails")
    return decide(PARITY, [check], [*rows, arm("random", quantity, chance)])


def deepcore_pick(name: str, keep: int) -> Tensor:
    """What a rule or score keeps of the ten stored points under compat="deepcore": (10,) bool."""
    h, p = torch.tensor([float(x) for x in POINTS.split()], dtype=torch.float64).view(10, 6).split(3, 1)
    if name in ("entropy", "cal"):
        near = {"neighbours": 3} if name == "cal" else {}
        return select(
            "hardest", score(name, {"inputs": h, "probabilities": p[None]}, compat="deepcore", **near).mean, keep
        )
    material: dict[str, Any] = {"embeddings": h, "probabilities": p, "labels": torch.arange(10) % 3}
    return select(name, torch.zeros(10), keep, compat="deepcore", **material)


# ---- looking, choosing, training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What the networks that trained on everything saw of it."""

    task: Task
    scores: Mapping[str, Tensor]
    """(n,) each, high = hard."""
    embeddings: Tensor
    """(n, d)"""
    probabilities: Tensor
    """(n, classes) of the same network"""

    @property
    def labels(self) -> Tensor:
        """(n,) integers."""
        return self.task.train.targets

    @property
    def material(self) -> dict[str, Any]:
        """What rules look at."""
        return {"labels": self.labels, "embeddings": self.embeddings, "probabilities": self.probabilities}


def look(bench: Bench[CoresetProtocol], seed: int) -> Seen:
    """Train a few networks on everything for a few epochs."""
    p = bench.protocol
    task = task_from(splits(p.data, seed), p.network, recipe=p.recipe, **p.options)
    nets = [1000 * (seed + 1) + k for k in range(p.nets)]
    recipe = p.recipe.model_copy(update={"duration": Duration(f"{p.looks}ep"), "schedule": "constant"})
    run = bench.fit(task, seeds=nets, recipe=recipe, record=True, execution=p.execution, jobs=p.jobs)
    logits = bench.outputs(run, "train")
    h = features(task.to(bench.device), run.theta[0].to(bench.device), task.train.to(bench.device)).cpu()
    scores = {
        "EL2N": el2n_from_logits(logits, task.train.targets).mean,
        "forgetting": forgetting(run.record["correct"]).mean,
        "entropy": entropy(logits.softmax(-1)).mean,
        "hardest by AUM": -aum(run.record["margin"]).mean,
    }
    return Seen(task, scores, h, logits[0].softmax(-1))


def choose(seen: Seen, rule: str, share: float, seed: int) -> Tensor:
    """What a rule keeps, class by class: (n,) bool."""
    n = len(seen.labels)
    common: dict[str, Any] = {"generator": generator(seed, "study", "random subset"), "by_class": True}
    if rule in seen.scores:
        return select("hardest", seen.scores[rule], round(share * n), labels=seen.labels, **common)
    if rule == "CCS":
        hard = seen.scores["hardest by AUM"]
        return select("ccs", hard, round(share * n), labels=seen.labels, beta=0.3, **common)
    return select(rule, torch.zeros(n), round(share * n), **seen.material, **common)


WEIGHTS: dict[str, Callable[..., Tensor]] = {"craig": craig_weights, "grad-match": grad_match_weights}


def train_on(bench: Bench[CoresetProtocol], seen: Seen, subsets: Mapping[str, Tensor], seed: int) -> dict[str, float]:
    """Test accuracy after training on each subset (n,), from one initial point; CRAIG and GradMatch with weights."""
    p = bench.protocol
    recipe = p.recipe.model_copy(update={"duration": Duration(f"{p.steps}it"), "schedule": "cosine"})
    accuracy: dict[str, float] = {}
    for weighted in (False, True):
        arms = {name: kept for name, kept in subsets.items() if (name in WEIGHTS) == weighted}
        if not arms:
            continue
        weights = [
            normalised(WEIGHTS[name](kept, **seen.material, by_class=True), kept)
            for name, kept in arms.items()
            if weighted
        ]
        rule = Weighted(torch.stack(weights)) if weighted else None
        options: dict[str, Any] = {"recipe": recipe, "rule": rule, "execution": p.execution, "jobs": p.jobs}
        run = bench.fit(seen.task, seeds=[seed] * len(arms), subsets=list(arms.values()), **options)
        accuracy |= dict(zip(arms, bench.accuracy(run).tolist(), strict=True))
    return accuracy


class _Table:
    """Accuracy per share and rule, a number per seed."""

    def __init__(self) -> None:
        self.arms: dict[tuple[float, str], list[float]] = {}

    def add(self, keep: float, accuracies: Mapping[str, float]) -> None:
        """One more seed."""
        for name, value in accuracies.items():
            self.arms.setdefault((keep, name), []).append(value)

    def beats(self, first: str, second: str, keep: float) -> Check:
        """The condition that one rule exceeds another by more than two standard errors."""
        a, b = self.arms[keep, first], self.arms[keep, second]
        return beats(first, second, "test accuracy", a, b, keep=keep)

    def rows(self) -> list[Row]:
        """A line per share and rule."""
        return [arm(name, "test accuracy", v, keep=keep) for (keep, name), v in self.arms.items()]
