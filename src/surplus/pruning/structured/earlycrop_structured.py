"""EarlyCroP of units: early in training, remove the units whose gates carry the least gradient flow.

    s_j = | d(v . grad L) / dc_j | for a gate c_j = 1 on each hidden unit        (`unit_scores`)

All units are ranked together, one at least stays in each layer, and the network that trains on is physically smaller:
the very function of the masked one. Inputs and outputs of the network stay. Where units are read by several layers, as
through residual sums, a channel is worth the sum of |theta * H g| over all the weights that are tied to it, relative to
its group, and `shrink` removes it. Rachwan et al. 2022, arXiv 2206.10451, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.pruning.budgets import check_density, prunable_blocks
from surplus.pruning.schedules.earlycrop import BATCHES, after_pruning, cropit_densities, flow_batch, until_settled
from surplus.pruning.scores.crop import PAPER, crop, readers, unit_mask, unit_scores
from surplus.pruning.structured.dead_units import remove_dead_units
from surplus.pruning.structured.shrink import shrink
from surplus.pruning.structured.smaller import smaller_task
from surplus.registry import method
from surplus.space import WeightSpace
from surplus.tasks import Recipe, Task
from surplus.training import Run, fit


@method("structured pruning", paper=PAPER)
def earlycrop_structured(
    task: Task,
    *,
    keep: float,
    steps: int = 100,
    prune_to: int = 100,
    epochs: int | None = None,
    seeds: int | Sequence[int] = 5,
    recipe: Recipe | None = None,
    **options: Any,
) -> list[Run]:
    """Train until the weights have stopped moving fast, remove units by gradient flow, train the smaller network on.

    Args:
        task: what is trained.
        keep: share of the hidden units that stay.
        steps: CroPit's cuts before the last one, back to back; those that would remove nothing are left out.
        prune_to: epochs after which to prune at the latest.
        epochs: after pruning; as long as the recipe when None.
        seeds: one network each.
        recipe: instead of the task's; its rate is held before pruning and is the peak of a one-cycle schedule after.
        options: of `fit`.

    Returns:
        One run of one replica per seed, each on a task with its own smaller network.
    """
    check_density(keep)
    seeds, recipe = list(range(seeds)) if isinstance(seeds, int) else list(seeds), recipe or task.recipe
    early = until_settled(task, density=keep, units=True, seeds=seeds, prune_to=prune_to, recipe=recipe, **options)
    later, runs = after_pruning(recipe, epochs), []
    for seed, theta in zip(seeds, early.theta, strict=True):
        module = without_units(task, theta, keep, steps=steps, seed=seed, device=options.get("device", "cpu"))
        small, start = smaller_task(task, module)
        runs.append(fit(small, seeds=[seed], start=start[None], recipe=later, **options))
    return runs


def without_units(
    task: Task, theta: Tensor, keep: float, *, steps: int = 100, seed: int = 0, device: str = "cpu"
) -> nn.Module:
    """The network at a point (P,), with this share of its hidden units left, on the CPU and in evaluation mode."""
    space, there, point = task.space, task.to(device), theta.to(device)
    buffers = there.statistics(point)
    module = space.write(point, buffers).cpu()
    if chain(space):
        mask = unit_mask(space, kept_units(there, point, keep, steps=steps, seed=seed))
        return remove_dead_units(module, mask, inputs=False)
    score = crop(space, point, flow_batch(there, seed), loss=task.loss, parts=BATCHES, buffers=buffers)
    return shrink(module, task.prepare(task.train.inputs[:2]), keep=keep, importance=score.cpu())


def chain(space: WeightSpace) -> bool:
    """Whether each layer's units are read by one layer alone, so that a unit's gate is a matter of that layer."""
    layers = [b.layer for b in prunable_blocks(space)]
    try:
        return list(readers(space)) == layers[:-1]
    except InputError:  # what cannot be traced may still be followed along the gradient's graph, by `shrink`
        return False


def kept_units(task: Task, theta: Tensor, keep: float, *, steps: int = 100, seed: int = 0) -> dict[str, Tensor]:
    """Which units stay after CroPit's cuts, (units,) booleans by layer, the gates' scores computed anew before each."""
    space, batch = task.space, flow_batch(task, seed)
    kept = {layer: torch.ones(space[f"{layer}.weight"].shape[0], dtype=torch.bool) for layer in readers(space)}
    size = sum(map(len, kept.values()))
    for level in cropit_densities(keep, steps):
        count = max(round(level * size), len(kept))
        if count == sum(int(units.sum()) for units in kept.values()):
            continue
        mask = unit_mask(space, kept).to(theta.device)
        point = theta.masked_fill(~mask, 0)
        buffers = task.statistics(point)
        scores = unit_scores(space, point, batch, loss=task.loss, mask=mask, parts=BATCHES, buffers=buffers)
        kept = best_units(scores, kept, count)
    return kept


def best_units(scores: dict[str, Tensor], alive: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The `count` living units of highest score, all layers together, and each layer's best among them in any case."""
    worth = torch.cat([scores[layer].double().cpu().masked_fill(~alive[layer], -torch.inf) for layer in alive])
    sizes = [len(units) for units in alive.values()]
    firsts = [int(part.argmax()) for part in worth.split(sizes)]
    best = torch.tensor([sum(sizes[:i]) + first for i, first in enumerate(firsts)])
    worth[best] = torch.inf
    kept = torch.zeros(len(worth), dtype=torch.bool)
    kept[worth.argsort(descending=True, stable=True)[:count]] = True
    return dict(zip(alive, kept.split(sizes), strict=True))
