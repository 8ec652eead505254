"""The catalogue: every method registers itself where it is defined.

    @method("example score", paper="Paul, Ganguli & Dziugaite 2021, arXiv 2107.07075")
    def el2n(logits, labels): ...

`surplus list`, the documentation's catalogue and the common tests all read this one table. A package of your own joins
it through an entry point in the group `surplus.methods` that names a module to import.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, TypeVar

from surplus.errors import unknown

KINDS = (
    "task",
    "network",
    "corruption",
    "reparametrisation",
    "training rule",
    "example score",
    "selection",
    "condensation",
    "query strategy",
    "weight score",
    "pruning schedule",
    "structured pruning",
    "measure",
    "prediction",
    "study",
)

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Method:
    """One row of the catalogue."""

    name: str
    kind: str
    paper: str
    fn: Callable[..., Any]
    traits: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.fn) or "").split("\n", 1)[0]


_METHODS: dict[tuple[str, str], Method] = {}


def method(kind: str, *, paper: str = "", name: str | None = None, **traits: Any) -> Callable[[T], T]:
    """Put a function or class in the catalogue under its own name (underscores become hyphens).

    Args:
        kind: one of `KINDS`.
        paper: where the method was published, for people: authors, year, identifier; "" for a plain tool.
        name: another name than the function's.
        traits: facts that callers filter by (an example score's `high="hard"`, say).
    """
    if kind not in KINDS:
        raise unknown("kind of method", kind, KINDS)

    def register(fn: T) -> T:
        label = name or fn.__name__.replace("_", "-").lower()
        other = _METHODS.get((kind, label))
        if other is not None and (other.fn.__module__, other.fn.__qualname__) != (fn.__module__, fn.__qualname__):
            raise ValueError(
                f"two methods of kind {kind!r} are called {label!r}: {other.fn.__module__} and {fn.__module__}"
            )
        _METHODS[kind, label] = Method(label, kind, paper, fn, traits)
        return fn

    return register


def load_all() -> None:
    """Import every module of surplus, and every plug-in, so that all methods have registered."""
    import surplus

    for module in pkgutil.walk_packages(surplus.__path__, "surplus."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for plugin in entry_points(group="surplus.methods"):
        plugin.load()


def methods(kind: str | None = None) -> list[Method]:
    """All registered methods, or those of one kind, sorted by kind and name."""
    load_all()
    rows = [m for m in _METHODS.values() if kind in (None, m.kind)]
    return sorted(rows, key=lambda m: (KINDS.index(m.kind), m.name))


def registered(kind: str, name: str) -> bool:
    """Whether a method is in the table already, without importing anything further."""
    return (kind, name.replace("_", "-").lower()) in _METHODS


def find(kind: str, name: str) -> Method:
    """The method of this kind and name.

    Raises:
        InputError: no such method; the message offers the nearest names.
    """
    label = name.replace("_", "-").lower()
    if (kind, label) not in _METHODS:
        load_all()
    try:
        return _METHODS[kind, label]
    except KeyError:
        raise unknown(kind, name, [n for k, n in _METHODS if k == kind]) from None
