"""What pruning a task came to, and how it is kept: settings, networks, controls and evidence in memory and as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save

from surplus import __version__
from surplus.errors import InputError, StoreError, check_folder, unknown
from surplus.pruning import load_module, save_module, save_ticket
from surplus.pruning.checkpoints import Layout, export_onnx, save_checkpoint
from surplus.pruning.evidence.controls import USUAL
from surplus.pruning.schedules.imp import Level
from surplus.tasks import Task
from surplus.training import Run
from surplus.training.store import write_atomically

LAYOUTS = ("dense", "csr", "2:4", "onnx")
"""What weights can be written as."""


class Pruning(BaseModel):
    """How to prune."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: str = "imp"
    """A pruning schedule, a structured pruning or a weight score, by name."""
    density: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the prunable weights to keep; of the channels or units for structured pruning. With `until`, the least
    that is tried."""
    until: Literal["matching"] | None = None
    """"matching": stop at the sparsest networks that are shown to match the dense ones, at `density` at the latest."""
    score: str | None = None
    """What ranks the weights, for methods that take any score; the method's own when None."""
    scope: str | None = None
    """"global", "layer", "neuron" or a pattern N:M, for methods that take one; the method's own when None."""
    rewind: Annotated[int, Field(ge=0)] | None = None
    """Step to rewind to, for methods that do; a twentieth of training when None, 0 for the initial weights."""
    exclude: tuple[str, ...] = ()
    """Layers to keep whole."""
    options: dict[str, Any] = Field(default={})
    """Settings of the method's own, by name."""
    controls: tuple[str, ...] = USUAL
    """Which controls to train."""
    seeds: Annotated[int, Field(ge=1)] = 5
    """Networks; every arm has the same seeds."""
    margin: Annotated[float, Field(gt=0)] = 0.01
    """The largest loss of the metric that counts as none."""
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of intervals and tests."""
    device: str = "cpu"
    """Where networks train."""


@dataclass(frozen=True)
class Pruned:
    """What pruning came to."""

    task: Task
    settings: Pruning
    dense: Run
    levels: list[Level]
    """From dense to sparse; the last is the one that controls are compared with. Empty for structured pruning."""
    smaller: list[Run]
    """The smaller networks, one for each seed; empty for pruning by masks."""
    controls: dict[str, Level | Run | list[Run]]
    evidence: dict[str, Any]
    """See `report`: tables, sentences, verdicts."""

    @property
    def runs(self) -> list[Run]:
        """The pruned networks."""
        return self.smaller or [self.levels[-1].run]

    def result(self) -> dict[str, Any]:
        """All that was found, as plain JSON."""
        keys = {"dense": self.dense.keys, "pruned": [k for run in self.runs for k in run.keys]}
        facts = {"surplus": __version__, "settings": self.settings.model_dump(mode="json"), "runs": keys}
        return {**self.evidence, **facts}

    def curve(self) -> list[dict[str, Any]]:
        """A row per level and seed: density and the test metric."""
        arms = self.levels or [Level(self.settings.density, torch.empty(0), torch.empty(0), r) for r in self.smaller]
        return [
            {"density": level.density, "seed": seed, "metric": float(value)}
            for level in arms
            for seed, value in zip(level.run.seeds, level.accuracy, strict=True)
        ]

    def save(self, folder: str | Path, layouts: Sequence[str] = ("dense",)) -> None:
        """Write the mask, the weights, the curve, the controls and the evidence.

        ticket.safetensors    mask and starting weights of the first seed (`load_ticket`)
        masks.safetensors     the masks of all seeds
        weights.*             trained weights of the first seed, in each layout (dense, csr, 2:4, onnx)
        smaller-model/        in place of the three, what structured pruning left of the first seed (`load_module`)
        curve.csv, networks.csv, controls.csv, pruning.json

        Raises:
            InputError: the folder cannot be written to, or a layout does not suit the mask.
            MissingExtra: ONNX is asked for, and is not installed.
        """
        for layout in layouts:
            if layout not in LAYOUTS:
                raise unknown("layout", layout, LAYOUTS)
        folder = Path(folder)
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.smaller:
            self._save_smaller(folder)
        else:
            self._save_ticket(folder, layouts)
        tables = {"curve": self.curve(), "networks": self.evidence["networks"]}
        tables |= {"controls": self.evidence["against_controls"]}
        for name, rows in tables.items():
            if rows:
                write_atomically(folder / f"{name}.csv", _csv(rows))
        write_atomically(folder / "pruning.json", json.dumps(self.result(), indent=1, ensure_ascii=False).encode())

    def _save_ticket(self, folder: Path, layouts: Sequence[str]) -> None:
        level, space, seeds = self.final, self.task.space, self.final.run.seeds
        theta, mask = level.run.theta[0], level.masks[0]
        meta = {"task": self.task.name, "seed": seeds[0], "method": self.settings.method, "density": level.density}
        save_ticket(folder / "ticket.safetensors", space, level.start[0], mask, meta)
        masks = {str(seed): m.contiguous() for seed, m in zip(seeds, level.masks, strict=True)}
        write_atomically(folder / "masks.safetensors", save(masks))
        buffers = self.task.statistics(theta)
        kept = mask if bool((theta[~mask] == 0).all()) else None  # some methods train what lies outside, too
        for layout in layouts:
            if layout == "onnx":
                x = self.task.prepare(self.task.train.inputs[:1])
                export_onnx(folder / "weights.onnx", space, theta, kept, input_shape=x, buffers=buffers)
            else:
                name = "weights.safetensors" if layout == "dense" else f"weights-{layout.replace(':', '-')}.safetensors"
                as_ = cast(Layout, layout)
                save_checkpoint(folder / name, space, theta, kept, layout=as_, buffers=buffers, meta=meta)

    def _save_smaller(self, folder: Path) -> None:
        """The network of the first seed, under the name of a network that it can be built from, where there is one."""
        run = self.smaller[0]
        module, folder = run.task.space.write(run.theta[0], run.task.statistics(run.theta[0])), folder / "smaller-model"
        for origin in (run.task.network, self.task.network):
            if origin.factory is None:
                save_module(folder, module, network=origin.identity)
                with suppress(InputError, StoreError):
                    load_module(folder)
                    return
        save_module(folder, module)

    @property
    def final(self) -> Level:
        """The level that was asked for, or the sparsest that matches.

        Raises:
            InputError: the networks are smaller, not masked.
        """
        if not self.levels:
            raise InputError("structured pruning leaves smaller networks, which are in `smaller`, and no masks")
        return self.levels[-1]


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    out = csv.DictWriter(text, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    out.writeheader()
    out.writerows(rows)
    return text.getvalue().encode()
