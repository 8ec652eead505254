"""`surplus prune`: any method of the catalogue on any task, beside its controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console

from surplus.cli.common import files_in, print_rows, range_of, read_task, say, tell
from surplus.errors import InputError

if TYPE_CHECKING:
    from surplus.audit import Pruned
    from surplus.tasks import Task

_Several = Annotated[list[str] | None, Parameter(consume_multiple=True)]


def prune(
    source: str = "digits",
    *,
    method: str = "imp",
    density: float = 0.05,
    until: Literal["matching"] | None = None,
    score: str | None = None,
    scope: str | None = None,
    rewind: int | None = None,
    exclude: _Several = None,
    controls: _Several = None,
    write: _Several = None,
    explore: bool = False,
    network: str | None = None,
    labels: str | None = None,
    ids: str | None = None,
    recipe: str | None = None,
    seeds: int = 5,
    margin: float = 0.01,
    out: Path | None = None,
    device: str = "cpu",
) -> None:
    """Remove weights by any method, train on, and measure what it costs beside controls of equal density.

    Args:
        source: a task (`surplus list tasks`), a file (.parquet, .csv, .npz), a folder, or hf:NAME.
        method: a pruning schedule, a weight score or a structured pruning (`surplus list "pruning schedules"`), with
            options after a colon: imp:rate=0.5.
        density: share of the prunable weights to keep; of units or channels for structured pruning; 0.5 for 2:4.
        until: matching: the sparsest networks that are shown to match the dense ones, at --density at the latest.
        score: what ranks the weights, for methods that take any (`surplus list "weight scores"`).
        scope: global, layer, neuron, or N:M such as 2:4.
        rewind: training step to go back to after each cut; a twentieth of training when left out, 0 for the start.
        exclude: layers to keep whole.
        controls: which controls to train; the usual ones when left out, `none` for none.
        write: how to write the weights: dense, csr, 2:4, onnx.
        explore: also write explorer.html: the pruned networks under corrupted inputs, six linked views.
        network: a network (`surplus list networks`) with options after a colon, or file.py:function of your own.
        labels: the column that holds the classes.
        ids: the column that holds unique ids.
        recipe: changes to the training recipe: lr=0.05,duration=20ep.
        seeds: networks; the pruned ones, the dense ones and all controls have the same seeds.
        margin: the largest loss of the metric that counts as none.
        out: folder for the files and the report; surplus-pruned/NAME-METHOD when left out.
        device: cpu, cuda or mps.
    """
    from surplus.errors import check_device, check_folder, settings_of, unknown

    if out is not None:
        check_folder(out)
    check_device(device)
    from surplus.audit.prune import prune as run_prune
    from surplus.audit.pruned import LAYOUTS, Pruning
    from surplus.report import write_pruning_report
    from surplus.tasks import parse_network

    layouts = tuple(write or ("dense",))
    for layout in layouts:
        if layout not in LAYOUTS:
            raise unknown("way to write weights", layout, LAYOUTS)
    if "2:4" in layouts and scope != "2:4":
        raise InputError("--write 2:4 writes masks of that pattern; add --scope 2:4 --density 0.5")
    name, options = parse_network(method)
    given: dict[str, Any] = {"method": name, "options": options, "density": density, "until": until, "score": score}
    given |= {"scope": scope, "rewind": rewind, "exclude": tuple(exclude or ()), "seeds": seeds, "margin": margin}
    if controls is not None and "none" in controls and len(controls) > 1:
        raise InputError(f"--controls none stands alone; got {' '.join(controls)}")
    if controls is not None:
        given["controls"] = () if controls == ["none"] else tuple(controls)
    settings = settings_of(Pruning, **given, device=device)
    console = Console(stderr=True, highlight=False)
    with console.status("reading the data") as status:
        task = read_task(source, network, labels, ids, recipe)
        folder = out or Path("surplus-pruned") / f"{task.name}-{name}"
        check_folder(folder)
        _check_for_files(task, settings.method, explore, write)
        found = run_prune(task, settings, tell=lambda text: tell(console, status, text))
        tell(console, status, "writing the report")
        found.save(folder, layouts)
        write_pruning_report(found.result(), folder, ["explorer.html"] if explore else [])
        if explore:
            tell(console, status, "trying the networks on corrupted inputs for the explorer")
            _explore(found, folder)
    _summary(found)
    say(f"\nReport: {folder / 'index.html'}\nFiles:  {files_in(folder)}")


def _check_for_files(task: Task, method: str, explore: bool, write: list[str] | None) -> None:
    """Refuse files that cannot be made of this task or by this method, before anything is trained."""
    from surplus.audit.pruning_methods import find_method
    from surplus.tasks import CLASSIFICATION

    if find_method(method).kind == "structured pruning" and (explore or write):
        raise InputError(f"{method} leaves smaller networks, written as smaller-model; leave --explore and --write out")
    if explore and task.objective is not CLASSIFICATION:
        raise InputError(f"--explore shows classes, and the task is {task.objective.name}; leave it out")


def _explore(found: Pruned, folder: Path) -> None:
    """Write the explorer of the pruned networks."""
    from surplus.landscape.robustness import variants_of
    from surplus.pruning.schedules.imp import Level
    from surplus.report.explorer import explorer

    chains = {found.settings.method: _some(found.levels)}
    chains |= {n: [c] for n, c in found.controls.items() if isinstance(c, Level) and n in ("shuffle", "random-erk")}
    explorer(found.task, variants_of(chains), folder / "explorer.html")


def _some(levels: list[Any], most: int = 5) -> list[Any]:
    """The first, the last and a few levels between."""
    if len(levels) <= most:
        return levels
    return [levels[round(i * (len(levels) - 1) / (most - 1))] for i in range(most)]


def _summary(found: Pruned) -> None:
    """The networks with their sizes and accuracies, then what the evidence says."""
    rows = [
        row | {"interval": range_of(row, "low", "high"), "metric": row["mean"]} for row in found.evidence["networks"]
    ]
    if len(rows) > 16:  # a long chain: its last levels matter
        rows = [rows[0], *[r for r in rows if r["role"] == "level"][-6:], *[r for r in rows if r["role"] == "control"]]
    trained = ("trainable",) if any(abs(r["trainable"] - r["density"]) > 1e-3 for r in rows) else ()
    print_rows(rows, ("name", "density", *trained, "metric", "interval", "compression", "speedup"))
    say("")
    law = found.evidence.get("law")
    for sentence in [*([law["sentence"]] if law else []), *found.evidence["sentences"]]:
        say(sentence)
