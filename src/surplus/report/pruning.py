"""The page of `surplus prune`: what pruning one task by one method cost, beside its controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from surplus.report.common import decay, is_random, levels_of, sentence
from surplus.report.figures import Axis, Line
from surplus.report.page import page, write_page
from surplus.report.parts import Answer, Part, Section, Table, Text
from surplus.report.words import (
    UNKNOWN,
    Reading,
    Result,
    anything,
    between,
    count,
    flat,
    items,
    mapping,
    margin_points,
    milliseconds,
    number,
    p_value,
    percent,
    plain,
    points,
    ranges,
    records,
    share,
    size,
)

_KEPT = Axis("Share of the weights kept (logarithmic)", ".3~p", log=True)


def write_pruning_report(result: Result, folder: Path, links: Sequence[str] = ()) -> Path:
    """Write `folder`/index.html from what `Pruned.result` gives.

    Args:
        result: the evidence, settings and runs.
        folder: where the page goes.
        links: names of other files in the folder that the page should point to.

    Raises:
        MissingExtra: Jinja2 or vl-convert is not installed.
    """
    text = page(
        title=f"Pruning {anything(result.get('network'))} on {anything(result.get('task'))}",
        opening=_opening(result),
        facts=[("Method", _method(result)), ("Seeds", ranges(items(result.get("seeds"))))],
        level=number(result.get("level")) or 0.95,
        answers=_answers(result),
        chapters=[
            Section("accuracy", "Accuracy", "What does the pruning cost?", parts=list(_accuracy(result))),
            Section("controls", "Controls", "Was it this choice of weights?", parts=list(_controls(result))),
            Section("size", "Size and speed", "What is saved?", parts=list(_sizes(result))),
            Section("provenance", "Provenance", "What do these numbers rest on?", parts=list(_origin(result, links))),
        ],
    )
    return write_page(text, Path(folder) / "index.html")


def _method(result: Result) -> str:
    return anything(mapping(result.get("settings")).get("method"))


def _opening(result: Result) -> str:
    last = _last(result)
    kept = share(_trained(last)) if last else "some"
    return (
        f"{_method(result)} kept {kept} of the prunable weights. Dense networks and controls come from the same seeds"
        " and the same recipe; what each took to train is among the tables."
    )


def _networks(result: Result, role: str) -> list[Result]:
    return [row for row in records(result.get("networks")) if row.get("role") == role]


def _last(result: Result) -> Result:
    """The networks that controls are compared with."""
    levels = _networks(result, "level")
    return levels[-1] if levels else {}


def _dense(result: Result) -> Result:
    rows = _networks(result, "dense")
    return rows[0] if rows else {}


def _trained(row: Result) -> float | None:
    """The share of the prunable weights that a method chose; all that is in use may be more."""
    return number(row.get("trainable", row.get("density")))


def _accuracy_of(row: Result) -> Reading | None:
    return Reading.of({**row, "repeats": len(items(row.get("values"))) or None})


def _is_share(result: Result) -> bool:
    """Whether the metric is an accuracy, shown in per cent and points."""
    return "accuracy" in str(result.get("metric"))


def _difference(result: Result, x: float | None) -> str:
    """A difference of the metric, turned so that positive is better."""
    if _is_share(result) or x is None:
        return points(x)
    return f"{x:+.4g}".replace("-", "\u2212")


def _metric(result: Result) -> str:
    """The metric's name, and which way is better where it is not plain."""
    name = anything(result.get("metric"))
    return f"The {name}" if _is_share(result) else f"The {name} (positive: better)"


def _margin(result: Result) -> str:
    margin = number(result.get("margin")) or 0.0
    return margin_points(margin) if _is_share(result) else plain(margin)


def _value(result: Result, x: float | None) -> str:
    return percent(x) if _is_share(result) else plain(x)


# ---- the summary ----------------------------------------------------------------------------------------------------


def _answers(result: Result) -> list[Answer]:
    last = _last(result)
    against = {str(r.get("name")): r for r in records(result.get("against_dense"))}.get(str(last.get("name")), {})
    passed, verdict = against.get("verdict"), "Not shown"
    if passed is not None:
        verdict = "Yes" if passed else "No, a loss is shown" if against.get("loss_shown") else "Not shown"
    lost = number(against.get("difference"))
    low, p = _difference(result, number(against.get("low"))), p_value(number(against.get("p_value")))
    matches = f"{_metric(result)} changes by {_difference(result, lost)}, at least {low} ({p});"
    matches += f" the margin is {_margin(result)}."
    beaten = [r for r in records(result.get("against_controls")) if r.get("verdict") == "better"]
    of = len(records(result.get("against_controls")))
    names = ", ".join(str(r.get("control")) for r in beaten) or "none"
    saved = f"{count(number(last.get('nonzero')))} of {count(number(_dense(result).get('parameters')))} parameters"
    faster = f"{plain(number(last.get('speedup')))} times fewer multiply-adds in theory; the latency table is measured."
    return [
        Answer("Does it match the dense network?", verdict, matches, "accuracy"),
        Answer("Does it beat its controls?", f"{len(beaten)} of {of}", f"Better than: {names}.", "controls"),
        Answer("What is left?", saved, faster, "size"),
    ]


# ---- the sections ---------------------------------------------------------------------------------------------------


def _accuracy(result: Result) -> Iterator[Part]:
    lines = _lines(result)
    law = mapping(result.get("law"))
    if law.get("sentence"):
        yield Text(sentence(str(law["sentence"])), "lead")
    if lines and result.get("metric") == "accuracy":
        levels = levels_of(_accuracy_of(_dense(result)), number(result.get("margin")), "dense")
        yield decay("densities", "Test accuracy by density", lines, levels, _KEPT, ("Networks", "Density"))
    columns = ("Networks", "Difference", "Lower bound", "Upper", "p", "Verdict", "Seeds needed", "Examples needed")
    rows = [_against_dense(result, row) for row in records(result.get("against_dense"))]
    yield Table("Against the dense networks of the same seeds", columns, rows, frozenset({1, 2, 3, 4, 6, 7}))
    yield Text(
        "A network matches where its lower confidence bound lies above minus the margin, and falls short where its"
        " upper bound lies below it. “Needed” is how many pairs"
        " would tell a loss of the margin from none, at the spread found here."
    )


def _lines(result: Result) -> list[Line]:
    """The method's curve, and each masked control as a point at the density that it was trained at."""
    pairs = [(_trained(r), _accuracy_of(r)) for r in _networks(result, "level")]
    own = sorted(((d, v) for d, v in pairs if d and v), key=lambda pair: pair[0])
    lines = [Line(_method(result), own)] if own else []
    for row in _networks(result, "control"):
        at, value = number(row.get("density")), _accuracy_of(row)
        if at and value:
            lines.append(Line(str(row.get("name")), [(at, value)], is_random(row.get("name"))))
    return lines


def _controls(result: Result) -> Iterator[Part]:
    found = records(result.get("against_controls"))
    if not found:
        yield Text("No controls were trained, so nothing is known of why this works.", "warning")
        return
    columns = ("Control", "Difference", "Interval", "Wins", "p, adjusted", "The pruned network is", "Seeds needed")
    rows = [_against_control(result, row) for row in found]
    yield Table("The pruned networks minus each control, paired by seed", columns, rows, frozenset({1, 2, 3, 4, 6}))
    yield from (Text(sentence(str(s))) for s in items(result.get("sentences")))


def _sizes(result: Result) -> Iterator[Part]:
    rows = [_cost(result, r) for r in records(result.get("networks"))]
    columns = (
        "Networks",
        "Density",
        "Trained",
        "Non-zero",
        "Compression",
        "Multiply-adds",
        "Speed-up",
        "Packed",
        "Metric",
    )
    yield Table("What each network costs", columns, rows, frozenset(range(1, 9)))
    yield Text(sentence(str(result.get("convention") or "")))
    if timed := [_latency(r) for r in records(result.get("latency"))]:
        names = ("Networks", "Batch", "Latency", "Interval")
        yield Table("Measured latency of a forward pass on this machine", names, timed, frozenset({1, 2, 3}))
        yield Text("Zeros that stay in a dense matrix are multiplied like other numbers: masks alone save no time.")
    if layers := [_layer(r) for r in records(result.get("layers"))]:
        names, folded = ("Tensor", "Weights", "Kept", "Density"), len(layers) > 12
        yield Table("Density of each tensor", names, layers, frozenset({1, 2, 3}), frozenset({0}), folded)


# ---- rows -----------------------------------------------------------------------------------------------------------


def _against_dense(result: Result, row: Result) -> list[str]:
    verdict = row.get("verdict")
    return [
        anything(row.get("name")),
        _difference(result, number(row.get("difference"))),
        _difference(result, number(row.get("low"))),
        _difference(result, number(row.get("high"))),
        p_value(number(row.get("p_value"))),
        UNKNOWN
        if verdict is None
        else "matches"
        if verdict
        else "falls short"
        if row.get("loss_shown")
        else "not shown",
        "" if verdict or row.get("loss_shown") else count(number(row.get("seeds_needed"))),
        "" if verdict or row.get("loss_shown") else count(number(row.get("examples_needed"))),
    ]


def _against_control(result: Result, row: Result) -> list[str]:
    return [
        anything(row.get("control")),
        _difference(result, number(row.get("difference"))),
        between(number(row.get("low")), number(row.get("high")), lambda x: _difference(result, x)),
        f"{count(number(row.get('wins')))} of {count(number(row.get('seeds')))}",
        p_value(number(row.get("p_adjusted"))),
        anything(row.get("verdict")),
        count(number(row.get("seeds_needed"))) if row.get("verdict") == "undecided" else "",
    ]


def _cost(result: Result, row: Result) -> list[str]:
    return [
        anything(row.get("name")),
        share(number(row.get("density"))),
        share(number(row.get("trainable"))),
        count(number(row.get("nonzero"))),
        f"{plain(number(row.get('compression')))}×",
        count(number(row.get("macs_nonzero"))),
        f"{plain(number(row.get('speedup')))}×",
        size(number(row.get("bytes_packed"))),
        _value(result, number(row.get("mean"))),
    ]


def _latency(row: Result) -> list[str]:
    middle, low, high = (number(row.get(k)) for k in ("seconds", "low", "high"))
    shown = [None if v is None else 1000 * v for v in (middle, low, high)]
    ends = between(shown[1], shown[2], milliseconds)
    return [anything(row.get("name")), count(number(row.get("batch"))), milliseconds(shown[0]), ends]


def _layer(row: Result) -> list[str]:
    sizes = [count(number(row.get("weights"))), count(number(row.get("kept")))]
    return [anything(row.get("tensor")), *sizes, share(number(row.get("density")))]


def _origin(result: Result, links: Sequence[str]) -> Iterator[Part]:
    if links:
        yield Text("Beside this page: " + ", ".join(links) + ".")
    rows = [[name, value] for name, value in flat(result.get("settings"))]
    yield Table("Settings", ("Setting", "Value"), rows, code=frozenset({0}))
    keys = [[name, ", ".join(map(str, items(found)))] for name, found in mapping(result.get("runs")).items()]
    yield Table("Runs in the store", ("Networks", "Folders"), keys, folded=True)
    yield Text(f"Made by surplus {anything(result.get('surplus'))}.")
