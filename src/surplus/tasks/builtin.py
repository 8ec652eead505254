"""Tasks under a name: the bundled digits, and small generated ones of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surplus.data import Dataset, Splits, generated, read, split
from surplus.data.dataset import Kind
from surplus.errors import InputError, unknown
from surplus.registry import find, method, methods, registered
from surplus.space import generator
from surplus.tasks.objective import Objective
from surplus.tasks.recipe import Recipe
from surplus.tasks.task import Task, task_from


@method("task", paper="Alpaydin & Kaynak 1998 (UCI); 8x8 digits of scikit-learn")
def digits() -> Splits:
    """1,797 handwritten digits, 8x8 grey: 1,438 to train on, 359 held out."""
    return read("digits")


@method("task")
def sinusoid() -> Splits:
    """Regression: a noisy sine over [-3, 3], 800 points."""
    return _generated("sinusoid", *generated.sinusoid(800, generator=generator(0, "sinusoid")))


@method("task")
def xor_clusters() -> Splits:
    """Classification that no line solves: four Gaussian clusters at the corners of a square, 1,000 points."""
    return _generated("xor-clusters", *generated.xor_clusters(1000, generator=generator(0, "xor")))


@method("task")
def markov_text() -> Splits:
    """Language modelling: 600 sequences of a random Markov chain."""
    return _generated("markov-text", *generated.markov_text(600, generator=generator(0, "markov")), kind="text")


def _generated(name: str, inputs: Any, targets: Any, kind: Kind = "table") -> Splits:
    data = Dataset.of(inputs, targets, name=name, kind=kind)
    train, test = split(data, 0.2)
    return Splits(name, train, test, carved=True)


def load(
    source: str | Path | Splits,
    network: Any = None,
    *,
    labels: str | None = None,
    ids: str | None = None,
    recipe: Recipe | None = None,
    objective: Objective | None = None,
    **options: Any,
) -> Task:
    """A task from a registered name, a path, a hub name (`hf:...`), or splits in memory.

    Args:
        source: what `surplus list tasks` prints, a file or folder, or `Splits`.
        network: a registered name, with options after a colon if wished ("vgg-16:width=0.25"), or a function that
            builds the user's module.
        labels: the column that holds the classes.
        ids: the column that holds ids.
        recipe: how to train; the default for the data when None.
        objective: read off the targets when None.
        options: options of the named network.

    Raises:
        InputError: whatever is wrong with the name, the data or the network, before any training.
    """
    if isinstance(source, Splits):
        return task_from(source, network, recipe=recipe, objective=objective, **options)
    if not registered("task", str(source)) and (str(source).startswith("hf:") or _exists(source)):
        data = read(source, labels=labels, ids=ids)
    else:
        data = _by_name(str(source))
        if labels is not None or ids is not None:
            raise InputError(f"the task {source} has no columns to choose from; leave out the names of labels and ids")
    return task_from(data, network, recipe=recipe, objective=objective, **options)


def _exists(source: str | Path) -> bool:
    try:
        return bool(str(source)) and Path(source).expanduser().exists()
    except (OSError, RuntimeError):  # a name that is too long, a home folder of nobody
        return False


def _by_name(source: str) -> Splits:
    """A task from the catalogue, or the error for a name that nobody knows."""
    if not registered("task", source):
        names = [m.name for m in methods("task")]  # imports plug-ins, one of which may bring it
        if not registered("task", source) and ("/" in source or "." in source):
            raise InputError(
                f"there is no file or folder {source!r}; give a path, or one of the tasks {', '.join(names)}"
            )
        if not registered("task", source):
            raise unknown("task or path", source, names)
    data: Splits = find("task", source).fn()
    return data
