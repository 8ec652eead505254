"""The five sections of the page, made from the audit's result; a part that is absent leaves no trace but a sentence.

Labels, examples, weights, directions and fit, provenance. Accuracies are on the test set unless the result says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from surplus.report import figures
from surplus.report.figures import Axis, Level, Line
from surplus.report.parts import Figure, Gallery, Heading, Key, Part, Section, Table, Text
from surplus.report.pictures import Pictures, feature_table
from surplus.report.words import (
    UNKNOWN,
    Format,
    Reading,
    anything,
    between,
    count,
    flat,
    items,
    margin_points,
    mapping,
    milliseconds,
    number,
    p_value,
    percent,
    plain,
    plural,
    points,
    ranges,
    records,
    seconds,
    share,
    size,
    times,
    with_interval,
)

Result = Mapping[str, Any]
_ACCURACY = Axis("Test accuracy", "~%", least=0.0, most=1.0)
_FULL_WIDTH = 320


def sections(result: Result, pictures: Pictures) -> list[Section]:
    """All five, in order; those without results say why."""
    return [
        _section(result, "labels", "Labels", "Which labels look wrong?", labels, pictures),
        _section(result, "examples", "Examples", "Which examples can go without loss?", examples, pictures),
        _section(result, "weights", "Weights", "Which weights can go without loss?", weights, pictures),
        _section(result, "directions", "Directions and fit", _DIRECTIONS, directions, pictures),
        Section("provenance", "Provenance", "What do these numbers rest on?", parts=list(provenance(result))),
    ]


_DIRECTIONS = "How many directions does training need, and would more data help?"


def _section(
    result: Result,
    name: str,
    title: str,
    question: str,
    build: Callable[[Result, Pictures], Iterator[Part]],
    pictures: Pictures,
) -> Section:
    found = mapping(result.get(name))
    status = str(found.get("status") or ("done" if found else "left out"))
    parts = [Text(reason, "warning")] if (reason := why(result, name, status)) else []
    return Section(name, title, question, status, parts + list(build(result, pictures)))


def why(result: Result, name: str, status: str) -> str:
    """The reason why a section is not whole, as far as the result tells it."""
    found = mapping(result.get(name))
    reasons = [str(found.get("note") or "")]
    if status != "done":
        reasons += [str(r.get("why") or "") for r in records(result.get("left_out")) if r.get("part") == name]
    told = " ".join(dict.fromkeys(_sentence(reason) for reason in reasons if reason))
    if status == "done":
        return told
    stopped = "The audit was interrupted before it got here." if result.get("status") == "interrupted" else ""
    opening = "Left out." if status == "left out" else "Only part of this was measured."
    return f"{opening} {told or stopped or 'The result gives no reason.'}"


def labels(result: Result, pictures: Pictures) -> Iterator[Part]:
    """How many labels look wrong, which, and how far the ranking can be trusted."""
    found = mapping(result.get("labels"))
    wrong, rate = Reading.of(found.get("mislabeled")), Reading.of(found.get("rate"))
    if wrong:
        part = f", {with_interval(rate, percent)} of the labels" if rate else ""
        yield Text(f"Expected number of wrong labels: {with_interval(wrong, count)}{part}.", "lead")
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
    gallery = pictures.gallery("Suspects, most likely first", suspects)
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
        figures.curves([line], x, Axis("Expected precision", "~%", least=0.0, most=1.0)),
        Table(
            "Expected precision among the top suspects",
            ("Top", "Expected precision", "Interval"),
            [[count(top), percent(v.mean), between(v.low, v.high, percent)] for top, v in known],
            frozenset({0, 1, 2}),
        ),
        _FULL_WIDTH,
        caption="The share of the k highest-ranked suspects whose label is expected to be wrong; the band is its interval."
        " Stop reading the list where the share no longer repays your time.",
    )


def _noise(matrix: Any, names: Sequence[str]) -> Iterator[Part]:
    lines = [[number(v) for v in items(row)] for row in items(matrix)]
    if not lines or not lines[0]:
        return
    rows, columns = _padded(names, len(lines)), _padded(names, max(map(len, lines)))
    off = [(v, i, j) for i, line in enumerate(lines) for j, v in enumerate(line) if i != j and v]
    worst = max(off, default=None)
    said = (
        f"The most frequent confusion: true {rows[worst[1]]} labelled {columns[worst[2]]}, {percent(worst[0])}."
        if worst
        else ""
    )
    yield Figure(
        "noise",
        "Estimated label noise by class",
        f"Matrix of {len(rows)} true classes by {len(columns)} given labels. {said or 'No confusion between classes.'}",
        figures.heat(rows, columns, lines, ".0%"),
        _matrix(
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


def _signals(signals: Sequence[Result]) -> Iterator[Part]:
    if signals:
        yield Table(
            "The signals that were combined",
            ("Signal", "Weight", "Agreement with the combination"),
            [[anything(s.get("name")), plain(number(s.get("weight"))), _bare(s.get("agreement"))] for s in signals],
            frozenset({1, 2}),
        )


def examples(result: Result, pictures: Pictures) -> Iterator[Part]:
    """How accuracy falls as examples go, by rule; which are kept; how reliable the scores are."""
    found = mapping(result.get("examples"))
    recommended = mapping(found.get("recommendation"))
    full, rules = Reading.of(found.get("full")), records(found.get("curves"))
    lines = [line for rule in rules if (line := _line(_rule(rule), rule, "fraction")).points]
    yield from _verdict(recommended, "full training", lines)
    if lines:
        levels = _levels(full, number(recommended.get("margin")), "all examples")
        yield _decay(
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


def _verdict(found: Result, reference: str, lines: Sequence[Line]) -> Iterator[Part]:
    """The audit's sentence, then what "without loss" means here."""
    if found.get("sentence"):
        yield Text(_sentence(str(found["sentence"])), "lead")
    margin = number(found.get("margin"))
    if margin is None:
        return
    told = (
        f"“Without loss” means no worse than {reference} by more than {margin_points(margin)} of accuracy, the"
        " non-inferiority margin: it counts only if the lower confidence bound of the difference lies above minus the margin,"
        " and a bound below it is missing evidence, not proof of a loss."
    )
    difference, low, p = number(found.get("difference")), number(found.get("low")), number(found.get("p_value"))
    if difference is not None:
        told += f" Here the difference is {points(difference)}, its lower bound {points(low)} ({p_value(p)}):"
        told += " within the margin." if found.get("verdict") else " not shown to be within the margin."
    yield Text(told)


def _decay(
    id: str, title: str, lines: Sequence[Line], levels: Sequence[Level], x: Axis, columns: tuple[str, str]
) -> Figure:
    """Accuracy against what is kept, for all methods."""
    least = min(at for line in lines for at, _ in line.points)
    ends = [(line.points[0][1].mean, line.name) for line in lines if line.points[0][0] == least]
    best = max(ends)
    rows = [
        [line.name, share(at), percent(v.mean), between(v.low, v.high, percent), _repeats(v)]
        for line in lines
        for at, v in line.points
    ]
    return Figure(
        id,
        title,
        f"{plural(len(lines), 'curve')} of test accuracy. At {share(least)} kept the best is {best[1]} with {percent(best[0])}"
        + (f"; for comparison, {levels[0].name}: {percent(levels[0].at.mean)}." if levels else "."),
        figures.curves(lines, x, _ACCURACY, levels),
        Table(
            f"{title}, with intervals", (*columns, "Test accuracy", "Interval", "Seeds"), rows, frozenset({1, 2, 3, 4})
        ),
        _FULL_WIDTH,
        figures.legend(lines, levels),
        _seeds(v for line in lines for _, v in line.points),
    )


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
                    _bare(s.get("reliability")),
                    count(number(s.get("repeats"))),
                ]
                for s in scores
            ],
            frozenset({3, 4}),
        )


def _correlation(found: Result) -> Iterator[Part]:
    lines = [[number(v) for v in items(row)] for row in items(found.get("matrix"))]
    names = _padded([str(name) for name in items(found.get("names"))], len(lines))
    if len(lines) < 2:
        return
    pairs = [(v, names[i], names[j]) for i, line in enumerate(lines) for j, v in enumerate(line[:i]) if v is not None]
    least = f" The least alike are {min(pairs)[1]} and {min(pairs)[2]}, {_bare(min(pairs)[0])}." if pairs else ""
    yield Figure(
        "correlation",
        "How far the scores agree",
        f"Rank correlation between {len(names)} scores.{least}",
        figures.heat(names, names, lines, ".2f"),
        _matrix("Rank correlation between scores", "Score", names, names, lines, plain),
        figures.cells_height(len(names)),
        (Key("positive", "var(--c1)", shape="square"), Key("negative", "var(--c2)", shape="square")),
        f"Rank correlation over the training examples; 1 is the same order.{least}",
    )


def weights(result: Result, pictures: Pictures) -> Iterator[Part]:
    """How accuracy falls as weights go, by method; the ticket; the network that is really smaller."""
    found = mapping(result.get("weights"))
    ticket = mapping(found.get("ticket"))
    lines = [
        line for c in records(found.get("curves")) if (line := _line(anything(c.get("method")), c, "density")).points
    ]
    yield from _verdict(ticket, "the dense network", lines)
    if lines:
        levels = _levels(Reading.of(found.get("dense")), number(ticket.get("margin")), "dense")
        yield _decay(
            "densities",
            "Test accuracy by density of the weights",
            lines,
            levels,
            Axis("Density: share of the prunable weights kept (logarithmic)", "~%", log=True),
            ("Method", "Density"),
        )
    if ticket.get("file"):
        yield Text(f"The ticket (mask and starting weights) is in {ticket['file']}.")
    yield from _structured(mapping(found.get("structured")), mapping(mapping(result.get("timing")).get("latency")))


def _structured(found: Result, latency: Result) -> Iterator[Part]:
    """The shrunken network beside the one it came from."""
    before, after = mapping(found.get("before")), mapping(found.get("after"))
    if not before or not after:
        return
    yield Heading("A network that is really smaller")
    if found.get("sentence"):
        yield Text(_sentence(str(found["sentence"])), "lead")
    sizes = [("Parameters", "parameters", count), ("Multiply-adds", "macs", count), ("Size on disk", "bytes", size)]
    quantities = [(name, Reading.of(before.get(key)), Reading.of(after.get(key)), form) for name, key, form in sizes]
    quantities.append(
        ("Latency", Reading.of(latency.get("before_ms")), Reading.of(latency.get("after_ms")), milliseconds)
    )
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
        caption="Latency is measured on this machine; its bar shows the interval of the time after, relative to the mean before.",
    )
    if found.get("file"):
        yield Text(f"The smaller network is in {found['file']}.")


def directions(result: Result, pictures: Pictures) -> Iterator[Part]:
    """Intrinsic dimension, curvature, barriers between runs, and what more data would give."""
    found = mapping(result.get("directions"))
    yield from _dimension(mapping(found.get("intrinsic_dimension")))
    yield from _learning(mapping(found.get("learning_curve")))
    yield from _barrier(mapping(found.get("barrier")))
    yield from _curvature(mapping(found.get("curvature")))


def _dimension(found: Result) -> Iterator[Part]:
    line = _line("random subspace", found, "dimension")
    if not line.points:
        return
    threshold, reached = number(found.get("threshold")), number(found.get("dimension"))
    total = number(found.get("parameters"))
    of = f" of {count(total)}" if total else ""
    said = (
        f"A random subspace of {plural(reached, 'dimension')}{of} is the smallest one tried that reaches {percent(threshold)}."
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
        figures.curves(
            [line], Axis("Dimension of the random subspace (logarithmic)", "~s", log=True), _ACCURACY, levels
        ),
        Table(
            "Test accuracy in random subspaces",
            ("Dimension", "Test accuracy", "Interval", "Seeds"),
            [[count(at), percent(v.mean), between(v.low, v.high, percent), _repeats(v)] for at, v in line.points],
            frozenset({0, 1, 2, 3}),
        ),
        _FULL_WIDTH,
        figures.legend([line], levels),
        "Only the dimensions shown were tried, so the intrinsic dimension lies between the chosen one and the one before."
        + _seeds((v for _, v in line.points), " "),
    )


def _learning(found: Result) -> Iterator[Part]:
    measured = _line("measured", found, "n", "error")
    if not measured.points:
        return
    lines, twice = [measured], mapping(found.get("twice"))
    then, at = Reading.of({**twice, "mean": twice.get("error")}), number(twice.get("n"))
    if then is not None and at is not None:
        lines.append(Line("law, at twice the data", [(at, then)]))
    if found.get("sentence"):
        yield Text(_sentence(str(found["sentence"])), "lead")
    rows = [
        [line.name, count(n), percent(v.mean), between(v.low, v.high, percent), _repeats(v)]
        for line in lines
        for n, v in line.points
    ]
    said = f"Test error {percent(measured.points[0][1].mean)} with {count(measured.points[0][0])} examples,"
    said += f" {percent(measured.points[-1][1].mean)} with {count(measured.points[-1][0])}"
    if len(lines) == 2 and then is not None:
        said += f"; the law predicts {with_interval(then, percent)} with {count(at)}"
    x = Axis("Training examples (logarithmic)", "~s", log=True)
    yield Figure(
        "learning",
        "Test error by number of training examples",
        f"{said}.",
        figures.curves(lines, x, Axis("Test error (logarithmic)", "~%", log=True, least=0.0), band=False),
        Table("Learning curve", ("", "Examples", "Test error", "Interval", "Seeds"), rows, frozenset({1, 2, 3, 4})),
        _FULL_WIDTH,
        figures.legend(lines),
        "Bars are intervals. The point at twice the data is an extrapolation of the fitted law: its interval holds only if"
        " the law goes on beyond the sizes that were measured.",
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
    said = f"Error barrier between two runs: {with_interval(height, _unsigned)}." if height else ""
    losses = {number(p.get("at")): number(p.get("loss")) for p in records(found.get("curve"))}
    yield Figure(
        "barrier",
        "Error on the straight line between two trained networks",
        f"{said} Error is {percent(known[0][1].mean)} at one end, {percent(max(e.mean for _, e in known))} at its highest.".strip(),
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
        _FULL_WIDTH,
        caption=f"{said} A barrier near zero means that the runs lie in one basin, and that their weights may be averaged.".strip(),
    )


def _curvature(found: Result) -> Iterator[Part]:
    names = {"top_eigenvalue": "Largest eigenvalue of the Hessian", "trace": "Trace of the Hessian"}
    read = [(names.get(str(k), str(k)), Reading.of(v)) for k, v in found.items()]
    rows = [[name, plain(v.mean), between(v.low, v.high, plain), _repeats(v)] for name, v in read if v]
    if rows:
        columns = ("Measure", "Value", "Interval", "Repeats")
        yield Table("Curvature of the training loss at the trained network", columns, rows, frozenset({1, 2, 3}))


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


def classes(result: Result) -> list[str]:
    """The classes' names."""
    return [str(name) for name in items(mapping(result.get("data")).get("classes"))]


def _line(name: str, found: Result, x: str, y: str = "accuracy") -> Line:
    """The known points of a curve, from left to right; random choice is the baseline."""
    read = [(number(p.get(x)), Reading.of(p.get(y))) for p in records(found.get("points"))]
    known = sorted(((at, v) for at, v in read if at is not None and v is not None), key=lambda pair: pair[0])
    return Line(name, known, baseline="random" in name.lower() and name != "random subspace")


def _rule(found: Result) -> str:
    rule, score = found.get("rule"), found.get("score")
    return f"{rule} ({score})" if rule and score and score != rule else anything(rule or score)


def _levels(full: Reading | None, margin: float | None, name: str) -> list[Level]:
    if full is None:
        return []
    levels = [Level(name, full)]
    if margin:
        levels.append(Level(f"{name}, less the margin", Reading(full.mean - abs(margin)), (2, 3), "var(--c2)"))
    return levels


def _matrix(
    caption: str,
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    lines: Sequence[Sequence[float | None]],
    form: Format,
) -> Table:
    cells = [[name, *(form(v) for v in line)] for name, line in zip(rows, lines, strict=True)]
    return Table(caption, (corner, *columns), cells, frozenset(range(1, len(columns) + 1)))


def _padded(names: Sequence[str], n: int) -> list[str]:
    return [names[i] if i < len(names) else str(i) for i in range(n)]


def _ratio(after: Reading, before: Reading) -> Reading:
    ends = after.bounds()
    low, high = (end / before.mean for end in ends) if ends else (None, None)
    return Reading(after.mean / before.mean, low, high)


def _shown(value: Reading | None, form: Format) -> str:
    return UNKNOWN if value is None else with_interval(value, form) if value.bounds() else form(value.mean)


def _unsigned(x: float | None) -> str:
    return points(x).lstrip("+")


def _bare(x: Any) -> str:
    value = Reading.of(x)
    return UNKNOWN if value is None else f"{value.mean:.2f}".replace("-", "−")


def _repeats(value: Reading) -> str:
    return UNKNOWN if value.repeats is None else str(value.repeats)


def _seeds(values: Iterator[Reading], before: str = "") -> str:
    """How many networks stand behind the points of a figure."""
    known = sorted({v.repeats for v in values if v.repeats is not None})
    if not known:
        return ""
    each = f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
    seeds = "seed" if known[-1] == 1 else "seeds"
    wide = " With so few, intervals are wide and their own width is uncertain." if 1 < known[-1] < 5 else ""
    lone = " One seed shows no spread, so there is no interval." if known[-1] == 1 else ""
    return f"{before}Each point is the mean of {each} {seeds}; the band is its interval.{wide}{lone}"


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if not text or text[-1] in ".!?:" else f"{text}."
