"""What the page says first: seven questions, each answered in a few words and one or two sentences.

Every answer carries its interval, and an answer that the data do not support says so.
"""

from __future__ import annotations

from typing import Any

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
    part = f" That is {with_interval(rate, percent)} of the training labels." if rate else ""
    sentence = f"The expected number of wrong labels lies between {_ends(wrong, count)}.{part}"
    if wrong.bounds() is None:
        sentence = f"Its interval is unknown.{part}"
    return Answer(question, f"About {count(round(wrong.mean))}{of}", sentence, "labels")


def _examples(result: Result) -> Answer:
    question, found = (
        "What fraction of the examples can go?",
        mapping(mapping(result.get("examples")).get("recommendation")),
    )
    fraction = number(found.get("fraction"))
    if fraction is None:
        return _missing(question, result, "examples")
    kept = _kept(found.get("kept"), fraction, number(mapping(result.get("data")).get("train")))
    if fraction >= 1:
        return Answer(
            question, "None, as far as shown", "No smaller fraction was shown to be without loss.", "examples"
        )
    rule = found.get("rule") or "the best rule"
    how = f"the {share(fraction)}{f' ({kept} examples)' if kept else ''} that {rule} keeps"
    if not found.get("verdict"):
        return Answer(
            question, "None, as far as shown", f"The best candidate was {how}: {_evidence(found)}", "examples"
        )
    sentence = f"Trained on {how}, the network is no worse than on all: {_evidence(found)}"
    return Answer(question, f"{share(1 - fraction)} can go", sentence, "examples")


def _weights(result: Result) -> Answer:
    question, found = "What density of weights suffices?", mapping(mapping(result.get("weights")).get("ticket"))
    density = number(found.get("density"))
    if density is None:
        return _missing(question, result, "weights")
    total = number(mapping(result.get("network")).get("prunable"))
    kept = _kept(found.get("kept"), density, total)
    accuracy = Reading.of(found.get("accuracy"))
    reached = f" reaches {with_interval(accuracy, percent)} test accuracy" if accuracy else " was tested"
    of = f" of {count(total)}" if total and kept else ""
    sentence = f"The network with {kept or share(density)}{of} prunable weights{reached}: {_evidence(found)}"
    shown = found.get("verdict") and density < 1
    headline = f"{share(density)} of the weights" if shown else "None below 100%, as far as shown"
    return Answer(question, headline, sentence, "weights")


def _smaller(result: Result) -> Answer:
    question, found = (
        "How much smaller and faster can it be made?",
        mapping(mapping(result.get("weights")).get("structured")),
    )
    before, after = mapping(found.get("before")), mapping(found.get("after"))
    sizes = number(before.get("parameters")), number(after.get("parameters"))
    if not sizes[0] or not sizes[1]:
        return _missing(question, result, "weights", "structured")
    work = times(number(before.get("macs")), number(after.get("macs")))
    latency = mapping(mapping(result.get("timing")).get("latency"))
    old, new = Reading.of(latency.get("before_ms")), Reading.of(latency.get("after_ms"))
    told = [
        f"{count(sizes[0])} parameters become {count(sizes[1])}"
        + (f", with {work} fewer multiply-adds." if work else ".")
    ]
    accuracy = Reading.of(before.get("accuracy")), Reading.of(after.get("accuracy"))
    if accuracy[0] and accuracy[1]:
        told.append(f"Test accuracy goes from {percent(accuracy[0].mean)} to {percent(accuracy[1].mean)}.")
    headline = f"{times(*sizes)} smaller"
    if old and new and (speed := times(old.mean, new.mean)):
        told.append(
            f"One batch takes {with_interval(new, milliseconds)} instead of {with_interval(old, milliseconds)}."
        )
        apart = old.low is not None and new.high is not None and new.high < old.low
        headline += f", {speed} faster" if apart else ", not shown to be faster"
    else:
        told.append("Its speed was not measured.")
    return Answer(question, headline, " ".join(told), "weights")


def _dimension(result: Result) -> Answer:
    question = "How many directions does training need?"
    found = mapping(mapping(result.get("directions")).get("intrinsic_dimension"))
    tried = sorted(n for p in records(found.get("points")) if (n := number(p.get("dimension"))) is not None)
    reached, threshold, total = (number(found.get(k)) for k in ("dimension", "threshold", "parameters"))
    if reached is None and not tried:
        return _missing(question, result, "directions", "intrinsic dimension")
    of = f" of {count(total)}" if total else ""
    baseline = number(found.get("baseline"))
    part = (
        f", {share(threshold / baseline)} of the full network's {percent(baseline)}" if threshold and baseline else ""
    )
    if reached is None:
        sentence = f"No random subspace tried reaches the threshold of {percent(threshold)}{part}."
        return Answer(question, f"More than {count(tried[-1])}{of}", sentence, "directions")
    below = [n for n in tried if n < reached]
    next_lower = (
        f" The next smaller one tried, {count(below[-1])}, does not." if below else " No smaller one was tried."
    )
    sentence = f"Training in a random subspace of that dimension reaches {percent(threshold)}{part}.{next_lower}"
    return Answer(question, f"About {count(reached)}{of}", sentence, "directions")


def _twice(result: Result) -> Answer:
    question, found = (
        "What would twice the data give?",
        mapping(mapping(result.get("directions")).get("learning_curve")),
    )
    twice, now = mapping(found.get("twice")), mapping(found.get("now"))
    then, today = Reading.of({**twice, "mean": twice.get("error")}), number(now.get("error"))
    if then is None:
        return _missing(question, result, "directions", "learning curve")
    n = number(twice.get("n"))
    with_n = f" with {count(n)} examples" if n else ""
    at_now = f", against {percent(today)} now" if today is not None else ""
    sentence = (
        f"The fitted law predicts {with_interval(then, percent)} test error{with_n}{at_now}. This is an extrapolation"
    )
    unsure = today is not None and (then.high is None or then.high >= today)
    sentence += ", and its interval does not exclude today's error." if unsure else "."
    return Answer(
        question,
        f"{percent(then.mean)} error" if today is None else f"{percent(today)} → {percent(then.mean)} error",
        sentence,
        "directions",
    )


def _left_out(result: Result) -> Answer:
    question, left = "What was left out?", records(result.get("left_out"))
    if not left:
        stopped = result.get("status") == "interrupted"
        told = (
            "The audit was interrupted: sections without results were not reached."
            if stopped
            else "Every part was measured as planned."
        )
        return Answer(question, "What came after the interruption" if stopped else "Nothing", told, "provenance")
    told = " ".join(f"{_what(r)}: {str(r.get('why') or 'no reason given').rstrip('.')}." for r in left[:4])
    more = f" {len(left) - 4} more are listed under Provenance." if len(left) > 4 else ""
    return Answer(question, plural(len(left), "thing"), told + more, "provenance")


def _what(record: Result) -> str:
    words = [str(record[key]) for key in ("part", "what") if record.get(key)]
    text = " – ".join(dict.fromkeys(words)) or "Something"
    return text[:1].upper() + text[1:]


def _missing(question: str, result: Result, part: str, what: str = "") -> Answer:
    section = mapping(result.get(part))
    reasons = [str(r.get("why")) for r in records(result.get("left_out")) if r.get("part") == part and r.get("why")]
    reason = str(section.get("note") or "") or (reasons[0] if reasons else "")
    stopped = "The audit was interrupted before it got here." if result.get("status") == "interrupted" else ""
    return Answer(
        question, "Not measured", _ended(reason) or stopped or f"The result holds no {what or 'answer'}.", part
    )


def _evidence(found: Result) -> str:
    """The difference, its bound and the margin, and what follows."""
    difference, low, margin, p = (number(found.get(k)) for k in ("difference", "low", "margin", "p_value"))
    if difference is None or margin is None:
        return "the evidence is not in the result."
    told = f"a difference of {points(difference)}, with a lower bound of {points(low)}"
    place = "above" if found.get("verdict") else "not above"
    return f"{told} that lies {place} the margin of −{margin_points(margin)} ({p_value(p)})."


def _kept(kept: Any, part: float, total: float | None) -> str:
    """How many are kept, whether the result gives the number, the ids, or only the share."""
    n = number(kept) if not isinstance(kept, (list, tuple)) else float(len(kept))
    n = part * total if n is None and total is not None else n
    return "" if n is None else count(round(n))


def _ends(value: Reading, form: Any) -> str:
    return between(value.low, value.high, form).replace(" to ", " and ")


def _ended(text: str) -> str:
    return text if not text or text[-1] in ".!?" else f"{text}."
