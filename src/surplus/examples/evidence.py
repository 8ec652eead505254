"""What an example score may ask for, by argument name: the shape and meaning of each piece, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surplus.errors import InputError

_RECORD = "the example record of a training run: fit(task, ...).record"
_SUBSETS = "networks trained on random subsets of the data: fit(task, subsets=...)"


@dataclass(frozen=True)
class Piece:
    """One kind of evidence: its axes ("..." = any further; () = not checked), what it is, and what provides it."""

    axes: tuple[str, ...]
    what: str
    source: str

    def __str__(self) -> str:
        """Shape, meaning and source, for messages."""
        shape = f"({', '.join(self.axes)}{',' if len(self.axes) == 1 else ''}), " if self.axes else ""
        return f"{shape}{self.what}; from {self.source}"


EVIDENCE = {
    "labels": Piece(("n",), "integer classes", "the data set"),
    "inputs": Piece(("n", "..."), "the examples, or their embeddings", "the data set"),
    "error": Piece(("runs", "epochs", "n"), "length of softmax minus one-hot label", _RECORD),
    "correct": Piece(("runs", "epochs", "n"), "1 where the answer was right at that visit, 0 where wrong", _RECORD),
    "confidence": Piece(("runs", "epochs", "n"), "softmax probability of the label", _RECORD),
    "margin": Piece(("runs", "epochs", "n"), "logit of the label minus the largest other logit", _RECORD),
    "loss": Piece(("runs", "epochs", "n"), "training loss", _RECORD),
    "hits": Piece(("runs", "n"), "1 where the finished network is right, on all examples", _SUBSETS),
    "trained_on": Piece(("runs", "n"), "whether the run had the example in its training set", _SUBSETS),
    "share": Piece(("runs",), "share of the data that the run trained on", _SUBSETS),
    "probabilities": Piece(("runs", "n", "classes"), "predicted class probabilities", "predict(task, thetas, data)"),
    "space": Piece((), "the WeightSpace of the network", "the task: task.space"),
    "thetas": Piece(("runs", "P"), "weights at the point where gradients are taken", "a training run: run.theta"),
    "buffers": Piece(("runs", "..."), "their batch-norm statistics, by name", "space.statistics(theta, batches)"),
}


def check(**given: Tensor) -> None:
    """Refuse evidence of the wrong shape, and pieces whose numbers of runs or examples differ.

    Raises:
        InputError: names the piece, the shape expected and the shape that came.
    """
    sizes: dict[str, tuple[str, int]] = {}
    for name, value in given.items():
        _check_shape(name, value)
        for axis, size in zip(EVIDENCE[name].axes, value.shape, strict=False):
            first, expected = sizes.setdefault(axis, (name, size))
            if axis != "..." and size != expected:
                raise InputError(f"{name} has {axis} = {size} but {first} has {axis} = {expected}; make them agree")


def _check_shape(name: str, value: Tensor) -> None:
    """Number of axes, no empty axis, integer labels."""
    axes = EVIDENCE[name].axes
    if value.ndim != len(axes) and not ("..." in axes and value.ndim > len(axes)):
        raise InputError(f"{name} must have shape {EVIDENCE[name]}; got shape {tuple(value.shape)}")
    if 0 in value.shape:
        raise InputError(f"{name} is empty: its shape is {tuple(value.shape)}")
    if name == "labels" and (value.is_floating_point() or value.dtype == torch.bool):
        raise InputError(f"labels must be integer classes; got {value.dtype}. Convert them with labels.long()")


def real(values: Tensor) -> Tensor:
    """The same numbers as floats: bytes and booleans become the default float type, floats stay as they are."""
    return values if values.is_floating_point() else values.to(torch.get_default_dtype())
