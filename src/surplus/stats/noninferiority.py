"""Non-inferiority: is the candidate no worse than the reference, up to a margin that was named before?

    H0: candidate <= reference - margin        verdict = H0 is rejected

Absence of a significant difference is no evidence of equality; rejecting H0 is. Over paired seeds the test is a
one-sided paired t test; over the examples that one pair of networks answered, Tango's score test for paired proportions
(Tango 1998, Statistics in Medicine 17, 891-908), which is McNemar's test at margin 0; over both, the two variances add
up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from surplus.errors import InputError
from surplus.stats.arrays import Array, as_array, as_pairs, check_level, check_margin, rounding
from surplus.stats.paired import Spread, differences


@dataclass(frozen=True)
class NonInferiority:
    """Whether a candidate is no worse than its reference by more than `margin`.

    `difference` is candidate - reference, `low` its one-sided lower bound at `level`, `p_value` that of H0. `verdict`
    is True when the bound lies above -margin. `basis` names the chance that the test counts: "seeds" (another training
    run, same test set), "examples" (another test set, same two networks) or "seeds and examples" (both).
    `repeats` is the number of paired seeds or examples, of seeds when both count.
    """

    difference: float
    stderr: float
    low: float
    p_value: float
    verdict: bool
    margin: float
    level: float
    repeats: int
    basis: Literal["seeds", "examples", "seeds and examples"]


def non_inferior(candidate: Any, reference: Any, margin: float, level: float = 0.95) -> NonInferiority:
    """Paired one-sided t test over seeds that candidate >= reference - margin; larger is better.

    The seeds' scatter is the only chance that counts: the answer is for this test set. When all pairs differ by the
    same amount there is nothing to estimate and the verdict is the comparison itself, equality included. One pair
    bounds nothing.

    Args:
        candidate: (seeds,) metric of the smaller system; NaN marks a missing run, whose pair is left out.
        reference: (seeds,) the same metric of the full system, same seeds in the same order.
        margin: the largest loss that counts as none, >= 0, in the metric's units.
        level: confidence of the one-sided bound; the test's size is 1 - level.

    Raises:
        InputError: lengths that differ, no complete pair, a negative margin, or a level outside (0, 1).
    """
    d, level, margin = differences(candidate, reference), check_level(level), check_margin(margin)
    spread = Spread.of(d)
    p_value, verdict = spread.above(-margin), False
    if spread.stderr == 0:
        verdict = spread.mean >= -margin - rounding(candidate, reference)
        p_value = 0.0 if verdict else 1.0
    elif spread.freedom:
        verdict = p_value < 1 - level
    return NonInferiority(
        spread.mean, spread.stderr, spread.quantile(1 - level), p_value, bool(verdict), margin, level, len(d), "seeds"
    )


def non_inferior_on_examples(
    correct_candidate: Any, correct_reference: Any, margin: float, level: float = 0.95
) -> NonInferiority:
    """Score test that one network's accuracy is at least another's less the margin, from answers to the same examples.

    Only the examples that exactly one of the two gets right carry information: b where the candidate does, c where the
    reference does. difference = (b - c) / n, and stderr = sqrt(b + c - (b - c)^2 / n) / n; the bound and the p value
    use the variance under H0 instead, so that two networks that agree on all of twenty examples prove little.

    Args:
        correct_candidate: (n,) whether the candidate is right on each example, bool or 0/1; NaN marks a missing answer.
        correct_reference: (n,) the same for the reference.
        margin: the largest loss of accuracy that counts as none, in [0, 1).
        level: confidence of the one-sided bound.

    Raises:
        InputError: lengths that differ, values other than 0 and 1, a margin outside [0, 1), or a level outside (0, 1).
    """
    names = ("the candidate's correctness", "the reference's correctness")
    candidate, reference = as_pairs(correct_candidate, correct_reference, names)
    _check_binary(candidate, names[0])
    _check_binary(reference, names[1])
    level, margin = check_level(level), check_margin(margin)
    if margin >= 1:
        raise InputError(f"margin is a loss of accuracy, so it lies in [0, 1); got {margin}. Half a point is 0.005.")
    n, b, c = len(candidate), int((candidate > reference).sum()), int((candidate < reference).sum())
    difference, stderr = (b - c) / n, (b + c - (b - c) ** 2 / n) ** 0.5 / n
    p_value = float(ndtr(-_score(-margin, n, b, c)))
    low = _score_bound(n, b, c, float(ndtri(level)))
    return NonInferiority(difference, stderr, low, p_value, p_value < 1 - level, margin, level, n, "examples")


def non_inferior_over_both(
    correct_candidate: Any, correct_reference: Any, margin: float, level: float = 0.95
) -> NonInferiority:
    """Test over seeds and examples at once, when several paired seeds answered the same finite test set.

    The variance of the mean difference is that of the seeds' means over the number of seeds plus that of the examples'
    means over the number of examples. The noise of one seed on one example enters both, so the bound errs on the wide
    side. Degrees of freedom by Welch and Satterthwaite.

    Args:
        correct_candidate: (seeds, n) correctness, or any per-example metric of which larger is better.
        correct_reference: (seeds, n) the same for the reference.
        margin: the largest loss that counts as none, >= 0.
        level: confidence of the one-sided bound.

    Raises:
        InputError: shapes that differ or are not (seeds >= 2, n >= 2), NaN, a negative margin, or a level outside (0,
            1).
    """
    candidate, reference = as_array(correct_candidate), as_array(correct_reference)
    level, margin = check_level(level), check_margin(margin)
    if candidate.shape != reference.shape or candidate.ndim != 2 or min(candidate.shape) < 2:
        raise InputError(
            "both sources of chance need two equal tables of shape (seeds >= 2, examples >= 2); got "
            f"{candidate.shape} and {reference.shape}. With one seed use non_inferior_on_examples."
        )
    d = candidate - reference
    if np.isnan(d).any():
        raise InputError(
            f"{int(np.isnan(d).any(1).sum())} of {len(d)} seeds lack some answers (NaN); leave those seeds out."
        )
    parts = [d.mean(other).var(ddof=1) / d.shape[axis] for axis, other in ((0, 1), (1, 0))]  # from seeds, from examples
    if 0 < margin < 1 and np.isin(d, (-1, 0, 1)).all():  # a candidate at the margin would differ on so many examples
        parts[1] = max(parts[1], margin * (1 - margin) / d.shape[1])
    mean, stderr = float(d.mean()), float(sum(parts) ** 0.5)
    if stderr == 0:
        verdict = mean >= -margin - rounding(candidate, reference)
        p_value, low = (0.0 if verdict else 1.0), mean
    else:
        freedom = sum(parts) ** 2 / sum(part**2 / (size - 1) for part, size in zip(parts, d.shape, strict=True))
        p_value = float(stdtr(freedom, -(mean + margin) / stderr))
        low = mean - float(stdtrit(freedom, level)) * stderr
        verdict = p_value < 1 - level
    return NonInferiority(mean, stderr, low, p_value, bool(verdict), margin, level, len(d), "seeds and examples")


def _check_binary(values: Array, what: str) -> None:
    odd = values[(values != 0) & (values != 1)]
    if len(odd):
        raise InputError(f"{what} is 0 or 1 for each example; got {odd[0]:g}. Compare predictions with labels first.")


def _score(delta: float, n: int, b: int, c: int) -> float:
    """Tango's z for H0: (share only the candidate gets right) - (share only the reference gets right) = delta."""
    middle = -b - c + (2 * n - b + c) * delta
    share = ((middle**2 + 8 * n * c * delta * (1 - delta)) ** 0.5 - middle) / (4 * n)  # of c, most likely under H0
    variance = n * (2 * share + delta * (1 - delta))
    return 0.0 if variance <= 0 else (b - c - n * delta) / variance**0.5


def _score_bound(n: int, b: int, c: int, z: float) -> float:
    """The smallest difference that the score test at z does not reject."""
    from scipy.optimize import brentq

    least, difference = -1 + 1e-9, (b - c) / n  # at -1 itself the score is 0 / 0
    if _score(least, n, b, c) <= z:
        return -1.0
    return float(brentq(lambda delta: _score(delta, n, b, c) - z, least, difference))
