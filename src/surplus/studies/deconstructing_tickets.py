"""Zhou, Lan, Liu & Yosinski 2019, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask".

A ticket taken apart. Which weights: masks by nine criteria on the untrained network, beside a random one. What kept
weights start from: their values, their signs, or neither. What removed weights become: 0, or frozen where they began.
And masks that are learnt. Networks start Gaussian Glorot with biases 0; only weights are masked, layer by layer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from surplus.pruning import keep_top, layer_densities, magnitude, random_mask, shuffle
from surplus.pruning.schedules.actions import last_values, retrained
from surplus.pruning.schedules.imp import Level, by_rate, from_masks, levels_from
from surplus.pruning.schedules.popup import Weights, expected, random_point, supermask
from surplus.pruning.scores.criteria import large_final
from surplus.pruning.scoring import Score, score_on_task
from surplus.reparam import signed_constant
from surplus.space import generator
from surplus.studies.base import Bench, Protocol, study
from surplus.studies.data import splits
from surplus.studies.results import Claim, Measured, Scale, decide
from surplus.studies.verdicts import Check, Row, above, arm, beats, exceeds, over_seeds, two_stderr, within
from surplus.tasks import Duration, Recipe, Task, task_from
from surplus.training import evaluate

EVERYWHERE: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
ACCURACY, UNTRAINED = "test accuracy", "test accuracy, untrained"
CRITERIA: dict[str, str | Score] = {
    "large-final": "magnitude",
    "large-final, same sign": partial(large_final, same_sign=True),
    "magnitude-increase": "magnitude-increase",
    "large-init-large-final": "large-init-large-final",
    "movement": "movement",
    "small-init-small-final": "small-init-small-final",
    "small-init": "small-init",
    "small-final": "small-final",
    "large-init": "large-init",
    "random": "random",
}
OWN = f"{ACCURACY}, own masks"
OWN_MASKS = (
    f'The conditions compare actions on the masks that zeroing found. In the rows "{OWN}" each action was applied'
    " at every cut and so found its own, by fewer cuts that leave as many weights of each layer."
)
ROUNDING = (
    " The verdict hangs on rounding: a first run of the same protocol, whose sums were taken in another order, was"
    " undecided, and Student's p values of zero - freeze are above 0.05 in both."
)
RANDOM: dict[str, Weights] = {"initial weights": "glorot-normal", "signed constants": "signed-glorot"}

ALONE = Claim(
    "a-mask-alone-classifies",
    "The mask that training leaves, put on the untrained weights, is far better than chance; masks that keep small"
    " final, large initial or random weights are not.",
    "Zhou et al. 2019, section 5",
    "Ten classes, a quarter of each layer kept by one cut (0.8^6): test accuracy of the initial weights under the"
    " large-final mask is more than 30 points above chance, and under small-final, large-init and random masks within 5"
    " points of it; 95% intervals over seeds.",
    EVERYWHERE,
)
SIGNS = Claim(
    "signs-suffice",
    "Kept weights need the signs of their initial values and not the sizes.",
    "Zhou et al. 2019, section 3",
    "At a density of about 10%: a start from signed constants within 1 point of rewinding, by the 2 SE interval paired"
    " by seed; and signed constants - constants with random signs > 2 SE.",
    EVERYWHERE,
)
ZEROING = Claim(
    "zeroing-is-learning",
    "Removed weights are better set to 0 than frozen where they began, above all those that training shrank.",
    "Zhou et al. 2019, section 4",
    "At densities of about 18% and 10%: zero - freeze > 2 SE, and the 2 SE interval of hybrid A (frozen if it grew,"
    " else 0) - zero lies above -0.5 points, paired by seed.",
    EVERYWHERE,
)
RESCALING = Claim(
    "rescaling-helps-learnt-masks",
    "A mask that is learnt classifies better with dynamic weight rescaling than without.",
    "Zhou et al. 2019, section 5",
    "LeNet-300-100 on MNIST, 200 epochs, mean test accuracy over 10 drawn masks: with - without rescaling > 2 SE,"
    " paired by seed, on initial weights and on signed constants.",
    ("gpu",),
)


class Case(BaseModel):
    """A network, its data and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = "digits"
    network: str = "mlp"
    options: dict[str, Any] = Field(default={"widths": (128, 64)})
    recipe: Recipe = Recipe(optimiser="adam", lr=1.2e-3, batch_size=50, duration=Duration("800it"), schedule="constant")


class DeconstructingProtocol(Protocol):
    """Sizes of one scale."""

    case: Case = Case()
    """What all claims are tested on."""
    others: tuple[Case, ...] = ()
    """Shown beside it in the first claim's table; no verdict rests on them."""
    one_cut: float = 0.262144
    """Density of the masks on untrained weights: 0.8^6."""
    levels: tuple[int, int] = (8, 11)
    """Cuts of a fifth, a tenth in the output layer, after which actions are compared."""
    rounds: tuple[int, ...] = (3, 6, 8, 11)
    """Cuts after which networks train where each action finds its own masks; `levels` are among them."""
    learnt: Duration = Duration("800it")
    """How long masks are learnt, by SGD at rate 100."""
    learnt_batch: int = 50
    """Examples per step then."""
    draws: int = 10
    """Masks drawn to evaluate a learnt one."""
    test_share: float = 0.332
    """Share of the digits to test on."""


def _conv(network: str, lr: float, epochs: int) -> Case:
    recipe = Recipe(optimiser="adam", lr=lr, batch_size=60, duration=Duration(f"{epochs}ep"), schedule="constant")
    return Case(data="cifar10", network=network, options={}, recipe=recipe)


_QUICK = Recipe(optimiser="adam", lr=3e-3, batch_size=50, duration=Duration("30it"), schedule="constant")
PROTOCOLS: dict[Scale, Protocol] = {
    "smoke": DeconstructingProtocol(
        seeds=2,
        case=Case(options={"widths": (32, 16)}, recipe=_QUICK),
        levels=(1, 2),
        rounds=(1, 2),
        learnt=Duration("20it"),
        draws=2,
    ),
    "laptop": DeconstructingProtocol(seeds=5),
    "gpu": DeconstructingProtocol(
        seeds=5,
        case=Case(
            data="mnist",
            network="lenet-300-100",
            options={},
            recipe=Recipe(optimiser="adam", lr=1.2e-3, batch_size=60, duration=Duration("55ep"), schedule="constant"),
        ),
        others=(_conv("conv-2", 2e-4, 27), _conv("conv-4", 3e-4, 34), _conv("conv-6", 3e-4, 40)),
        learnt=Duration("200ep"),
        learnt_batch=250,
    ),
}


@study(
    slug="deconstructing-tickets",
    paper="Zhou, Lan, Liu & Yosinski 2019, arXiv 1905.01067",
    title="Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask",
    claims=(ALONE, SIGNS, ZEROING, RESCALING),
    protocols=PROTOCOLS,
)
def deconstructing_tickets(claim: Claim, bench: Bench[DeconstructingProtocol]) -> Measured:
    """What of a ticket matters: its mask, its signs, its zeros?"""
    tests = {ALONE: mask_alone, SIGNS: signs_suffice, ZEROING: zeroing, RESCALING: rescaling}
    return tests[claim](bench)


# ---- the claims -----------------------------------------------------------------------------------------------------


def mask_alone(bench: Bench[DeconstructingProtocol]) -> Measured:
    """Every criterion's mask on the untrained network, then masks that were learnt."""
    p, rows = bench.protocol, []
    chance, (found, _) = 1 / _task(bench, p.case).classes, untrained(bench, p.case)
    quantity = f"{UNTRAINED}, less chance"
    checks = [exceeds("large-final", quantity, found["large-final"] - chance, 0.3)]
    for name in ("small-final", "large-init", "random"):
        off = over_seeds(found[name] - chance)
        checks.append(Check(name, quantity, "within 0.05", off, within(off, -0.05, 0.05)))
    for case in (p.case, *p.others):
        before = "" if case == p.case else f"{case.network}: "
        for on, arms in zip(("", ", signed constants"), untrained(bench, case), strict=True):
            rows += [arm(before + n, UNTRAINED + on, v, density=_share(n, p.one_cut)) for n, v in arms.items()]
    return decide(ALONE, checks, [*rows, *_learnt_rows(bench)])


def signs_suffice(bench: Bench[DeconstructingProtocol]) -> Measured:
    """Mask-1 actions on the masks of iterative pruning."""
    levels = _levels(bench)
    d, arms = levels[-1].density, {}
    for kept in ("rewind", "constant", "reinit", "reshuffle"):
        for signs in ("own", "random"):
            arms[f"{kept}, {signs} signs"] = _acted(bench, levels, kept=kept, signs=signs)
    constant, rewind = arms["constant, own signs"], arms["rewind, own signs"]
    apart = two_stderr(constant, rewind)
    checks = [
        Check("signed constant - rewind", ACCURACY, "within 0.01", apart, within(apart, -0.01, 0.01), {"density": d}),
        beats("signed constant", "random signs", ACCURACY, constant, arms["constant, random signs"], density=d),
    ]
    other = beats("rewind", "random signs", ACCURACY, rewind, arms["rewind, random signs"], density=d)
    arms |= _random(bench, levels)
    arms["dense"] = bench.accuracy(levels[0].run)
    rows = [arm(name, ACCURACY, values, density=_share(name, d)) for name, values in arms.items()]
    return decide(SIGNS, checks, [other.detail(), *rows])


def zeroing(bench: Bench[DeconstructingProtocol]) -> Measured:
    """Mask-0 actions on the masks of iterative pruning, at two densities."""
    checks, rows = [], []
    own = {name: _own_masks(bench, name) for name in ("zero", "freeze", "hybrid-a")}
    for at in bench.protocol.levels:
        levels = _levels(bench)[: at + 1]
        d = levels[-1].density
        actions = ("zero", "freeze", "hybrid-a", "hybrid-b", "reverse-hybrid", "random-hybrid")
        arms = {name: _acted(bench, levels, removed=name) for name in actions}
        gain = two_stderr(arms["hybrid-a"], arms["zero"])
        checks += [
            beats("zero", "freeze", ACCURACY, arms["zero"], arms["freeze"], density=d),
            Check("hybrid-a - zero", ACCURACY, "> -0.005", gain, above(gain, -0.005), {"density": d}),
        ]
        found = {name: accuracy[at] for name, accuracy in own.items()}
        for a, b in (("zero", "freeze"), ("hybrid-a", "zero")):
            rows.append(beats(a, b, OWN, found[a], found[b], density=d).detail())
        arms |= {f"{name}, zero": values for name, values in _random(bench, levels).items()}
        rows += [arm(name, ACCURACY, values, density=d) for name, values in arms.items()]
        rows += [arm(name, OWN, values, density=d) for name, values in found.items()]
    return decide(ZEROING, checks, rows, OWN_MASKS + ROUNDING * (bench.scale == "laptop"))


def rescaling(bench: Bench[DeconstructingProtocol]) -> Measured:
    """Learnt masks with and without rescaling."""
    checks = []
    for name, weights in RANDOM.items():
        with_it, without = (_learnt(bench, weights, rescale)[0] for rescale in (True, False))
        checks.append(beats(f"rescaled, {name}", "not rescaled", ACCURACY, with_it, without))
    return decide(RESCALING, checks, _learnt_rows(bench))


# ---- runs -----------------------------------------------------------------------------------------------------------


def untrained(bench: Bench[DeconstructingProtocol], case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Test accuracy (K,) of the untrained network under each criterion's mask: on w_i, and on signed constants."""
    dense, p = _dense(bench, case), bench.protocol
    task, constants = dense.run.task, {}
    found = {"trained": bench.accuracy(dense.run), "no mask": _tested(bench, task, dense.start)}
    for name, score in CRITERIA.items():
        rows = zip(bench.seeds, dense.run.theta, dense.start, strict=True)
        scores = [score_on_task(score, task, theta, start=start, seed=s, trained=True) for s, theta, start in rows]
        masks = torch.stack([keep_top(task.space, s, density=p.one_cut, scope="layer") for s in scores])
        found[name] = _tested(bench, task, dense.start.masked_fill(~masks, 0))
        constants[name] = _tested(bench, task, signed_constant(task.space, dense.start).masked_fill(~masks, 0))
    return found, constants


def _task(bench: Bench[DeconstructingProtocol], case: Case) -> Task:
    return task_from(splits(case.data, 0, bench.protocol.test_share), case.network, recipe=case.recipe, **case.options)


def _dense(bench: Bench[DeconstructingProtocol], case: Case) -> Level:
    """The trained networks, from Gaussian Glorot weights and zero biases."""
    task = _task(bench, case)
    start = torch.stack([random_point(task.space, s, "glorot-normal") for s in bench.seeds])
    whole = torch.ones_like(start, dtype=torch.bool)
    return _noted(bench, from_masks(task, whole, start, bench.seeds, **bench.options, execution="stacked"))


def _levels(bench: Bench[DeconstructingProtocol]) -> list[Level]:
    """Iterative pruning by layer, rewound to the initial weights; read back from the store when asked for again."""
    cuts = [by_rate(0.2, scope="layer")] * bench.protocol.levels[-1]
    levels = levels_from(_dense(bench, bench.protocol.case), cuts, **bench.options, execution="stacked")
    return [_noted(bench, level) for level in levels]


def _acted(bench: Bench[DeconstructingProtocol], levels: list[Level], **actions: Any) -> Tensor:
    """Test accuracy (K,) of the last level's masks, retrained after the actions."""
    task, masks, start = levels[0].run.task, levels[-1].masks, levels[0].start
    options = {**bench.options, "execution": "stacked"}
    level = retrained(task, masks, start, last_values(levels), bench.seeds, **actions, **options)
    return bench.accuracy(_noted(bench, level).run)


def _own_masks(bench: Bench[DeconstructingProtocol], removed: str) -> dict[int, Tensor]:
    """Test accuracy (K,) after each of the rounds, a mask-0 action applied in all of them.

    Rounds cut each layer to where `_levels` has it after as many cuts.
    """
    levels = _levels(bench)
    dense, through, found = levels[0], [levels[0]], {}
    task, options = dense.run.task, {**bench.options, "execution": "stacked"}
    for at in bench.protocol.rounds:
        shares = layer_densities(task.space, levels[at].masks[0])
        rows = zip(through[-1].run.theta, through[-1].masks, strict=True)
        cut = [keep_top(task.space, magnitude(task.space, t), layer_density=shares, alive=m) for t, m in rows]
        trained = last_values([*through, through[-1]])  # of what goes now, too
        level = retrained(task, torch.stack(cut), dense.start, trained, bench.seeds, removed=removed, **options)
        through.append(_noted(bench, level))
        found[at] = bench.accuracy(level.run)
    return found


def _random(bench: Bench[DeconstructingProtocol], levels: list[Level]) -> dict[str, Tensor]:
    """Test accuracy (K,) of as many weights in random places, from their initial values: anywhere, or by layer."""
    task, start, d = levels[0].run.task, levels[0].start, levels[-1].density
    chance = [generator(s, "study deconstructing", "random", d) for s in bench.seeds]
    masks = {
        "random mask": [random_mask(task.space, d, g) for g in chance],
        "shuffled mask": [shuffle(task.space, m, g) for m, g in zip(levels[-1].masks, chance, strict=True)],
    }
    options = {**bench.options, "execution": "stacked"}
    trained = {name: from_masks(task, torch.stack(m), start, bench.seeds, **options) for name, m in masks.items()}
    return {name: bench.accuracy(_noted(bench, level).run) for name, level in trained.items()}


def _learnt(bench: Bench[DeconstructingProtocol], weights: Weights, rescale: bool) -> tuple[Tensor, float]:
    """Mean test accuracy (K,) over masks drawn from learnt probabilities that began at 1/2, and their mean density."""
    p = bench.protocol
    task = _task(bench, p.case).with_recipe(duration=p.learnt, batch_size=p.learnt_batch)
    options: dict[str, Any] = {**bench.options, "seeds": bench.seeds, "execution": "stacked"}
    level, cut = supermask(task, density=0.5, weights=weights, rescale=rescale, **options)
    bench.noted(cut.run)
    accuracy = expected(_noted(bench, level), p.draws, rescale=rescale).mean
    return accuracy, float(level.run.z.sigmoid().mean())  # of drawn masks: that of the rounded one is another


def _learnt_rows(bench: Bench[DeconstructingProtocol]) -> list[Row]:
    rows = []
    for on, weights in RANDOM.items():
        for rescale, how in ((False, ""), (True, ", rescaled")):
            values, share = _learnt(bench, weights, rescale)
            rows.append(arm(f"{on}{how}", "test accuracy, learnt masks", values, density=share))
    return rows


def _tested(bench: Bench[DeconstructingProtocol], task: Task, thetas: Tensor) -> Tensor:
    return evaluate(task, thetas.to(bench.device), task.test).metric.cpu()


def _noted(bench: Bench[DeconstructingProtocol], level: Level) -> Level:
    bench.noted(level.run)
    return level


def _share(name: str, density: float) -> float:
    return 1.0 if name in ("dense", "trained", "no mask") else density
