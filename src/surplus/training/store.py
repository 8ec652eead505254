"""The run store: folders named by the hash of what produced them, written atomically, verified before use.

    $SURPLUS_HOME/runs/<hash>/manifest.json     what produced it, and every file's size and sha256: present = complete
                              theta.safetensors, history.parquet, record/*.parquet, ...
                              checkpoint        only while training; lists the files so far in the same way

Tensors are safetensors, tables Parquet, the manifest JSON: nothing is unpickled. Manifest and checkpoint carry
checksums of their own. A file that is truncated, changed or not listed is named in a warning and never used; a damaged
folder is emptied and its work is done again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from surplus.errors import InputError, StoreError

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint"
LOCK = ".lock"
_UNLISTED = {MANIFEST, CHECKPOINT, LOCK}
_KEY_LENGTH = 32


class DamagedFile(UserWarning):
    """A file in the run store is not what its manifest says; it was not used."""


def home() -> Path:
    """The store's folder: $SURPLUS_HOME, else `surplus` in the platform's cache folder."""
    if folder := os.environ.get("SURPLUS_HOME"):
        return Path(folder).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "surplus"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/surplus"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surplus"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary file, fsync, rename.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None
        raise


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
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


@dataclass(frozen=True)
class Entry:
    """One folder of the store."""

    path: Path
    spec: dict[str, Any]
    made: dict[str, Any] = field(default_factory=dict, compare=False)
    """Size and checksum of each file written so far, while the folder is being made."""

    @property
    def key(self) -> str:
        return self.path.name

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Hold the folder, so that two processes never make the same run at once. A killed process lets go.

        Raises:
            InputError: the store cannot be written to.
            Timeout: another process holds it, and `wait` is False.
        """
        lock = FileLock(self.path / LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=wait)
        except Timeout:
            raise
        except OSError as error:
            raise InputError(
                f"the run store {str(self.path.parent.parent)!r} cannot be written to: {error.strerror or error};"
                " set SURPLUS_HOME to a folder that can"
            ) from None
        try:
            yield
        finally:
            lock.release()

    # ---- while being made ----

    def write(self, name: str, content: bytes) -> None:
        write_atomically(self.path / name, content)
        self.made[name] = _checksum(content)

    def write_tensors(self, name: str, tensors: dict[str, Tensor]) -> None:
        self.write(name, _safetensors(tensors))

    def write_table(self, name: str, table: Any) -> None:
        """A pyarrow table as Parquet."""
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", compression_level=1)
        self.write(name, buffer.getvalue())

    def write_checkpoint(self, tensors: dict[str, Tensor]) -> None:
        """What training needs to go on from here: its tensors, and the files written so far with their checksums."""
        head = json.dumps({"run": self.key, "files": self.made}).encode()
        content = head + b"\n" + _safetensors(tensors)
        write_atomically(self.path / CHECKPOINT, content + hashlib.sha256(content).digest())

    def read_checkpoint(self) -> dict[str, Tensor] | None:
        """The last complete checkpoint, with the folder as it was then; None when there is none.

        One that is damaged or another run's, or whose files are, is named in a warning and not used.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        content = path.read_bytes()
        head, _, body = content[:-32].partition(b"\n")
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            wrong = [f"{CHECKPOINT} has changed since it was written (its sha256 differs)"]
        elif (told := json.loads(head))["run"] != self.key:
            wrong = [f"{CHECKPOINT} belongs to another run ({told['run']})"]
        else:
            wrong = self._wrong(told["files"])
        if wrong:
            warnings.warn(
                f"the interrupted run {self.path} is damaged and starts again: {'; '.join(wrong)}",
                DamagedFile,
                stacklevel=2,
            )
            return None
        self.made.update(told["files"])
        self._sweep(self.made.keys() | {CHECKPOINT})
        return load_tensors(body)

    def finish(self, **facts: Any) -> None:
        """List every file written with its checksum in the manifest: from now on the folder is complete."""
        told = {"spec": self.spec, "files": self.made, **facts}
        manifest = {**told, "sha256": _digest(told)}
        write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what an interrupted or damaged making left, checkpoint included."""
        (self.path / MANIFEST).unlink(missing_ok=True)  # first: what is half removed must not look complete
        self._sweep(set())
        self.made.clear()

    def _sweep(self, keep: Set[str]) -> None:
        """Remove all files but the lock and those to keep."""
        for file in self._files():
            if file.relative_to(self.path).as_posix() not in {LOCK, *keep}:
                file.unlink(missing_ok=True)
        for folder in sorted((f for f in self.path.rglob("*") if f.is_dir() and not f.is_symlink()), reverse=True):
            with suppress(OSError):  # not empty
                folder.rmdir()

    # ---- once complete ----

    @property
    def complete(self) -> bool:
        return (self.path / MANIFEST).exists()

    @property
    def manifest(self) -> dict[str, Any]:
        """What produced the folder, its files, and facts of its making.

        Raises:
            StoreError: it is not there, or damaged, or another run's.
        """
        path = self.path / MANIFEST
        try:
            manifest = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from None
        if not isinstance(manifest, dict) or not manifest.keys() >= {"spec", "files", "sha256"}:
            raise StoreError(f"{path} is not a manifest of surplus")
        if manifest.pop("sha256") != _digest(manifest):
            raise StoreError(f"{path} has changed since it was written (its sha256 differs)")
        if (key := key_of(manifest["spec"])) != self.key:
            raise StoreError(f"{path} describes another run ({key})")
        return manifest

    def damage(self) -> list[str]:
        """What is wrong with a complete folder, a line per file; empty when all is as the manifest says."""
        try:
            return self._wrong(self.manifest["files"])
        except StoreError as error:
            return [str(error)]

    def _wrong(self, files: dict[str, Any]) -> list[str]:
        """Which of these files are not as they were written, and why."""
        wrong = []
        for name, expected in files.items():
            file = self.path / name
            if not file.is_file():
                wrong.append(f"{name} is missing")
            elif (size := file.stat().st_size) != expected["bytes"]:
                wrong.append(f"{name} has {size} bytes instead of {expected['bytes']}")
            elif _checksum(file) != expected:
                wrong.append(f"{name} has changed since it was written (its sha256 differs)")
        return wrong

    def foreign(self) -> list[str]:
        """Files that the manifest does not list; they are never read."""
        listed = self.manifest["files"].keys() | _UNLISTED
        names = (f.relative_to(self.path).as_posix() for f in self._files())
        return sorted(n for n in names if n not in listed and not n.endswith(".tmp"))

    def usable(self) -> bool:
        """Whether the folder is complete and sound. Damage and foreign files are named in a warning."""
        if not self.complete:
            return False
        if wrong := self.damage():
            warnings.warn(
                f"the run {self.path} is damaged and was not used: {'; '.join(wrong)}", DamagedFile, stacklevel=2
            )
            return False
        if foreign := self.foreign():
            warnings.warn(
                f"the run {self.path} holds files that are not its own, which were not used: {', '.join(foreign)}",
                DamagedFile,
                stacklevel=2,
            )
        return True

    def names(self, folder: str) -> list[str]:
        """Names of the files that the manifest lists in one of its folders."""
        return sorted(n for n in self.manifest["files"] if n.startswith(f"{folder}/"))

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            StoreError: the manifest does not list it, or it is not what the manifest says.
        """
        path, files = self.path / name, self.manifest["files"]
        if name not in files:
            raise StoreError(f"the run {self.path} has no file {name}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror}); do the same again to make it anew") from None
        if _checksum(content) != files[name]:
            raise StoreError(
                f"{path} has changed since it was written, and was not used; do the same again to make it anew"
            )
        return content

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        return load_tensors(self.read(name))

    def _files(self) -> list[Path]:
        return [f for f in self.path.rglob("*") if f.is_symlink() or not f.is_dir()]

    def size(self) -> int:
        """Bytes on disk."""
        total = 0
        for file in self._files():
            with suppress(FileNotFoundError):  # a temporary file of a process at work
                total += file.lstat().st_size
        return total


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
        """Every run of the store, oldest first; what else lies there is named in a warning and left alone."""
        found = list(self.runs.iterdir()) if self.runs.is_dir() else []
        ours = [f for f in found if f.is_dir() and re.fullmatch(f"[0-9a-f]{{{_KEY_LENGTH}}}", f.name)]
        if foreign := sorted(f.name for f in set(found) - set(ours)):
            warnings.warn(
                f"the run store {self.runs} holds what is not its own, which was not used: {', '.join(foreign)}",
                DamagedFile,
                stacklevel=2,
            )
        return [Entry(f, {}) for f in sorted(ours, key=lambda f: (f.stat().st_mtime, f.name))]

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

        Runs that a process is making at this moment stay.

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
                bytes_ = entry.size()
                with suppress(Timeout), entry.locked(wait=False):
                    entry.clear()
                    shutil.rmtree(entry.path, ignore_errors=True)
                    count, size = count + 1, size + bytes_
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


def _safetensors(tensors: dict[str, Tensor]) -> bytes:
    return save_tensors({k: t.detach().cpu().contiguous() for k, t in tensors.items()})


def _checksum(source: bytes | Path) -> dict[str, Any]:
    if isinstance(source, bytes):
        return {"bytes": len(source), "sha256": hashlib.sha256(source).hexdigest()}
    with open(source, "rb") as file:
        return {"bytes": source.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _digest(told: dict[str, Any]) -> str:
    """Checksum of plain data, the same however it is laid out in a file."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
