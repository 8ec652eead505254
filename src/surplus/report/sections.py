"""The five sections of the page, in order. One without results leaves a sentence that says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from surplus.report.common import sentence
from surplus.report.directions import directions
from surplus.report.examples import examples
from surplus.report.labels import labels
from surplus.report.parts import Part, Section, Text
from surplus.report.pictures import Pictures
from surplus.report.provenance import provenance
from surplus.report.weights import weights
from surplus.report.words import Result, mapping, records

_DIRECTIONS = "How many directions does training need, and would more data help?"


def sections(result: Result, pictures: Pictures) -> list[Section]:
    """All five, in order; those without results say why."""
    return [
        _section(result, "labels", "Labels", "Which labels look wrong?", labels, pictures),
        _section(result, "examples", "Examples", "Which examples can go without loss?", examples, pictures),
        _section(result, "weights", "Weights", "Which weights can go without loss?", weights, pictures),
        _section(result, "directions", "Directions and fit", _DIRECTIONS, directions, pictures),
        Section("provenance", "Provenance", "What do these numbers rest on?", parts=list(provenance(result))),
    ]


def _section(
    result: Result,
    name: str,
    title: str,
    question: str,
    build: Callable[[Result, Pictures], Iterator[Part]],
    pictures: Pictures,
) -> Section:
    found = mapping(result.get(name))
    status = str(found.get("status") or ("done" if found else "left out"))
    parts, reason = list(build(result, pictures)), why(result, name, status)
    if reason and status != "done":
        parts.insert(0, Text(reason, "warning"))
    elif reason:  # a remark on the method, which comes after the answer
        answered = bool(parts) and isinstance(parts[0], Text) and parts[0].role == "lead"
        parts.insert(int(answered), Text(reason))
    return Section(name, title, question, status, parts)


def why(result: Result, name: str, status: str) -> str:
    """The reason why a section is not whole, as far as the result tells it."""
    found = mapping(result.get(name))
    reasons = [str(found["note"])] if found.get("note") else []
    if status != "done" and not reasons:
        reasons = [str(r.get("why") or "") for r in records(result.get("left_out")) if r.get("part") == name]
    told = " ".join(dict.fromkeys(sentence(reason) for reason in reasons if reason))
    if status == "done":
        return told
    stopped = "The audit was interrupted before it got here." if result.get("status") == "interrupted" else ""
    opening = "Left out." if status == "left out" else "Only part of this was measured."
    return f"{opening} {told or stopped or 'The result gives no reason.'}"
