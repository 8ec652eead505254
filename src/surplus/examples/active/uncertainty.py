"""Uncertainty: the examples about which the present model is least sure.

    least confidence   1 - max_c p_c                                        Lewis & Gale 1994
    margin             p_(1) - p_(2), smallest first                        Scheffer, Decomain & Wrobel 2001
    entropy            H(p)                                                 Shannon 1948; Settles 2009
    DBAL               H(mean_t p_t)                                        Gal, Islam & Ghahramani 2017
    BALD               H(mean_t p_t) - mean_t H(p_t)                        Houlsby et al. 2011

p are class probabilities, H(p) = - sum_c p_c ln p_c; p_t are those of T passes with dropout left on. The first three
average the passes if they are given several. With few labels all of them can fall below random choice.
"""

from __future__ import annotations

from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.examples.active.base import Pool, largest_first
from surplus.examples.scores import uncertainty
from surplus.registry import method


@method("query strategy", paper="Lewis & Gale 1994, arXiv cmp-lg/9407020", needs="probabilities")
def least_confidence(pool: Pool, budget: int, *, generator: Generator | None = None) -> Tensor:
    """The examples whose likeliest class is least likely.

    Args:
        pool: with probabilities.
        budget: how many.
        generator: not used.

    Returns:
        (budget,) positions.
    """
    return largest_first(uncertainty.least_confidence(pool.prediction[None]).mean, pool, budget)


@method("query strategy", paper="Scheffer, Decomain & Wrobel 2001, doi 10.1007/3-540-44816-0_31", needs="probabilities")
def margin(pool: Pool, budget: int, *, generator: Generator | None = None) -> Tensor:
    """The examples whose two likeliest classes are nearest to each other.

    Args:
        pool: with probabilities.
        budget: how many.
        generator: not used.

    Returns:
        (budget,) positions.
    """
    return largest_first(uncertainty.prediction_margin(pool.prediction[None]).mean, pool, budget)


@method("query strategy", paper="Settles 2009, Active Learning Literature Survey, section 3.1", needs="probabilities")
def entropy(pool: Pool, budget: int, *, generator: Generator | None = None) -> Tensor:
    """The examples whose prediction has the highest entropy.

    Args:
        pool: with probabilities.
        budget: how many.
        generator: not used.

    Returns:
        (budget,) positions.
    """
    return largest_first(uncertainty.entropy(pool.prediction[None]).mean, pool, budget)


@method("query strategy", paper="Gal, Islam & Ghahramani 2017, arXiv 1703.02910", needs="passes")
def dbal(pool: Pool, budget: int, *, generator: Generator | None = None) -> Tensor:
    """The examples of highest entropy of the mean over passes with dropout (deep Bayesian active learning).

    Args:
        pool: with the probabilities of at least two passes.
        budget: how many.
        generator: not used.

    Returns:
        (budget,) positions.

    Raises:
        InputError: one pass only.
    """
    return largest_first(uncertainty.entropy(_several(pool).mean(0)[None]).mean, pool, budget)


@method("query strategy", paper="Houlsby, Huszar, Ghahramani & Lengyel 2011, arXiv 1112.5745", needs="passes")
def bald(pool: Pool, budget: int, *, generator: Generator | None = None) -> Tensor:
    """The examples on which passes with dropout disagree, each sure of its own answer.

    Args:
        pool: with the probabilities of at least two passes.
        budget: how many.
        generator: not used.

    Returns:
        (budget,) positions.

    Raises:
        InputError: one pass only.
    """
    passes = _several(pool)
    of_mean, mean_of = uncertainty.entropy(passes.mean(0)[None]).mean, uncertainty.entropy(passes).mean
    return largest_first(of_mean - mean_of, pool, budget)


def _several(pool: Pool) -> Tensor:
    if len(pool.passes) < 2:
        raise InputError("this strategy compares passes with dropout on; pass probabilities=, shape (T, n, classes)")
    return pool.passes
