"""The examples section: how accuracy falls as examples go, which can go, and how far their scores agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from surplus.report import figures
from surplus.report.common import bare, curve, decay, is_random, levels_of, matrix_table, padded, verdict
from surplus.report.figures import Axis
from surplus.report.parts import Figure, Heading, Key, Part, Table, Text
from surplus.report.pictures import Pictures, feature_table
from surplus.report.words import (
    Reading,
    Result,
    anything,
    count,
    grid,
    mapping,
    number,
    plain,
    records,
    sequence,
)


def examples(result: Result, pictures: Pictures) -> Iterator[Part]:
    """How accuracy falls as examples go, by rule; which are kept; how reliable the scores are."""
    found = mapping(result.get("examples"))
    recommended = mapping(found.get("recommendation"))
    full, rules = Reading.of(found.get("full")), records(found.get("curves"))
    lines = [
        line
        for rule in rules
        if (line := curve(_rule(rule), rule, "fraction", baseline=is_random(rule.get("rule")))).points
    ]
    yield from verdict(recommended, "full training", lines)
    if lines:
        levels = levels_of(full, number(recommended.get("margin")), "all examples")
        yield decay(
            "fractions",
            "Test accuracy by fraction of examples kept",
            lines,
            levels,
            Axis("Fraction of the training examples kept", "~%", least=0.0, most=1.0),
            ("Rule", "Fraction kept"),
        )
    for title, name in (("Hardest examples", "hardest"), ("Easiest examples", "easiest")):
        yield from _extremes(title, records(found.get(name)), pictures)
    yield from _scores(records(found.get("scores")))
    yield from _correlation(mapping(found.get("correlation")))


def _extremes(title: str, chosen: Sequence[Result], pictures: Pictures) -> Iterator[Part]:
    gallery = pictures.gallery(title, chosen)
    if gallery:
        yield gallery
    elif chosen:
        rows = [[anything(e.get("id")), pictures.name(e.get("label"))] for e in chosen]
        table = feature_table(f"{title}, with feature values", chosen, pictures.rows)
        yield table or Table(title, ("Example", "Label"), rows, folded=True)


def _scores(scores: Sequence[Result]) -> Iterator[Part]:
    if scores:
        yield Heading("Scores")
        yield Text(
            "Reliability is how well a score from one half of the runs ranks the examples as the other half does"
            " (1 = perfectly): a score of low reliability says little about any one example."
        )
        yield Table(
            "Scores of the examples",
            ("Score", "Source", "A high score means", "Reliability", "Runs"),
            [
                [
                    anything(s.get("name")),
                    str(s.get("paper") or ""),
                    str(s.get("high") or ""),
                    bare(s.get("reliability")),
                    count(number(s.get("repeats"))),
                ]
                for s in scores
            ],
            frozenset({3, 4}),
        )


def _correlation(found: Result) -> Iterator[Part]:
    lines = grid(found.get("matrix"))
    if len(lines) < 2:
        return
    names = padded(sequence(found.get("names")), max(len(lines), len(lines[0])))
    rows, columns = names[: len(lines)], names[: len(lines[0])]
    pairs = [(v, names[i], names[j]) for i, line in enumerate(lines) for j, v in enumerate(line[:i]) if v is not None]
    least = f" The least alike are {min(pairs)[1]} and {min(pairs)[2]}, {bare(min(pairs)[0])}." if pairs else ""
    yield Figure(
        "correlation",
        "How far the scores agree",
        f"Rank correlation between {len(names)} scores.{least}",
        figures.heat(rows, columns, lines, ".2f"),
        matrix_table("Rank correlation between scores", "Score", rows, columns, lines, plain),
        figures.cells_height(len(rows)),
        (Key("positive", "var(--c1)", shape="square"), Key("negative", "var(--c2)", shape="square")),
        f"Rank correlation over the training examples; 1 is the same order.{least}",
    )


def _rule(found: Result) -> str:
    rule, score = found.get("rule"), found.get("score")
    return f"{rule} ({score})" if rule and score and score != rule else anything(rule or score)
