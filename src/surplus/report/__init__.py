"""The audit as one HTML page that asks nothing of the network."""

from surplus.report.page import write_report

__all__ = ["write_report"]
