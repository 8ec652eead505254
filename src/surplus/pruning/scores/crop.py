"""CroP: how much the gradient flow of what stays would change without a weight, or without a unit.

    s_q = | theta_q (H (m * g))_q |,    g the gradient of the loss, H its Hessian, m the mask so far

Removing weight q changes |m * g|^2 by about twice that, in either direction, so it is GraSP without sign and without
temperature. For a unit j let c_j multiply what the next layer reads of it; then, at c = 1, with v = m * g held fixed,

    s_j = | d(v . grad L) / dc_j |  =  | sum_q theta_q (H v)_q + v_q^2 |,    q the weights that read unit j

g and H are those of all parameters: flow through biases and normalisation counts, though no mask removes it. Rachwan et
al. 2022, arXiv 2206.10451, sections 3 and 4. The authors' code adds up batches where we average, and one gate acts on a
unit's output and on the next layer's input; here it acts once, where the unit is read. Behind a ReLU, a gate on both is
worth exactly twice ours, so that ranks are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surplus.pruning.scores.grasp import gradient_and_product
from surplus.pruning.scoring import Batch, Loss, each_cross_entropy
from surplus.registry import method
from surplus.space import WeightSpace
from surplus.space.units import links
from surplus.space.weightspace import Buffers

PAPER = "Rachwan et al. 2022, arXiv 2206.10451"


@method("weight score", paper=PAPER, needs=("batch",))
def crop(
    space: WeightSpace,
    theta: Tensor,
    batch: Batch,
    *,
    loss: Loss = each_cross_entropy,
    mask: Tensor | None = None,
    parts: int = 1,
    buffers: Buffers | None = None,
) -> Tensor:
    """Change of the gradient flow by a weight's removal, |theta * H (m * g)|, in evaluation mode.

    Args:
        space: the network.
        theta: (P,).
        batch: (x, y); the paper takes five batches of training examples, which `parts` may take one by one.
        loss: per example, (logits, targets) -> (B,).
        mask: (P,) what is still there; None takes the prunable weights that are not exactly 0.
        parts: how many parts the examples are taken in; it saves memory and leaves the score as it is.
        buffers: batch-norm statistics; fresh ones when None.

    Returns:
        (P,), high = keep.
    """
    _, product = gradient_and_product(space, theta, batch, loss, mask=mask, parts=parts, buffers=buffers)
    return product.mul_(theta.detach()).abs_()


def unit_scores(
    space: WeightSpace,
    theta: Tensor,
    batch: Batch,
    *,
    loss: Loss = each_cross_entropy,
    mask: Tensor | None = None,
    parts: int = 1,
    buffers: Buffers | None = None,
) -> dict[str, Tensor]:
    """Change of the gradient flow by a gate on each hidden unit; arguments as for `crop`.

    Returns:
        (units,) by the name of the layer whose outputs they are, for each layer of `readers`.
    """
    flow, product = gradient_and_product(space, theta, batch, loss, mask=mask, parts=parts, buffers=buffers)
    each = product.mul_(theta.detach()).add_(flow.square())
    return {layer: _of_inputs(space, each, layer, after).sum((0, 2)).abs() for layer, after in readers(space).items()}


def readers(space: WeightSpace) -> dict[str, str]:
    """For each layer whose units one other layer alone reads, the name of that layer; in the order of the network.

    Raises:
        InputError: the network cannot be traced.
    """
    learnt = {b.layer for b in space.blocks if b.prunable}
    pairs = [(link.before, link.after) for link in links(space.module)]
    return {before: after for before, after in pairs if {before, after} <= learnt}


def unit_mask(space: WeightSpace, kept: dict[str, Tensor]) -> Tensor:
    """The mask (P,) that removes all weights into and out of units, by which are kept, (units,) booleans per layer."""
    mask, after = torch.ones(space.size, dtype=torch.bool), readers(space)
    for layer, units in kept.items():
        units = units.cpu()
        mask[space[f"{layer}.weight"].slice].view(len(units), -1)[~units] = False
        _of_inputs(space, mask, layer, after[layer])[:, ~units] = False
    return mask


def _of_inputs(space: WeightSpace, values: Tensor, layer: str, after: str) -> Tensor:
    """Values of the weights that read a layer's units, a view of shape (outputs, units, the rest)."""
    weights, units = space[f"{after}.weight"], space[f"{layer}.weight"].shape[0]
    return values[weights.slice].view(weights.shape[0], units, -1)
