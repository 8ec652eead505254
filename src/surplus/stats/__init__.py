"""Comparisons and intervals, thin on scipy: every result says how sure it is.

Inputs are tensors, arrays or lists; numbers come out in double precision on the CPU, in frozen dataclasses.
"""

from surplus.stats.association import Correlation, auc, rank_correlation, split_half_reliability
from surplus.stats.estimate import Estimate
from surplus.stats.intervals import Interval, bootstrap, wilson
from surplus.stats.multiple import holm
from surplus.stats.noninferiority import NonInferiority, non_inferior, non_inferior_on_examples, non_inferior_over_both
from surplus.stats.paired import Comparison, paired

__all__ = [
    "Comparison",
    "Correlation",
    "Estimate",
    "Interval",
    "NonInferiority",
    "auc",
    "bootstrap",
    "holm",
    "non_inferior",
    "non_inferior_on_examples",
    "non_inferior_over_both",
    "paired",
    "rank_correlation",
    "split_half_reliability",
    "wilson",
]
