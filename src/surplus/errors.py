"""The one error that a user of surplus is meant to read.

Every message says what was given, what was expected and how to mend it. The command line prints it without a
traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


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


def check_folder(folder: Path) -> None:
    """Refuse an output path that cannot become a folder, before any work is done for it.

    Raises:
        InputError: the path is a file, or may not be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file; --out needs a folder, or a name that is free")
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{str(above)!r} is not a folder that may be written to; choose another --out")


def settings_from(error: Any) -> InputError:
    """The error for settings that pydantic refused, one clause per setting."""
    clauses = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}, got {e['input']!r}" for e in error.errors()]
    return InputError(f"these settings cannot be used: {'; '.join(clauses)}")
