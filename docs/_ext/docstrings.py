"""Docstrings as this project writes them, made safe for reStructuredText.

The sources hold plain text: `names` in single backticks, indented equations in ASCII, hyphen lists, and signs such as
|theta| or x_ that reStructuredText would take for markup. Google sections (Args, Returns...) are left to napoleon.
"""

from __future__ import annotations

import re
from typing import Any

SECTION = re.compile(
    r"(Args|Arguments|Attributes|Examples?|Keyword Args|Notes?|Raises|References|Returns|See Also|Warns|Yields):$"
)
ITEM = re.compile(r"([-*]|\d+[.)]) +")
CODE = re.compile(r"(:[a-z:]+:`[^`]+`|``.+?``|`[^`]+`)")


def escape(text: str) -> str:
    """Plain words, with the signs that would be markup made literal."""
    text = re.sub(r"([\\*|`])", r"\\\1", text)
    return re.sub(r"(?<=[\w\])])_(?!\w)", r"\\_", text)


def inline(line: str) -> str:
    """One line of prose: code spans become literals, the rest plain words."""
    pieces = CODE.split(line)
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            pieces[i] = escape(piece)
        elif not piece.startswith(":"):
            before, after = pieces[i - 1][-1:], pieces[i + 1][:1]
            pieces[i] = f"{chr(92) + ' ' if before.isalnum() else ''}``{piece.strip('`')}``"
            pieces[i] += "\\ " if after.isalnum() else ""
    return "".join(pieces)


def blank_line(out: list[str]) -> None:
    """End what stands before, once."""
    if out and out[-1]:
        out.append("")


def to_rst(lines: list[str]) -> list[str]:
    """A docstring's lines as reStructuredText."""
    out: list[str] = []
    state, margin = "prose", 0  # prose, literal, item, section, doctest
    for line in lines:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if not text:
            if state == "doctest":
                state = "prose"
            if state != "section" or (out and out[-1]):
                blank_line(out)
        elif text.startswith(">>>") or state == "doctest":
            state = "doctest" if state != "section" else "section"
            out.append(line)
        elif indent == 0 and SECTION.match(text):
            state = "section"
            out.append(line)
        elif state == "section" and indent:
            out.append(" " * indent + inline(text))
        elif indent == 0 and (item := ITEM.match(text)):
            if state != "item":
                blank_line(out)
            state, margin = "item", item.end()
            out.append(item.group() + inline(text[item.end() :]))
        elif indent == 0:
            if state != "prose":
                blank_line(out)
            state = "prose"
            out.append(inline(text))
        elif state == "item":
            out.append(" " * margin + inline(text))
        else:
            if state != "literal":
                blank_line(out)
                out += ["::", ""]
            state = "literal"
            out.append(line)
    return out


def process(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
