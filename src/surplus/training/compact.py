"""Training of masked networks in fewer coordinates: what no surviving weight reads is left out of every step.

A unit whose outgoing weights are all masked is heard by nobody, so its own weights have no gradient; an input without
surviving weights is not read. Both are left out of the matrices, layer by layer from the output back. The function and
all gradients stay the same; only the order of floating-point sums differs. What is left out but not masked moves by
weight decay alone, and is moved so.

Replicas that train together lose different units; each layer has the size of the largest, filled up with masked zeros.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.reparam import Mask
from surplus.space import WeightSpace, generator, seeded
from surplus.space.units import NORMS, Link, entrance, links, repeated, resized, trace, weighted
from surplus.training.optim import Optimiser

WORTH = 0.9
"""Only networks that shrink below this share of their weights are made compact."""


@dataclass(frozen=True)
class Compact:
    """Smaller coordinates of K masked networks of one architecture."""

    space: WeightSpace
    """Of the smaller network, P' weights."""
    index: Tensor
    """(K, P') places in the whole network; P, one past its last, where a place is only filling."""
    columns: Tensor | None
    """(K, n') which inputs, flattened, the networks read; None for all, in their own shape."""
    mask: Tensor
    """(K, P')."""
    rest: Tensor
    """(K, P) what a mask keeps and the smaller network leaves out."""

    def gather(self, theta: Tensor) -> Tensor:
        """Whole points (K, P) -> (K, P')."""
        return torch.cat([theta, theta.new_zeros(len(theta), 1)], 1).gather(1, self.index)

    def scatter(self, small: Tensor, onto: Tensor) -> Tensor:
        """Points (K, P') put in their places in whole ones (K, P)."""
        return torch.cat([onto, onto.new_zeros(len(onto), 1)], 1).scatter(1, self.index, small)[:, :-1]

    def inputs(self, x: Tensor) -> Tensor:
        """What the smaller networks read of (K, B, ...)."""
        if self.columns is None:
            return x
        return x.flatten(2).gather(2, self.columns.unsqueeze(1).expand(-1, x.shape[1], -1))

    def to(self, device: torch.device | str) -> Compact:
        """The same with its tensors on another device."""
        columns = None if self.columns is None else self.columns.to(device)
        return Compact(self.space, self.index.to(device), columns, self.mask.to(device), self.rest.to(device))


def compact(space: WeightSpace, coordinates: Sequence[Any], optimiser: str = "sgd") -> Compact | None:
    """Smaller coordinates of masked networks, or None where nothing much can be left out.

    Args:
        space: of the whole network.
        coordinates: of each replica; only masks, one per replica, can be made compact.
        optimiser: its name; Muon's steps depend on the sizes of matrices, so it needs them whole.
    """
    fit = all(type(c) is Mask and c.mask.dim() == 1 for c in coordinates)
    if not fit or optimiser == "muon" or space.has_dropout:
        return None
    masks = torch.stack([c.mask for c in coordinates])
    if all(bool(m[space.prunable].all()) for m in masks):
        return None
    if space not in _PATHS:
        _PATHS[space] = _paths(space)
    paths = _PATHS[space]
    if paths is None:
        return None
    with torch.no_grad():
        return _compact(space, masks, *paths)


_PATHS: WeakKeyDictionary[WeightSpace, tuple[list[Link], str | None] | None] = WeakKeyDictionary()
"""What was found of each network, since a search asks again for every level of pruning."""


def _paths(space: WeightSpace) -> tuple[list[Link], str | None] | None:
    """How units pass from layer to layer, and which layer alone reads the inputs; None if this cannot be followed."""
    try:
        graph = trace(space.module)
    except InputError:
        return None
    learnt = {b.name for b in space.blocks}
    joined = [k for k in links(space.module, graph) if {f"{k.before}.weight", f"{k.after}.weight"} <= learnt]
    first = entrance(space.module, graph)
    return joined, first if f"{first}.weight" in learnt else None


def agrees(small: Compact, space: WeightSpace, mask: Tensor, x: Tensor) -> bool:
    """Whether the smaller network is the whole one, tried out in training mode: outputs and gradients.

    What a network does beside its layers (hooks, weights that are read elsewhere, sizes that enter the function) cannot
    be seen in its layers alone.

    Args:
        small: of several networks; the first is tried.
        space: of the whole network.
        mask: (P,) of the first network.
        x: (B, ...) a few inputs, as the network gets them.
    """
    draw = generator(0, "compact", "trial")
    theta = torch.randn(space.size, generator=draw, dtype=space.dtype) * mask
    first = Compact(small.space, small.index[:1], None if small.columns is None else small.columns[:1],
                    small.mask[:1], small.rest[:1])  # fmt: skip
    try:
        with seeded(0):
            out, grad = _response(space, theta, x)
            out2, grad2 = _response(small.space, first.gather(theta[None])[0], first.inputs(x[None])[0])
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    whole = first.scatter((grad2 * first.mask[0])[None], torch.zeros_like(theta)[None])[0]
    return out.shape == out2.shape and _close(out, out2) and _close(grad * mask, whole)


def _response(space: WeightSpace, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs in training mode, and the gradient (P,) of a fixed combination of them."""
    theta = theta.clone().requires_grad_()
    with torch.enable_grad():
        out = space.apply(theta, x, train=True)
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        (grad,) = torch.autograd.grad((out * weights).sum(), theta)
    return out.detach(), grad


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding, relative to the whole."""
    return bool((a - b).norm() <= 1e-3 * (a.norm() + b.norm()) + 1e-12)


class Rest:
    """What a compact network leaves out, on its way: weights without a gradient, which weight decay alone moves.

    Args:
        start: (K, P) whole points.
        where: (K, P) which of their weights these are.
        step: at which training begins.
    """

    def __init__(self, start: Tensor, where: Tensor, step: int) -> None:
        self.theta, self.where, self.first = start, where, step
        self.any = bool(where.any())
        self.step, self.z = step, start[where].unsqueeze(0)
        self.optimiser: Optimiser | None = None

    def at(self, step: int, optimiser: Callable[[Tensor], Optimiser], rate: Callable[[int], float]) -> Tensor:
        """The whole points (K, P) with these weights as they are after `step` updates."""
        if not self.any:
            return self.theta
        self.optimiser = self.optimiser or optimiser(self.z)
        if self.optimiser.recipe.weight_decay:
            for t in range(self.step, step):
                self.optimiser.step(self.z, torch.zeros_like(self.z), rate(t), t - self.first + 1)
        self.step = step
        return self.theta.masked_scatter(self.where, self.z)


def _compact(space: WeightSpace, masks: Tensor, joined: Sequence[Link], first: str | None) -> Compact | None:
    layers = [space.split(mask) for mask in masks]
    rows: dict[str, list[Tensor]] = {}  # by layer and replica: which outputs are heard
    for link in reversed(joined):
        own, next_ = f"{link.before}.weight", f"{link.after}.weight"
        rows[link.before] = [_heard(m[next_], _of(rows, link.after, k), len(m[own])) for k, m in enumerate(layers)]
    read = None
    if first is not None:
        read = [_heard(m[f"{first}.weight"], _of(rows, first, k)) for k, m in enumerate(layers)]
    kept = {name: _filled(units) for name, units in rows.items()}  # (K, n) each
    columns = None if read is None else _filled(read)
    cuts = list(_cuts(space.module, joined, first, kept, columns))
    if _size(space, cuts) >= WORTH * space.size:
        return None
    index = torch.stack([_index(space, cuts, k) for k in range(len(masks))])
    small = WeightSpace(_Small(_smaller(space.module, joined, first, kept, columns)))
    small.vmaps, small.has_dropout = space.vmaps, space.has_dropout
    padded = torch.cat([masks, masks.new_zeros(len(masks), 1)], 1)
    rest = padded.scatter(1, index, False)[:, :-1]
    return Compact(small, index, None if columns is None else columns.clamp(min=0), padded.gather(1, index), rest)


def _heard(mask: Tensor, rows: Tensor | None, units: int | None = None) -> Tensor:
    """Positions of the inputs, or of the units of which each gives several, that surviving weights read; at least one.

    mask (out, in, ...); rows: the outputs that are heard themselves.
    """
    mask = mask if rows is None else mask[rows]
    read = mask.flatten(2).any(2) if mask.dim() > 2 else mask  # (out, in)
    heard = read.any(0)
    if units is not None:
        heard = heard.view(units, -1).any(1)
    heard[0] |= not heard.any()
    return heard.nonzero().squeeze(1)


def _filled(positions: Sequence[Tensor]) -> Tensor:
    """Positions of K replicas as one matrix, filled up with -1."""
    return nn.utils.rnn.pad_sequence(list(positions), batch_first=True, padding_value=-1)


def _cuts(
    module: nn.Module, joined: Sequence[Link], first: str | None, kept: dict[str, Tensor], columns: Tensor | None
) -> Iterator[tuple[str, int, int, Tensor]]:
    """Which axis of which tensor loses units: name, axis, how many units there were, which stay (K, n)."""
    for link in joined:
        units, width = kept[link.before], int(weighted(module, link.before).weight.shape[0])
        for layer in (link.before, *_norms(module, link)):
            yield f"{layer}.weight", 0, width, units
            yield f"{layer}.bias", 0, width, units
        yield f"{link.after}.weight", 1, width, units
    if columns is not None:
        yield f"{first}.weight", 1, int(weighted(module, str(first)).weight.shape[1]), columns


def _size(space: WeightSpace, cuts: Sequence[tuple[str, int, int, Tensor]]) -> int:
    """How many weights will be left."""
    shapes = {b.name: list(b.shape) for b in space.blocks}
    for name, axis, width, units in cuts:
        if name in shapes:
            shapes[name][axis] = shapes[name][axis] // width * units.shape[1]
    return sum(prod(shape) for shape in shapes.values())


def _index(space: WeightSpace, cuts: Sequence[tuple[str, int, int, Tensor]], replica: int) -> Tensor:
    """(P',) where in the whole network each weight of one replica's smaller network lies; P where nowhere."""
    place = space.split(torch.arange(space.size))
    for name, axis, width, units in cuts:
        if name in place:
            place[name] = _picked(place[name], axis, width, units[replica], space.size)
    return torch.cat([place[b.name].flatten() for b in space.blocks])


def _picked(place: Tensor, axis: int, width: int, units: Tensor, nowhere: int) -> Tensor:
    """What belongs to these of `width` units along an axis; `nowhere` where a unit is -1."""
    each = place.shape[axis] // width
    wanted = (units.clamp(min=0).unsqueeze(1) * each + torch.arange(each)).flatten()
    shape = [-1 if d == axis else 1 for d in range(place.dim())]
    return place.index_select(axis, wanted).masked_fill((units < 0).repeat_interleave(each).view(shape), nowhere)


def _smaller(
    module: nn.Module, joined: Sequence[Link], first: str | None, kept: dict[str, Tensor], columns: Tensor | None
) -> nn.Module:
    """A network of the sizes that `kept` says; its weights mean nothing."""
    small = copy.deepcopy(module)

    def replace(name: str, **sizes: Tensor) -> None:
        parent, _, leaf = name.rpartition(".")
        setattr(small.get_submodule(parent), leaf, resized(small.get_submodule(name), **sizes))

    for link in joined:
        width, units = weighted(module, link.before).weight.shape[0], torch.arange(kept[link.before].shape[1])
        heard = torch.zeros(int(width), dtype=torch.bool).index_fill(0, units, True)
        replace(link.before, rows=units)
        replace(link.after, columns=repeated(heard, int(weighted(module, link.after).weight.shape[1])))
        for name in _norms(module, link):
            replace(name, rows=repeated(heard, int(weighted(module, name).num_features)))
    if columns is not None and first is not None:
        replace(first, columns=torch.arange(columns.shape[1]))
    return small


def _norms(module: nn.Module, link: Link) -> list[str]:
    """The batch norms between two layers."""
    steps = [str(node.target) for node in link.between if node.op == "call_module"]
    return [name for name in steps if isinstance(module.get_submodule(name), NORMS)]


def _of(rows: dict[str, list[Tensor]], layer: str, replica: int) -> Tensor | None:
    return rows[layer][replica] if layer in rows else None


@dataclass(frozen=True)
class _Small:
    """A factory of copies of a network."""

    module: nn.Module

    def __call__(self) -> nn.Module:
        return copy.deepcopy(self.module)
