"""Sparse training around a fixed cosine offset (Price & Tanner 2021, arXiv 2102.07655).

    W_l = a_l D_l + S_l,  S_l = 0 at the start, on a random support;  density = support / weights of the layers

The support says how many weights are trained and stored, not how many are zero: a D + S is dense, and D follows from
the layers' shapes. The support stays where it was drawn: the paper's RigL on S, and the baseline FORCE that it compares
with, are not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from surplus.pruning.budgets import Rule, check_density, prunable_blocks
from surplus.pruning.masks import density as share_of
from surplus.pruning.masks import keep_top, random_mask
from surplus.pruning.schedules.imp import Level
from surplus.pruning.scoring import score_on_task
from surplus.registry import method
from surplus.reparam.dct import DctPlusSparse
from surplus.space import generator
from surplus.tasks import Task
from surplus.training import fit


@method("pruning schedule", paper="Price & Tanner 2021, arXiv 2102.07655")
def dct_plus_sparse(
    task: Task,
    *,
    density: float,
    seeds: int | Sequence[int] = 5,
    rule: Rule | Literal["saliency"] = "epl",
    trainable: bool = True,
    exclude: Sequence[str] = (),
    **options: Any,
) -> list[Level]:
    """A network of cosine offsets with few trainable weights on top, from start to end.

    Here `Level.masks` is the support of S (and True on biases, normalisation and excluded layers, which are trained as
    they are); the weights of `Level.run.theta` are dense, a D + S, so a mask applied to them would destroy the network.
    To store one, keep the row of `Level.run.z`: the L factors, S on the support, the other weights.

    Args:
        task: what is trained.
        density: trainable share of the layers' weights; the L factors are not counted.
        seeds: one replica each; a seed decides the support, the other initial weights and the data order.
        rule: how the random support is spread over the layers: `epl` (as many in each layer), `epf` (for each filter),
            `uniform`, `erk`, or `erk-capped`, which keeps fewer than asked for once a layer is full; or `saliency` for
            the places of largest |D * dL/dS| at the start instead of random ones.
        trainable: train the factors; fixed at 1 if not.
        exclude: layers that are trained as they are.
        options: of `fit`.

    Returns:
        One level.
    """
    check_density(density)
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    space, layers = task.space, [b.name for b in prunable_blocks(task.space, exclude)]
    points = space.init_many(seeds)
    parts = [_on_support(task, t, s, density, rule, layers, trainable) for t, s in zip(points, seeds, strict=True)]
    supports = torch.stack([support for _, support in parts])
    run = fit(task, seeds=seeds, coordinates=[_same(part) for part, _ in parts], **options)
    start = torch.stack([part.to_theta(part.start()) for part, _ in parts])
    return [Level(share_of(space, supports[0], exclude), supports, start, run)]


def _on_support(
    task: Task,
    theta: Tensor,
    seed: int,
    density: float,
    rule: Rule | Literal["saliency"],
    layers: Sequence[str],
    trainable: bool,
) -> tuple[DctPlusSparse, Tensor]:
    """The coordinates of one replica, and its support (P,)."""
    space = task.space
    whole = [b.name for b in space.blocks if b.prunable and b.name not in layers]
    if rule != "saliency":
        support = random_mask(space, density, generator(seed, "dct-plus-sparse", "support"), rule, whole)
    else:
        nothing = torch.zeros(space.size, dtype=torch.bool)
        offset = DctPlusSparse(space, theta, nothing, layers=layers)
        score = score_on_task("snip", task, offset.to_theta(offset.start()), seed=seed)  # S = 0, so dL/dS is dL/dtheta
        support = keep_top(space, score, density=density, exclude=whole)
    return DctPlusSparse(space, theta, support, layers=layers, trainable=trainable), support


def _same(part: DctPlusSparse) -> Any:
    """The coordinates whatever the point and the seed: the part was made for them."""
    return lambda theta0, seed: part
