"""Small dense networks: what the same budget buys without any pruning.

    the widest network of the same family with cost <= budget,     cost = weights, parameters or multiply-adds

The control that a sparse network has to beat (Blalock et al. 2020, arXiv 2003.03033). A named network becomes narrower
by its own option (`widths`, `width`); any other loses the same share of the channels of each layer.

    fresh weights of a narrower layer: rows and columns of a fresh wide one, times sqrt(fan-in wide / fan-in narrow)

which is the wide network's own law wherever that goes by the fan-in (He's, torch's default).
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.pruning.counting import count
from surplus.pruning.structured.shrink import shrink
from surplus.pruning.structured.smaller import smaller_task
from surplus.registry import find
from surplus.space import Block, WeightSpace, seeded
from surplus.tasks import Network, Task

Cost = Callable[[nn.Module], float]
_STEPS = 128
"""A width factor is searched for in steps of this share."""


def small_dense(
    task: Task,
    seeds: Sequence[int],
    *,
    weights: float | None = None,
    parameters: float | None = None,
    macs: float | None = None,
) -> tuple[Task, Tensor]:
    """The task with the widest dense network that a budget allows, or with the narrowest there is.

    Args:
        task: data, recipe, and the network to make narrower.
        seeds: of the initial points.
        weights: prunable weights at most, or
        parameters: elements of all parameters at most, or
        macs: multiply-adds of one example at most.

    Returns:
        The new task, and where to train it from (K, P').

    Raises:
        InputError: not one budget is given, or the network's channels cannot be followed.
    """
    given = {"weights": weights, "parameters": parameters, "macs": macs}
    if sum(b is not None for b in given.values()) != 1:
        raise InputError("say how large the network may be by exactly one of weights=, parameters= and macs=")
    kind, budget = next((k, b) for k, b in given.items() if b is not None)
    cost = _cost(task, kind)
    options = _narrower(task.network)
    if options:

        def module(i: int) -> nn.Module:
            return WeightSpace(replace(task.network, options=options[i])).module

        best = _largest(len(options), lambda i: cost(module(i)) <= budget)
        small = replace(task, network=replace(task.network, options=options[best]))
        return small, small.space.init_many(seeds)
    x = task.prepare(task.train.inputs[:1])

    def shrunk(i: int) -> nn.Module:
        return shrink(task.space.module, x, keep=(i + 1) / _STEPS, scope="layer")

    best = _largest(_STEPS, lambda i: cost(shrunk(i)) <= budget)
    small, _ = smaller_task(task, shrunk(best))
    return small, torch.stack([fresh_start(task.space, small.space, s) for s in seeds])


def fresh_start(wide: WeightSpace, narrow: WeightSpace, seed: int) -> Tensor:
    """An initial point (P',) of a network that was made narrower, by the law of the wide network's initial points.

    A network with layers that the wide one has not is initialised by its layers' own `reset_parameters`.

    Args:
        wide: the network that was shrunk.
        narrow: what came of it.
        seed: of the draw.
    """
    large, fans = wide.split(wide.init(seed)), {b.layer: _fan_in(b) for b in wide.blocks if b.prunable}
    if not all(b.name in large and _fits(b.shape, large[b.name].shape) for b in narrow.blocks):
        return _reset(narrow, seed)
    gain = {b.layer: math.sqrt(fans.get(b.layer, _fan_in(b)) / _fan_in(b)) for b in narrow.blocks if b.prunable}
    parts = {b.name: large[b.name][tuple(map(slice, b.shape))] * gain.get(b.layer, 1.0) for b in narrow.blocks}
    return narrow.join(parts)


def _fits(small: Sequence[int], large: Sequence[int]) -> bool:
    return len(small) == len(large) and all(a <= b for a, b in zip(small, large, strict=True))


def _fan_in(block: Block) -> int:
    return math.prod(block.shape[1:])


def _reset(space: WeightSpace, seed: int) -> Tensor:
    module = copy.deepcopy(space.module)
    with seeded(seed):
        for layer in module.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
    return space.read(module)


def _cost(task: Task, kind: str) -> Cost:
    """What a budget counts."""
    if kind == "macs":
        x = task.prepare(task.train.inputs[:1])
        return lambda module: count(module, x).macs
    if kind == "parameters":
        return lambda module: sum(p.numel() for p in module.parameters())
    return lambda module: int(WeightSpace(lambda: module).prunable.sum())


def _narrower(network: Network) -> list[dict[str, Any]]:
    """Options of ever wider networks, up to the network's own; none where no option sets the width."""
    if network.factory is not None:
        return []
    known = inspect.signature(find("network", network.name).fn).parameters
    name = next((n for n in ("widths", "width", "widen") if n in known), None)
    if name is None:
        return []
    value = network.options.get(name, known[name].default)
    if isinstance(known[name].default, float) and isinstance(value, int):
        value = float(value)  # a factor that was given as a whole number
    return [{**network.options, name: v} for v in _values(value, network.options.get("heads", _default(known)))]


def _default(known: Any) -> int:
    return int(known["heads"].default) if "heads" in known else 1


def _values(value: Any, step: int) -> list[Any]:
    """Ever larger settings, up to `value`: tuples in proportion, whole numbers in `step`s, or factors."""
    if isinstance(value, Sequence):
        first = range(1, value[0] + 1) if value else ()
        return [(a, *(max(1, round(a * w / value[0])) for w in value[1:])) for a in first]
    if isinstance(value, int):
        return list(range(step, value + 1, step))
    return [value * k / _STEPS for k in range(1, _STEPS + 1)]


def _largest(n: int, fits: Callable[[int], bool]) -> int:
    """The largest of 0..n-1 that fits, when all before it do; 0 where none does."""
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
