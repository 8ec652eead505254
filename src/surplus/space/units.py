"""Units: which weight layers feed which through operations that act on each unit alone, and layers with some of them.

A link joins two linear or convolution layers whose units pass from one to the other only, through activations, batch
normalisation, pooling, dropout and flattening. A unit of a link can be left out where nothing reads it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Tracer
from torch.nn import functional as F

from surplus.errors import InputError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WEIGHTED = (nn.Linear, *CONVOLUTIONS)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
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
class Link:
    """Two weight layers joined by operations that act on each unit alone."""

    before: str
    after: str
    between: list[Node] = field(default_factory=list)


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
    elif isinstance(new, CONVOLUTIONS):
        new.out_channels, new.in_channels = new.weight.shape[:2]
    elif isinstance(new, NORMS):
        new.num_features = new.num_features if rows is None else len(rows)
    return new


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every part returns to its own mode after."""
    modes = {m: m.training for m in module.modules()}
    try:
        with torch.no_grad():
            module.eval()
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Torch's own layers and ours are steps of the path, not looked into."""
        return isinstance(m, (SelectLinear, *NORMS)) or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module) -> Graph:
    """The steps of a network's forward pass; torch's own layers are single steps.

    Raises:
        InputError: `torch.fx` cannot follow the network.
    """
    try:
        with evaluating(module):
            return _Tracer().trace(module)
    except Exception as error:  # tracing runs the user's own forward, which may raise anything
        raise InputError(
            f"the path of units through {type(module).__name__} cannot be followed ({error}); use shrink, or leave the"
            " units in place"
        ) from error


def links(module: nn.Module, graph: Graph | None = None) -> list[Link]:
    """All links in the order of the forward pass."""
    graph = graph or trace(module)
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


def entrance(module: nn.Module, graph: Graph) -> str | None:
    """The linear layer that alone reads the network's inputs, flattened or as they are; None if there is no such."""
    node = next(n for n in graph.nodes if n.op == "placeholder")
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        if node.args[:1] != (before,):
            return None
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(layer) is nn.Linear:
            return str(node.target)
        if not _flattens(node, layer) or node.target in (torch.mean, "mean", torch.amax, "amax"):
            return None  # a mean over places is no flattening of the inputs
    return None


def _is_plain(layer: nn.Module) -> bool:
    return type(layer) in _WEIGHTED and getattr(layer, "groups", 1) == 1


def _follow(module: nn.Module, start: Node, alone: set[str]) -> Link | None:
    """The link from one weight layer to the next, if nothing else reads its units on the way."""
    link = Link(str(start.target), "")
    first = weighted(module, link.before)
    units, spatial = len(first.weight), isinstance(first, CONVOLUTIONS)  # spatial: units are channels of a map
    node = start
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        if node.args[:1] != (before,) or any(before in a for a in (node.args[1:], node.kwargs.values())):
            return None
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if layer is not None and _is_plain(layer):
            link.after = str(node.target)
            matches = isinstance(layer, CONVOLUTIONS) == spatial
            return link if matches and node.target in alone else None
        flattens = spatial and _flattens(node, layer)
        if not flattens and not (is_unitwise(node, layer) or (spatial and _pools(node, layer))):
            return None
        if isinstance(layer, NORMS) and (node.target not in alone or layer.num_features % units):
            return None
        spatial = spatial and not flattens
        link.between.append(node)
    return None


def is_unitwise(node: Node, layer: nn.Module | None) -> bool:
    """Whether a step maps each number on its own, the same way for all of a unit's."""
    if layer is not None:
        fixed = isinstance(layer, NORMS) and layer.running_mean is not None
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


def weighted(module: nn.Module, name: str) -> Any:
    """A linear or convolution layer by its name."""
    return module.get_submodule(name)


def repeated(units: Tensor, length: int) -> Tensor:
    """Indices of the numbers that belong to the chosen units when each has length / units of them."""
    return units.repeat_interleave(length // len(units)).nonzero().squeeze(1)
