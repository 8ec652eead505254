"""The geometry of iterative magnitude pruning: levels as points of one landscape, and how much a level can lose.

    matching:  E(w_L) <= E_dense + epsilon, one epsilon for all levels
    barrier:   max_a E((1 - a) w + a w') - ((1 - a) E(w) + a E(w'))
    gap:       G_L = share of kept weights of w_{L+1} below the threshold t_L of the cut before it: 0 after the cut
    cut:       largest share q that stays matching; from curvature, the largest with rho_q^2 / 2 * tr H / D <= epsilon,
               rho_q = || w_L - m_q w_L ||

Paul et al. 2023 (arXiv 2210.03044). Evaluation re-estimates batch-norm statistics at every point. Masks keep biases,
normalisation and excluded layers whole; thresholds, lengths and moves are of the weights that a cut may touch alone,
`surplus.pruning.moved.cuttable`: what a cut cannot remove says nothing about where it cuts. The other statistic
of the cut follows Gordon's escape theorem, r_i = sqrt(2 epsilon / lambda_i): a random subspace at distance R meets the
set of loss below epsilon while the share of directions it lacks is below the mean of r_i^2 / (r_i^2 + R^2), the form of
Larsen et al. 2022 (arXiv 2107.05802); cuts are not random subspaces, so it is a guide and no bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.landscape.connectivity import Evaluate, barrier, on_data
from surplus.landscape.lanczos import Matvec
from surplus.pruning.moved import cuttable
from surplus.pruning.schedules.imp import Level, by_rate, from_masks, levels_from
from surplus.registry import method
from surplus.space import WeightSpace, generator

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


# ---- matching -------------------------------------------------------------------------------------------------------


def matching(errors: Tensor, dense: Tensor, epsilon: float) -> Tensor:
    """Whether each level of each seed matches its dense network: (levels, K), (K,) -> booleans (levels, K).

    Raises:
        InputError: a negative epsilon. Take the standard deviation of dense errors over seeds, once for a whole study.
    """
    if epsilon < 0:
        raise InputError(f"epsilon is a tolerance, at least 0; got {epsilon}")
    return errors <= dense + epsilon


# ---- barriers along a chain -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChainBarriers:
    """Barriers between the levels of one seed's chain, each (levels - 1,)."""

    to_previous: Tensor
    """Between a level and the one before it."""
    to_first: Tensor
    """Between a level and the dense network: connectivity need not be transitive."""


@method("measure", paper="Paul et al. 2023, arXiv 2210.03044, section 3")
def chain_barriers(
    evaluate: Evaluate, chain: Tensor, points: int = 11, mode: str = "error", end: str = "linear"
) -> ChainBarriers:
    """Barriers between successive levels of pruning, and from each level to the dense network.

    Args:
        evaluate: errors and losses of many points; `on_data` makes one that re-estimates batch-norm statistics.
        chain: (levels, P) trained weights of one seed, the dense network first.
        points: on a line, both ends included.
        mode: "error" or "loss".
        end: compare with the "linear" interpolation of the ends (the definition here), or with their "mean".

    Raises:
        InputError: fewer than two levels; and as `barrier`.
    """
    if chain.dim() != 2 or len(chain) < 2:
        raise InputError(f"a chain holds two levels or more, (levels, P); got shape {tuple(chain.shape)}")
    heights = [
        [barrier(evaluate, a, b, points, mode, end).height for a in (before, chain[0])] for before, b in pairwise(chain)
    ]
    previous, first = torch.tensor(heights, dtype=torch.float64).unbind(1)
    return ChainBarriers(previous, first)


def projection_errors(evaluate: Evaluate, chain: Tensor, masks: Tensor) -> Tensor:
    """Errors (levels - 1,) of each level projected on the next one's subspace: m_{L+1} w_L, pruned without retraining.

    Args:
        evaluate: as for `chain_barriers`.
        chain: (levels, P) trained weights.
        masks: (levels, P) booleans.
    """
    return evaluate(torch.where(masks[1:], chain[:-1], 0))[0]


def refilled_gap(before: Tensor, mask: Tensor, after: Tensor) -> float:
    """G: the share of surviving weights that retraining brought below the threshold of the cut; 0 right after it.

    Args:
        before: (P,) trained weights that were cut, by one threshold for all.
        mask: (P,) which weights stayed, of those that the cut could touch: a level's mask & `cuttable`.
        after: (P,) weights after retraining.
    """
    threshold = before[mask].abs().min()
    return float((after[mask].abs() < threshold).double().mean())


# ---- how far training may be pushed ---------------------------------------------------------------------------------


def perturbed_start(start: Tensor, mask: Tensor, next_mask: Tensor, scale: float, chance: Generator) -> Tensor:
    """The start of a level, moved at random as far as the next cut would move it, times a scale.

        m start + scale || m start - m' start || u,   u uniform on the unit sphere of the weights that the cut may touch

    Args:
        start: (P,) rewound weights.
        mask: (P,) of the level, among weights that the cut may touch.
        next_mask: (P,) of the level after it.
        scale: 1 for a move as long as the cut's.
        chance: draws u.
    """
    own = torch.where(mask, start, 0)
    length = torch.where(mask & ~next_mask, start, 0).norm()
    u = torch.randn(start.shape, generator=chance, dtype=start.dtype, device=start.device) * mask
    return own + scale * length * u / u.norm()


@dataclass(frozen=True)
class Robustness:
    """How training from perturbed starts ends, each (scales, K)."""

    scales: tuple[float, ...]
    barriers: Tensor
    """From the level's own solution to the perturbed one."""
    errors: Tensor
    """Test errors of the perturbed solutions."""


def perturbation_robustness(
    level: Level,
    after: Level,
    scales: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 4.0),
    *,
    step: int = 0,
    points: int = 11,
    evaluate: Evaluate | None = None,
    exclude: Sequence[str] = (),
    **options: Any,
) -> Robustness:
    """Train a level from random points as far from its start as the next cut, times each scale.

    Args:
        level: whose start is moved, inside its mask's subspace: the weights that it keeps and that a cut may touch.
        after: the level after it; the length of the move is that of the cut between them.
        scales: of the move.
        step: where in the schedule and the data order training begins.
        points: on a line.
        evaluate: as for `chain_barriers`; the task's test set when None.
        exclude: layers that the cut left whole; their weights, like biases, begin where they did.
        options: of `fit`.
    """
    task, look = level.run.task, evaluate or on_data(level.run.task)
    free = cuttable(task.space, exclude).to(level.start.device)
    barriers, errors = [], []
    for scale in scales:
        rows = zip(level.run.seeds, level.start, level.masks, after.masks, strict=True)
        starts = [
            torch.where(free, perturbed_start(s, m & free, n, scale, _chance(seed, scale)), s) for seed, s, m, n in rows
        ]
        moved = from_masks(task, level.masks, torch.stack(starts), level.run.seeds, step, **options)
        pairs = zip(level.run.theta, moved.run.theta, strict=True)
        barriers.append([barrier(look, a, b, points, end="linear").height for a, b in pairs])
        errors.append(look(moved.run.theta)[0])
    return Robustness(tuple(scales), torch.tensor(barriers, dtype=torch.float64), torch.stack(errors))


def _chance(seed: int, scale: float) -> Generator:
    return generator(seed, "perturbed start", scale)


# ---- the largest cut ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LargestCut:
    """What each share cut in one step leads to."""

    shares: tuple[float, ...]
    errors: Tensor
    """(shares, K) after rewinding and retraining."""
    largest: Tensor
    """(K,) q*: the largest share that matches; 0 where none does."""


def largest_cut(
    level: Level,
    dense: Tensor,
    epsilon: float,
    shares: Sequence[float] = SHARES,
    *,
    step: int = 0,
    evaluate: Evaluate | None = None,
    exclude: Sequence[str] = (),
    **options: Any,
) -> LargestCut:
    """Cut a level by each share in one step, rewind, retrain, and see what still matches.

    Args:
        level: from whose solution the cuts are made.
        dense: (K,) errors of the dense networks.
        epsilon: tolerance of matching.
        shares: of the surviving weights, to remove.
        step: where in the schedule and the data order training begins.
        evaluate: as for `chain_barriers`; the task's test set when None.
        exclude: layers to leave whole.
        options: of `fit`.
    """
    look, errors = evaluate or on_data(level.run.task), []
    for share in shares:
        _, cut = levels_from(level, [by_rate(share, exclude=exclude)], step=step, **options)
        errors.append(look(cut.run.theta)[0])
    stacked = torch.stack(errors)
    good = matching(stacked, dense, epsilon)
    sizes = torch.tensor(list(shares), dtype=torch.float64)[:, None]
    return LargestCut(tuple(shares), stacked, torch.where(good, sizes, 0).amax(0))


def cut_lengths(
    space: WeightSpace,
    theta: Tensor,
    mask: Tensor,
    shares: Sequence[float] = SHARES,
    exclude: Sequence[str] = (),
) -> Tensor:
    """rho_q (shares,): how far cutting the smallest share of the kept weights moves a network.

    Args:
        space: the network.
        theta: (P,) trained weights.
        mask: (P,) what is kept; what a cut cannot touch, though kept, counts towards neither share nor length.
        shares: of the kept weights that a cut may touch.
        exclude: layers that are left whole.
    """
    kept = mask & cuttable(space, exclude).to(mask.device)
    squares = theta[kept].double().square().sort().values.cumsum(0)
    counts = [round(q * len(squares)) for q in shares]
    return torch.stack([squares[n - 1] if n else squares.new_zeros(()) for n in counts]).sqrt()


def within_mask(matvec: Matvec, mask: Tensor) -> Matvec:
    """An operator (P,) -> (P,) as one on the coordinates of a mask (P,) alone, (kept,) -> (kept,).

    For a curvature beside `cut_lengths`, the mask is that of kept weights that a cut may touch.
    """

    def product(v: Tensor) -> Tensor:
        whole = v.new_zeros(mask.shape)
        whole[mask] = v
        return matvec(whole)[mask]

    return product


def cut_by_curvature(mean_curvature: float, budget: float, lengths: Tensor, shares: Sequence[float] = SHARES) -> float:
    """The largest share whose move costs no more than the budget if its direction is a random one; 0 when none.

        rho_q^2 / 2 * tr H / D <= budget

    Args:
        mean_curvature: tr H / D over the kept coordinates, from `trace` of `within_mask`.
        budget: rise of the loss that counts as none.
        lengths: (shares,) rho_q, from `cut_lengths`.
        shares: what they belong to.
    """
    costs = lengths.square() / 2 * mean_curvature
    return max([q for q, cost in zip(shares, costs.tolist(), strict=True) if cost <= budget], default=0.0)


def gordon_statistic(
    eigenvalues: Tensor, budget: float, distance: float | Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean of r_i^2 / (r_i^2 + R^2), r_i^2 = 2 budget / lambda_i: the share of space that low loss spans, seen from R.

    Args:
        eigenvalues: (n,) of the Hessian, all or the nodes of a spectral density; one that is not positive sets no
            limit, r = infinity, and counts as 1.
        budget: rise of the loss that counts as none.
        distance: R, a number or (...,).
        weights: (n,) share of each eigenvalue; equal when None.
    """
    r = torch.as_tensor(distance, dtype=torch.float64).unsqueeze(-1)
    ratio = 1 / (1 + r.square() * eigenvalues.double().clamp(min=0) / (2 * budget))
    share = torch.full_like(eigenvalues, 1 / len(eigenvalues)) if weights is None else weights / weights.sum()
    return (ratio * share.double()).sum(-1)


def cut_by_gordon(
    eigenvalues: Tensor,
    budget: float,
    lengths: Tensor,
    shares: Sequence[float] = SHARES,
    weights: Tensor | None = None,
) -> float:
    """The largest share below the statistic at its own distance; 0 when none. Arguments as above."""
    reach = gordon_statistic(eigenvalues, budget, lengths, weights).tolist()
    return max([q for q, most in zip(shares, reach, strict=True) if q < most], default=0.0)
