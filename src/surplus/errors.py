"""The one error that a user of surplus is meant to read.

Every message says what was given, what was expected and how to mend it. The command line prints it without a
traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

S = TypeVar("S")


class InputError(ValueError):
    """Something the user gave cannot be used; the message teaches the rule."""


class MissingExtra(InputError, ImportError):
    """An optional library is needed and not installed; the message names the extra."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed. Install it with: pip install 'surplus[{extra}]'"
        )


class StoreError(InputError):
    """A file in the run store is not what its manifest says it is."""


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is in no table, with the nearest names that are."""
    table = sorted(known)
    near = difflib.get_close_matches(str(name), table) or table
    return InputError(f"no {kind} is called {str(name)!r}; did you mean {' or '.join(near)}?")


def check_folder(folder: Path, name: str = "--out") -> None:
    """Refuse an output path that cannot become a folder, before any work is done for it.

    Args:
        folder: the path.
        name: the option or variable that it came from.

    Raises:
        InputError: the path is a file, or may not be written to.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{str(folder)!r} is a file; {name} needs a folder, or a name that is free")
        above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        with TemporaryDirectory(prefix=".surplus-", dir=above):  # asking for permissions is not the same as having them
            pass
    except OSError as error:
        raise InputError(
            f"{name} {str(folder)!r} cannot be made or written to ({error.strerror}); choose another folder"
        ) from None


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or does not find here.

    Raises:
        InputError: there is no such device.
    """
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InputError(f"device {device!r} is none that torch knows; use cpu, cuda, cuda:1 or mps") from None
    if kind not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {device!r} cannot train networks here; use cpu, cuda, cuda:1 or mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for, but torch sees no CUDA device here; use cpu")
    if kind == "cuda" and (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {device!r} was asked for, but torch sees {torch.cuda.device_count()}; use cuda or cpu"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device {device!r} was asked for, but torch sees no Apple GPU here; use cpu")


def settings_of(kind: type[S], **given: Any) -> S:
    """Settings of a pydantic model from what a user gave.

    Raises:
        InputError: a value outside its bounds, or a setting that there is not.
    """
    from pydantic import ValidationError

    try:
        return kind(**given)
    except ValidationError as error:
        raise settings_from(error) from None


def settings_from(error: Any) -> InputError:
    """The error for settings that pydantic refused, one clause per setting."""
    return InputError(f"these settings cannot be used: {'; '.join(map(_clause, error.errors()))}")


def _clause(refusal: Any) -> str:
    name = ".".join(map(str, refusal["loc"]))
    if refusal["type"] == "value_error":
        return f"{name}: {refusal['ctx']['error']}"  # our own words, which say what was given
    return f"{name}: {refusal['msg'].lower()}, got {refusal['input']!r}"
