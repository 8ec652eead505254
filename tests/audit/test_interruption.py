"""Audits that are killed or interrupted go on where they stopped, and end with the same answer.

This file is also the program that the tests kill: the command line, on a plan that takes seconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs the signals of POSIX")
pytest.importorskip("jinja2", reason="jinja2 is not installed")
pytest.importorskip("vl_convert", reason="vl-convert is not installed")

# ---- the program ----------------------------------------------------------------------------------------------------


def program(arguments: list[str]) -> int:
    """The command line, with every part of an audit but few runs of each."""
    from surplus.audit import settings
    from surplus.cli import run

    settings.SMALL = replace(
        settings.SMALL,
        shares=(0.5, 0.9),
        runs_per_share=8,
        grand_runs=2,
        examples=settings.ExamplesPlan(2, (), (0.8, 0.4)),
        weights=settings.WeightsPlan(2, 0.2, 6, (3,)),
        directions=settings.DirectionsPlan(2, (5, 10), (0.25, 0.5), 100, 3),
    )
    return run(arguments)


# ---- killing it -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """240 rows of three overlapping classes."""
    chance = random.Random(0)
    rows = ["a,b,c,kind"]
    for i in range(240):
        x = [chance.gauss(2.0 * (i % 3 == j), 1.0) for j in range(3)]
        rows.append(",".join(f"{v:.3f}" for v in x) + f",class {i % 3}")
    path = tmp_path_factory.mktemp("data") / "table.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def start(table: Path, folder: Path, home: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["audit", str(table), "--labels", "kind", "--network", "mlp:widths=8-8", "--recipe", "duration=2ep"]
    return subprocess.Popen(
        [sys.executable, __file__, *words, "--out", str(folder), *more],
        env={**os.environ, "SURPLUS_HOME": str(home)},
        start_new_session=True,  # a group of its own, which gets Ctrl-C as a terminal's group does
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, said = process.communicate(timeout=300)
    return process.returncode, said.decode()


def finished(home: Path) -> dict[Path, int]:
    """Every finished run's weights and computed tensors, with the time of their writing."""
    manifests = home.glob("runs/*/manifest.json")
    return {f: f.stat().st_mtime_ns for m in manifests for f in m.parent.glob("*.safetensors")}


def names(files: dict[Path, int]) -> set[str]:
    return {f"{f.parent.name}/{f.name}" for f in files}


def answer(folder: Path) -> dict[str, Any]:
    """audit.json without its times."""
    result = json.loads((folder / "audit.json").read_text())
    assert result.pop("timing")
    return result


def contents(folder: Path) -> dict[str, bytes | str]:
    """The other files, which programs read."""
    from safetensors.torch import load

    files = (f for f in folder.rglob("*") if f.is_file() and f.name not in ("audit.json", "index.html"))
    found: dict[str, bytes | str] = {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}
    ticket = found["ticket.safetensors"]
    assert isinstance(ticket, bytes)
    tensors = load(ticket)  # safetensors writes its metadata in no order
    return {**found, "ticket.safetensors": str({k: v.tolist() for k, v in sorted(tensors.items())})}


def kill(process: subprocess.Popen[bytes], home: Path, more: int, seconds: float) -> None:
    """End it without warning, so long after so many further runs are finished."""
    count = len(finished(home)) + more
    while len(finished(home)) < count and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.communicate()


def press_ctrl_c(process: subprocess.Popen[bytes], part: str) -> tuple[int, str]:
    """Interrupt it, and its workers, as soon as it says that this part begins."""
    assert process.stderr is not None
    said = ""
    while not said.strip().endswith(part):
        line = process.stderr.readline().decode()
        assert line, said  # it ended before that
        said += line
    os.killpg(process.pid, signal.SIGINT)
    code, rest = finish(process)
    return code, said + rest


@pytest.mark.slow
def test_an_audit_killed_at_random_moments_gives_the_same_answer_and_repeats_nothing(table, tmp_path):
    home, out, moments = tmp_path / "home", tmp_path / "out", random.Random(1)
    kept: dict[Path, int] = {}
    for _ in range(2):
        kill(start(table, out, home), home, moments.randint(1, 3), moments.uniform(0, 0.05))
        now = finished(home)
        assert kept.items() <= now.items() and len(now) > len(kept)
        kept = now

    # Ctrl-C leaves a report of what is done, and nothing of an earlier audit.
    (out / "smaller-model").mkdir(parents=True)
    (out / "smaller-model" / "weights.safetensors").write_bytes(b"of an earlier audit")
    code, said = press_ctrl_c(start(table, out, home), "weights")
    assert code == 130 and "Traceback" not in said, said
    result = answer(out)
    assert [result[part]["status"] for part in ("labels", "examples")] == ["done", "done"]
    assert result["status"] == "interrupted" and result["directions"]["status"] == "left out"
    assert result["directions"]["note"] == "the audit was interrupted; run it again to go on"
    assert "interrupted" in (out / "index.html").read_text()
    assert (out / "suspects.csv").exists() and not (out / "smaller-model").exists()
    kept = finished(home)

    code, said = finish(start(table, out, home))
    assert code == 0, said
    assert kept.items() <= finished(home).items() and len(kept) < len(finished(home))
    assert not list(home.glob("runs/*/checkpoint")) and not list(home.rglob("*.tmp"))

    code, said = finish(start(table, tmp_path / "whole", tmp_path / "another home"))
    assert code == 0, said
    assert answer(out) == answer(tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")
    assert names(finished(home)) == names(finished(tmp_path / "another home"))  # and nothing was trained in vain


def test_an_audit_on_a_budget_goes_on_by_the_plan_that_it_began_with(table, tmp_path):
    """The clock decides how much is done; run again, it is the clock of the first time."""
    from surplus.audit import AuditSettings
    from surplus.audit.bench import Bench, within_budget
    from surplus.audit.ensemble import train_ensemble
    from surplus.audit.settings import plan_for
    from surplus.tasks import load
    from surplus.training import Store

    task = load(str(table), "mlp", labels="kind", widths=(8, 8)).with_recipe(duration="2ep")

    def bench(age: float) -> Bench:
        settings = AuditSettings(budget=5.0)
        made = Bench(task, settings, plan_for(task), Store(tmp_path), time.monotonic() - age)
        made.plan = within_budget(made)
        return made

    first, again = bench(1.0), bench(15.0)
    assert again.plan == first.plan and again.cost == first.cost > 0
    train_ensemble(first)
    kept = finished(tmp_path)
    ensemble = train_ensemble(again)  # every round is found at once, and counts as it did
    assert again.runs == first.runs and finished(tmp_path) == kept
    assert len(ensemble.runs) + len(ensemble.cleaned) > 2


if __name__ == "__main__":
    sys.exit(program(sys.argv[1:]))
