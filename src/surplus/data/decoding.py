"""Encoded images to arrays of bytes, by Pillow."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from surplus.data.dataset import some
from surplus.errors import InputError

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")


def decode(items: Sequence[Any], where: str) -> np.ndarray:
    """Encoded images (bytes or paths) to (n, H, W) or (n, H, W, 3) uint8.

    Pillow holds Python's lock except while it decompresses, so threads speed up photographs, and long chunks keep
    those that decode icons out of each other's way.

    Raises:
        InputError: an image that cannot be decoded, or images of several sizes; the rows are named.
    """
    arrays = _all_pixels(items)
    broken = [i for i, a in enumerate(arrays) if a is None]
    if broken:
        raise InputError(
            f"{where} has images that cannot be decoded, in rows {some(_called(items, i) for i in broken)};"
            " mend or drop them"
        )
    images = [a for a in arrays if a is not None]
    if len({a.ndim for a in images}) > 1:  # grey among colour: make all of them colour
        images = [a if a.ndim == 3 else np.repeat(a[..., None], 3, -1) for a in images]
    odd = [i for i, a in enumerate(images) if a.shape != images[0].shape]
    if odd:
        (first, a), (other, b) = ((_called(items, i), images[i].shape) for i in (0, odd[0]))
        raise InputError(
            f"{where} has images of different sizes: row {first} is {a[1]}x{a[0]}, row {other} is {b[1]}x{b[0]}"
            f" ({len(odd)} of {len(images)} differ); resize them to one size"
        )
    return np.stack(images)


def _all_pixels(items: Sequence[Any]) -> list[np.ndarray | None]:
    workers = os.cpu_count() or 1
    chunk = min(256, 1 + len(items) // (8 * workers))
    chunks = [items[i : i + chunk] for i in range(0, len(items), chunk)]
    with ThreadPoolExecutor(workers) as pool:
        return list(chain.from_iterable(pool.map(lambda part: [_pixels(item) for item in part], chunks)))


def _pixels(item: Any) -> np.ndarray | None:
    """One image, (H, W) if grey, else (H, W, 3); None if it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(item if isinstance(item, Path) else io.BytesIO(item), formats=_FORMATS) as file:
            if file.mode.startswith("I"):  # 16 bits, which Pillow would clip rather than scale
                return (np.asarray(file) >> 8).clip(0, 255).astype(np.uint8)
            grey = file.mode in ("L", "1", "LA")
            image = file if file.mode in ("L", "RGB") else file.convert("L" if grey else "RGB")
            shape = (image.height, image.width) if grey else (image.height, image.width, 3)
            return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)
    except Exception:  # Pillow's readers raise whatever their parsing ran into
        return None


def _called(items: Sequence[Any], row: int) -> str:
    return f"{row} ({items[row].name})" if isinstance(items[row], Path) else str(row)
