"""The explorer: pruned networks under corruption on one HTML page of six linked views (Li et al. 2024, 2206.07918).

    explorer(task, variants_of({"imp": imp(task, levels=8)}), "explorer.html")

A choice or a brush in one view changes the others. The page holds its data as quantised numbers and asks nothing of the
network: a content security policy allows its one script, and all that users named is written as text.
"""

from __future__ import annotations

import io
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surplus.data import Dataset
from surplus.errors import InputError
from surplus.landscape.robustness import (
    METRICS,
    Robustness,
    Variant,
    distances,
    embed,
    occlusion,
    redundant,
    robustness,
    spanning_tree,
)
from surplus.pruning.counting import count
from surplus.report.page import _environment
from surplus.space import generator
from surplus.tasks import Task

_AXES = 20  # classes on parallel axes; with more, those most often confused
_COLUMNS = 30  # of a table
_TILE = 32  # pixels of a picture's longer side
_PICTURES = 1_200_000  # bytes of pictures on one page
_WORK = 2e12  # multiply-adds of all occlusion maps: about a minute on one core


def explorer(
    task: Task,
    variants: Mapping[str, Variant],
    path: str | Path,
    *,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] = (1, 3, 5),
    examples: int = 500,
    centred: bool = False,
    seed: int = 0,
) -> Path:
    """Write the page that compares networks under corruption.

    Args:
        task: a classification task whose networks end in a linear layer.
        variants: the networks by name, see `surplus.landscape.robustness.variants_of`; a dense one, when there is one,
            is what the others are compared with.
        path: the page; one that is there is replaced in one step.
        corruptions: names from the catalogue; a handful of usual ones when None, none for ().
        severities: of 1 to 5.
        examples: how many test examples at most, drawn at random.
        centred: measure angle and norm from each network's mean training feature, not from zero.
        seed: of the draws.

    Returns:
        The path.

    Raises:
        InputError: no variants, weights of another network, no classes, an unknown corruption.
        MissingExtra: Jinja2 is not installed.
    """
    if examples < 1:
        raise InputError(f"examples is a number of test examples, at least 1; got {examples}")
    environment = _environment()
    data = _drawn(task.test, examples, seed)
    options: dict[str, Any] = {"corruptions": corruptions, "severities": severities, "centred": centred, "seed": seed}
    found = robustness(task, variants, data=data, **options)
    text = render(environment, page_data(task, found, seed, centred))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8", newline="\n")
    return partial.replace(path)


def render(environment: Any, data: Mapping[str, Any]) -> str:
    """The page as text, from what `page_data` found."""
    from markupsafe import Markup

    parts = ("explorer_state.js", "explorer_plots.js", "explorer_examples.js")
    script = "\n".join(environment.loader.get_source(environment, name)[0] for name in parts)
    script = f'(function () {{\n"use strict";\n{script}\n}})();'
    digest = b64encode(sha256(script.encode()).digest()).decode()
    page: str = environment.get_template("explorer.html").render(data=data, script=Markup(script), hash=digest)
    return page


def page_data(task: Task, found: Robustness, seed: int = 0, centred: bool = False) -> dict[str, Any]:
    """All that the page shows, as plain JSON; arrays are base64, flattened in the order (network, condition, ...)."""
    vectors = found.vectors()
    places, name = embed(vectors, seed)
    axes = _axes(found)
    return {
        "task": task.name,
        "kind": found.data.kind,
        "centred": centred,
        "classes": list(found.data.classes),
        "outputs": found.angles.shape[-1],
        "labels": found.data.targets.tolist(),
        "ids": [str(i) for i in found.data.ids.tolist()],
        "models": [{"name": n, "method": v.method, "density": v.density} for n, v in found.variants.items()],
        "conditions": [{"name": str(c), "kind": c.kind, "severity": c.severity} for c in found.conditions],
        "reference": _reference(found.variants),
        "metrics": {m: _words(getattr(found, m)) for m in METRICS},
        "prediction": _text(found.prediction.cpu().numpy().astype("<u2")),
        "axes": axes,
        "angles": _text((found.angles[..., axes] / 180 * 255).round().cpu().numpy().astype(np.uint8)),
        "map": {"method": name, "places": places.round(4).tolist(), "edges": spanning_tree(distances(vectors))},
        "redundant": [row | {"ratio": round(row["ratio"], 3)} for row in redundant(found)],
        "pictures": _pictures(found) if found.data.kind == "image" else None,
        "rows": _rows(found.data) if found.data.kind == "table" else None,
        "attribution": _attribution(task, found, centred) if found.data.kind == "image" else None,
    }


def _drawn(data: Dataset, most: int, seed: int) -> Dataset:
    if len(data) <= most:
        return data
    return data[torch.randperm(len(data), generator=generator(seed, "explorer"))[:most].sort().values]


def _reference(variants: Mapping[str, Variant]) -> int:
    """What gains and losses are measured against: the densest network, the first of equals."""
    densities = [v.density for v in variants.values()]
    return densities.index(max(densities))


def _axes(found: Robustness) -> list[int]:
    """The classes with an axis of their own: all, or those that enter into most mistakes."""
    classes = found.angles.shape[-1]
    if classes <= _AXES:
        return list(range(classes))
    wrong = ~found.correct
    labels = found.data.targets.to(wrong.device).expand_as(wrong)
    times = torch.bincount(torch.cat([labels[wrong], found.prediction[wrong]]), minlength=classes)
    return sorted(times.argsort(descending=True, stable=True)[:_AXES].tolist())


# ---- arrays as text -------------------------------------------------------------------------------------------------


def _text(values: np.ndarray) -> str:
    return b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _words(values: Tensor) -> dict[str, Any]:
    """Values as 16-bit steps between their smallest and largest finite one."""
    v = values.double().cpu().numpy()
    finite = v[np.isfinite(v)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    steps = np.nan_to_num(v, nan=low, posinf=high, neginf=low) - low
    return {"low": low, "high": high, "words": _text((steps / ((high - low) or 1) * 65535).round().astype("<u2"))}


def _rows(data: Dataset) -> dict[str, Any]:
    """The first columns of a table."""
    shown = data.inputs[:, :_COLUMNS]
    names = [f"x{j}" for j in range(shown.shape[1])]
    return {"names": names, "of": data.shape[0], "values": [[float(f"{v:.4g}") for v in row] for row in shown.tolist()]}


def _pictures(found: Robustness) -> dict[str, Any]:
    """A sheet of tiles for each condition, without loss if there is room; if there is none at all, for clean data."""
    tiles = [_tiles(x) for x in found.inputs]
    height, width = tiles[0].shape[1:3]
    columns = int(np.ceil(len(found.data) ** 0.5))
    sheets: list[str] = []
    for kind, options, chosen in (
        ("PNG", {"optimize": True}, tiles),
        ("WEBP", {"quality": 70}, tiles),
        ("WEBP", {"quality": 70}, tiles[:1]),
    ):
        files = [_sheet(t, columns, kind, options) for t in chosen]
        sheets = [f"data:image/{kind.lower()};base64,{b64encode(f).decode()}" for f in files]
        if sum(map(len, files)) <= _PICTURES:
            break
    return {"width": width, "height": height, "columns": columns, "sheets": sheets}


def _tiles(inputs: Tensor) -> np.ndarray:
    """Images (n, C, H, W) as bytes (n, h, w, 1 or 3), no side longer than a tile."""
    x = inputs.cpu().float()[:, : 3 if inputs.shape[1] >= 3 else 1]
    if x.min() < 0 or x.max() > 1:
        x = (x - x.min()) / (x.max() - x.min())
    factor = max(x.shape[-2:]) / _TILE
    if factor > 1:
        side = [max(1, round(s / factor)) for s in x.shape[-2:]]
        x = torch.nn.functional.interpolate(x, side, mode="area")
    return (x * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _sheet(tiles: np.ndarray, columns: int, kind: str, options: Mapping[str, Any]) -> bytes:
    from PIL import Image

    n, h, w, channels = tiles.shape
    lines = -(-n // columns)
    sheet = np.zeros((lines * columns, h, w, channels), np.uint8)
    sheet[:n] = tiles
    sheet = sheet.reshape(lines, columns, h, w, channels).swapaxes(1, 2).reshape(lines * h, columns * w, channels)
    file = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(file, kind, **options)
    return file.getvalue()


def _attribution(task: Task, found: Robustness, centred: bool) -> dict[str, Any]:
    """Occlusion maps of clean examples in bytes, as many as the work allows, the most fragile first."""
    width = found.data.shape[2]
    sides = sorted({max(1, width // 8), max(1, width // 4)})
    patches = sum(-(-found.data.shape[1] // s) * -(-width // s) for s in sides)
    work = count(task.space.module, found.data.shape).macs * patches * len(found.variants)
    order = found.fragility.mean(0).argsort(descending=True, stable=True).cpu()
    rows = order[: max(1, int(_WORK / max(work, 1)))].sort().values
    maps = []
    for side in sides:
        values = np.stack([_maps(task, v.theta, found.data[rows], side, centred) for v in found.variants.values()])
        scale = np.abs(values).max((-2, -1)).astype("<f4")  # (V, m, 3)
        parts = np.round(values / np.maximum(scale, 1e-30)[..., None, None] * 127).astype(np.int8)
        shape = {"rows": values.shape[-2], "columns": values.shape[-1]}
        maps.append({"side": side, **shape, "scales": _text(scale), "values": _text(parts)})
    height, width = found.data.shape[1:]
    return {"examples": rows.tolist(), "height": height, "width": width, "patches": maps}


def _maps(task: Task, theta: Tensor, data: Dataset, side: int, centred: bool) -> np.ndarray:
    """(m, 3, rows, columns)."""
    from surplus.training import features

    centre = features(task, theta, task.train).mean(0) if centred else None
    maps = occlusion(task, theta, data, side, centre=centre)
    return torch.stack([maps[m] for m in METRICS], 1).cpu().numpy()
