"""GraSP: how much gradient flow a weight carries (Wang, Zhang & Grosse 2020, arXiv 2002.07376).

    s = theta * (H g),    H, g the Hessian and gradient of the loss at logits / T

Removing weight q changes the flow g.g by about -2 theta_q (Hg)_q, so the paper removes the highest -theta * (Hg); our
score has the other sign, high = keep. The authors' code draws linear layers anew for the scoring copy and scores with
the batch's own statistics; here theta is scored as it is, in evaluation mode unless `train`.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    g, point = first_gradient(
        space, theta, batch, loss, temperature=temperature, buffers=buffers, train=train, create_graph=True
    )
    (hg,) = torch.autograd.grad((g.detach() * g).sum(), point)
    flow = (theta * hg).detach()
    return flow if signed else flow.abs()
