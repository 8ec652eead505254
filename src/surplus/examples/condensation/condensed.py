"""`Condensed`: synthetic images as stored, what they decode into, and their files."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from surplus.data import Dataset
from surplus.errors import InputError, check_folder
from surplus.examples.condensation.decode import Formation, copies, decode
from surplus.training.store import write_atomically

FACTS, STORED = "condensed.json", "condensed.safetensors"
_SIDE = 96  # pixels that a picture is enlarged to, at least


@dataclass(frozen=True)
class Condensed:
    """A condensed training set.

    `images`: (classes per_class, C, H, W) as stored: pixels in [0, 1], give or take; the file size at equal numbers of
    pixels is that of real images only once they are rounded to bytes. `facts`: method, settings, seed, data, versions.
    """

    images: Tensor
    targets: Tensor
    classes: tuple[str, ...]
    factor: int
    formation: Formation
    facts: dict[str, Any]
    history: dict[str, list[float]]
    """What was matched, a number per outer iteration."""
    test: Dataset | None = field(default=None, repr=False)
    """Real examples that none of this was learned from, where the data came with some."""

    @property
    def per_class(self) -> int:
        """Stored images per class."""
        return len(self.images) // len(self.classes)

    def decode(self) -> Dataset:
        """The training examples that the stored images stand for, factor^2 (or more) times as many."""
        made, times = decode(self.images, self.factor, self.formation), copies(self.factor, self.formation)
        return Dataset(made, self.targets.repeat(times), np.arange(len(made)), self.classes, "image")

    def save(self, folder: str | Path) -> Path:
        """Write everything into a folder, which `surplus.data.read` and all that builds on it then take for data.

        train.npz holds the decoded examples, test.npz the real test examples where there are some, pictures/ a grid of
        stored images per class, condensed.json where it all comes from, condensed.safetensors what `load` reads.

        Returns:
            The folder.
        """
        folder = Path(folder)
        check_folder(folder)
        write_atomically(folder / "train.npz", _npz(self.decode()))
        if self.test is not None:
            write_atomically(folder / "test.npz", _npz(self.test))
        for c, name in enumerate(self.classes):
            rows = self.images[self.targets == c]
            write_atomically(folder / "pictures" / f"{c:03d}-{_slug(name)}.png", picture_grid(rows))
        tensors = {"images": self.images, "targets": self.targets}
        write_atomically(folder / STORED, save_tensors({k: v.cpu().contiguous() for k, v in tensors.items()}))
        told = {"classes": self.classes, "factor": self.factor, "formation": self.formation}
        text = json.dumps({**self.facts, **told, "history": self.history}, indent=1)
        write_atomically(folder / FACTS, text.encode())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Condensed:
        """What `save` wrote, without the test examples.

        Raises:
            InputError: the folder holds no condensed set.
        """
        folder = Path(folder)
        try:
            facts = json.loads((folder / FACTS).read_text())
            tensors = load_tensors((folder / STORED).read_bytes())
            told = [facts.pop(k) for k in ("classes", "factor", "formation", "history")]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{str(folder)!r} holds no condensed set that can be read: {error}") from None
        return cls(tensors["images"], tensors["targets"], tuple(told[0]), told[1], told[2], facts, told[3])


def picture_grid(images: Tensor, columns: int = 10, side: int = _SIDE) -> bytes:
    """Images (n, C, H, W) in [0, 1] as one PNG, row by row, enlarged to about `side`; values outside are clipped."""
    from PIL import Image

    n, channels, height, width = images.shape
    columns, times = min(columns, n), max(1, round(side / max(height, width)))
    sheet = torch.ones(channels, -(-n // columns) * (height + 1) - 1, columns * (width + 1) - 1)
    for i, image in enumerate(images.clamp(0, 1)):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[:, top : top + height, left : left + width] = image
    pixels = (sheet * 255).round().byte().permute(1, 2, 0).numpy().repeat(times, 0).repeat(times, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels[..., :3]).save(buffer, "PNG")
    return buffer.getvalue()


def _npz(data: Dataset) -> bytes:
    """Inputs and labels; these as words unless the classes are called 0, 1, ..."""
    targets = data.targets.cpu().numpy()
    numbered = data.classes == tuple(str(k) for k in range(len(data.classes)))
    labels = targets if numbered else np.array(data.classes)[targets]
    buffer = io.BytesIO()
    pixels = data.inputs.float() / 255 if data.inputs.dtype == torch.uint8 else data.inputs  # one scale in all files
    np.savez_compressed(buffer, x=pixels.cpu().numpy(), label=labels)
    return buffer.getvalue()


def _slug(name: str) -> str:
    return "".join(ch if ch.isalnum() else "-" for ch in name)[:40]
