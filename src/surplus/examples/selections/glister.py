"""GLISTER: examples whose gradient step helps the validation set most (Killamsetty et al. 2021, arXiv 2012.10630).

    s_{t+1} = argmax_i < G_i, g_val(S) >        g_val(S) = mean over validation of the gradient at theta - eta mean_S G

One Taylor step stands for training: after each pick the validation logits move by what the step does to the last layer,
z - eta (mean_S G) [h, 1], and their gradient is taken again. G_i is the last-layer gradient (see `gradients`).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.examples.selections.base import Compat, check_keep, mask_of
from surplus.examples.selections.contextual_diversity import log_probabilities
from surplus.examples.selections.gradients import Products, Validation, errors, last_layer_gradients
from surplus.registry import method


@method("selection", paper="Killamsetty, Sivasubramanian, Ramakrishnan & Iyer 2021, arXiv 2012.10630")
def glister(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    embeddings: Tensor | None = None,
    probabilities: Tensor | None = None,
    validation: Validation | None = None,
    eta: float = 0.1,
    compat: Compat = None,
) -> Tensor:
    """Keep the examples that, picked one by one, lower the validation loss most by a gradient step on all picks.

    Args:
        scores: (n,) not used but for n.
        keep: how many examples stay.
        labels: (n,) integers.
        generator: not used.
        embeddings: (n, d) what enters the last layer.
        probabilities: (n, classes) of the same network.
        validation: held-out examples; the training examples stand in for them when None.
        eta: size of the step, the learning rate.
        compat: "deepcore": the validation gradient is never taken again, and gradients go through two softmaxes.

    Returns:
        (n,) bool; nested for growing `keep`.

    Raises:
        InputError: what the rule needs is missing or does not fit.
    """
    check_keep(scores, keep)
    if not eta >= 0:
        raise InputError(f"eta is the size of a gradient step, 0 or more; got {eta}")
    g = last_layer_gradients("glister", len(scores), embeddings, probabilities, labels, compat)
    if validation is None:
        held_out, y, p = g, labels, probabilities
    else:
        own = (len(validation.labels), validation.embeddings, validation.probabilities, validation.labels)
        held_out, y, p = last_layer_gradients("glister on validation", *own, compat), own[3], own[2]
    if not len(held_out):
        raise InputError("glister has no validation examples (of one of the classes, if by class)")
    assert y is not None and p is not None  # or `last_layer_gradients` would have refused
    order = glister_order(g, held_out, log_probabilities(p if p.ndim == 2 else p.mean(0)), y, keep, eta, compat)
    return mask_of(order, len(scores))


def glister_order(
    g: Products, held_out: Products, logits: Tensor, labels: Tensor, keep: int, eta: float, compat: Compat = None
) -> Tensor:
    """The picks, in order.

    Args:
        g: gradients of the n training examples.
        held_out: gradients of the m validation examples.
        logits: (m, classes) of these, up to a constant in each row.
        labels: (m,) of these.
        keep: how many picks.
        eta: size of the step.
        compat: see `glister`.

    Returns:
        (keep,) indices.
    """
    gain = g.onto(held_out.sum() / len(held_out))  # (n,); -inf once picked
    if compat == "deepcore":
        return gain.argsort(descending=True, stable=True)[:keep]
    free = torch.ones_like(gain, dtype=torch.bool)
    total = torch.zeros_like(g[:1].sum())  # (classes, d + 1), the sum over the picks
    order: list[int] = []
    while len(order) < keep:
        pick = int(torch.where(free, gain, -torch.inf).argmax())
        order.append(pick)
        free[pick] = False
        total += g[pick : pick + 1].sum()
        moved = logits - eta / len(order) * held_out.right @ total.T
        gain = g.onto(errors(moved.softmax(1), labels).T @ held_out.right / len(held_out))
    return torch.tensor(order, device=gain.device)
