"""surplus: find what a network and its data can do without, remove it, and measure what the removal costs.

The names below load on first use, so that `import surplus`, and with it `surplus --help`, does not import torch.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surplus.space import WeightSpace
    from surplus.stats import Estimate
    from surplus.tasks import Task, load
    from surplus.training import fit

__version__ = "0.1.0"

__all__ = ["Estimate", "Task", "WeightSpace", "__version__", "fit", "load"]

_HOMES = {
    "Estimate": "surplus.stats",
    "Task": "surplus.tasks",
    "WeightSpace": "surplus.space",
    "fit": "surplus.training",
    "load": "surplus.tasks",
}


def __getattr__(name: str) -> Any:
    """Load a public name, or a room, the first time it is asked for."""
    if name in _HOMES:
        globals()[name] = value = getattr(importlib.import_module(_HOMES[name]), name)
        return value
    if find_spec(f"surplus.{name}") is not None:
        return importlib.import_module(f"surplus.{name}")
    raise AttributeError(
        f"module 'surplus' has no attribute {name!r}; its names are {', '.join(__all__)}, and its rooms"
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
