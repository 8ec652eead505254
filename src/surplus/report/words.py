"""Numbers in words: what the page's sentences and tables are made of.

A number that is missing, NaN or infinite is unknown. Estimates keep their interval beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UNKNOWN = "unknown"
_LONG, _FEW = 40, 4  # of a longer list, or of more ranges of seeds, only the beginning is shown
Format = Callable[[float | None], str]
Result = Mapping[str, Any]


def number(x: Any) -> float | None:
    """A finite float, or None for whatever is not one."""
    if isinstance(x, bool) or not isinstance(x, (int, float)) or not math.isfinite(x):
        return None
    return float(x)


def mapping(x: Any) -> Mapping[str, Any]:
    """The mapping itself, or an empty one for a part that is absent."""
    return x if isinstance(x, Mapping) else {}


def items(x: Any) -> list[Any]:
    """The list itself without absent entries, or an empty one."""
    return [item for item in sequence(x) if item is not None]


def records(x: Any) -> list[Mapping[str, Any]]:
    """The mappings of a list."""
    return [item for item in items(x) if isinstance(item, Mapping)]


def sequence(x: Any) -> Sequence[Any]:
    """The list itself, or an empty one."""
    return x if isinstance(x, Sequence) and not isinstance(x, str) else []


def grid(x: Any) -> list[list[float | None]]:
    """A matrix of equally long rows, with None where an entry is unknown; empty when all are."""
    rows = [[number(v) for v in sequence(row)] for row in sequence(x)]
    wide = max(map(len, rows), default=0)
    known = any(v is not None for row in rows for v in row)
    return [row + [None] * (wide - len(row)) for row in rows] if known else []


@dataclass(frozen=True)
class Reading:
    """An estimate as the page shows it; `low` and `high` are None where the interval is unknown."""

    mean: float
    low: float | None = None
    high: float | None = None
    repeats: int | None = None

    @classmethod
    def of(cls, x: Any) -> Reading | None:
        """Read {"mean", "low", "high", "repeats"}, a mapping with "value" in place of "mean", or a bare number."""
        if not isinstance(x, Mapping):
            x = {"mean": x}
        mean = number(x.get("mean", x.get("value")))
        if mean is None:
            return None
        repeats = number(x.get("repeats"))
        return cls(mean, number(x.get("low")), number(x.get("high")), None if repeats is None else int(repeats))

    def bounds(self) -> tuple[float, float] | None:
        """Both ends of the interval, when both are known."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def percent(x: float | None) -> str:
    """A measured share: 0.971 -> 97.1%, with a digit more below one percent."""
    if x is None:
        return UNKNOWN
    if 0 < abs(x) < 0.00005:
        return "under 0.01%" if x > 0 else "0.0%"
    digits = 2 if 0 < abs(x) < 0.00995 else 1
    return _signs(f"{100 * x:.{digits}f}%")


def share(x: float | None) -> str:
    """A share that was set, not measured: 0.6 -> 60%, 0.0123 -> 1.23%."""
    return UNKNOWN if x is None else _signs(f"{100 * x:.3g}%")


def points(x: float | None) -> str:
    """A difference of two shares: -0.003 -> −0.3 points."""
    if x is None:
        return UNKNOWN
    digits = 2 if 0 < abs(x) < 0.00095 else 1
    text = f"{100 * x:+.{digits}f}"
    text = text.lstrip("+-") if float(text) == 0 else text
    return _signs(text) + " points"


def margin_points(x: float) -> str:
    """A margin, exactly as it was set: 0.005 -> 0.5 points."""
    value = 100 * abs(x)
    return f"{value:.6g} {'point' if value == 1 else 'points'}"


def count(x: float | None) -> str:
    """A whole number with its thousands apart; tenths where they matter."""
    if x is None:
        return UNKNOWN
    return _signs(f"{x:,.1f}" if abs(x) < 10 and x != round(x) else f"{x:,.0f}")


def plain(x: float | None) -> str:
    """Three significant digits, or every digit of a whole number."""
    if x is None:
        return UNKNOWN
    if x == 0 or (x == round(x) and abs(x) < 1e9):
        return _signs(f"{x:,.0f}")
    return _signs(f"{x:,.0f}" if 1000 <= abs(x) < 1e6 else f"{x:.3g}")


def seconds(x: float | None) -> str:
    """A duration in the unit that suits it."""
    if x is None:
        return UNKNOWN
    if x < 60:
        return f"{x:.0f} s" if x >= 10 else f"{x:.1f} s"
    minutes, rest = divmod(round(x), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def size(x: float | None) -> str:
    """Bytes in the unit that suits them."""
    if x is None:
        return UNKNOWN
    for unit in ("bytes", "kB", "MB"):
        if abs(x) < 1000:
            return f"{x:.0f} {unit}" if unit == "bytes" or x >= 100 else f"{x:.1f} {unit}"
        x /= 1000
    return f"{x:.1f} GB"


def milliseconds(x: float | None) -> str:
    """A latency."""
    return UNKNOWN if x is None else f"{plain(x)} ms"


def p_value(x: float | None) -> str:
    """A p-value, never shown as zero."""
    if x is None:
        return "p unknown"
    return "p\u00a0<\u00a00.001" if x < 0.001 else f"p\u00a0=\u00a0{x:.{3 if x < 0.1 else 2}f}"


def between(low: float | None, high: float | None, form: Format) -> str:
    """An interval; its unit is said once."""
    if low is None or high is None:
        return "interval unknown"
    first, last = form(low), form(high)
    for unit in ("%", " points", " ms"):
        if first.endswith(unit) and last.endswith(unit):
            first = first.removesuffix(unit)
    return f"{first} to {last}"


def with_interval(estimate: Reading | None, form: Format) -> str:
    """97.1% (96.5 to 97.7%)."""
    if estimate is None:
        return UNKNOWN
    return f"{form(estimate.mean)} ({between(estimate.low, estimate.high, form)})"


def times(before: float | None, after: float | None) -> str | None:
    """How many times smaller `after` is: 2.1×; None where it cannot be said."""
    return None if not before or not after else f"{before / after:.{1 if before / after < 20 else 0}f}×"


def plural(n: float | None, noun: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{count(n)} {noun if n == 1 else many or noun + 's'}"


def listing(names: Iterable[Any]) -> str:
    """a, b and c."""
    words = [str(name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def ranges(values: Iterable[Any]) -> str:
    """Seeds in short: 0, 1, 2, 7 -> 0–2, 7."""
    whole = list(values)
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in whole):
        return ", ".join(str(v) for v in whole)
    groups: list[list[int]] = []
    for value in sorted(set(whole)):
        if groups and value == groups[-1][1] + 1:
            groups[-1][1] = value
        else:
            groups.append([value, value])
    told = [str(a) if a == b else f"{a}{'–' if b > a + 1 else ', '}{b}" for a, b in groups]
    more = sum(b - a + 1 for a, b in groups[_FEW:])
    return ", ".join(told[:_FEW] + ([f"and {more} more"] if more else []))


def anything(x: Any) -> str:
    """A setting, a version or a feature as text."""
    if x is None:
        return "none"
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, float):
        return plain(number(x))
    if isinstance(x, Sequence) and not isinstance(x, str):
        more = [f"and {len(x) - _LONG} more"] if len(x) > _LONG else []
        return ", ".join([anything(item) for item in x[:_LONG]] + more) or "none"
    return str(x)


def flat(x: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as dotted names with their values."""
    pairs: list[tuple[str, str]] = []
    for key, value in mapping(x).items():
        inner = isinstance(value, Mapping) and bool(value)
        pairs += (
            flat(value, f"{prefix}{key}.")
            if inner
            else [(f"{prefix}{key}", anything(value or None if value == {} else value))]
        )
    return pairs


def _signs(text: str) -> str:
    """Real minus signs, and none before zero."""
    digits = text.lstrip("-").rstrip("%")
    return text.lstrip("-") if text.startswith("-") and not digits.strip("0.,") else text.replace("-", "−")
