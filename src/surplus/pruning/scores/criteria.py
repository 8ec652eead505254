"""Mask criteria: what a weight's initial value w_i and final value w_f say about keeping it.

    large-final          |w_f|           small-final    -|w_f|          magnitude-increase         |w_f| - |w_i|
    large-init           |w_i|           small-init     -|w_i|          movement                   |w_f - w_i|
    large-init-large-final    min(a |w_f|, |w_i|)         small-init-small-final    -max(a |w_f|, |w_i|)

Zhou, Lan, Liu & Yosinski 2019, arXiv 1905.01067, section 2; the ninth is `random`. a makes the percentiles of the two
sides agree, as the paper does by bisection for the count that it wants. Ranks do it for every count at once: with both
sides ranked within their layer, the k best by the smaller rank are the weights above one common percentile on both.

The paper compares within layers (scope="layer"). With `same_sign` a weight whose sign changed comes last, at -inf; the
authors' code puts it at 0, which is last only among scores that are never negative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surplus.pruning.scoring import Batch
from surplus.registry import method
from surplus.space import WeightSpace

_PAPER = "Zhou, Lan, Liu & Yosinski 2019, arXiv 1905.01067"


@method("weight score", paper=_PAPER, needs=("start",))
def large_final(
    space: WeightSpace, theta: Tensor, batch: Batch | None = None, *, start: Tensor, same_sign: bool = False
) -> Tensor:
    """Size after training: `magnitude`, with a choice to pass over weights that changed their sign.

    Args:
        space: the network (not used).
        theta: (P,) after training.
        batch: not used.
        start: (P,) before training.
        same_sign: weights of another sign than at the start come last.

    Returns:
        (P,), high = keep.
    """
    return _passing_over(same_sign, start, theta, theta.abs())


@method("weight score", paper=_PAPER, needs=("start",))
def small_final(
    space: WeightSpace, theta: Tensor, batch: Batch | None = None, *, start: Tensor, same_sign: bool = False
) -> Tensor:
    """Smallness after training, the control of `large_final`; arguments as there."""
    return _passing_over(same_sign, start, theta, -theta.abs())


@method("weight score", paper=_PAPER, needs=("start",))
def large_init(
    space: WeightSpace, theta: Tensor, batch: Batch | None = None, *, start: Tensor, same_sign: bool = False
) -> Tensor:
    """Size before training; arguments as for `large_final`."""
    return _passing_over(same_sign, start, theta, start.abs())


@method("weight score", paper=_PAPER, needs=("start",))
def small_init(
    space: WeightSpace, theta: Tensor, batch: Batch | None = None, *, start: Tensor, same_sign: bool = False
) -> Tensor:
    """Smallness before training; arguments as for `large_final`."""
    return _passing_over(same_sign, start, theta, -start.abs())


@method("weight score", paper=_PAPER, needs=("start",))
def magnitude_increase(
    space: WeightSpace, theta: Tensor, batch: Batch | None = None, *, start: Tensor, same_sign: bool = False
) -> Tensor:
    """How much training enlarged a weight; arguments as for `large_final`."""
    return _passing_over(same_sign, start, theta, theta.abs() - start.abs())


@method("weight score", paper=_PAPER, needs=("start",))
def movement(
    space: WeightSpace, theta: Tensor, batch: Batch | None = None, *, start: Tensor, same_sign: bool = False
) -> Tensor:
    """How far training moved a weight, either way; arguments as for `large_final`."""
    return _passing_over(same_sign, start, theta, (theta - start).abs())


@method("weight score", paper=_PAPER, needs=("start",))
def large_init_large_final(
    space: WeightSpace,
    theta: Tensor,
    batch: Batch | None = None,
    *,
    start: Tensor,
    same_sign: bool = False,
    alpha: float | None = None,
) -> Tensor:
    """Large both before and after training: the smaller of the two sides.

    Args:
        space: the network, whose layers the ranks are within.
        theta: (P,) after training; weights at exactly 0, which earlier cuts removed, have no rank.
        batch: not used.
        start: (P,) before training.
        same_sign: weights of another sign than at the start come last.
        alpha: what multiplies |theta| before it is compared with |start|; ranks instead of sizes when None.

    Returns:
        (P,), high = keep.
    """
    final, init = _sides(space, theta, start, alpha)
    return _passing_over(same_sign, start, theta, torch.minimum(final, init))


@method("weight score", paper=_PAPER, needs=("start",))
def small_init_small_final(
    space: WeightSpace,
    theta: Tensor,
    batch: Batch | None = None,
    *,
    start: Tensor,
    same_sign: bool = False,
    alpha: float | None = None,
) -> Tensor:
    """Small both before and after training: minus the larger of the two sides; see `large_init_large_final`."""
    final, init = _sides(space, theta, start, alpha)
    return _passing_over(same_sign, start, theta, -torch.maximum(final, init))


def _passing_over(same_sign: bool, start: Tensor, theta: Tensor, score: Tensor) -> Tensor:
    """The score, at -inf where the sign changed if that matters."""
    return score.masked_fill(start * theta < 0, -torch.inf) if same_sign else score


def _sides(space: WeightSpace, theta: Tensor, start: Tensor, alpha: float | None) -> tuple[Tensor, Tensor]:
    """The final and the initial side, made comparable."""
    if alpha is not None:
        return alpha * theta.abs(), start.abs()
    return _ranks(space, theta, theta), _ranks(space, start, theta)


def _ranks(space: WeightSpace, values: Tensor, theta: Tensor) -> Tensor:
    """Rank of |value| among the weights of its tensor where theta is not 0, over their number: (P,) in [0, 1]."""
    out = torch.zeros_like(values)
    for block in space.blocks:
        there = theta[block.slice].nonzero().squeeze(1)
        ranks = values[block.slice][there].abs().argsort(stable=True).argsort()
        out[block.slice] = out[block.slice].index_copy(0, there, (ranks + 1).to(values) / max(len(there), 1))
    return out
