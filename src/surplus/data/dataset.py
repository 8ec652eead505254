"""`Dataset`: examples as whole tensors, checked once; `Splits`: the train, validation and test sets of a task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.space import generator

Kind = Literal["image", "table", "text"]
_BYTE_SCALE = 64
"""Float pixels that reach beyond this are taken to run from 0 to 255: no usual scale between 1 and 255 does."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of one split, whole, as tensors; equal only to itself, `fingerprint` tells whether the content is.

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
            ids: one unique id per example, whole numbers or words; the row number when None.
            classes: class names; 0, 1, ... up to the largest target when () and targets are integers.
            kind: what the inputs are. When None: images where an input has two axes or three, text where inputs and
                targets are integers of one shape (n, length), a table otherwise; say "text" for texts with a class.
            name: what the error messages call the data.

        Raises:
            InputError: empty, ragged, NaN, labels out of range, one class only, repeated ids; the rows are named.
        """
        x, y = _tensor(inputs, f"the inputs of {name}"), _tensor(targets, f"the labels of {name}")
        if len(x) != len(y):
            raise InputError(f"{name} has {len(x):,} inputs and {len(y):,} labels; give one label per input")
        if x.numel() == 0:
            raise InputError(f"{name} is empty; give at least two examples of two classes")
        kind = kind or _kind_of(x, y)
        x, ids = _inputs(x, kind, name), _ids(ids, len(x), name)
        if y.is_floating_point():
            bad = ~y.reshape(len(y), -1).isfinite().all(1)
            _refuse(bad, f"{name} has labels that are NaN or infinite", "drop or mend them")
            return cls(x, y.float(), ids, (), kind)
        y = y.long()
        if kind == "text" and y.shape == x.shape:
            _refuse((y < 0).any(1), f"{name} has target tokens below 0", "number tokens 0, 1, ...")
            return cls(x, y, ids, tuple(classes), kind)
        y = y.squeeze(1) if y.dim() == 2 and y.shape[1] == 1 else y
        return cls(x, y, ids, _classes(y, tuple(classes), name), kind)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Any) -> Dataset:
        """The examples at a slice, a boolean mask or integer positions; one position gives a data set of one."""
        index = index.cpu().numpy() if isinstance(index, Tensor) else index
        where = np.atleast_1d(np.arange(len(self))[index])
        rows = torch.from_numpy(np.ascontiguousarray(where)).to(self.inputs.device)
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows], ids=self.ids[where])

    def with_targets(self, targets: Tensor) -> Dataset:
        """The same examples under other labels (label noise, say)."""
        return replace(self, targets=targets.to(self.targets))

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on another device."""
        wanted, here = torch.device(device), self.inputs.device
        if wanted.type == here.type and wanted.index in (None, here.index):
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
        digest.update(repr((self.ids.dtype.kind, self.classes, self.kind)).encode())
        digest.update(self.ids.tobytes() if self.ids.dtype.kind == "i" else repr(self.ids.tolist()).encode())
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
    groups = (
        [data.targets == k for k in range(len(data.classes))]
        if data.classes and data.targets.dim() == 1
        else [torch.ones(len(data), dtype=torch.bool)]
    )
    for group in groups:
        rows = group.cpu().nonzero().squeeze(1)
        take = min(round(share * len(rows)), max(len(rows) - 1, 0))
        part[rows[torch.randperm(len(rows), generator=g)[:take]]] = True
    return data[~part], data[part]


def _tensor(values: Any, what: str) -> Tensor:
    """A tensor of numbers, examples along its first axis, or the error that says what the values are instead."""
    tensor = values.detach() if isinstance(values, Tensor) else torch.from_numpy(_array(values, what))
    if tensor.is_complex():
        raise InputError(f"{what} are complex numbers; give real ones, the parts side by side")
    if tensor.dim() == 0:
        raise InputError(f"{what} are the single value {tensor.item()}; give an array with one row per example")
    return tensor.long() if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64) else tensor


def _array(values: Any, what: str) -> np.ndarray:
    """A writable numeric array of a type that torch takes."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of several shapes
        array = np.empty(0, dtype=object)
    if array.dtype == object:
        _refuse_ragged(values, what)
    if array.dtype.kind not in "biufc":
        raise InputError(f"{what} have type {array.dtype}; numbers are expected, so convert them first")
    native = np.dtype(np.float64) if array.dtype.char == "g" else array.dtype.newbyteorder("=")  # g: long double
    return np.require(array, native, ["C", "W"])


def _refuse_ragged(values: Any, what: str) -> None:
    shapes = [np.shape(v) for v in values]
    odd = [i for i, s in enumerate(shapes) if s != shapes[0]]
    if odd:
        raise InputError(
            f"{what} are ragged: row 0 has shape {shapes[0]}, row {odd[0]} has {shapes[odd[0]]}"
            f" ({len(odd)} of {len(shapes)} rows differ); give every example the same shape"
        )


def _kind_of(x: Tensor, y: Tensor) -> Kind:
    if x.dim() >= 3:
        return "image"
    tokens = x.dim() == 2 and x.shape == y.shape and not x.is_floating_point() and not y.is_floating_point()
    return "text" if tokens and x.shape[1] > 1 else "table"


def _inputs(x: Tensor, kind: Kind, name: str) -> Tensor:
    if kind == "text":
        if x.is_floating_point() or x.dim() != 2 or int(x.min()) < 0:
            raise InputError(
                f"text inputs of {name} must be (n, length) tensors of token numbers 0, 1, ...;"
                f" got {x.dtype} {tuple(x.shape)}"
            )
        return x.long()
    if kind == "table":
        if x.dim() > 2:
            raise InputError(f"a table of {name} must be (n, features); got {tuple(x.shape)}")
        x = x.float().reshape(len(x), -1)
    else:
        x = _channels_first(x, name)
    if x.is_floating_point():
        bad = ~x.reshape(len(x), -1).isfinite().all(1)
        what = "pixels" if kind == "image" else "values"
        _refuse(bad, f"{name} has {what} that are NaN, infinite or beyond single precision", "drop or mend these rows")
    return x


def _channels_first(x: Tensor, name: str) -> Tensor:
    """(n, H, W) or (n, H, W, C) or (n, C, H, W) -> (n, C, H, W), uint8 or float in [0, 1]."""
    if x.dim() == 3:
        x = x.unsqueeze(1)
    if x.dim() != 4:
        raise InputError(f"images of {name} must be (n, H, W), (n, H, W, C) or (n, C, H, W); got {tuple(x.shape)}")
    if x.shape[1] not in (1, 3) and x.shape[3] in (1, 3, 4):
        x = x.permute(0, 3, 1, 2)
    if x.dtype == torch.bool:
        return (x.to(torch.uint8) * 255).contiguous()
    if x.is_floating_point():
        return _unit(x.float()).contiguous()
    if x.dtype == torch.uint8:
        return x.contiguous()
    low, high = int(x.min()), int(x.max())
    if low < 0 or high > 255:
        raise InputError(
            f"integer pixels of {name} must lie in 0..255; found {low}..{high}. Rescale them to bytes, or give floats"
        )
    return x.to(torch.uint8).contiguous()


def _unit(x: Tensor) -> Tensor:
    """Float pixels on the scale of bytes to bytes, or at least to [0, 1]; others stay as they are."""
    low, high = x.aminmax()
    if not (low >= 0 and 1 < high <= 255):  # NaN fails this too
        return x
    if bool((x == x.round()).all()):
        return x.to(torch.uint8)
    return x / 255 if high > _BYTE_SCALE else x


def _classes(y: Tensor, classes: tuple[str, ...], name: str) -> tuple[str, ...]:
    if y.dim() != 1:
        raise InputError(
            f"class labels of {name} must be one number per example, shape (n,); got {tuple(y.shape)}."
            " Of one-hot rows, give the position of the one"
        )
    count = len(classes) or int(y.max()) + 1
    allowed = f"0..{count - 1}"
    outside = (y < 0) | (y >= count)
    _refuse(outside, f"{name} has labels outside {allowed} ({count:,} classes)", f"use class numbers {allowed}", y)
    present = y.unique()
    if len(present) < 2:
        only = repr(classes[int(present[0])]) if classes else int(present[0])
        raise InputError(
            f"every example of {name} has the one class {only};"
            " at least two classes are needed to learn or audit anything"
        )
    if classes:
        return classes
    if len(present) > max(2, len(y) // 2) and len(y) > 20:
        raise InputError(
            f"{name} has {len(present):,} different labels for {len(y):,} examples, which looks like ids or numbers,"
            " not classes; give class numbers, or floats for regression"
        )
    if count > max(1000, len(y)):
        raise InputError(
            f"{name} has labels up to {count - 1:,} for {len(y):,} examples; number the classes 0, 1, 2, ..."
        )
    return tuple(str(k) for k in range(count))


def _ids(ids: Sequence[Any] | np.ndarray | None, n: int, name: str) -> np.ndarray:
    """Unique ids as int64 or as words."""
    if ids is None:
        return np.arange(n)
    values = np.asarray(ids)
    if values.shape != (n,):
        raise InputError(f"{name} has {n:,} examples and ids of shape {values.shape}; give one id per example")
    kind = values.dtype.kind
    if kind in "Of":
        missing = [v is None or v == "" or v != v for v in values]  # NaN is not itself
        _refuse(torch.tensor(missing), f"{name} has examples without an id", "fill the ids, or leave them out")
    whole = kind in "iu" or (kind == "f" and bool((values == values.round()).all()))
    if whole and abs(values).max() < 2**63:
        values = values.astype(np.int64)
    else:
        values = np.char.decode(values, "utf-8", "replace") if kind == "S" else values.astype(str)
    _refuse_duplicates(values, name)
    return values


def _refuse_duplicates(ids: np.ndarray, name: str) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        shown = some(f"{v} ({c} times)" for v, c in zip(values, counts, strict=True) if c > 1)
        raise InputError(
            f"{name} repeats ids: {shown}; ids must be unique, since every score is keyed by them."
            " Mend the ids, or name another column"
        )


def _refuse(bad: Tensor, complaint: str, remedy: str, values: Tensor | None = None) -> None:
    """Raise over the rows where `bad` (n,) is True, naming the first few."""
    rows = bad.cpu().nonzero().squeeze(1).tolist()
    if rows:
        shown = some(rows if values is None else (f"{r} (label {int(values[r])})" for r in rows))
        raise InputError(f"{complaint}, in {len(rows):,} of {len(bad):,} rows: {shown}; {remedy}")


def some(values: Iterable[Any]) -> str:
    """The first five, and how many more, for a message."""
    shown = [str(v) for v in values]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5:,} more" if len(shown) > 5 else "")
