"""The files of an audit, which other programs read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surplus.data import Dataset
from surplus.errors import InputError
from surplus.examples.score_table import write_scores as table_of_scores
from surplus.pruning import save_module, save_ticket
from surplus.stats import Estimate
from surplus.tasks import Task
from surplus.training.store import write_atomically

if TYPE_CHECKING:
    from surplus.audit.examples import Kept
    from surplus.audit.weights import Smaller, Ticket
    from surplus.examples.labels import LabelCheck

_OURS = ("index.html", "audit.json", "scores.parquet", "suspects.csv", "keep.parquet", "ticket.safetensors")


def prepare(folder: Path) -> None:
    """Make the folder, and clear it of an earlier audit's files, so that none of another run's stay beside this one's.

    Raises:
        InputError: the path is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file; --out needs a folder, or a name that is free")
    folder.mkdir(parents=True, exist_ok=True)
    for name in _OURS:
        (folder / name).unlink(missing_ok=True)
        for half_written in folder.glob(f".{name}.*.tmp"):
            half_written.unlink(missing_ok=True)
    for name in ("config.json", "weights.safetensors"):
        (folder / "smaller-model" / name).unlink(missing_ok=True)
    with suppress(OSError):  # not there, or it holds what is not ours
        (folder / "smaller-model").rmdir()


def write_json(folder: Path, result: Mapping[str, Any]) -> None:
    """audit.json: every number, with its interval, seeds and runs."""
    write_atomically(folder / "audit.json", json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False).encode())


def write_scores(folder: Path, data: Dataset, scores: Mapping[str, Estimate], check: LabelCheck) -> None:
    """scores.parquet: one row per training example; each score with its standard error."""
    every = {**scores, "mislabel-probability": Estimate(check.probability, check.stderr, 2)}
    table_of_scores(folder / "scores.parquet", data.ids, np.array(data.classes)[data.targets.numpy()], every)


def write_keep(folder: Path, data: Dataset, kept: Kept) -> None:
    """keep.parquet: id and whether to keep."""
    _write_table(folder / "keep.parquet", {"id": data.ids, "keep": kept.keep.numpy()})


def write_suspects(folder: Path, data: Dataset, check: LabelCheck) -> None:
    """suspects.csv: all training examples by falling probability of a wrong label."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["id", "label", "suggested", "mislabel_probability"])
    for i in check.ranking().tolist():
        label, suggested = (data.classes[int(k[i])] for k in (data.targets, check.suggested))
        rows.writerow([data.ids[i], label, suggested, f"{float(check.probability[i]):.6f}"])
    write_atomically(folder / "suspects.csv", text.getvalue().encode())


def write_ticket(folder: Path, task: Task, ticket: Ticket) -> None:
    """ticket.safetensors: mask and trained weights of the sparsest matching network."""
    meta = {"seed": ticket.seed, "network": task.network.identity, "data": task.train.fingerprint}
    save_ticket(folder / "ticket.safetensors", task.space, ticket.final * ticket.mask, ticket.mask, meta)


def write_smaller(folder: Path, task: Task, smaller: Smaller) -> None:
    """smaller-model/: weights and a description from which `surplus.pruning.load_module` builds it again."""
    network = None if task.network.factory else task.network.identity
    mean, std = task.moments
    meta = {"classes": list(task.train.classes), "mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
    save_module(folder / "smaller-model", smaller.module, network=network, meta=meta)


def thumbnails(data: Dataset, ids: Collection[str], side: int = 56) -> dict[str, bytes]:
    """PNG pictures by id, at least `side` pixels high."""
    from PIL import Image

    if data.kind != "image":
        return {}
    pictures = {}
    for i in _rows(data, ids):
        pixels = _pixels(data.inputs[i])
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        factor = max(1, -(-side // image.height))
        buffer = io.BytesIO()
        image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(buffer, "PNG")
        pictures[str(data.ids[i])] = buffer.getvalue()
    return pictures


def feature_rows(data: Dataset, ids: Collection[str]) -> dict[str, dict[str, float]]:
    """Feature values by id."""
    if data.kind != "table":
        return {}
    names = [f"x{j}" for j in range(data.shape[0])]
    return {str(data.ids[i]): dict(zip(names, data.inputs[i].tolist(), strict=True)) for i in _rows(data, ids)}


def _rows(data: Dataset, ids: Collection[str]) -> list[int]:
    return [i for i, identity in enumerate(data.ids) if str(identity) in ids]


def _pixels(image: Tensor) -> np.ndarray:
    """(C, H, W) to (H, W, 1 or 3) bytes."""
    if image.is_floating_point():
        low, high = image.min(), image.max()
        image = ((image - low) / (high - low).clamp(min=1e-8) * 255).round().to(torch.uint8)
    return image[: 3 if len(image) >= 3 else 1].permute(1, 2, 0).contiguous().numpy()


def _write_table(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())
