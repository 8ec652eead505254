"""The run store: folders named by the hash of what produced them, written atomically, verified before use.

    $SURPLUS_HOME/runs/<hash>/manifest.json     what produced it, and every file's size and sha256: present = complete
                              theta.safetensors, history.parquet, record/*.parquet, ...
                              checkpoint        only while training; carries its own checksum

Tensors are safetensors, tables Parquet, the manifest JSON: nothing is unpickled. A file that is truncated, changed or
not listed is named in a warning and never used; a damaged folder is set aside and its work is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from surplus.errors import InputError, StoreError

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint"
_UNLISTED = {MANIFEST, CHECKPOINT, ".lock"}


class DamagedFile(UserWarning):
    """A file in the run store is not what its manifest says; it was not used."""


def home() -> Path:
    """The store's folder: $SURPLUS_HOME, else `surplus` in the platform's cache folder."""
    if folder := os.environ.get("SURPLUS_HOME"):
        return Path(folder).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "surplus"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/surplus"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "surplus"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@cache
def code_version(*rooms: str) -> str:
    """Hash of the source of these rooms of surplus: a run made by other code has another name."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for room in rooms:
        for file in sorted((package / room).rglob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def key_of(spec: dict[str, Any]) -> str:
    """The name of a folder: sha256 of its specification as canonical JSON."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Entry:
    """One folder of the store."""

    path: Path
    spec: dict[str, Any]

    @property
    def key(self) -> str:
        return self.path.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, so that two processes never make the same run at once. A killed process lets go."""
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / ".lock"):
            yield

    # ---- while being made ----

    def write(self, name: str, content: bytes) -> None:
        write_atomically(self.path / name, content)

    def write_tensors(self, name: str, tensors: dict[str, Tensor]) -> None:
        self.write(name, save_tensors({k: t.detach().cpu().contiguous() for k, t in tensors.items()}))

    def write_table(self, name: str, table: Any) -> None:
        """A pyarrow table as Parquet."""
        import io

        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", compression_level=1)
        self.write(name, buffer.getvalue())

    def write_checkpoint(self, tensors: dict[str, Tensor]) -> None:
        content = save_tensors({k: t.detach().cpu().contiguous() for k, t in tensors.items()})
        self.write(CHECKPOINT, content + hashlib.sha256(content).digest())

    def read_checkpoint(self) -> dict[str, Tensor] | None:
        """The last complete checkpoint, or None; a damaged one is named in a warning and ignored."""
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        content = path.read_bytes()
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            warnings.warn(
                f"the checkpoint {path} is damaged and was not used; the run starts again", DamagedFile, stacklevel=2
            )
            return None
        return load_tensors(content[:-32])

    def finish(self, **facts: Any) -> None:
        """List every file with its checksum in the manifest: from now on the folder is complete."""
        files = {f.relative_to(self.path).as_posix(): f for f in sorted(self.path.rglob("*")) if f.is_file()}
        listed = {n: _checksum(f) for n, f in files.items() if n not in _UNLISTED and not n.endswith(".tmp")}
        manifest = {"spec": self.spec, "files": listed, **facts}
        self.write(MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what an interrupted or damaged making left, checkpoint included."""
        for item in self.path.iterdir() if self.path.exists() else ():
            if item.name != ".lock":
                shutil.rmtree(item) if item.is_dir() else item.unlink()

    # ---- once complete ----

    @property
    def complete(self) -> bool:
        return (self.path / MANIFEST).exists()

    @property
    def manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads((self.path / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path / MANIFEST} cannot be read: {error}") from None
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict) or "spec" not in manifest:
            raise StoreError(f"{self.path / MANIFEST} is not a manifest of surplus")
        return manifest

    def damage(self) -> list[str]:
        """What is wrong with a complete folder, a line per file; empty when all is as the manifest says."""
        try:
            manifest = self.manifest
        except StoreError as error:
            return [str(error)]
        if key_of(manifest["spec"]) != self.key:
            return [f"{MANIFEST} describes another run (its hash is {key_of(manifest['spec'])})"]
        wrong = []
        for name, expected in manifest["files"].items():
            file = self.path / name
            if not file.exists():
                wrong.append(f"{name} is missing")
            elif file.stat().st_size != expected["bytes"]:
                wrong.append(f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}")
            elif _checksum(file) != expected:
                wrong.append(f"{name} has changed since it was written (its sha256 differs)")
        return wrong

    def foreign(self) -> list[str]:
        """Files that the manifest does not list; they are never read."""
        listed = self.manifest["files"].keys() | _UNLISTED
        names = (f.relative_to(self.path).as_posix() for f in self.path.rglob("*") if f.is_file())
        return sorted(n for n in names if n not in listed)

    def usable(self) -> bool:
        """Whether the folder is complete and sound. Damage is named in a warning, and the folder emptied for a fresh start."""
        if not self.complete:
            return False
        if wrong := self.damage():
            warnings.warn(
                f"the run {self.path} is damaged and was not used: {'; '.join(wrong)}", DamagedFile, stacklevel=2
            )
            self.clear()
            return False
        if foreign := self.foreign():
            warnings.warn(
                f"the run {self.path} holds files that are not its own, which were not used: {', '.join(foreign)}",
                DamagedFile,
                stacklevel=2,
            )
        return True

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        return load_tensors((self.path / name).read_bytes())

    def size(self) -> int:
        """Bytes on disk."""
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())


class Store:
    """All runs under one folder."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else home()

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def entry(self, spec: dict[str, Any]) -> Entry:
        """The folder for what `spec` (JSON-serialisable) describes, whether there yet or not."""
        try:
            return Entry(self.runs / key_of(spec), spec)
        except (TypeError, ValueError) as error:
            raise InputError(f"a run's specification must be plain JSON: {error}") from None

    def entries(self) -> list[Entry]:
        """Every folder of the store, oldest first."""
        folders = [f for f in self.runs.iterdir() if f.is_dir()] if self.runs.exists() else []
        return [Entry(f, {}) for f in sorted(folders, key=lambda f: f.stat().st_mtime)]

    def find(self, key: str) -> Entry:
        """The complete folder whose name begins so.

        Raises:
            InputError: none does, or several do.
        """
        found = [e for e in self.entries() if e.key.startswith(key)]
        if len(found) != 1:
            which = "no run begins" if not found else f"{len(found)} runs begin"
            raise InputError(f"{which} with {key!r}; `surplus runs list` prints their names")
        if not found[0].complete:
            raise InputError(
                f"the run {found[0].key} was interrupted and has no manifest yet; train it to its end, or clean it"
            )
        return found[0]

    def clean(self, *, older: str | None = None, broken: bool = False, everything: bool = False) -> tuple[int, int]:
        """Delete runs: those last written longer ago than `older` ("12h", "30d"), broken ones, or all.

        Returns:
            How many, and their bytes.

        Raises:
            InputError: nothing says which, or a time is written otherwise.
        """
        if older is None and not broken and not everything:
            raise InputError("say which runs to delete: --older 30d, --broken or --all")
        before = time.time() - _age(older) if older else 0.0
        count = size = 0
        for entry in self.entries():
            aged = older is not None and entry.path.stat().st_mtime < before
            if everything or aged or (broken and (not entry.complete or entry.damage())):
                count, size = count + 1, size + entry.size()
                shutil.rmtree(entry.path)
        return count, size

    def cached(self, spec: dict[str, Any], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that are made once: read back if this spec has been computed before."""
        entry = self.entry({"kind": "tensors", **spec})
        with entry.locked():
            if not entry.usable():
                entry.clear()
                entry.write_tensors("tensors.safetensors", compute())
                entry.finish()
            return entry.read_tensors("tensors.safetensors")


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|h|d)", text)
    if not match:
        raise InputError(f"an age is written like 30m, 12h or 30d; got {text!r}")
    return float(match.group(1)) * {"m": 60, "h": 3600, "d": 86400}[match.group(2)]


def _checksum(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
