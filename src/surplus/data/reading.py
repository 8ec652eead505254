"""One way in for all data: `read(source)` gives `Splits`, whatever the source is.

    digits                  the 1,797 handwritten digits that scikit-learn carries
    FOLDER                  images in one folder per class, with or without train/ and test/ above them
    FOLDER                  the Hugging Face hub's layout: Parquet files named train-*, test-*
    FILE.parquet .csv .npz  a table, images or tokens in one file
    hf:NAME                 a name on the hub, through the optional `datasets` library

Nothing is unpickled: `.npz` files with object arrays are refused.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from surplus.data.columns import Columns, assemble, pooled
from surplus.data.dataset import Dataset, Splits, some
from surplus.errors import InputError, MissingExtra

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
TABLE_ENDINGS = (".parquet", ".csv", ".npz")
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}


def read(
    source: str | Path, *, labels: str | None = None, ids: str | None = None, test_share: float = 0.2, seed: int = 0
) -> Splits:
    """Read a data set by name or path.

    Args:
        source: see the module's table.
        labels: the column (or `.npz` array) that holds the classes; found by its usual names when None.
        ids: the column that holds unique ids; `id` when there is one, else the file's path under its split for images
            in folders, else the row number in the training split.
        test_share: how much of the training data to cut off, class by class, when no test split comes along.
        seed: which cut.

    Raises:
        InputError: nothing is there, the format is unknown, or the data are malformed; the rows are named.
    """
    name, raw = _raw(source, _from_path)
    return assemble(name, raw, labels, ids, test_share, seed)


def read_pool(
    source: str | Path, *, labels: str | None = None, ids: str | None = None
) -> tuple[Dataset, list[str | None]]:
    """All training examples of a source, labelled or not: what an active learner may ask about.

    Args:
        source: as for `read`; also a folder of images that are in no class folders, and tables with labels missing.
        labels: the column that holds the classes where they are known; found by its usual names when None.
        ids: the column that holds unique ids, as for `read`.

    Returns:
        The examples, whose targets mean nothing, and for each the name of its class, None where it has none.

    Raises:
        InputError: nothing is there, the format is unknown, or the data are malformed.
    """
    name, raw = _raw(source, lambda path: _flat_images(path) or _from_path(path))
    if "train" not in raw:
        raise InputError(f"{name} has the splits {', '.join(raw) or 'none'}, but no training split; name one train")
    return pooled(raw["train"], labels, ids)


def _raw(source: str | Path, from_path: Callable[[Path], dict[str, Columns]]) -> tuple[str, dict[str, Columns]]:
    """The name of a source, and the columns of its splits."""
    text = str(source)
    if text == "digits":
        return text, {"train": _digits()}
    if text.startswith("hf:"):
        name = text.removeprefix("hf:")
        return name.replace("/", "-"), _hub(name)
    try:
        path = Path(source).expanduser().resolve()
        return path.name if path.is_dir() else path.stem, from_path(path)
    except (OSError, RuntimeError) as error:  # no such user, no permission, a name that is too long
        raise InputError(f"{text!r} cannot be read: {error}") from None


def _flat_images(path: Path) -> dict[str, Columns] | None:
    """The images of a folder that lie in it directly, with their file names for ids; None where there are none."""
    images = [f for f in _images(path) if f.parent == path] if path.is_dir() else []
    if not images:
        return None
    return {"train": Columns({"image": images, "id": np.array([f.name for f in images])}, {}, path.name, ("image",))}


def _digits() -> Columns:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)  # 0..16 grey levels
    return Columns({"inputs": images, "label": data.target.astype(np.int64)}, {"label": tuple("0123456789")}, "digits")


def _hub(name: str) -> dict[str, Columns]:
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "data", f"reading {name!r} from the Hugging Face hub") from None
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:
        raise InputError(f"the hub's data set {name!r} could not be read: {error}") from None
    raw = {}
    for part, rows in loaded.items():
        if part in _SPLIT_NAMES:  # others have no labels, as a rule
            classes = {k: tuple(f.names) for k, f in rows.features.items() if isinstance(f, datasets.ClassLabel)}
            raw[_SPLIT_NAMES[part]] = _from_arrow(rows.data.table, f"hf:{name} ({part})", classes)
    return raw


def _from_path(path: Path) -> dict[str, Columns]:
    if path.is_file():
        return _file(path)
    if not path.is_dir():
        what = "is neither a file nor a folder" if path.exists() else "does not exist"
        raise InputError(f"{str(path)!r} {what}; give a path, or one of the names that `surplus list tasks` prints")
    tables = sorted(
        f
        for f in path.rglob("*")
        if f.suffix.lower() in TABLE_ENDINGS and not any(p.startswith(".") for p in f.relative_to(path).parts)
    )
    return _hub_layout(path, tables) if tables else _image_folders(path)


def _file(path: Path) -> dict[str, Columns]:
    readers: dict[str, Callable[[Path], dict[str, Columns]]] = {".parquet": _parquet, ".csv": _csv, ".npz": _npz}
    ending = path.suffix.lower()
    if ending not in readers:
        raise InputError(
            f"{path.name} is a {ending or 'file without an ending'}; surplus reads {', '.join(readers)} files and"
            " folders of images"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is an empty file (0 bytes); give one with data")
    return readers[ending](path)


def _parquet(path: Path) -> dict[str, Columns]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path.name} is not a readable Parquet file: {str(error).splitlines()[0]} Write or download it again"
        ) from None
    return {"train": _from_arrow(table, path.name, {})}


def _from_arrow(table: Any, where: str, classes: dict[str, tuple[str, ...]]) -> Columns:
    import pyarrow as pa
    import pyarrow.compute as pc

    _refuse_repeated(table.column_names, where)
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    named = {
        k: tuple(f["names"]) for k, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"
    }
    images, columns = [], {}
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            column = pc.struct_field(column, "bytes")
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            images.append(field.name)
            columns[field.name] = column.to_pylist()
        else:
            columns[field.name] = _from_column(column)
    return Columns(columns, named | classes, where, tuple(images))


def _from_column(column: Any) -> np.ndarray:
    """A pyarrow column as an array: rows of lists as one block where they are of one length."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if not pa.types.is_nested(column.type):
        return np.asarray(column.to_numpy())
    block, shape = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type), [len(column)]
    while pa.types.is_list(block.type) or pa.types.is_large_list(block.type) or pa.types.is_fixed_size_list(block.type):
        lengths = pc.unique(pc.list_value_length(block)).to_pylist()
        if block.null_count or len(lengths) != 1:
            break
        block, shape = block.flatten(), [*shape, lengths[0]]
    if not pa.types.is_nested(block.type):
        return np.asarray(block.to_numpy(zero_copy_only=False)).reshape(shape)
    rows = np.empty(len(column), dtype=object)
    rows[:] = column.to_pylist()
    return rows


def _csv(path: Path) -> dict[str, Columns]:
    import pyarrow as pa
    import pyarrow.csv as pc

    whole = pc.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1))  # types are read off the first block
    try:
        table = pc.read_csv(path, read_options=whole)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path.name} is not a readable CSV file: {' '.join(str(error).split())[:300]}") from None
    names = [c for c in table.column_names if c]  # pandas writes its row numbers without a name
    if len(names) == 1 and (other := re.search(r"[;\t|]", names[0])):
        raise InputError(f"{path.name} separates its columns by {other.group()!r}; write it with commas")
    _refuse_repeated(names, path.name)
    return {"train": Columns({c: table.column(c).to_numpy() for c in names}, {}, path.name)}


def _npz(path: Path) -> dict[str, Columns]:
    """All arrays of a file; names such as x_train, y_test or val_labels tell the split."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        why = "it holds Python objects, which surplus never unpickles" if "pickle" in str(error).lower() else str(error)
        raise InputError(
            f"{path.name} is not a readable .npz file of plain arrays: {why}. Save it with"
            " numpy.savez(path, x=inputs, y=labels)"
        ) from None
    columns = {name: v for name, v in columns.items() if v.ndim}  # single values describe the data; they are no rows
    if not columns:
        raise InputError(f"{path.name} holds no arrays; save them with numpy.savez(path, x=inputs, y=labels)")
    parts: dict[str, dict[str, Any]] = {}
    for name, values in columns.items():
        part, column = _part_and_column(name)
        parts.setdefault(part, {})[column] = values
    if "train" not in parts:
        parts = {"train": columns}
    parts = {"train": columns} if "" in parts else parts
    return {
        part: Columns(v, {}, path.name if len(parts) == 1 else f"{path.name} ({part})") for part, v in parts.items()
    }


def _part_and_column(name: str) -> tuple[str, str]:
    """("train", "x") for x_train or train_x; ("", name) where the name tells no split."""
    first, _, rest = name.partition("_")
    if rest and first.lower() in _SPLIT_NAMES:
        return _SPLIT_NAMES[first.lower()], rest
    head, _, last = name.rpartition("_")
    if head and last.lower() in _SPLIT_NAMES:
        return _SPLIT_NAMES[last.lower()], head
    return "", name


def _refuse_repeated(names: Sequence[str], where: str) -> None:
    repeated = sorted({c for c in names if names.count(c) > 1})
    if repeated:
        raise InputError(f"{where} has several columns called {', '.join(repeated)}; give each column its own name")


def _hub_layout(path: Path, files: Sequence[Path]) -> dict[str, Columns]:
    """Files by split, which a word of their name or else their folder's name tells; train when neither does."""
    parts: dict[str, list[Columns]] = {}
    for file in files:
        words = (*re.split(r"[^a-z]+", file.stem.lower()), file.parent.name.lower())
        told = next((_SPLIT_NAMES[w] for w in words if w in _SPLIT_NAMES), "train")
        for own, columns in _file(file).items():
            parts.setdefault(told if own == "train" else own, []).append(columns)
    return {part: _joined(shards, f"{path.name} ({part})") for part, shards in parts.items()}


def _joined(shards: list[Columns], where: str) -> Columns:
    first = shards[0]
    for shard in shards[1:]:
        if set(shard.columns) != set(first.columns):
            raise InputError(
                f"{where} is in several files, whose columns differ: {shard.where} has {', '.join(shard.columns)};"
                f" {first.where} has {', '.join(first.columns)}. Give all the same columns, or name one file"
            )
        if (shard.images, shard.classes) != (first.images, first.classes):
            raise InputError(f"{where}: {shard.where} and {first.where} differ in their class names or image columns")
    return Columns({c: _end_to_end(c, shards, where) for c in first.columns}, first.classes, where, first.images)


def _end_to_end(column: str, shards: list[Columns], where: str) -> Any:
    parts = [s.columns[column] for s in shards]
    if len(parts) == 1 or isinstance(parts[0], list):
        return parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))
    try:
        return np.concatenate(parts)
    except ValueError:
        shapes = ", ".join(f"{s.where} {p.shape}" for s, p in zip(shards, parts, strict=True))
        raise InputError(f"the files of {where} do not fit together in their column {column!r}: {shapes}") from None


def _image_folders(path: Path) -> dict[str, Columns]:
    below = {f.name.lower(): f for f in _folders(path)}
    splits = {_SPLIT_NAMES[n]: f for n, f in below.items() if n in _SPLIT_NAMES}
    if "train" not in splits and len(splits) < max(1, len(below)):
        splits = {"train": path}  # the folders below are classes, whatever they are called
    return {part: _image_classes(folder, f"{path.name} ({part})") for part, folder in splits.items()}


def _image_classes(folder: Path, where: str) -> Columns:
    """Paths of the images, the names of their class folders, and for ids their paths below `folder`."""
    files = {c.name: _images(c) for c in _folders(folder)}
    if not any(files.values()):
        raise InputError(
            f"the folder {str(folder)!r} holds no data that surplus reads; it looks for {', '.join(TABLE_ENDINGS)}"
            " files, or images in one folder per class"
        )
    empty = [name for name, found in files.items() if not found]
    if empty:
        raise InputError(f"{where} has class folders without images: {some(empty)}; fill or remove them")
    paths = [f for found in files.values() for f in found]
    labels = np.repeat(list(files), [len(found) for found in files.values()])
    ids = np.array([f.relative_to(folder).as_posix() for f in paths])
    return Columns({"image": paths, "label": labels, "id": ids}, {}, where, ("image",))


def _folders(path: Path) -> list[Path]:
    return sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_ENDINGS and not f.name.startswith("."))
