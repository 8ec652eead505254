"""Runs that are killed at random moments end with the very bytes of runs that were not.

This file is also the program that the tests kill: `python test_interruption.py {train,spread} LOG`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from surplus.data import Dataset, Splits
from surplus.tasks import Task, task_from
from surplus.training import DamagedFile, Probe, Run, Store, fan_out, fit
from surplus.training import loop as loop_module
from surplus.training.loop import Loop

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs the signals of POSIX")

# ---- the program ----------------------------------------------------------------------------------------------------


def images(**recipe) -> Task:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (96, 1, 8, 8), generator=g, dtype=torch.uint8)
    data = Dataset.of(x, (x.float().mean((1, 2, 3)) > 127.5).long(), classes=("dark", "light"), kind="image")
    task = task_from(Splits("images", data[:80], data[80:]), "mlp", widths=(16,))
    defaults = {"batch_size": 16, "optimiser": "adam", "lr": 0.003, "augment": {"shift": 1, "flip": True, "cutout": 2}}
    return task.with_recipe(**{**defaults, "duration": "120ep", **recipe})


def train() -> Run:
    """Two stacked replicas with augmentation, a record, and kept weights; 600 steps."""
    return fit(images(), seeds=[3, 4], record=True, keep=(0, 7, 300, 600), execution="stacked", jobs=1)


def note(log: str, line: str) -> None:
    with open(log, "a") as file:
        file.write(f"{line}\n")


def program(what: str, log: str) -> None:
    if what == "train":
        update, resume = Loop._update, Loop._resume
        loop_module.CHECKPOINT_SECONDS = 0.04

        def slowly(self):
            time.sleep(0.002)  # so that a fast machine can be killed, too
            update(self)

        def noted(self):
            resume(self)
            note(log, f"from {self.step}")

        Loop._update, Loop._resume = slowly, noted
        train()
    else:
        for _ in fan_out(_sleep, [(log,), (log,), (log,)], jobs=2):
            pass
    note(log, "done")


def _sleep(log: str) -> None:
    note(log, f"worker {os.getpid()}")
    time.sleep(60)


# ---- killing it -----------------------------------------------------------------------------------------------------


def start(what: str, log: Path, home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, what, str(log)],
        env={**os.environ, "SURPLUS_HOME": str(home)},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )


def lines(log: Path, beginning: str) -> list[str]:
    text = log.read_text() if log.exists() else ""
    return [line.removeprefix(beginning) for line in text.splitlines() if line.startswith(beginning)]


def wait(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def killed(log: Path, home: Path, seconds: float) -> None:
    """Start the training, and kill it so long after it began or went on."""
    before = len(lines(log, "from "))
    process = start("train", log, home)
    wait(lambda: len(lines(log, "from ")) > before or process.poll() is not None)
    time.sleep(seconds)
    process.kill()
    process.communicate()


def content(run: Run) -> dict[str, bytes]:
    """All weights of a run, as they lie on the disk."""
    (part,) = run.parts
    return {name: part.read(name) for name in part.manifest["files"] if name.endswith(".safetensors")}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(-99), b[k].nan_to_num(-99)) for k in a)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_equals_one_that_was_not_bit_for_bit(tmp_path, monkeypatch):
    log, home = tmp_path / "log", tmp_path / "killed"
    moments = random.Random(0)
    for _ in range(4):
        killed(log, home, moments.uniform(0.05, 0.5))
    process = start("train", log, home)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and lines(log, "done"), said
    steps = [int(s) for s in lines(log, "from ")]
    assert steps == sorted(steps) and max(steps) > 0  # it went on from checkpoints, and never from an earlier one

    monkeypatch.setenv("SURPLUS_HOME", str(tmp_path / "whole"))
    whole = train()
    monkeypatch.setenv("SURPLUS_HOME", str(home))
    monkeypatch.setattr(Loop, "_update", None)  # what is finished is not trained again
    resumed = train()
    assert resumed.keys == whole.keys and resumed.parts[0].foreign() == []
    assert content(resumed) == content(whole)
    assert sorted(content(whole)) == [
        "theta.safetensors",
        *(f"trajectory/{s:08d}.safetensors" for s in (0, 7, 300, 600)),
    ]
    assert same(resumed.record, whole.record) and whole.record["loss"].shape == (2, 120, 80)
    same_numbers = {k: torch.tensor(v).nan_to_num(-99).tolist() for k, v in whole.history.items()}
    assert {k: torch.tensor(v).nan_to_num(-99).tolist() for k, v in resumed.history.items()} == same_numbers


@pytest.mark.parametrize("how", ["kill", "ctrl-c"])
def test_workers_end_with_the_process_that_started_them(tmp_path, how):
    log = tmp_path / "log"
    process = start("spread", log, tmp_path / "home")
    wait(lambda: len(lines(log, "worker ")) == 2)
    workers = [int(pid) for pid in lines(log, "worker ")]
    if how == "kill":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers too
    try:
        _, said = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:  # the signal may fall where Python cannot raise it; people press the keys again
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=100)
    assert process.returncode != 0 and said.count(b"Traceback") == (how == "ctrl-c")  # the workers say nothing
    wait(lambda: not any(map(_alive, workers)), 30)


def _alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# ---- interrupted within this process, for every kind of training ----------------------------------------------------


class Stopped(Exception):
    pass


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, every: int = 1) -> None:
    """An end after `step` updates, with a checkpoint after each `every` of them."""
    update, count = Loop._update, [0]

    def counted(self):
        if count[0] == step:
            raise Stopped
        count[0] += 1
        update(self)
        if count[0] % every == 0:
            self.entry.write_checkpoint(self._state())

    monkeypatch.setattr(Loop, "_update", counted)


def compare(tmp_path: Path, step: int, task: Task, every: int = 1, **options) -> None:
    """Interrupt at `step`, go on, and compare with a run that was left alone."""
    whole = fit(task, store=Store(tmp_path / "whole"), **options)
    store = Store(tmp_path / "stopped")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, step, every)
        fit(task, store=store, **options)
    resumed_from = []
    with pytest.MonkeyPatch.context() as patch:
        resume = Loop._resume
        patch.setattr(Loop, "_resume", lambda self: (resume(self), resumed_from.append(self.step)))
        run = fit(task, store=store, **options)
    assert resumed_from == [step - step % every + options.get("start_step", 0)]
    assert content(run) == content(whole)
    if options.get("record"):
        assert same(run.record, whole.record)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw", "muon"])
@pytest.mark.parametrize("seeds", [[5], [5, 6]], ids=["alone", "stacked"])
def test_every_optimiser_goes_on_to_the_same_bytes(tmp_path, optimiser, seeds):
    task = images(duration="4ep", optimiser=optimiser, weight_decay=1e-3, clip=1.0, warmup="5it")
    compare(tmp_path, 8, task, seeds=seeds, record=True, keep=(0, 3, 12), execution="stacked", jobs=1)


@pytest.mark.parametrize("step", [4, 5, 6, 19])
def test_any_place_in_an_epoch_will_do(tmp_path, step):
    """5 steps are an epoch: just before its end, at it, just after it, and before the last step."""
    compare(tmp_path, step, images(duration="4ep"), seeds=[1, 2], record=True, execution="stacked", jobs=1)


def test_what_was_written_after_the_checkpoint_is_written_again(tmp_path):
    """The last checkpoint is of step 14, and weights were kept at 15 and 16."""
    task = images(duration="4ep")
    compare(tmp_path, 17, task, every=7, seeds=[1], record=True, keep=(2, 15, 16))


def test_subsets_masks_and_rewinding_go_on_too(tmp_path):
    task = images(duration="4ep")
    g = torch.Generator().manual_seed(0)
    masks = torch.rand(2, task.space.size, generator=g) > 0.3
    subsets = [torch.randperm(80, generator=g)[:40] for _ in range(2)]
    options = {"seeds": [1, 2], "subsets": subsets, "masks": masks, "start": task.space.init_many([1, 2])}
    compare(tmp_path, 5, task, start_step=2, record=True, execution="stacked", jobs=1, **options)


def test_dropout_goes_on_with_the_same_masks(tmp_path):
    task = images(duration="4ep")
    make = lambda: torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Dropout(), torch.nn.Linear(8, 2)
    )
    compare(tmp_path, 9, task_from(Splits("i", task.train, task.test), make, recipe=task.recipe), seeds=[1])


def test_early_stopping_remembers_its_best_point(tmp_path):
    data = images()
    recipe = data.recipe.model_copy(update={"patience": 2, "lr": 0.05})
    task = task_from(Splits("i", data.train, data.test, data.test), "mlp", recipe=recipe, widths=(16,))
    whole = fit(task, seeds=[1, 2], execution="stacked", jobs=1, store=Store(tmp_path / "probe"))
    last = max(whole.history["step"])
    assert last < 600  # it did stop early
    compare(tmp_path, last - 2, task, seeds=[1, 2], execution="stacked", jobs=1)


def test_an_observed_run_that_was_interrupted_is_watched_from_its_start(tmp_path):
    task, store = images(duration="4ep"), Store(tmp_path)
    probe = lambda: Probe(lambda theta: theta.norm(dim=1), every=5)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 12)
        fit(task, seeds=[1], observers=[probe()], store=store)
    again = probe()
    run = fit(task, seeds=[1], observers=[again], store=store)
    assert [s for s, _ in again.rows] == [5, 10, 15, 20]
    assert torch.equal(run.theta, fit(task, seeds=[1], store=store).theta)


@pytest.mark.parametrize("name", ["checkpoint", "record/epochs-00000.parquet", "trajectory/00000003.safetensors"])
def test_an_interrupted_run_with_a_damaged_file_starts_again(tmp_path, name):
    task, options = images(duration="4ep"), {"seeds": [1, 2], "record": True, "keep": (3,), "jobs": 1}
    whole = fit(task, execution="stacked", store=Store(tmp_path / "whole"), **options)
    store = Store(tmp_path / "stopped")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 12)
        fit(task, execution="stacked", store=store, **options)
    file = store.entries()[0].path / name
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    file.write_bytes(bytes(damaged))
    with pytest.warns(DamagedFile, match=name):
        run = fit(task, execution="stacked", store=store, **options)
    assert content(run) == content(whole) and same(run.record, whole.record)


def test_a_killed_save_is_done_again(tmp_path, monkeypatch):
    """Weights and history are written, the manifest is not."""
    task, store = images(duration="2ep"), Store(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop_module.Entry, "finish", lambda self, **facts: (_ for _ in ()).throw(Stopped))
        fit(task, seeds=[1], store=store)
    assert not store.entries()[0].complete
    run = fit(task, seeds=[1], store=store)
    assert run.parts[0].foreign() == [] and run.theta.isfinite().all()


def test_checkpoints_of_large_networks_do_not_eat_the_time(tmp_path, monkeypatch):
    """Where writing takes long, about a twentieth of the time goes into it."""
    clock, written = [0.0], []
    update = Loop._update
    monkeypatch.setattr(loop_module.time, "monotonic", lambda: clock[0])

    def second(self):
        clock[0] += 1.0
        update(self)

    def slow(self, tensors):
        clock[0] += 4.0
        written.append(clock[0])

    monkeypatch.setattr(Loop, "_update", second)
    monkeypatch.setattr(loop_module.Entry, "write_checkpoint", slow)
    fit(images(duration="40ep"), seeds=[1], store=Store(tmp_path))
    assert written[0] < 12 and len(written) == 3  # 200 seconds of steps: after 6, and then every 80


if __name__ == "__main__":
    torch.set_num_threads(1)
    program(*sys.argv[1:])
