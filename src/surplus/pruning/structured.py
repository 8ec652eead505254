"""Networks that are really smaller: whole channels go, together with everything that is tied to them.

Channels that a residual sum, a normalisation or a flattening ties together form one group and go together (Fang et al.
2023, arXiv 2301.12900); Torch-Pruning finds the groups and cuts them, the choice of channels is made here:

    I_g(c) = sum over the group's tensors of sum |w|^2 in channel c,    divided by its mean over the group's channels

Keeping a share r of all channels keeps about r^2 of the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from surplus.errors import InputError, MissingExtra, unknown
from surplus.pruning.budgets import check_density
from surplus.pruning.counting import example
from surplus.pruning.masks import Scope
from surplus.space import WeightSpace
from surplus.space.units import evaluating, resized

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORMS = (*_BATCH_NORMS, nn.LayerNorm)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_PRODUCTS = {"scaled_dot_product_attention", "multi_head_attention_forward", "matmul", "bmm", "baddbmm", "einsum"}
_SEARCH_STEPS = 10


@dataclass
class _Group:
    """Channels that go together: the module and function to cut by, and what each channel is worth."""

    module: nn.Module
    cut: Any
    importance: Tensor
    """(channels / parts,) one value per channel, averaged over the parts."""
    parts: int
    """A grouped convolution or normalisation loses the same channels in each of its parts."""


def shrink(
    module: nn.Module,
    input_shape: Sequence[int] | Tensor,
    *,
    keep: float | None = None,
    density: float | None = None,
    importance: Tensor | None = None,
    scope: Scope = "global",
    round_to: int = 1,
    exclude: Iterable[str] = (),
) -> nn.Module:
    """A network with fewer channels; fine-tune it afterwards, with batch-norm statistics estimated anew.

    Args:
        module: the network; it is left as it is.
        input_shape: shape of one input, without the batch; or an example batch, for tokens say.
        keep: share of the channels to keep, or
        density: share of the parameters; the largest `keep` that stays below it is searched for.
        importance: (P,) any weight score at this point, not negative; squared weights when None.
        scope: `global` ranks the channels of all groups together, `layer` keeps the same share in each group.
        round_to: channel counts become multiples of this, at least one of them; 8 suits most hardware.
        exclude: layers whose outputs stay. The layer that gives the network's output always stays, and so do the
            layers of attention.

    Returns:
        A new module in evaluation mode.

    Raises:
        MissingExtra: Torch-Pruning is not installed.
        InputError: not one of keep and density is given, or the network's channels cannot be followed.
    """
    if (keep is None) == (density is None):
        raise InputError("say how much to keep by one of keep= (of the channels) and density= (of the parameters)")
    if scope not in ("global", "layer"):
        raise unknown("scope", scope, ("global", "layer"))
    x, exclude = example(module, input_shape), tuple(exclude)
    if keep is not None:
        check_density(keep)
        return _shrunk(module, x, keep, importance, scope, round_to, exclude)
    assert density is not None
    check_density(density)
    most = density * _parameters(module)
    low, high, best = 0.0, 1.0, None
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        small = _shrunk(module, x, middle, importance, scope, round_to, exclude)
        fits = _parameters(small) <= most
        low, high, best = (middle, high, small) if fits else (low, middle, best)
    if best is None:
        raise InputError(
            f"with a channel left in each layer, more than {density:.3g} of the parameters stay; ask for more"
        )
    return best


def _shrunk(
    module: nn.Module,
    x: Tensor,
    keep: float,
    importance: Tensor | None,
    scope: Scope,
    round_to: int,
    exclude: tuple[str, ...],
) -> nn.Module:
    small = copy.deepcopy(module).eval()
    values = _values(small, importance)
    learns = {n: p.requires_grad for n, p in small.named_parameters()}
    small.requires_grad_(True)  # the channels are followed along the gradient's graph
    with evaluating(small):
        before = small(x).shape
    try:
        graph, groups = _groups(small, x, values, exclude)
        for group, goes in zip(groups, _choice(groups, keep, scope, round_to), strict=True):
            if goes:
                graph.get_pruning_group(group.module, group.cut, goes).prune()
        with evaluating(small):
            after = small(x).shape
    except InputError:
        raise
    except (RuntimeError, ValueError, IndexError, AttributeError, AssertionError) as error:
        raise InputError(
            f"the channels of {type(module).__name__} cannot be followed ({error}); name the layers at fault in exclude"
        ) from error
    if after != before:
        raise InputError(f"the output shrank from {tuple(before)} to {tuple(after)}; name the output layer in exclude")
    for name, parameter in small.named_parameters():
        parameter.requires_grad_(learns[name])
    return small


def _groups(
    small: nn.Module, x: Tensor, values: dict[int, Tensor], exclude: tuple[str, ...]
) -> tuple[Any, list[_Group]]:
    """The dependency graph, and the groups that may lose channels."""
    try:
        import torch_pruning as tp
    except ImportError:
        raise MissingExtra("torch-pruning", "structured", "shrinking a network") from None

    graph = tp.DependencyGraph().build_dependency(
        small, example_inputs=x, customized_pruners=_subclassed_norms(small, tp), verbose=False
    )
    whole = [*_excluded(small, exclude), *_fixed_layers(small, x)]
    groups = []
    for found in graph.get_all_groups(ignored_layers=whole, root_module_types=[*_WEIGHTED]):
        members = [dep.target.module for dep, _ in found]
        worth = _importance(found, values, graph)
        if worth is not None:
            root = found[0].dep
            parts = max((_parts(m) for m in members), default=1)
            groups.append(_Group(root.target.module, root.handler, worth.view(parts, -1).mean(0), parts))
    if not groups:
        raise InputError(f"{type(small).__name__} has no channels that may go: every layer is excluded or fixed")
    return graph, groups


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


def _choice(groups: Sequence[_Group], keep: float, scope: Scope, round_to: int) -> list[list[int]]:
    """For each group, the channels that go: the least important, down to a whole number of `round_to`."""
    sizes = [len(g.importance) for g in groups]
    if scope == "layer":
        counts = [round(keep * n) for n in sizes]
    else:
        relative = [g.importance / g.importance.mean().clamp(min=torch.finfo(torch.float64).tiny) for g in groups]
        owner = torch.cat([torch.full((n,), i) for i, n in enumerate(sizes)])
        best = torch.cat(relative).argsort(descending=True, stable=True)[: round(keep * sum(sizes))]
        counts = owner[best].bincount(minlength=len(groups)).tolist()
    out = []
    for group, n, wanted in zip(groups, sizes, counts, strict=True):
        step = max(1, round_to // group.parts)
        count = min(n, max(step, round(wanted / step) * step))
        goes = group.importance.argsort(stable=True)[: n - count]
        out.append(sorted(int(c) + p * n for p in range(group.parts) for c in goes))
    return out


def _importance(found: Any, values: dict[int, Tensor], graph: Any) -> Tensor | None:
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


def _values(small: nn.Module, importance: Tensor | None) -> dict[int, Tensor]:
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


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
