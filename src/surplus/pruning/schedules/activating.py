"""Activating while pruning: a part of each cut goes to weights whose removal wakes neurons (Liu et al. 2023).

    dead(x) = share of the ReLU outputs that are 0 for input x          dynamic rate = E_x dead(x)
                                                                        static rate  = share that are 0 for all x
    cut of a round = (r - p) by the base score, then p: of the weights theta < 0, those of smallest |theta - start|

arXiv 2212.06145 (TMLR 2023). What enters a hidden layer is not negative, so that removing a negative weight raises
pre-activations; a weight that hardly moved matters little. Inputs of the first layer may be negative: `skip_first`.
A round takes one training here, whose result is both what is reported and what the next round cuts, as in iterative
magnitude pruning. The reference code trains the same subnetwork from the same point once more before it cuts: twice the
compute for what is here the same run. Its cut also reaches batch normalisation, which is never pruned here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from surplus.data import Dataset
from surplus.errors import InputError, unknown
from surplus.pruning.budgets import check_density, density_schedule, prunable_blocks
from surplus.pruning.masks import keep_top
from surplus.pruning.schedules.imp import Cut, Level, Trained, imp, levels_for, levels_from
from surplus.pruning.scoring import Score, score_on_task
from surplus.registry import method
from surplus.space import WeightSpace, generator
from surplus.space.units import evaluating
from surplus.tasks import Task

PAPER = "Liu, Ghosh, Tan & Motani 2023, arXiv 2212.06145"
Choice = Literal["negative", "positive", "random"]
"""Which weights the part for activation takes: the slowest negative ones, or a control: slowest positive, any."""

_RELUS = {F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


# ---- dead neurons ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeadRate:
    """How many ReLU outputs are 0, in all and layer by layer; every position of a convolution's map is a neuron."""

    dynamic: float
    """Share that is 0 for an input, averaged over inputs."""
    static: float
    """Share that is 0 for all inputs."""
    neurons: int
    layers: dict[str, DeadRate] = field(default_factory=dict)
    """By the name of the module that calls ReLU, in the order of the calls; "#2" marks a module's second call."""


@method("measure", paper=PAPER, name="dead-neuron-rate")
def dead_rate(module: nn.Module, batches: Iterable[Tensor]) -> DeadRate:
    """Dynamic and static dead-neuron rate of a network on inputs.

    Args:
        module: any module; ReLUs are seen whether they are modules or function calls. It runs in evaluation mode.
        batches: inputs (B, ...), prepared as the module takes them; the first axis of all activations is B.

    Returns:
        The rates in all and per layer.

    Raises:
        InputError: there is no input, or the network calls no ReLU.
    """
    examples = 0
    zeros: dict[str, Tensor] = {}  # each (neurons,): for how many inputs its output is 0
    with evaluating(module), _outputs_of_relus(module) as seen:
        for x in batches:
            seen.clear()
            module(x)
            examples += len(x)
            for name, out in seen.items():
                count = (out.flatten(1) == 0).sum(0)
                zeros[name] = zeros[name] + count if name in zeros else count
    if not zeros:
        raise InputError("no ReLU was called: this network has none, or there were no inputs to run it on")
    layers = {name: _rate(count, examples) for name, count in zeros.items()}
    whole = _rate(torch.cat(list(zeros.values())), examples)
    return DeadRate(whole.dynamic, whole.static, whole.neurons, layers)


def dead_rate_on_task(task: Task, theta: Tensor, data: Dataset, batch: int = 1024) -> DeadRate:
    """`dead_rate` of a task's network at the point theta (P,), with batch-norm statistics of that point."""
    module = task.space.write(theta, task.statistics(theta))
    return dead_rate(module, (x.to(theta.device) for x, _ in task.batches(data, batch)))


def _rate(zeros: Tensor, examples: int) -> DeadRate:
    neurons = len(zeros)
    return DeadRate(int(zeros.sum()) / (neurons * examples), int((zeros == examples).sum()) / neurons, neurons)


@contextmanager
def _outputs_of_relus(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The outputs of ReLU calls, by the name of the module that makes them, as the network runs."""
    path: list[str] = []
    seen: dict[str, Tensor] = {}

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: path.append(name)

    def leave(*_: Any) -> None:
        path.pop()

    def note(out: Tensor) -> None:
        name, calls = path[-1] or "relu", 1
        while name in seen:
            calls += 1
            name = f"{path[-1] or 'relu'}#{calls}"
        seen[name] = out.clone()  # what comes after may work in place

    handles = [part.register_forward_pre_hook(enter(name)) for name, part in module.named_modules()]
    handles += [part.register_forward_hook(leave) for part in module.modules()]
    try:
        with _Relus(note):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


class _Relus(TorchFunctionMode):
    """Tells the outputs of all ReLU calls to a function."""

    def __init__(self, note: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _RELUS:
            self.note(out)
        return out


# ---- the cut --------------------------------------------------------------------------------------------------------


def activating_cut(
    space: WeightSpace,
    theta: Tensor,
    start: Tensor,
    mask: Tensor,
    count: int,
    *,
    choose: Choice = "negative",
    skip_first: bool = False,
    exclude: Iterable[str] = (),
    generator: Generator | None = None,
) -> Tensor:
    """Remove the `count` negative weights that moved least, over all layers at once.

    Args:
        space: the network.
        theta: (P,) trained weights.
        start: (P,) where their training began.
        mask: (P,) what is still there.
        count: how many to remove; fewer go where there are fewer candidates. A weight stays in each layer.
        choose: "negative"; "positive" and "random" are controls.
        skip_first: leave the first prunable layer alone.
        exclude: further layers to leave alone.
        generator: for "random".

    Returns:
        mask (P,), a subset of the given one.
    """
    if choose not in get_args(Choice):
        raise unknown("choice of weights to activate by", choose, get_args(Choice))
    spared = [*exclude, *([prunable_blocks(space)[0].name] if skip_first else [])]
    sign = {"negative": theta < 0, "positive": theta > 0, "random": torch.ones_like(mask)}[choose]
    slowness = _noise(theta, generator) if choose == "random" else (theta - start).abs()
    score = slowness.masked_fill(~sign, torch.inf)
    layers = [b.slice for b in prunable_blocks(space, spared)]
    alive = [int(mask[s].sum()) for s in layers]
    candidates = [int((mask & sign)[s].sum()) for s in layers]
    count = min(count, sum(max(min(c, a - 1), 0) for c, a in zip(candidates, alive, strict=True)))
    return keep_top(space, score, count=sum(alive) - count, alive=mask, exclude=spared, min_per_layer=1)


def _noise(like: Tensor, generator: Generator | None) -> Tensor:
    if generator is None:
        raise InputError("random weights need a generator to draw them; give generator=")
    return torch.rand(len(like), generator=generator, device=generator.device).to(like)


def activating_to(
    density: float,
    activating: float = 0.02,
    choose: Choice = "negative",
    score: str | Score = "magnitude",
    exclude: Sequence[str] = (),
    skip_first: bool = False,
) -> Cut:
    """A cut down to a kept share of all prunable weights, a part of it for activation.

    Args:
        density: kept share after the cut.
        activating: p: int(p * alive) of the weights that go are chosen to activate, or all if fewer go.
        choose: see `activating_cut`.
        score: decides the rest of the cut: a weight score's name, or a function (space, theta, batch) -> (P,).
        exclude: layers to leave whole.
        skip_first: leave the first prunable layer to the score.
    """

    def decide(t: Trained) -> Tensor:
        space, blocks = t.task.space, prunable_blocks(t.task.space, exclude)
        alive = sum(int(t.mask[b.slice].sum()) for b in blocks)
        goal = round(density * sum(b.size for b in blocks))
        extra = min(int(activating * alive), alive - goal)
        values = score_on_task(score, t.task, t.theta, start=t.start, seed=t.seed, trained=True)
        keep: dict[str, Any] = {"exclude": exclude, "min_per_layer": 1}
        mask = keep_top(space, values, count=goal + extra, alive=t.mask, **keep)
        chance = generator(t.seed, "activating while pruning", alive)
        settings: dict[str, Any] = {"choose": choose, "skip_first": skip_first, "exclude": exclude}
        mask = activating_cut(space, t.theta, t.start, mask, extra, generator=chance, **settings)
        return keep_top(space, values, count=goal, alive=mask, **keep)  # where candidates were too few

    return decide


@method("pruning schedule", paper=PAPER)
def activating_while_pruning(
    task: Task,
    *,
    density: float,
    rate: float = 0.2,
    activating: float = 0.02,
    choose: Choice = "negative",
    score: str | Score = "magnitude",
    rewind_step: int = 0,
    seeds: int | Sequence[int] = 5,
    exclude: Sequence[str] = (),
    skip_first: bool = False,
    **options: Any,
) -> list[Level]:
    """Iterative pruning with rewinding, in which a part of each cut removes slow negative weights to wake neurons.

    Args:
        task: what is trained.
        density: kept share of the prunable weights at the end.
        rate: largest share of the surviving weights that a round removes, the part for activation included.
        activating: p, that part: a share of the surviving weights, at most `rate`; the paper takes 0.02 of 0.2.
        choose: "negative", or the controls "positive" and "random".
        score: decides the rest of each cut.
        rewind_step: where to go back to; 0 is the initial weights.
        seeds: one replica each.
        exclude: layers to leave whole.
        skip_first: leave the first prunable layer to the score.
        options: of `fit`.

    Returns:
        `Level`s, the dense one first.

    Raises:
        InputError: `activating` is larger than `rate`, or negative.
    """
    check_density(density)
    if not 0 <= activating <= rate:
        raise InputError(f"activating is a part of the rate {rate}, so it lies in [0, {rate}]; got {activating}")
    goals = density_schedule(density, levels_for(density, rate)) if density < 1 else ()
    cuts = [activating_to(d, activating, choose, score, exclude, skip_first) for d in goals]
    (dense,) = imp(task, levels=0, rewind_step=rewind_step, seeds=seeds, **options)
    return list(levels_from(dense, cuts, step=rewind_step, **options))
