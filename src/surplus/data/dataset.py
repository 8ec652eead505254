"""`Dataset`: examples as whole tensors, checked once; `Splits`: the train, validation and test sets of a task."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.space import generator

Kind = Literal["image", "table", "text"]


@dataclass(frozen=True)
class Dataset:
    """Examples of one split, whole, as tensors.

    `inputs`: images (n, C, H, W) uint8 or float in [0, 1]; tables (n, features) float; text (n, length) int64 tokens.
    `targets`: classes (n,) int64; regression (n,) or (n, d) float; next tokens (n, length) int64.
    `ids`: (n,) int64 or str, unique. `classes`: their names, () where targets are not classes.
    """

    inputs: Tensor
    targets: Tensor
    ids: np.ndarray
    classes: tuple[str, ...] = ()
    kind: Kind = "table"

    @classmethod
    def of(
        cls,
        inputs: Any,
        targets: Any,
        *,
        ids: Sequence[Any] | np.ndarray | None = None,
        classes: Sequence[str] = (),
        kind: Kind | None = None,
        name: str = "the data",
    ) -> Dataset:
        """Build and check a data set from arrays.

        Args:
            inputs: (n, H, W), (n, C, H, W) or (n, H, W, C) images, (n, features) tables, (n, length) integer tokens.
            targets: (n,) integer classes, float values, or tokens like the inputs.
            ids: one unique id per example; the row number when None.
            classes: class names; the integers found when () and targets are integers.
            kind: what the inputs are; read off their shape and type when None.
            name: what the error messages call the data.

        Raises:
            InputError: empty, ragged, NaN, labels out of range, one class only, repeated ids; the rows are named.
        """
        x, y = _tensor(inputs, f"the inputs of {name}"), _tensor(targets, f"the labels of {name}")
        if len(x) != len(y):
            raise InputError(f"{name} has {len(x):,} inputs and {len(y):,} labels; give one label per input")
        if len(x) == 0:
            raise InputError(f"{name} is empty; give at least two examples of two classes")
        kind = kind or _kind_of(x)
        x = _inputs(x, kind, name)
        ids = np.arange(len(x)) if ids is None else np.asarray(ids)
        _refuse_duplicates(ids, len(x), name)
        if y.is_floating_point():
            _refuse(~y.reshape(len(y), -1).isfinite().all(1), f"{name} has labels that are NaN or infinite", ids, "drop or mend them")
            return cls(x, y.float(), ids, (), kind)
        y = y.long()
        if kind == "text" and y.shape == x.shape:
            return cls(x, y, ids, tuple(classes), kind)
        return cls(x, y, ids, _classes(y, tuple(classes), ids, name), kind)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Any) -> Dataset:
        """The examples at a slice, a boolean mask or integer positions."""
        if isinstance(index, slice):
            index = torch.arange(len(self))[index]
        index = torch.as_tensor(index).cpu()
        where = index.nonzero().squeeze(1) if index.dtype == torch.bool else index
        device = where.to(self.inputs.device)
        return replace(self, inputs=self.inputs[device], targets=self.targets[device], ids=self.ids[where.numpy()])

    def with_targets(self, targets: Tensor) -> Dataset:
        """The same examples under other labels (label noise, say)."""
        return replace(self, targets=targets.to(self.targets))

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on another device."""
        if self.inputs.device == torch.device(device):
            return self
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over inputs, targets, ids and class names."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data if tensor.numel() else b"")
        digest.update(repr((self.ids.dtype.str, self.classes, self.kind)).encode())
        digest.update(self.ids.tobytes() if self.ids.dtype.kind in "iu" else "\0".join(map(str, self.ids)).encode())
        return digest.hexdigest()

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {"inputs": self.inputs.cpu().numpy(), "targets": self.targets.cpu().numpy()}

    def __getstate__(self) -> dict[str, Any]:
        """As numpy arrays, always the same ones, which joblib shares between processes through memory maps."""
        return {k: v for k, v in self.__dict__.items() if k != "_arrays"} | self._arrays

    def __setstate__(self, state: dict[str, Any]) -> None:
        import warnings

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")  # memory-mapped read-only; we never write
            tensors = {k: torch.from_numpy(state[k]) for k in ("inputs", "targets")}
        self.__dict__.update(state | tensors)


@dataclass(frozen=True)
class Splits:
    """The data of a task. `carved`: the test set was cut out of the training data because none came with it."""

    name: str
    train: Dataset
    test: Dataset
    validation: Dataset | None = None
    carved: bool = False


def split(data: Dataset, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Cut a share of the examples off, class by class where there are classes: (rest, part).

    The cut depends on the seed and on the data's own labels only. Every class keeps at least one example in the rest.
    """
    part = torch.zeros(len(data), dtype=torch.bool)
    g = generator(seed, "split", share)
    groups = [data.targets == k for k in range(len(data.classes))] if data.classes and data.targets.dim() == 1 else [
        torch.ones(len(data), dtype=torch.bool)
    ]
    for group in groups:
        rows = group.cpu().nonzero().squeeze(1)
        take = min(round(share * len(rows)), max(len(rows) - 1, 0))
        part[rows[torch.randperm(len(rows), generator=g)[:take]]] = True
    return data[~part], data[part]


def _tensor(values: Any, what: str) -> Tensor:
    """A tensor of numbers, or the error that says what the values are instead."""
    if isinstance(values, Tensor):
        return values.detach()
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.dtype == object:
        shapes = [np.shape(v) for v in values]
        odd = [i for i, s in enumerate(shapes) if s != shapes[0]]
        if odd:
            raise InputError(
                f"{what} are ragged: row 0 has shape {shapes[0]}, row {odd[0]} has {shapes[odd[0]]}"
                f" ({len(odd)} of {len(shapes)} rows differ); give every example the same shape"
            )
        raise InputError(f"{what} are not numbers; convert them first")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what} have type {array.dtype}; numbers are expected")
    if array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.int64)
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _kind_of(x: Tensor) -> Kind:
    if x.dim() >= 3:
        return "image"
    return "text" if x.dtype == torch.int64 and x.dim() == 2 and x.shape[1] > 1 and int(x.min()) >= 0 and x.max() > 255 else "table"


def _inputs(x: Tensor, kind: Kind, name: str) -> Tensor:
    if kind == "text":
        if x.is_floating_point() or x.dim() != 2 or int(x.min()) < 0:
            raise InputError(f"text inputs of {name} must be (n, length) tensors of token numbers 0, 1, ...; got {x.dtype} {tuple(x.shape)}")
        return x.long()
    if kind == "table":
        if x.dim() == 1:
            x = x.unsqueeze(1)
        x = x.float()
    else:
        x = _channels_first(x, name)
    if x.is_floating_point():
        bad = ~x.reshape(len(x), -1).isfinite().all(1)
        what = "pixels" if kind == "image" else "values"
        _refuse(bad, f"{name} has {what} that are NaN or infinite", np.arange(len(x)), "drop or mend these rows")
    return x


def _channels_first(x: Tensor, name: str) -> Tensor:
    """(n, H, W) or (n, H, W, C) or (n, C, H, W) -> (n, C, H, W), uint8 or float in [0, 1]."""
    if x.dim() == 3:
        x = x.unsqueeze(1)
    if x.dim() != 4:
        raise InputError(f"images of {name} must be (n, H, W), (n, H, W, C) or (n, C, H, W); got {tuple(x.shape)}")
    if x.shape[1] not in (1, 3, 4) and x.shape[3] in (1, 3, 4):
        x = x.permute(0, 3, 1, 2)
    if x.dtype == torch.bool:
        x = x.to(torch.uint8) * 255
    if not x.is_floating_point():
        if int(x.min()) < 0 or int(x.max()) > 255:
            raise InputError(f"integer pixels of {name} must lie in 0..255; found {int(x.min())}..{int(x.max())}")
        return x.to(torch.uint8).contiguous()
    x = x.float()
    top = float(x.nan_to_num(0, 0, 0).max())
    return (x / 255 if top > 1.5 and top <= 255 and float(x.nan_to_num(0, 0, 0).min()) >= 0 else x).contiguous()


def _classes(y: Tensor, classes: tuple[str, ...], ids: np.ndarray, name: str) -> tuple[str, ...]:
    if y.dim() != 1:
        raise InputError(f"class labels of {name} must be one number per example, shape (n,); got {tuple(y.shape)}")
    count = len(classes) or int(y.max()) + 1
    allowed = f"0..{count - 1}"
    _refuse((y < 0) | (y >= count), f"{name} has labels outside {allowed} ({count} classes)", ids, f"use class numbers {allowed}", y)
    present = y.unique()
    if len(present) < 2:
        raise InputError(f"every example of {name} has the one class {int(present[0])}; at least two classes are needed to learn or audit anything")
    if not classes and len(present) > max(2, len(y) // 2) and len(y) > 20:
        raise InputError(
            f"{name} has {len(present):,} different labels for {len(y):,} examples, which looks like ids or numbers, not classes;"
            " name the class column with --labels COLUMN, or pass float targets for regression"
        )
    return classes or tuple(str(k) for k in range(count))


def _refuse_duplicates(ids: np.ndarray, n: int, name: str) -> None:
    if len(ids) != n:
        raise InputError(f"{name} has {n:,} examples and {len(ids):,} ids; give one id per example")
    values, first, counts = np.unique(ids, return_index=True, return_counts=True)
    if len(values) < n:
        shown = ", ".join(f"{v} ({c} times)" for v, c in list(zip(values[counts > 1], counts[counts > 1], strict=True))[:5])
        raise InputError(f"{name} repeats ids: {shown}; ids must be unique, since every score is keyed by them")


def _refuse(bad: Tensor, complaint: str, ids: np.ndarray, remedy: str, values: Tensor | None = None) -> None:
    """Raise over the rows where `bad` (n,) is True, naming the first few."""
    rows = bad.cpu().nonzero().squeeze(1).tolist()
    if rows:
        shown = ", ".join(f"{r}" if values is None else f"{r} (label {int(values[r])})" for r in rows[:5])
        more = f" and {len(rows) - 5:,} more" if len(rows) > 5 else ""
        raise InputError(f"{complaint}, in {len(rows):,} of {len(ids):,} rows: {shown}{more}; {remedy}")
