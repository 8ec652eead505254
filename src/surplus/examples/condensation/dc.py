"""DC: the gradients of each class matched on their own.

    L = sum_c D(g(T_c), g(S_c)),   one step of the images after all classes

Zhao, Mopuri & Bilen 2021, "Dataset Condensation with Gradient Matching", arXiv 2006.05929, algorithm 1.
"""

from __future__ import annotations

from surplus.examples.condensation.class_gradients import ClassGradientSettings, match, start
from surplus.examples.condensation.scene import Scene, State
from surplus.registry import method


class DcSettings(ClassGradientSettings):
    """DC, with the official code's values."""


@method("condensation", paper="Zhao, Mopuri & Bilen 2021, arXiv 2006.05929", settings=DcSettings, start=start)
def dc(scene: Scene, state: State, outer: int) -> dict[str, float]:
    """DC: images whose gradients on young networks point as those of real images do, class by class.

    Args:
        scene: data, settings, seed.
        state: the images, changed in place.
        outer: which outer iteration.

    Returns:
        The mean distance per class and step, and that of the classes' mean gradients.
    """
    return match(scene, state, outer, None)
