"""What the two extensions that write pages share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def cell(text: object) -> str:
    """Text for a cell of a Markdown table; code spans stay, every other sign is literal."""
    pieces = re.split(r"(`[^`]+`)", " ".join(str(text).split()))
    return "".join(
        piece.replace("|", "\\|") if i % 2 else re.sub(r"([\\|*_\[\]<>`])", r"\\\1", piece)
        for i, piece in enumerate(pieces)
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; its cells are Markdown already."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def toctree(entries: Iterable[str]) -> str:
    """A hidden table of contents, or nothing where there is nothing to list."""
    listed = "\n".join(entries)
    return f"```{{toctree}}\n:hidden:\n\n{listed}\n```\n" if listed else ""


def automodule(module: str, *options: str) -> str:
    """The module's docstring and, unless the options say otherwise, what it defines."""
    return "\n".join(["```{eval-rst}", f".. automodule:: {module}", *(f"   :{name}:" for name in options), "```\n"])


def write_all(folder: Path, pages: dict[str, str]) -> None:
    """Make `folder` hold exactly these pages; a page that did not change keeps its date, so Sphinx skips it."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in set(folder.glob("*.md")) - {folder / name for name in pages}:
        old.unlink()
    for name, text in pages.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)
