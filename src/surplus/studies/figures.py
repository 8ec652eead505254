"""A study's figure, drawn from its stored rows: a panel per claim, a dot with its interval per row."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surplus.errors import MissingExtra
from surplus.studies.results import StudyResult
from surplus.studies.verdicts import Row
from surplus.training.store import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"holds": "#1b7f4d", "fails": "#b3372f", "undecided": "#7a7a7a"}
INK = "#1f4e79"


def need_matplotlib() -> Any:
    """The library, or the error that names the extra."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("matplotlib", "report", "a study's figure") from None
    return matplotlib


def figure(result: StudyResult) -> Figure:
    """A panel for each quantity of each claim that has numbers."""
    panels = [
        (f"{m.claim.slug}: {m.verdict}", COLOURS[m.verdict], quantity, list(rows))
        for m in result.measured
        for quantity, rows in groupby(sorted(plain(m.rows), key=_quantity), _quantity)
    ]
    sheet, axes = grid(max(len(panels), 1), max((len(rows) for *_, rows in panels), default=0))
    for panel, (title, colour, quantity, rows) in zip(axes, panels, strict=False):
        dots(panel, rows)
        panel.set_title(title, fontsize=8, color=colour, loc="left")
        panel.set_xlabel(quantity, fontsize=7)
    return sheet


def grid(panels: int, rows: int = 14) -> tuple[Figure, list[Axes]]:
    """A sheet of that many panels, two in a row, each high enough for so many rows of text.

    It is built without pyplot, which would keep it alive.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    lines = -(-panels // 2)
    sheet = Figure(figsize=(8, max(2.3, 0.165 * rows) * lines), layout="constrained")
    axes = list(sheet.subplots(lines, 2, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.set_axis_off()
    return sheet, axes[:panels]


def dots(axes: Axes, rows: Sequence[Row]) -> None:
    """One dot with its interval per row, first row on top."""
    for height, row in enumerate(reversed(rows)):
        if row["value"] is None:
            continue
        ends = [row["value"] if row[k] is None else row[k] for k in ("low", "high")]
        axes.plot(ends, [height] * 2, color=INK, lw=1)
        axes.plot(row["value"], height, "o", color=INK, ms=3.5)
    axes.set_yticks(range(len(rows)), [label(r) for r in reversed(rows)], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)


def plain(rows: Sequence[Row]) -> list[Row]:
    """The rows of single arms, without the conditions, which compare them."""
    return [r for r in rows if " - " not in r["row"]]


def label(row: Row) -> str:
    """A row's name, with its share of the examples or weights, and its noise, where it has them."""
    share, noise = row.get("keep", row.get("density")), row.get("noise")
    parts = [row["row"]]
    parts += [] if share is None else [f"{100 * share:.3g}%"]
    parts += [] if noise is None else [f"{noise:.0%} noise" if isinstance(noise, float) else str(noise)]
    return ", ".join(parts)


def save_figure(sheet: Figure, path: Path) -> Path:
    """Write an SVG whose bytes depend on the drawing alone."""
    matplotlib = need_matplotlib()
    picture = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "surplus", "svg.fonttype": "none"}):
        sheet.savefig(picture, format="svg", metadata={"Date": None})
    write_atomically(path, picture.getvalue())
    return path


def _quantity(row: Row) -> str:
    return str(row["quantity"])
