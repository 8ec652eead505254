"""Reading data, checking it, corrupting it on purpose, and generating it."""

from surplus.data.dataset import Dataset, Splits, split
from surplus.data.reading import read

__all__ = ["Dataset", "Splits", "read", "split"]
