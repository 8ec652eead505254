"""The command `surplus`: commands, and no logic. Heavy libraries are imported inside the commands that need them."""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from surplus import __version__
from surplus.cli.common import cell, examples, files_in, print_rows, range_of, read_task, say, started, tell
from surplus.cli.pruning import prune
from surplus.errors import InputError

if TYPE_CHECKING:
    from surplus.audit import Audit

_HELP = "Find what your network and your data can do without, and what it costs."


app = App(
    name="surplus",
    help=_HELP,
    help_epilogue=examples(
        "surplus audit                             # digits",
        "surplus audit photos/ --budget 10m        # images, a folder per class",
        "surplus audit table.csv --labels species",
        "surplus audit mnist/ --network lenet-5:width=2",
        "surplus score --scores el2n,grand,memorization",
        "surplus select --rules hardest ccs --keep 0.25",
        "surplus prune --method imp --density 0.05",
        "surplus list tasks",
        "surplus study run imp --scale smoke",
    ),
    version=__version__,
    help_format="plaintext",
)
runs = App(name="runs", help="List, show and clean the kept training runs.", help_epilogue=" ")
study = App(name="study", help="Re-measure published claims.", help_epilogue=" ")
app.command(runs)
app.command(study)
app.command(
    prune,
    help_epilogue=examples(
        "surplus prune digits --method imp --density 0.05",
        "surplus prune mnist/ --network lenet-300-100 --method synflow --density 0.02",
        "surplus prune photos/ --network net.py:make --until matching --density 0.01 --explore",
        "surplus prune digits --method random-search --density 0.25    # a quarter of the units",
        "surplus prune digits --method one-shot --scope 2:4 --density 0.5 --write 2:4 onnx",
    ),
)


def main() -> None:
    """Run the command line: exit code 2 and one paragraph for bad input, 130 for Ctrl-C."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code."""
    started(time.monotonic())
    complain = Console(stderr=True, highlight=False, soft_wrap=True).print
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: complain(f"surplus: {message}", markup=False)
            code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        complain(f"surplus: {_one_paragraph(error).rstrip('.')}. See surplus --help", markup=False)
        return 2
    except InputError as error:
        complain(f"surplus: {_one_paragraph(error)}", markup=False)
        return 2
    except KeyboardInterrupt:
        complain("surplus: interrupted; run the same command again to go on where it stopped", markup=False)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if os.environ.get("SURPLUS_DEBUG"):
            raise
        complain(
            f"surplus: unexpected {type(error).__name__}: {error}. Set SURPLUS_DEBUG=1 for the traceback", markup=False
        )
        return 1


def _one_paragraph(error: Exception) -> str:
    return " ".join(str(error).split())


@app.command(
    help_epilogue=examples(
        "surplus audit",
        "surplus audit mnist/ --budget 2m --out mnist-audit",
        "surplus audit table.csv --labels species --network mlp:widths=64-64",
    )
)
def audit(
    source: str = "digits",
    *,
    network: str | None = None,
    budget: str | None = None,
    labels: str | None = None,
    ids: str | None = None,
    out: Path | None = None,
    device: str = "cpu",
    recipe: str | None = None,
    margin: float = 0.01,
    seed: int = 0,
) -> int:
    """Audit a data set and a network: wrong labels, needless examples, needless weights, used directions.

    Args:
        source: a task (`surplus list tasks`), a file (.parquet, .csv, .npz), a folder, or hf:NAME.
        network: a network (`surplus list networks`), with options after a colon: vgg-16:width=0.25.
        budget: time to spend, such as 90s, 10m or 1.5h; what the data call for when left out.
        labels: the column that holds the classes.
        ids: the column that holds unique ids.
        out: folder for the report and its files; surplus-audit/NAME when left out.
        device: cpu, cuda or mps.
        recipe: changes to the training recipe: lr=0.05,duration=20ep.
        margin: the largest loss of accuracy that counts as none.
        seed: from which all seeds are derived.
    """
    from surplus.errors import check_device, check_folder, settings_of

    if out is not None:
        check_folder(out)
    from surplus.audit import AuditSettings, seconds
    from surplus.audit import audit as run_audit
    from surplus.training import Store

    check_folder(Store().folder, "SURPLUS_HOME")
    check_device(device)
    seconds_ = None if budget is None else seconds(budget)
    settings = settings_of(AuditSettings, budget=seconds_, device=device, margin=margin, seed=seed)
    console = Console(stderr=True, highlight=False)
    with console.status("reading the data") as status:
        task = read_task(source, network, labels, ids, recipe)
        folder = out or Path("surplus-audit") / task.name
        check_folder(folder)
        found = run_audit(task, settings, began=started(), progress=lambda text: tell(console, status, text))
        status.update("writing the report")
        _write(found, folder)
    _summary(found, folder)
    return 130 if found.result["status"] == "interrupted" else 0


def _write(found: Audit, folder: Path) -> None:
    from surplus.report import write_report

    found.save(folder)
    write_report(found.result, folder, found.thumbnails(), found.rows())


def _summary(found: Audit, folder: Path) -> None:
    """The answer in a few lines, and where the rest lies."""
    result, out = found.result, Console(highlight=False, soft_wrap=True)
    table = Table(
        title=f"Audit of {result['name']}", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for part, sentence in sentences(result):
        table.add_row(part, sentence)
    out.print(table)
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    out.print(
        f"\nReport: {folder / 'index.html'}\nFiles:  {', '.join(names)}",
        markup=False,
    )


def sentences(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The findings of each part in a sentence."""
    rows = []
    if (labels := result["labels"]).get("mislabeled"):
        m = labels["mislabeled"]
        rows.append(
            (
                "Labels",
                f"about {m['mean']:.0f} of {result['data']['train']:,} look wrong"
                f" (95% interval {m['low']:.0f} to {m['high']:.0f})",
            )
        )
    if recommendation := result["examples"].get("recommendation"):
        rows.append(("Examples", recommendation["sentence"]))
    if ticket := result["weights"].get("ticket"):
        rows.append(("Weights", ticket["sentence"]))
    if structured := result["weights"].get("structured"):
        rows.append(("Structure", structured["sentence"]))
    if dimension := result["directions"].get("intrinsic_dimension"):
        d = dimension["dimension"]
        reached = f"{d} dimensions reach 90% of the accuracy" if d else "no tested subspace reaches 90% of the accuracy"
        rows.append(("Directions", f"{reached}, of {dimension['parameters']:,} weights"))
    if curve := result["directions"].get("learning_curve"):
        rows.append(("More data", curve["sentence"]))
    rows += [(f"Left out: {row['part']}", f"{row['what']}: {row['why']}") for row in result["left_out"]]
    return rows


@app.command(
    help_epilogue=examples(
        "surplus score",
        "surplus score mnist/ --scores el2n,grand,memorization --replicas 5 --out mnist-scores",
        "surplus score --record my-run/record",
        "surplus score --embeddings embeddings/ --scores prototype-distance,knn-distance",
    )
)
def score(
    source: str = "digits",
    *,
    scores: str = "",
    record: Path | None = None,
    embeddings: Path | None = None,
    network: str | None = None,
    labels: str | None = None,
    ids: str | None = None,
    recipe: str | None = None,
    replicas: int = 8,
    top: float = 0.1,
    out: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Score every training example: one table with all scores, how they agree, how many networks make them stable.

    Args:
        source: a task (`surplus list tasks`), a file (.parquet, .csv, .npz), a folder, or hf:NAME.
        scores: names joined by commas (`surplus list "example score"`); all that a record serves when left out.
        record: score this example record, written by a training loop of your own, instead of training.
        embeddings: score these embeddings, Parquet files of any size, instead of training.
        network: a network (`surplus list networks`), with options after a colon: vgg-16:width=0.25.
        labels: the column that holds the classes.
        ids: the column that holds unique ids.
        recipe: changes to the training recipe: lr=0.05,duration=20ep.
        replicas: networks behind each score.
        top: share of the examples whose stability is looked at.
        out: folder for scores.parquet and its companions; surplus-scores/NAME when left out.
        device: cpu, cuda or mps.
        seed: from which all seeds are derived.
    """
    from surplus.errors import check_device, check_folder, settings_of

    if out is not None:
        check_folder(out)
    check_device(device)
    from surplus.examples import Gathering, score_embeddings, score_record, score_task

    if record is not None and embeddings is not None:
        raise InputError("give one of --record and --embeddings, and score the other by a second command")
    names = [n.strip() for n in scores.split(",") if n.strip()]
    if record is not None:
        table, folder = score_record(record, names, top=top), out or Path("surplus-scores") / record.name
    elif embeddings is not None:
        table = score_embeddings(embeddings, names, labels=labels, seed=seed)
        folder = out or Path("surplus-scores") / embeddings.stem
    else:
        settings = settings_of(Gathering, replicas=replicas, runs_per_share=max(2, replicas), device=device, seed=seed)
        with Console(stderr=True).status("training the networks that the scores need"):
            task = read_task(source, network, labels, ids, recipe)
            table, folder = score_task(task, names, settings, top=top), out or Path("surplus-scores") / task.name
    table.save(folder)
    rows = [row | {"runs_until_stable": _runs(row)} for row in table.summary()]
    print_rows(rows, ("name", "high", "runs", "reliability", "runs_until_stable"))
    say(f"\n{len(table.ids):,} examples. Files: {files_in(folder)}")


@app.command(
    help_epilogue=examples(
        "surplus select --rules hardest ccs:beta=0.1 facility-location --keep 0.25",
        "surplus select photos/ --rules class-balanced-hardest --keep 0.5 --out kept",
    )
)
def select(
    source: str = "digits",
    *,
    rules: Annotated[list[str], Parameter(consume_multiple=True)] = ["hardest"],  # noqa: B006
    keep: float = 0.5,
    score: str = "el2n",
    by_class: bool = False,
    network: str | None = None,
    labels: str | None = None,
    ids: str | None = None,
    recipe: str | None = None,
    seeds: int = 5,
    replicas: int = 5,
    out: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Choose a part of the training examples, and measure what it costs beside a random part of the same size.

    Args:
        source: a task (`surplus list tasks`), a file (.parquet, .csv, .npz), a folder, or hf:NAME.
        rules: names (`surplus list selections`), each with options after a colon: hardest ccs:beta=0.1.
        keep: share of the training examples that stays.
        score: what the rules that read scores rank by (`surplus list "example score"`).
        by_class: apply each rule inside each class.
        network: a network (`surplus list networks`), with options after a colon: vgg-16:width=0.25.
        labels: the column that holds the classes.
        ids: the column that holds unique ids.
        recipe: changes to the training recipe: lr=0.05,duration=20ep.
        seeds: networks trained per rule; every rule has the same seeds.
        replicas: networks behind the score.
        out: folder for keep.parquet, comparison.csv and selection.json; surplus-selection/NAME when left out.
        device: cpu, cuda or mps.
        seed: from which all seeds are derived.
    """
    from surplus.errors import check_device, check_folder, settings_of

    if out is not None:
        check_folder(out)
    check_device(device)
    from surplus.examples import Comparing, compare

    settings = settings_of(
        Comparing, keep=keep, score=score, by_class=by_class, seeds=seeds, replicas=replicas, device=device, seed=seed
    )
    with Console(stderr=True).status("training on what the rules keep, and on random parts"):
        task = read_task(source, network, labels, ids, recipe)
        found = compare(task, rules, settings=settings)
    folder = out or Path("surplus-selection") / task.name
    found.save(folder)
    rows = [
        row
        | {
            "interval": range_of(row, "low", "high"),
            "interval_of_difference": range_of(row, "difference_low", "difference_high"),
        }
        for row in found.table()
    ]
    print_rows(rows, ("rule", "kept", "accuracy", "interval", "minus_random", "interval_of_difference"))
    say(
        f"\n{settings.level:.0%} intervals for other seeds and test examples ({seeds} seeds). Files: {files_in(folder)}"
    )


@app.command(
    help_epilogue=examples(
        "surplus query photos/ --strategy typiclust --budget 20",
        "surplus query table.csv --strategy margin --budget 100 --labelled labelled.csv",
        "surplus query --embeddings pool.parquet --strategy prob-cover --budget 50 --out ask.csv",
    )
)
def query(
    source: str = "digits",
    *,
    strategy: str = "typiclust",
    budget: int = 20,
    labelled: Path | None = None,
    embeddings: Path | None = None,
    labels: str | None = None,
    ids: str | None = None,
    out: Path = Path("query.csv"),
    seed: int = 0,
) -> None:
    """Say which examples to have labelled next, most wanted first.

    Args:
        source: a file (.parquet, .csv, .npz), a folder of images or of a hub's layout, or hf:NAME; no labels needed.
        strategy: how to choose (`surplus list "query strategies"`); typical examples first when little is labelled.
        budget: how many to ask for.
        labelled: what has labels already: .csv or .parquet with columns id and, if the source has none, label.
        embeddings: choose among these embeddings, Parquet files with a column id, instead of the source.
        labels: the column that holds the classes; only those of labelled examples are looked at.
        ids: the column that holds unique ids.
        out: the table to write, .csv or .parquet.
        seed: for all draws.
    """
    from surplus.examples.active import query_embeddings, query_source, write_queries
    from surplus.examples.active.files import check_queries

    check_queries(out)
    if embeddings is not None:
        table = query_embeddings(embeddings, strategy, budget, labelled=labelled, seed=seed)
    else:
        table = query_source(source, strategy, budget, labelled=labelled, labels=labels, ids=ids, seed=seed)
    write_queries(out, table)
    print_rows(table.slice(0, 10).to_pylist(), ("order", "id", "strategy"))
    if set(table["strategy"].to_pylist()) == {"random"} != {strategy}:
        say(f"{strategy} asks a model, which has no label to learn from yet, so these are drawn at random.")
    say(f"\n{table.num_rows} examples to label, the first of them above. File: {out}")


@app.command(
    help_epilogue=examples(
        "surplus condense mnist/ --method idc --per-class 1 --out mnist-1",
        "surplus condense mnist/ --method dsa --per-class 10 --settings outer=100,network=conv-net:width=32",
    )
)
def condense(
    source: str = "digits",
    *,
    method: str = "idc",
    per_class: int = 1,
    settings: str = "",
    seeds: int = 3,
    epochs: int | None = None,
    labels: str | None = None,
    out: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Learn a few synthetic images per class that train any network, and measure them beside random real images.

    Args:
        source: images: a file (.parquet, .npz), a folder, or hf:NAME.
        method: dc, dsa, dcc or idc (`surplus list condensations`).
        per_class: images stored per class.
        settings: changes to the method's settings (outer, inner, network, image_lr, real_batch, ...): outer=100.
        seeds: networks of the evaluation, at least two.
        epochs: how long each of them trains; as in the method's paper, hundreds of epochs, when left out.
        labels: the column that holds the classes.
        out: folder for train.npz, pictures and facts; surplus-condensed/NAME when left out.
        device: cpu, cuda or mps.
        seed: of everything random.
    """
    from surplus.errors import check_device, check_folder

    if out is not None:
        check_folder(out)
    check_device(device)
    if seeds < 2:
        raise InputError(f"--seeds is at least 2, so that there are intervals; got {seeds}")
    from surplus.data import read
    from surplus.examples.condensation import condense as run_condense
    from surplus.examples.condensation import evaluate_condensed, usual_evaluation
    from surplus.tasks import parse_recipe

    changes, console = parse_recipe(settings), Console(stderr=True, highlight=False)
    with console.status("reading the data") as status:
        data = read(source, labels=labels)

        def told(done: int, total: int, _: dict[str, float]) -> None:
            text = f"matching gradients on network {done} of {total}"
            if console.is_terminal or done % max(1, total // 10) == 0:
                tell(console, status, text)

        made = run_condense(data, method, per_class, seed=seed, device=device, progress=told, **changes)
        folder = made.save(out or Path("surplus-condensed") / f"{data.name}-{method}-{per_class}")
        tell(console, status, "training networks on the result, and on random real images")
        found = evaluate_condensed(made, data, usual_evaluation(made, epochs), seeds=seeds, device=device)
        found.save(folder)
    say(f"{found}\n\nFiles: {files_in(folder)}")


def _runs(row: dict[str, Any]) -> str:
    """How many runs make a score stable, as far as it is known."""
    needed = row["runs_until_stable"]
    return "" if needed is None else f"about {needed:,}, extrapolated" if row["extrapolated"] else str(needed)


@app.command(name="list", help_epilogue=examples("surplus list", "surplus list tasks", 'surplus list "example score"'))
def list_(kind: str | None = None) -> None:
    """Print the catalogue: every method with its kind and paper.

    Args:
        kind: tasks, networks, example scores, selections, weight scores, measures, studies, ...
    """
    from surplus.errors import unknown
    from surplus.registry import KINDS, methods

    wanted = None
    if kind is not None:
        wanted = kind.lower().replace("-", " ")
        plurals = {k.removesuffix("y") + "ies" if k.endswith("y") else f"{k}s": k for k in KINDS}
        wanted = plurals.get(wanted, wanted)
    if wanted is not None and wanted not in KINDS:
        raise unknown("kind of method", kind, KINDS)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("name", "kind", "what it is", "paper"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for m in methods(wanted):
        table.add_row(m.name, m.kind, m.summary, m.paper)
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=240)
    console.print(table)


@runs.command(name="list", help_epilogue=" ")
def runs_list() -> None:
    """List every kept run: its state, what it is, its size."""
    from surplus.training import Store, describe

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("run", "state", "kind", "what", "size"):
        table.add_column(heading, overflow="fold")
    store = Store()
    for entry in store.entries():
        row = describe(entry)
        table.add_row(row["key"][:12], row["state"], row["kind"], row["what"], f"{row['bytes'] / 1e6:.1f} MB")
    Console(highlight=False).print(table)
    Console(highlight=False).print(f"{len(store.entries())} runs in {store.folder}", markup=False)


@runs.command(name="show", help_epilogue=" ")
def runs_show(key: str) -> None:
    """Print one run's manifest: what produced it, and its files.

    Args:
        key: the run's name, or the beginning of it.
    """
    from surplus.training import Store

    Console(highlight=False).print_json(data=Store().find(key).manifest)


@runs.command(name="clean", help_epilogue=examples("surplus runs clean --broken", "surplus runs clean --older 30d"))
def runs_clean(
    *, older: str | None = None, broken: bool = False, everything: Annotated[bool, Parameter(name="--all")] = False
) -> None:
    """Delete kept runs.

    Args:
        older: delete runs last written longer ago than this: 12h, 30d.
        broken: delete damaged and interrupted runs.
        everything: delete all runs.
    """
    from surplus.training import Store

    count, size = Store().clean(older=older, broken=broken, everything=everything)
    Console(highlight=False).print(f"deleted {count} runs, {size / 1e6:.1f} MB", markup=False)


@study.command(name="list", help_epilogue=" ")
def study_list() -> None:
    """List the studies and their papers."""
    list_("study")


@study.command(name="run", help_epilogue=examples("surplus study run el2n-grand --scale laptop"))
def study_run(
    slug: str,
    *,
    scale: Literal["smoke", "laptop", "gpu"] = "smoke",
    out: Path = Path("surplus-studies"),
    device: str = "cpu",
) -> None:
    """Re-measure one paper's claims and print a verdict for each.

    Args:
        slug: the study's name.
        scale: smoke (seconds), laptop (minutes), gpu.
        out: folder for the result and its figure.
        device: cpu, cuda or mps.
    """
    from surplus.errors import check_device, check_folder
    from surplus.studies import run_study

    check_folder(out)
    check_device(device)
    result = run_study(slug, scale, out=out, device=device)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("verdict", "claim", "criterion", "measured"):
        table.add_column(heading, overflow="fold")
    for row in result.as_dict()["claims"]:
        m = row["measured"]
        number = row["note"] if m["value"] is None else f"{cell(m['value'])} ({range_of(m, 'low', 'high')})"
        table.add_row(*map(escape, (row["verdict"], row["statement"], row["criterion"], number)))
    Console(highlight=False).print(table)
    told = "shows that the study runs; its verdicts are no evidence" if scale == "smoke" else "as its manifest says"
    say(f"\nScale {scale}: {told}. Files: {out / slug}.json, {out / slug}.svg")
