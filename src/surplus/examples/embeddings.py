"""Embeddings: n rows of d numbers, a tensor or Parquet files, read a few rows at a time so that memory stays bounded.

    Embeddings.of(features)                       a tensor (n, ...), flattened to (n, d)
    Embeddings.of("features/")                    Parquet files, in the order of their names
    for rows in Embeddings.of(...).chunks(): ...  (b, d), in order

A file holds one column of lists, or a column per dimension; other columns, an id among them, may stand beside.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.dlpack import from_dlpack

from surplus.data.columns import ID_NAMES, LABEL_NAMES
from surplus.errors import InputError

ENTRIES = 2**23
"""Numbers in a chunk: 32 MB in float32."""


@dataclass(frozen=True)
class Part:
    """Rows start..stop of some embeddings, readable on their own, by another process too."""

    start: int
    stop: int
    dim: int
    source: Tensor | _Groups
    unit: bool = False
    """Whether rows come scaled to length one."""

    def chunks(self) -> Iterator[Tensor]:
        """The rows in order, (b, d) at a time; never to be changed in place.

        Raises:
            InputError: a row is NaN, infinite, missing or of another length, or has no direction though one is needed.
        """
        at, rows = self.start, max(1, ENTRIES // self.dim)
        for chunk in self.source.split(rows):
            _check_finite(chunk, at)
            yield _normalised(chunk, at) if self.unit else chunk
            at += len(chunk)


@dataclass(frozen=True)
class _Groups:
    """Some row groups of one Parquet file."""

    file: str
    groups: tuple[int, ...]
    columns: tuple[str, ...]

    def split(self, rows: int) -> Iterator[Tensor]:
        """The rows in order, at most so many at a time."""
        opened = _open(self.file, buffer_size=2**20)  # pages as they are needed, not a row group at once
        for batch in opened.iter_batches(rows, row_groups=list(self.groups), columns=list(self.columns)):
            yield _as_rows(batch, self.columns, self.file)


@dataclass(frozen=True)
class Embeddings:
    """Rows of numbers that need not fit into memory."""

    parts: tuple[Part, ...]
    dim: int

    @classmethod
    def of(cls, source: Tensor | str | Path | Embeddings, columns: str | Sequence[str] | None = None) -> Embeddings:
        """From whatever holds them.

        Args:
            source: a tensor (n, ...); a Parquet file, or a folder of them; or embeddings, which stay as they are.
            columns: of the files: one of lists, or several of numbers. None takes the only column of lists, else all
                columns of numbers that are not called id or label.

        Raises:
            InputError: there are no rows, or no such columns, or files differ.
        """
        if isinstance(source, Embeddings):
            return source
        return cls(*(_tensor_parts(source) if isinstance(source, Tensor) else _file_parts(Path(source), columns)))

    def __len__(self) -> int:
        return self.parts[-1].stop

    @property
    def in_memory(self) -> bool:
        """Whether they are a tensor."""
        return isinstance(self.parts[0].source, Tensor)

    def unit(self) -> Embeddings:
        """The same rows scaled to length one, each time they are read."""
        return replace(self, parts=tuple(replace(p, unit=True) for p in self.parts))

    def chunks(self) -> Iterator[Tensor]:
        """All rows in order, (b, d) at a time; never to be changed in place."""
        for part in self.parts:
            yield from part.chunks()

    def all(self) -> Tensor:
        """All rows in memory, (n, d)."""
        return torch.cat(list(self.chunks()))

    def take(self, rows: Tensor) -> Tensor:
        """Some rows, read in one pass: rising positions (m,) -> (m, d)."""
        taken, at = [], 0
        for chunk in self.chunks():
            first, last = torch.searchsorted(rows, torch.tensor([at, at + len(chunk)], device=rows.device)).tolist()
            taken.append(chunk[(rows[first:last] - at).to(chunk.device)])
            at += len(chunk)
        return torch.cat(taken)

    def sample(self, count: int, generator: Generator) -> Tensor:
        """A uniform sample of the rows without repeats, (count, d), in order; all of them where there are no more."""
        if count >= len(self):
            return self.all()
        chosen = torch.randperm(len(self), generator=generator, device=generator.device)[:count]
        return self.take(chosen.sort().values)


def read_ids(source: str | Path, column: str | None = None) -> list[Any]:
    """The ids that stand beside embeddings in Parquet files, in the order of the rows.

    Args:
        source: the file or folder.
        column: its name; `id` or `ids` when None.

    Raises:
        InputError: there is no such column.
    """
    ids: list[Any] = []
    for file in _files(Path(source)):
        opened = _open(str(file))
        named = [c for c in opened.schema_arrow.names if (c == column if column else c.lower() in ID_NAMES)]
        if not named:
            raise InputError(
                f"{file.name} has no column {column or 'id'!r}; its columns are {', '.join(opened.schema_arrow.names)}"
            )
        ids += opened.read(columns=named[:1]).column(0).to_pylist()
    return ids


def write_embeddings(
    path: str | Path, chunks: Iterable[Tensor], ids: Iterable[Any] | None = None, rows: int = 2**16
) -> None:
    """Write rows to one Parquet file as they come; the file appears when it is complete.

    Args:
        path: of the file.
        chunks: (b, d) at a time, float32.
        ids: one per row.
        rows: in a row group; the smallest piece that one worker reads.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, writer, identity = Path(path), None, iter(ids) if ids is not None else None
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    for chunk in chunks:
        flat = pa.array(chunk.detach().cpu().float().contiguous().flatten().numpy())
        columns = {"embedding": pa.FixedSizeListArray.from_arrays(flat, chunk.shape[1])}
        if identity is not None:
            columns["id"] = pa.array([next(identity) for _ in range(len(chunk))])
        table = pa.table(columns)
        # Floats compress badly and repeat rarely, so neither is tried.
        writer = writer or pq.ParquetWriter(unfinished, table.schema, compression="none", use_dictionary=False)
        writer.write_table(table, row_group_size=rows)
    if writer is None:
        raise InputError(f"there are no rows to write to {path.name}; give at least one chunk")
    writer.close()
    os.replace(unfinished, path)


# ---- how the rows come ----------------------------------------------------------------------------------------------


def _tensor_parts(x: Tensor) -> tuple[tuple[Part, ...], int]:
    if x.ndim < 2 or x.numel() == 0:
        raise InputError(f"embeddings must be of shape (n, d), n and d at least 1; got {tuple(x.shape)}")
    x = x.flatten(1) if x.is_floating_point() else x.flatten(1).float()
    rows, dim = max(1, ENTRIES // x.shape[1]), x.shape[1]
    starts = range(0, len(x), rows)
    return tuple(Part(s, min(s + rows, len(x)), dim, x[s : s + rows]) for s in starts), dim


def _file_parts(path: Path, columns: str | Sequence[str] | None) -> tuple[tuple[Part, ...], int]:
    parts: list[Part] = []
    asked = (columns,) if isinstance(columns, str) else columns
    for file in _files(path):
        opened = _open(str(file))
        names = _columns(opened.schema_arrow, tuple(asked) if asked else None, file.name)
        dim = _dim(opened, names, file)
        if parts and dim != parts[0].dim:
            raise InputError(
                f"{file.name} has {dim} dimensions and the files before it {parts[0].dim}; make them agree"
            )
        sizes = [opened.metadata.row_group(g).num_rows for g in range(opened.num_row_groups)]
        for groups in _together(sizes, max(1, ENTRIES // dim)):
            start = parts[-1].stop if parts else 0
            stop = start + sum(sizes[g] for g in groups)
            parts.append(Part(start, stop, dim, _Groups(str(file), groups, names)))
    if not parts:
        raise InputError(f"{str(path)!r} holds no rows; give a Parquet file, or a folder of them, with some")
    return tuple(parts), parts[0].dim


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not path.exists():
        raise InputError(f"{str(path)!r} is neither a Parquet file nor a folder with *.parquet in it")
    return files


def _open(file: str, **options: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, **options)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} is not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _columns(schema: Any, asked: tuple[str, ...] | None, where: str) -> tuple[str, ...]:
    """Which columns hold the numbers."""
    lists = [f.name for f in schema if _is_list(f.type)]
    numbers = [f.name for f in schema if _is_number(f.type)]
    if asked:
        fit = set(asked) <= set(numbers) or (len(asked) == 1 and asked[0] in lists)
        if not fit:
            raise InputError(
                f"{where} has no such columns of numbers, or column of lists: {', '.join(asked)}; its columns of"
                f" numbers are {', '.join(numbers) or 'none'}, those of lists {', '.join(lists) or 'none'}"
            )
        return asked
    if len(lists) > 1:
        raise InputError(f"{where} has several columns of lists: {', '.join(lists)}; name one with columns=")
    found = lists or [c for c in numbers if c.lower() not in (*ID_NAMES, *LABEL_NAMES)]
    if not found:
        raise InputError(
            f"{where} has neither a column of lists nor columns of numbers; it has {', '.join(schema.names)}"
        )
    return tuple(found)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(nested and _is_number(kind.value_type))


def _dim(opened: Any, names: tuple[str, ...], file: Path) -> int:
    """Numbers per row, which a list's type or else its first row tells."""
    import pyarrow as pa

    kind = opened.schema_arrow.field(names[0]).type
    if not _is_list(kind):
        return len(names)
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    first = next(opened.iter_batches(1, columns=list(names)), None)
    return len(first.column(0)[0].as_py() or ()) if first is not None else 1


def _together(sizes: list[int], rows: int) -> Iterator[tuple[int, ...]]:
    """Neighbouring row groups joined until they hold about so many rows."""
    groups: list[int] = []
    for g, size in enumerate(sizes):
        if groups and sum(sizes[i] for i in groups) + size > rows:
            yield tuple(groups)
            groups = []
        groups.append(g)
    if sum(sizes[i] for i in groups):
        yield tuple(groups)


def _as_rows(batch: Any, columns: tuple[str, ...], file: str) -> Tensor:
    """A batch of a Parquet file as float32 (b, d)."""
    held = [batch.column(c) for c in columns]
    missing = sum(c.null_count for c in held)
    if not _is_list(held[0].type):
        if missing:
            raise InputError(
                f"{file} has {missing} missing values in the columns {', '.join(columns[:5])}; fill them in"
            )
        return torch.stack([from_dlpack(c).float() for c in held], 1)
    flat = held[0].flatten()
    if missing or flat.null_count or len(flat) % len(batch):
        raise InputError(f"{file} has lists in its column {columns[0]!r} that are missing, or of different lengths")
    return from_dlpack(flat).float().view(len(batch), -1)


def _check_finite(chunk: Tensor, start: int) -> None:
    if bool(chunk.sum().isfinite()):  # cheap; any NaN or infinity shows in the sum
        return
    rows = (~chunk.isfinite().all(1)).nonzero().squeeze(1)
    if len(rows):
        shown = ", ".join(map(str, (rows[:5] + start).tolist()))
        raise InputError(
            f"embeddings must be finite; rows {shown}{' ...' if len(rows) > 5 else ''} are NaN or infinite"
        )


def _normalised(chunk: Tensor, start: int) -> Tensor:
    lengths = chunk.norm(dim=1, keepdim=True)
    if bool((lengths == 0).any()):
        row = start + int((lengths == 0).nonzero()[0, 0])
        raise InputError(
            f"row {row} of the embeddings is zero and has no direction; drop it, or use metric='euclidean'"
        )
    return chunk / lengths
