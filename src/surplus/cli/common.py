"""What the commands share: reading a task, telling what goes on, printing tables. No command is here."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from surplus.errors import InputError

if TYPE_CHECKING:
    from surplus.tasks import Task

_STARTED = time.monotonic()


def started(at: float | None = None) -> float:
    """When this command began, on the monotonic clock: what a budget counts from."""
    global _STARTED
    _STARTED = _STARTED if at is None else at
    return _STARTED


def examples(*commands: str) -> str:
    """How a command is used, below its help."""
    return "Examples:\n\n" + "".join(f"    {c}\n" for c in commands)


def tell(say: Console, status: Any, text: str) -> None:
    """What is going on: in place on a terminal, a line each elsewhere."""
    elapsed = time.monotonic() - started()
    if say.is_terminal:
        status.update(f"{text} [dim]({elapsed:.0f} s)[/dim]")
    elif ":" not in text:
        say.print(f"{elapsed:6.1f} s  {text}")


def read_task(source: str, network: str | None, labels: str | None, ids: str | None, recipe: str | None) -> Task:
    """The task that a command names: data, network, recipe."""
    from surplus.tasks import load, parse_recipe

    task = load(source, _network(network), labels=labels, ids=ids)
    return task.with_recipe(**parse_recipe(recipe)) if recipe else task


def _network(text: str | None) -> str | Callable[..., Any] | None:
    """A network's name with its options as it is, or the function that `file.py:function` names.

    Raises:
        InputError: there is no such file, or it has no such function.
    """
    found = re.fullmatch(r"(.+\.py):(\w+)", text or "")
    if text is not None and text.endswith(".py"):
        raise InputError(f"--network {text} names a file; add the function that builds the module: {text}:make")
    if not found:
        return text
    import importlib.util

    from cloudpickle import register_pickle_by_value

    file = Path(found[1])
    if not file.is_file():
        raise InputError(f"--network {text} names the file {file}, which is not there")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))  # for what the file imports from its own folder
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
    register_pickle_by_value(module)  # other processes cannot import it by its name
    make: Callable[..., Any] | None = getattr(module, found[2], None)
    if not callable(make):
        raise InputError(f"{file} has no function {found[2]}; --network file.py:function builds the module")
    _try_out(make, f"{file}:{found[2]}")
    return make


def _try_out(make: Callable[..., Any], name: str) -> None:
    """Refuse a function that fails, or gives no module."""
    from torch import nn

    try:
        made = make()
    except Exception as error:
        raise InputError(f"{name} fails: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{name} returned {type(made).__name__}; a torch.nn.Module is expected")


def print_rows(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """A plain table of some columns."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for i, name in enumerate(columns):
        table.add_column(name.replace("_", " ").strip(), overflow="fold", no_wrap=not i)
    for row in rows:
        table.add_row(*(escape(cell(row.get(name))) for name in columns))
    Console(highlight=False).print(table)


def range_of(row: dict[str, Any], low: str, high: str) -> str:
    """An interval as text; empty where it is unknown."""
    return f"{row[low]:.3f} to {row[high]:.3f}" if row.get(low) is not None and row.get(high) is not None else ""


def say(text: str) -> None:
    """A paragraph on the standard output."""
    Console(highlight=False, soft_wrap=True).print(text, markup=False)


def cell(value: object) -> str:
    """A value as text."""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def files_in(folder: Path) -> str:
    """The files of a folder, by name."""
    return ", ".join(str(folder / p.name) for p in sorted(folder.iterdir()) if not p.name.startswith("."))
