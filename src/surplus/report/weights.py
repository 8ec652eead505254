"""The weights section: how accuracy falls as weights go, the ticket, and the network that is really smaller."""

from __future__ import annotations

from collections.abc import Iterator

from surplus.report import figures
from surplus.report.common import curve, decay, is_random, levels_of, sentence, verdict
from surplus.report.figures import Axis, Line
from surplus.report.parts import Figure, Heading, Part, Table, Text
from surplus.report.pictures import Pictures
from surplus.report.words import (
    UNKNOWN,
    Format,
    Reading,
    Result,
    anything,
    between,
    count,
    mapping,
    milliseconds,
    number,
    percent,
    plural,
    points,
    records,
    share,
    size,
    times,
    with_interval,
)


def weights(result: Result, pictures: Pictures) -> Iterator[Part]:
    """How accuracy falls as weights go, by method; the ticket; the network that is really smaller."""
    found = mapping(result.get("weights"))
    ticket = mapping(found.get("ticket"))
    lines = [
        line
        for c in records(found.get("curves"))
        if (line := curve(anything(c.get("method")), c, "density", baseline=is_random(c.get("method")))).points
    ]
    yield from verdict(ticket, "the dense network", lines)
    if lines:
        levels = levels_of(Reading.of(found.get("dense")), number(ticket.get("margin")), "dense")
        law = mapping(found.get("law"))
        yield decay(
            "densities",
            "Test accuracy by density of the weights",
            lines,
            levels,
            Axis("Share of the weights kept (logarithmic)", "~%", log=True),
            ("Method", "Density"),
            _dashed(law),
        )
        yield from _law(law)
    if ticket.get("file"):
        yield Text(f"The ticket (mask and starting weights) is in {ticket['file']}.")
    yield from _structured(mapping(found.get("structured")), mapping(mapping(result.get("timing")).get("latency")))


def _dashed(law: Result) -> Line | None:
    """The law's curve, without its interval, which would stretch the axis."""
    fitted = plural(number(law.get("levels")), "level")
    drawn = [(at, Reading(v.mean)) for at, v in curve("law", law, "density").points]
    return Line(f"law fitted to the first {fitted}", drawn, law=True) if drawn else None


def _law(law: Result) -> Iterator[Part]:
    """What the law predicted before the sparser levels were trained, and each level beside it."""
    if law.get("sentence"):
        yield Text(sentence(str(law["sentence"])))
    rows = []
    for point in records(law.get("checked")):
        told, seen, at = Reading.of(point.get("accuracy")), number(point.get("measured")), number(point.get("density"))
        if told and at is not None:
            part = "fitted" if point.get("fitted") else "predicted"
            rows.append([share(at), part, percent(told.mean), between(told.low, told.high, percent), percent(seen)])
    if rows:
        columns = ("Density", "Level was", "The law's accuracy", "Interval of the law", "Measured")
        yield Table("The pruning law, level by level", columns, rows, frozenset({0, 2, 3, 4}), folded=True)


def _structured(found: Result, latency: Result) -> Iterator[Part]:
    """The shrunken network beside the one it came from."""
    before, after = mapping(found.get("before")), mapping(found.get("after"))
    if not before or not after:
        return
    yield Heading("A network that is really smaller")
    if found.get("sentence"):
        yield Text(sentence(str(found["sentence"])), "lead")
    sizes = [("Parameters", "parameters", count), ("Multiply-adds", "macs", count), ("Size on disk", "bytes", size)]
    quantities = [(name, Reading.of(before.get(key)), Reading.of(after.get(key)), form) for name, key, form in sizes]
    for name, key in (("Latency", "ms"), ("Latency, 64 at once", "ms_64")):
        old, new = Reading.of(latency.get(f"before_{key}")), Reading.of(latency.get(f"after_{key}"))
        quantities.append((name, old, new, milliseconds))
    known = [(n, b, a, form) for n, b, a, form in quantities if b is not None and a is not None and b.mean > 0]
    if not known:
        return
    table = [[n, _shown(b, form), _shown(a, form), times(b.mean, a.mean) or UNKNOWN] for n, b, a, form in known]
    accuracies = Reading.of(before.get("accuracy")), Reading.of(after.get("accuracy"))
    if accuracies[0] and accuracies[1]:
        lost = points(accuracies[1].mean - accuracies[0].mean)
        table.append(["Test accuracy", *(_shown(v, percent) for v in accuracies), lost])
    shares = [(n, _ratio(a, b), percent(a.mean / b.mean)) for n, b, a, _ in known]
    yield Figure(
        "structured",
        "What is left after removing whole units",
        "Share that remains. " + "; ".join(f"{n}: {text}" for n, _, text in shares) + ".",
        figures.bars(shares, Axis("Share of the original that remains", "~%", most=1.0, marks=(0, 0.25, 0.5, 0.75, 1))),
        Table(
            "Before and after structured removal",
            ("Quantity", "Before", "After", "Ratio or difference"),
            table,
            frozenset({1, 2, 3}),
        ),
        figures.bars_height(len(shares)),
        caption="Latency is measured on this machine; the thin line is the interval of the time after, relative to the"
        " mean before.",
    )
    if found.get("file"):
        yield Text(f"The smaller network is in {found['file']}.")


def _ratio(after: Reading, before: Reading) -> Reading:
    ends = after.bounds()
    low, high = (end / before.mean for end in ends) if ends else (None, None)
    return Reading(after.mean / before.mean, low, high)


def _shown(value: Reading | None, form: Format) -> str:
    return UNKNOWN if value is None else with_interval(value, form) if value.bounds() else form(value.mean)
