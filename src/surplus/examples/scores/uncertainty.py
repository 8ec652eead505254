"""Uncertainty: how undecided a network is, whatever the label (Lewis & Gale 1994; as in Coleman et al. 2020).

    least confidence    1 - max_k p_k
    entropy             - sum_k p_k ln p_k
    prediction margin   1 - (p_(1) - p_(2))        p_(1) >= p_(2) >= ...: the probabilities in falling order

Each is the mean over runs, and high = undecided. The selection by these scores: Coleman et al. 2020, arXiv 1906.11829.
"""

from __future__ import annotations

from torch import Tensor

from surplus.errors import InputError
from surplus.examples.evidence import check
from surplus.examples.selections.base import Compat, check_compat
from surplus.registry import method
from surplus.stats import Estimate

PAPER = "Coleman et al. 2020, arXiv 1906.11829"


@method("example score", paper=PAPER, high="hard")
def least_confidence(probabilities: Tensor) -> Estimate:
    """What the largest probability leaves to the other classes.

    Args:
        probabilities: (runs, n, classes).

    Returns:
        Estimate of shape (n,), from 0 (sure) to 1 - 1 / classes.
    """
    check(probabilities=probabilities)
    return Estimate.over(1 - probabilities.amax(-1))


@method("example score", paper=PAPER, high="hard")
def entropy(probabilities: Tensor, *, compat: Compat = None) -> Estimate:
    """Entropy of the prediction, in nats.

    Args:
        probabilities: (runs, n, classes).
        compat: "deepcore" gives sum_k p_k ln(p_k + 1e-6): its code keeps the highest of these, so the surest, unless
            it selects class by class.

    Returns:
        Estimate of shape (n,), from 0 (sure) to ln(classes).
    """
    check(probabilities=probabilities)
    check_compat(compat)
    if compat == "deepcore":
        return Estimate.over((probabilities * (probabilities + 1e-6).log()).sum(-1))
    return Estimate.over(-probabilities.xlogy(probabilities).sum(-1))


@method("example score", paper=PAPER, high="hard")
def prediction_margin(probabilities: Tensor, *, compat: Compat = None) -> Estimate:
    """How near the second class comes to the first.

    Args:
        probabilities: (runs, n, classes), at least two classes.
        compat: "deepcore" gives p_(1) - p_(2): its code keeps the highest of these, so the surest, unless it selects
            class by class.

    Returns:
        Estimate of shape (n,), from 0 (sure) to 1 (two classes level).

    Raises:
        InputError: there is one class only.
    """
    check(probabilities=probabilities)
    check_compat(compat)
    if probabilities.shape[-1] < 2:
        raise InputError("a margin lies between two classes; probabilities have one column")
    first, second = probabilities.topk(2, -1).values.unbind(-1)
    lead = first - second
    return Estimate.over(lead if compat == "deepcore" else 1 - lead)
