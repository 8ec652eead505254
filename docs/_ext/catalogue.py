"""Writes the catalogue of methods from the registry, and one page per room from its docstrings."""

from __future__ import annotations

import pkgutil
import tomllib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pages import automodule, cell, table, toctree, write_all

if TYPE_CHECKING:
    from surplus.registry import Method


def plural(kind: str) -> str:
    return kind.removesuffix("y") + "ies" if kind.endswith("y") else kind + "s"


def catalogue_page(methods: list[Method]) -> str:
    """All methods by kind: name, what it does, where it was published, where it is."""
    lines = ["# Catalogue of methods\n", f"{len(methods)} methods; the command `surplus list` prints the same table.\n"]
    for kind in dict.fromkeys(method.kind for method in methods):
        rows = [
            [f"`{m.name}`", cell(m.summary), cell(m.paper), f"`{m.fn.__module__}`"] for m in methods if m.kind == kind
        ]
        lines += [f"## {plural(kind).capitalize()}\n", table(["name", "what it is", "published", "module"], rows)]
    return "\n".join(lines)


def rooms(root: Path) -> list[str]:
    """The rooms that are there, ground floor first, in the order that the import rules give."""
    import surplus

    settings = tomllib.loads((root / "pyproject.toml").read_text())
    layers = [layer.strip("()") for layer in settings["tool"]["importlinter"]["contracts"][0]["layers"]]
    there = {module.name for module in pkgutil.iter_modules(surplus.__path__)}
    return [room for room in reversed(layers) if room in there]


def room_page(room: str) -> str:
    """A room's docstring, then each of its modules, those of sub-rooms included, with what it defines."""
    top = f"surplus.{room}"
    found = list(pkgutil.walk_packages(getattr(import_module(top), "__path__", []), f"{top}."))
    lines = [f"# {room}\n", automodule(top, *(["no-members"] if found else []))]
    for module in sorted(found, key=lambda m: (m.name.count("."), m.name)):
        if not module.name.rpartition(".")[2].startswith("_"):
            options = ["no-members"] if module.ispkg else []
            lines += [f"## {module.name.removeprefix('surplus.')}\n", automodule(module.name, *options)]
    return "\n".join(lines)


def write(app: Any) -> None:
    from surplus.registry import methods

    out = Path(app.srcdir) / "generated"
    found = rooms(Path(app.srcdir).parent)
    listed = table(["room", "what it holds"], [[f"[{room}]({room}.md)", first_line(room)] for room in found])
    index = "# Rooms\n\nA room imports only from rooms above it in this table.\n\n" + listed + "\n" + toctree(found)
    write_all(out / "rooms", {"index.md": index} | {f"{room}.md": room_page(room) for room in found})
    write_all(out, {"catalogue.md": catalogue_page(methods())})


def first_line(room: str) -> str:
    return cell((import_module(f"surplus.{room}").__doc__ or "").strip().split("\n")[0])


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
