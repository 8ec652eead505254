"""What each layer type makes of its input and its output's delta: per-example gradients, or their squared lengths.

    gradient:  (layer, factor, delta) -> (n, *shape)
    square:    (layer, factor, delta) -> (n,)

`factor` is the layer's input (a norm's normalised input) and `delta` the loss gradient at its output, examples first.
A layer type of your own joins by a line in `RULES`. See `surplus.space.per_example` for the route as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight


@dataclass(frozen=True)
class Rule:
    """How one weight of one layer type gets its gradients, and their squared lengths by a shorter way if any."""

    gradient: Callable[..., Tensor]
    shortcut: Callable[..., Tensor] | None = None

    def square(self, layer: nn.Module, factor: Tensor, delta: Tensor) -> Tensor:
        return self.shortcut(layer, factor, delta) if self.shortcut else length2(self.gradient(layer, factor, delta))


def length2(g: Tensor) -> Tensor:
    """Squared length of each row, (n, ...) -> (n,)."""
    return torch.linalg.vector_norm(g.flatten(1) if g.dim() > 1 else g.unsqueeze(1), dim=1).square()


def affordable_rows(floats: int, like: Tensor, cache: int = 2**19) -> int:
    """Examples to handle at once when each needs so many floats: what a CPU's cache likes, 256 times that on a GPU."""
    return max(1, (cache if like.device.type == "cpu" else 2**8 * cache) // max(1, floats))


def _product_square(u: Tensor, v: Tensor) -> Tensor:
    """|| u_n v_n^T ||^2 by the cheaper route: (n, p, T), (n, q, T) -> (n,)."""
    if u.shape[2] == 1:
        return length2(u) * length2(v)
    if _gram_is_cheaper(u.shape[1], v.shape[1], u.shape[2]):
        return (torch.bmm(u.mT, u) * torch.bmm(v.mT, v)).sum((1, 2))
    return length2(torch.bmm(u, v.mT))


def _gram_is_cheaper(p: int, q: int, positions: int) -> bool:
    return positions * (p + q) < p * q


def _linear_weight(layer: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    return torch.bmm(_positions_last(delta), _positions_last(a).mT)


def _linear_weight_square(layer: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    if a.dim() == 2:
        return length2(delta) * length2(a)
    u, v = _positions_last(delta), _positions_last(a)
    p, q, positions = u.shape[1], v.shape[1], u.shape[2]
    rows = affordable_rows(2 * positions**2 if _gram_is_cheaper(p, q, positions) else p * q, u)
    return torch.cat([_product_square(*pair) for pair in zip(u.split(rows), v.split(rows), strict=True)])


def _positions_last(t: Tensor) -> Tensor:
    """(n, ..., width) -> (n, width, positions)."""
    return t.reshape(len(t), -1, t.shape[-1]).mT


def _last_axis_bias(layer: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    return delta.sum(tuple(range(1, delta.dim() - 1))) if delta.dim() > 2 else delta


_CONV_WEIGHT: dict[int, Callable[..., Tensor]] = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}


def _conv_weight(layer: nn.Conv2d, a: Tensor, delta: Tensor) -> Tensor:
    """All gradients by one convolution in which every example is a group of channels of its own."""
    n, padding = len(a), layer.padding
    if isinstance(padding, str) or layer.padding_mode != "zeros":
        a, padding = _padded(layer, a), (0,) * len(layer.kernel_size)
    a, delta = (t.reshape(1, -1, *t.shape[2:]) for t in (a, delta))
    shape = (n * layer.out_channels, *layer.weight.shape[1:])
    weight_gradient = _CONV_WEIGHT[len(layer.kernel_size)]
    found = weight_gradient(a, shape, delta, layer.stride, padding, layer.dilation, n * layer.groups)
    return found.view(n, *layer.weight.shape)


def _conv_weight_square(layer: nn.Conv2d, a: Tensor, delta: Tensor) -> Tensor:
    """By groups or by patches laid out, as measured on a CPU: groups want channels in eights and more than 1x1."""
    inside, out = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    kernel, positions = prod(layer.kernel_size), prod(delta.shape[2:])
    if inside % 8 == 0 and kernel > 1 and not _gram_is_cheaper(inside * kernel, out, positions):
        fn, floats = _conv_by_groups, a[0].numel() + delta[0].numel() + layer.weight.numel()
    else:
        fn, floats = _conv_by_patches, layer.in_channels * kernel * positions
    rows = affordable_rows(floats, a)
    return torch.cat([fn(layer, *pair) for pair in zip(a.split(rows), delta.split(rows), strict=True)])


def _conv_by_groups(layer: nn.Conv2d, a: Tensor, delta: Tensor) -> Tensor:
    return length2(_conv_weight(layer, a, delta))


def _conv_by_patches(layer: nn.Conv2d, a: Tensor, delta: Tensor) -> Tensor:
    each = len(a) * layer.groups
    u = delta.reshape(each, layer.out_channels // layer.groups, -1)
    v = _patches(layer, _padded(layer, a), delta.shape[2:]).reshape(each, -1, u.shape[2])
    return _product_square(u, v).view(len(a), layer.groups).sum(1)


def _patches(layer: nn.Conv2d, a: Tensor, out: torch.Size) -> Tensor:
    """What each output position sees, as a view: (n, c, *padded) -> (n, c, *kernel, *out)."""
    n, c, *steps = a.stride()
    within = [s * d for s, d in zip(steps, layer.dilation, strict=True)]
    across = [s * d for s, d in zip(steps, layer.stride, strict=True)]
    return a.as_strided((*a.shape[:2], *layer.kernel_size, *out), (n, c, *within, *across))


def _padded(layer: nn.Conv2d, a: Tensor) -> Tensor:
    sides: list[int] = []
    for axis in reversed(range(len(layer.kernel_size))):  # F.pad wants the last axis first
        if isinstance(layer.padding, str):
            total = layer.dilation[axis] * (layer.kernel_size[axis] - 1) if layer.padding == "same" else 0
            sides += [total // 2, total - total // 2]
        else:
            sides += [layer.padding[axis]] * 2
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(a, sides, mode) if any(sides) else a


def _channel_weight(layer: nn.Module, normalised: Tensor, delta: Tensor) -> Tensor:
    return _channel_bias(layer, normalised, normalised * delta)


def _channel_bias(layer: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    """Convolutions, batch and group norm: (n, c, ...) -> (n, c)."""
    return delta.flatten(2).sum(2) if delta.dim() > 2 else delta


def _trailing_weight(layer: nn.LayerNorm, normalised: Tensor, delta: Tensor) -> Tensor:
    return _trailing_bias(layer, normalised, normalised * delta)


def _trailing_bias(layer: nn.LayerNorm, a: Tensor, delta: Tensor) -> Tensor:
    """Layer and RMS norm, whose weights span the last axes: (n, ..., *normalised shape) -> (n, *normalised shape)."""
    return delta.reshape(len(delta), -1, *layer.normalized_shape).sum(1)


def _embedding_weight(layer: nn.Embedding, tokens: Tensor, delta: Tensor) -> Tensor:
    n, width = len(tokens), layer.embedding_dim
    rows = _token_keys(layer, tokens).flatten()
    table = delta.new_zeros(n * layer.num_embeddings, width)
    return table.index_add_(0, rows, _deltas_of_words(layer, tokens, delta)).view(n, -1, width)


def _embedding_weight_square(layer: nn.Embedding, tokens: Tensor, delta: Tensor) -> Tensor:
    """Only rows that an example looks up can move: add up its deltas token by token."""
    keys, row = _token_keys(layer, tokens).unique(return_inverse=True)
    moved = delta.new_zeros(len(keys), layer.embedding_dim)
    moved.index_add_(0, row.flatten(), _deltas_of_words(layer, tokens, delta))
    return delta.new_zeros(len(tokens)).index_add_(0, keys // layer.num_embeddings, length2(moved))


def _token_keys(layer: nn.Embedding, tokens: Tensor) -> Tensor:
    """A number per (example, token) pair, (n, positions)."""
    example = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
    return tokens.reshape(len(tokens), -1).long() + layer.num_embeddings * example


def _deltas_of_words(layer: nn.Embedding, tokens: Tensor, delta: Tensor) -> Tensor:
    """Deltas in rows, (n * positions, width), with those of the padding token put to zero, as torch does."""
    rows = delta.reshape(-1, layer.embedding_dim)
    return rows if layer.padding_idx is None else rows * (tokens.flatten() != layer.padding_idx).unsqueeze(1)


def _batch_norm_factor(layer: nn.BatchNorm2d, a: Tensor) -> Tensor:
    return F.batch_norm(a, layer.running_mean, layer.running_var, eps=layer.eps)


def _group_norm_factor(layer: nn.GroupNorm, a: Tensor) -> Tensor:
    return F.group_norm(a, layer.num_groups, eps=layer.eps)


def _layer_norm_factor(layer: nn.LayerNorm, a: Tensor) -> Tensor:
    return F.layer_norm(a, layer.normalized_shape, eps=layer.eps)


def _rms_norm_factor(layer: nn.RMSNorm, a: Tensor) -> Tensor:
    return F.rms_norm(a, layer.normalized_shape, eps=layer.eps)


_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CHANNEL_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
_TRAILING_NORMS = (nn.LayerNorm, nn.RMSNorm)

RULES: dict[tuple[type[nn.Module], str], Rule] = {
    (nn.Linear, "weight"): Rule(_linear_weight, _linear_weight_square),
    (nn.Linear, "bias"): Rule(_last_axis_bias),
    (nn.Embedding, "weight"): Rule(_embedding_weight, _embedding_weight_square),
    **{(conv, "weight"): Rule(_conv_weight, _conv_weight_square) for conv in _CONVS},
    **{(norm, "weight"): Rule(_channel_weight) for norm in _CHANNEL_NORMS},
    **{(layer, "bias"): Rule(_channel_bias) for layer in (*_CONVS, *_CHANNEL_NORMS)},
    **{(norm, "weight"): Rule(_trailing_weight) for norm in _TRAILING_NORMS},
    **{(norm, "bias"): Rule(_trailing_bias) for norm in _TRAILING_NORMS},
}
_FACTORS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.BatchNorm1d: _batch_norm_factor,
    nn.BatchNorm2d: _batch_norm_factor,
    nn.BatchNorm3d: _batch_norm_factor,
    nn.GroupNorm: _group_norm_factor,
    nn.LayerNorm: _layer_norm_factor,
    nn.RMSNorm: _rms_norm_factor,
}


def factor_of(layer: nn.Module, a: Tensor) -> Tensor:
    """What multiplies delta in the gradient of the layer's weight: its input, or for norms the normalised input."""
    return _FACTORS[type(layer)](layer, a) if type(layer) in _FACTORS else a
