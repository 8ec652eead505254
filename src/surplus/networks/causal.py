"""Causal transformer: predicts each next token from those before it.

    x = token embedding + position embedding;  depth x block;  norm;  logits = E x (E the token embedding, when tied)

Radford et al. 2019, "Language models are unsupervised multitask learners" (GPT-2), section 2.3, without dropout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.networks.attention import TransformerBlock, check_heads, init_blocks
from surplus.networks.shapes import check_positive, choose, read_text
from surplus.registry import method


@method("network", paper="Radford et al. 2019 (GPT-2)")
def causal_transformer(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    ratio: int = 4,
    tied: bool | None = None,
    predict: str = "all",
    fused: bool = False,
) -> nn.Module:
    """Small GPT-like network of tokens.

    GPT-2 itself is input_shape (50257, 1024), outputs 50257, width=768, depth=12, heads=12: 124,439,808 parameters.

    Args:
        input_shape: (vocabulary, context): number of token ids, and the most tokens in a row.
        outputs: number of outputs per prediction; the vocabulary, for a language model.
        width: features of a token.
        depth: number of blocks.
        heads: attention heads; they divide the width.
        ratio: hidden units of a block's dense layers per feature.
        tied: whether the head's weights are the token embedding; when not given, tied if outputs equals the vocabulary.
        predict: "all" gives an output at each token, (B, T, outputs); "last" only at the last, (B, outputs).
        fused: torch's fastest attention kernel: less memory for long rows, but no forward-mode derivatives.

    Raises:
        InputError: heads that do not divide the width, tied weights with outputs other than the vocabulary.
    """
    vocabulary, context = read_text("causal-transformer", input_shape, outputs)
    check_positive("causal-transformer", depth=depth, ratio=ratio)
    check_heads("causal-transformer", width, heads)
    choose("causal-transformer", "predict", predict, ("all", "last"))
    if tied and outputs != vocabulary:
        raise InputError(
            f"causal-transformer: tied weights need as many outputs as token ids; got {outputs} outputs "
            f"and a vocabulary of {vocabulary}. Pass tied=False"
        )
    blocks = [TransformerBlock(width, heads, ratio, causal=True, fused=fused) for _ in range(depth)]
    tie = outputs == vocabulary if tied is None else tied
    return CausalTransformer(nn.Embedding(vocabulary, width), context, blocks, outputs, tie, predict == "last")


class CausalTransformer(nn.Module):
    """Token and position embeddings, causal blocks, norm, linear head without bias.

    Args:
        tokens: the token embedding.
        context: the most tokens in a row.
        blocks: the transformer blocks.
        outputs: outputs per prediction.
        tied: whether the head shares the token embedding's weights.
        last: whether to predict at the last token only.
    """

    def __init__(
        self, tokens: nn.Embedding, context: int, blocks: list[TransformerBlock], outputs: int, tied: bool, last: bool
    ) -> None:
        super().__init__()
        width = tokens.embedding_dim
        self.tokens = tokens
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs, bias=False)
        self.last = last
        for table in (self.tokens, self.positions, self.head):
            nn.init.normal_(table.weight, std=0.02)
        if tied:
            self.head.weight = self.tokens.weight
        init_blocks(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Token ids (B, T), T up to the context, to logits (B, T, outputs) or (B, outputs)."""
        length, context = x.shape[-1], self.positions.num_embeddings
        if length > context:
            raise InputError(f"causal-transformer was built for at most {context} tokens in a row; got {length}")
        x = self.tokens(x) + self.positions(torch.arange(length, device=x.device))
        x = self.norm(self.blocks(x))
        return self.head(x[..., -1, :] if self.last else x)
