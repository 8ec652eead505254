"""A question of our own: are the examples and the weights that a network does not need the same surplus, or two?

Example scores and pruning are studied apart. Here they meet: which examples a pruned network forgets, whether half of
the data finds as good a ticket as all of it, and how accuracy falls when data and weights go together, with the cost
in multiply-adds of finding each point. After Hooker et al. 2019 (arXiv 1911.05248), who compare the commonest answers
of dense and of pruned networks, and Paul et al. 2022 (arXiv 2206.01278), who pre-train tickets on part of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field
from scipy.special import ndtri
from torch import Tensor

from surplus.data import Dataset, split
from surplus.examples import el2n_from_logits, forgetting, hardest
from surplus.pruning import random_mask, shuffle
from surplus.pruning.evidence.small_dense import small_dense
from surplus.pruning.evidence.training_cost import training_macs
from surplus.pruning.schedules.imp import Level, from_masks, imp, levels_from, to_density
from surplus.space import generator
from surplus.stats import Estimate, Interval, auc, bootstrap, rank_correlation
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.figures import COLOURS, dots, grid
from surplus.studies.results import Claim, Measured, Scale, StudyResult, decide
from surplus.studies.verdicts import Check, Row, Verdict, above, arm, beats, exactly, table_row, two_stderr, within
from surplus.tasks import Augment, Duration, Recipe, Task, task_from
from surplus.training import Run, predict

PAPER = "This project; after Hooker et al. 2019, arXiv 1911.05248, and Paul et al. 2022, arXiv 2206.01278"
EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
ACCURACY, DISAGREES = "test accuracy", "share of test answers unlike another dense network's"
ALL, HALF = "all data", {"random": "random half", "hardest": "hard half"}
ALSO_SEEDS = (
    "Seeds disagree on hard examples, too: the rows of other dense networks, and of the examples that tickets gain, say"
    " how much of this is the seed's doing and not pruning's. That tickets must lie above other dense networks was"
    " added after a first run, in which another seed alone passed 0.7; its interval is over examples, for these seeds."
)
AUC, RHO = "AUC: hard examples are forgotten", "rank correlation of hardness and forgetting"
_NARROW = 0.005
"""Half of the margin of the claims, by which every such comparison is read once more."""

FORGETS = Claim(
    "pruning-changes-answers",
    "A ticket's answers differ from those of an independent dense network more often than a dense network's do.",
    "a question of this project",
    "Share of test examples on which an independent dense network answers otherwise, at 5% density: ticket - dense"
    " network of the same seed > 2 SE, paired by seed.",
    EVERYWHERE,
)
HARD = Claim(
    "what-is-forgotten-is-hard",
    "The examples that a pruned network forgets are hard, more so than those that another seed forgets.",
    "a question of this project; Hooker et al. 2019 find them hard for people, too",
    "Test examples that all of several independent dense networks answer rightly, 5% density; forgotten are those that"
    " more tickets than dense networks of the same seeds answer wrongly. AUC of EL2N, early in training of still other"
    " networks, for the forgotten ones: 95% interval above 0.7; and larger than the AUC for those that more dense"
    " networks of other seeds answer wrongly: 95% interval of the difference, bootstrap over examples, above 0.",
    EVERYWHERE,
)
RANDOM_HALF = Claim(
    "half-of-the-data-finds-a-ticket",
    "A ticket found on a random half of the data is no more than one point worse than one found on all of it.",
    "a question of this project",
    "Density 10%, both trained on all data at the end: test accuracy of the ticket found on a random half - of the one"
    " found on all data, 2 SE interval paired by seed above -0.01.",
    EVERYWHERE,
)
HARD_HALF = Claim(
    "the-hard-half-finds-a-ticket",
    "A ticket found on the harder half of the data is no more than one point worse than one found on all of it.",
    "a question of this project",
    "As for the random half, with the half of highest EL2N: 2 SE interval paired by seed above -0.01.",
    EVERYWHERE,
)
ADDITIVE = Claim(
    "losses-add-up",
    "What is lost without half of the data and without nine tenths of the weights adds up, to within one point.",
    "a question of this project",
    "Test accuracy, trained and pruned on a random half or on all data: (all, dense) + (half, 10%) - (half, dense) -"
    " (all, 10%), 2 SE interval paired by seed within [-0.01, 0.01].",
    EVERYWHERE,
)


class JointProtocol(Protocol):
    """Sizes of one scale."""

    data: str = "mnist"
    """"digits", or a folder below $SURPLUS_DATA."""
    examples: int | None = 5_000
    """Training examples, class by class; all when None."""
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (100, 50)})
    exclude: tuple[str, ...] = ()
    """Layers kept whole."""
    fractions: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    """Shares of the training data."""
    densities: tuple[float, ...] = (0.5, 0.25, 0.1, 0.05, 0.02)
    """Kept shares of the weights, cut from the one before."""
    ticket: float = 0.1
    """Density of the claims on tickets, and"""
    forgetting: float = 0.05
    """of those on forgotten examples."""
    half: float = 0.5
    """Share of the data that tickets are found on."""
    rewind_step: int = 0
    nets: int = 5
    """Networks for example scores, and as many that others are compared with."""
    score_steps: int = 170
    """When EL2N is taken."""
    looks: int = 8
    """Points of training, at equal distances, for learning speed."""
    execution: str = "stacked"
    recipe: Recipe = Recipe(optimiser="adam", lr=1.2e-3, batch_size=60, duration=Duration("12ep"), schedule="constant")


PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": JointProtocol(
        seeds=2,
        data="digits",
        examples=None,
        options={"widths": (16, 8)},
        fractions=(0.5, 1.0),
        densities=(0.1, 0.05),
        nets=2,
        score_steps=20,
        looks=2,
        recipe=Recipe(optimiser="adam", lr=3e-3, batch_size=60, duration=Duration("2ep"), schedule="constant"),
    ),
    "laptop": JointProtocol(seeds=5),
    "gpu": JointProtocol(
        seeds=5,
        data="cifar10",
        examples=None,
        network="resnet-20",
        options={},
        exclude=("head",),
        rewind_step=500,
        score_steps=3910,
        execution="spread",
        recipe=Recipe(
            lr=0.1,
            weight_decay=1e-4,
            batch_size=128,
            duration=Duration("40ep"),
            schedule="step",
            milestones=(Duration("20ep"), Duration("30ep")),
            augment=Augment(shift=4, flip=True),
            precision="bfloat16",
            channels_last=True,
        ),
    ),
}


def draw(result: StudyResult) -> Any:
    """Accuracy over data and weights, over cost, and what decided the claims."""
    sheet, (plane, cost, forgotten, halves) = grid(4)
    from matplotlib.ticker import LogLocator

    of = {m.claim.slug: m for m in result.measured}
    cells = [r for r in of[ADDITIVE.slug].rows if "fraction" in r]
    fractions, densities = (sorted({r[k] for r in cells}) for k in ("fraction", "density"))
    table = {(r["fraction"], r["density"]): r for r in cells}
    values = [[table[f, d]["value"] for f in fractions] for d in densities]
    plane.pcolormesh(values, cmap="viridis", edgecolors="white", linewidth=0.5)
    middle = (max(map(max, values)) + min(map(min, values))) / 2
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            ink = "black" if value > middle else "white"
            plane.text(x + 0.5, y + 0.5, f"{100 * value:.1f}", ha="center", va="center", fontsize=6, color=ink)
    plane.set_xticks([i + 0.5 for i in range(len(fractions))], [f"{100 * f:.3g}%" for f in fractions])
    plane.set_yticks([i + 0.5 for i in range(len(densities))], [f"{100 * d:.3g}%" for d in densities])
    plane.set_xlabel("share of the data", fontsize=7)
    plane.set_ylabel("density", fontsize=7)
    for f in fractions:
        line = [table[f, d] for d in reversed(densities)]
        ends = [[abs(r["value"] - r[k]) if r[k] is not None else 0 for r in line] for k in ("low", "high")]
        cost.errorbar([r["macs"] for r in line], [r["value"] for r in line], ends, marker="o", ms=3, lw=1,
                      label=f"{100 * f:.3g}% of the data")  # fmt: skip
    cost.set_xscale("log")
    cost.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    cost.xaxis.set_major_formatter(lambda macs, _: f"{macs:.0e}".replace("e+0", "e").replace("e+", "e"))
    cost.minorticks_off()
    cost.set_xlabel("multiply-adds of training, all cuts so far", fontsize=7)
    cost.set_ylabel(ACCURACY, fontsize=7)
    cost.legend(fontsize=6, frameon=False)
    areas = [r for r in of[HARD.slug].rows if r["quantity"] == AUC and r["part"] == "test"]
    dots(forgotten, [r for r in areas if "difference" not in r])
    forgotten.axvline(0.5, color=COLOURS["undecided"], lw=0.5)
    forgotten.set_xlabel(f"{AUC}, 95%", fontsize=7)
    conditions = [r for m in (of[RANDOM_HALF.slug], of[HARD_HALF.slug]) for r in m.rows if " - " in r["row"]]
    conditions = [r for r in conditions if "margin" not in r]
    dots(halves, list({r["row"]: r for r in conditions}.values()))
    halves.axvline(0, color=COLOURS["undecided"], lw=0.5)
    halves.set_xlabel(f"difference in {ACCURACY}, 2 SE either side", fontsize=7)
    for axes, claim in ((plane, ADDITIVE), (cost, ADDITIVE), (forgotten, HARD), (halves, RANDOM_HALF)):
        m = of[claim.slug]
        axes.set_title(f"{claim.slug}: {m.verdict}", fontsize=8, color=COLOURS[m.verdict], loc="left")
        axes.tick_params(labelsize=7)
    return sheet


@study(
    slug="joint-surplus",
    paper=PAPER,
    title="Do the examples and the weights that can go depend on each other?",
    claims=(FORGETS, HARD, RANDOM_HALF, HARD_HALF, ADDITIVE),
    protocols=PROTOCOLS,
    draw=draw,
)
def joint_surplus(claim: Claim, bench: Bench[JointProtocol]) -> Measured:
    """Data and weights removed together: what is forgotten, what a ticket needs to be found, and what it costs."""
    if claim is RANDOM_HALF or claim is HARD_HALF:
        return half_finds_a_ticket(bench, claim)
    tests = {FORGETS: pruning_changes_answers, HARD: forgotten_are_hard, ADDITIVE: losses_add_up}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def pruning_changes_answers(bench: Bench[JointProtocol]) -> Measured:
    """How often each arm's answers differ from those of independent dense networks."""
    arms, others = forgetting_arms(bench), _answers(bench, reference(bench))
    shares = {n: (_answers(bench, run)[:, None] != others).double().mean((1, 2)) for n, run in arms.items()}
    d = bench.protocol.forgetting
    check = beats("ticket", "dense", DISAGREES, shares["ticket"], shares["dense"], density=d)
    rows = [arm(n, DISAGREES, s, density=d) for n, s in shares.items()]
    rows += [arm(n, ACCURACY, bench.accuracy(run), density=d) for n, run in arms.items()]
    return decide(FORGETS, [check], rows)


def forgotten_are_hard(bench: Bench[JointProtocol]) -> Measured:
    """Whether example scores tell which examples are forgotten, on the test and on the training data."""
    rows, arms, d = list[Row](), forgetting_arms(bench), bench.protocol.forgetting
    checks = list[Check]()
    for part in ("test", "train"):
        sure = _right(bench, reference(bench), part).all(0)  # (n,) every independent dense network is right
        dense = 1 - _right(bench, arms["dense"], part).double().mean(0)
        scores = hardness_scores(bench, part)
        share = {n: 1 - _right(bench, run, part).double().mean(0) for n, run in arms.items() if n != "dense"}
        excess = _excess(scores["EL2N"][sure], *((share[n] > dense)[sure] for n in ("ticket", "other dense")))
        more: Row = {"density": d, "part": part, "difference": True}
        compared = Check(f"ticket - other dense: EL2N, {part}", AUC, "> 0", excess, above(excess), more)
        for name, wrong in share.items():
            lost = wrong > dense
            for score, values in scores.items():
                notes = {"density": d, "forgotten": int(lost[sure].sum()), "examples": int(sure.sum()), "part": part}
                area = _interval(auc(values[sure], lost[sure]))
                label = f"{name}: {score}, {part}"
                if (name, score, part) == ("ticket", "EL2N", "test"):
                    checks += [Check(label, AUC, "> 0.7", area, above(area, 0.7), notes), compared]
                elif name == "ticket" or score == "EL2N":
                    rows.append(table_row(label, AUC, area, **notes))
                if name == "ticket" and score == "EL2N":
                    gained = _interval(auc(values[sure], (wrong < dense)[sure]))
                    rows.append(table_row(f"ticket, gained: EL2N, {part}", AUC, gained, density=d, part=part))
                if name == "ticket":
                    rho = rank_correlation(values, wrong - dense)
                    rows.append(table_row(label, RHO, Interval(rho.value, rho.low, rho.high, 0.95, rho.items), **notes))
        if part == "train":
            rows.append(compared.detail())
    return decide(HARD, checks, rows, ALSO_SEEDS)


def half_finds_a_ticket(bench: Bench[JointProtocol], claim: Claim) -> Measured:
    """Masks found on half of the data, and their controls, each trained on all data."""
    p, rows = bench.protocol, list[Row]()
    ticket = _at(bench, chain(bench, "all", 1.0), p.ticket)
    halves = {which: _at(bench, chain(bench, which, p.half), p.ticket) for which in ("random", "hardest")}
    arms = {ALL: ticket, **{HALF[w]: _retrained(bench, half, half.masks) for w, half in halves.items()}}
    values = {n: bench.accuracy(x.run) for n, x in (arms | ticket_controls(bench, ticket)).items()}
    mine = HALF["random" if claim is RANDOM_HALF else "hardest"]
    interval = two_stderr(values[mine], values[ALL])
    check = Check(f"{mine} - {ALL}", ACCURACY, "> -0.01", interval, above(interval, -0.01), {"density": p.ticket})
    rows.append(_narrower(check, above(interval, -_NARROW)))
    others = [n for n in values if n not in (mine, ALL)]
    rows += [beats(mine, n, ACCURACY, values[mine], values[n], density=p.ticket).detail() for n in others]
    rows += [arm(n, ACCURACY, v, density=p.ticket) for n, v in values.items()]
    for which, half in halves.items():
        shared = (half.masks & ticket.masks & ticket.run.task.space.prunable).sum(1)
        share = shared / (ticket.masks & ticket.run.task.space.prunable).sum(1)
        rows.append(arm(f"{HALF[which]} finds, too", "share of the ticket's weights", share.double(), density=p.ticket))
    for name, which, fraction in ((ALL, "all", 1.0), *((HALF[w], w, p.half) for w in halves)):
        macs = _cost(bench, which, fraction)
        rows.append(table_row(name, "multiply-adds of the search", exactly(macs), density=p.ticket))
    return decide(claim, [check], rows)


def losses_add_up(bench: Bench[JointProtocol]) -> Measured:
    """Accuracy over shares of the data and of the weights, with the cost of reaching each point."""
    p, rows, found = bench.protocol, list[Row](), dict[tuple[float, float], Tensor]()
    for fraction in p.fractions:
        macs = 0.0
        for level, d in zip(chain(bench, "random", fraction), (1.0, *p.densities), strict=True):
            macs += training_macs(level)
            found[fraction, d] = bench.accuracy(level.run)
            name = f"{100 * fraction:.3g}% of the data"
            rows.append(arm(name, ACCURACY, found[fraction, d], density=d, fraction=fraction, macs=macs))
    joined = found[1.0, 1.0] + found[p.half, p.ticket]
    apart = found[p.half, 1.0] + found[1.0, p.ticket]
    interval = two_stderr(joined, apart)
    check = Check("both - one by one", ACCURACY, "in [-0.01, 0.01]", interval, within(interval, -0.01, 0.01))
    rows.append(_narrower(check, within(interval, -_NARROW, _NARROW)))
    chance = _random(bench, _at(bench, chain(bench, "all", 1.0), p.ticket))
    rows.append(arm("random mask, all data", ACCURACY, bench.accuracy(chance.run), density=p.ticket))
    return decide(ADDITIVE, [check], rows)


def _narrower(check: Check, verdict: Verdict) -> Row:
    """The same comparison by half the margin: a line that decides nothing."""
    return check.detail() | {"row": f"{check.name}, by half a point", "margin": _NARROW, "would": verdict}


# ---- runs -----------------------------------------------------------------------------------------------------------


def chain(bench: Bench[JointProtocol], which: str, fraction: float) -> list[Level]:
    """Dense networks and ever sparser tickets, all on one choice of the data; read back when asked for again."""
    p, task = bench.protocol, _task(bench)
    options = _options(bench) | ({} if fraction == 1 else {"subsets": subsets(bench, which, fraction)})
    first = imp(task, levels=0, rewind_step=p.rewind_step, seeds=bench.seeds, **options)[0]
    cuts = [to_density(d, exclude=p.exclude) for d in p.densities]
    return [_noted(bench, level) for level in levels_from(first, cuts, step=p.rewind_step, **options)]


def subsets(bench: Bench[JointProtocol], which: str, fraction: float) -> list[Tensor]:
    """The training examples of each seed: drawn anew for each, or the ones of highest EL2N for all."""
    n = len(_task(bench).train)
    keep = round(fraction * n)
    if which == "hardest":
        return [hardest(el2n(bench, "train"), keep).nonzero().squeeze(1)] * len(bench.seeds)
    return [torch.randperm(n, generator=_chance(s, "examples"))[:keep].sort().values for s in bench.seeds]


def reference(bench: Bench[JointProtocol]) -> Run:
    """Dense networks of other seeds, which were never pruned."""
    seeds = [20_000 + k for k in range(bench.protocol.nets)]
    return bench.fit(_task(bench), seeds=seeds, execution=bench.protocol.execution)


def forgetting_arms(bench: Bench[JointProtocol]) -> dict[str, Run]:
    """Dense networks, and at the density of the claims on forgetting their tickets and the controls of those.

    Other dense networks show what another seed does without any pruning.
    """
    p, task, levels = bench.protocol, _task(bench), chain(bench, "all", 1.0)
    ticket = _at(bench, levels, p.forgetting)
    kept = int(ticket.masks[0].sum())  # biases among them
    small, start = small_dense(task, bench.seeds, parameters=kept)
    dense = bench.fit(small, seeds=bench.seeds, start=start, execution=p.execution)
    random = _random(bench, ticket).run
    other = bench.fit(task, seeds=[40_000 + s for s in bench.seeds], execution=p.execution)
    pruned = {"ticket": ticket.run, "random mask": random, "small dense": dense}
    return {"dense": levels[0].run, "other dense": other, **pruned}


def ticket_controls(bench: Bench[JointProtocol], ticket: Level) -> dict[str, Level]:
    """The ticket's layer densities in random places, and random places altogether."""
    space = ticket.run.task.space
    rows = zip(bench.seeds, ticket.masks, strict=True)
    moved = [shuffle(space, m, _chance(s, "shuffle"), exclude=bench.protocol.exclude) for s, m in rows]
    return {"shuffle": _retrained(bench, ticket, torch.stack(moved)), "random mask": _random(bench, ticket)}


def _random(bench: Bench[JointProtocol], ticket: Level) -> Level:
    """As many weights in random places."""
    p, space, d = bench.protocol, ticket.run.task.space, ticket.density
    masks = [random_mask(space, d, _chance(s, "random mask", d), exclude=p.exclude) for s in bench.seeds]
    return _retrained(bench, ticket, torch.stack(masks))


def _retrained(bench: Bench[JointProtocol], level: Level, masks: Tensor) -> Level:
    """Masks trained on all data, from where the level began."""
    p, task = bench.protocol, _task(bench)
    return _noted(bench, from_masks(task, masks, level.start, bench.seeds, p.rewind_step, **_options(bench)))


def _cost(bench: Bench[JointProtocol], which: str, fraction: float) -> float:
    """Multiply-adds of finding a ticket, for each seed: every training before the last."""
    levels = chain(bench, which, fraction)
    return sum(training_macs(x) for x in levels[: 1 + bench.protocol.densities.index(bench.protocol.ticket)])


# ---- scores ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """Networks that example scores are read from, and the steps at which they were kept."""

    run: Run
    looks: tuple[int, ...]
    early: int


def scored(bench: Bench[JointProtocol]) -> Scored:
    """Networks of seeds of their own."""
    p, task = bench.protocol, _task(bench)
    last = p.recipe.duration.steps(-(-len(task.train) // p.recipe.batch_size))
    looks = tuple(round(last * (k + 1) / p.looks) for k in range(p.looks))
    seeds = [30_000 + k for k in range(p.nets)]
    how: dict[str, Any] = {"keep": sorted({p.score_steps, *looks}), "record": True, "execution": p.execution}
    return Scored(bench.fit(task, seeds=seeds, **how), looks, p.score_steps)


def el2n(bench: Bench[JointProtocol], part: str) -> Tensor:
    """EL2N (n,) of the training or test examples, early in training."""
    nets, data = scored(bench), _data(bench, part)
    return el2n_from_logits(_logits(bench, nets.run.at(nets.early), data), data.targets).mean


def hardness_scores(bench: Bench[JointProtocol], part: str) -> dict[str, Tensor]:
    """Scores (n,) by name, high = hard, none of which the networks in question had a part in."""
    nets, data = scored(bench), _data(bench, part)
    paths = torch.stack([_logits(bench, nets.run.at(step), data) for step in nets.looks])  # (looks, K, n, classes)
    own = paths[-1].gather(-1, data.targets.expand(paths.shape[1], -1)[..., None])
    others = paths[-1].scatter(-1, data.targets.expand(paths.shape[1], -1)[..., None], -torch.inf)
    found = {
        "EL2N": el2n(bench, part),
        "learned late": 1 - (paths.argmax(-1) == data.targets).double().mean((0, 1)),
        "small margin": -(own.squeeze(-1) - others.amax(-1)).mean(0),
    }
    return found | ({"forgetting events": forgetting(nets.run.record["correct"]).mean} if part == "train" else {})


def _logits(bench: Bench[JointProtocol], theta: Tensor, data: Dataset) -> Tensor:
    return predict(_task(bench), theta.to(bench.device), data).cpu()


def _answers(bench: Bench[JointProtocol], run: Run, part: str = "test") -> Tensor:
    """(K, n) predicted classes."""
    return bench.outputs(run, part).argmax(-1)


def _right(bench: Bench[JointProtocol], run: Run, part: str) -> Tensor:
    return _answers(bench, run, part) == _data(bench, part).targets


def _interval(estimate: Estimate, level: float = 0.95) -> Interval:
    """A number in [0, 1] with its normal interval."""
    half = float(ndtri(0.5 + level / 2) * estimate.stderr)
    value = float(estimate.mean)
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0), level, int(estimate.repeats))


def _excess(scores: Tensor, lost: Tensor, otherwise: Tensor) -> Interval:
    """How much better scores (n,) mark one choice of examples than another; resampling the examples for both."""

    def difference(columns: Tensor) -> float:
        return float(auc(columns[:, 0], columns[:, 1]).mean - auc(columns[:, 0], columns[:, 2]).mean)

    columns = torch.stack([scores.double(), lost.double(), otherwise.double()], 1)
    return bootstrap(columns, difference, _chance(0, "bootstrap"))


# ---- shared ---------------------------------------------------------------------------------------------------------


def _task(bench: Bench[JointProtocol]) -> Task:
    p = bench.protocol
    data = splits(p.data, 0)
    if p.examples is not None and p.examples < len(data.train):
        data = replace(data, train=split(data.train, p.examples / len(data.train), seed=0)[1])
    return task_from(data, p.network, recipe=p.recipe, **p.options)


def _data(bench: Bench[JointProtocol], part: str) -> Dataset:
    task = _task(bench)
    return task.test if part == "test" else task.train


def _at(bench: Bench[JointProtocol], levels: Sequence[Level], density: float) -> Level:
    return levels[1 + bench.protocol.densities.index(density)]


def _noted(bench: Bench[JointProtocol], level: Level) -> Level:
    bench.noted(level.run)
    return level


def _chance(seed: int, *purpose: object) -> torch.Generator:
    return generator(seed, "study joint surplus", *purpose)


def _options(bench: Bench[JointProtocol]) -> dict[str, Any]:
    return {**bench.options, "execution": bench.protocol.execution}
