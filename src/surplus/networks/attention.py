"""The transformer block, with normalisation before each branch.

    x = x + W_o softmax(Q K^T / sqrt(d)) V,   x = x + W_2 gelu(W_1 norm(x));   Q, K, V = W norm(x), split into heads

Vaswani et al. 2017 (arXiv 1706.03762, equation 1); the order of normalisation is that of Radford et al. 2019 (GPT-2).
"""

from __future__ import annotations

from contextlib import nullcontext

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from surplus.errors import InputError
from surplus.networks.shapes import check_positive


def check_heads(network: str, width: int, heads: int) -> None:
    """Refuse a width that does not fall into equal heads."""
    check_positive(network, width=width, heads=heads)
    if width % heads:
        raise InputError(
            f"{network}: width={width} does not fall into heads={heads} equal heads; choose a multiple of heads"
        )


class Attention(nn.Module):
    """Self-attention with several heads.

    Args:
        width: features of a token.
        heads: number of heads.
        causal: whether a token sees only itself and those before it.
        fused: take torch's fastest kernel. Those have no forward-mode derivative, no second one on a GPU, and run
            stacked networks one by one on a CPU, so the plain formula is the default; it costs memory (heads, T, T).
    """

    def __init__(self, width: int, heads: int, causal: bool, fused: bool) -> None:
        super().__init__()
        self.heads, self.causal, self.fused = heads, causal, fused
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, T, width)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(-4, -2).unbind(-3)  # each (B, heads, T, d)
        with nullcontext() if self.fused else sdpa_kernel(SDPBackend.MATH):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(-3, -2).flatten(-2))


class TransformerBlock(nn.Module):
    """Attention and a dense layer on each token, each added to its input."""

    def __init__(self, width: int, heads: int, ratio: int, *, causal: bool, fused: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal, fused)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ratio * width)
        self.linear2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, T, width)."""
        x = x + self.attention(self.norm1(x))
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


def init_blocks(blocks: list[TransformerBlock]) -> None:
    """First values of a stack: variance 1 / fan-in, zero biases, branch ends divided by sqrt(2 * depth).

    The division keeps the sum over all 2 * depth branches at the size of one (Radford et al. 2019, section 2.3).
    """
    for block in blocks:
        ends = (block.attention.out, block.linear2)
        for layer in (block.attention.qkv, block.linear1, *ends):
            branches = 2 * len(blocks) if layer in ends else 1
            nn.init.normal_(layer.weight, std=(branches * layer.in_features) ** -0.5)
            nn.init.zeros_(layer.bias)
