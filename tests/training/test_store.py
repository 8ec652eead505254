import json
import multiprocessing
import os
import shutil
import time
import warnings
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from surplus.errors import InputError, StoreError
from surplus.tasks import Recipe, load
from surplus.training import DamagedFile, Store, code_version, describe, fit, home, store
from surplus.training.store import key_of, write_atomically

SPEC = {"kind": "tensors", "of": "a test"}


@pytest.fixture
def runs(tmp_path):
    return Store(tmp_path)


def made(runs, spec=None):
    """A complete folder of two tensors and a table."""
    import pyarrow as pa

    entry = runs.entry(spec or SPEC)
    with entry.locked():
        entry.write_tensors("theta.safetensors", {"theta": torch.arange(6.0)})
        entry.write_tensors("trajectory/00000002.safetensors", {"theta": torch.ones(3)})
        entry.write_table("history.parquet", pa.table({"loss": [0.5, 0.25]}))
        entry.finish(seconds=1.5)
    return entry


def flip(path, byte, bit=0):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(bytes(content))


def quiet(entry):
    """usable(), when nothing may be wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return entry.usable()


# ---- atomic writes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_content(tmp_path, monkeypatch, call):
    file = tmp_path / "a" / "file"
    write_atomically(file, b"old")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, b"new and longer")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path / "a") == ["file"]  # what was half written is gone


def test_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("replace"))
    write_atomically(tmp_path / "file", b"content")
    assert calls == ["fsync", "replace"]


def test_temporary_files_of_a_killed_process_are_never_listed_and_go_away(runs):
    entry = runs.entry(SPEC)
    entry.path.mkdir(parents=True)
    entry.write_tensors("theta.safetensors", {"theta": torch.ones(2)})
    entry.write_checkpoint({"step": torch.tensor(3)})
    (entry.path / ".theta.safetensors.123.tmp").write_bytes(b"half")
    again = runs.entry(SPEC)
    assert int(again.read_checkpoint()["step"]) == 3
    assert not list(entry.path.glob("*.tmp"))
    (entry.path / ".late.124.tmp").write_bytes(b"half")
    again.finish()
    assert list(again.manifest["files"]) == ["theta.safetensors"] and quiet(again)


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_atomically(tmp_path / "file", b"content")
    assert os.listdir(tmp_path) == []


# ---- damage ---------------------------------------------------------------------------------------------------------

FILES = ("theta.safetensors", "trajectory/00000002.safetensors", "history.parquet", "manifest.json")


def test_a_sound_folder_is_usable_and_reads_as_written(runs):
    entry = made(runs)
    assert quiet(entry) and entry.damage() == [] and entry.foreign() == []
    assert torch.equal(entry.read_tensors("theta.safetensors")["theta"], torch.arange(6.0))
    assert entry.manifest["seconds"] == 1.5 and entry.manifest["spec"] == SPEC


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", ["to nothing", "by one byte"])
def test_a_truncated_file_is_named_and_not_used(runs, name, cut):
    entry = made(runs)
    content = (entry.path / name).read_bytes()
    (entry.path / name).write_bytes(b"" if cut == "to nothing" else content[:-1])
    with pytest.warns(DamagedFile, match=name):
        assert not entry.usable()


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_named_and_not_used(runs, name):
    entry = made(runs)
    sound = (entry.path / name).read_bytes()
    for byte in range(0, len(sound), 1 if name == "manifest.json" else 7):
        flip(entry.path / name, byte, byte % 8)
        wrong = entry.damage()
        assert len(wrong) == 1 and name in wrong[0], byte
        (entry.path / name).write_bytes(sound)
    assert quiet(entry)
    flip(entry.path / name, len(sound) // 2)
    with pytest.warns(DamagedFile, match=name):
        assert not entry.usable()


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_missing_file_is_named(runs, name):
    entry = made(runs)
    (entry.path / name).unlink()
    with pytest.warns(DamagedFile, match=f"{name} is missing"):
        assert not entry.usable()


def test_a_folder_in_place_of_a_file_is_damage(runs):
    entry = made(runs)
    (entry.path / "theta.safetensors").unlink()
    (entry.path / "theta.safetensors").mkdir()
    assert entry.damage() == ["theta.safetensors is missing"]


def test_a_folder_without_manifest_is_not_complete(runs):
    entry = made(runs)
    (entry.path / "manifest.json").unlink()
    assert not quiet(entry)
    with pytest.raises(StoreError, match="cannot be read"):
        entry.read("theta.safetensors")


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '"x"', '{"spec": 1, "files": {}}', "\x00\x01"])
def test_a_manifest_of_something_else_is_refused(runs, text):
    entry = made(runs)
    (entry.path / "manifest.json").write_text(text)
    with pytest.warns(DamagedFile, match=r"manifest\.json"):
        assert not entry.usable()


def test_the_manifest_of_another_run_is_refused_by_its_hash(runs):
    entry, other = made(runs), made(runs, {"kind": "tensors", "of": "another"})
    shutil.copy(other.path / "manifest.json", entry.path / "manifest.json")
    with pytest.warns(DamagedFile, match=f"describes another run .*{other.key}"):
        assert not entry.usable()


def test_the_whole_folder_of_another_run_is_refused(runs):
    entry, other = made(runs), made(runs, {"kind": "tensors", "of": "another"})
    shutil.rmtree(entry.path)
    shutil.copytree(other.path, entry.path)
    with pytest.warns(DamagedFile, match="describes another run"):
        assert not entry.usable()


def test_foreign_files_and_folders_are_named_and_never_read(runs):
    entry = made(runs)
    (entry.path / "notes").mkdir()
    for name in ("notes/mine.txt", "trajectory/00000009.safetensors", "checkpoint"):
        (entry.path / name).write_bytes(b"foreign")
    with pytest.warns(DamagedFile, match=r"notes/mine\.txt, trajectory/00000009\.safetensors"):
        assert entry.usable()
    assert entry.names("trajectory") == ["trajectory/00000002.safetensors"]
    with pytest.raises(StoreError, match="has no file trajectory/00000009"):
        entry.read("trajectory/00000009.safetensors")
    assert (entry.path / "notes/mine.txt").exists()  # not ours to delete


def test_what_was_damaged_after_the_check_is_refused_on_reading(runs):
    entry = made(runs)
    assert quiet(entry)
    flip(entry.path / "theta.safetensors", -1)
    with pytest.raises(StoreError, match=r"theta\.safetensors has changed since it was written"):
        entry.read_tensors("theta.safetensors")
    (entry.path / "theta.safetensors").unlink()
    with pytest.raises(StoreError, match=r"theta\.safetensors cannot be read"):
        entry.read_tensors("theta.safetensors")


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def interrupted(runs, spec=None):
    entry = runs.entry(spec or SPEC)
    entry.path.mkdir(parents=True)
    entry.write("record/epochs-00000.parquet", b"first epochs")
    entry.write_checkpoint({"step": torch.tensor(3), "z": torch.arange(4.0)})
    return entry


def test_a_checkpoint_gives_back_its_tensors_and_the_folder_as_it_was(runs):
    entry = interrupted(runs)
    entry.write("record/epochs-00007.parquet", b"after the checkpoint")
    (entry.path / "foreign").write_bytes(b"foreign")
    again = runs.entry(SPEC)
    state = again.read_checkpoint()
    assert int(state["step"]) == 3 and torch.equal(state["z"], torch.arange(4.0))
    assert sorted(f.name for f in entry.path.rglob("*") if f.is_file()) == ["checkpoint", "epochs-00000.parquet"]
    again.finish()
    assert list(again.manifest["files"]) == ["record/epochs-00000.parquet"] and quiet(again)
    assert not (again.path / "checkpoint").exists()


def test_there_may_be_no_checkpoint(runs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runs.entry(SPEC).read_checkpoint() is None


def test_any_flipped_bit_of_a_checkpoint_is_named_and_not_used(runs):
    entry = interrupted(runs)
    path = entry.path / "checkpoint"
    sound = path.read_bytes()
    for byte in range(0, len(sound), 3):
        flip(path, byte, byte % 8)
        with pytest.warns(DamagedFile, match="checkpoint has changed"):
            assert runs.entry(SPEC).read_checkpoint() is None
        path.write_bytes(sound)
    for length in (0, 1, 31, 32, 33, len(sound) - 1):
        path.write_bytes(sound[:length])
        with pytest.warns(DamagedFile, match="checkpoint has changed"):
            assert runs.entry(SPEC).read_checkpoint() is None


def test_the_checkpoint_of_another_run_is_not_used(runs):
    entry, other = interrupted(runs), interrupted(runs, {"kind": "tensors", "of": "another"})
    shutil.copy(other.path / "checkpoint", entry.path / "checkpoint")
    with pytest.warns(DamagedFile, match=f"belongs to another run .{other.key}"):
        assert runs.entry(SPEC).read_checkpoint() is None


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_damage_to_what_an_interrupted_run_wrote_is_found_on_resuming(runs, how):
    file = interrupted(runs).path / "record/epochs-00000.parquet"
    {"flip": lambda: flip(file, 2), "truncate": lambda: file.write_bytes(b"fir"), "delete": file.unlink}[how]()
    with pytest.warns(DamagedFile, match=r"starts again: record/epochs-00000\.parquet"):
        assert runs.entry(SPEC).read_checkpoint() is None


# ---- a damaged run of fit -------------------------------------------------------------------------------------------


def tiny():
    return load("digits", "mlp", widths=(4,)).with_recipe(duration="2ep", batch_size=512)


def test_a_damaged_run_is_named_and_trained_again_to_the_same_weights(runs):
    task = tiny()
    run = fit(task, seeds=[0], record=True, keep=(1,), store=runs)
    theta, entry = run.theta, run.parts[0]
    for name in ("theta.safetensors", "manifest.json", "history.parquet", "record/epochs-00000.parquet"):
        flip(entry.path / name, len((entry.path / name).read_bytes()) // 2)
        with pytest.warns(DamagedFile, match=name):
            again = fit(task, seeds=[0], record=True, keep=(1,), store=runs)
        assert torch.equal(again.theta, theta) and quiet(entry)


def test_damage_is_named_where_it_is_found_even_by_a_worker_process(runs):
    task = tiny()
    entries = fit(task, seeds=2, execution="spread", jobs=1, store=runs).parts
    for entry in entries:
        entry.clear()
        entry.write_checkpoint({"step": torch.tensor(1)})
        flip(entry.path / "checkpoint", 5)
    with pytest.warns(DamagedFile, match="checkpoint has changed") as told:
        fit(task, seeds=2, execution="spread", jobs=2, store=runs)
    assert sum(w.category is DamagedFile for w in told) == 2


def test_foreign_weights_and_records_in_a_run_are_not_read(runs):
    task = tiny()
    run = fit(task, seeds=[0], record=True, keep=(1,), store=runs)
    record, folder = run.record, run.parts[0].path
    shutil.copy(folder / "record/epochs-00000.parquet", folder / "record/epochs-00005.parquet")
    shutil.copy(folder / "trajectory/00000001.safetensors", folder / "trajectory/00000002.safetensors")
    with pytest.warns(DamagedFile, match=r"record/epochs-00005\.parquet, trajectory/00000002\.safetensors"):
        again = fit(task, seeds=[0], record=True, keep=(1,), store=runs)
    assert all(torch.equal(again.record[k], record[k]) for k in record)
    with pytest.raises(InputError, match=r"step 2 were not kept; kept are \[1\]"):
        again.at(2)


def test_a_run_without_a_record_says_so(runs):
    with pytest.raises(InputError, match="record=True"):
        _ = fit(tiny(), seeds=[0], store=runs).record


def test_nothing_is_ever_unpickled(runs, monkeypatch):
    import pickle

    task = tiny()
    fit(task, seeds=[0], record=True, keep=(1,), store=runs).predict("test")

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    run = fit(task, seeds=[0], record=True, keep=(1,), store=runs)
    assert run.theta.isfinite().all() and run.at(1).isfinite().all() and run.record and run.history
    assert run.predict("test").isfinite().all()
    starts = {".safetensors": b"{", ".parquet": b"PAR1", ".json": b"{"}  # safetensors: after the header's length
    for file in runs.folder.rglob("*.*"):
        if file.is_file() and file.name != ".lock":
            content = file.read_bytes()
            assert content[8 if file.suffix == ".safetensors" else 0 :].startswith(starts[file.suffix]), file


# ---- one maker at a time --------------------------------------------------------------------------------------------


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork a process")


def _make(folder, log, hold):
    def compute():
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(hold)
        return {"x": torch.arange(3.0)}

    found = Store(folder).cached({"of": "slow"}, compute)
    assert torch.equal(found["x"], torch.arange(3.0))


@forks
def test_two_processes_that_want_the_same_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_make, args=(tmp_path, tmp_path / "log", 0.3)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [p.exitcode for p in both] == [0, 0]
    assert len((tmp_path / "log").read_text().splitlines()) == 1


@forks
def test_a_killed_process_lets_go_and_what_it_left_is_made_anew(tmp_path):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_make, args=(tmp_path, tmp_path / "log", 60))
    process.start()
    while not (tmp_path / "log").exists():
        time.sleep(0.01)
    process.kill()
    process.join(10)
    began = time.monotonic()
    _make(tmp_path, tmp_path / "log", 0)
    assert time.monotonic() - began < 5
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_a_lock_file_that_nobody_holds_blocks_nobody(runs):
    entry = runs.entry(SPEC)
    entry.path.mkdir(parents=True)
    (entry.path / ".lock").write_text("4711")
    with entry.locked(wait=False):
        pass


def test_cached_computes_once_and_again_after_damage_or_an_interruption(runs):
    calls = []

    def compute():
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"x": torch.ones(2)}

    with pytest.raises(KeyboardInterrupt):
        runs.cached({"of": "x"}, compute)
    assert torch.equal(runs.cached({"of": "x"}, compute)["x"], torch.ones(2))
    runs.cached({"of": "x"}, compute)
    assert len(calls) == 2
    flip(runs.entry({"kind": "tensors", "of": "x"}).path / "tensors.safetensors", -1)
    with pytest.warns(DamagedFile, match=r"tensors\.safetensors"):
        assert torch.equal(runs.cached({"of": "x"}, compute)["x"], torch.ones(2))
    assert len(calls) == 3


# ---- the store as a whole -------------------------------------------------------------------------------------------


def test_folders_are_named_by_their_specification(runs):
    a = runs.entry({"a": 1, "b": [2, 3]})
    assert a.key == runs.entry({"b": (2, 3), "a": 1}).key == key_of({"a": 1, "b": [2, 3]})
    assert len({a.key, runs.entry({"a": 1, "b": [3, 2]}).key, runs.entry({"a": 1.5, "b": [2, 3]}).key}) == 3


@pytest.mark.parametrize("value", [torch.ones(1), float("nan"), {1, 2}, Path("x"), object()])
def test_a_specification_that_is_not_json_is_refused(runs, value):
    with pytest.raises(InputError, match="must be plain JSON"):
        runs.entry({"value": value})
    with pytest.raises(InputError, match="must be plain JSON"):
        runs.cached({"value": value}, dict)


def test_a_store_that_cannot_be_written_to_is_told_in_words(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"run store .* cannot be written to: .*SURPLUS_HOME"):
        Store(tmp_path / "file").cached({"of": "x"}, dict)
    with pytest.raises(InputError, match=r"run store .* cannot be written to"):
        fit(tiny(), seeds=[0], store=Store(tmp_path / "file"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_store_is_told_in_words(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written to: Permission denied"):
        Store(tmp_path).cached({"of": "x"}, dict)


@pytest.mark.parametrize(
    ("platform", "variable", "inside"),
    [
        ("linux", "XDG_CACHE_HOME", ".cache"),
        ("win32", "LOCALAPPDATA", "AppData/Local"),
        ("darwin", "", "Library/Caches"),
    ],
)
def test_the_store_is_where_the_platform_keeps_such_things(monkeypatch, tmp_path, platform, variable, inside):
    monkeypatch.setattr(store.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for unset in ("SURPLUS_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(unset, raising=False)
    assert home() == tmp_path / inside / "surplus"
    if variable:
        monkeypatch.setenv(variable, "")  # empty means unset
        assert home() == tmp_path / inside / "surplus"
        monkeypatch.setenv(variable, str(tmp_path / "set"))
        assert home() == tmp_path / "set/surplus"
    monkeypatch.setenv("SURPLUS_HOME", str(tmp_path / "mine"))
    assert home() == tmp_path / "mine" and Store().folder == tmp_path / "mine"


def test_another_version_of_the_code_has_another_name(monkeypatch, tmp_path):
    assert code_version("space") != code_version("space", "data")
    (tmp_path / "training").mkdir()
    (tmp_path / "space").mkdir()
    monkeypatch.setattr(store, "__file__", str(tmp_path / "training/store.py"))
    versions = set()
    for name, text in [("a.py", "x = 1"), ("a.py", "x = 2"), ("b.py", "x = 2")]:
        (tmp_path / "space" / name).write_text(text)
        code_version.cache_clear()
        versions.add(code_version("space"))
    code_version.cache_clear()
    assert len(versions) == 3


def test_the_code_is_part_of_a_runs_name(runs, monkeypatch):
    from surplus.training import fitting

    task = tiny()
    before = fit(task, seeds=[0], store=runs).keys
    monkeypatch.setattr(fitting, "code_version", lambda *rooms: "another")
    assert fit(task, seeds=[0], store=runs).keys != before


def test_runs_are_found_by_the_beginning_of_their_names(runs):
    a, b = made(runs, {"kind": "tensors", "of": "a"}), made(runs, {"kind": "tensors", "of": "b"})
    assert runs.find(a.key[:12]).path == a.path and runs.find(b.key).path == b.path
    with pytest.raises(InputError, match="2 runs begin"):
        runs.find("")
    with pytest.raises(InputError, match="no run begins with 'zzz'"):
        runs.find("zzz")
    interrupted(runs)
    with pytest.raises(InputError, match="was interrupted"):
        runs.find(key_of(SPEC))


def test_what_does_not_belong_into_the_store_is_named_and_left_alone(runs):
    entry = made(runs)
    (runs.runs / "thesis").mkdir()
    (runs.runs / "thesis/chapter.txt").write_text("years of work")
    (runs.runs / ".DS_Store").write_bytes(b"x")
    with pytest.warns(DamagedFile, match=r"\.DS_Store, thesis"):
        assert [e.key for e in runs.entries()] == [entry.key]
    with pytest.warns(DamagedFile):
        assert runs.clean(everything=True)[0] == 1
    assert (runs.runs / "thesis/chapter.txt").read_text() == "years of work" and not entry.path.exists()


def test_an_empty_or_absent_store_has_no_entries(runs):
    assert runs.entries() == [] and runs.clean(broken=True) == (0, 0)


def test_the_state_of_every_folder_is_described(runs):
    fitted = fit(tiny(), seeds=[0, 1], execution="stacked", jobs=1, store=runs).parts[0]
    row = describe(fitted)
    assert (row["state"], row["kind"], row["what"]) == ("complete", "fit", "mlp, 2 replica(s), 2ep")
    assert row["bytes"] == fitted.size() > 0
    entry = made(runs)
    assert describe(entry)["what"] == "a test"
    (entry.path / "stray").write_bytes(b"x")
    assert describe(entry)["state"] == "complete, foreign files: stray"
    flip(entry.path / "theta.safetensors", 0)
    row = describe(entry)
    assert row["state"] == "damaged" and "theta.safetensors" in row["what"]
    assert describe(interrupted(runs, {"of": "interrupted"}))["state"] == "interrupted"
    empty = runs.entry({"of": "empty"})
    empty.path.mkdir()
    assert describe(empty)["state"] == "empty"


def test_cleaning_takes_what_it_is_told_and_no_more(runs):
    sound, broken, half = made(runs), made(runs, {"of": "broken"}), interrupted(runs, {"of": "interrupted"})
    flip(broken.path / "theta.safetensors", 3)
    with pytest.raises(InputError, match="--older 30d, --broken or --all"):
        runs.clean()
    with pytest.raises(InputError, match="30m, 12h or 30d"):
        runs.clean(older="soon")
    assert runs.clean(older="1h") == (0, 0)
    count, size = runs.clean(broken=True)
    assert count == 2 and size > 0 and not broken.path.exists() and not half.path.exists() and quiet(sound)
    os.utime(sound.path, (0, 0))
    assert runs.clean(older="30d")[0] == 1 and not sound.path.exists()


def test_cleaning_leaves_a_run_that_is_being_made(runs):
    busy = interrupted(runs)
    with FileLock(busy.path / ".lock"):
        assert runs.clean(everything=True) == (0, 0)
        assert (busy.path / "checkpoint").exists()
    assert runs.clean(broken=True)[0] == 1


def test_a_manifest_tells_size_and_checksum_of_every_file(runs):
    entry = made(runs)
    told = json.loads((entry.path / "manifest.json").read_text())
    assert sorted(told["files"]) == sorted(FILES[:-1])
    for name, facts in told["files"].items():
        assert facts["bytes"] == (entry.path / name).stat().st_size and len(facts["sha256"]) == 64


def test_recipes_reach_the_key_through_json(runs):
    spec = Recipe(lr=0.1).model_dump(mode="json")
    assert runs.entry(spec).key == runs.entry(json.loads(json.dumps(spec))).key
