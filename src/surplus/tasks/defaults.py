"""Which network and recipe a data set gets when its owner names none."""

from __future__ import annotations

from typing import Any

from surplus.data import Dataset
from surplus.tasks.recipe import Augment, Duration, Recipe


def default_network(data: Dataset) -> tuple[str, dict[str, Any]]:
    """A small network that fits the data: (registered name, options)."""
    if data.kind == "text":
        return "causal-transformer", {"predict": "all" if data.targets.dim() == 2 else "last"}
    if data.kind == "table" or min(data.shape[1:]) < 16:
        return "mlp", {"widths": (128, 64)}
    if data.shape[0] == 1 and min(data.shape[1:]) >= 20 and max(data.shape[1:]) <= 40:
        return "lenet-5", {"width": 2}
    if min(data.shape[1:]) >= 20 and max(data.shape[1:]) <= 48:
        return "speed-net", {"width": 0.25}
    return "small-conv", {"norm": "batch", "channels": (32, 64, 128)}


def default_recipe(network: str, data: Dataset) -> Recipe:
    """A recipe under which that network trains well on a laptop."""
    if data.kind == "text":
        return Recipe(
            optimiser="adamw",
            lr=1e-3,
            weight_decay=0.01,
            batch_size=32,
            duration=Duration("10ep"),
            warmup=Duration("0.5ep"),
            clip=1.0,
        )
    if data.targets.is_floating_point():
        return Recipe(optimiser="adam", lr=3e-3, batch_size=64, duration=Duration("50ep"))
    if data.kind == "table" or min(data.shape[1:]) < 16:
        return Recipe(
            lr=0.05, nesterov=True, weight_decay=5e-4, batch_size=64, duration=Duration("30ep"), schedule="onecycle"
        )
    images = {
        "nesterov": True,
        "weight_decay": 5e-4,
        "schedule": "onecycle",
        "precision": "bfloat16",
        "channels_last": True,
    }
    if data.shape[0] == 1:
        return Recipe(lr=0.05, batch_size=128, duration=Duration("3ep"), augment=Augment(shift=2), **images)
    return Recipe(lr=0.2, batch_size=256, duration=Duration("10ep"), augment=Augment(shift=2, flip=True), **images)
