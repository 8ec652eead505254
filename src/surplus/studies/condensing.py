"""What the studies of condensation share: sets learned through the store, their worth, and a figure with pictures."""

from __future__ import annotations

import io
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surplus.data import Dataset, Splits
from surplus.examples.condensation.condensed import Condensed, picture_grid
from surplus.examples.condensation.condensing import condense
from surplus.examples.condensation.evaluation import EvaluationSettings, accuracies
from surplus.examples.condensation.scene import task_of
from surplus.space import generator
from surplus.studies.base import Bench
from surplus.studies.figures import COLOURS, dots, need_matplotlib, plain
from surplus.studies.results import StudyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCURACY = "test accuracy"


def part(data: Splits, train: int | None, test: int | None, seed: int) -> Splits:
    """The same data with so many random training and test examples; all where None."""

    def some(examples: Dataset, count: int | None, name: str) -> Dataset:
        if count is None:
            return examples
        return examples[torch.randperm(len(examples), generator=generator(seed, "study", "part", name))[:count]]

    return Splits(data.name, some(data.train, train, "train"), some(data.test, test, "test"), carved=data.carved)


def learned(bench: Bench[Any], data: Splits, method: str, per_class: int, seed: int, **settings: Any) -> Condensed:
    """A condensed set, from the store where it was made before; its run is noted in the manifest."""
    made = condense(data, method, per_class, seed=seed, device=bench.device, store=bench.store, **settings)
    key = made.facts["run"]
    bench.runs[key] = bench.store.find(key)
    return made


def worth(
    bench: Bench[Any], data: Splits, network: str, examples: Dataset, settings: EvaluationSettings, seeds: Iterable[int]
) -> Tensor:
    """Test accuracy (seeds,) of fresh networks trained on these examples."""
    task = task_of(data, network)
    return accuracies(task, lambda seed: examples, settings, seeds, device=bench.device, store=bench.store)


def picture(images: Tensor, columns: int = 10) -> str:
    """Images (n, C, H, W) in [0, 1] as text that a stored result can hold."""
    return b64encode(picture_grid(images, columns, side=0)).decode()


def draw(result: StudyResult) -> Figure:
    """A panel of dots per quantity of each claim, and under them what is stored."""
    panels = [
        (m, quantity, [row for row in plain(m.rows) if row["quantity"] == quantity])
        for m in result.measured
        for quantity in dict.fromkeys(row["quantity"] for row in plain(m.rows))
    ]
    pictures = [row for m in result.measured for row in m.rows if row.get("picture")]
    axes, strips, sheet = _sheet(len(panels), len(pictures))
    for axis, (m, quantity, rows) in zip(axes, panels, strict=True):
        dots(axis, rows)
        axis.set_title(f"{m.claim.slug}: {m.verdict}", fontsize=8, color=COLOURS[m.verdict], loc="left")
        axis.set_xlabel(quantity, fontsize=7)
    for axis, row in zip(strips, pictures, strict=True):
        axis.imshow(_image(row["picture"]), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(f"stored: {row['row']}", fontsize=7, loc="left")
        axis.set_axis_off()
    return sheet


def _sheet(panels: int, strips: int) -> tuple[list[Axes], list[Axes], Figure]:
    """Panels two in a row, and flat strips for pictures two in a row under them."""
    need_matplotlib()
    from matplotlib.figure import Figure

    lines = [2.3] * -(-panels // 2) + [0.8] * -(-strips // 2)
    sheet = Figure(figsize=(8, sum(lines)), layout="constrained")
    cells = sheet.add_gridspec(len(lines), 2, height_ratios=lines)
    above = -(-panels // 2)
    axes = [sheet.add_subplot(cells[i // 2, i % 2]) for i in range(panels)]
    return axes, [sheet.add_subplot(cells[above + i // 2, i % 2]) for i in range(strips)], sheet


def _image(text: str) -> Any:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(b64decode(text))))
