"""What weight scores share: gradients on one batch, a balanced batch to score on, and iterated scoring.

A weight score is a function (space, theta (P,), batch (x, y), ...) -> (P,), high = keep; its trait `needs` names what
else it reads: "batch", "generator", "start" (the weights before training). An iterated score is computed
again after each of n cuts, on the network as cut so far; what was removed is pinned to -inf and never comes back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from surplus.errors import InputError
from surplus.pruning.budgets import Kind, density_schedule, prunable_blocks
from surplus.pruning.masks import Scope, keep_top, pattern_of
from surplus.registry import find
from surplus.space import WeightSpace
from surplus.space import generator as seeded_generator
from surplus.space.weightspace import Buffers
from surplus.tasks import Task

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Score = Callable[..., Tensor]


def each_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each example: (B, classes), (B,) -> (B,)."""
    return cross_entropy(logits, targets, reduction="none")


def first_gradient(
    space: WeightSpace,
    theta: Tensor,
    batch: Batch,
    loss: Loss = each_cross_entropy,
    *,
    temperature: float = 1.0,
    buffers: Buffers | None = None,
    train: bool = False,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]:
    """The gradient (P,) of the mean loss at logits / temperature, and the point that it can be differentiated in.

    Raises:
        InputError: there is no batch.
    """
    if batch is None:
        raise InputError("this score reads the loss on examples; give it a batch (inputs, targets)")
    x, y = batch
    point = theta.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(space.apply(point, x, buffers, train=train) / temperature, y).mean()
        (g,) = torch.autograd.grad(value, point, create_graph=create_graph)
    return g, point


def balanced_rows(targets: Tensor, per_class: int, generator: Generator) -> Tensor:
    """Row numbers of `per_class` random examples of every class, for scores that look at one batch.

    Args:
        targets: (n,) integer classes.
        per_class: examples of each class; GraSP takes 10, and the benchmark of SynFlow 10 for every score.
        generator: source of the choice.
    """
    order = torch.randperm(len(targets), generator=generator, device=generator.device).to(targets.device)
    shuffled = targets[order]
    return torch.cat([order[(shuffled == k).nonzero().squeeze(1)[:per_class]] for k in shuffled.unique()])


def iterate_score(
    score: str | Score,
    space: WeightSpace,
    theta: Tensor,
    batch: Batch | None = None,
    *,
    density: float,
    rounds: int | None = None,
    schedule: Kind = "exponential",
    scope: Scope = "global",
    exclude: Iterable[str] = (),
    min_per_layer: int = 0,
    **options: Any,
) -> Tensor:
    """A mask by a weight score, in one shot or in many.

    Args:
        score: a registered weight score's name, or a function of that shape.
        space: the network.
        theta: (P,) the point to prune, usually an initial one.
        batch: (x, y) what the score looks at; magnitude and random need none.
        density: kept fraction of the prunable weights at the end.
        rounds: cuts on the way; the score's own default when None (100 for SynFlow, 1 for the others).
        schedule: densities on the way, see `density_schedule`.
        scope: compare across layers, or within each.
        exclude: layers to keep whole.
        min_per_layer: keep at least so many weights of each tensor.
        options: passed to the score (loss=, generator=, buffers= ...).

    Returns:
        mask (P,); the masks of successive rounds nest.
    """
    row = find("weight score", score) if isinstance(score, str) else None
    fn = cast(Score, score if row is None else row.fn)
    rounds = rounds or (row.traits.get("rounds", 1) if row else 1)
    rounds = 1 if pattern_of(scope) else rounds  # a pattern has one density
    exclude = tuple(exclude)
    mask = torch.ones(space.size, dtype=torch.bool, device=theta.device)
    size = sum(b.size for b in prunable_blocks(space, exclude))
    for level in density_schedule(density, rounds, schedule):
        values = fn(space, theta.masked_fill(~mask, 0), batch, **options).to(theta.device)
        much: dict[str, Any] = {"count": round(level * size)} if scope in ("global", "layer") else {"density": level}
        mask = keep_top(space, values, **much, scope=scope, alive=mask, exclude=exclude, min_per_layer=min_per_layer)
    return mask


PER_CLASS = 10
"""Examples of each class in the batch that a score looks at, as the benchmark of SynFlow takes them."""


def score_on_task(
    score: str | Score,
    task: Task,
    theta: Tensor,
    *,
    start: Tensor | None = None,
    seed: int = 0,
    trained: bool = False,
) -> Tensor:
    """A weight score of a task's network, with all that it reads taken from the task's training data.

    Args:
        score: a registered weight score's name, or a function of that shape.
        task: network, data and loss.
        theta: (P,) the point to score.
        start: (P,) the weights before training, for scores that compare.
        seed: of the batch, or of random scores.
        trained: score with batch-norm statistics of this point; with fresh ones, as for initial weights, if not.

    Returns:
        (P,), high = keep.

    Raises:
        InputError: the score compares with weights before training, and there are none.
    """
    fn, options = _on_task(score, task, start=start, seed=seed)
    if "buffers" in inspect.signature(fn).parameters and trained:
        options["buffers"] = task.statistics(theta)
    batch = options.pop("batch")
    return fn(task.space, theta, batch, **options).detach()


def iterate_on_task(score: str | Score, task: Task, theta: Tensor, *, seed: int = 0, **settings: Any) -> Tensor:
    """`iterate_score` of an initial point, with all that the score reads taken from the task's training data."""
    _, options = _on_task(score, task, start=theta, seed=seed)
    return iterate_score(score, task.space, theta, **options, **settings)


def score_batch(task: Task, seed: int, per_class: int = PER_CLASS) -> Batch:
    """A fixed batch of training examples, prepared for the network: `per_class` of each class, or 128 at random."""
    draw, targets = seeded_generator(seed, "score batch"), task.train.targets
    if task.objective.name == "classification":
        rows = balanced_rows(targets, per_class, draw)
    else:
        rows = torch.randperm(len(targets), generator=draw)[:128]
    return task.prepare(task.train.inputs[rows]), targets[rows]


def _on_task(score: str | Score, task: Task, *, start: Tensor | None, seed: int) -> tuple[Score, dict[str, Any]]:
    """The score's function, and what it reads beside the network and the point."""
    row = find("weight score", score) if isinstance(score, str) else None
    fn = cast(Score, score if row is None else row.fn)
    takes = inspect.signature(fn).parameters
    needs = ("batch",) if row is None else row.traits.get("needs", ())
    options: dict[str, Any] = {"batch": score_batch(task, seed) if "batch" in needs else None}
    if "generator" in takes:
        options["generator"] = seeded_generator(seed, "weight score", score if isinstance(score, str) else fn.__name__)
    if "start" in takes:
        if start is None:
            raise InputError(f"the score {score!r} compares with the weights before training; give them as start=")
        options["start"] = start
    if "loss" in takes:
        options["loss"] = task.loss
    return fn, options
