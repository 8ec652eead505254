"""Vision transformer: an image as a row of patches.

    tokens = W patches + b + positions;  depth x block;  norm;  mean over tokens (or the class token);  linear

Dosovitskiy et al. 2021, arXiv 2010.11929, section 3.1; the mean over tokens is Beyer et al. 2022, arXiv 2205.01580.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.networks.attention import TransformerBlock, check_heads, init_blocks
from surplus.networks.shapes import check_positive, choose, read_image
from surplus.registry import method


@method("network", paper="Dosovitskiy et al. 2021, arXiv 2010.11929")
def vit_small(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    patch: int = 4,
    width: int = 128,
    depth: int = 6,
    heads: int = 4,
    ratio: int = 4,
    pool: str = "mean",
    fused: bool = False,
) -> nn.Module:
    """Small vision transformer with normalisation before each branch.

    With patch=16, pool="class" on (3, 224, 224) and 1,000 outputs: width=384, depth=12, heads=6 is ViT-S/16 (22,050,664
    parameters, printed as 22M), width=768, depth=12, heads=12 is the paper's ViT-B/16 (86,567,656, printed as 86M).

    Args:
        input_shape: (channels, height, width), whose sides the patch divides.
        outputs: number of outputs.
        patch: side of a patch; 2 suits 8x8 images, 4 suits 28x28 and 32x32.
        width: features of a token.
        depth: number of blocks.
        heads: attention heads; they divide the width.
        ratio: hidden units of a block's dense layers per feature.
        pool: "mean" over tokens, or "class" for a token of its own.
        fused: torch's fastest attention kernel: less memory for long rows, but no forward-mode derivatives.

    Raises:
        InputError: a patch that does not divide the image, heads that do not divide the width, an unknown pool.
    """
    channels, *sides = read_image("vit-small", input_shape, outputs)
    check_positive("vit-small", patch=patch, depth=depth, ratio=ratio)
    check_heads("vit-small", width, heads)
    choose("vit-small", "pool", pool, ("mean", "class"))
    if any(side % patch for side in sides):
        fit = [str(p) for p in range(1, min(sides) + 1) if not any(side % p for side in sides)]
        raise InputError(
            f"vit-small: patch={patch} does not divide {sides[0]}x{sides[1]} pixels; pick {', '.join(fit)}"
        )
    tokens = (sides[0] // patch) * (sides[1] // patch)
    blocks = [TransformerBlock(width, heads, ratio, causal=False, fused=fused) for _ in range(depth)]
    return ViT(nn.Conv2d(channels, width, patch, patch), tokens, blocks, outputs, pool)


class ViT(nn.Module):
    """Patches to tokens, blocks, norm, pool, linear head.

    Args:
        embed: the convolution that turns patches into tokens.
        tokens: number of patches.
        blocks: the transformer blocks.
        outputs: number of outputs.
        pool: "mean" or "class".
    """

    def __init__(self, embed: nn.Conv2d, tokens: int, blocks: list[TransformerBlock], outputs: int, pool: str) -> None:
        super().__init__()
        width = embed.out_channels
        self.embed = embed
        self.first = nn.Parameter(torch.zeros(width)) if pool == "class" else None  # the class token
        self.positions = nn.Parameter(torch.empty(tokens + (pool == "class"), width))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        nn.init.normal_(self.positions, std=0.02)
        init_blocks(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, outputs)."""
        x = self.embed(x).flatten(-2).transpose(-2, -1)  # (B, tokens, width)
        if self.first is not None:
            x = torch.cat([self.first.expand(*x.shape[:-2], 1, -1), x], dim=-2)
        x = self.norm(self.blocks(x + self.positions))
        return self.head(x.mean(-2) if self.first is None else x[..., 0, :])
