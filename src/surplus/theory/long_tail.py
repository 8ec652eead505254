"""What it costs not to memorise, when the kinds of example have a long-tailed frequency (Feldman 2020, theorem 2.3).

    tau_l = E[alpha^(l+1) (1 - alpha)^(n-l)] / E[alpha^l (1 - alpha)^(n-l)]
    err(A) >= opt + sum_{l >= 1} lambda_l tau_l errn(A, l)

alpha is the frequency of a random one of N kinds of example, tau_l the expected frequency of a kind that a sample of n
holds l times, and errn(A, l) how many distinct kinds held l times the algorithm A gets wrong. lambda_l is 1 where a
kind is one example; where it is a cluster of them, an answer on a fresh member follows that on a seen one with at least
this chance. Under a long tail tau_1 is about 1 / n, as large as the frequency that the sample itself suggests, so
examples seen once must be fitted.
V. Feldman, Does learning require memorization? STOC 2020, arXiv 1906.05271.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.space import generator
from surplus.stats import Estimate


@dataclass(frozen=True)
class LongTail:
    """Frequencies behind counts, for l = 0 .. counts - 1; every field has shape (counts,).

    `tau`: expected frequency of a kind seen l times. `kinds`: expected number of kinds seen l times. `cost`: their
    product, the error paid by a learner that gets every kind seen l times wrong (at l = 0, the mass never seen); one
    that guesses among m labels pays (1 - 1/m) of it.
    """

    tau: Tensor
    kinds: Tensor
    cost: Tensor


@method("prediction", paper="Feldman 2020, arXiv 1906.05271, theorem 2.3")
def long_tail(frequencies: Any, n: int, counts: int = 6) -> LongTail:
    """Expected frequency of kinds seen l times, how many there are, and what getting them wrong costs.

    Args:
        frequencies: equally likely values of alpha, (N,), or (draws, N) with one row per draw of the N frequencies (see
            `draw_frequencies`). A list of all N kinds that sums to 1 stands for that list in random order.
        n: sample size.
        counts: how many l, from 0 on; at most n + 1.

    Returns:
        LongTail; `kinds` takes N as the length of the last axis.

    Raises:
        InputError: frequencies outside [0, 1], or counts outside [1, n + 1].
    """
    alpha = torch.as_tensor(frequencies, dtype=torch.float64)
    if alpha.numel() == 0 or not ((alpha >= 0) & (alpha <= 1)).all():
        raise InputError(
            "frequencies lie in [0, 1]; divide the weights by their sum, or use draw_frequencies(weights, ...)."
        )
    if not 1 <= counts <= n + 1:
        raise InputError(f"a sample of {n} holds a kind 0 to {n} times, so counts lies in [1, {n + 1}]; got {counts}.")
    rows = [_tau_and_kinds(alpha, n, l) for l in range(counts)]
    tau, kinds = (torch.stack(column) for column in zip(*rows, strict=True))
    return LongTail(tau, kinds, tau.nan_to_num(0.0) * kinds)


def _tau_and_kinds(alpha: Tensor, n: int, l: int) -> tuple[Tensor, Tensor]:
    """For one l; in logarithms, for (1 - alpha)^(n - l) underflows. tau is NaN where no kind can be seen l times."""
    log_weight = torch.xlogy(torch.tensor(l).to(alpha), alpha) + torch.special.xlog1py(
        torch.tensor(n - l).to(alpha), -alpha
    )
    top = log_weight.max()
    weight = (log_weight - top).exp()
    log_choose = torch.lgamma(torch.tensor([n + 1.0, l + 1.0, n - l + 1.0]).to(alpha))
    log_choose = log_choose[0] - log_choose[1] - log_choose[2]
    kinds = alpha.shape[-1] * (log_choose + top + weight.mean().log()).exp()
    return (weight * alpha).sum() / weight.sum(), kinds.nan_to_num(0.0)


def excess_error(tail: LongTail, unfitted: Any, coupling: Any = 1.0) -> Tensor:
    """Least error above the best of a learner that does not fit all it saw: sum_{l >= 1} lambda_l tau_l errn_l.

    Args:
        tail: the frequencies behind counts.
        unfitted: (..., counts) expected number of kinds seen l times on which the learner errs; a cluster of l seen
            members counts by the share of them that it gets wrong. Kinds never seen, l = 0, are not counted.
        coupling: lambda_l in [0, 1], one number or (counts,): one minus the largest total variation distance between
            the answers on a fresh member of a cluster and on one of its l seen members.

    Returns:
        (...) the sum over the counts of `tail`.

    Raises:
        InputError: another number of counts, or a coupling outside [0, 1].
    """
    errors, follows = torch.as_tensor(unfitted, dtype=torch.float64), torch.as_tensor(coupling, dtype=torch.float64)
    if errors.shape[-1:] != tail.tau.shape or follows.shape not in ((), tail.tau.shape):
        raise InputError(
            f"unfitted has one number for each of the {len(tail.tau)} counts, and coupling one for all or one for each;"
            f" got shapes {tuple(errors.shape)} and {tuple(follows.shape)}."
        )
    if not ((follows >= 0) & (follows <= 1)).all():
        raise InputError(f"coupling is a chance, so it lies in [0, 1]; got {follows.tolist()}.")
    return (follows * tail.tau.nan_to_num(0.0) * errors)[..., 1:].sum(-1)


def zipf(size: int) -> Tensor:
    """Zipf's frequencies, (size,): the i-th kind is 1/i as frequent as the first."""
    weights = 1 / torch.arange(1, size + 1, dtype=torch.float64)
    return weights / weights.sum()


def draw_frequencies(weights: Any, draws: int, chance: Generator, size: int | None = None) -> Tensor:
    """Frequencies of a domain whose kinds each draw their weight from a list: D(x) = p_x / sum p.

    Unlike the list divided by its sum, this carries the randomness of the sum, which matters when a few weights
    dominate.

    Args:
        weights: (m,) positive weights, drawn from uniformly with replacement.
        draws: how many domains.
        chance: a CPU generator.
        size: number of kinds N; as many as weights when absent.

    Returns:
        (draws, N), each row summing to 1.

    Raises:
        InputError: weights that are not positive.
    """
    values = torch.as_tensor(weights, dtype=torch.float64)
    if values.numel() == 0 or not (values > 0).all():
        raise InputError(
            "weights are positive numbers, one per kind of frequency; leave out the kinds that never occur."
        )
    p = values[torch.randint(len(values), (draws, size or len(values)), generator=chance)]
    return p / p.sum(1, keepdim=True)


def singleton_floor(frequencies: Any, n: int) -> float:
    """Lower bound of tau_1: (1 / 5n) of the mass whose frequency lies in [1 / 3n, 2 / n].

    Args:
        frequencies: as for `long_tail`; rows that sum to 1.
        n: sample size.
    """
    alpha = torch.as_tensor(frequencies, dtype=torch.float64)
    middle = (alpha >= 1 / (3 * n)) & (alpha <= 2 / n)
    return float((alpha * middle).sum(-1).mean() / (5 * n))


@dataclass(frozen=True)
class LongTailSimulation:
    """Measured counterpart of `LongTail`, each over independent samples.

    `tau` (counts,): mass of the kinds seen l times over their number, both summed over the samples. `kinds` (counts,).
    `cost` (): error of a learner that guesses on kinds seen once, less that of one that fits all it saw. `unfitted` ():
    how many kinds seen once it guesses wrong. `price` (): their ratio, the error paid for each; theory says tau_1.
    """

    tau: Estimate
    kinds: Estimate
    cost: Estimate
    unfitted: Estimate
    price: Estimate


def simulate_long_tail(
    weights: Any,
    n: int,
    counts: int = 6,
    samples: int = 400,
    seed: int = 0,
    redraw: bool = True,
    labels: int | None = None,
) -> LongTailSimulation:
    """Draw domains and samples, and count.

    Args:
        weights: (N,) weights of the N kinds.
        n: sample size.
        counts: how many l, from 0 on.
        samples: independent domains with one sample each.
        seed: seed of all draws.
        redraw: draw every domain's weights from the list with replacement; else all domains have exactly the list.
        labels: how many labels a guess is drawn from; guesses are never right when None.
    """
    chance = generator(seed, "long tail")
    base = torch.as_tensor(weights, dtype=torch.float64)
    mass, kinds, missed = [], [], []
    for _ in range(samples):
        alpha = draw_frequencies(base, 1, chance)[0] if redraw else base / base.sum()
        drawn = torch.multinomial(alpha, n, replacement=True, generator=chance)
        seen = torch.bincount(drawn, minlength=len(alpha))
        held = torch.stack([seen == l for l in range(max(counts, 2))]).double()  # (counts, N)
        mass.append(held @ alpha)
        kinds.append(held.sum(1))
        wrong = held[1]
        if labels is not None:
            wrong = wrong * (torch.randint(labels, wrong.shape, generator=chance) > 0)  # label 0 is the true one
        missed.append(torch.stack([wrong @ alpha, wrong.sum()]))
    masses, numbers = torch.stack(mass)[:, :counts], torch.stack(kinds)[:, :counts]  # (samples, counts)
    cost, unfitted = torch.stack(missed, 1)  # (samples,) each
    return LongTailSimulation(
        _ratio(masses, numbers),
        Estimate.over(numbers),
        Estimate.over(cost),
        Estimate.over(unfitted),
        _ratio(cost, unfitted),
    )


def _ratio(top: Tensor, bottom: Tensor) -> Estimate:
    """Ratio of means over the leading axis, with the standard error of its linearisation."""
    ratio = top.mean(0) / bottom.mean(0)
    return Estimate(ratio, Estimate.over((top - ratio * bottom) / bottom.mean(0)).stderr, len(top))
