"""Robust averages of gradients: steps without the directions that only a few examples ask for.

    Winsorized(c)   coordinate by coordinate, clip the batch's gradients to their [c, 1 - c] quantiles, then average
    M3              median of the mean gradients of three thirds of the batch, coordinate by coordinate
    RM3             median of the last three batch gradients, g_t, g_(t-1), g_(t-2); one backward pass per step

What serves many examples survives, what serves a few is cut, and with it the memorization of wrong labels: Chatterjee
2020, arXiv 2002.10657 (winsorized); Zielinski, Krishnan & Chatterjee 2020, arXiv 2003.07422 (M3, RM3). The optimiser
comes after the average, so momentum accumulates robust gradients. Steps are shorter than plain ones: compare at equal
progress, with a larger learning rate if need be.

As rules: `fit(task, rule=RM3())`. In a loop of your own: `RM3Optimizer`, or `m3_backward` and `winsorized_backward` in
the place of `loss.backward()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.registry import method
from surplus.space.per_example import Loss, cross_entropy, per_example_grads
from surplus.tasks import Recipe, Task
from surplus.training import Moment, Rule

_FEW = 16
"""Up to so many clipped examples on each side, running minima and maxima beat a sort."""


# ---- averages -------------------------------------------------------------------------------------------------------


def winsorized_mean(gradients: Tensor, share: float) -> Tensor:
    """Mean over b examples after clipping each coordinate to its floor(share b)-th smallest and largest value.

    Args:
        gradients: (..., b, P).
        share: from 0, the mean, to 0.5, the median.

    Returns:
        (..., P).

    Raises:
        InputError: a share outside [0, 0.5].
    """
    _check_share(share)
    b = gradients.shape[-2]
    clipped = min(int(share * b + 1e-9), (b - 1) // 2)  # for half of an even number: between the middle two
    if not clipped:
        return gradients.mean(-2)
    low, high = _inner(gradients, clipped)
    return gradients.clamp(low.unsqueeze(-2), high.unsqueeze(-2)).mean(-2)


def median_of_three(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The middle one of three tensors, element by element; NaN where one of them is."""
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def _inner(values: Tensor, outside: int) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value (..., P) with `outside` of the b others beyond it, over (..., b, P)."""
    if outside > _FEW:
        ordered = values.sort(-2).values
        return ordered[..., outside, :], ordered[..., -1 - outside, :]
    rows = values.unbind(-2)
    return _extreme(rows, outside, torch.minimum, torch.maximum), _extreme(rows, outside, torch.maximum, torch.minimum)


def _extreme(
    rows: Iterable[Tensor],
    outside: int,
    better: Callable[[Tensor, Tensor], Tensor],
    worse: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Keep the best `outside` + 1 of all rows, in order, by insertion; return the last of them."""
    kept: list[Tensor] = []
    for row in rows:
        for i, other in enumerate(kept):
            kept[i], row = better(other, row), worse(other, row)
        if len(kept) <= outside:
            kept.append(row)
    return kept[-1]


# ---- rules of `fit` -------------------------------------------------------------------------------------------------


@method("training rule", paper="Chatterjee 2020, arXiv 2002.10657")
@dataclass(frozen=True)
class Winsorized(Rule):
    """Every example's gradient, clipped coordinate by coordinate to the bulk of its batch, and averaged."""

    share: float = 0.08
    """Clipped on each side, of the batch; the paper takes 0, 0.01, 0.02, 0.04 and 0.08."""

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """No gradient of single examples: batch norm mixes them, dropout would be left out."""
        _check_share(self.share)
        if task.space.batch_norms or task.space.has_dropout:
            raise InputError(
                "winsorized gradients are of single examples, which a network with batch norm or dropout does not"
                " have; take M3 or RM3, or a network without (norm='group')"
            )

    def parts(self, batch_size: int) -> int:
        """One each."""
        return batch_size

    def combine(self, now: Moment, grads: Tensor) -> Tensor:
        """Winsorized mean over the batch."""
        return winsorized_mean(grads, self.share)


@method("training rule", paper="Zielinski, Krishnan & Chatterjee 2020, arXiv 2003.07422")
@dataclass(frozen=True)
class M3(Rule):
    """Median of the mean gradients of three microbatches; B mod 3 examples of each batch are left out."""

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """Three microbatches, of two examples at least where batch norm needs them."""
        least = 6 if task.space.batch_norms else 3
        if recipe.batch_size < least:
            raise InputError(
                f"M3 cuts batches in three, so here they need at least {least} examples;"
                f" got batch_size={recipe.batch_size}"
            )

    def parts(self, batch_size: int) -> int:
        """Three; a last batch of one or two examples is taken whole."""
        return 3 if batch_size >= 3 else 1

    def combine(self, now: Moment, grads: Tensor) -> Tensor:
        """Median of (K, 3, P), coordinate by coordinate."""
        return median_of_three(*grads.unbind(1))


@method("training rule", paper="Zielinski, Krishnan & Chatterjee 2020, arXiv 2003.07422")
@dataclass(frozen=True)
class RM3(Rule):
    """Median of the gradients of the last three batches; the first two steps are plain."""

    def gradient(self, now: Moment, z: Tensor, grad: Tensor) -> Tensor:
        """Median with the two gradients before, which are remembered as they came."""
        previous, earlier = now.state.get("previous"), now.state.get("earlier")
        now.state["previous"] = grad.clone()  # the optimiser may overwrite what it gets
        if previous is None:
            return grad
        now.state["earlier"] = previous
        return grad if earlier is None else median_of_three(grad, previous, earlier)


# ---- for a loop of your own -----------------------------------------------------------------------------------------


class RM3Optimizer(torch.optim.SGD):
    """`torch.optim.SGD` that steps by the median of the last three gradients of each parameter.

    Takes the arguments of `torch.optim.SGD`; weight decay and momentum come after the median. Steps in which a
    parameter has no gradient do not count for it. The two gradients before are part of `state_dict()`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; `p.grad` is left as it was."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        came = {p: p.grad for group in self.param_groups for p in group["params"] if p.grad is not None}
        for p, grad in came.items():
            state = self.state[p]
            previous, earlier = state.get("previous_grad"), state.get("earlier_grad")
            state["previous_grad"], state["earlier_grad"] = grad.clone(), previous
            if previous is not None and earlier is not None:
                p.grad = median_of_three(grad, previous, earlier)
        super().step()
        for p, grad in came.items():
            p.grad = grad
        return loss


def m3_backward(losses: Tensor, parameters: Iterable[nn.Parameter]) -> None:
    """Put the median of three microbatches' gradients into `.grad`, in the place of `losses.mean().backward()`.

    The forward pass is of the whole batch, so batch norms see all of it.

    Args:
        losses: (B,) of the batch, not averaged; the last B mod 3 are left out.
        parameters: those to train.

    Raises:
        InputError: fewer than three losses.
    """
    own = [p for p in parameters if p.requires_grad]
    if losses.dim() != 1 or len(losses) < 3:
        raise InputError(f"M3 needs the losses of three or more examples, shape (B,); got {tuple(losses.shape)}")
    means = losses[: len(losses) // 3 * 3].view(3, -1).mean(1)
    thirds = [
        torch.autograd.grad(mean, own, retain_graph=i < 2, allow_unused=True, materialize_grads=True)
        for i, mean in enumerate(means)
    ]
    for p, *grads in zip(own, *thirds, strict=True):
        p.grad = median_of_three(*grads)


def winsorized_backward(module: nn.Module, x: Tensor, y: Tensor, share: float, loss: Loss = cross_entropy) -> None:
    """Put the winsorized mean of the examples' gradients into `.grad`, in the place of a backward pass.

    Args:
        module: the network; no batch norm in training mode, no dropout in training mode.
        x: (B, ...) inputs.
        y: (B, ...) targets.
        share: clipped on each side, see `winsorized_mean`.
        loss: (outputs, targets) -> (B,), not averaged.

    Raises:
        InputError: a share outside [0, 0.5], or a network whose examples have no gradients of their own.
    """
    grad = winsorized_mean(per_example_grads(module, None, x, y, loss), share)
    own = [p for p in module.parameters() if p.requires_grad]
    for p, part in zip(own, grad.split([p.numel() for p in own]), strict=True):
        p.grad = part.view_as(p).clone()


def _check_share(share: float) -> None:
    if not 0 <= share <= 0.5:
        raise InputError(f"share is clipped on each side of a batch, so it lies in [0, 0.5]; got {share}")
