"""Subnetworks of random networks: weights never train, only which of them are used.

    edge-popup   theta = m * w, m = 1 for the k largest |score| of each layer    Ramanujan et al. 2020, arXiv 1911.13299
    supermask    theta = m * w, m ~ Bernoulli(sigmoid(logit)) at every step      Zhou et al. 2019, arXiv 1905.01067

Random weights w, with biases 0 and normalisation as it starts, are one of

    glorot-normal     N(0, 2 / (fan_in + fan_out))              signed-glorot     +-s, s its standard deviation
    kaiming-normal    N(0, 2 / fan_in)                          signed-kaiming    +-s, s its standard deviation

A learnt mask is used as it is; no weight is trained after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from surplus.data import Dataset
from surplus.errors import unknown
from surplus.pruning.budgets import check_density, prunable_blocks, whole_counts
from surplus.pruning.masks import density as density_of
from surplus.pruning.masks import keep_top
from surplus.pruning.schedules.imp import Level, from_masks
from surplus.registry import method
from surplus.reparam import LearntMask, Supermask, TopK
from surplus.space import WeightSpace, generator
from surplus.stats import Estimate
from surplus.tasks import Task
from surplus.training import Run, evaluate, fit
from surplus.training.loop import dataset_of

Weights = Literal["glorot-normal", "kaiming-normal", "signed-glorot", "signed-kaiming"]


@method("pruning schedule", paper="Ramanujan et al. 2020, arXiv 1911.13299; Diffenderfer & Kailkhura 2021, 2103.09377")
def edge_popup(
    task: Task,
    *,
    density: float,
    weights: Weights = "signed-kaiming",
    scaled: bool = False,
    binary: bool = False,
    seeds: int | Sequence[int] = 5,
    exclude: Sequence[str] = (),
    **options: Any,
) -> list[Level]:
    """The best part of a random network: a fixed share of each layer, chosen by learnt scores.

    The papers train scores by SGD at rate 0.1, momentum 0.9, weight decay 1e-4 (which shrinks unused scores), cosine
    schedule; here the recipe is the task's, or `recipe=` among the options.

    Args:
        task: what is learnt; its recipe moves the scores.
        density: share of each layer's weights that is used; in all, exactly this share.
        weights: how the frozen weights are drawn.
        scaled: divide their variance by the density, so that activations keep their size.
        binary: used weights of a layer all have its mean size (multi-prize tickets).
        seeds: one replica each.
        exclude: layers whose random weights are all used.
        options: of `fit`.

    Returns:
        One level: `start` the frozen weights, `masks` the learnt ones, and in `run` the network that they make.
    """
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    check_density(density)
    space, blocks = task.space, prunable_blocks(task.space, exclude)
    variance = 1 / density if scaled else 1.0
    start = torch.stack([random_point(space, s, weights, variance) for s in seeds])
    count = whole_counts([density * b.size for b in blocks], round(density * sum(b.size for b in blocks)))

    def coordinates(theta: Tensor, seed: int) -> TopK:
        return TopK(theta, _layers(space, exclude), _scores(space, seed, exclude), count, binary)

    run = fit(task, seeds=seeds, start=start, coordinates=coordinates, **options)
    return [_learnt(run, [coordinates(t, s) for t, s in zip(start, seeds, strict=True)], start, exclude)]


@method("pruning schedule", paper="Zhou, Lan, Liu & Yosinski 2019, arXiv 1905.01067, section 5")
def supermask(
    task: Task,
    *,
    density: float,
    weights: Weights = "signed-glorot",
    rescale: bool = True,
    lr: float = 100.0,
    seeds: int | Sequence[int] = 5,
    exclude: Sequence[str] = (),
    **options: Any,
) -> list[Level]:
    """A random network under a learnt random mask, which is then cut to an exact density.

    Learning does not fix the density: all probabilities begin at `density` (the paper's at 1/2) and go where the loss
    takes them. So the weights of highest probability, compared over the whole network, make the second level; nothing
    is trained for it. `expected` is the paper's accuracy, the mean over drawn masks.

    Args:
        task: what is learnt; logits move by its recipe, but by SGD with momentum 0.9 and no weight decay.
        density: share of the prunable weights that the last level keeps.
        weights: how the frozen weights are drawn.
        rescale: multiply each layer by size / kept (dynamic weight rescaling).
        lr: learning rate of the logits; so large because the sigmoid's slope and the weights make gradients tiny.
        seeds: one replica each.
        exclude: layers whose random weights are all used.
        options: of `fit`.

    Returns:
        Two levels: the learnt masks where the probability is at least one half, and the cut ones. In the second, and
        where nothing was rescaled in the first, `start` under the mask is the network.
    """
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    check_density(density)
    recipe = (options.pop("recipe", None) or task.recipe).model_dump()
    task = task.with_recipe(**recipe | {"optimiser": "sgd", "lr": lr, "momentum": 0.9, "weight_decay": 0.0})
    space, layers = task.space, _layers(task.space, exclude)
    start = torch.stack([random_point(space, s, weights) for s in seeds])
    logits = torch.full((sum(b - a for a, b in layers),), density, dtype=space.dtype).logit(eps=1e-3)

    def coordinates(theta: Tensor, seed: int) -> Supermask:
        return Supermask(theta, layers, logits, rescale)

    run = fit(task, seeds=seeds, start=start, coordinates=coordinates, **options)
    parts = [coordinates(t, s) for t, s in zip(start, seeds, strict=True)]
    scores = torch.zeros_like(start).index_copy(1, parts[0].at, run.z)
    masks = torch.stack([keep_top(space, s, density=density, exclude=exclude, min_per_layer=1) for s in scores])
    used = rescaled(space, start, masks, exclude) if rescale else start
    return [_learnt(run, parts, start, exclude), untrained(task, masks, used, seeds, **options)]


def random_point(space: WeightSpace, seed: int, weights: Weights, variance: float = 1.0) -> Tensor:
    """A random network without biases.

    Args:
        space: the network.
        seed: of the draw.
        weights: which distribution; a signed one has the signs of the normal one.
        variance: multiplies the variance.

    Returns:
        (P,).

    Raises:
        InputError: unknown distribution.
    """
    if weights not in get_args(Weights):
        raise unknown("distribution of weights", weights, get_args(Weights))
    theta, chance = space.init(seed), generator(seed, "random weights")
    form, _, family = weights.replace("-normal", "").rpartition("-")
    for block in space.blocks:
        if block.kind == "bias":
            theta[block.slice] = 0
        elif block.prunable:
            fan_in, fan_out = block.size // block.shape[0], block.size // block.shape[1]
            values = torch.randn(block.size, generator=chance, dtype=theta.dtype)
            std = (2 * variance / (fan_in + fan_out if family == "glorot" else fan_in)) ** 0.5
            theta[block.slice] = std * (values.sign() if form == "signed" else values)
    return theta


def rescaled(space: WeightSpace, theta: Tensor, masks: Tensor, exclude: Iterable[str] = ()) -> Tensor:
    """Points (K, P) with each layer multiplied by size / kept of its mask: dynamic weight rescaling, once."""
    out = theta.clone()
    for a, b in _layers(space, exclude):
        out[:, a:b] *= (b - a) / masks[:, a:b].sum(1, keepdim=True).clamp(min=1)
    return out


def untrained(task: Task, masks: Tensor, start: Tensor, seeds: Sequence[int], **options: Any) -> Level:
    """The subnetworks masks * start (K, P) as they are, without a step of training."""
    recipe = options.get("recipe") or task.recipe
    last = recipe.duration.steps(-(-len(task.train) // recipe.batch_size))
    return from_masks(task, masks, start, seeds, last, **options)


def expected(
    level: Level,
    draws: int = 10,
    *,
    rescale: bool = True,
    exclude: Sequence[str] = (),
    data: str | Dataset = "test",
) -> Estimate:
    """The metric of learnt supermasks as the paper measures it: over masks drawn from their probabilities.

    Args:
        level: the first one of `supermask`.
        draws: how many masks; the spread over them gives the standard error.
        rescale: as in learning.
        exclude: as in learning.
        data: "train", "test", "validation" or other examples.

    Returns:
        Estimate of shape (K,).
    """
    run, found = level.run, []
    for seed, weights, z in zip(run.seeds, level.start, run.z, strict=True):
        part = Supermask(weights, _layers(run.task.space, exclude), rescale=rescale)
        drawn = part.draw([generator(seed, "supermask", r) for r in range(draws)])
        thetas = part.to_theta(z.expand(draws, -1), drawn).to(run.device)
        found.append(evaluate(run.task, thetas, dataset_of(run.task, data)).metric.cpu())
    return Estimate.over(torch.stack(found, dim=1))


def _layers(space: WeightSpace, exclude: Iterable[str]) -> list[tuple[int, int]]:
    """Where the masked tensors lie in the flat vector."""
    return [(b.start, b.stop) for b in prunable_blocks(space, exclude)]


def _scores(space: WeightSpace, seed: int, exclude: Iterable[str]) -> Tensor:
    """First scores (d,), uniform in +- 1 / sqrt(fan_in) as the authors draw them."""
    chance = generator(seed, "edge-popup scores")
    parts = [
        (2 * torch.rand(b.size, generator=chance, dtype=space.dtype) - 1) * (b.shape[0] / b.size) ** 0.5
        for b in prunable_blocks(space, exclude)
    ]
    return torch.cat(parts)


def _learnt(run: Run, parts: Sequence[LearntMask], start: Tensor, exclude: Iterable[str]) -> Level:
    """The level of masks that were learnt, at the mean density of the replicas."""
    masks = torch.stack([part.mask(z) for part, z in zip(parts, run.z, strict=True)])
    share = sum(density_of(run.task.space, mask, exclude) for mask in masks) / len(masks)
    return Level(share, masks, start, run)
