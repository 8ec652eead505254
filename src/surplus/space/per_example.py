"""The length of each example's own loss gradient over all weights, at about the price of one backward pass.

    norm_n = || grad_theta loss(f(theta, x_n), y_n) ||_2

The ghost-norm route (Goodfellow 2015, arXiv 1510.01799, for linear layers; Li et al. 2022, arXiv 2110.05679, for
sequences) never stores the n gradients. One forward pass records what enters each layer, a; one backward pass of the
SUMMED loss, with weight gradients left out, gives what each layer's output receives, delta; and a small rule per layer
type turns the two into squared lengths. A linear layer that sees one position per example:

    || delta_n a_n^T ||^2 + || delta_n ||^2 = || delta_n ||^2 (|| a_n ||^2 + 1)

With T positions the gradient is sum_t delta_t a_t^T, and one of two routes is cheaper: its T x T Gram form
sum_{t,t'} (a_t . a_t') (delta_t . delta_t'), or the product itself. Convolutions are such sums over patches. A weight
that several calls share has its gradients added before they are squared.

What no rule accounts for in full (bare parameters, attention, recurrent cells, layers of another batch layout) is found
by counting each weight's uses in the autograd graph, and goes through vmap(grad) instead: slower, and as exact.

The loss of an example must depend on that example alone. Batch normalisation in train mode breaks this and is refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from surplus.errors import InputError, unknown
from surplus.space.ghost_rules import RULES, Rule, affordable_rows, factor_of, length2
from surplus.space.weightspace import Buffers, WeightSpace

Loss = Callable[[Tensor, Tensor], Tensor]
Weights = dict[str, Tensor]

_METHODS = ("auto", "ghost", "vmap", "loop")


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each example, (n, classes, ...) and (n, ...) -> (n, ...), not averaged."""
    return F.cross_entropy(outputs, labels, reduction="none")


def per_example_grad_norms(
    network: nn.Module | WeightSpace,
    theta: Tensor | None,
    x: Tensor,
    y: Tensor,
    loss: Loss = cross_entropy,
    buffers: Buffers | None = None,
    method: str = "auto",
    chunk: int | None = None,
) -> Tensor:
    """Length of every example's loss gradient, over all trainable weights.

    Args:
        network: a weight space, taken in eval mode; or a module, taken in the mode and with the frozen weights it has.
        theta: the point (P,); None means where the module stands.
        x: (n, ...) inputs, examples first.
        y: (n, ...) targets.
        loss: (outputs, targets) -> (n,) losses; further axes, as of a sequence's tokens, are summed.
        buffers: batch-norm statistics for theta, from `WeightSpace.statistics`; the network's own when None.
        method: "ghost", an error where a weight has no rule; "auto", the same with vmap for those weights; "vmap",
            n gradients at once; "loop", one backward pass per example.
        chunk: examples handled at once; None takes all (ghost) or what fits 256 MB of gradients (vmap).

    Returns:
        (n,) norms.

    Raises:
        InputError: the network mixes examples (train-mode batch norm) or draws noise (dropout in train mode); the
            loss is not per example; a weight has no ghost rule under method "ghost".
    """
    if method not in _METHODS:
        raise unknown("method of per-example norms", method, _METHODS)
    net = _network(network, theta, buffers)
    _check(net, x, y, chunk)
    if len(x) == 0:
        return x.new_zeros(0, dtype=net.dtype)
    if method in ("vmap", "loop"):
        squares = _slow_squares(net, list(net.weights), x, y, loss, 1 if method == "loop" else chunk)
    else:
        trusted, floats = _probe(net, x)
        chunk = chunk or _even_chunk(len(x), limit=affordable_rows(floats, x, cache=2**23))
        parts = zip(x.split(chunk), y.split(chunk), strict=True)
        squares = torch.cat([_ghost_squares(net, a, b, loss, trusted, strict=method == "ghost") for a, b in parts])
    return squares.clamp(min=0).sqrt()


def per_example_grads(
    network: nn.Module | WeightSpace,
    theta: Tensor | None,
    x: Tensor,
    y: Tensor,
    loss: Loss = cross_entropy,
    buffers: Buffers | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Every example's loss gradient in full, by vmap(grad): arguments as of `per_example_grad_norms` -> (n, P)."""
    net = _network(network, theta, buffers)
    _check(net, x, y, chunk)
    size = sum(w.numel() for w in net.weights.values())
    if len(x) == 0:
        return x.new_zeros(0, size, dtype=net.dtype)
    parts = _grads(net, list(net.weights), x, y, loss, chunk)
    return torch.cat([torch.cat([g.flatten(1) for g in part.values()], dim=1) for part in parts])


def last_layer_grad_norms(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Length of the cross-entropy gradient over the last linear layer alone, bias included.

        || (p - y) [h, 1]^T || = || p - y || sqrt(1 + || h ||^2)

    Args:
        logits: (..., n, classes).
        features: (..., n, width), what enters the last layer.
        labels: (n,) integers.

    Returns:
        (..., n) norms.
    """
    error = logits.softmax(-1) - F.one_hot(labels, logits.shape[-1]).to(logits)
    return error.norm(dim=-1) * (1 + features.square().sum(-1)).sqrt()


# ---- the network as given -------------------------------------------------------------------------------------------


class _Network(NamedTuple):
    """A module, and the point at which it stands."""

    module: nn.Module
    weights: Weights
    buffers: Buffers

    def __call__(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.module, {**self.weights, **weights, **self.buffers}, (x,), tie_weights=True)

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.weights.values())).dtype


def _network(network: nn.Module | WeightSpace, theta: Tensor | None, buffers: Buffers | None) -> _Network:
    if isinstance(network, WeightSpace):
        if theta is None:
            raise InputError("a weight space is no point: give theta of shape (P,), from space.init(seed) or a run")
        network.module.eval()
        weights, buffers = network.split(theta), buffers or network.fresh_buffers(theta.device)
        return _Network(network.module, {n: w.detach() for n, w in weights.items()}, buffers)
    if theta is None:
        weights = {n: p for n, p in network.named_parameters() if p.requires_grad}
    else:
        weights = WeightSpace(lambda: network).split(theta)
    if not weights:
        raise InputError(f"{type(network).__name__} has no trainable parameter; call requires_grad_() on some first")
    return _Network(network, {n: w.detach() for n, w in weights.items()}, buffers or {})


def _check(net: _Network, x: Tensor, y: Tensor, chunk: int | None) -> None:
    if len(x) != len(y):
        raise InputError(f"one target per example: got {len(x)} inputs and {len(y)} targets")
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk is the number of examples handled at once, at least 1; got {chunk}")
    for name, m in net.module.named_modules():
        if isinstance(m, _BatchNorm) and (m.training or m.running_mean is None):
            raise InputError(
                f"batch norm {name!r} uses the statistics of the batch, so no example has a gradient of its own: "
                "call module.eval(), and keep track_running_stats=True"
            )
        if m.training and _draws_noise(m):
            raise InputError(f"{name!r} applies dropout, so gradients are random: call module.eval() first")


def _draws_noise(m: nn.Module) -> bool:
    rate = m.p if isinstance(m, _DropoutNd) else getattr(m, "dropout", 0.0)
    return isinstance(rate, float) and rate > 0


def _losses(loss: Loss, outputs: Tensor, y: Tensor) -> Tensor:
    """The loss of each example, (n,); a loss that averages over the batch would scale every gradient by 1 / n."""
    losses = loss(outputs, y)
    if losses.dim() == 0 or len(losses) != len(y):
        shape = tuple(losses.shape)
        raise InputError(f"the loss must return one number per example (reduction='none'); got shape {shape}")
    return losses.flatten(1).sum(1) if losses.dim() > 1 else losses


# ---- vmap and loop: the slow roads ---------------------------------------------------------------------------------


def _grads(
    net: _Network, names: Sequence[str], x: Tensor, y: Tensor, loss: Loss, chunk: int | None
) -> Iterator[Weights]:
    """Gradients of these weights, chunk by chunk of examples, each (chunk, *shape)."""
    weights = {n: net.weights[n] for n in names}

    def one(w: Weights, xi: Tensor, yi: Tensor) -> Tensor:
        return _losses(loss, net(w, xi.unsqueeze(0)), yi.unsqueeze(0)).sum()

    chunk = chunk or max(1, 2**26 // sum(w.numel() for w in weights.values()))
    for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True):
        if len(xs) == 1:  # works for networks that vmap cannot trace, too
            yield {n: g.unsqueeze(0) for n, g in _one_gradient(partial(one, xi=xs[0], yi=ys[0]), weights).items()}
        else:
            yield vmap(grad(one), in_dims=(None, 0, 0))(weights, xs, ys)


def _one_gradient(objective: Callable[[Weights], Tensor], weights: Weights) -> Weights:
    leaves = {n: w.detach().requires_grad_() for n, w in weights.items()}
    with torch.enable_grad():
        gradients = torch.autograd.grad(objective(leaves), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, gradients, strict=True))


def _slow_squares(net: _Network, names: Sequence[str], x: Tensor, y: Tensor, loss: Loss, chunk: int | None) -> Tensor:
    parts = _grads(net, names, x, y, loss, chunk)
    return torch.cat([torch.stack([length2(g) for g in part.values()]).sum(0) for part in parts])


# ---- the ghost route: one forward pass, one backward pass, one rule per use of a weight ------------------------------


@dataclass(frozen=True)
class _Call:
    """One call of a layer that has rules."""

    layer: nn.Module
    inputs: Tensor
    version: int
    """Of `inputs` at the time; an in-place change afterwards would spoil them."""
    factor: Tensor
    """What multiplies delta in the weight's gradient: the input, or for norms the normalised input."""
    edge: GradientEdge | None
    """Where the layer's output hangs in the graph; taken at once, so that in-place activations do no harm."""
    shape: torch.Size
    """Of the output."""
    weights: tuple[tuple[str, str], ...]
    """(rule's leaf, network's name) of the weights that the call used."""


@contextmanager
def _recorded(module: nn.Module, names: Mapping[int, str]) -> Iterator[list[_Call]]:
    """Record the calls of layers that have rules; `names` tells weights by their id."""
    calls: list[_Call] = []

    def record(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        weights = {leaf: getattr(layer, leaf, None) for leaf in ("weight", "bias")}
        used = tuple((leaf, names[id(w)]) for leaf, w in weights.items() if id(w) in names)
        if used and len(args) == 1:
            a = args[0].detach()
            factor = factor_of(layer, a) if output.requires_grad else a
            edge = get_gradient_edge(_source(output)) if output.requires_grad else None
            calls.append(_Call(layer, a, a._version, factor, edge, output.shape, used))

    layers = [m for m in module.modules() if (type(m), "weight") in RULES]
    hooks = [m.register_forward_hook(record, prepend=True) for m in layers]  # before a user's hook changes the output
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _source(output: Tensor) -> Tensor:
    """What `output` is a mere reshape of, if of anything: its place in the graph survives an in-place activation."""
    base = output._base
    reshaped = base is not None and base.numel() == output.numel() and base.is_contiguous() and output.is_contiguous()
    return base if base is not None and reshaped else output


def _probe(net: _Network, x: Tensor) -> tuple[set[nn.Module], int]:
    """One example alone through the network.

    Returns:
        The layers whose inputs then have one row (elsewhere row n need not be example n: positions may come first, as
        in a position embedding, and n may happen to equal their number); and the floats that enter layers per example.
    """
    names = {id(w): n for n, w in net.weights.items()}
    with _recorded(net.module, names) as calls, torch.no_grad():
        net(net.weights, x[:1])
    strange = {c.layer for c in calls if c.inputs.dim() == 0 or len(c.inputs) != 1}
    return {c.layer for c in calls} - strange, sum(c.inputs.numel() for c in calls)


def _even_chunk(n: int, limit: int) -> int:
    """The chunk that splits n into as few parts as the limit allows, of about one size."""
    return -(-n // -(-n // limit))


def _ghost_squares(net: _Network, x: Tensor, y: Tensor, loss: Loss, trusted: set[nn.Module], *, strict: bool) -> Tensor:
    leaves = {n: w.detach().requires_grad_() for n, w in net.weights.items()}
    with torch.enable_grad(), _recorded(net.module, {id(w): n for n, w in leaves.items()}) as calls:
        losses = _losses(loss, net(leaves, x), y)
    squares = losses.new_zeros(len(x), dtype=net.dtype)
    if losses.grad_fn is None:
        return squares  # no trainable weight reaches the loss
    nodes, uses = _graph(losses.grad_fn, leaves)
    reached = [c for c in calls if c.edge is not None and c.edge.node in nodes]
    ghosts = _accounted_for(reached, uses, trusted, len(x))
    wanted = [c for c in reached if any(name in ghosts for _, name in c.weights)]
    if wanted:
        ones = torch.ones_like(losses)  # the gradient of the sum: each example keeps its own scale
        deltas = torch.autograd.grad(losses, [c.edge for c in wanted if c.edge is not None], ones)
        squares += _rule_squares(wanted, deltas, ghosts)
    rest = [n for n in leaves if uses[n] and n not in ghosts]
    if rest and strict:
        raise InputError(f"no ghost rule accounts for {', '.join(rest)}; use method='auto', which takes vmap for them")
    return squares + _fallback_squares(net, rest, x, y, loss) if rest else squares


def _fallback_squares(net: _Network, names: Sequence[str], x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    try:
        return _slow_squares(net, names, x, y, loss, chunk=None)
    except RuntimeError:  # branches on values, or has no room for n gradients: nothing that vmap can do
        return _slow_squares(net, names, x, y, loss, chunk=1)


def _graph(root: Node, leaves: Weights) -> tuple[set[Node], Counter[str]]:
    """All nodes of the loss's graph, and how often each weight enters it."""
    names = {id(w): n for n, w in leaves.items()}
    nodes, uses, stack = {root}, Counter[str](), [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            weight = names.get(id(getattr(node, "variable", None)))
            if weight is not None:
                uses[weight] += 1
            elif node is not None and node not in nodes:
                nodes.add(node)
                stack.append(node)
    if any(node.name() == "CheckpointFunctionBackward" for node in nodes):
        raise InputError("reentrant checkpoints hide weights from the graph: pass use_reentrant=False to checkpoint")
    return nodes, uses


def _accounted_for(calls: list[_Call], uses: Counter[str], trusted: set[nn.Module], n: int) -> set[str]:
    """The weights all of whose uses in the graph are calls that a rule can read."""
    seen: Counter[str] = Counter()
    for call in calls:
        if _readable(call, n) and call.layer in trusted:
            seen.update(name for _, name in call.weights)
    return {name for name, count in seen.items() if count == uses[name]}


def _readable(call: _Call, n: int) -> bool:
    layer, a = call.layer, call.inputs
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq):
        return False
    axes = {nn.Linear: 2, nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}.get(type(layer), 1)  # fewer: no batch axis
    return a.dim() >= axes and len(a) == n and a._version == call.version


def _rule_squares(calls: list[_Call], deltas: Sequence[Tensor], ghosts: set[str]) -> Tensor:
    """Sum over weights of the squared length of each example's gradient, (n,)."""
    uses: dict[str, list[_Use]] = defaultdict(list)
    for call, delta in zip(calls, deltas, strict=True):
        for leaf, name in call.weights:
            if name in ghosts:
                rule = RULES[type(call.layer), leaf]
                uses[name].append(_Use(rule, call.layer, call.factor, delta.reshape(call.shape)))
    return torch.stack([_shared_square(u) if len(u) > 1 else u[0].rule.square(*u[0][1:]) for u in uses.values()]).sum(0)


class _Use(NamedTuple):
    """One use of one weight, and what its rule reads."""

    rule: Rule
    layer: nn.Module
    factor: Tensor
    delta: Tensor

    def gradient(self, rows: slice) -> Tensor:
        return self.rule.gradient(self.layer, self.factor[rows], self.delta[rows])


def _shared_square(uses: list[_Use]) -> Tensor:
    """|| sum over calls of the gradient ||^2 for a weight used several times; a few examples at a time."""
    delta = uses[0].delta
    step = affordable_rows(sum(w.numel() for w in uses[0].layer.parameters()), delta)
    parts = []
    for start in range(0, len(delta), step):
        gradient, *others = (use.gradient(slice(start, start + step)) for use in uses)
        parts.append(length2(sum(others, gradient)))
    return torch.cat(parts)
