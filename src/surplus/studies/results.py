"""A study's result: claims, what was measured of each, and the manifest; as JSON, and read back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from surplus.errors import InputError
from surplus.studies.verdicts import Check, Row, Verdict, joint
from surplus.training.store import write_atomically

Scale = Literal["smoke", "laptop", "gpu"]


@dataclass(frozen=True)
class Claim:
    """What a paper says, and the rule by which a study calls it reproduced; written before anything is run."""

    slug: str
    statement: str
    source: str
    criterion: str
    scales: tuple[Scale, ...] = ("smoke", "laptop")
    """The scales at which there is a protocol for it."""


@dataclass(frozen=True)
class Measured:
    """What a study found of one claim.

    `value`, `low`, `high`, `seeds`: the condition that decided; the others are among the rows.
    """

    claim: Claim
    value: float
    low: float
    high: float
    seeds: int
    verdict: Verdict
    rows: tuple[Row, ...] = ()
    note: str = ""


def decide(claim: Claim, checks: Sequence[Check], rows: Sequence[Row] = (), note: str = "") -> Measured:
    """The verdict on a claim from its conditions, with further rows for its table."""
    verdict = joint([c.verdict for c in checks])
    headline = next(c for c in checks if c.verdict == verdict)
    i, lines = headline.interval, tuple(c.row() for c in checks) + tuple(rows)
    return Measured(claim, i.value, i.low, i.high, i.repeats, verdict, lines, note)


def undecided(claim: Claim, reason: str, rows: Sequence[Row] = ()) -> Measured:
    """No verdict, and why."""
    return Measured(claim, math.nan, math.nan, math.nan, 0, "undecided", tuple(rows), reason)


@dataclass(frozen=True)
class StudyResult:
    """All claims of one study at one scale."""

    slug: str
    title: str
    paper: str
    scale: Scale
    measured: tuple[Measured, ...]
    manifest: dict[str, Any]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Claim to verdict."""
        return {m.claim.slug: m.verdict for m in self.measured}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: six significant digits, null where a number is missing or unbounded."""
        head = {"slug": self.slug, "title": self.title, "paper": self.paper, "scale": self.scale}
        return cast(
            dict[str, Any], _plain({**head, "claims": list(map(_entry, self.measured)), "manifest": self.manifest})
        )

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> StudyResult:
        """The inverse of `as_dict`, up to rounding."""
        try:
            measured = tuple(map(_measured, stored["claims"]))
            return cls(stored["slug"], stored["title"], stored["paper"], stored["scale"], measured, stored["manifest"])
        except (KeyError, TypeError) as error:
            raise InputError(f"this is not a study's result: {error!r}; `surplus study run` writes them") from None

    def save(self, folder: str | Path) -> Path:
        """Write SLUG.json into a folder; returns its path."""
        path = Path(folder) / f"{self.slug}.json"
        write_atomically(path, (json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n").encode())
        return path


def load_result(path: str | Path) -> StudyResult:
    """A stored result.

    Raises:
        InputError: no such file, or it is not a study's result.
    """
    try:
        stored = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not a readable result: {error}") from None
    return StudyResult.from_dict(stored)


def _entry(m: Measured) -> dict[str, Any]:
    numbers = {"value": m.value, "low": m.low, "high": m.high, "seeds": m.seeds}
    return {**asdict(m.claim), "verdict": m.verdict, "measured": numbers, "rows": list(m.rows), "note": m.note}


def _measured(stored: dict[str, Any]) -> Measured:
    words = {k: stored[k] for k in ("slug", "statement", "source", "criterion")}
    claim, numbers = Claim(**words, scales=tuple(stored["scales"])), stored["measured"]
    value, low, high = (math.nan if numbers[k] is None else float(numbers[k]) for k in ("value", "low", "high"))
    return Measured(claim, value, low, high, numbers["seeds"], stored["verdict"], tuple(stored["rows"]), stored["note"])


def _plain(item: Any) -> Any:
    if isinstance(item, dict):
        return {k: _plain(v) for k, v in item.items()}
    if isinstance(item, list | tuple):
        return [_plain(v) for v in item]
    if isinstance(item, float):
        return float(f"{item:.6g}") if math.isfinite(item) else None
    return item
