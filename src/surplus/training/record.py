"""The example record: what training says of every example, at every visit.

For each replica, epoch and example: loss, correct, margin, confidence, error norm. Kept columnar on disk (Parquet),
written as training goes, so that any score of it can be computed later without training again. The same recorder hangs
into a user's own loop:

    with ExampleRecord(n=len(data), folder="record") as record:
        for epoch in range(epochs):
            for index, x, y in batches:
                logits = model(x)
                record.update(index, logits, y)
                ...
            record.end_epoch()
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.tasks import classification_record
from surplus.training.store import write_atomically

_PENDING = 2_000_000
"""Logits kept before they are reduced, in numbers: reducing many batches at once is what makes recording cheap."""
_PLACE = ("replica", "epoch", "example")
"""Columns that say where a row of the record belongs."""
_CHUNK = 4096
"""Visits reduced at a time: what fits a processor's cache."""
_FLUSH_NUMBERS, _FLUSH_SECONDS = 20_000_000, 5.0
"""Closed epochs go to disk once they hold so many numbers, or so long after the last ones."""


class ExampleRecord:
    """Records every visit of every example; an epoch's last visit counts.

    Args:
        n: how many examples the data have; indices lie in 0..n-1.
        folder: where the Parquet files go; everything stays in memory when None.
        replicas: how many networks train at once.
        reduce: (outputs, targets) -> named numbers per example; classification's five by default.
        write: takes a file name and its content; writes into `folder` atomically by default.
    """

    def __init__(
        self,
        n: int,
        folder: str | Path | None = None,
        *,
        replicas: int = 1,
        reduce: Callable[[Tensor, Tensor], dict[str, Tensor]] = classification_record,
        write: Callable[[str, bytes], None] | None = None,
    ) -> None:
        if n < 1:
            raise InputError(f"a record needs at least one example; got n = {n}")
        self.n, self.replicas, self.reduce = n, replicas, reduce
        self.folder = Path(folder) if folder is not None else None
        self._write = write or (None if self.folder is None else self._to_folder)
        self.epoch = 0
        self.closed: list[dict[str, Tensor]] = []
        """Epochs that are complete and not on disk yet."""
        self._flushed = time.monotonic()
        self._begun = False
        self._pending: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        self._waiting = 0
        self._values: dict[str, Tensor] = {}

    def __enter__(self) -> ExampleRecord:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def update(self, index: Tensor, outputs: Tensor, targets: Tensor, trained: Tensor | None = None) -> None:
        """Note one batch: index (B,), outputs (B, classes), targets (B,); several replicas have a leading K each.

        Args:
            index: (B,) or (K, B) positions of the examples.
            outputs: (B, ...) or (K, B, ...).
            targets: (B, ...) or (K, B, ...).
            trained: booleans like `index`; an example that was in the batch but not trained on is no visit.

        Raises:
            InputError: shapes that do not fit together, or indices outside 0..n-1; found when batches are reduced, so
                up to an epoch later.
        """
        self._pending.append((index, outputs.detach(), targets, trained))
        self._waiting += outputs.numel()
        if self._waiting > _PENDING:
            self._reduce()

    def end_epoch(self) -> None:
        """Close the epoch, and start the next."""
        self._reduce()
        if not self._values:
            raise InputError("an epoch ended before any batch was recorded; call update(index, logits, targets) in it")
        self.closed.append(self._values)
        self._values = {}
        self.epoch += 1
        numbers = len(self.closed) * sum(v.numel() for v in self.closed[0].values())
        if numbers > _FLUSH_NUMBERS or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the closed epochs to disk, as one file named after the first of them."""
        if self.closed and self._write is not None:
            first = self.epoch - len(self.closed)
            self._drop_from(first)
            self._write(f"epochs-{first:05d}.parquet", self._table(first))
            self.closed = []
        self._flushed = time.monotonic()

    def _to_folder(self, name: str, content: bytes) -> None:
        assert self.folder is not None
        write_atomically(self.folder / name, content)

    def _drop_from(self, epoch: int) -> None:
        """Before the first file: remove those that an earlier training left in the folder from this epoch on."""
        for file in self.folder.glob("epochs-*.parquet") if self.folder is not None and not self._begun else ():
            if int(file.stem.removeprefix("epochs-")) >= epoch:
                file.unlink()
        self._begun = True

    def arrays(self) -> dict[str, Tensor]:
        """Everything so far by name, each (replicas, epochs, n) with NaN where an example was not visited."""
        if self.folder is not None:
            self.flush()
            return read_record(self.folder, self.n, self.replicas)
        return {k: torch.stack([e[k] for e in self.closed], dim=1) for k in self.closed[0]} if self.closed else {}

    def state(self) -> dict[str, Tensor]:
        """The open epoch, for a checkpoint, as (replicas, n); closed ones go to disk first, or else along with it."""
        self._reduce()
        self.flush()
        closed = (
            {f"closed.{k}": torch.stack([e[k] for e in self.closed]) for k in self.closed[0]} if self.closed else {}
        )
        return {**self._values, **closed, "epoch": torch.tensor(self.epoch)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.epoch = int(state["epoch"])
        self._pending, self._waiting = [], 0
        closed = {k.removeprefix("closed."): v for k, v in state.items() if k.startswith("closed.")}
        self.closed = [dict(zip(closed, epoch, strict=True)) for epoch in zip(*closed.values(), strict=True)]
        self._values = {k: v.clone() for k, v in state.items() if k != "epoch" and not k.startswith("closed.")}

    def _reduce(self) -> None:
        """Turn the pending batches into numbers per example, in one vectorised pass."""
        if not self._pending:
            return
        k = self.replicas
        self._check()
        index = torch.cat([i.reshape(k, -1) for i, *_ in self._pending], dim=1)  # (K, m)
        outputs = torch.cat([o.reshape(k, i.numel() // k, *o.shape[i.dim() :]) for i, o, *_ in self._pending], dim=1)
        targets = torch.cat([t.reshape(k, i.numel() // k, *t.shape[i.dim() :]) for i, _, t, _ in self._pending], dim=1)
        trained = [torch.ones_like(i, dtype=torch.bool) if m is None else m for i, _, _, m in self._pending]
        seen = torch.cat([m.reshape(k, -1) for m in trained], dim=1).cpu()
        self._pending, self._waiting = [], 0
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= self.n):
            raise InputError(
                f"the record is of {self.n} examples, so indices lie in 0..{self.n - 1};"
                f" update was given indices from {int(index.min())} to {int(index.max())}"
            )
        chunks = zip(outputs.flatten(0, 1).split(_CHUNK), targets.flatten(0, 1).split(_CHUNK), strict=True)
        parts = [self.reduce(o.float(), t) for o, t in chunks]
        for name in parts[0]:
            values = torch.cat([part[name] for part in parts]).view(k, -1).float().cpu()
            values = torch.where(seen, values, torch.nan)
            if name not in self._values:
                self._values[name] = torch.full((k, self.n), torch.nan)
            self._values[name].scatter_(1, index.cpu(), values)

    def _check(self) -> None:
        """Refuse batches whose tensors do not fit together."""
        for index, outputs, targets, _ in self._pending:
            shape = tuple(index.shape)
            lead = shape[:1] == (self.replicas,) if len(shape) == 2 else len(shape) == 1 and self.replicas == 1
            others = [tuple(t.shape[: len(shape)]) for t in (outputs, targets)]
            if not lead or others != [shape, shape]:
                self._pending, self._waiting = [], 0
                given = ", ".join(str(tuple(t.shape)) for t in (index, outputs, targets))
                many = f", each with a leading {self.replicas} for the replicas" if self.replicas > 1 else ""
                raise InputError(
                    f"update was given index, outputs and targets of shapes {given};"
                    f" expected are (B,), (B, ...) and (B, ...){many}"
                )

    def _table(self, first: int) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        values = {name: torch.stack([e[name] for e in self.closed]) for name in self.closed[0]}  # (epochs, K, n)
        seen = ~torch.stack([v.isnan() for v in values.values()]).all(0)  # a diverged replica still has some numbers
        epoch, replica, example = seen.nonzero(as_tuple=True)
        columns = {
            "epoch": (epoch + first).int().numpy(),
            "replica": replica.int().numpy(),
            "example": example.numpy(),
            **{name: v[seen].numpy() for name, v in values.items()},
        }
        buffer = io.BytesIO()
        pq.write_table(
            pa.table(columns), buffer, compression="zstd", compression_level=1, write_page_checksum=True,
            use_dictionary=["epoch", "replica"],
        )  # fmt: skip
        return buffer.getvalue()


def read_record(folder: str | Path, n: int | None = None, replicas: int | None = None) -> dict[str, Tensor]:
    """A record's files as arrays by name, each (replicas, epochs, n) with NaN where an example was not visited.

    Raises:
        InputError: the folder holds no record, or a damaged file.
    """
    files = sorted(Path(folder).glob("epochs-*.parquet"))
    if not files:
        raise InputError(f"{str(folder)!r} holds no example record (files epochs-00000.parquet, ...)")
    return record_arrays(files, n, replicas)


def record_arrays(
    files: Sequence[Path | BinaryIO], n: int | None = None, replicas: int | None = None
) -> dict[str, Tensor]:
    """What `read_record` gives, from files that are listed or already open."""
    tables = [_read_table(f) for f in files]
    names = [c for c in tables[0].column_names if c not in _PLACE]
    if any(set(t.column_names) != {*_PLACE, *names} for t in tables):
        raise InputError(
            f"the files of a record hold the same columns; the first has {', '.join(names)}, others do not"
        )
    top = {c: max((_top(t.column(c), c) for t in tables if len(t)), default=0) for c in _PLACE}
    n, replicas, epochs = n or top["example"], replicas or top["replica"], top["epoch"]
    if top["example"] > n or top["replica"] > replicas:
        raise InputError(
            f"the record is of {top['example']} examples and {top['replica']} replicas or more; expected are {n} and"
            f" {replicas}"
        )
    arrays = {name: np.full((replicas, epochs, n), np.nan, dtype=np.float32) for name in names}
    for table in tables:
        where = tuple(table.column(c).to_numpy() for c in _PLACE)
        for name in names:
            arrays[name][where] = table.column(name).to_numpy()
    return {name: torch.from_numpy(a) for name, a in arrays.items()}


def _read_table(file: Path | BinaryIO) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = str(file) if isinstance(file, Path) else "a file of the record"
    try:
        table = pq.read_table(file, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{name} is damaged and cannot be read: {error}") from None
    lacking = [c for c in _PLACE if c not in table.column_names or not pa.types.is_integer(table.schema.field(c).type)]
    if lacking:
        raise InputError(
            f"{name} is no file of an example record: it has no column of whole numbers called {', '.join(lacking)};"
            f" its columns are {', '.join(table.column_names)}"
        )
    return table


def _top(column: Any, name: str) -> int:
    """One more than the largest number of a column."""
    values = column.to_numpy()
    if values.dtype.kind not in "iu" or values.min() < 0:
        raise InputError(f"the record has negative or missing numbers in its column {name}; they count from 0")
    return int(values.max()) + 1
