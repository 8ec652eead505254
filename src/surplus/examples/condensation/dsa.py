"""DSA: DC under augmentation, the same for real and synthetic images of a class.

    L = sum_c D(g(A_w(T_c)), g(A_w(S_c))),   w drawn anew for each class and step

Zhao & Bilen 2021, "Dataset Condensation with Differentiable Siamese Augmentation", arXiv 2102.08259, equation 5.
"""

from __future__ import annotations

from typing import Any

from surplus.data import Dataset
from surplus.examples.condensation.class_gradients import ClassGradientSettings, match, start
from surplus.examples.condensation.diff_augment import EVERYTHING, without_flip
from surplus.examples.condensation.scene import Scene, State
from surplus.registry import method


class DsaSettings(ClassGradientSettings):
    """DSA, with the official code's values."""

    augment: str = EVERYTHING
    """Changes one of which real and synthetic images of a class share, joined by hyphens."""

    @classmethod
    def usual(cls, data: Dataset) -> dict[str, Any]:
        """Images without colour are not mirrored: most are digits or letters."""
        return {**super().usual(data), "augment": without_flip(EVERYTHING, data.shape[0])}


@method("condensation", paper="Zhao & Bilen 2021, arXiv 2102.08259", settings=DsaSettings, start=start)
def dsa(scene: Scene, state: State, outer: int) -> dict[str, float]:
    """DSA: gradients matched class by class while real and synthetic images undergo one and the same random change.

    Args:
        scene: data, settings, seed.
        state: the images, changed in place.
        outer: which outer iteration.

    Returns:
        The mean distance per class and step, and that of the classes' mean gradients.
    """
    return match(scene, state, outer, None)
