"""DCC: the gradient of all classes together is matched, so that what tells classes apart steers the images.

    L = D(mean_c g(T_c), g(S))     from outer iteration `outer_warmup` on, before it from inner step `inner_warmup` on
    L = sum_c D(g(T_c), g(S_c))    else: alone, the first can be met by classes whose errors cancel

Lee, Chun, Jung, Yun & Yoon 2022, "Dataset Condensation with Contrastive Signals", arXiv 2202.02916. With an `augment`
strategy it is the paper's DSAC.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from surplus.examples.condensation.class_gradients import LOOPS, ClassGradientSettings, Loops, match, start
from surplus.examples.condensation.scene import Scene, State
from surplus.registry import method


class DccSettings(ClassGradientSettings):
    """DCC, with the official code's values."""

    start: Literal["noise", "real"] = "real"
    """What the images are at first: standard normal noise, or random real images."""
    loops: Loops = Field(default={1: (10, 5), **LOOPS})
    """Images per class to (inner, epochs); numbers that are not listed take the nearest entry."""
    outer_warmup: Annotated[int, Field(ge=0)] = 250
    """Outer iterations before the classes are matched together at every step."""
    inner_warmup: Annotated[int, Field(ge=0)] = 10
    """During those, the inner steps that match class by class; (0, 0) is no warm-up."""


@method("condensation", paper="Lee et al. 2022, arXiv 2202.02916", settings=DccSettings, start=start)
def dcc(scene: Scene, state: State, outer: int) -> dict[str, float]:
    """DCC: the gradient summed over classes is matched, after a warm-up that matches class by class.

    Args:
        scene: data, settings, seed.
        state: the images, changed in place.
        outer: which outer iteration.

    Returns:
        The mean loss per gradient and step, and the distance of the classes' mean gradients.
    """
    s: DccSettings = scene.settings
    return match(scene, state, outer, 0 if outer >= s.outer_warmup else s.inner_warmup)
