"""Kill training runs and audits without warning, again and again, and compare what they end with.

    python benchmarks/kill.py [--kills 20] [--seed 0]

Each is started, killed by SIGKILL at a random moment of its first quarter, and started again; when one comes to its end
before it is killed, it is compared with one that nobody disturbed, and another is begun, until all kills are done. The
table shows how many came to their end, how many of the restarts found work to go on with, how much finished work was
done again, and whether the results are the same: weights byte for byte, audits in all but their times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
AUDIT = "from surplus.cli import main; main()"
RUN = """
import sys
from surplus.tasks import load
from surplus.training import fit, loop
loop.CHECKPOINT_SECONDS = 1.0
task = load("digits").with_recipe(duration="400ep", augment={"shift": 1})
fit(task, seeds=4, record=True, keep=(0, 500), execution="stacked", jobs=1)
"""


@dataclass
class Victim:
    """What is killed: how it is started, and what its end is compared by."""

    name: str
    command: Callable[[Path], list[str]]
    result: Callable[[Path], object]
    kills: int = 0
    completed: int = 0
    equal: int = 0
    resumed: int = 0
    repeated: int = 0
    seconds: float = 0.0
    """Of one that nobody disturbed."""
    reference: object = field(default=None, repr=False)

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(self.command(folder), env={**ENVIRONMENT, "SURPLUS_HOME": str(folder)}, **quiet)

    def undisturbed(self) -> None:
        """Once from start to end, for comparison."""
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            if self.start(Path(folder)).wait():
                raise SystemExit(f"the {self.name} does not work even undisturbed")
            self.seconds = time.monotonic() - began
            self.reference = self.result(Path(folder))

    def once(self, kills: int, moments: random.Random) -> None:
        """One from its start to its end, with as many kills on the way as fall before it."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            while True:
                before = finished(folder)
                begun = before or list(folder.glob("runs/*/checkpoint"))
                process = self.start(folder)
                try:
                    wait = moments.uniform(0, self.seconds / 4) if self.kills < kills else None
                    code = process.wait(wait)
                except subprocess.TimeoutExpired:
                    process.kill()
                    code = process.wait()
                    self.kills += 1
                self.resumed += bool(begun)
                self.repeated += sum(finished(folder).get(f) != t for f, t in before.items())
                if code >= 0:
                    break
            self.completed += code == 0
            self.equal += code == 0 and self.result(folder) == self.reference


def finished(folder: Path) -> dict[Path, int]:
    """Results of finished work, with the time of their writing."""
    manifests = folder.glob("runs/*/manifest.json")
    return {f: f.stat().st_mtime_ns for m in manifests for f in m.parent.glob("*.safetensors")}


def weights(folder: Path) -> dict[str, bytes]:
    """All kept weights of all runs."""
    files = sorted((folder / "runs").rglob("*.safetensors"))
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


def answer(folder: Path) -> dict[str, object]:
    """audit.json without its times."""
    result: dict[str, object] = json.loads((folder / "out" / "audit.json").read_text())
    del result["timing"]
    return result


def table(victims: list[Victim]) -> Iterator[str]:
    yield "| | kills | came to their end | restarts that went on | finished work repeated | same result | undisturbed |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for v in victims:
        yield (
            f"| {v.name} | {v.kills} | {v.completed} | {v.resumed} | {v.repeated} | {v.equal} of {v.completed}"
            f" | {v.seconds:.0f} s |"
        )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    victims = [
        Victim("training run", lambda folder: [sys.executable, "-c", RUN], weights),
        Victim(
            "audit of digits",
            lambda folder: [sys.executable, "-c", AUDIT, "audit", "digits", "--out", str(folder / "out")],
            answer,
        ),
    ]
    for victim in victims:
        moments = random.Random(chosen.seed)
        victim.undisturbed()
        while victim.kills < chosen.kills:
            victim.once(chosen.kills, moments)
        print(f"{victim.name}: done", file=sys.stderr)
    print("\n".join(table(victims)))


if __name__ == "__main__":
    main()
