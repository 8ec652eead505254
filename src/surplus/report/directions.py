"""The section on directions and fit: intrinsic dimension, learning curve, barrier and curvature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from surplus.report import figures
from surplus.report.common import ACCURACY, TALL, curve, repeats, seed_note, sentence
from surplus.report.figures import Axis, Level, Line
from surplus.report.parts import Figure, Part, Table, Text
from surplus.report.pictures import Pictures
from surplus.report.words import (
    Reading,
    Result,
    between,
    count,
    mapping,
    number,
    percent,
    plain,
    plural,
    points,
    records,
    share,
    with_interval,
)


def directions(result: Result, pictures: Pictures) -> Iterator[Part]:
    """Intrinsic dimension, curvature, barriers between runs, and what more data would give."""
    found = mapping(result.get("directions"))
    yield from _dimension(mapping(found.get("intrinsic_dimension")))
    yield from _learning(mapping(found.get("learning_curve")))
    yield from _barrier(mapping(found.get("barrier")))
    yield from _curvature(mapping(found.get("curvature")))


def _dimension(found: Result) -> Iterator[Part]:
    line = curve("random subspace", found, "dimension")
    if not line.points:
        return
    threshold, reached = number(found.get("threshold")), number(found.get("dimension"))
    total = number(found.get("parameters"))
    of = f" of {count(total)}" if total else ""
    said = (
        f"A random subspace of {plural(reached, 'dimension')}{of} is the smallest one tried that reaches"
        f" {percent(threshold)}."
        if reached is not None
        else f"No subspace tried, up to {plural(line.points[-1][0], 'dimension')}{of}, reaches {percent(threshold)}."
    )
    levels = []
    if (baseline := Reading.of(found.get("baseline"))) is not None:
        levels.append(Level("all directions", baseline))
    if threshold is not None:
        levels.append(Level("threshold", Reading(threshold), (2, 3), "var(--c2)"))
    yield Text(said, "lead")
    yield Figure(
        "dimension",
        "Test accuracy by number of trained directions",
        said,
        figures.curves([line], Axis("Dimension of the subspace (logarithmic)", "~s", log=True), ACCURACY, levels),
        Table(
            "Test accuracy in random subspaces",
            ("Dimension", "Test accuracy", "Interval", "Seeds"),
            [[count(at), percent(v.mean), between(v.low, v.high, percent), repeats(v)] for at, v in line.points],
            frozenset({0, 1, 2, 3}),
        ),
        TALL,
        figures.legend([line], levels),
        "Only the dimensions shown were tried, so the intrinsic dimension lies between the chosen one and the one"
        " before." + seed_note((v for _, v in line.points), " "),
    )


def _learning(found: Result) -> Iterator[Part]:
    measured = curve("measured", found, "n", "error")
    if not measured.points:
        return
    lines, twice = [measured], mapping(found.get("twice"))
    then, at = Reading.of({**twice, "mean": twice.get("error")}), number(twice.get("n"))
    if then is not None and at is not None:
        lines.append(Line("law, at twice the data", [(at, then)]))
    if found.get("sentence"):
        yield Text(sentence(str(found["sentence"])), "lead")
    rows = [
        [line.name, count(n), percent(v.mean), between(v.low, v.high, percent), repeats(v)]
        for line in lines
        for n, v in line.points
    ]
    said = f"Test error {percent(measured.points[0][1].mean)} with {count(measured.points[0][0])} examples,"
    said += f" {percent(measured.points[-1][1].mean)} with {count(measured.points[-1][0])}"
    if len(lines) == 2 and then is not None:
        said += f"; the law predicts {with_interval(then, percent)} with {count(at)}"
    x = Axis("Training examples (logarithmic)", "~s", log=True)
    log = all(v.mean > 0 for line in lines for _, v in line.points)
    error = Axis(f"Test error{' (logarithmic)' if log else ''}", "~%", log=log, least=0.0, most=1.0)
    yield Figure(
        "learning",
        "Test error by number of training examples",
        f"{said}.",
        figures.curves(lines, x, error, band=False),
        Table("Learning curve", ("", "Examples", "Test error", "Interval", "Seeds"), rows, frozenset({1, 2, 3, 4})),
        TALL,
        figures.legend(lines),
        "Bars are intervals. The point at twice the data is an extrapolation of the fitted law: its interval holds only"
        " if the law goes on beyond the sizes that were measured.",
    )
    yield from _law(mapping(found.get("law")))


def _law(found: Result) -> Iterator[Part]:
    fitted = [(str(k), Reading.of(v)) for k, v in mapping(found.get("parameters")).items()]
    rows = [[name, plain(v.mean), between(v.low, v.high, plain)] for name, v in fitted if v]
    if rows:
        caption = f"The fitted law: {found.get('form') or 'of unknown form'}"
        yield Table(caption, ("Parameter", "Value", "Interval"), rows, frozenset({1, 2}))


def _barrier(found: Result) -> Iterator[Part]:
    path = [(number(p.get("at")), Reading.of(p.get("error"))) for p in records(found.get("curve"))]
    known = [(at, error) for at, error in path if at is not None and error is not None]
    if not known:
        return
    height = Reading.of(found.get("error"))
    said = f"Error barrier between two runs: {with_interval(height, unsigned)}." if height else ""
    top = max(error.mean for _, error in known)
    losses = {number(p.get("at")): number(p.get("loss")) for p in records(found.get("curve"))}
    yield Figure(
        "barrier",
        "Error on the straight line between two trained networks",
        f"{said} Error is {percent(known[0][1].mean)} at one end, {percent(top)} at its highest.".strip(),
        figures.curves(
            [Line("error", known)],
            Axis("Way from one run to the other", "~%"),
            Axis("Error", "~%", least=0.0, most=1.0),
        ),
        Table(
            "Error and loss between two runs",
            ("Way", "Error", "Loss"),
            [[share(at), percent(e.mean), plain(losses.get(at))] for at, e in known],
            frozenset({0, 1, 2}),
        ),
        TALL,
        caption=f"{said} Near zero, the runs lie in one basin, and their weights may be averaged.".strip(),
    )


def _curvature(found: Result) -> Iterator[Part]:
    names = {"top_eigenvalue": "Largest eigenvalue of the Hessian", "trace": "Trace of the Hessian"}
    read = [(names.get(str(k), str(k)), Reading.of(v)) for k, v in found.items() if isinstance(v, Mapping)]
    rows = [[name, plain(v.mean), between(v.low, v.high, plain), repeats(v)] for name, v in read if v]
    if rows:
        columns = ("Measure", "Value", "Interval", "Repeats")
        n = number(found.get("examples"))
        on = f", on {count(n)} training examples" if n else ""
        yield Table(f"Curvature of the training loss at the trained network{on}", columns, rows, frozenset({1, 2, 3}))


def unsigned(x: float | None) -> str:
    """A barrier in points, which is a height and has no plus sign."""
    return points(x).lstrip("+")
