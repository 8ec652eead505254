from __future__ import annotations

from typing import Any

import pytest

from surplus.report import figures
from surplus.report.figures import Axis, Level, Line
from surplus.report.words import Reading

ACCURACY = Axis("accuracy", "~%", least=0.0, most=1.0)


def line(name: str, *values: float, spread: float = 0.1) -> Line:
    return Line(name, [(float(k + 1), Reading(v, v - spread, v + spread, 5)) for k, v in enumerate(values)])


def scale(spec: dict[str, Any], axis: str) -> dict[str, Any]:
    found: dict[str, Any] = spec["layer"][-1]["encoding"][axis]["scale"]
    return found


def test_no_two_curves_are_told_apart_by_colour_alone():
    keys = figures.styles([line(str(k), 0.5) for k in range(5)])
    assert len({k.colour for k in keys}) == len({k.dash for k in keys}) == len({k.shape for k in keys}) == 5


def test_random_choice_is_grey_and_takes_no_colour_from_the_others():
    lines = [line("a", 0.5), Line("random", line("", 0.5).points, baseline=True), line("b", 0.5)]
    assert [k.colour for k in figures.styles(lines)] == ["var(--c1)", "var(--grey)", "var(--c2)"]


def test_an_interval_past_what_the_quantity_can_be_does_not_stretch_the_axis():
    spec = figures.curves([line("a", 0.9, 0.95, spread=0.5)], Axis("x"), ACCURACY)
    assert scale(spec, "y")["domain"][1] == 1.0
    assert scale(spec, "y")["domain"][0] == pytest.approx(0.4, abs=0.05)


def test_the_line_to_compare_with_is_inside_the_axis():
    spec = figures.curves([line("a", 0.5, 0.6)], Axis("x"), ACCURACY, [Level("full", Reading(0.97, 0.96, 0.98))])
    low, high = scale(spec, "y")["domain"]
    assert low < 0.4 and high >= 0.98


def test_a_curve_of_one_point_shows_its_interval_as_a_bar():
    spec = figures.curves([line("a", 0.5), line("b", 0.5, 0.6)], Axis("x"), ACCURACY)
    assert [(row["series"], row["bar"]) for row in spec["data"]["values"]] == [("a", True), ("b", False), ("b", False)]


def test_a_logarithmic_axis_leaves_out_what_has_no_logarithm_and_is_marked_at_round_numbers():
    points = [(x, Reading(0.5)) for x in (0.0, 0.012, 0.1, 0.5)]
    spec = figures.curves([Line("a", points)], Axis("x", log=True), ACCURACY)
    assert [row["x"] for row in spec["data"]["values"]] == [0.012, 0.1, 0.5]
    assert spec["layer"][-1]["encoding"]["x"]["axis"]["values"] == [0.02, 0.05, 0.1, 0.2, 0.5]


def test_a_logarithmic_axis_without_a_round_number_is_marked_at_its_points():
    spec = figures.curves([Line("a", [(0.03, Reading(0.5)), (0.04, Reading(0.5))])], Axis("x", log=True), ACCURACY)
    assert spec["layer"][-1]["encoding"]["x"]["axis"]["values"] == [0.03, 0.04]


def test_bars_leave_room_for_their_words_and_their_intervals():
    spec = figures.bars([("a", Reading(0.5, 0.4, 2.0), "50%"), ("b", Reading(0.0), "0%")], Axis("x", most=1.0))
    assert spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == [0, pytest.approx(2.7)]
    assert [row["end"] for row in spec["data"]["values"]] == [2.0, 0.0]


def test_classes_of_one_name_stay_two_cells():
    spec = figures.heat(["a", "a"], ["a", "a"], [[0.9, 0.1], [None, 1.0]], ".0%")
    assert [(r["row"], r["column"]) for r in spec["data"]["values"]] == [(0, 0), (0, 1), (1, 1)]
    assert spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == [0, 1]


def test_a_large_matrix_is_drawn_without_numbers():
    n = 20
    matrix = [[0.05] * n] * n
    names = [str(k) for k in range(n)]
    assert len(figures.heat(names, names, matrix, ".0%")["layer"]) == 1
    assert len(figures.heat(names[:5], names[:5], [row[:5] for row in matrix[:5]], ".0%")["layer"]) == 2


def test_a_law_is_dashed_in_the_first_curves_colour_takes_none_from_the_others_and_has_no_markers():
    law = Line("law", line("", 0.5, 0.6).points, law=True)
    lines = [line("a", 0.5, 0.6), law, line("b", 0.5, 0.6)]
    keys = figures.styles(lines)
    assert [k.colour for k in keys] == ["var(--c1)", "var(--c1)", "var(--c2)"]
    assert keys[1].dash == "7 4" and keys[1].shape == ""
    spec = figures.curves(lines, Axis("x"), ACCURACY)
    (markers,) = [layer for layer in spec["layer"] if layer["mark"]["type"] == "point"]
    assert markers["transform"] == [{"filter": "!datum.law"}]
    assert {row["series"] for row in spec["data"]["values"] if row["law"]} == {"law"}
