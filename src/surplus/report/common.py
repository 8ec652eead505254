"""What several sections are made with: curves of estimates, the verdict on a loss, matrices, notes on seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from surplus.report import figures
from surplus.report.figures import Axis, Level, Line
from surplus.report.parts import Figure, Part, Table, Text
from surplus.report.words import (
    UNKNOWN,
    Format,
    Reading,
    Result,
    between,
    mapping,
    margin_points,
    number,
    p_value,
    percent,
    plural,
    points,
    records,
    sequence,
    share,
)

ACCURACY = Axis("Test accuracy", "~%", least=0.0, most=1.0)
TALL = 320


def classes(result: Result) -> list[str]:
    """The classes' names."""
    names = sequence(mapping(result.get("data")).get("classes"))
    return padded(names, len(names))


def curve(name: str, found: Result, x: str, y: str = "accuracy", baseline: bool = False) -> Line:
    """The known points of a curve, from left to right."""
    read = [(number(p.get(x)), Reading.of(p.get(y))) for p in records(found.get("points"))]
    known = sorted(((at, v) for at, v in read if at is not None and v is not None), key=lambda pair: pair[0])
    return Line(name, known, baseline)


def is_random(name: Any) -> bool:
    """Whether a rule or method is the baseline that every other must beat."""
    return "random" in str(name).lower()


def levels_of(full: Reading | None, margin: float | None, name: str) -> list[Level]:
    """What the curves are compared with: the full system, and the same less the margin."""
    if full is None:
        return []
    levels = [Level(name, full)]
    if margin:
        levels.append(Level(f"{name}, less the margin", Reading(full.mean - abs(margin)), (2, 3), "var(--c2)"))
    return levels


def verdict(found: Result, reference: str, lines: Sequence[Line]) -> Iterator[Part]:
    """The audit's sentence, then what "without loss" means here."""
    if found.get("sentence"):
        yield Text(sentence(str(found["sentence"])), "lead")
    margin = number(found.get("margin"))
    if margin is None:
        return
    told = (
        f"“Without loss” means no worse than {reference} by more than {margin_points(margin)} of accuracy, the"
        " non-inferiority margin: it counts only if the lower confidence bound of the difference lies above minus the"
        " margin, and a bound below it is missing evidence, not proof of a loss."
    )
    difference, low, p = number(found.get("difference")), number(found.get("low")), number(found.get("p_value"))
    if difference is not None:
        told += f" Here the difference is {points(difference)}, its lower bound {points(low)} ({p_value(p)}):"
        told += " within the margin." if found.get("verdict") else " not shown to be within the margin."
        tried = sum(len(line.points) for line in lines)
        told += f" {tried} settings were measured; the test is of the one chosen." if tried > 1 else ""
    yield Text(told)


def decay(
    id: str,
    title: str,
    lines: Sequence[Line],
    levels: Sequence[Level],
    x: Axis,
    columns: tuple[str, str],
    law: Line | None = None,
) -> Figure:
    """Accuracy against what is kept, for all methods, and a law fitted to the first."""
    drawn = [*lines, *([law] if law else [])]
    least = min(at for line in lines for at, _ in line.points)
    ends = [(line.points[0][1].mean, line.name) for line in lines if line.points[0][0] == least]
    best, name = max(ends)
    said = f"{plural(len(lines), 'curve')} of test accuracy."
    said += f" At {share(least)} kept the best is {name} with {percent(best)}"
    said += f"; for comparison, {levels[0].name}: {percent(levels[0].at.mean)}." if levels else "."
    rows = [
        [line.name, share(at), percent(v.mean), between(v.low, v.high, percent), repeats(v)]
        for line in lines
        for at, v in line.points
    ]
    return Figure(
        id,
        title,
        said,
        figures.curves(drawn, x, ACCURACY, levels),
        Table(
            f"{title}, with intervals", (*columns, "Test accuracy", "Interval", "Seeds"), rows, frozenset({1, 2, 3, 4})
        ),
        TALL,
        figures.legend(drawn, levels),
        seed_note(v for line in lines for _, v in line.points),
    )


def matrix_table(
    caption: str,
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    lines: Sequence[Sequence[float | None]],
    form: Format,
) -> Table:
    """A matrix as a table with a head for each row and column."""
    cells = [[name, *(form(v) for v in line)] for name, line in zip(rows, lines, strict=True)]
    return Table(caption, (corner, *columns), cells, frozenset(range(1, len(columns) + 1)))


def padded(names: Sequence[Any], n: int) -> list[str]:
    """N names, numbers where there are too few."""
    return [str(i if i >= len(names) or names[i] is None else names[i]) for i in range(n)]


def bare(x: Any) -> str:
    """A correlation, a weight or another number between -1 and 1."""
    value = Reading.of(x)
    return UNKNOWN if value is None else f"{value.mean:.2f}".replace("-", "−")


def repeats(value: Reading) -> str:
    """How many repeats an estimate rests on."""
    return UNKNOWN if value.repeats is None else str(value.repeats)


def seed_note(values: Iterator[Reading], before: str = "") -> str:
    """How many networks stand behind the points of a figure."""
    known = sorted({v.repeats for v in values if v.repeats is not None})
    if not known:
        return ""
    each = f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
    if known[-1] == 1:
        return f"{before}Each point is one seed, which shows no spread: there is no interval."
    wide = " With so few, intervals are wide and their own width is uncertain." if known[-1] < 5 else ""
    return f"{before}Each point is the mean of {each} seeds; the band is its interval.{wide}"


def sentence(text: str) -> str:
    """A note of the result as a sentence: a capital first, a full stop last."""
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if not text or text[-1] in ".!?:" else f"{text}."
