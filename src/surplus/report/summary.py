"""What the page says first: seven questions, each answered in a few words and one or two sentences.

Every answer carries its interval, and an answer that the data do not support says so.
"""

from __future__ import annotations

from typing import Any

from surplus.report.common import sentence
from surplus.report.parts import Answer
from surplus.report.words import (
    Reading,
    Result,
    between,
    count,
    items,
    listing,
    mapping,
    margin_points,
    milliseconds,
    number,
    p_value,
    percent,
    plural,
    points,
    records,
    share,
    times,
    with_interval,
)


def answers(result: Result) -> list[Answer]:
    """The seven answers, in the order of the sections."""
    return [
        _labels(result),
        _examples(result),
        _weights(result),
        _smaller(result),
        _dimension(result),
        _twice(result),
        _left_out(result),
    ]


def opening(result: Result) -> str:
    """What was audited, in one sentence."""
    data, network = mapping(result.get("data")), mapping(result.get("network"))
    sizes = [
        f"{count(n)} {name} examples"
        for name in ("training", "validation", "test")
        if (n := number(data.get("train" if name == "training" else name))) is not None
    ]
    kinds = plural(len(items(data.get("classes"))), "class", "classes") if items(data.get("classes")) else ""
    told = ", ".join(filter(None, [listing(sizes), kinds]))
    weights = (
        f" ({plural(number(network.get('parameters')), 'parameter')})" if number(network.get("parameters")) else ""
    )
    carved = " The test examples were carved out of the data, for it came without any." if data.get("carved") else ""
    name, net = data.get("name") or result.get("name") or "the data", network.get("name") or "unnamed"
    return f"What the network {net}{weights} and the data {name}{f' ({told})' if told else ''} can do without.{carved}"


def _labels(result: Result) -> Answer:
    question, found = "How many labels look wrong?", mapping(result.get("labels"))
    wrong, rate = Reading.of(found.get("mislabeled")), Reading.of(found.get("rate"))
    if wrong is None:
        return _missing(question, result, "labels")
    total = number(mapping(result.get("data")).get("train"))
    of = f" of {count(total)}" if total else ""
    ends = between(wrong.low, wrong.high, count).replace(" to ", " and ")
    text = f"The expected number of wrong labels lies between {ends}." if wrong.bounds() else "Its interval is unknown."
    text += f" That is {with_interval(rate, percent)} of the training labels." if rate else ""
    if wrong.mean < 0.5:
        sure = wrong.high is not None and wrong.high < 0.5
        text = "The expected number of wrong labels is below one half, with its whole interval." if sure else text
        return Answer(question, f"Next to none{of}", text, "labels")
    return Answer(question, f"About {count(round(wrong.mean))}{of}", text, "labels")


def _examples(result: Result) -> Answer:
    question = "What fraction of the examples can go?"
    found = mapping(mapping(result.get("examples")).get("recommendation"))
    fraction, rule = number(found.get("fraction")), found.get("rule") or "an unnamed rule"
    if fraction is None:
        return _missing(question, result, "examples", "recommendation")
    if not found.get("verdict") or fraction >= 1:
        text = f"No part of the examples was shown to do as well as all; the best candidate, by {rule}, has"
        return Answer(question, "None, as far as shown", f"{text} {_evidence(found)}", "examples")
    kept = _kept(found.get("kept"), fraction, number(mapping(result.get("data")).get("train")))
    how = f"the {share(fraction)}{f' ({kept} examples)' if kept else ''} that the rule {rule} keeps"
    text = f"Trained on {how}, the network is no worse than on all: {_evidence(found)}"
    return Answer(question, f"{share(1 - fraction)} can go", text, "examples")


def _weights(result: Result) -> Answer:
    question, found = "What density of weights suffices?", mapping(mapping(result.get("weights")).get("ticket"))
    density = number(found.get("density"))
    if density is None:
        return _missing(question, result, "weights", "ticket")
    if not found.get("verdict") or density >= 1:
        text = f"No sparser network was shown to do as well as the dense one; the best candidate has {_evidence(found)}"
        return Answer(question, "None below 100%, as far as shown", text, "weights")
    total = number(mapping(result.get("network")).get("prunable"))
    kept = _kept(found.get("kept"), density, total)
    accuracy = Reading.of(found.get("accuracy"))
    reached = f"reaches {with_interval(accuracy, percent)} test accuracy" if accuracy else "was tested"
    of = f" of {count(total)}" if total and kept else ""
    text = f"The network with {kept or share(density)}{of} prunable weights {reached}: {_evidence(found)}"
    return Answer(question, f"{share(density)} of the weights", text, "weights")


def _smaller(result: Result) -> Answer:
    question = "How much smaller and faster can it be made?"
    found = mapping(mapping(result.get("weights")).get("structured"))
    before, after = mapping(found.get("before")), mapping(found.get("after"))
    old, new = number(before.get("parameters")), number(after.get("parameters"))
    if not old or not new:
        return _missing(question, result, "weights", "structured")
    work = times(number(before.get("macs")), number(after.get("macs")))
    text = f"{count(old)} parameters become {count(new)}" + (f", with {work} fewer multiply-adds." if work else ".")
    was, now = Reading.of(before.get("accuracy")), Reading.of(after.get("accuracy"))
    if was and now:
        text += f" Test accuracy goes from {percent(was.mean)} to {percent(now.mean)}."
    speed, told = _speed(mapping(mapping(result.get("timing")).get("latency")))
    return Answer(question, f"{times(old, new)} smaller{speed}", f"{text} {told}", "weights")


def _speed(latency: Result) -> tuple[str, str]:
    """How much faster, claimed only where the intervals of the two times lie apart."""
    old, new = Reading.of(latency.get("before_ms")), Reading.of(latency.get("after_ms"))
    if not old or not new or not (factor := times(old.mean, new.mean)):
        return "", "Its speed was not measured."
    faster = old.low is not None and new.high is not None and new.high < old.low and factor != "1.0×"
    slower = old.high is not None and new.low is not None and old.high < new.low and factor != "1.0×"
    told = f"A forward pass takes {with_interval(new, milliseconds)} instead of {with_interval(old, milliseconds)}."
    if slower:
        return f", {times(new.mean, old.mean)} slower", told
    return f", {factor} faster" if faster else ", not shown to be faster", told


def _dimension(result: Result) -> Answer:
    question = "How many directions does training need?"
    found = mapping(mapping(result.get("directions")).get("intrinsic_dimension"))
    tried = sorted(n for p in records(found.get("points")) if (n := number(p.get("dimension"))) is not None)
    reached, threshold, total = (number(found.get(k)) for k in ("dimension", "threshold", "parameters"))
    if reached is None and not tried:
        return _missing(question, result, "directions", "intrinsic dimension")
    of = f" of {count(total)}" if total else ""
    goal, full = percent(threshold), number(found.get("baseline"))
    goal += f", {share(threshold / full)} of the full network's {percent(full)}" if threshold and full else ""
    if reached is None:
        text = f"No random subspace tried reaches the threshold of {goal}."
        return Answer(question, f"More than {count(tried[-1])}{of}", text, "directions")
    below = [n for n in tried if n < reached]
    text = f"Training in a random subspace of that dimension reaches {goal}."
    text += f" The next smaller one tried, {count(below[-1])}, does not." if below else " No smaller one was tried."
    return Answer(question, f"About {count(reached)}{of}", text, "directions")


def _twice(result: Result) -> Answer:
    question = "What would twice the data give?"
    found = mapping(mapping(result.get("directions")).get("learning_curve"))
    twice, today = mapping(found.get("twice")), number(mapping(found.get("now")).get("error"))
    then, n = Reading.of({**twice, "mean": twice.get("error")}), number(twice.get("n"))
    if then is None:
        return _missing(question, result, "directions", "learning curve")
    text = f"The fitted law predicts {with_interval(then, percent)} test error"
    text += f" with {count(n)} examples" if n else ""
    text += f", against {percent(today)} now" if today is not None else ""
    unsure = today is not None and (then.high is None or then.high >= today)
    text += ". This is an extrapolation" + (", and its interval does not exclude today's error." if unsure else ".")
    headline = f"{percent(then.mean)} error" if today is None else f"{percent(today)} → {percent(then.mean)} error"
    return Answer(question, headline, text, "directions")


def _left_out(result: Result) -> Answer:
    question, left = "What was left out?", records(result.get("left_out"))
    if left:
        text = " ".join(f"{_what(r)}: {str(r.get('why') or 'no reason given').rstrip('.')}." for r in left[:4])
        text += f" {len(left) - 4} more are listed under Provenance." if len(left) > 4 else ""
        return Answer(question, plural(len(left), "thing"), text, "provenance")
    if result.get("status") == "interrupted":
        text = "The audit was interrupted; sections without results were not reached."
        return Answer(question, "What came after the interruption", text, "provenance")
    return Answer(question, "Nothing", "Every part was measured as planned.", "provenance")


def _what(record: Result) -> str:
    words = [str(record[key]) for key in ("part", "what") if record.get(key)]
    text = " – ".join(dict.fromkeys(words)) or "Something"
    return text[:1].upper() + text[1:]


def _missing(question: str, result: Result, part: str, what: str = "answer") -> Answer:
    """No answer, and why: the section's own reason, or that of the one thing which was left out."""
    section = mapping(result.get(part))
    whole = not section or section.get("status") == "left out"
    reasons = [str(section["note"])] if whole and section.get("note") else []
    for record in records(result.get("left_out")):
        if record.get("part") == part and (whole or what in str(record.get("what"))):
            reasons.append(str(record.get("why") or ""))
    if result.get("status") == "interrupted":
        reasons.append("The audit was interrupted before it got here")
    reasons.append(f"The result holds no {what}")
    return Answer(question, "Not measured", sentence(next(filter(None, reasons))), part)


def _evidence(found: Result) -> str:
    """The difference, its bound and the margin, and what follows."""
    difference, low, margin, p = (number(found.get(k)) for k in ("difference", "low", "margin", "p_value"))
    if difference is None or margin is None:
        return "no evidence in the result."
    place = "above" if low is not None and low > -abs(margin) else "not above"
    told = f"a difference of {points(difference)}, with a lower bound of {points(low)}"
    return f"{told} that lies {place} the margin of −{margin_points(margin)} ({p_value(p)})."


def _kept(kept: Any, part: float, total: float | None) -> str:
    """How many are kept, whether the result gives the number, the ids, or only the share."""
    n = number(kept) if not isinstance(kept, (list, tuple)) else float(len(kept))
    n = part * total if n is None and total is not None else n
    return "" if n is None else count(round(n))
