"""Write the audit's result as one HTML page that holds everything it needs.

Styles, pictures, charts and the libraries that draw them are inside the file, and a content security policy forbids
whatever is not: no request leaves the page, and no script runs but its own two, whatever a class or an example is
called.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from surplus.errors import InputError, MissingExtra
from surplus.report.common import classes
from surplus.report.parts import Answer, Figure, Section
from surplus.report.pictures import Pictures
from surplus.report.sections import sections
from surplus.report.summary import answers, opening
from surplus.report.words import mapping, number, seconds, share

_NONE: Mapping[str, Any] = MappingProxyType({})


def write_report(
    result: Mapping[str, Any],
    folder: Path,
    thumbnails: Mapping[str, bytes] = _NONE,
    rows: Mapping[str, Mapping[str, float]] = _NONE,
) -> Path:
    """Write `folder`/index.html from the result of an audit.

    Args:
        result: the audit's result, as in audit.json; numbers may be None, and whole parts absent.
        folder: where the page goes; made if it is not there. A page that is there is replaced in one step.
        thumbnails: PNG bytes by the example's id as text, for pictures.
        rows: feature values by the example's id as text, for tables.

    Returns:
        The path of the page.

    Raises:
        InputError: the result is no mapping.
        MissingExtra: Jinja2 or vl-convert is not installed.
    """
    if not isinstance(result, Mapping):
        raise InputError(f"a report is made from the audit's result, a mapping; got {type(result).__name__}.")
    return write_page(render(result, thumbnails, rows), Path(folder) / "index.html")


def write_page(text: str, path: Path) -> Path:
    """Write a page whole or not at all; the folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8", newline="\n")
    return partial.replace(path)


def render(
    result: Mapping[str, Any], thumbnails: Mapping[str, bytes] = _NONE, rows: Mapping[str, Mapping[str, float]] = _NONE
) -> str:
    """The page as text."""
    return page(
        title=f"Audit of {result.get('name') or 'a network'}",
        opening=opening(result),
        facts=_facts(result),
        level=number(mapping(result.get("settings")).get("level")) or 0.95,
        answers=answers(result),
        chapters=sections(result, Pictures(thumbnails, rows, classes(result))),
        interrupted=result.get("status") == "interrupted",
    )


def page(
    *,
    title: str,
    opening: str,
    facts: list[tuple[str, str]],
    level: float,
    answers: list[Answer],
    chapters: list[Section],
    interrupted: bool = False,
) -> str:
    """Any page of this look: a summary of answers, then sections.

    Raises:
        MissingExtra: Jinja2 or vl-convert is not installed.
    """
    environment = _environment()
    from markupsafe import Markup

    scripts = [_libraries(), environment.get_template("audit.js").render()]
    template = environment.get_template("audit.html")
    # Scripts are ours and must stay byte for byte what their hashes say; all else is escaped by the template.
    return template.render(
        title=title,
        opening=opening,
        facts=facts,
        level=share(level),
        interrupted=interrupted,
        answers=answers,
        sections=chapters,
        specs={figure.id: figure.spec for figure in _figures(chapters)},
        scripts=[Markup(script) for script in scripts],
        hashes=" ".join(f"'sha256-{b64encode(sha256(s.encode()).digest()).decode()}'" for s in scripts),
    )


def _figures(chapters: list[Section]) -> list[Figure]:
    return [part for section in chapters for part in section.parts if isinstance(part, Figure)]


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What stands below the title."""
    total = number(mapping(result.get("timing")).get("total_seconds"))
    facts = [("Status", str(result.get("status") or "unknown")), ("Time", "" if total is None else seconds(total))]
    facts.append(("Made by", f"surplus {result['surplus']}" if result.get("surplus") else "surplus"))
    return [(name, value) for name, value in facts if value]


@cache
def _environment() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise MissingExtra("Jinja2", "report", "the HTML report") from None
    return Environment(
        loader=PackageLoader("surplus.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _libraries() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, out of vl-convert's wheel."""
    try:
        from vl_convert import javascript_bundle
    except ImportError:
        raise MissingExtra("vl-convert-python", "report", "the HTML report") from None
    bundle: str = javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # Neither of the two replaced texts occurs today; either would end the script or change its hash.
    return '"use strict";(function(){' + bundle.replace("\r", "").replace("</script", "<\\/script") + "\n})();"
