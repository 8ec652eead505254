"""Vega-Lite specifications, written as the dictionaries they are.

Colours are the page's own CSS variables, so that a chart follows light, dark and print with nothing to redraw. Every
field has a fixed name; what the user named (classes, methods) appears as values only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from surplus.report.parts import Key
from surplus.report.words import Reading

COLOURS = 7
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3), (10, 4), (4, 2, 1, 2))
_KNOWN = "isValid(datum.low) && isValid(datum.high)"
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
_LABELS = {"labelColor": "var(--muted)", "titleColor": "var(--muted)", "labelFont": _FONT, "titleFont": _FONT}
CONFIG: dict[str, Any] = {
    "aria": False,
    "background": "transparent",
    "font": _FONT,
    "view": {"stroke": "transparent"},
    "axis": {
        **_LABELS,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 130,
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "titlePadding": 10,
    },
    "axisY": {"domain": False, "ticks": False, "titleAngle": 0, "titleAlign": "left", "titleAnchor": "end"}
    | {"titleX": 0, "titleY": -10, "titleBaseline": "bottom"},
    "axisX": {"grid": False},
}


@dataclass(frozen=True)
class Line:
    """A named curve of estimates; `baseline` ones (random choice) are drawn grey, a fitted `law` dashed, no markers."""

    name: str
    points: Sequence[tuple[float, Reading]]
    baseline: bool = False
    law: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with, with its interval when it has one."""

    name: str
    at: Reading
    dash: tuple[int, ...] = (6, 4)
    colour: str = "var(--ink)"


@dataclass(frozen=True)
class Axis:
    """An axis: title, d3 number format, whether it is logarithmic, and the bounds that the quantity cannot pass.

    A `whole` axis goes from one bound to the other, `marks` are where it is labelled.
    """

    title: str
    format: str = "~g"
    log: bool = False
    least: float = -math.inf
    most: float = math.inf
    marks: Sequence[float] = field(default_factory=tuple)
    whole: bool = False


def styles(lines: Sequence[Line]) -> list[Key]:
    """A colour, a dash and a marker for each curve, so that none is told from another by colour alone."""
    keys: list[Key] = []
    used = 0
    for line in lines:
        if line.law:  # in the colour of the first curve, which it is fitted to
            keys.append(Key(line.name, "var(--c1)", "7 4"))
            continue
        colour = "var(--grey)" if line.baseline else f"var(--c{used % COLOURS + 1})"
        dash = (3, 3) if line.baseline else DASHES[used % len(DASHES)]
        keys.append(Key(line.name, colour, " ".join(map(str, dash)), SHAPES[len(keys) % len(SHAPES)]))
        used += not line.baseline
    return keys


def legend(lines: Sequence[Line], levels: Sequence[Level] = ()) -> list[Key]:
    """The legend of `curves`."""
    return styles(lines) + [Key(v.name, v.colour, " ".join(map(str, v.dash))) for v in levels]


def curves(lines: Sequence[Line], x: Axis, y: Axis, levels: Sequence[Level] = (), band: bool = True) -> dict[str, Any]:
    """Curves with their intervals as bands (or as bars), over lines to compare with."""
    keys = styles(lines)
    # A band needs two points, so a lone one gets a bar.
    rows = [
        _row(line.name, at, reading) | {"bar": not band or len(line.points) == 1, "law": line.law}
        for line in lines
        for at, reading in line.points
        if not (x.log and at <= 0) and not (y.log and reading.mean <= 0)
    ]
    names, scale_y = [k.name for k in keys], _scale(rows + [_row("", 0, v.at) for v in levels], y)
    encode_x = {"field": "x", "type": "quantitative", "title": x.title, "scale": _span(rows, x), "axis": _axis(x, rows)}
    encode_y = {
        "field": "y",
        "type": "quantitative",
        "title": y.title,
        "scale": scale_y,
        "axis": _axis(y, [{"x": v} for row in rows for v in (row["y"], row["low"], row["high"]) if v and v > 0]),
    }
    colour = _by_name(names, [k.colour for k in keys])
    dash = _by_name(names, [[int(d) for d in k.dash.split()] for k in keys])
    interval = {"x": encode_x, "y": encode_y | {"field": "low"}, "y2": {"field": "high"}, "color": colour}
    points = {"x": encode_x, "y": encode_y, "color": colour}
    marker = {"type": "point", "filled": True, "size": 48, "opacity": 1, "clip": True}
    shape = _by_name(names, [k.shape or "circle" for k in keys])
    area, bar = {"type": "area", "opacity": 0.13, "clip": True}, {"type": "rule", "strokeWidth": 1.5, "clip": True}
    layers = [layer for level in levels for layer in _level(level, encode_y)]
    layers += [
        {"mark": area, "transform": [{"filter": f"{_KNOWN} && !datum.bar"}], "encoding": interval},
        {"mark": bar, "transform": [{"filter": f"{_KNOWN} && datum.bar"}], "encoding": interval},
        {"mark": {"type": "line", "strokeWidth": 2, "clip": True}, "encoding": points | {"strokeDash": dash}},
        {
            "mark": marker,
            "transform": [{"filter": "!datum.law"}],
            "encoding": points | {"shape": shape, "tooltip": _tooltip(x, y, len(lines) > 1)},
        },
    ]
    return _chart(layers, rows)


def bars(rows: Sequence[tuple[str, Reading, str]], x: Axis) -> dict[str, Any]:
    """Horizontal bars from zero, with intervals, each with its value in words."""
    values = [_row(name, 0, reading) | {"text": text} for name, reading, text in rows]
    for value in values:
        value["end"] = value["y"] if value["high"] is None else max(value["y"], value["high"])
    most = max([x.most if math.isfinite(x.most) else 0.0, *(v["end"] for v in values)]) or 1.0
    # The words at the bar's end need room, so the axis goes on past the longest bar.
    encode = {"field": "y", "type": "quantitative", "title": x.title, "axis": _axis(x) | {"grid": True, "tickCount": 5}}
    encode["scale"] = {"domain": [0, most * 1.35], "nice": False}
    names = {"field": "series", "type": "nominal", "title": None, "sort": None, "axis": {"labelPadding": 8}}
    ends = {"x": encode | {"field": "low"}, "x2": {"field": "high"}, "y": names}
    words = {"type": "text", "align": "left", "dx": 6, "color": "var(--ink)", "font": _FONT, "fontSize": 12}
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "bar", "color": "var(--c1)", "opacity": 0.75, "height": {"band": 0.6}},
            "encoding": {"x": encode, "y": names},
        },
        {
            "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1.5},
            "transform": [{"filter": _KNOWN}],
            "encoding": ends,
        },
        {
            "mark": words,
            "encoding": {"x": {"field": "end", "type": "quantitative"}, "y": names, "text": {"field": "text"}},
        },
    ]
    return _chart(layers, values, height=bars_height(len(rows)))


def heat(
    rows: Sequence[str], columns: Sequence[str], matrix: Sequence[Sequence[float | None]], form: str
) -> dict[str, Any]:
    """A matrix as coloured cells: strength is opacity, sign is colour; written out where the cells are wide enough."""
    values = [
        {
            "row": i,
            "column": j,
            "from": rows[i],
            "to": columns[j],
            "value": value,
            "strength": min(abs(value), 1.0) ** 0.5,
        }
        for i, line in enumerate(matrix)
        for j, value in enumerate(line)
        if value
    ]
    across = _cells("column", columns) | {"axis": _names(columns) | {"orient": "top", "labelAngle": _angle(columns)}}
    down = _cells("row", rows) | {"axis": _names(rows) | {"titleAngle": 0}}
    place = {"x": across, "y": down}
    colour = {"condition": {"test": "datum.value < 0", "value": "var(--c2)"}, "value": "var(--c1)"}
    strength = {
        "field": "strength",
        "type": "quantitative",
        "scale": {"domain": [0, 1], "range": [0, 0.55]},
        "legend": None,
    }
    tooltip = [{"field": "from", "title": "row"}, {"field": "to", "title": "column"}]
    tooltip.append({"field": "value", "type": "quantitative", "format": form, "title": "value"})
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "rect", "stroke": "var(--page)", "strokeWidth": 1},
            "encoding": place | {"color": colour, "fillOpacity": strength, "tooltip": tooltip},
        }
    ]
    if len(columns) <= 12:
        text = {"field": "value", "type": "quantitative", "format": form}
        shown = {"filter": "abs(datum.value) >= 0.005"}
        words = {"type": "text", "font": _FONT, "fontSize": 11, "tooltip": False}
        layers.append(
            {"mark": words, "transform": [shown], "encoding": place | {"text": text, "color": {"value": "var(--ink)"}}}
        )
    return _chart(layers, values, height=cells_height(len(rows)))


def bars_height(rows: int) -> int:
    """How tall bars are drawn."""
    return 34 * rows


def cells_height(rows: int) -> int:
    """How tall a matrix is drawn."""
    return min(560, max(120, 34 * rows))


def _chart(layers: list[dict[str, Any]], values: list[dict[str, Any]], height: Any = 320) -> dict[str, Any]:
    fit = {"type": "fit-x", "contains": "padding"}
    shape = {"width": "container", "height": height, "autosize": fit, "config": CONFIG}
    return {**shape, "data": {"values": values}, "layer": layers}


def _row(name: str, at: float, reading: Reading) -> dict[str, Any]:
    return {"series": name, "x": at, "y": reading.mean, "low": reading.low, "high": reading.high}


def _by_name(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return {
        "field": "series",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(names), "range": list(values)},
    }


def _axis(axis: Axis, rows: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    ticks = {"values": _round_numbers([row["x"] for row in rows])} if axis.log and rows else {"tickCount": 6}
    ticks = {"values": list(axis.marks)} if axis.marks else ticks
    return {"format": axis.format, "labelOverlap": "greedy", **ticks}


def _round_numbers(xs: Sequence[float]) -> list[float]:
    """1, 2, 5, 10, 20 ... as far as the data go: what a logarithmic axis is read by."""
    low, high = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)))
    ladder = [round(m * 10.0**e, 12) for e in range(low, high + 1) for m in (1, 2, 5)]
    inside = [v for v in ladder if min(xs) * 0.999 <= v <= max(xs) * 1.001]
    return inside if len(inside) > 1 else sorted(set(xs))


def _span(rows: Sequence[dict[str, Any]], axis: Axis) -> dict[str, Any]:
    xs = [row["x"] for row in rows]
    edges = [min(xs, default=0.0), max(xs, default=1.0)]
    if axis.log:
        return {"type": "log", "domain": [edges[0] * 0.93, edges[1] * 1.07], "nice": False}
    low = min(edges[0], axis.least) if math.isfinite(axis.least) else edges[0]
    pad = 0.015 * (edges[1] - low or 1.0)  # so that a marker at the edge is drawn whole
    return {"domain": [low - pad, edges[1] + pad], "nice": False}


def _scale(rows: Sequence[dict[str, Any]], axis: Axis) -> dict[str, Any]:
    """The range of the means and intervals, but never past what the quantity can be: wide intervals are cut there."""
    seen = [row[key] for row in rows for key in ("y", "low", "high") if row[key] is not None]
    low, high = max(min(seen, default=0.0), axis.least), min(max(seen, default=1.0), axis.most)
    if axis.whole:
        low, high = axis.least, axis.most
    if axis.log:
        floor = min((row["y"] for row in rows if row["y"] > 0), default=0.01)
        return {"type": "log", "domain": [max(low, floor / 3) / 1.08, high * 1.08], "nice": False, "clamp": True}
    pad = 0.04 * (high - low or abs(high) or 1.0)
    return {"domain": [max(low - pad, axis.least), min(high + pad, axis.most)], "nice": True, "zero": False}


def _level(level: Level, encode_y: dict[str, Any]) -> list[dict[str, Any]]:
    data = {"values": [_row(level.name, 0, level.at)]}
    rule = {"type": "rule", "strokeDash": list(level.dash), "strokeWidth": 1.3, "color": level.colour, "clip": True}
    drawn: list[dict[str, Any]] = [{"data": data, "mark": rule, "encoding": {"y": encode_y}}]
    if level.at.bounds():
        area = {"type": "rect", "color": level.colour, "opacity": 0.07, "clip": True}
        drawn.insert(
            0, {"data": data, "mark": area, "encoding": {"y": encode_y | {"field": "low"}, "y2": {"field": "high"}}}
        )
    return drawn


def _tooltip(x: Axis, y: Axis, named: bool) -> list[dict[str, Any]]:
    columns = [("x", x.title, x.format), ("y", y.title, y.format), ("low", "low", y.format), ("high", "high", y.format)]
    numbers = [{"field": f, "type": "quantitative", "title": t, "format": _finer(form)} for f, t, form in columns]
    return [{"field": "series", "type": "nominal", "title": "curve"}, *numbers] if named else numbers


def _finer(form: str) -> str:
    return ".1%" if form.endswith("%") else form


def _cells(name: str, labels: Sequence[str]) -> dict[str, Any]:
    # Cells go by position, for two classes may bear the same name.
    return {
        "field": name,
        "type": "ordinal",
        "title": None,
        "scale": {"domain": list(range(len(labels))), "padding": 0},
    }


def _names(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "labelExpr": f"{json.dumps(list(labels))}[datum.value]",
        "domain": False,
        "ticks": False,
        "labelLimit": 130,
    } | {"labelOverlap": True}


def _angle(labels: Sequence[str]) -> int:
    return 0 if max((len(label) for label in labels), default=0) <= 3 else -90
