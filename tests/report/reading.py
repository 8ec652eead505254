"""A page as the tests read it, with the standard library's parser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """The elements of a page in order, their text, and the first sign of bad nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {[self.elements[k] for k in self.open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open[-1]][0] == tag, f"</{tag}> closes {self.elements[self.open[-1]]}"
        self.open.pop()
        self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for k in self.open:
            self.texts[k] += data

    def all(self, tag: str, **attributes: str) -> list[int]:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [k for k, (t, a) in enumerate(self.elements) if t == tag and wanted.items() <= a.items()]

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag]

    def text(self, tag: str, **attributes: str) -> list[str]:
        return [re.sub(r"\s+", " ", self.texts[k]).strip() for k in self.all(tag, **attributes)]

    def words(self) -> str:
        """What a reader sees, without scripts and styles."""
        hidden = {text for tag in ("script", "style") for text in (self.texts[k] for k in self.all(tag))}
        body = self.texts[self.all("body")[0]]
        for text in sorted(hidden, key=len, reverse=True):
            body = body.replace(text, "")
        return re.sub(r"\s+", " ", body)

    def specs(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.texts[self.all("script", id="specs")[0]])
        return found
