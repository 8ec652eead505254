from __future__ import annotations

import math

import pytest

from surplus.report import words
from surplus.report.words import Reading


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9712, "97.1%"), (1.0, "100.0%"), (0.0042, "0.42%"), (0.0, "0.0%"), (-0.0001, "−0.01%"), (None, "unknown")],
)
def test_a_share_is_a_percentage_with_a_digit_more_below_one(value, text):
    assert words.percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.003, "−0.3 points"),
        (0.012, "+1.2 points"),
        (0.0, "0.0 points"),
        (-0.0008, "−0.08 points"),
        (None, "unknown"),
    ],
)
def test_a_difference_of_shares_is_in_points_and_signed(value, text):
    assert words.points(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.01, "1 point"), (0.005, "0.5 points"), (-0.02, "2 points")])
def test_a_margin_is_said_exactly(value, text):
    assert words.margin_points(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1438, "1,438"), (2.5, "2.5"), (23.4, "23"), (0.0, "0"), (-3, "−3"), (None, "unknown")]
)
def test_a_count_keeps_its_thousands_apart(value, text):
    assert words.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(3.21, "3.2 s"), (42, "42 s"), (71.3, "1 min 11 s"), (120, "2 min"), (7300, "2 h 1 min")]
)
def test_a_duration_takes_the_unit_that_suits_it(value, text):
    assert words.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(512, "512 bytes"), (70912, "70.9 kB"), (27e6, "27.0 MB"), (3.2e9, "3.2 GB")]
)
def test_bytes_take_the_unit_that_suits_them(value, text):
    assert words.size(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0, "p < 0.001"), (0.0021, "p = 0.002"), (0.31, "p = 0.31")])
def test_a_p_value_is_never_zero(value, text):
    assert words.p_value(value).replace("\u00a0", " ") == text


def test_an_interval_says_its_unit_once():
    assert words.with_interval(Reading(0.971, 0.965, 0.977), words.percent) == "97.1% (96.5 to 97.7%)"
    assert words.with_interval(Reading(0.971), words.percent) == "97.1% (interval unknown)"
    assert words.with_interval(None, words.percent) == "unknown"


@pytest.mark.parametrize("x", [None, math.nan, math.inf, "3", True, {}, {"mean": None}, {"mean": math.nan}, [1.0]])
def test_what_is_no_finite_number_is_unknown(x):
    assert Reading.of(x) is None


def test_an_estimate_keeps_its_interval_and_repeats():
    assert Reading.of({"mean": 1, "low": 0.5, "high": math.inf, "repeats": 5}) == Reading(1.0, 0.5, None, 5)
    assert Reading.of({"value": 2.0, "low": 1.0, "high": 3.0}) == Reading(2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("seeds", "text"), [([0, 1, 2, 7], "0–2, 7"), ([3], "3"), ([1, 2], "1, 2"), (["a", 1], "a, 1"), ([], "")]
)
def test_seeds_in_a_row_are_a_range(seeds, text):
    assert words.ranges(seeds) == text


def test_nested_settings_become_dotted_names():
    assert words.flat({"a": {"b": 1, "c": [1, 2]}, "d": None, "e": {}, "f": True, "g": 0, "h": ""}) == [
        ("a.b", "1"),
        ("a.c", "1, 2"),
        ("d", "none"),
        ("e", "none"),
        ("f", "yes"),
        ("g", "0"),
        ("h", ""),
    ]


def test_a_very_long_list_is_cut_and_says_so():
    assert words.anything(list(range(1000))).endswith("39, and 960 more")


def test_names_are_listed_with_an_and():
    assert [words.listing(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
