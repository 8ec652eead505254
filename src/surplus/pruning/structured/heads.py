"""Attention with fewer heads: what belongs to a head in q, k, v and in the output layer goes together.

    head h of width d:  rows h d ... (h + 1) d - 1 of q, of k and of v,  and the same columns of the output layer

A head that sends zeros can go without a change; the width of tokens stays. Torch's own module cannot have heads whose
widths do not add up to that of a token, so `FewerHeads` takes its place.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surplus.networks.attention import Attention
from surplus.space.units import resized


class FewerHeads(nn.MultiheadAttention):
    """`nn.MultiheadAttention` with some of its heads; arguments and outputs are the same.

    Args:
        attention: with one width for query, key and value.
        kept: which heads stay, (heads,) indices.
    """

    kept: Tensor

    def __init__(self, attention: nn.MultiheadAttention, kept: Tensor) -> None:
        nn.Module.__init__(self)  # the constructor of torch's module would refuse these sizes
        rows = _rows(kept, attention.head_dim)
        for name in ("embed_dim", "kdim", "vdim", "head_dim", "dropout", "batch_first", "add_zero_attn", "training"):
            setattr(self, name, getattr(attention, name))
        self.num_heads, self.whole = len(kept), attention.num_heads
        self._qkv_same_embed_dim = False  # keeps torch's encoder layer off its fused kernel, which counts on all heads
        self.register_buffer("kept", kept, persistent=False)
        thrice = torch.cat([rows + part * attention.embed_dim for part in range(3)])
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self.in_proj_weight = nn.Parameter(weight.detach()[thrice], weight.requires_grad)
        self.in_proj_bias = None if bias is None else nn.Parameter(bias.detach()[thrice], bias.requires_grad)
        self.bias_k = self.bias_v = None
        self.out_proj = resized(attention.out_proj, columns=rows)  # type: ignore[assignment]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`: outputs, and the weights (mean over the heads that are left) or None."""
        swaps = not self.batch_first and query.dim() == 3
        inputs = [t.transpose(0, 1) if swaps else t for t in (query, key, value)]
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        projected = (F.linear(t, w, b) for t, w, b in zip(inputs, weights, biases, strict=True))
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2) for t in projected)  # (..., heads, T, d)
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(self.head_dim)
        for mask in (self._per_head(attn_mask, scores), self._per_key(key_padding_mask)):
            if mask is not None:
                scores = scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        attended = F.dropout(scores.softmax(-1), self.dropout, self.training)
        joined = torch.matmul(attended, v).transpose(-3, -2).flatten(-2)
        out = F.linear(joined, self.out_proj.weight, self.out_proj.bias)  # not a call: `count` has this layer already
        out = out.transpose(0, 1) if swaps else out
        if not need_weights:
            return out, None
        return out, attended.mean(-3) if average_attn_weights else attended

    def _per_head(self, mask: Tensor | None, scores: Tensor) -> Tensor | None:
        """(T, S) for all heads, or (B * heads, T, S) as they once were, of which those that are left take their own."""
        if mask is None or mask.dim() == 2:
            return mask
        each = mask.unflatten(0, (-1, self.whole))[:, self.kept]
        return each if scores.dim() == 4 else each[0]

    def _per_key(self, mask: Tensor | None) -> Tensor | None:
        """(B, S) or (S,), the same for all heads and queries."""
        return None if mask is None else mask[..., None, None, :]


def attentions(module: nn.Module) -> dict[str, nn.Module]:
    """The attention layers that heads can be taken from, by name: ours, and torch's where q, k and v have one width."""
    return {name: m for name, m in module.named_modules() if heads_of(m) > 1}


def heads_of(layer: nn.Module) -> int:
    """How many heads a layer has that can be told apart; 0 for anything else."""
    if isinstance(layer, Attention):
        return layer.heads
    plain = type(layer) is nn.MultiheadAttention and layer.in_proj_weight is not None
    if plain and layer.bias_k is None and not layer.add_zero_attn:
        return layer.num_heads
    return 0


def head_values(layer: nn.Module, values: dict[int, Tensor]) -> Tensor:
    """Sum of the values of all weights that belong to each head, (heads,).

    Args:
        layer: one of `attentions`.
        values: what each weight is worth, by the parameter's identity.
    """
    if isinstance(layer, nn.MultiheadAttention):
        joint, out = id(layer.in_proj_weight), id(layer.out_proj.weight)
    else:
        assert isinstance(layer, Attention)
        joint, out = id(layer.qkv.weight), id(layer.out.weight)
    heads = heads_of(layer)
    return values[joint].sum(1).view(3, heads, -1).sum((0, 2)) + values[out].sum(0).view(heads, -1).sum(1)


def without_heads(layer: nn.Module, goes: list[int]) -> nn.Module:
    """A layer with the other heads; the same tokens in, the same width out."""
    count = heads_of(layer)
    kept = torch.tensor([h for h in range(count) if h not in goes])
    if isinstance(layer, nn.MultiheadAttention):
        return FewerHeads(layer, kept)
    assert isinstance(layer, Attention)
    inner = layer.out.in_features
    rows = _rows(kept, inner // count)
    small = copy.deepcopy(layer)
    small.heads = len(kept)
    small.qkv = resized(layer.qkv, rows=torch.cat([rows + part * inner for part in range(3)]))  # type: ignore[assignment]
    small.out = resized(layer.out, columns=rows)  # type: ignore[assignment]
    return small


def _rows(heads: Tensor, width: int) -> Tensor:
    return (heads[:, None] * width + torch.arange(width)).flatten()
