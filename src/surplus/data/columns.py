"""From named columns to checked data sets: which column is what, which classes there are, what does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surplus.data.dataset import Dataset, Kind, Splits, some, split
from surplus.data.decoding import decode
from surplus.errors import InputError

LABEL_NAMES = ("label", "labels", "target", "targets", "y", "class", "fine_label")
ID_NAMES = ("id", "ids")
INPUT_NAMES = ("x", "inputs", "images", "image", "data", "features")
TOKEN_NAMES = ("tokens", "input_ids")
_MOST_CLASSES = 1000
"""Whole numbers that were stored as floats are taken for classes up to so many; beyond, for measurements."""


@dataclass
class Columns:
    """One split before it is checked: named columns, and what the source itself says about them.

    `classes`: names of the classes of a column that holds their numbers. `images`: columns of encoded images.
    """

    columns: dict[str, Any]
    classes: dict[str, tuple[str, ...]]
    where: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Layout:
    """What the training split decides for all splits: which column is what, and which classes there are."""

    label: str
    classes: tuple[str, ...] | None
    """None where the labels are not classes: measurements, or tokens."""
    numbered: bool
    """Whether the labels are stored as class numbers."""
    ids: str | None
    inputs: tuple[str, ...]
    """One column of images or arrays, or columns of numbers."""
    kind: Kind | None


def assemble(
    name: str, raw: dict[str, Columns], labels: str | None, ids: str | None, test_share: float, seed: int
) -> Splits:
    """Splits from the columns of each; a test split is cut off where none came along.

    Raises:
        InputError: no training split, no labels, or data that cannot be used; the rows are named.
    """
    if "train" not in raw:
        raise InputError(f"{name} has the splits {', '.join(raw) or 'none'}, but no training split; name one train")
    layout = _layout(raw["train"], labels, ids)
    made = {part: _dataset(columns, layout) for part, columns in raw.items()}
    shapes = {part: data.shape for part, data in made.items()}
    if len(set(shapes.values())) > 1:
        shown = ", ".join(f"{part} {shape}" for part, shape in shapes.items())
        raise InputError(f"the splits of {name} have inputs of different shapes: {shown}; give them one shape")
    train, test = made["train"], made.get("test", made.get("validation"))
    if test is not None:
        return Splits(name, train, test, made.get("validation") if "test" in made else None)
    rest, test = split(train, test_share, seed)
    if len(test) == 0:
        raise InputError(
            f"{name} has {len(train)} examples of {len(train.classes)} classes and no test split, too few to hold any"
            " out; give at least 3 examples of a class, or a test split"
        )
    return Splits(name, rest, test, carved=True)


def pooled(data: Columns, labels: str | None, ids: str | None) -> tuple[Dataset, list[str | None]]:
    """All examples of a split that need no labels, and the labels that there are; the targets mean nothing.

    Raises:
        InputError: as for `assemble`, but for labels.
    """
    known = {c.lower(): c for c in reversed(data.columns)}
    usual = next((known[c] for c in LABEL_NAMES if c in known), None)
    name = usual if labels is None else _label_column(data, labels)
    given = [_word(v, data.classes.get(name or "")) for v in data.columns[name]] if name else []
    columns = {c: v for c, v in data.columns.items() if c != name}
    rows = len(next(iter(columns.values()), ()))
    bare = Columns({**columns, "label": np.arange(rows) % 2}, {}, data.where, data.images)  # stand-ins, never read
    return _dataset(bare, _layout(bare, "label", ids)), given or [None] * rows


def _word(value: Any, classes: tuple[str, ...] | None) -> str | None:
    """A label as a word; None where there is none."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or value != value or value == "":
        return None
    if isinstance(value, float) and value == round(value):
        value = round(value)  # a column of whole numbers with gaps
    return classes[value] if classes and isinstance(value, int) and 0 <= value < len(classes) else str(value)


def _layout(data: Columns, labels: str | None, ids: str | None) -> _Layout:
    label = _label_column(data, labels)
    if ids is not None and ids not in data.columns:
        raise InputError(f"{data.where} has no column {ids!r} for ids; its columns are {', '.join(data.columns)}")
    if ids == label:
        raise InputError(f"the column {ids!r} of {data.where} cannot hold both labels and ids; name two columns")
    if len(data.columns[label]) == 0:
        raise InputError(f"{data.where} has no rows; give at least two examples of two classes")
    ids = ids or next((c for c in ID_NAMES if c in data.columns and c != label), None)
    inputs, kind = _input_columns({c: v for c, v in data.columns.items() if c not in (label, ids)}, data)
    classes, numbered = _class_names(data, label)
    return _Layout(label, classes, numbered, ids, inputs, kind)


def _label_column(data: Columns, labels: str | None) -> str:
    if labels is not None:
        if labels not in data.columns:
            raise InputError(
                f"{data.where} has no column {labels!r} for labels; its columns are {', '.join(data.columns)}"
            )
        return labels
    known = {c.lower(): c for c in reversed(data.columns)}
    found = [known[c] for c in LABEL_NAMES if c in known] or [c for c in data.columns if c in data.classes]
    if not found:
        raise InputError(
            f"{data.where} has no column called {', '.join(LABEL_NAMES[:4])} ...; its columns are"
            f" {', '.join(data.columns)}. Name the one that holds the classes with --labels COLUMN"
        )
    return found[0]


def _input_columns(columns: dict[str, Any], data: Columns) -> tuple[tuple[str, ...], Kind | None]:
    """Which columns are the inputs, and of what kind: images, else one column of arrays, else all numbers together."""
    if images := [c for c in data.images if c in columns]:
        return (images[0],), "image"
    arrays = [c for c, v in columns.items() if v.ndim > 1 or (v.dtype == object and _holds_lists(v))]
    if arrays:
        known = [c for c in arrays if c.lower() in (*INPUT_NAMES, *TOKEN_NAMES)]
        chosen = (known or arrays)[0]
        tokens = chosen.lower() in TOKEN_NAMES and columns[chosen].dtype.kind in "iu"
        return (chosen,), "text" if tokens else None
    if not columns:
        raise InputError(f"{data.where} has no input columns beside the labels; add some, or name others as labels")
    return tuple(columns), "table"


def _holds_lists(values: np.ndarray) -> bool:
    return any(isinstance(v, list | np.ndarray) for v in values)


def _class_names(data: Columns, label: str) -> tuple[tuple[str, ...] | None, bool]:
    """Names of the classes in order, None where labels are not classes; and whether labels are their numbers."""
    if label in data.classes:
        return data.classes[label], True
    values = _label_values(data, label)
    if values.ndim > 1:
        return None, False
    present, most = np.unique(values), max(2, len(values) // 2)
    if values.dtype.kind == "f":
        whole = (present == present.round()).all() and present[0] >= 0 and len(present) <= min(_MOST_CLASSES, most)
        if not whole:
            return None, False
        present = present.astype(np.int64)
    if values.dtype.kind == "i" and present[0] < 0:
        raise InputError(
            f"{data.where} has labels below 0 in rows {some(np.flatnonzero(values < 0))}, the lowest {present[0]};"
            " number the classes 0, 1, 2, ... or give them names, and drop examples without a label"
        )
    if len(present) > most and len(values) > 20:
        raise InputError(
            f"{data.where} has {len(present):,} different labels in its column {label!r} of {len(values):,} rows, which"
            " looks like ids or measurements, not classes; name the class column with --labels COLUMN"
        )
    return tuple(map(str, present.tolist())), False


def _label_values(data: Columns, label: str) -> np.ndarray:
    """Labels as words, int64 or finite floats; refuses missing ones."""
    values = np.asarray(data.columns[label])
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    kind = values.dtype.kind
    if kind not in "biufOUS":
        raise InputError(
            f"the labels in column {label!r} of {data.where} have type {values.dtype}; words or numbers are expected"
        )
    if kind in "iu":
        return values.astype(np.int64)
    if kind == "f":
        missing = ~np.isfinite(values.reshape(len(values), -1)).all(1)
    else:
        odd = [i for i, v in enumerate(values.flat) if isinstance(v, list | dict | np.ndarray)] if kind == "O" else []
        if odd:
            raise InputError(
                f"the labels in column {label!r} of {data.where} are lists or records, as in rows {some(odd)};"
                " one class per example is expected"
            )
        values = np.char.decode(values, "utf-8", "replace") if kind == "S" else values
        missing = np.array([v is None or v != v or v in ("", b"") for v in values.flat])  # NaN is not itself
    if missing.any():
        raise InputError(f"{data.where} has no label in rows {some(np.flatnonzero(missing))}; fill or drop them")
    return values if kind == "f" else values.astype(str)


def _dataset(data: Columns, layout: _Layout) -> Dataset:
    absent = [c for c in (layout.label, *layout.inputs) if c not in data.columns]
    if absent:
        raise InputError(
            f"{data.where} has no column {', '.join(absent[:8])}, which the training split has; its columns are"
            f" {', '.join(data.columns)}"
        )
    targets = _targets(data, layout)
    identity = data.columns.get(layout.ids) if layout.ids else None
    lengths = {c: len(data.columns[c]) for c in (layout.label, *layout.inputs)}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{c} has {n:,}" for c, n in lengths.items())
        raise InputError(f"the columns of {data.where} have different lengths: {shown}; give each one row per example")
    return Dataset.of(
        _values(data, layout), targets, ids=identity, classes=layout.classes or (), kind=layout.kind, name=data.where
    )


def _targets(data: Columns, layout: _Layout) -> np.ndarray:
    """Labels as class numbers where there are classes, else as they are."""
    if layout.numbered and data.classes.get(layout.label, layout.classes) != layout.classes:
        raise InputError(f"{data.where} names its classes otherwise than the training split; give both the same names")
    values = _label_values(data, layout.label)
    if layout.classes is None:
        return values.astype(np.float64) if values.ndim == 1 and values.dtype.kind == "i" else values
    if values.dtype.kind == "f" and (values == values.round()).all():
        values = values.astype(np.int64)  # a column with gaps, or one that was written as floats
    if layout.numbered:
        return values
    present, where = np.unique(values, return_inverse=True)
    number = {c: i for i, c in enumerate(layout.classes)}
    numbers = np.array([number.get(str(v), -1) for v in present.tolist()])[where]
    if (numbers < 0).any():
        rows = np.flatnonzero(numbers < 0)
        raise InputError(
            f"{data.where} has labels that the training split does not know, in rows {some(rows)}:"
            f" {some(np.unique(values[rows]))}; drop these rows, or add such examples to the training split"
        )
    return numbers


def _values(data: Columns, layout: _Layout) -> Any:
    """The inputs of one split as an array, or as a list of arrays where they are ragged."""
    if layout.kind == "image":
        return decode(data.columns[layout.inputs[0]], data.where)
    columns = {c: data.columns[c] for c in layout.inputs}
    if layout.kind != "table":
        values = columns[layout.inputs[0]]
        return list(values) if values.dtype == object else values  # Dataset.of names the odd rows
    words = [c for c, v in columns.items() if v.dtype.kind not in "biuf"]
    if words:
        raise InputError(
            f"{data.where} has columns that are not numbers: {', '.join(words[:8])}; encode them as numbers or drop"
            " them, or name the labels with --labels COLUMN and the ids with --ids COLUMN"
        )
    return np.column_stack([v.astype(np.float64) for v in columns.values()])
