"""SynFlow: how much of a network's flow passes through a weight, without data (Tanaka et al. 2020, arXiv 2006.05467).

    R = sum of outputs of f(|theta|, 1),    s = | dR/d|theta| * |theta| |

On a ReLU network without biases every layer's scores sum to R, and so do the scores into and out of each hidden unit.
One cut removes whole layers; a hundred never do before they must, so `iterate_score` takes 100 rounds by default. With
biases, which the published code lets flow, a layer may still be emptied: what they send on needs no weights before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.pruning.scoring import Batch
from surplus.registry import method
from surplus.space import WeightSpace
from surplus.space.weightspace import Buffers


@method("weight score", paper="Tanaka et al. 2020, arXiv 2006.05467", needs=("batch",), rounds=100)
def synflow(
    space: WeightSpace, theta: Tensor, batch: Batch | Tensor, *, biases: bool = True, buffers: Buffers | None = None
) -> Tensor:
    """Synaptic flow, always in evaluation mode.

    Args:
        space: the network.
        theta: (P,).
        batch: (x, y) or x, of which only the shape of one input is used.
        biases: whether biases add to the flow, as published; without them it is conserved on any ReLU network.
        buffers: batch-norm statistics; fresh ones when None. They enter by their absolute values, as the weights do.

    Returns:
        (P,) in float64, since products over layers overflow shorter numbers; high = keep.

    Raises:
        InputError: the inputs are tokens, of which there is no all-ones signal.
    """
    x = batch if isinstance(batch, Tensor) else batch[0] if batch is not None else None
    if x is None or x.dtype == torch.int64:
        given = "no batch" if x is None else "tokens"
        raise InputError(f"SynFlow sends ones through the network, so it needs numbers of a known shape; got {given}")
    there = theta.detach().cpu() if theta.device.type == "mps" else theta.detach()  # which has no float64
    point = there.to(torch.float64, copy=True).abs_()
    for block in () if biases else space.blocks:
        if block.name.endswith("bias"):
            point[block.slice] = 0
    point.requires_grad_()
    ones = torch.ones(1, *x.shape[1:], dtype=torch.float64, device=there.device)
    with torch.enable_grad():
        flow = space.apply(point, ones, _positive(space, there, buffers)).sum()
        (g,) = torch.autograd.grad(flow, point)
    return g.mul_(point.detach()).abs_()


def _positive(space: WeightSpace, theta: Tensor, buffers: Buffers | None) -> Buffers:
    """Buffers and frozen parameters in float64 and without sign; counters as they are."""
    frozen = {n: p.detach() for n, p in space.module.named_parameters() if not p.requires_grad}
    state = {**frozen, **(buffers or space.fresh_buffers(theta.device))}
    return {n: (t.abs().double() if t.is_floating_point() else t).to(theta.device) for n, t in state.items()}
