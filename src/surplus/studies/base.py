"""What a study is: a paper's claims, a protocol per scale, runs that live in the store, and a verdict per claim.

    @study(slug="el2n-grand", paper=..., title=..., claims=CLAIMS, protocols=PROTOCOLS)
    def el2n_grand(claim, bench): ...      # trains through the bench, returns Measured

    run_study("el2n-grand", "laptop", out="results").verdicts

All training goes through `Bench.fit`, that is through the run store: an interrupted study goes on where it stopped, and
a finished one repeats nothing.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from surplus import __version__
from surplus.data import Dataset
from surplus.errors import unknown
from surplus.registry import Method, find, method, methods
from surplus.studies.figures import figure, need_matplotlib, save_figure
from surplus.studies.results import Claim, Measured, Scale, StudyResult, load_result, undecided
from surplus.tasks import Task
from surplus.training import Entry, Run, Store, evaluate, fit, predict, processors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[StudyResult], "Figure"]


class Untestable(Exception):
    """A claim cannot be tested here; the message says what it needs."""


class Protocol(BaseModel):
    """The numbers of one scale: seeds, epochs, sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seeds: int
    """Independent repeats of everything; all comparisons are paired over them."""


P = TypeVar("P", bound=Protocol)


@dataclass
class Bench(Generic[P]):
    """Where a study trains: the protocol of its scale, the store, the device, and a note of every run."""

    scale: Scale
    protocol: P
    store: Store
    device: str = "cpu"
    runs: dict[str, Entry] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the protocol: 0, 1, ..."""
        return list(range(self.protocol.seeds))

    @property
    def options(self) -> dict[str, Any]:
        """What functions that call `fit` themselves need to know."""
        return {"store": self.store, "device": self.device}

    def fit(self, task: Task, **options: Any) -> Run:
        """`surplus.training.fit` with this bench's store and device."""
        return self.noted(fit(task, **self.options, **options))

    def noted(self, run: Run) -> Run:
        """Enter a run, trained elsewhere with `options`, in the manifest."""
        self.runs |= {entry.key: entry for entry in run.parts}
        return run

    def outputs(self, run: Run, data: str = "test") -> Tensor:
        """Outputs (K, n, classes) of a run on "train", "validation" or "test", computed on the bench's device."""
        if torch.device(self.device).type == "cpu":
            return run.predict(data)
        return predict(run.task, run.theta.to(self.device), _part(run.task, data)).cpu()

    def accuracy(self, run: Run) -> Tensor:
        """(K,) metric on the test set."""
        return evaluate(run.task, run.theta, run.task.test, outputs=self.outputs(run)).metric


def _part(task: Task, name: str) -> Dataset:
    part: Dataset = getattr(task, name)
    return part


def study(
    *,
    slug: str,
    paper: str,
    title: str,
    claims: Sequence[Claim],
    protocols: Mapping[Scale, Protocol],
    draw: Draw = figure,
) -> Callable[[Callable[[Claim, Bench[Any]], Measured]], Callable[[Claim, Bench[Any]], Measured]]:
    """Put a study in the catalogue.

    Args:
        slug: its name, which is that of its files.
        paper: authors, year, identifier.
        title: of the paper.
        claims: what is tested.
        protocols: the numbers of each scale.
        draw: makes the figure from a stored result; a panel per claim by default.

    Returns:
        A decorator for the function that tests one claim on a bench.
    """
    return method(
        "study", paper=paper, name=slug, title=title, claims=tuple(claims), protocols=dict(protocols), draw=draw
    )


def studies() -> list[Method]:
    """All registered studies; their `traits` hold title, claims and protocols."""
    return methods("study")


def run_study(
    slug: str, scale: Scale = "smoke", store: Store | None = None, out: str | Path | None = None, device: str = "cpu"
) -> StudyResult:
    """Test every claim of a study.

    Args:
        slug: as `studies()` lists it.
        scale: "smoke" (seconds; shows that the study runs), "laptop" (minutes) or "gpu".
        store: where its runs are kept; the default store when None.
        out: a folder for SLUG.json and SLUG.svg; nothing is written when None.
        device: where to train.

    Raises:
        InputError: no such study or scale; matplotlib is missing and a folder was given.
    """
    row = find("study", slug)
    if scale not in get_args(Scale):
        raise unknown("scale", scale, get_args(Scale))
    if out is not None:
        need_matplotlib()
    bench = Bench(scale, row.traits["protocols"][scale], store or Store(), device)
    measured = tuple(_test(row, claim, bench) for claim in row.traits["claims"])
    manifest = _manifest(bench)
    result = StudyResult(row.name, row.traits["title"], row.paper, scale, measured, manifest)
    if out is not None:
        draw_study(load_result(result.save(out)), out)  # from what is stored, so that it can be drawn again
    return result


def draw_study(result: StudyResult, folder: str | Path) -> Path:
    """Write the figure of a result, stored or new, as SLUG.svg into a folder; returns its path."""
    return save_figure(find("study", result.slug).traits["draw"](result), Path(folder) / f"{result.slug}.svg")


def _test(row: Method, claim: Claim, bench: Bench[Any]) -> Measured:
    if bench.scale not in claim.scales:
        return undecided(claim, f"has no protocol at the scale {bench.scale}; run it at {' or '.join(claim.scales)}")
    try:
        measured: Measured = row.fn(claim, bench)
    except Untestable as reason:
        return undecided(claim, str(reason))
    return measured


def _manifest(bench: Bench[Any]) -> dict[str, Any]:
    """Where the numbers come from; `seconds` is the time of all training, whenever it was done."""
    kind = torch.device(bench.device).type
    chip = (
        torch.cuda.get_device_name(bench.device)
        if kind == "cuda"
        else f"{platform.machine()}, {processors()} processor(s)"
    )
    libraries = {name: version(name) for name in ("torch", "numpy", "scipy")}
    trained = sum(entry.manifest.get("seconds", 0.0) for entry in bench.runs.values())
    return {
        "versions": {"surplus": __version__, "python": platform.python_version(), **libraries},
        "machine": f"{platform.system()}, {chip}, {torch.get_num_threads()} torch thread(s)",
        "seeds": bench.seeds,
        "seconds": round(trained, 1),
        "protocol": bench.protocol.model_dump(mode="json"),
        "runs": list(bench.runs),
    }
