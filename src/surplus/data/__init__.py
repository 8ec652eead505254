"""Reading data, checking it, corrupting it on purpose, and generating it."""

from surplus.data import generated
from surplus.data.corruptions import corrupt_images, mean_corruption_error
from surplus.data.dataset import Dataset, Splits, split
from surplus.data.longtail import exponential_imbalance, step_imbalance
from surplus.data.noise import NoisyLabels, corrupt_labels, empirical_transition
from surplus.data.reading import read, read_pool
from surplus.data.web import NoisyWeb, noisy_web

__all__ = [
    "Dataset",
    "NoisyLabels",
    "NoisyWeb",
    "Splits",
    "corrupt_images",
    "corrupt_labels",
    "empirical_transition",
    "exponential_imbalance",
    "generated",
    "mean_corruption_error",
    "noisy_web",
    "read",
    "read_pool",
    "split",
    "step_imbalance",
]
