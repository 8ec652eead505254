"""Pages that ask nothing of the network: the audit, a pruning, and the explorer of pruned networks."""

from surplus.report.page import write_report
from surplus.report.pruning import write_pruning_report

__all__ = ["write_pruning_report", "write_report"]
