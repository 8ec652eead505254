"""Which channels of a network, and which heads of its attention, can go, what each is worth, and how it goes.

    I_g(c) = sum over the group's tensors of sum |w|^2 in channel c

Channels that a residual sum, a normalisation or a flattening ties together form one group and go together (Fang et al.
2023, arXiv 2301.12900); Torch-Pruning finds the groups and cuts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from surplus.errors import InputError, MissingExtra, unknown
from surplus.pruning.structured.heads import attentions, head_values, without_heads
from surplus.space import WeightSpace
from surplus.space.units import evaluating, resized

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORMS = (*_BATCH_NORMS, nn.LayerNorm)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_PRODUCTS = {"scaled_dot_product_attention", "multi_head_attention_forward", "matmul", "bmm", "baddbmm", "einsum"}


@dataclass
class Group:
    """Channels, or heads of an attention layer, each of which can go: how, and what each is worth."""

    remove: Callable[[list[int]], Any]
    importance: Tensor
    """(channels / parts,) one value per channel, averaged over the parts."""
    parts: int = 1
    """A grouped convolution or normalisation loses the same channels in each of its parts."""
    rounded: bool = True
    """Whether their number follows `round_to`."""


def channel_groups(small: nn.Module, x: Tensor, values: dict[int, Tensor], exclude: tuple[str, ...]) -> list[Group]:
    """The groups that may lose channels."""
    try:
        import torch_pruning as tp
    except ImportError:
        raise MissingExtra("torch-pruning", "structured", "shrinking a network") from None

    graph = tp.DependencyGraph().build_dependency(
        small, example_inputs=(x,), customized_pruners=_subclassed_norms(small, tp), verbose=False
    )
    _map_padding(graph)
    whole = [*_excluded(small, exclude), *_fixed_layers(small, x)]
    groups = []
    for found in graph.get_all_groups(ignored_layers=whole, root_module_types=[*_WEIGHTED]):
        members = [dep.target.module for dep, _ in found]
        worth = channel_importance(found, values, graph)
        if worth is not None:
            root = found[0].dep
            parts = max((_parts(m) for m in members), default=1)
            free = _free_of_padding(found)
            if free and (parts == 1 or len(free) == len(worth)):
                cut = partial(_cut, graph, root.target.module, root.handler, free)
                groups.append(Group(cut, worth[free].view(parts, -1).mean(0), parts))
    return groups


def _free_of_padding(found: Any) -> list[int]:
    """The channels of a group's first layer that can go: those that a padding adds stay, for their number is fixed."""
    roots = [set(member.root_idxs) for member in found]
    pads = any(_padded_channels(member.dep.target.grad_fn)[1] for member in found)
    return sorted(set.intersection(*roots) if pads else roots[0])


def _map_padding(graph: Any) -> None:
    """Tell the graph that channels of zeros before the others move their numbers (ResNet's weightless shortcut)."""
    for node in graph.module2node.values():
        front, inside = _padded_channels(node.grad_fn)
        if not inside:
            continue
        for source in node.inputs:
            for dep in (d for d in source.dependencies if d.target is node):
                dep.index_mapping[1] = partial(_moved, front, None)
            for dep in (d for d in node.dependencies if d.target is source):
                dep.index_mapping[1] = partial(_moved, -front, inside)


def _padded_channels(step: Any) -> tuple[int, int]:
    """Channels of zeros before those that come in, and how many come in; zeros where no channels are added."""
    padding = getattr(step, "_saved_pad", ())
    shape: Any = step._input_metadata[0].shape if padding else ()
    place = 2 * (len(shape) - 2)  # padding is told from the last axis on; channels are axis 1
    if len(shape) not in (2, 4, 5) or not any(padding[place : place + 2]):
        return 0, 0
    front, back = padding[place : place + 2]
    return front, shape[1] - front - back


def _moved(by: int, inside: int | None, channels: list[Any]) -> list[Any]:
    """The same channels on the other side of a padding."""
    return [c._replace(idx=c.idx + by) for c in channels if inside is None or 0 <= c.idx + by < inside]


def _cut(graph: Any, layer: nn.Module, handler: Any, free: Sequence[int], goes: list[int]) -> None:
    graph.get_pruning_group(layer, handler, [free[i] for i in goes]).prune()


def head_groups(small: nn.Module, values: dict[int, Tensor], exclude: tuple[str, ...]) -> list[Group]:
    """The heads of each attention layer."""
    whole = {id(m) for m in _excluded(small, exclude)}
    found = {n: m for n, m in attentions(small).items() if id(m) not in whole}
    return [Group(partial(_drop_heads, small, n), head_values(m, values), rounded=False) for n, m in found.items()]


def _drop_heads(small: nn.Module, name: str, goes: list[int]) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(small.get_submodule(parent), leaf, without_heads(small.get_submodule(name), goes))


def _subclassed_norms(small: nn.Module, tp: Any) -> dict[type[nn.Module], Any]:
    """How to cut subclasses of batch normalisation, which may hold more values per channel than torch's own."""

    class Cut(tp.pruner.function.BatchnormPruner):
        def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
            size = len(next(t for t in (*layer.parameters(), *layer.buffers()) if t.dim() > 0))
            keep = torch.tensor(sorted(set(range(size)) - set(idxs)))
            cut = resized(layer, rows=keep)
            layer.__dict__.update(cut.__dict__)
            return layer

        prune_in_channels = prune_out_channels

    found = {type(m) for m in small.modules() if isinstance(m, _BATCH_NORMS) and type(m) not in _BATCH_NORMS}
    return {kind: Cut() for kind in found}


def channel_importance(found: Any, values: dict[int, Tensor], graph: Any) -> Tensor | None:
    """What each channel of a group is worth, (channels,) in float64; None where the group holds no weights of ours."""
    total = torch.zeros(len(found[0].idxs), dtype=torch.float64)
    seen = False
    for member in found:
        layer, channels, root = member.dep.target.module, member.idxs, member.root_idxs
        if any(r is None for r in root):
            continue
        is_output = graph.is_out_channel_pruning_fn(member.dep.handler)
        worth = _channel_sums(layer, values, is_output)
        if worth is not None:
            total.index_add_(0, torch.as_tensor(root), worth[torch.as_tensor(channels)])
            seen = True
    return total if seen else None


def _channel_sums(layer: nn.Module, values: dict[int, Tensor], is_output: bool) -> Tensor | None:
    """Sum of a layer's values in each output or input channel."""
    weight = getattr(layer, "weight", None)
    if weight is None or not isinstance(layer, (*_WEIGHTED, *_NORMS)):
        return None
    value = values[id(weight)]
    if isinstance(layer, _NORMS):
        return value if value.dim() == 1 else None
    out_first = is_output != isinstance(layer, _TRANSPOSED)
    sums = (value if out_first else value.transpose(0, 1)).flatten(1).sum(1)
    groups = getattr(layer, "groups", 1)
    return sums.repeat(groups) if groups > 1 and not out_first else sums


def weight_values(small: nn.Module, importance: Tensor | None) -> dict[int, Tensor]:
    """What each weight is worth, by its parameter's identity."""
    if importance is None:
        return {id(p): p.detach().double().square().cpu() for p in small.parameters()}
    if importance.min() < 0:
        raise InputError(
            "a channel's importance adds up that of its weights, so none may be negative; give score.abs()"
        )
    parts = WeightSpace(lambda: small).split(importance.detach().double().cpu())
    return {id(p): parts.get(n, torch.zeros(p.shape, dtype=torch.float64)) for n, p in small.named_parameters()}


def _parts(layer: Any) -> int:
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    groups = getattr(layer, "groups", 1)
    depthwise = groups == getattr(layer, "out_channels", None)
    return 1 if depthwise or not isinstance(groups, int) else groups


def _excluded(small: nn.Module, exclude: tuple[str, ...]) -> list[nn.Module]:
    named = dict(small.named_modules())
    for name in exclude:
        if name not in named:
            raise unknown("layer", name, [n for n in named if n])
    return [m for name in exclude for m in named[name].modules()]


def _fixed_layers(small: nn.Module, x: Tensor) -> list[nn.Module]:
    """The weight layer that runs last, and all layers of modules that multiply activations with each other.

    The heads of attention tie channels in ways that the dependency graph does not follow, so they keep their width; the
    dense layers beside them do not.
    """
    order: list[nn.Module] = []
    inside: list[nn.Module] = []
    fixed: list[nn.Module] = []

    class Products(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") in _PRODUCTS:
                fixed.extend(inside[-1].modules())
            return func(*args, **(kwargs or {}))

    def leave(layer: nn.Module, *_: Any) -> None:
        inside.pop()
        if isinstance(layer, _WEIGHTED):
            order.append(layer)

    handles = [m.register_forward_pre_hook(lambda layer, _: inside.append(layer)) for m in small.modules()]
    handles += [m.register_forward_hook(leave) for m in small.modules()]
    try:
        with evaluating(small), Products():
            small(x)
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise InputError(f"{type(small).__name__} runs no linear or convolution layer, so it has no channels to shrink")
    return [*fixed, order[-1]]
