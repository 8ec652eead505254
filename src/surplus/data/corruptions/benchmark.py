"""The 19 corruptions by name, and the one number that sums up a network's frailty.

    mCE = mean over corruptions c of  sum_s error[c, s] / sum_s error_reference[c, s]

Hendrycks & Dietterich 2019, arXiv 1903.12261, section 4.
"""

from __future__ import annotations

from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.registry import find

STANDARD = (
    "gaussian-noise", "shot-noise", "impulse-noise", "defocus-blur", "glass-blur", "motion-blur", "zoom-blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic-transform", "pixelate", "jpeg-compression",
)  # fmt: skip
"""The 15 corruptions that a mean corruption error averages over."""
EXTRA = ("speckle-noise", "gaussian-blur", "spatter", "saturate")
"""Four more, meant for tuning so that the 15 stay unseen."""


def corrupt_images(name: str, images: Tensor, severity: int, generator: Generator) -> Tensor:
    """A corruption with severities by its name in the catalogue ("fog", "jpeg-compression", ...).

    Raises:
        InputError: no corruption has this name, or the one that has does not take images and a severity.
    """
    row = find("corruption", name)
    if row.traits.get("on") != "images" or not row.traits.get("graded"):
        raise InputError(f"{name!r} has no severities on images; try one of {', '.join(STANDARD + EXTRA)}")
    corrupted: Tensor = row.fn(images, severity, generator)
    return corrupted


def mean_corruption_error(errors: Tensor, reference: Tensor) -> Tensor:
    """mCE: errors relative to a reference network, summed over severities, averaged over corruptions.

    Args:
        errors: (..., corruptions, severities) error rates, leading axes for networks or seeds.
        reference: (corruptions, severities) of the reference network.

    Returns:
        (...); 1 where the network is as frail as the reference.
    """
    if errors.shape[-2:] != reference.shape[-2:]:
        raise InputError(
            f"errors and reference must end in the same (corruptions, severities); "
            f"got {tuple(errors.shape)} and {tuple(reference.shape)}"
        )
    total = reference.sum(-1)
    if not (total > 0).all():
        raise InputError(
            "the reference network makes no error under some corruption, so no ratio to it exists; take a weaker one"
        )
    return (errors.sum(-1) / total).mean(-1)
