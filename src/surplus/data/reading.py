"""One way in for all data: `read(source)` gives `Splits`, whatever the source is.

    digits                  the 1,797 handwritten digits that scikit-learn carries
    FOLDER                  images in one folder per class, with or without train/ and test/ above them
    FOLDER                  the Hugging Face hub's layout: Parquet files named train-*, test-*
    FILE.parquet .csv .npz  a table, images or tokens in one file
    hf:NAME                 a name on the hub, through the optional `datasets` library

Nothing is unpickled: `.npz` files with object arrays are refused.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surplus.data.dataset import Dataset, Kind, Splits, split
from surplus.errors import InputError, MissingExtra

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
TABLE_ENDINGS = (".parquet", ".csv", ".npz")
LABEL_NAMES = ("label", "labels", "target", "targets", "y", "class", "fine_label")
ID_NAMES = ("id", "ids")
_SPLIT_NAMES = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}


def read(source: str | Path, *, labels: str | None = None, ids: str | None = None, test_share: float = 0.2, seed: int = 0) -> Splits:
    """Read a data set by name or path.

    Args:
        source: see the module's table.
        labels: the column (or `.npz` array) that holds the classes; found by its usual names when None.
        ids: the column that holds unique ids; `id` when there is one, else the row number in the training split.
        test_share: how much of the training data to cut off, class by class, when no test split comes along.
        seed: which cut.

    Raises:
        InputError: nothing is there, the format is unknown, or the data are malformed; the rows are named.
    """
    name = str(source)
    if name == "digits":
        raw = {"train": _digits()}
    elif name.startswith("hf:"):
        raw = _hub(name.removeprefix("hf:"))
    else:
        raw = _from_path(Path(source).expanduser())
        name = Path(source).expanduser().resolve().stem
    return _assemble(name, raw, labels, ids, test_share, seed)


@dataclass
class _Columns:
    """One split before it is checked: named columns, and what the source itself says about them."""

    columns: dict[str, Any]
    classes: dict[str, tuple[str, ...]]
    where: str
    images: tuple[str, ...] = ()


# ---- from columns to data sets --------------------------------------------------------------------------------------


def _assemble(name: str, raw: dict[str, _Columns], labels: str | None, ids: str | None, test_share: float, seed: int) -> Splits:
    if "train" not in raw:
        raise InputError(f"{name} has the splits {', '.join(raw) or 'none'}, but no training split; name one train")
    first = raw["train"]
    label = _label_column(first, labels)
    classes = _class_names(first, label)
    made = {part: _dataset(columns, label, ids, classes) for part, columns in raw.items()}
    shapes = {part: data.shape for part, data in made.items() if data.kind != "text"}
    if len(set(shapes.values())) > 1:
        raise InputError(f"the splits of {name} have inputs of different shapes: {shapes}; give them one shape")
    train, test, carved = made["train"], made.get("test") or made.get("validation"), False
    if test is None:
        if len(train) < 5:
            raise InputError(f"{name} has {len(train)} examples and no test split; at least 5 are needed to hold some out")
        train, test = split(train, test_share, seed)
        carved = True
    validation = made.get("validation") if "test" in made else None
    return Splits(name, train, test, validation, carved)


def _label_column(data: _Columns, labels: str | None) -> str:
    if labels is not None:
        if labels not in data.columns:
            raise InputError(f"{data.where} has no column {labels!r} for labels; its columns are {', '.join(data.columns)}")
        return labels
    found = [c for c in LABEL_NAMES if c in data.columns] or [c for c in data.columns if c in data.classes]
    if not found:
        raise InputError(
            f"{data.where} has no column called {', '.join(LABEL_NAMES[:4])} ...; its columns are {', '.join(data.columns)}."
            " Name the one that holds the classes with --labels COLUMN"
        )
    return found[0]


def _class_names(data: _Columns, label: str) -> tuple[str, ...] | None:
    """Names of the classes in order, or None where the labels are plain numbers."""
    if label in data.classes:
        return data.classes[label]
    values = np.asarray(data.columns[label])
    if values.dtype.kind in "OUSb":
        missing = [i for i, v in enumerate(values) if v is None or v == ""]
        if missing:
            raise InputError(f"{data.where} has no label in rows {_some(missing)}; fill or drop them")
        return tuple(sorted({str(v) for v in values}))
    if values.dtype.kind == "f" and values.ndim == 1 and len(values) and np.isfinite(values).all() and (values == values.round()).all() and len(np.unique(values)) <= 1000:
        values = values.astype(np.int64)
    if values.dtype.kind in "iu" and values.ndim == 1 and len(values) and values.min() >= 0:
        present = np.unique(values)
        if len(present) <= max(2, len(values) // 2) and present[-1] != len(present) - 1:
            return tuple(str(v) for v in present)  # numbers with gaps: 1..10, or 3 and 7
    return None


def _dataset(data: _Columns, label: str, ids: str | None, classes: tuple[str, ...] | None) -> Dataset:
    columns = dict(data.columns)
    targets = columns.pop(label)
    if ids is not None and ids not in columns:
        raise InputError(f"{data.where} has no column {ids!r} for ids; its columns are {', '.join(data.columns)}")
    id_column = ids or next((c for c in ID_NAMES if c in columns), None)
    identity = None if id_column is None else np.asarray(columns.pop(id_column))
    inputs, kind = _input_columns(columns, data)
    return Dataset.of(
        inputs, _numbered(targets, classes, label in data.classes, data.where),
        ids=identity, classes=classes or (), kind=kind, name=data.where,
    )  # fmt: skip


def _numbered(targets: Any, classes: tuple[str, ...] | None, stored_as_numbers: bool, where: str) -> Any:
    """Labels as class numbers, where the class names are known."""
    values = np.asarray(targets)
    if values.dtype.kind == "f" and values.ndim == 1 and not np.isfinite(values).all():
        raise InputError(f"{where} has no label (NaN) in rows {_some(np.flatnonzero(~np.isfinite(values)))}; fill or drop them")
    if values.dtype.kind == "f" and len(values) and (values == values.round()).all() and len(np.unique(values)) <= 1000:
        values = values.astype(np.int64)  # a CSV column of whole numbers
    if classes is None or stored_as_numbers:
        return values
    number = {c: i for i, c in enumerate(classes)}
    strange = [i for i, v in enumerate(values) if str(v) not in number]
    if strange:
        raise InputError(f"{where} has labels that the training split does not know, in rows {_some(strange)}: {values[strange[0]]!r}")
    return np.array([number[str(v)] for v in values])


def _input_columns(columns: dict[str, Any], data: _Columns) -> tuple[Any, Kind | None]:
    images = [c for c in data.images if c in columns]
    if images:
        return _decoded(columns[images[0]], data.where), "image"
    arrays = {c: np.asarray(v) if not isinstance(v, np.ndarray) else v for c, v in columns.items()}
    whole = [c for c, v in arrays.items() if v.ndim >= 2]
    if whole:
        wanted = next((c for c in ("x", "X", "inputs", "images", "image", "data", "features", "tokens") if c in whole), whole[0])
        tokens = wanted == "tokens" and arrays[wanted].dtype.kind in "iu"
        return arrays[wanted], "text" if tokens else None
    ragged = [c for c, v in arrays.items() if v.dtype == object and len(v) and isinstance(v[0], list | np.ndarray)]
    if ragged:
        return list(arrays[ragged[0]]), None  # Dataset.of names the odd rows
    numbers = {c: v for c, v in arrays.items() if v.dtype.kind in "biuf" and v.ndim == 1}
    words = [c for c, v in arrays.items() if v.dtype.kind in "OUS"]
    if words:
        raise InputError(f"{data.where} has columns that are not numbers: {', '.join(words[:8])}; encode them as numbers or drop them")
    if not numbers:
        raise InputError(f"{data.where} has no input columns beside the labels")
    return np.column_stack([v.astype(np.float64) for v in numbers.values()]), "table"


def _some(rows: Iterable[int]) -> str:
    rows = [int(r) for r in rows]
    return ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5:,} more" if len(rows) > 5 else "")


# ---- sources --------------------------------------------------------------------------------------------------------


def _digits() -> _Columns:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)  # 0..16 grey levels
    return _Columns({"inputs": images, "label": data.target.astype(np.int64)}, {"label": tuple("0123456789")}, "digits")


def _hub(name: str) -> dict[str, _Columns]:
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "data", f"reading {name!r} from the Hugging Face hub") from None
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:
        raise InputError(f"the hub's data set {name!r} could not be read: {error}") from None
    raw = {}
    for part in loaded:
        set_ = loaded[part]
        undecoded = set_.cast_column(c, datasets.Image(decode=False)) if (c := next((k for k, f in set_.features.items() if isinstance(f, datasets.Image)), None)) else set_
        classes = {k: tuple(f.names) for k, f in set_.features.items() if isinstance(f, datasets.ClassLabel)}
        raw[_SPLIT_NAMES.get(part, part)] = _from_arrow(undecoded.data.table, f"hf:{name} ({part})", classes)
    return raw


def _from_path(path: Path) -> dict[str, _Columns]:
    if not path.exists():
        raise InputError(f"there is no file or folder {str(path)!r}; give a path, or one of the names that `surplus list tasks` prints")
    if path.is_file():
        return {"train": _file(path)}
    tables = sorted(f for f in path.rglob("*") if f.suffix in TABLE_ENDINGS and not any(p.startswith(".") for p in f.relative_to(path).parts))
    if tables:
        return _hub_layout(path, tables)
    return _image_folders(path)


def _file(path: Path) -> _Columns:
    readers: dict[str, Callable[[Path], _Columns]] = {".parquet": _parquet, ".csv": _csv, ".npz": _npz}
    if path.suffix not in readers:
        raise InputError(f"{path.name} is a {path.suffix or 'file without an ending'}; surplus reads {', '.join(readers)} and folders of images")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is an empty file (0 bytes)")
    return readers[path.suffix](path)


def _parquet(path: Path) -> _Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path.name} is not a readable Parquet file: {str(error).splitlines()[0]}") from None
    return _from_arrow(table, path.name, {})


def _from_arrow(table: Any, where: str, classes: dict[str, tuple[str, ...]]) -> _Columns:
    import pyarrow as pa

    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    named = {k: tuple(f["names"]) for k, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    images = tuple(f.name for f in table.schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0 or pa.types.is_binary(f.type))
    columns: dict[str, Any] = {}
    for field in table.schema:
        column = table.column(field.name)
        if field.name in images:
            column = column.combine_chunks()
            columns[field.name] = (column.field("bytes") if pa.types.is_struct(field.type) else column).to_pylist()
        elif pa.types.is_nested(field.type):
            columns[field.name] = _stacked(column.to_pylist())
        else:
            columns[field.name] = column.to_numpy()
    return _Columns(columns, named | classes, where, images)


def _stacked(rows: list[Any]) -> Any:
    try:
        return np.asarray(rows)
    except ValueError:
        ragged = np.empty(len(rows), dtype=object)
        ragged[:] = rows
        return ragged


def _csv(path: Path) -> _Columns:
    import pyarrow as pa
    import pyarrow.csv as pc

    try:
        table = pc.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path.name} is not a readable CSV file: {str(error).splitlines()[0]}") from None
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    return _Columns({c: v for c, v in columns.items() if not re.fullmatch(r"Unnamed.*|", c)}, {}, path.name)


def _npz(path: Path) -> _Columns:
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        why = "it holds Python objects, which surplus never unpickles" if "pickle" in str(error) else str(error)
        raise InputError(f"{path.name} is not a readable .npz file of plain arrays: {why}") from None
    if not isinstance(columns, dict) or not columns:
        raise InputError(f"{path.name} holds no arrays; save them with numpy.savez(path, x=inputs, y=labels)")
    return _Columns(columns, {}, path.name)


def _hub_layout(path: Path, files: Sequence[Path]) -> dict[str, _Columns]:
    parts: dict[str, list[Path]] = {}
    for file in files:
        word = re.match(r"[a-zA-Z]+", file.stem)
        part = _SPLIT_NAMES.get(word.group().lower() if word else "") or _SPLIT_NAMES.get(file.parent.name, "train")
        parts.setdefault(part, []).append(file)
    return {part: _joined([_file(f) for f in group], f"{path.name} ({part})") for part, group in parts.items()}


def _joined(shards: list[_Columns], where: str) -> _Columns:
    if len(shards) == 1:
        return _Columns(shards[0].columns, shards[0].classes, where, shards[0].images)
    first = shards[0]
    for shard in shards[1:]:
        if set(shard.columns) != set(first.columns):
            raise InputError(f"{where}: {shard.where} has the columns {', '.join(shard.columns)}, {first.where} has {', '.join(first.columns)}")
    columns = {
        c: sum((s.columns[c] for s in shards), []) if isinstance(first.columns[c], list) else np.concatenate([s.columns[c] for s in shards])
        for c in first.columns
    }
    return _Columns(columns, first.classes, where, first.images)


def _image_folders(path: Path) -> dict[str, _Columns]:
    below = {f.name.lower(): f for f in sorted(path.iterdir()) if f.is_dir() and not f.name.startswith(".")}
    splits = {_SPLIT_NAMES[n]: f for n, f in below.items() if n in _SPLIT_NAMES}
    if "train" not in splits:
        splits = {"train": path}
    return {part: _image_classes(folder, f"{path.name} ({part})") for part, folder in splits.items()}


def _image_classes(folder: Path, where: str) -> _Columns:
    classes = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    files = [(k, f) for k, c in enumerate(classes) for f in sorted(c.rglob("*")) if f.suffix.lower() in IMAGE_ENDINGS]
    if not files:
        raise InputError(
            f"the folder {str(folder)!r} holds no data that surplus reads; it looks for {', '.join(TABLE_ENDINGS)} files, or images in one folder per class"
        )
    labels = np.array([k for k, _ in files])
    columns = {"image": [f for _, f in files], "label": labels}
    return _Columns(columns, {"label": tuple(c.name for c in classes)}, where, ("image",))


def _decoded(items: Sequence[Any], where: str) -> Any:
    """Encoded images (bytes or paths) to (n, H, W, C) uint8; Pillow decodes in threads."""
    with ThreadPoolExecutor() as pool:
        arrays = list(pool.map(_pixels, items))
    broken = [i for i, a in enumerate(arrays) if a is None]
    if broken:
        raise InputError(f"{where} has images that cannot be decoded, in rows {_some(broken)}; mend or drop them")
    if len({a.ndim for a in arrays}) > 1:  # grey among colour: make all of them colour
        arrays = [a if a.ndim == 3 else np.repeat(a[..., None], 3, -1) for a in arrays]
    shapes = [a.shape for a in arrays]
    odd = [i for i, s in enumerate(shapes) if s != shapes[0]]
    if odd:
        raise InputError(
            f"{where} has images of different sizes: row 0 is {shapes[0][1]}x{shapes[0][0]}, row {odd[0]} is"
            f" {shapes[odd[0]][1]}x{shapes[odd[0]][0]} ({len(odd)} of {len(shapes)} differ); resize them to one size"
        )
    return np.stack(arrays)


def _pixels(item: Any) -> np.ndarray | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(item if isinstance(item, Path) else io.BytesIO(item)) as image:
            grey = image.mode in ("1", "L", "I;16", "I", "F", "LA")
            return np.asarray(image.convert("L" if grey else "RGB"))
    except (UnidentifiedImageError, OSError, TypeError, ValueError, SyntaxError):
        return None
