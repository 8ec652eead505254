"""Examples to look at: thumbnails as data URIs for pictures, feature values for tables."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from surplus.report.parts import Gallery, Picture, Table
from surplus.report.words import anything, number, percent, plain

_ROOM = 1_000_000  # bytes of PNG on one page, which keeps it near two megabytes
_FEATURES = 30


class Pictures:
    """The thumbnails and rows that the page may show, and the names of the classes.

    Args:
        thumbnails: PNG bytes by the example's id as text.
        rows: feature values by the example's id as text.
        classes: names; a label that is a whole number counts into them.
    """

    def __init__(
        self, thumbnails: Mapping[str, bytes], rows: Mapping[str, Mapping[str, float]], classes: Sequence[str]
    ) -> None:
        self.thumbnails, self.rows, self.classes = thumbnails, rows, classes
        self.room = _ROOM

    def name(self, label: Any) -> str:
        """A label in the user's words."""
        position = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(self.classes)
        return self.classes[label] if position else anything(label)

    def gallery(self, title: str, examples: Sequence[Mapping[str, Any]], at_once: int = 16) -> Gallery | None:
        """The examples that have a thumbnail, as long as there is room on the page; the first `at_once` unfolded."""
        shown = [picture for example in examples if (picture := self._picture(example))]
        missing = sum(str(example.get("id")) in self.thumbnails for example in examples) - len(shown)
        caption = f"{missing} more pictures are left out to keep this page small." if missing else ""
        return Gallery(title, shown, at_once, caption) if shown else None

    def _picture(self, example: Mapping[str, Any]) -> Picture | None:
        id, label = anything(example.get("id")), self.name(example.get("label"))
        png = self.thumbnails.get(str(example.get("id")))
        if png is None or len(png) > self.room:
            return None
        self.room -= len(png)
        alt, lines = f"example {id}, labelled {label}", [f"labelled {label}"]
        if example.get("suggested") is not None:
            suggested = self.name(example["suggested"])
            alt, lines = f"{alt}, suggested {suggested}", [*lines, f"suggested {suggested}"]
        if (chance := number(example.get("mislabel_probability"))) is not None:
            lines.append(percent(chance))
        return Picture(f"data:image/png;base64,{b64encode(png).decode()}", alt, [f"#{id}", *lines])


def feature_table(
    caption: str, examples: Sequence[Mapping[str, Any]], rows: Mapping[str, Mapping[str, float]]
) -> Table | None:
    """The feature values of those examples that have any."""
    known = [(str(e.get("id")), rows[str(e.get("id"))]) for e in examples if str(e.get("id")) in rows]
    names = list(dict.fromkeys(name for _, values in known for name in values))
    if not names:
        return None
    kept = names[:_FEATURES]
    if len(kept) < len(names):
        caption = f"{caption} (the first {len(kept)} of {len(names)} features)"
    cells = [[id, *(_value(values.get(name)) for name in kept)] for id, values in known]
    return Table(caption, ("Example", *map(str, kept)), cells, frozenset(range(1, len(kept) + 1)))


def _value(x: Any) -> str:
    return plain(number(x)) if isinstance(x, float) else anything(x)
