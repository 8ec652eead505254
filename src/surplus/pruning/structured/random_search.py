"""Random search among small networks cut out of a large one, before any training (Farahani 2024, arXiv 2403.08265).

    candidate n keeps round(k h_l) units of each hidden layer, drawn uniformly, with the parent's initial values
    best = argmin_n  loss of candidate n on training data, at initialisation

A neutral baseline: the paper finds that the best of many such candidates trains no better than any of them. A candidate
is physically smaller. Its weights keep the parent's size though each unit now reads fewer others; `rescale` multiplies
a layer's weights by sqrt(inputs before / inputs after), about 1 / sqrt(k), instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain as chain_of
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn

from surplus.data import Dataset
from surplus.errors import InputError, unknown
from surplus.pruning.budgets import check_density
from surplus.pruning.scoring import first_gradient
from surplus.pruning.structured.shrink import shrink
from surplus.pruning.structured.smaller import smaller_task
from surplus.registry import method
from surplus.space import generator
from surplus.space.units import resized
from surplus.tasks import Task
from surplus.training import Run, evaluate, fit

_AT_ONCE = 2**24
"""Weights of all candidates that are scored together."""


@dataclass(frozen=True)
class Search:
    """What a random search found."""

    task: Task
    """The task with the smaller network, which all candidates share."""
    theta: Tensor
    """(P',) initial weights of the best candidate."""
    scores: Tensor
    """(candidates,) the criterion, in the order of the draws."""
    best: int
    """Which candidate it is."""


@method("structured pruning", paper="Farahani 2024, arXiv 2403.08265")
def random_search(
    task: Task,
    *,
    keep: float,
    seeds: int | Sequence[int] = 5,
    budget: int = 100,
    criterion: str = "loss",
    examples: int = 5000,
    rescale: bool = False,
    **options: Any,
) -> list[Run]:
    """Train, for each seed, the best of many random small networks cut out of the seed's initial network.

    Args:
        task: what is trained; chains of linear layers are cut here, other networks by `shrink`.
        keep: share of each hidden layer's units.
        seeds: one parent and one search each.
        budget: candidates; 1 is a random small network.
        criterion: `loss` (lowest), `accuracy` (highest metric) or `gradient-norm` (largest), on training data.
        examples: how many training examples the criterion is computed on, the same ones for all.
        rescale: make up for the smaller number of inputs.
        options: of `fit`.

    Returns:
        A run of one replica for each seed, on a task of its own.
    """
    runs = []
    for seed in list(range(seeds)) if isinstance(seeds, int) else seeds:
        found = search(
            task,
            task.space.init(seed),
            keep=keep,
            budget=budget,
            criterion=criterion,
            examples=examples,
            rescale=rescale,
            draws=generator(seed, "random search"),
            device=options.get("device", "cpu"),
        )
        runs.append(fit(found.task, seeds=[seed], start=found.theta[None], **options))
    return runs


def search(
    task: Task,
    theta: Tensor,
    *,
    keep: float,
    draws: Generator,
    budget: int = 100,
    criterion: str = "loss",
    examples: int = 5000,
    rescale: bool = False,
    device: str = "cpu",
) -> Search:
    """The best of `budget` random small networks cut out of the point theta, before training.

    Args:
        task: network and training data; test data are not looked at.
        theta: (P,) the parent.
        keep: share of each hidden layer's units, in (0, 1].
        draws: chooses the units, candidate after candidate: a smaller budget sees the first of the same candidates.
        budget: how many.
        criterion: `loss`, `accuracy` or `gradient-norm`.
        examples: how many training examples to score on.
        rescale: make up for the smaller number of inputs.
        device: where to score.

    Raises:
        InputError: a share, a budget or a criterion that there is not; a network without hidden units to choose from.
        MissingExtra: the network is no chain of linear layers and Torch-Pruning is not installed.
    """
    check_density(keep)
    if criterion not in _CRITERIA:
        raise unknown("criterion", criterion, _CRITERIA)
    if budget < 1 or examples < 1:
        raise InputError(f"a search looks at one candidate and one example at least; got {budget=} and {examples=}")
    data, (score, best_of) = _sample(task.train, examples), _CRITERIA[criterion]
    small, points = candidates(task, theta, keep=keep, draws=draws, rescale=rescale)
    at_once = max(1, _AT_ONCE // small.space.size)
    best, winner, scores = 0, torch.empty(0), torch.empty(0)
    for begin in range(0, budget, at_once):
        part = torch.stack(list(islice(points, min(at_once, budget - begin))))
        scores = torch.cat([scores, score(small, part.to(device), data).cpu()])
        best = int(best_of(scores))
        winner = part[best - begin] if best >= begin else winner
    return Search(small, winner, scores, best)


def candidates(
    task: Task, theta: Tensor, *, keep: float, draws: Generator, rescale: bool = False
) -> tuple[Task, Iterator[Tensor]]:
    """Random small networks without end, each with the parent's values: the task of their shape, and points (P',).

    Args:
        task: network and training data.
        theta: (P,) the parent.
        keep: share of each hidden layer's units (or channels), at least one.
        draws: chooses the units; every subset is equally likely.
        rescale: multiply weights by sqrt(inputs before / inputs after).

    Raises:
        InputError: a network with frozen weights, or without hidden units to choose from.
        MissingExtra: the network is no chain of linear layers and Torch-Pruning is not installed.
    """
    parent = task.space.write(theta)
    if not all(p.requires_grad for p in parent.parameters()):
        raise InputError("some weights are frozen, and a search moves all of them; make them trainable first")
    chain = list(_linear_chain(parent).values())
    if not chain:
        return _shrunk(task, parent, keep, draws, rescale)

    def choose() -> list[Tensor]:
        sizes = [layer.out_features for layer in chain[:-1]]
        return [torch.randperm(n, generator=draws)[: max(1, round(keep * n))].sort().values for n in sizes]

    units = choose()
    small, _ = smaller_task(task, subnetwork(parent, units))
    factor = _factor(small, task) if rescale else torch.ones(small.space.size)
    points = (theta[_places(task, u)] * factor.to(theta) for u in chain_of([units], iter(choose, None)))
    return small, points


def _shrunk(
    task: Task, parent: nn.Module, keep: float, draws: Generator, rescale: bool
) -> tuple[Task, Iterator[Tensor]]:
    """The same for any network whose channels can be followed; noise summed over a channel favours no subset."""
    example = task.prepare(task.train.inputs[:1])

    def choose() -> nn.Module:
        noise = torch.rand(task.space.size, generator=draws)
        return shrink(parent, example, keep=keep, importance=noise, scope="layer")

    module = choose()
    small, _ = smaller_task(task, module)
    factor = _factor(small, task) if rescale else torch.ones(small.space.size)
    return small, (small.space.read(m) * factor for m in chain_of([module], iter(choose, None)))


def subnetwork(parent: nn.Module, units: Sequence[Tensor]) -> nn.Module:
    """The chain of linear layers that is left of `parent` when each hidden layer keeps these units.

    Args:
        parent: linear layers one after another in `nn.Sequential`, with anything without weights between them.
        units: for each hidden layer the positions of the units to keep.

    Raises:
        InputError: another kind of network, or not one set of units for each hidden layer.
    """
    chain = list(_linear_chain(parent).values())
    if len(chain) != len(units) + 1:
        hidden = max(len(chain) - 1, 0)
        raise InputError(f"{len(units)} sets of units were given for a network with {hidden} hidden layers")
    sides = zip(chain, [*units, None], [None, *units], strict=True)
    return _rebuilt(parent, {layer: resized(layer, rows, columns) for layer, rows, columns in sides})


def _places(task: Task, units: Sequence[Tensor]) -> Tensor:
    """Where the values of `subnetwork(parent, units)` lie in the parent's theta, (P',)."""
    names = list(_linear_chain(task.space.module))
    rows, columns = dict(zip(names, units, strict=False)), dict(zip(names[1:], units, strict=True))
    places = []
    for block in task.space.blocks:
        at = torch.arange(block.start, block.stop).view(block.shape)
        at = at[rows[block.layer]] if block.layer in rows else at
        places.append((at[:, columns[block.layer]] if at.dim() == 2 and block.layer in columns else at).flatten())
    return torch.cat(places)


def _rebuilt(part: nn.Module, pieces: dict[nn.Module, nn.Module]) -> nn.Module:
    """The same nest of `nn.Sequential` with some layers exchanged."""
    if type(part) is not nn.Sequential:
        return pieces.get(part, part)
    out = nn.Sequential()
    for name, child in part.named_children():
        out.add_module(name, _rebuilt(child, pieces))
    return out


def _linear_chain(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a plain chain in order, by name; none for any other network."""
    leaves = {n: m for n, m in module.named_modules(remove_duplicate=False) if type(m) is not nn.Sequential}
    linear = {n: m for n, m in leaves.items() if type(m) is nn.Linear}
    others = [m for m in leaves.values() if type(m) is not nn.Linear]
    plain = not any(list(m.parameters()) + list(m.buffers()) + list(m.children()) for m in others)
    weights = [p for m in linear.values() for p in m.parameters()]
    alone = len({id(p) for p in weights}) == len(weights)
    fits = all(a.out_features == b.in_features for a, b in pairwise(linear.values()))
    return linear if plain and alone and fits and len(linear) > 1 else {}


def _factor(small: Task, task: Task) -> Tensor:
    """What each weight is multiplied by, (P',): sqrt(inputs before / inputs after)."""
    before = {b.name: b for b in task.space.blocks}
    factor = torch.ones(small.space.size)
    for block in small.space.blocks:
        if len(block.shape) > 1:
            inputs = block.shape[1:].numel()
            factor[block.slice] = math.sqrt(before[block.name].shape[1:].numel() / inputs)
    return factor


def _sample(train: Dataset, examples: int) -> Dataset:
    if examples >= len(train):
        return train
    return train[
        torch.randperm(len(train), generator=generator(0, "random search", "examples"))[:examples].sort().values
    ]


# ---- criteria: (task, theta (N, P'), data) -> (N,) ------------------------------------------------------------------


def _losses(task: Task, theta: Tensor, data: Dataset) -> Tensor:
    return evaluate(task, theta, data).loss


def _metrics(task: Task, theta: Tensor, data: Dataset) -> Tensor:
    return evaluate(task, theta, data).metric


def _gradient_norms(task: Task, theta: Tensor, data: Dataset) -> Tensor:
    """Length of the gradient of the mean loss."""
    here, task = data.to(theta.device), task.to(theta.device)
    norms = []
    for point in theta:
        total, buffers = torch.zeros_like(point), task.statistics(point)
        for x, y in task.batches(here):
            g, _ = first_gradient(task.space, point, (x, y), task.loss, buffers=buffers)
            total += g * (len(y) / len(data))
        norms.append(total.norm())
    return torch.stack(norms)


_Score = Callable[[Task, Tensor, Dataset], Tensor]
_CRITERIA: dict[str, tuple[_Score, Callable[[Tensor], Tensor]]] = {
    "loss": (_losses, torch.argmin),
    "accuracy": (_metrics, torch.argmax),
    "gradient-norm": (_gradient_norms, torch.argmax),
}
