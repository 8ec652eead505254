"""GraSP: how much gradient flow a weight carries (Wang, Zhang & Grosse 2020, arXiv 2002.07376).

    s = theta * H (m * g),    H, g the Hessian and gradient of the loss at logits / T,  m the mask so far

Removing weight q changes the flow g.g by about -2 theta_q (Hg)_q, so the paper removes the highest -theta * (Hg); our
score has the other sign, high = keep. The authors' code draws linear layers anew for the scoring copy and scores with
the batch's own statistics; here theta is scored as it is, in evaluation mode unless `train`. g and H are those of all
parameters, biases and normalisation among them, where the authors' code takes weights of layers alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from surplus.pruning.scoring import Batch, Loss, each_cross_entropy, first_gradient
from surplus.registry import method
from surplus.space import WeightSpace
from surplus.space.weightspace import Buffers


@method("weight score", paper="Wang, Zhang & Grosse 2020, arXiv 2002.07376", needs=("batch",))
def grasp(
    space: WeightSpace,
    theta: Tensor,
    batch: Batch,
    *,
    loss: Loss = each_cross_entropy,
    temperature: float = 200.0,
    signed: bool = True,
    buffers: Buffers | None = None,
    train: bool = False,
) -> Tensor:
    """Share of the gradient flow that a weight carries, theta * (Hg).

    Args:
        space: the network.
        theta: (P,).
        batch: (x, y); the paper takes 10 examples of every class (`balanced_rows`).
        loss: per example, (logits, targets) -> (B,).
        temperature: divides the logits; 200 in the paper.
        signed: False keeps large |theta * (Hg)|, which Frankle et al. (2021, arXiv 2009.08576) find better at times.
        buffers: batch-norm statistics; fresh ones when None.
        train: use the batch's own statistics.

    Returns:
        (P,), high = keep.
    """
    _, hg = gradient_and_product(space, theta, batch, loss, temperature=temperature, buffers=buffers, train=train)
    flow = hg.mul_(theta.detach())
    return flow if signed else flow.abs_()


def gradient_and_product(
    space: WeightSpace,
    theta: Tensor,
    batch: Batch,
    loss: Loss = each_cross_entropy,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    parts: int = 1,
    buffers: Buffers | None = None,
    train: bool = False,
) -> tuple[Tensor, Tensor]:
    """The gradient m * g of what a mask leaves, and the Hessian's product with it.

    Args:
        space: the network.
        theta: (P,) 0 outside the mask.
        batch: (x, y) examples, over which the loss is averaged.
        loss: per example, (logits, targets) -> (B,).
        mask: (P,) what is still there; None takes the prunable weights that are not exactly 0.
        temperature: divides the logits.
        parts: how many parts the examples are taken in, one after the other: less memory, one gradient pass more. At
            most one for each example.
        buffers: batch-norm statistics; fresh ones when None.
        train: use each part's own statistics.

    Returns:
        m * g and H (m * g), each (P,).

    Raises:
        InputError: there is no batch.
    """
    kept = ~space.prunable.to(theta.device) | (theta != 0) if mask is None else mask
    pieces = [batch] if batch is None or parts == 1 else _pieces(batch, min(parts, len(batch[1])))

    def gradient(piece: Batch, create_graph: bool) -> tuple[Tensor, Tensor]:
        return first_gradient(
            space, theta, piece, loss, temperature=temperature, buffers=buffers, train=train, create_graph=create_graph
        )

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        if len(pieces) == 1:
            g, point = gradient(batch, True)
            flow = g.detach() * kept
            return flow, torch.autograd.grad(g, point, flow)[0]
        shares = [len(piece[1]) / len(batch[1]) for piece in pieces]
        flow = kept * sum(s * gradient(piece, False)[0] for s, piece in zip(shares, pieces, strict=True))
        product = torch.zeros_like(flow)
        for share, piece in zip(shares, pieces, strict=True):
            g, point = gradient(piece, True)
            product.add_(torch.autograd.grad(g, point, flow)[0], alpha=share)
    return flow, product


def _pieces(batch: Batch, parts: int) -> list[Batch]:
    x, y = batch
    return list(zip(x.tensor_split(parts), y.tensor_split(parts), strict=True))
