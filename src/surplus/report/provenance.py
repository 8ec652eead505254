"""The provenance section: data, network, time, runs, seeds, versions, settings, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from surplus.report import figures
from surplus.report.figures import Axis
from surplus.report.parts import Figure, Part, Table, Text
from surplus.report.words import (
    Reading,
    Result,
    anything,
    count,
    flat,
    items,
    mapping,
    number,
    ranges,
    records,
    seconds,
)


def provenance(result: Result) -> Iterator[Part]:
    """Data, network, time, runs, seeds, versions, settings, and what was left out."""
    yield Text(
        "The same numbers are in audit.json, next to this page. Intervals cover chance: other seeds and, where a"
        " sentence says so, other test examples. They say nothing about data of another kind."
    )
    left = [
        [str(r.get("part") or ""), str(r.get("what") or ""), str(r.get("why") or "")]
        for r in records(result.get("left_out"))
    ]
    if left:
        yield Table("What was left out", ("Part", "What", "Why"), left)
    yield from _pairs("Data", _counted(mapping(result.get("data"))))
    yield from _pairs("Network", _counted(mapping(result.get("network"))))
    yield from _timing(mapping(result.get("timing")))
    found = mapping(result.get("provenance"))
    yield from _runs(records(found.get("runs")))
    seeds = [("all seeds", ranges(items(found.get("seeds"))))] if items(found.get("seeds")) else []
    yield from _pairs("Versions, machine and seeds", flat(found.get("versions")) + flat(found.get("machine")) + seeds)
    yield from _pairs("Training recipe", flat(result.get("recipe")))
    yield from _pairs("Settings", flat(result.get("settings")))


def _pairs(caption: str, pairs: Sequence[tuple[str, str]]) -> Iterator[Part]:
    if pairs:
        yield Table(caption, ("Name", "Value"), pairs, folded=caption in ("Training recipe", "Settings"))


def _counted(found: Result) -> list[tuple[str, str]]:
    """What is known of the data or the network; whole numbers are counts."""
    known = {
        k: count(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in found.items() if v is not None
    }
    return flat(known)


def _timing(found: Result) -> Iterator[Part]:
    parts = [(str(k), number(v)) for k, v in mapping(found.get("parts")).items()]
    known = [(name, value) for name, value in parts if value is not None]
    total, budget = number(found.get("total_seconds")), number(found.get("budget_seconds"))
    if total is not None:
        yield Text(f"The audit took {seconds(total)}" + (f" of a budget of {seconds(budget)}." if budget else "."))
    if known:
        yield Figure(
            "timing",
            "Where the time went",
            f"The longest part is {max(known, key=lambda pair: pair[1])[0]}.",
            figures.bars([(n, Reading(v), seconds(v)) for n, v in known], Axis("Seconds", "~s")),
            Table("Seconds by part", ("Part", "Time"), [[n, seconds(v)] for n, v in known], frozenset({1})),
            figures.bars_height(len(known)),
        )


def _runs(runs: Sequence[Result]) -> Iterator[Part]:
    rows = [
        [
            anything(r.get("key")),
            str(r.get("part") or ""),
            str(r.get("network") or ""),
            count(number(r.get("replicas"))),
            ranges(items(r.get("seeds"))),
            count(number(r.get("steps"))),
        ]
        for r in runs
    ]
    if rows:
        columns = ("Run", "Part", "Network", "Networks trained", "Seeds", "Steps")
        yield Table("Training runs", columns, rows, frozenset({3, 5}), frozenset({0}))
