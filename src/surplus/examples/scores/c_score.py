"""C-score: is an example foretold by the rest of its data? (Jiang, Zhang, Talwar & Mozer 2021).

    C_s(x, y) = Pr_D[ f(x; D) = y ],  D a random share s of the data without (x, y)
    C(x, y)   = mean over s of C_s(x, y)

Near 1 = regular; near 0 = an outlier or a wrong label. Every share weighs the same, though a small one holds out
more. arXiv 2002.03206, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surplus.examples.evidence import check, real
from surplus.registry import method
from surplus.stats import Estimate


@method("example score", paper="Jiang, Zhang, Talwar & Mozer 2021, arXiv 2002.03206", high="easy")
def c_score(hits: Tensor, trained_on: Tensor, share: Tensor) -> Estimate:
    """Held-out accuracy on one example, averaged over shares of the data.

    Args:
        hits: (runs, n) 1 where the finished network is right, on all examples, without augmentation.
        trained_on: (runs, n) whether the run had the example in its training set.
        share: (runs,) share of the data that each run trained on; equal numbers belong together.

    Returns:
        Estimate of shape (n,) in [0, 1] over the shares at which the example was held out; NaN where it never was.
    """
    check(hits=hits, trained_on=trained_on, share=share)
    return over_shares(accuracy_profile(hits, ~trained_on.bool(), share))


def lacking_a_class(trained_on: Tensor, labels: Tensor) -> Tensor:
    """Which runs (runs,) had no example of some class to train on: small shares may, and cannot foretell that class.

    Args:
        trained_on: (runs, n) whether the run had the example in its training set.
        labels: (n,) integers.
    """
    check(trained_on=trained_on, labels=labels)
    present = torch.stack([trained_on[:, labels == k].bool().any(1) for k in labels.unique()])  # (classes, runs)
    return ~present.all(0)


def accuracy_profile(hits: Tensor, counted: Tensor, share: Tensor) -> Estimate:
    """Accuracy on each example at each share, over the runs that count for it.

    Args:
        hits: (runs, n) correctness.
        counted: (runs, n) bool: `~trained_on` gives the consistency profile C_s, `trained_on` the training accuracy.
        share: (runs,).

    Returns:
        Estimate of shape (shares, n), shares ascending; NaN where no run counts, and `repeats` says how many do.
    """
    samples = torch.where(counted, real(hits), torch.nan)
    groups = [share == s for s in torch.unique(share)]
    parts = [Estimate.over(samples[runs]) for runs in groups]
    counts = torch.stack([counted[runs].sum(0) for runs in groups])
    return Estimate(torch.stack([p.mean for p in parts]), torch.stack([p.stderr for p in parts]), counts)


def over_shares(profile: Estimate) -> Estimate:
    """The plain mean over shares of a (shares, n) profile, leaving out shares where the example has no value."""
    present = ~profile.mean.isnan()
    known = present & profile.stderr.isfinite()  # a share at which one run counts shows no spread of its own
    variance = torch.where(known, profile.stderr.square(), 0).sum(0) * present.sum(0) / known.sum(0)
    repeats = torch.where(present, torch.as_tensor(profile.repeats), 0).sum(0)
    return Estimate(profile.mean.nanmean(0), variance.sqrt() / present.sum(0), repeats)
