"""The evidence for a pruning result, as tables: sizes, seeds, non-inferiority to dense, and a margin over each control.

    compression = parameters / in use         density = in use / prunable         speed-up = MACs / MACs of those in use
    repeats needed for a margin m: the least n with (t_{level} + t_{power}) sd / sqrt(n) <= m

sd is that of the paired differences, over seeds or over test examples, and t the quantiles of Student's law with n - 1
degrees of freedom. A weight is in use where the mask keeps it, or where it is held at a value other than zero; the
share under the mask alone is `trainable`. Definitions: Blalock, Gonzalez Ortiz, Frankle & Guttag 2020 (arXiv
2003.03033). Compression and speed-up are relative to the dense network; a theoretical speed-up is no measured one: the
latencies stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.special import stdtrit
from torch import Tensor

from surplus.errors import InputError
from surplus.pruning.evidence.arms import Arm, Table, Trained, number
from surplus.pruning.evidence.training_cost import in_use, training_macs
from surplus.pruning.masks import layer_densities
from surplus.pruning.schedules.imp import Level
from surplus.stats import NonInferiority, holm, non_inferior_on_examples, non_inferior_over_both, paired
from surplus.tasks import Task
from surplus.training import Run

CONVENTION = (
    "One multiply-add (MAC) is one multiplication and one addition of a linear layer or a convolution; biases,"
    " normalisation, activations and pooling are not counted, and tools that count both operations show twice the"
    " number. Density is the share of the prunable weights that are in use, trainable the share that is trained;"
    " compression is all parameters over those in use. Accuracies are of the last step, on the test set. Training"
    " counts three MACs for each of a forward pass."
)


def report(
    task: Task,
    dense: Level | Run,
    levels: Sequence[Level],
    controls: Mapping[str, Level | Run] | None = None,
    *,
    margin: float = 0.005,
    level: float = 0.95,
    measure: bool = True,
) -> dict[str, Any]:
    """What pruning by masks came to; the last level is the one that controls are compared with.

    Args:
        task: what was trained.
        dense: the dense networks of the same seeds.
        levels: what a pruning schedule returned, its last level at the density that was asked for.
        controls: of the last level, from `train_controls`.
        margin: the largest loss that counts as none, in the metric's units.
        level: confidence of intervals and tests.
        measure: time the networks, at batch sizes 1 and 64.

    Returns:
        Plain values: "task", "network", "metric", "seeds", "margin", "level", "convention", "sentences", and tables
        (lists of flat rows) "networks", "against_dense", "against_controls", "layers" and "latency".

    Raises:
        InputError: no levels, or arms of different seeds.
    """
    if not levels:
        raise InputError("a report is about at least one pruned level; got none")
    pruned = [x for x in levels if x.density < 1] or list(levels[-1:])
    arms = [Arm(_name(x), "level", x) for x in pruned]
    found = _report(task, Arm("dense", "dense", dense), arms, controls or {}, margin, level, measure)
    spent, rows = sum(training_macs(x) for x in levels if x.density == 1), found["networks"][1:]
    for row, x in zip(rows, pruned, strict=False):
        row["search_macs"] = spent = spent + training_macs(x)
    return found | {"layers": _layers(task, pruned[-1])}


def report_structured(
    task: Task,
    dense: Level | Run,
    runs: Sequence[Run],
    controls: Mapping[str, Trained] | None = None,
    *,
    search_macs: float | Sequence[float] | None = None,
    margin: float = 0.005,
    level: float = 0.95,
    measure: bool = True,
) -> dict[str, Any]:
    """What structured pruning came to: `report` for networks that are really smaller, without a table of layers.

    Args:
        task: of the dense networks.
        dense: the dense networks of the same seeds.
        runs: what structured pruning returned, one for each seed.
        controls: from `train_scratch`, or dense networks of another kind.
        search_macs: multiply-adds of finding each smaller network, before the training of `runs`: one number for all,
            or one for each. The row "search_macs" adds that training to them; without them there is no such row.
        margin: the largest loss that counts as none, in the metric's units.
        level: confidence of intervals and tests.
        measure: time the networks, at batch sizes 1 and 64.
    """
    if not runs:
        raise InputError("a report is about at least one smaller network; got none")
    arms = [Arm("pruned", "level", tuple(runs))]
    found = _report(task, Arm("dense", "dense", dense), arms, controls or {}, margin, level, measure)
    if search_macs is not None:
        spent = [search_macs] * len(runs) if isinstance(search_macs, int | float) else list(search_macs)
        if len(spent) != len(runs):
            raise InputError(
                f"search_macs is one number, or one for each smaller network; got {len(spent)} for {len(runs)}"
            )
        row = found["networks"][1]
        row["search_macs"] = sum(spent) / len(spent) + row["training_macs"]
    return found


def repeats_needed(sd: float, margin: float, *, level: float = 0.95, power: float = 0.8) -> int | None:
    """Paired repeats until a one-sided test at `level` tells a difference of `margin` from none, with this chance.

    Args:
        sd: standard deviation of the paired differences.
        margin: the difference that is to be told from none.
        level: confidence of the test.
        power: chance that it succeeds.

    Returns:
        At least 2; None where the spread is not known, or the margin is 0.
    """
    if not math.isfinite(sd) or margin <= 0:
        return None

    def enough(n: int) -> bool:
        return float(stdtrit(n - 1, level) + stdtrit(n - 1, power)) * sd <= margin * math.sqrt(n)

    high = 2
    while not enough(high):
        high *= 2
    low = high // 2  # 1, or too few
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _report(
    task: Task,
    dense: Arm,
    arms: Sequence[Arm],
    controls: Mapping[str, Trained],
    margin: float,
    level: float,
    measure: bool,
) -> dict[str, Any]:
    others = [Arm(name, "control", c) for name, c in controls.items()]
    for arm in (*arms, *others):
        if arm.seeds != dense.seeds:
            raise InputError(f"arms are paired by seed: dense has seeds {dense.seeds}, {arm.name} has {arm.seeds}")
    last = arms[-1]
    against_dense = [_against_dense(arm, dense, margin, level) for arm in (*arms, *others)]
    against_controls = _against_controls(last, others, margin, level)
    timed = [dense, last, *(a for a in others if not isinstance(a.trained, Level))] if measure else []
    return {
        "task": task.name,
        "network": task.network.name,
        "metric": task.objective.metric_name,
        "seeds": dense.seeds,
        "margin": margin,
        "level": level,
        "convention": CONVENTION,
        "networks": [arm.row(dense, level) for arm in (dense, *arms, *others)],
        "against_dense": against_dense,
        "against_controls": against_controls,
        "latency": [row for arm in timed for row in arm.latency()],
        "sentences": _sentences(last, against_dense[len(arms) - 1], against_controls) + _sizes_said(last, dense),
    }


def _name(level: Level) -> str:
    """A row's name: how far the network is pruned or, where other weights are held at values, how much of it trains."""
    held = bool((in_use(level) & ~level.masks).any())
    return f"{100 * level.density:.3g}% trained" if held else f"pruned to {100 * level.density:.3g}%"


def _against_dense(arm: Arm, dense: Arm, margin: float, level: float) -> dict[str, Any]:
    """Difference from dense and the test that it is no loss beyond the margin, counting seeds and test examples."""
    a, b = arm.per_example, dense.per_example
    d = a - b
    over_seeds, over_examples = (float(d.mean(axis).std()) if d.shape[1 - axis] > 1 else math.nan for axis in (1, 0))
    needed = {
        "seeds_needed": repeats_needed(over_seeds, margin, level=level),
        "examples_needed": repeats_needed(over_examples, margin, level=level),
    }
    row = {"name": arm.name, "difference": number(d.mean()), "sd": number(over_seeds), **needed}
    row |= {"seeds": d.shape[0], "examples": d.shape[1], "margin": margin, "level": level}
    binary = bool(((a == 0) | (a == 1)).all())
    if len(d) == 1 and not binary:
        return row | {"low": None, "high": None, "p_value": None, "verdict": None, "loss_shown": None, "basis": None}

    def tested(a: Tensor, b: Tensor) -> NonInferiority:
        if len(d) > 1:
            return non_inferior_over_both(a, b, margin, level)
        return non_inferior_on_examples(a[0], b[0], margin, level)

    test, high = tested(a, b), -float(tested(b, a).low)  # the other way round bounds the difference from above
    found = {"low": number(test.low), "high": number(high), "p_value": number(test.p_value), "basis": test.basis}
    return row | found | {"verdict": test.verdict, "loss_shown": high < -margin}


def _against_controls(arm: Arm, controls: Sequence[Arm], margin: float, level: float) -> Table:
    """Paired differences from each control; the verdicts count how many controls there are (Holm)."""
    values = arm.per_example.mean(1)
    found = [paired(values, control.per_example.mean(1), level) for control in controls]
    adjusted = holm([c.p_value for c in found]).tolist() if found else []
    rows = []
    for control, c, p in zip(controls, found, adjusted, strict=True):
        sd, told = c.stderr * c.seeds**0.5, p <= 1 - level
        rows.append(
            {
                "name": arm.name,
                "control": control.name,
                **{k: number(getattr(c, k)) for k in ("difference", "low", "high", "p_value")},
                "p_adjusted": number(p),
                "sd": number(sd),
                "seeds": c.seeds,
                "wins": c.wins,
                "verdict": ("better" if c.difference > 0 else "worse") if told else "undecided",
                "seeds_needed": repeats_needed(sd, margin, level=0.5 + level / 2),
            }
        )
    return rows


def _layers(task: Task, level: Level) -> Table:
    """Density and trainable share of each prunable tensor, averaged over seeds."""
    used, trained = (_shares(task, masks) for masks in (in_use(level), level.masks))
    sizes = {b.name: b.size for b in task.space.blocks}
    return [
        {"tensor": n, "weights": sizes[n], "kept": d * sizes[n], "density": d, "trainable": trained[n]}
        for n, d in used.items()
    ]


def _shares(task: Task, masks: Tensor) -> dict[str, float]:
    each = [layer_densities(task.space, mask) for mask in masks]
    return {n: sum(e[n] for e in each) / len(each) for n in each[0]}


def _sentences(arm: Arm, dense: Mapping[str, Any], controls: Table) -> list[str]:
    """What the tables say, in words."""
    said = []
    if dense["verdict"] is not None:
        sure = "is excluded" if dense["verdict"] else "is shown" if dense["loss_shown"] else "cannot be excluded"
        said.append(
            f"{arm.name}: the metric changes by {dense['difference']:+.4f} against dense, and a loss of more than"
            f" {dense['margin']:g} {sure} (bounds {dense['low']:+.4f} and {dense['high']:+.4f})."
        )
        if not dense["verdict"] and not dense["loss_shown"]:
            said.append(_needed(dense))
    for row in controls:
        if row["control"] in _READINGS and row["verdict"] != "worse":
            better, not_shown = _READINGS[row["control"]]
            said.append(f"{row['control']}: {better if row['verdict'] == 'better' else not_shown}.")
    said += [f"{row['control']} is better than the pruned network." for row in controls if row["verdict"] == "worse"]
    return said


def _sizes_said(arm: Arm, dense: Arm) -> list[str]:
    """What a reader might take for granted about the sizes, where it is not so."""
    said, share = [], arm.kept / dense.kept
    if arm.kept > arm.trainable:
        said.append(
            f"{arm.name}: {arm.trainable / dense.kept:.3g} of the prunable weights are trained one by one, but"
            f" {share:.3g} are in use: those outside the mask are frozen or an offset, not zero. Sizes and speed-ups"
            " count what is in use; controls that train masks are left out, for they would set those weights to zero."
        )
    if share > 1:
        said.append(
            f"{arm.name}: it is larger than the dense network that it stands beside, which is another one:"
            f" {share:.3g} times as many prunable weights."
        )
    return said


def _needed(row: Mapping[str, Any]) -> str:
    """How much evidence the verdict would take, at the spread that was found."""
    known = {k: row[f"{k}_needed"] for k in ("seeds", "examples") if row[f"{k}_needed"] is not None}
    if not known:
        return "How many seeds would show it cannot be told from one."
    takes = " and ".join(f"about {n:,} {'paired ' if k == 'seeds' else 'test '}{k}" for k, n in known.items())
    there = " and ".join(f"{row[k]:,}" for k in known)
    return f"To tell a loss of {row['margin']:g} from none takes {takes}; there are {there}."


_READINGS = {
    "shuffle": (
        "other weights in the same layers do worse, so the choice of weights matters",
        "other weights in the same layers are not shown to do worse; the choice may be of layer densities only",
    ),
    "reinit": (
        "fresh weights under the same mask do worse, so the weights that training began from matter",
        "fresh weights under the same mask are not shown to do worse; the mask may be all that matters",
    ),
    "small-parameters": (
        "a dense network with as many trained parameters does worse",
        "a dense network with as many trained parameters is not shown to do worse",
    ),
}
"""What it means when the pruned network is better than a control, and when it is not shown to be."""
