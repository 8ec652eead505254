"""Weight matching: rename the hidden units of one network so that its weights lie close to another's.

    max over permutations of  sum_layers < A_l, P_l B_l P_{l-1}^T >

Ainsworth, Hayase & Srinivasa 2023 (Git Re-Basin, arXiv 2209.04836, section 3.2). One permutation at a time, the others
held: a linear assignment problem. The sweeps stop when none gains; the problem as a whole is NP-hard, and this finds a
local optimum. A permuted network computes the same function, but re-estimate batch-norm statistics between the two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from surplus.errors import InputError
from surplus.registry import method
from surplus.space import WeightSpace, generator

Axes = Mapping[str, tuple[str | None, ...]]
"""Parameter name -> for each of its axes the permutation that acts on it, None for inputs and outputs.

An axis may be a multiple of its permutation's size (what a flattened feature map feeds): whole blocks move then."""

Permutations = dict[str, Tensor]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Matching:
    """A network renamed to lie close to another."""

    theta: Tensor
    """(P,) the second network, permuted."""
    permutations: Permutations
    """Name -> (n,) positions: unit i of the result is unit permutation[i] of the second network."""
    gain: float
    """What matching added to the inner product of the two weight vectors."""
    sweeps: int
    """Passes over all permutations, the last without gain."""


@method("measure", paper="Ainsworth, Hayase & Srinivasa 2023, arXiv 2209.04836")
def weight_matching(
    space: WeightSpace, axes: Axes, theta1: Tensor, theta2: Tensor, generator: Generator, sweeps: int = 100
) -> Matching:
    """Permute the hidden units of theta2 towards theta1.

    Args:
        space: the architecture of both.
        axes: which permutation acts on which axis; `chain_axes` finds it for plain chains of layers.
        theta1: (P,) stays as it is.
        theta2: (P,) is permuted.
        generator: orders the permutations within each sweep.
        sweeps: the most passes.

    Raises:
        InputError: `axes` does not fit the network.
    """
    sizes = _sizes(space, axes)
    a, b = ({n: t.double() for n, t in space.split(theta).items() if n in axes} for theta in (theta1, theta2))
    perms = {name: torch.arange(n, device=theta2.device) for name, n in sizes.items()}
    names, gains = sorted(sizes), [0.0]
    while len(gains) <= sweeps:
        gains.append(0.0)
        for i in torch.randperm(len(names), generator=generator, device=generator.device).tolist():
            perms[names[i]], gain = _assign(names[i], axes, a, b, perms)
            gains[-1] += gain
        if not gains[-1]:
            break
    return Matching(permute(space, axes, theta2, perms), perms, sum(gains), len(gains) - 1)


def permute(space: WeightSpace, axes: Axes, theta: Tensor, permutations: Permutations) -> Tensor:
    """The network with unit i of each group taken from unit permutation[i]: (P,) -> (P,)."""
    parts = space.split(theta)
    return space.join({n: _permuted(t, axes[n], permutations) if n in axes else t for n, t in parts.items()})


def chain_axes(space: WeightSpace, example: Tensor) -> Axes:
    """The axes of a plain chain of linear, convolution and normalisation layers.

    Layers are taken in the order in which the module lists them, and the result is then tried: permuting the hidden
    units must not change the outputs.

    Args:
        space: the network.
        example: (B, ...) a few inputs to try it on.

    Raises:
        InputError: the network is not such a chain; write its axes down yourself.
    """
    advice = "weight matching knows plain chains of linear, convolution and normalisation layers; here, give `axes`"
    axes: dict[str, tuple[str | None, ...]] = {}
    layers = [(n, m) for n, m in space.module.named_modules() if any(b.layer == n for b in space.blocks)]
    last = max((i for i, (_, m) in enumerate(layers) if isinstance(m, _LAYERS)), default=-1)
    before: str | None = None
    for i, (name, layer) in enumerate(layers):
        after = before if not isinstance(layer, _LAYERS) else (None if i == last else name)
        for block in (b for b in space.blocks if b.layer == name):
            if len(block.shape) > 1 and not isinstance(layer, _LAYERS):
                raise InputError(f"{name!r} is a {type(layer).__name__}: {advice}")
            axes[block.name] = (after, before, *[None] * (len(block.shape) - 2))[: len(block.shape)]
        before = after
    if not _keeps_function(space, axes, example):
        raise InputError(
            f"permuting the hidden units of this {type(space.module).__name__} changes its outputs: {advice}"
        )
    return axes


def _keeps_function(space: WeightSpace, axes: Axes, example: Tensor) -> bool:
    """Whether a random permutation of a random network leaves its outputs alone."""
    g = generator(0, "permutations to try")
    theta = space.init(0) + 0.1 * torch.randn(space.size, generator=g, dtype=space.dtype)
    perms = {name: torch.randperm(n, generator=g) for name, n in _sizes(space, axes).items()}
    with torch.no_grad():
        before, after = (space.apply(t, example) for t in (theta, permute(space, axes, theta, perms)))
    return torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


def _assign(
    name: str, axes: Axes, a: dict[str, Tensor], b: dict[str, Tensor], perms: Permutations
) -> tuple[Tensor, float]:
    """The best permutation of one group while the others stay, and what it adds to the inner product."""
    from scipy.optimize import linear_sum_assignment

    n = len(perms[name])
    score = torch.zeros(n, n, dtype=torch.float64)
    for tensor, groups in axes.items():
        for axis, group in enumerate(groups):
            if group == name:
                others = tuple(None if i == axis else g for i, g in enumerate(groups))
                u, v = (t.movedim(axis, 0).reshape(n, -1) for t in (a[tensor], _permuted(b[tensor], others, perms)))
                score += (u @ v.T).cpu()
    rows = torch.arange(n)
    best = torch.from_numpy(linear_sum_assignment(score.numpy(), maximize=True)[1])
    gain = float((score[rows, best] - score[rows, perms[name].cpu()]).sum())
    return (best.to(perms[name]), gain) if gain > 1e-12 * n * float(score.abs().max()) else (perms[name], 0.0)


def _permuted(tensor: Tensor, groups: tuple[str | None, ...], permutations: Permutations) -> Tensor:
    for axis, group in enumerate(groups):
        if group is not None:
            perm = permutations[group].to(tensor.device)
            tensor = tensor.unflatten(axis, (len(perm), -1)).index_select(axis, perm).flatten(axis, axis + 1)
    return tensor


def _sizes(space: WeightSpace, axes: Axes) -> dict[str, int]:
    """Name of each permutation -> how many units it permutes: the shortest axis that carries it.

    Raises:
        InputError: an unknown parameter, a wrong number of axes, or axes that do not fit together.
    """
    lengths: dict[str, list[int]] = defaultdict(list)
    shapes = {block.name: block.shape for block in space.blocks}
    for name, groups in axes.items():
        if len(shapes.get(name, ())) != len(groups):
            found = f"of shape {tuple(shapes[name])}" if name in shapes else "that this network has not"
            raise InputError(
                f"axes names one permutation, or None, per axis; got {groups} for a parameter {name!r} {found}"
            )
        for length, group in zip(shapes[name], groups, strict=True):
            if group is not None:
                lengths[group].append(length)
    for group, sizes in lengths.items():
        if any(size % min(sizes) for size in sizes):
            raise InputError(
                f"axes of {group!r} must be equally long, or multiples of the shortest; got {sorted(set(sizes))}"
            )
    return {group: min(sizes) for group, sizes in lengths.items()}
