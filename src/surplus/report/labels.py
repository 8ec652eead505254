"""The labels section: how many labels look wrong, which, and how far their ranking can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from surplus.report import figures
from surplus.report.common import TALL, bare, classes, matrix_table, padded
from surplus.report.figures import Axis, Line
from surplus.report.parts import Figure, Part, Table, Text
from surplus.report.pictures import Pictures, feature_table
from surplus.report.words import (
    Reading,
    Result,
    anything,
    between,
    count,
    grid,
    mapping,
    number,
    percent,
    plain,
    plural,
    records,
    with_interval,
)

_MANY = 40  # classes: a larger matrix cannot be read


def labels(result: Result, pictures: Pictures) -> Iterator[Part]:
    """How many labels look wrong, which, and how far the ranking can be trusted."""
    found = mapping(result.get("labels"))
    wrong, rate = Reading.of(found.get("mislabeled")), Reading.of(found.get("rate"))
    if wrong:
        part = f", {with_interval(rate, percent)} of the labels" if rate and wrong.mean >= 0.5 else ""
        few = "below one half" if wrong.high is not None and wrong.high < 0.5 else with_interval(wrong, count)
        yield Text(f"Expected number of wrong labels: {few}{part}.", "lead")
    accuracy = Reading.of(found.get("held_out_accuracy"))
    if accuracy:
        yield Text(
            f"Each label was judged by networks that had not been trained on it. Such networks agree with"
            f" {with_interval(accuracy, percent)} of the labels. A suspect is a disagreement to look at, not a proof:"
            " a rare but correct example is suspected too."
        )
    yield from _suspects(found, result, pictures)
    yield from _precision(records(found.get("precision")))
    yield from _noise(found.get("noise_matrix"), classes(result))
    yield from _signals(records(found.get("signals")))


def _suspects(found: Result, result: Result, pictures: Pictures) -> Iterator[Part]:
    suspects = records(found.get("suspects"))
    if not suspects:
        return
    chances = [number(s.get("mislabel_probability")) or 0.0 for s in suspects]
    if max(chances) < 0.5:
        yield Text("No suspect is more likely wrong than right; the list shows the least sure labels all the same.")
    likely = sum(chance >= 0.1 for chance in chances)
    gallery = pictures.gallery("Suspects, most likely first", suspects, min(24, max(8, likely)))
    if gallery:
        yield gallery
    rows = [
        [
            anything(s.get("id")),
            pictures.name(s.get("label")),
            pictures.name(s.get("suggested")),
            percent(number(s.get("mislabel_probability"))),
        ]
        for s in suspects
    ]
    columns = ("Example", "Label given", "Label suggested", "Probability that the label is wrong")
    yield Table(
        f"The {plural(len(rows), 'label')} most likely to be wrong", columns, rows, frozenset({3}), folded=bool(gallery)
    )
    table = feature_table("Feature values of the suspects", suspects, pictures.rows)
    if table:
        yield table


def _precision(rows: Sequence[Result]) -> Iterator[Part]:
    read = [(number(r.get("top")), Reading.of({**r, "mean": r.get("precision")})) for r in rows]
    known = [(top, value) for top, value in read if top is not None and value is not None]
    if not known:
        return
    line = Line("expected precision", known)
    x = Axis("Suspects looked at, from the top", "~s", marks=[top for top, _ in known] if len(known) < 8 else ())
    first, last = known[0], known[-1]
    yield Figure(
        "precision",
        "How many of the top suspects are truly wrong",
        f"Expected precision falls from {percent(first[1].mean)} in the top {count(first[0])}"
        f" to {percent(last[1].mean)} in the top {count(last[0])}."
        if last[1].mean < first[1].mean
        else f"Expected precision is {percent(first[1].mean)} in the top {count(first[0])}"
        f" and {percent(last[1].mean)} in the top {count(last[0])}.",
        figures.curves([line], x, Axis("Expected precision", "~%", least=0.0, most=1.0, whole=True)),
        Table(
            "Expected precision among the top suspects",
            ("Top", "Expected precision", "Interval"),
            [[count(top), percent(v.mean), between(v.low, v.high, percent)] for top, v in known],
            frozenset({0, 1, 2}),
        ),
        TALL,
        caption="The share of the top suspects whose label is expected to be wrong; the band is its interval."
        " Stop reading the list where the share no longer repays your time.",
    )


def _noise(matrix: Any, names: Sequence[str]) -> Iterator[Part]:
    lines = grid(matrix)
    if not lines:
        return
    if len(lines) > _MANY:
        yield from _confusions(lines, names)
        return
    rows, columns = padded(names, len(lines)), padded(names, len(lines[0]))
    off = [(v, i, j) for i, line in enumerate(lines) for j, v in enumerate(line) if i != j and v and v >= 0.001]
    worst = max(off, default=None)
    said = (
        f"The most frequent confusion: true {rows[worst[1]]} labelled {columns[worst[2]]}, {percent(worst[0])}."
        if worst
        else ""
    )
    yield Figure(
        "noise",
        "Estimated label noise by class",
        f"Matrix of {len(rows)} true classes by {len(columns)} given labels. {said or 'No confusion above 0.1%.'}",
        figures.heat(rows, columns, lines, ".0%"),
        matrix_table(
            "Probability of each given label (columns) by true class (rows)",
            "True class",
            rows,
            columns,
            lines,
            percent,
        ),
        figures.cells_height(len(rows)),
        caption=f"Rows are true classes, columns the label given; each row adds up to one. {said}",
    )


def _confusions(lines: Sequence[Sequence[float | None]], names: Sequence[str]) -> Iterator[Part]:
    """The largest entries off the diagonal, where the matrix is too large to be looked at."""
    entries = [(v, i, j) for i, line in enumerate(lines) for j, v in enumerate(line) if i != j and v]
    names = padded(names, max(len(lines), len(lines[0])))
    rows = [[names[i], names[j], percent(v)] for v, i, j in sorted(entries, reverse=True)[:20]]
    if rows:
        yield Table("The most frequent confusions", ("True class", "Label given", "Probability"), rows, frozenset({2}))


def _signals(signals: Sequence[Result]) -> Iterator[Part]:
    if signals:
        rows = [[anything(s.get("name")), plain(number(s.get("weight"))), bare(s.get("agreement"))] for s in signals]
        wide = 3 if any(number(s.get("agreement")) is not None for s in signals) else 2
        columns = ("Signal", "Weight", "Agreement with the combination")[:wide]
        yield Table("The signals that were combined", columns, [row[:wide] for row in rows], frozenset({1, 2}))
