"""Leaving out the units that a mask has cut off, with the function of the network unchanged.

A unit whose outgoing weights are all zero is unheard. A unit whose incoming weights are all zero is a constant c, and

    W x + b  =  W_rest x_rest + (b + sum_j W_j c_j)

so that its constant moves into the next bias and it is unheard too. Through convolutions with zero padding this is
exact only for c = 0 (the border sees fewer terms), so such a unit stays. Folding goes forwards through the network,
leaving out backwards; both reach every unit that a path of zero weights cuts off.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Tracer
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import is_pruned

from surplus.errors import InputError
from surplus.pruning.counting import evaluating
from surplus.space import WeightSpace

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WEIGHTED = (nn.Linear, *_CONVOLUTIONS)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign),
    *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Threshold, nn.Identity),
)
_FUNCTIONS: set[Any] = {
    *(torch.relu, torch.relu_, torch.tanh, torch.sigmoid, F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.gelu, F.silu),
    *(F.mish, F.softplus, F.tanh, F.sigmoid, F.hardtanh, F.hardswish),
}
_METHODS = {"relu", "relu_", "tanh", "sigmoid"}
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MEAN_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE_POOLS = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
_POOL_FUNCTIONS: set[Any] = {
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}


class SelectLinear(nn.Linear):
    """A linear layer that reads some of its inputs only: W x[..., index] + b.

    Args:
        in_features: how many it reads.
        out_features: how many it gives.
        bias: whether it has a bias.
        index: which inputs it reads; all places 0 when None, to be loaded.
    """

    index: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True, index: Tensor | None = None) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("index", torch.zeros(in_features, dtype=torch.int64) if index is None else index)

    def forward(self, input: Tensor) -> Tensor:
        """(..., all inputs) -> (..., out_features)."""
        return super().forward(input.index_select(-1, self.index))


@dataclass
class _Link:
    """Two weight layers joined by operations that act on each unit alone."""

    before: str
    after: str
    between: list[Node] = field(default_factory=list)


def remove_dead_units(module: nn.Module, mask: Tensor | None = None, *, inputs: bool = True) -> nn.Module:
    """A smaller network of the same function, in evaluation mode: cut-off units are physically gone.

    Units count as cut off where exact zeros cut them off. They are looked for between linear or convolution layers that
    follow one another through activations, batch normalisation, pooling, dropout and flattening; a unit that a skip
    connection, a concatenation or attention also reads stays. At least one unit stays in each layer.

    Args:
        module: any network that `torch.fx` can trace; it is left as it is.
        mask: (P,) applied first, in the order of a `WeightSpace` of this module; None takes the zeros that are there.
        inputs: also leave out the columns of unread inputs of linear layers (which become `SelectLinear`).

    Returns:
        A new module in evaluation mode. `save_module` writes it, `count` shows what was saved.

    Raises:
        InputError: the network cannot be traced, or its weights are computed from others.
    """
    if is_pruned(module) or any(is_parametrized(m) for m in module.modules()):
        raise InputError(
            "some weights are computed from others (torch.nn.utils.prune or parametrize); make them plain first:"
            " from_torch_prune reads the mask to give here"
        )
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    small = copy.deepcopy(module).eval().cpu()  # constants are folded in float64, which not every device has
    with torch.no_grad():
        if mask is not None:
            parameters = dict(small.named_parameters())
            for name, part in WeightSpace(lambda: small).split(mask).items():
                parameters[name].masked_fill_(~part.cpu(), 0)
        links = _links(small, _trace(small))
        for link in links:
            _fold_constants(small, link)
        for link in reversed(links):
            _drop_unheard(small, link)
        if inputs:
            _drop_inputs(small, {link.after for link in links})
    return small.to(device)


def resized(layer: nn.Module, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Module:
    """A new layer with these outputs and inputs of a linear, convolution or batch-norm layer (indices; None = all)."""
    new = copy.deepcopy(layer)
    for name, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        part = value.detach()
        if rows is not None and part.dim() > 0 and name != "index":
            part = part[rows]
        if columns is not None and name == "weight":
            part = part[:, columns]
        stored = nn.Parameter(part.clone(), value.requires_grad) if isinstance(value, nn.Parameter) else part.clone()
        setattr(new, name, stored)
    if isinstance(new, nn.Linear):
        new.out_features, new.in_features = new.weight.shape
    elif isinstance(new, _CONVOLUTIONS):
        new.out_channels, new.in_channels = new.weight.shape[:2]
    elif isinstance(new, _NORMS):
        new.num_features = new.num_features if rows is None else len(rows)
    return new


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Torch's own layers and ours are steps of the path, not looked into."""
        return isinstance(m, (SelectLinear, *_NORMS)) or super().is_leaf_module(m, module_qualified_name)


def _trace(module: nn.Module) -> Graph:
    try:
        with evaluating(module):
            return _Tracer().trace(module)
    except Exception as error:  # tracing runs the user's own forward, which may raise anything
        raise InputError(
            f"the path of units through {type(module).__name__} cannot be followed ({error}); use shrink, or leave the"
            " units in place"
        ) from error


def _links(module: nn.Module, graph: Graph) -> list[_Link]:
    """All links in the order of the forward pass."""
    calls = Counter(n.target for n in graph.nodes if n.op == "call_module")
    owners = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
    alone = {
        name
        for name, m in module.named_modules()
        if calls[name] == 1 and all(owners[id(p)] == 1 for p in m.parameters(recurse=False))
    }
    links = []
    for node in graph.nodes:
        if node.op == "call_module" and node.target in alone:
            layer = module.get_submodule(node.target)
            link = _follow(module, node, alone) if _is_plain(layer) or type(layer) is SelectLinear else None
            if link is not None:
                links.append(link)
    return links


def _is_plain(layer: nn.Module) -> bool:
    return type(layer) in _WEIGHTED and getattr(layer, "groups", 1) == 1


def _follow(module: nn.Module, start: Node, alone: set[str]) -> _Link | None:
    """The link from one weight layer to the next, if nothing else reads its units on the way."""
    link = _Link(str(start.target), "")
    first = _weighted(module, link.before)
    units, spatial = len(first.weight), isinstance(first, _CONVOLUTIONS)  # spatial: units are channels of a map
    node = start
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        if node.args[:1] != (before,) or any(before in a for a in (node.args[1:], node.kwargs.values())):
            return None
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if layer is not None and _is_plain(layer):
            link.after = str(node.target)
            matches = isinstance(layer, _CONVOLUTIONS) == spatial
            return link if matches and node.target in alone else None
        flattens = spatial and _flattens(node, layer)
        if not flattens and not (_is_unitwise(node, layer) or (spatial and _pools(node, layer))):
            return None
        if isinstance(layer, _NORMS) and (node.target not in alone or layer.num_features % units):
            return None
        spatial = spatial and not flattens
        link.between.append(node)
    return None


def _is_unitwise(node: Node, layer: nn.Module | None) -> bool:
    """Whether a step maps each number on its own, the same way for all of a unit's."""
    if layer is not None:
        fixed = isinstance(layer, _NORMS) and layer.running_mean is not None
        single = isinstance(layer, nn.PReLU) and layer.num_parameters == 1
        return fixed or single or isinstance(layer, (*_ELEMENTWISE, *_DROPOUTS))
    return node.target in (_METHODS if node.op == "call_method" else _FUNCTIONS)


def _pools(node: Node, layer: nn.Module | None) -> bool:
    """Whether a step maps a constant map of a channel to a constant map."""
    if isinstance(layer, _MEAN_POOLS):
        return layer.padding in (0, (0,), (0, 0), (0, 0, 0))
    if node.target is F.avg_pool2d:
        return len(node.args) <= 3 and "padding" not in node.kwargs
    return isinstance(layer, (*_MAX_POOLS, *_ADAPTIVE_POOLS)) or node.target in _POOL_FUNCTIONS


def _flattens(node: Node, layer: nn.Module | None) -> bool:
    """Whether a step turns maps (B, C, ...) into rows (B, C...) that keep each channel's numbers together."""
    if isinstance(layer, nn.Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    arguments = (*node.args[1:], *node.kwargs.values())
    if node.target in (torch.flatten, "flatten"):
        return arguments in ((1,), (1, -1))
    if node.target in (torch.mean, "mean", torch.amax, "amax") and set(node.kwargs) <= {"dim"}:
        return [*arguments] in ([[2, 3]], [(2, 3)], [[-2, -1]], [(-2, -1)], [[-1, -2]], [(-1, -2)])
    return False


def _fold_constants(module: nn.Module, link: _Link) -> None:
    """Move what constant units send into the next layer's bias, and cut them off from it."""
    before, after = _weighted(module, link.before), _weighted(module, link.after)
    constant = (before.weight == 0).flatten(1).all(1)  # (units,)
    value = torch.zeros(len(constant)) if before.bias is None else before.bias
    sent = _through(module, link, value.detach().to(before.weight.device, torch.float64))  # (inputs of after,)
    columns = constant.repeat_interleave(len(sent) // len(constant))
    if _pads_with_zeros(after):
        columns &= sent == 0
    gain = after.weight.double().flatten(2).sum(2) if after.weight.dim() > 2 else after.weight.double()
    shift = gain[:, columns] @ sent[columns]
    if shift.any():
        bias = shift if after.bias is None else after.bias + shift
        learns = after.weight.requires_grad if after.bias is None else after.bias.requires_grad
        after.bias = nn.Parameter(bias.to(after.weight.dtype), learns)
    after.weight[:, columns] = 0


def _through(module: nn.Module, link: _Link, value: Tensor) -> Tensor:
    """What constant units (units,) become on their way to the next layer, (inputs of that layer,)."""
    after = _weighted(module, link.after)
    for node in link.between:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, _NORMS):
            value = value.repeat_interleave(layer.num_features // len(value))
            spatial = (1,) * (0 if isinstance(layer, nn.BatchNorm1d) else 2 + isinstance(layer, nn.BatchNorm3d))
            value = copy.deepcopy(layer).double()(value.view(1, -1, *spatial)).flatten()
        elif layer is not None and _is_unitwise(node, layer):
            value = copy.deepcopy(layer).double()(value.clone())
        elif layer is None and _is_unitwise(node, layer):
            fn: Any = getattr(Tensor, node.target) if isinstance(node.target, str) else node.target
            value = fn(value.clone(), *node.args[1:], **node.kwargs)
    return value.repeat_interleave(after.weight.shape[1] // len(value))


def _drop_unheard(module: nn.Module, link: _Link) -> None:
    """Leave out the units that the next layer does not read."""
    before, after = _weighted(module, link.before), _weighted(module, link.after)
    units = before.weight.shape[0]
    heard = (after.weight != 0).transpose(0, 1).reshape(units, -1).any(1)
    if heard.all():
        return
    if not heard.any():  # at least one unit stays, and need not listen
        heard[0] = True
        before.weight[0] = 0
    keep = heard.nonzero().squeeze(1)
    _replace(module, link.before, resized(before, rows=keep))
    _replace(module, link.after, resized(after, columns=_repeated(heard, after.weight.shape[1])))
    for node in link.between:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, _NORMS):
            _replace(module, str(node.target), resized(layer, rows=_repeated(heard, layer.num_features)))


def _drop_inputs(module: nn.Module, linked: set[str]) -> None:
    """Leave out the columns of linear layers whose inputs are not ours to leave out, but are not read."""
    owners = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
    for name, layer in list(module.named_modules()):
        if type(layer) is not nn.Linear or not name or name in linked or owners[id(layer.weight)] > 1:
            continue
        read = (layer.weight != 0).any(0)
        if read.all():
            continue
        read[0] |= not read.any()
        index = read.nonzero().squeeze(1)
        new = SelectLinear(len(index), layer.out_features, layer.bias is not None, index)
        new.weight, new.bias = nn.Parameter(layer.weight[:, index], layer.weight.requires_grad), layer.bias
        _replace(module, name, new.eval())


def _repeated(units: Tensor, length: int) -> Tensor:
    """Indices of the numbers that belong to the chosen units when each has length / units of them."""
    return units.repeat_interleave(length // len(units)).nonzero().squeeze(1)


def _pads_with_zeros(layer: nn.Module) -> bool:
    if not isinstance(layer, _CONVOLUTIONS) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return False
    return any(k > 1 for k in layer.kernel_size) if layer.padding == "same" else any(p != 0 for p in layer.padding)


def _weighted(module: nn.Module, name: str) -> Any:
    return module.get_submodule(name)


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)
