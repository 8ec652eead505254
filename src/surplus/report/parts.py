"""What a page is made of: sections that hold text, tables, figures and pictures. No HTML here; the template has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph. `role`: "lead" for a section's answer, "note" for how to read it, "warning" for what is missing."""

    kind: ClassVar[str] = "text"
    text: str
    role: str = "note"


@dataclass(frozen=True)
class Table:
    """Cells as text. The first column heads its row; `numeric` columns align their digits; `code` ones are names."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    code: frozenset[int] = frozenset()
    folded: bool = False


@dataclass(frozen=True)
class Key:
    """A line of a figure's legend, which is HTML: its name, colour, dash and marker."""

    name: str
    colour: str
    dash: str = ""
    shape: str = ""


@dataclass(frozen=True)
class Figure:
    """A Vega-Lite chart, what it says in one sentence, how to read it, and the table behind it."""

    kind: ClassVar[str] = "figure"
    id: str
    title: str
    label: str
    spec: dict[str, Any]
    table: Table
    height: int
    legend: Sequence[Key] = ()
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """One example: its picture as a data URI, in words, and what stands below it."""

    uri: str
    alt: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """Pictures under a heading; those after the first `shown` are folded away."""

    kind: ClassVar[str] = "gallery"
    title: str
    pictures: Sequence[Picture]
    shown: int = 16
    caption: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    title: str


Part = Text | Table | Figure | Gallery | Heading


@dataclass(frozen=True)
class Section:
    """One of the five parts of an audit. `status` is "done", "partial" or "left out"."""

    id: str
    title: str
    question: str
    status: str = "done"
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """A line of the summary: what was asked, the answer in a few words, and the sentence with its numbers."""

    question: str
    headline: str
    sentence: str
    section: str
