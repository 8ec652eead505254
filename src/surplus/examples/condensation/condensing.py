"""`condense`: from a data set to a few synthetic images per class, by any registered method.

    made = condense(task, method="idc", per_class=1);  made.save("mnist-1");  evaluate_condensed(made, task)

A run is a folder of the store: an interrupted one goes on from its last checkpoint and ends with the same images, a
finished one is read back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from surplus import __version__
from surplus.data import Dataset
from surplus.errors import InputError, check_device, settings_from, unknown
from surplus.examples.condensation import dc, dcc, dsa, idc  # noqa: F401  (they register themselves)
from surplus.examples.condensation.condensed import Condensed
from surplus.examples.condensation.evaluation import ROOMS
from surplus.examples.condensation.scene import Scene, Settings, Source, State, task_of
from surplus.registry import Method, find
from surplus.tasks import Task
from surplus.training.store import Entry, Store, code_version

Progress = Callable[[int, int, dict[str, float]], None]
CHECKPOINT_SECONDS = 30.0
"""Least time between checkpoints."""


def condense(
    source: Source,
    method: str = "idc",
    per_class: int = 1,
    settings: Settings | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    store: Store | None = None,
    **changes: Any,
) -> Condensed:
    """Learn a few synthetic images per class that train networks as nearly as possible as all real ones do.

    Args:
        source: a task, splits, or a data set of pictures in classes; only its training examples are used.
        method: as in the catalogue: "dc", "dsa", "dcc", "idc".
        per_class: stored images per class.
        settings: the method's own settings object; its defaults for such data when None.
        seed: of everything random.
        device: where to compute: "cpu", "cuda", "mps".
        progress: called after every outer iteration with those done, those in all, and what was matched.
        store: where runs are kept; $SURPLUS_HOME, else the platform's cache folder, when None.
        changes: settings by name, instead of the defaults or on top of `settings`.

    Returns:
        Condensed, on the CPU.

    Raises:
        InputError: no such method or setting, data that are no pictures in classes, or a network that does not fit.
    """
    row = find("condensation", method)
    check_device(device)
    if not isinstance(per_class, int) or per_class < 1:
        raise InputError(f"per_class is the number of images stored per class, from 1 up; got {per_class!r}")
    data = source if isinstance(source, Dataset) else source.train
    chosen = _settings(row, settings, changes, data)
    least = int(data.targets.bincount(minlength=len(data.classes)).min())
    if per_class > least:
        raise InputError(f"per_class is {per_class}, and the smallest class has {least} real images; ask for fewer")
    task = task_of(source, chosen.network)
    entry = (store or Store()).entry(_spec(row, chosen, task, per_class, seed, device))
    with entry.locked():
        if not entry.usable():
            if entry.complete:
                entry.clear()
            scene = Scene(task.to(device), chosen, per_class, seed, torch.device(device))
            _run(row, scene, entry, progress)
    return _read(entry, task, chosen)


def _settings(row: Method, given: Any, changes: dict[str, Any], data: Dataset) -> Any:
    """The method's settings: those given, else its defaults for such data, with changes on top."""
    kind: Any = row.traits["settings"]
    if given is not None and not isinstance(given, kind):
        raise InputError(f"{row.name} takes {kind.__name__}; got {type(given).__name__}")
    for name in changes:
        if name not in kind.model_fields:
            raise unknown(f"setting of {row.name}", name, kind.model_fields)
    if data.kind != "image":
        raise InputError(f"condensation makes pictures of each class; got {data.kind} data")
    base = kind.usual(data) if given is None else given.model_dump()
    try:
        return kind(**{**base, **changes})
    except ValidationError as error:
        raise settings_from(error) from None


def _spec(row: Method, settings: Settings, task: Task, per_class: int, seed: int, device: str) -> dict[str, Any]:
    return {
        "kind": "condensation",
        "of": f"{row.name}, {per_class} per class",
        "method": row.name,
        "settings": settings.model_dump(mode="json"),
        "per_class": per_class,
        "seed": seed,
        "data": task.train.fingerprint,
        "network": task.network.identity,
        "device": torch.device(device).type,
        "version": code_version(*ROOMS),
        "torch": torch.__version__,
    }


def _run(row: Method, scene: Scene, entry: Entry, progress: Progress | None) -> None:
    """All outer iterations, from the last checkpoint if there is one."""
    state, history, seconds = _resume(row, scene, entry)
    began = last = time.monotonic()
    total = scene.settings.outer
    for outer in range(len(next(iter(history.values()), [])), total):
        for name, value in row.fn(scene, state, outer).items():
            history.setdefault(name, []).append(value)
        if not bool(state.images.isfinite().all()):
            raise InputError(f"the images became NaN or infinite in outer iteration {outer}; lower image_lr")
        now = time.monotonic()
        if now >= last + CHECKPOINT_SECONDS and outer + 1 < total:
            entry.write_checkpoint(_tensors(state, history, seconds + now - began))
            last = time.monotonic()
        if progress is not None:
            progress(outer + 1, total, {name: values[-1] for name, values in history.items()})
    took = seconds + time.monotonic() - began
    images = scene.pixels(state.images) if scene.settings.normalised else state.images.clamp(0, 1)
    entry.write_tensors("images.safetensors", {**_tensors(state, history, took), "images": images})
    entry.finish(seconds=round(took, 3), finished=time.time(), torch=torch.__version__)


def _resume(row: Method, scene: Scene, entry: Entry) -> tuple[State, dict[str, list[float]], float]:
    """Where an interrupted run stood, else the start."""
    kept = entry.read_checkpoint()
    if kept is None:
        entry.clear()
        images = row.traits["start"](scene)
        return State(images, torch.zeros_like(images)), {}, 0.0
    state = State(kept["images"].to(scene.device), kept["velocity"].to(scene.device))
    return state, _history(kept), float(kept["seconds"])


def _tensors(state: State, history: dict[str, list[float]], seconds: float) -> dict[str, Tensor]:
    columns = {f"history/{k}": torch.tensor(v, dtype=torch.float64) for k, v in history.items()}
    clock = torch.tensor(seconds, dtype=torch.float64)
    return {"images": state.images, "velocity": state.velocity, "seconds": clock, **columns}


def _history(tensors: dict[str, Tensor]) -> dict[str, list[float]]:
    columns = {k: v for k, v in sorted(tensors.items()) if k.startswith("history/")}
    return {k.removeprefix("history/"): v.tolist() for k, v in columns.items()}


def _read(entry: Entry, task: Task, settings: Any) -> Condensed:
    tensors, manifest = entry.read_tensors("images.safetensors"), entry.manifest
    spec = manifest["spec"]
    facts = {
        "method": spec["method"],
        "paper": find("condensation", spec["method"]).paper,
        "per_class": spec["per_class"],
        "settings": spec["settings"],
        "seed": spec["seed"],
        "source": {"name": task.name, "fingerprint": spec["data"], "examples": len(task.train)},
        "run": entry.key,
        "seconds": manifest["seconds"],
        "device": spec["device"],
        "versions": {"surplus": __version__, "torch": spec["torch"], "code": spec["version"]},
    }
    targets = torch.arange(task.classes).repeat_interleave(spec["per_class"])
    test = task.test.to("cpu") if len(task.test) else None
    made = settings.factor, settings.formation
    return Condensed(tensors["images"], targets, task.train.classes, *made, facts, _history(tensors), test)
