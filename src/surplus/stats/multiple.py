"""Several tests at once: Holm's step-down correction keeps the chance of any false alarm below the level.

    adjusted p_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))        p_(1) <= ... <= p_(m)

Valid however the tests depend on each other. Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.stats.arrays import as_vector


def holm(p_values: Any) -> Tensor:
    """Adjusted p values, in the order given: reject those at or below the level that was named.

    Args:
        p_values: (m,); NaN marks a test that could not be made, stays NaN and does not count in m.

    Raises:
        InputError: a value outside [0, 1].
    """
    p = as_vector(p_values, "p_values")
    if ((p < 0) | (p > 1)).any():
        raise InputError(f"p values lie in [0, 1]; got {p[(p < 0) | (p > 1)][0]:g}.")
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.maximum.accumulate(np.minimum(1, np.arange(len(order), 0, -1) * p[order]))
    return torch.from_numpy(adjusted)
