"""The one error that a user of surplus is meant to read.

Every message says what was given, what was expected and how to mend it. The command line prints it without a
traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used; the message teaches the rule."""


class MissingExtra(InputError, ImportError):
    """An optional library is needed and not installed; the message names the extra."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}, which is not installed. Install it with: pip install 'surplus[{extra}]'")


class StoreError(InputError):
    """A file in the run store is not what its manifest says it is."""


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is in no table, with the nearest names that are."""
    table = sorted(known)
    near = difflib.get_close_matches(str(name), table) or table
    return InputError(f"no {kind} is called {str(name)!r}; did you mean {' or '.join(near)}?")
