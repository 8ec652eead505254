"""What weight scores share: gradients on one batch, a balanced batch to score on, and iterated scoring.

A weight score is a function (space, theta (P,), batch (x, y), ...) -> (P,), high = keep. An iterated score is computed
again after each of n cuts, on the network as cut so far; what was removed is pinned to -inf and never comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from surplus.errors import InputError
from surplus.pruning.budgets import Kind, density_schedule, prunable_blocks
from surplus.pruning.masks import Scope, keep_top
from surplus.registry import find
from surplus.space import WeightSpace
from surplus.space.weightspace import Buffers

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
    point = theta.detach().clone().requires_grad_()
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
    exclude = tuple(exclude)
    mask = torch.ones(space.size, dtype=torch.bool, device=theta.device)
    size = sum(b.size for b in prunable_blocks(space, exclude))
    for level in density_schedule(density, rounds, schedule):
        values = fn(space, theta.masked_fill(~mask, 0), batch, **options).to(theta.device)
        count = round(level * size)
        mask = keep_top(
            space, values, count=count, scope=scope, alive=mask, exclude=exclude, min_per_layer=min_per_layer
        )
    return mask
