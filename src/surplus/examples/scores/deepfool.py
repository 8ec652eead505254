"""DeepFool: how far is an example from the nearest decision boundary? (Moosavi-Dezfooli, Fawzi & Frossard 2016).

    l = argmin_{k != y} |f_k| / || w_k ||        r_t = |f_l| / || w_l ||^2  w_l        score = || sum_t r_t ||

f_k and w_k are the difference of logit k from that of the predicted class y, and its gradient in the input; the steps
go on until the prediction changes. Exact for a linear classifier. arXiv 1511.04599, algorithm 2; for choosing examples,
Ducoffe & Precioso 2018, arXiv 1802.09841: the nearest to a boundary first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.examples.evidence import check, real
from surplus.registry import method
from surplus.space import WeightSpace
from surplus.space.weightspace import Buffers
from surplus.stats import Estimate


@method("example score", paper="Moosavi-Dezfooli, Fawzi & Frossard 2016, arXiv 1511.04599", high="easy")
def deepfool(
    space: WeightSpace,
    thetas: Tensor,
    inputs: Tensor,
    buffers: Buffers | None = None,
    *,
    overshoot: float = 0.02,
    iterations: int = 50,
    batch: int = 256,
) -> Estimate:
    """Length of the smallest step in input space, as DeepFool finds it, that changes the prediction.

    Args:
        space: the networks' weight space.
        thetas: (runs, P).
        inputs: (n, ...) examples as the network sees them.
        buffers: batch-norm statistics of the runs, each (runs, ...); None re-estimates them on `inputs`.
        overshoot: how far beyond the boundary the next point lies, as a share of the way; DeepCore's code has 0.
        iterations: most steps; an example that has not crossed by then scores the way it has gone.
        batch: examples handled at once.

    Returns:
        Estimate of shape (n,): small = near a boundary.

    Raises:
        InputError: the shapes do not fit together, the outputs are no logits of two or more classes, or a setting is
            out of range.
    """
    check(thetas=thetas, inputs=inputs)
    if overshoot < 0 or iterations < 1 or batch < 1:
        raise InputError(
            f"deepfool takes an overshoot of 0 or more, and at least 1 iteration and example at a time; got {overshoot}"
            f", {iterations} and {batch}"
        )
    parts = real(inputs).chunk(-(-len(inputs) // batch))
    runs = []
    for run, theta in enumerate(thetas):
        own = {k: b[run] for k, b in buffers.items()} if buffers else space.statistics(theta, parts)
        runs.append(torch.cat([_way(space, theta, own, x, overshoot, iterations) for x in parts]))
    return Estimate.over(torch.stack(runs))


def _way(
    space: WeightSpace, theta: Tensor, buffers: Buffers | None, x: Tensor, overshoot: float, iterations: int
) -> Tensor:
    """|| sum of the steps || (b,) of a batch."""
    gone = torch.zeros_like(x)
    rows = torch.arange(len(x), device=x.device)  # whose prediction has not changed yet
    first: Tensor | None = None
    for _ in range(iterations):
        logits, slopes = _linearised(space, theta, buffers, x[rows] + (1 + overshoot) * gone[rows])
        now = logits.argmax(1)
        first = now if first is None else first
        same = now == first[rows]
        rows, logits, slopes = rows[same], logits[same], slopes[same]
        if not len(rows):
            break
        gone[rows] += _step(logits, slopes, first[rows]).view_as(gone[rows])
    return gone.flatten(1).norm(dim=1)


def _step(logits: Tensor, slopes: Tensor, predicted: Tensor) -> Tensor:
    """The way (b, d) to the nearest boundary of logits (b, C) that are linear with slopes (b, C, d)."""
    here = torch.arange(len(logits), device=logits.device)
    f = logits - logits[here, predicted, None]
    w = slopes - slopes[here, predicted, None]
    length = w.norm(dim=2).clamp(min=torch.finfo(w.dtype).tiny)
    distance = (f.abs() / length).nan_to_num(nan=torch.inf).index_put((here, predicted), f.new_tensor(torch.inf))
    nearest = distance.argmin(1)
    direction = w[here, nearest] / length[here, nearest, None]
    return torch.where(distance[here, nearest, None].isfinite(), distance[here, nearest, None] * direction, 0)


def _linearised(space: WeightSpace, theta: Tensor, buffers: Buffers | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (b, C) and their gradients in the input, (b, C, d)."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = space.apply(theta.detach(), x, buffers)
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise InputError(f"deepfool needs logits (n, classes) of two or more classes; got {tuple(logits.shape)}")
        slopes = [torch.autograd.grad(z.sum(), x, retain_graph=True)[0].flatten(1) for z in logits.T]
    return logits.detach(), torch.stack(slopes, 1)
