"""Bad input: one paragraph that teaches, exit code 2, no traceback, and nothing trained.

A row of the tables below is a name, what lies in the folder, the command, and words that the message must hold: what
was given, what is expected, how to mend it.
"""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from surplus.cli import run

Write = Callable[[], None]


def text(name: str, content: str | bytes) -> Write:
    return lambda: Path(name).write_bytes(content if isinstance(content, bytes) else content.encode()) and None


def table(row: Callable[[int], str] = lambda i: f"{i},{i * i},{i % 2}", n: int = 12, head: str = "a,b,label") -> str:
    return "\n".join([head, *map(row, range(n))]) + "\n"


def csv(row: Callable[[int], str], n: int = 12, head: str = "a,b,label") -> Write:
    return text("t.csv", table(row, n, head))


def instead(row: int, line: str) -> Write:
    """A sound table in which one row reads otherwise."""
    return csv(lambda i: line if i == row else f"{i},{i * i},{i % 2}")


def npz(**arrays: Any) -> Write:
    return lambda: np.savez("t.npz", **arrays)


def png(height: int = 8, width: int = 8, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(**classes: list[bytes]) -> Write:
    """Images in photos/CLASS/; `/` in a class is written `__`."""

    def write() -> None:
        for name, images in classes.items():
            below = Path("photos", *name.split("__"))
            below.mkdir(parents=True, exist_ok=True)
            for i, image in enumerate(images):
                (below / f"{i}.png").write_bytes(image)

    return write


def parquet(path: str = "t.parquet", cut: int | None = None, **columns: Any) -> Write:
    def write() -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        Path(path).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), path)
        if cut is not None:
            Path(path).write_bytes(Path(path).read_bytes()[:cut])

    return write


def hub_classes(labels: list[int]) -> Write:
    """Parquet as the hub writes it, its label a ClassLabel of two names."""

    def write() -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        meta = {"huggingface": '{"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}'}
        rows = pa.table({"a": list(range(len(labels))), "label": labels}).replace_schema_metadata(meta)
        pq.write_table(rows, "t.parquet")

    return write


def both(*writes: Write) -> Write:
    return lambda: [w() for w in writes] and None


def truncated() -> None:
    np.savez_compressed("t.npz", x=np.random.default_rng(0).random((40, 9)), y=np.arange(40) % 2)
    Path("t.npz").write_bytes(Path("t.npz").read_bytes()[:500])


def flipped() -> None:
    """A sound archive with one byte of its data changed."""
    np.savez_compressed("t.npz", x=np.random.default_rng(0).random((40, 9)), y=np.arange(40) % 2)
    content = bytearray(Path("t.npz").read_bytes())
    content[300] ^= 255
    Path("t.npz").write_bytes(content)


def saved_as_npy() -> None:
    with open("t.npz", "wb") as file:
        np.save(file, np.zeros((4, 2)))


PIXELS, TWO = np.zeros((12, 8, 8), np.uint8), np.arange(12) % 2
SPLITS = both(parquet("hub/train.parquet", a=[*range(12)], b=[*range(12)], label=[0, 1] * 6))
ROWS: dict[str, tuple[Write | None, str, tuple[str, ...]]] = {
    # ---- tables
    "csv of 0 bytes": (text("t.csv", ""), "audit t.csv", ("t.csv", "0 bytes", "give one with data")),
    "csv of blank lines": (text("t.csv", "\n\n"), "audit t.csv", ("t.csv", "CSV")),
    "csv with only a header": (csv(str, n=0), "audit t.csv", ("no rows", "at least two examples")),
    "csv of random bytes": (
        text("t.csv", bytes(np.random.default_rng(0).integers(128, 256, 400, np.uint8))), "audit t.csv", ("t.csv",),
    ),
    "csv in UTF-16": (text("t.csv", table().encode("utf-16")), "audit t.csv", ("t.csv",)),
    "csv of ragged rows": (instead(3, "1,2"), "audit t.csv", ("not a readable CSV", "Expected 3 columns, got 2")),
    "csv separated by semicolons": (
        text("t.csv", table().replace(",", ";")), "audit t.csv", ("';'", "write it with commas"),
    ),
    "two columns of one name": (
        csv(lambda i: f"{i},{i},{i % 2}", head="a,a,label"), "audit t.csv", ("columns called a", "its own name"),
    ),
    "words among the features": (
        csv(lambda i: f"{i},red,{i % 2}"), "audit t.csv", ("not numbers: b", "encode them", "--ids COLUMN"),
    ),
    "dates among the features": (
        csv(lambda i: f"{i},2024-01-{i + 1:02},{i % 2}"), "audit t.csv", ("not numbers: b", "drop"),
    ),
    "a feature left empty": (instead(4, "1,,0"), "audit t.csv", ("NaN", "1 of 12 rows: 4", "drop or mend")),
    "a feature NaN": (instead(4, "1,nan,0"), "audit t.csv", ("NaN", "rows: 4")),
    "a feature infinite": (instead(7, "inf,1,0"), "audit t.csv", ("infinite", "rows: 7")),
    "a feature beyond float32": (instead(7, "1e200,1,0"), "audit t.csv", ("single precision", "rows: 7")),
    "a label NaN": (instead(5, "1,1,nan"), "audit t.csv", ("no label in rows 5", "fill or drop")),
    "number labels left empty": (instead(5, "1,1,"), "audit t.csv", ("no label in rows 5", "fill or drop")),
    "word labels left empty": (
        csv(lambda i: f"{i},1,{'cat' if i % 2 else ''}"), "audit t.csv", ("no label in rows 0, 2, 4, 6, 8 and 1 more",),
    ),
    "one class only": (csv(lambda i: f"{i},1,cat"), "audit t.csv", ("the one class 'cat'", "at least two classes")),
    "no label column": (
        csv(lambda i: f"{i},1,1", head="a,b,kind"), "audit t.csv", ("columns are a, b, kind", "--labels COLUMN"),
    ),
    "--labels absent": (csv(lambda i: f"{i},1,1"), "audit t.csv --labels kind", ("'kind'", "columns are a, b, label")),
    "only labels": (csv(lambda i: f"{i % 2}", head="label"), "audit t.csv", ("no input columns", "add some")),
    "labels below 0": (
        csv(lambda i: f"{i},1,{i % 2 - 1}"), "audit t.csv", ("below 0 in rows 0, 2", "number the classes 0, 1, 2"),
    ),
    "a label for every example": (
        csv(lambda i: f"{i},1,{i}", n=30), "audit t.csv", ("30 different labels", "30 rows", "--labels COLUMN"),
    ),
    "a name for every example": (
        csv(lambda i: f"{i},1,n{i}", n=30), "audit t.csv", ("30 different labels", "--labels COLUMN"),
    ),
    "labels that are measurements": (
        csv(lambda i: f"{i},1,{i / 7:.3f}", n=30), "audit t.csv", ("needs class labels", "regression"),
    ),
    "one example": (csv(lambda i: f"{i},1,{i % 2}", n=1), "audit t.csv", ("the one class '0'", "at least two")),
    "too few of every class": (
        csv(lambda i: f"{i},1,{i // 2}", n=8), "audit t.csv", ("8 examples of 4 classes", "at least 3 examples"),
    ),
    "too few to audit": (
        csv(lambda i: f"{i},1,{i % 2}"),
        "audit t.csv",
        ("10 training examples", "at least 20"),
    ),
    "ids that repeat": (
        csv(lambda i: f"{i % 9},1,{i % 2}", head="id,b,label"), "audit t.csv", ("repeats ids: 0 (2 times)", "unique"),
    ),
    "ids left out": (
        csv(lambda i: f"{i or ''},1,{i % 2}", head="id,b,label"), "audit t.csv", ("without an id", "rows: 0"),
    ),
    "--ids absent": (csv(lambda i: f"{i},1,{i % 2}"), "audit t.csv --ids key", ("'key'", "columns are a, b, label")),
    "--ids and --labels the same": (
        csv(lambda i: f"{i},1,{i % 2}"), "audit t.csv --ids label", ("both labels and ids", "two columns"),
    ),
    # ---- npz
    "npz of 0 bytes": (text("t.npz", ""), "audit t.npz", ("0 bytes",)),
    "npz of text": (text("t.npz", "hello"), "audit t.npz", ("not a readable .npz", "numpy.savez")),
    "npz cut short": (truncated, "audit t.npz", ("not a readable .npz", "numpy.savez")),
    "npz with a byte changed": (flipped, "audit t.npz", ("not a readable .npz",)),
    "npz that is an npy": (saved_as_npy, "audit t.npz", ("not a readable .npz", "numpy.savez")),
    "npz with pickled objects": (
        npz(x=np.array([{}, {}], dtype=object), y=TWO[:2]), "audit t.npz", ("Python objects", "never unpickles"),
    ),
    "npz without arrays": (npz(), "audit t.npz", ("no arrays", "numpy.savez(path, x=inputs, y=labels)")),
    "npz without labels": (npz(x=PIXELS), "audit t.npz", ("columns are x", "--labels COLUMN")),
    "npz of two lengths": (npz(x=PIXELS, y=TWO[:9]), "audit t.npz", ("y has 9, x has 12", "one row per example")),
    "npz with no examples": (npz(x=PIXELS[:0], y=TWO[:0]), "audit t.npz", ("no rows",)),
    "npz of images without pixels": (npz(x=PIXELS[:, :0], y=TWO), "audit t.npz", ("empty",)),
    "npz with NaN pixels": (
        npz(x=np.where(np.arange(12) == 3, np.nan, 0.5)[:, None, None] + np.zeros((12, 8, 8)), y=TWO),
        "audit t.npz", ("pixels that are NaN", "rows: 3"),
    ),
    "npz with pixels above 255": (
        npz(x=np.full((12, 8, 8), 4095, np.uint16), y=TWO), "audit t.npz", ("0..255", "4095", "Rescale"),
    ),
    "npz with pixels below 0": (npz(x=np.full((12, 8, 8), -1), y=TWO), "audit t.npz", ("0..255", "-1")),
    "npz of words": (npz(x=np.full((12, 3), "a"), y=TWO), "audit t.npz", ("<U1", "numbers are expected")),
    "npz of complex numbers": (npz(x=np.ones((12, 3), complex), y=TWO), "audit t.npz", ("complex", "real ones")),
    "npz of five axes": (npz(x=np.ones((12, 2, 2, 2, 2)), y=TWO), "audit t.npz", ("(n, H, W)", "(12, 2, 2, 2, 2)")),
    "npz with one-hot labels": (npz(x=PIXELS, y=np.eye(12, dtype=int)), "audit t.npz", ("shape (n,)", "one-hot")),
    "npz with dates for labels": (
        npz(x=PIXELS, y=TWO.astype("datetime64[D]")), "audit t.npz", ("datetime64", "words or numbers"),
    ),
    # ---- parquet
    "parquet of 0 bytes": (text("t.parquet", ""), "audit t.parquet", ("0 bytes",)),
    "parquet of text": (text("t.parquet", "hello" * 9), "audit t.parquet", ("not a readable Parquet", "again")),
    "parquet cut short": (
        parquet(a=[*range(12)], label=[0, 1] * 6, cut=300), "audit t.parquet", ("not a readable Parquet", "again"),
    ),
    "parquet of broken images": (
        parquet(img=[png()] * 11 + [b"no image"], label=[0, 1] * 6), "audit t.parquet", ("decoded, in rows 11", "mend"),
    ),
    "parquet of images without bytes": (
        parquet(img=[png()] * 11 + [None], label=[0, 1] * 6), "audit t.parquet", ("decoded, in rows 11",),
    ),
    "parquet of images of two sizes": (
        parquet(img=[png()] * 11 + [png(9, 7)], label=[0, 1] * 6),
        "audit t.parquet", ("row 0 is 8x8", "row 11 is 7x9", "1 of 12", "resize"),
    ),
    "parquet of ragged lists": (
        parquet(x=[[1.0, 2.0]] * 11 + [[1.0]], label=[0, 1] * 6),
        "audit t.parquet", ("ragged", "row 11 has (1,)", "the same shape"),
    ),
    "parquet with lists for labels": (
        parquet(a=[*range(12)], label=[[0], [0, 1]] * 6), "audit t.parquet", ("lists", "one class per example"),
    ),
    "labels beyond the class names": (hub_classes([0, 1] * 5 + [2, 7]), "audit t.parquet", (
        "outside 0..1 (2 classes)", "10 (label 2), 11 (label 7)", "use class numbers 0..1",
    )),
    "unlabelled rows of the hub": (hub_classes([0, 1] * 5 + [-1, -1]), "audit t.parquet", ("10 (label -1)",)),
    # ---- images in folders
    "empty folder": (Path("photos").mkdir, "audit photos", ("holds no data", "one folder per class")),
    "folder of empty folders": (folder(cat=[], dog=[]), "audit photos", ("holds no data", "one folder per class")),
    "one class folder empty": (folder(cat=[png()] * 5, dog=[]), "audit photos", ("without images: dog", "remove")),
    "folder with one class": (folder(cat=[png()] * 5), "audit photos", ("the one class 'cat'", "two classes")),
    "broken image": (
        folder(cat=[png()] * 5, dog=[png()] * 5 + [png()[:40]]), "audit photos", ("rows 10 (5.png)", "mend or drop"),
    ),
    "images of two sizes": (
        folder(cat=[png()] * 5, dog=[png(6, 9)] * 5), "audit photos", ("row 5 (0.png) is 9x6", "5 of 10", "resize"),
    ),
    "class that only the test folder has": (
        folder(train__cat=[png()] * 5, train__dog=[png()] * 5, test__cow=[png()], test__cat=[png()]),
        "audit photos", ("photos (test)", "does not know", "cow"),
    ),
    "test folder of another size": (
        folder(train__cat=[png()] * 5, train__dog=[png()] * 5, test__cat=[png(9)], test__dog=[png(9)]),
        "audit photos", ("different shapes", "train (1, 8, 8)", "test (1, 9, 8)"),
    ),
    "no training folder": (
        folder(test__cat=[png()], test__dog=[png()]), "audit photos", ("splits test", "no training split", "train"),
    ),
    # ---- splits
    "test without a training column": (
        both(SPLITS, parquet("hub/test.parquet", a=[1, 2], label=[0, 1])), "audit hub", ("hub (test)", "column b"),
    ),
    "labels that only the test split has": (
        both(SPLITS, parquet("hub/test.parquet", a=[1, 2], b=[1, 2], label=[0, 5])),
        "audit hub", ("does not know, in rows 1: 5", "drop these rows"),
    ),
    "shards of other columns": (
        both(SPLITS, parquet("hub/train-2.parquet", a=[1, 2], label=[0, 1])),
        "audit hub", ("columns differ", "name one"),
    ),
    # ---- sources
    "text file": (text("t.txt", "hello"), "audit t.txt", (".txt", ".parquet, .csv, .npz")),
    "no ending": (text("t", "hello"), "audit t", ("without an ending", ".parquet, .csv, .npz")),
    "path that is not there": (None, "audit no/such/folder", ("no/such/folder", "give a path")),
    "file that is not there": (None, "audit nosuch.csv --labels y", ("no file or folder 'nosuch.csv'",)),
    "task that is not there": (None, "audit digit", ("no task or path is called 'digit'", "did you mean digits?")),
    "name beyond all lengths": (None, f"audit {'x' * 300}", ("no task or path is called",)),
    "no name": (None, "audit ''", ("no task or path is called ''", "digits")),
    "columns of a bundled task": (None, "audit digits --labels y", ("digits has no columns", "leave out")),
    "regression": (None, "audit sinusoid", ("needs class labels", "sinusoid", "regression")),
    "language": (None, "audit markov-text", ("needs class labels", "markov-text")),
    # ---- networks
    "unknown network": (None, "audit --network resnet-21", ("'resnet-21'", "did you mean resnet-32 or resnet-20")),
    "no network": (None, "audit --network ''", ("no network is called ''", "mlp")),
    "unknown option of a network": (None, "audit --network mlp:width=9", ("no option 'width'", "widths=(256, 256)")),
    "option without a value": (None, "audit --network mlp:widths", ("got 'widths'", "name=value")),
    "width of 0": (None, "audit --network small-conv:width=0", ("width", "above 0", "got 0")),
    "widths of 0": (None, "audit --network mlp:widths=8-0", ("widths", "from 1 up", "got 0")),
    "widths of letters": (None, "audit --network mlp:widths=abc", ("widths", "whole number")),
    "width of letters": (None, "audit --network small-conv:width=abc", ("width='abc'", "Usual values: width=1.0")),
    "images too small": (None, "audit --network lenet-5", ("at least 16x16", "got 8x8", "another network")),
    "a network of images on a table": (
        csv(lambda i: f"{i},1,{i % 2}"), "audit t.csv --network vgg-11", ("vgg-11 takes images", "(2,)"),
    ),
    "a network of words on images": (None, "audit --network causal-transformer", ("token ids", "got (1, 8, 8)")),
    # ---- settings
    "unknown device": (None, "audit --device gpu", ("'gpu'", "use cpu, cuda")),
    "device that holds no numbers": (None, "audit --device meta", ("'meta'", "use cpu, cuda")),
    "no CUDA": (None, "audit --device cuda", ("'cuda'", "no CUDA device here", "use cpu")),
    "no Apple GPU": (None, "audit --device mps", ("'mps'", "no Apple GPU", "use cpu")),
    "budget in words": (None, "audit --budget soon", ("like 90s, 10m or 1.5h", "'soon'")),
    "budget in years": (None, "audit --budget 1y", ("like 90s, 10m or 1.5h", "'1y'")),
    "budget of nothing": (None, "audit --budget 0s", ("like 90s, 10m or 1.5h", "'0s'")),
    "budget below 0": (None, "audit --budget=-5m", ("like 90s, 10m or 1.5h", "'-5m'")),
    "margin of 0": (None, "audit --margin 0", ("margin", "greater than 0", "got 0")),
    "margin of 100": (None, "audit --margin 100", ("margin", "less than 1", "got 100")),
    "margin in words": (None, "audit --margin wide", ("--margin", '"wide"', "float")),
    "seed below 0": (None, "audit --seed=-1", ("seed", "greater than or equal to 0", "got -1")),
    "learning rate below 0": (None, "audit --recipe lr=-1", ("lr", "greater than 0", "got -1")),
    "learning rate without end": (None, "audit --recipe lr=inf", ("lr", "finite", "got inf")),
    "duration without a unit": (None, "audit --recipe duration=5", ("20ep (epochs) or 500it (steps)", "got '5'")),
    "duration of nothing": (None, "audit --recipe duration=0ep", ("at least one step", "'0ep'")),
    "batch of nothing": (None, "audit --recipe batch_size=0", ("batch_size", "greater than or equal to 1", "got 0")),
    "unknown setting": (None, "audit --recipe rate=1", ("'rate'", "did you mean", "lr")),
    "unknown precision": (None, "audit --recipe precision=float8", ("'float32' or 'bfloat16'", "'float8'")),
    "setting without a value": (None, "audit --recipe lr", ("got 'lr'", "name=value")),
    "patience without validation": (None, "audit --recipe patience=3", ("patience", "validation set", "give one")),
    "--out is a file": (text("taken", "hello"), "audit --out taken", ("'taken' is a file", "needs a folder")),
    "--out below a file": (text("taken", "hello"), "audit --out taken/report", ("'taken/report'", "choose another")),
    # ---- commands
    "unknown command": (None, "audits", ("audits", "surplus --help")),
    "unknown option": (None, "audit --speed 3", ("--speed", "surplus --help")),
    "one word too many": (None, "audit digits twice", ("twice", "surplus --help")),
    "unknown kind of method": (None, "list netwrks", ("'netwrks'", "did you mean network")),
    "unknown study": (None, "study run el2n", ("no study is called 'el2n'", "did you mean")),
    "study at an unknown scale": (None, "study run imp --scale huge", ('"huge"', '"smoke", "laptop", "gpu"')),
    "study on an unknown device": (None, "study run imp --device gpu", ("'gpu'", "use cpu, cuda")),
    "study without a name": (None, "study run", ("--slug", "requires")),
    "unknown run": (None, "runs show nosuch", ("no run begins with 'nosuch'", "surplus runs list")),
    "cleaning without a choice": (None, "runs clean", ("--older 30d, --broken or --all",)),
    "age without a unit": (None, "runs clean --older 5", ("like 30m, 12h or 30d", "'5'")),
}  # fmt: skip


@pytest.fixture
def nothing_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own, and an alarm on the door to training."""

    def alarm(*arguments: object) -> None:
        raise AssertionError("training began")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SURPLUS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SURPLUS_DEBUG", "1")
    monkeypatch.setattr("surplus.training.fitting.fan_out", alarm)
    monkeypatch.setattr("surplus.training.fitting.train_part", alarm)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    return tmp_path


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ROWS)
def test_bad_input_gets_one_paragraph_that_teaches(name: str, nothing_trains: Path, capsys: Any) -> None:
    write, command, words = ROWS[name]
    if write:
        write()
    assert run(shlex.split(command)) == 2
    said = complaint(capsys)
    missing = [w for w in words if w not in said]
    assert not missing, f"{missing} not in: {said}"
    assert not list(nothing_trains.glob("home/runs/*")) and not (nothing_trains / "surplus-audit").exists()


def complaint(capsys: Any) -> str:
    """The last line of stderr, which must be the only one but for the audit's own progress."""
    out, err = capsys.readouterr()
    *progress, last = err.rstrip("\n").split("\n")
    assert last.startswith("surplus: ") and "Traceback" not in out + err and "  " not in last
    assert all(line.endswith("labels") for line in progress), err
    return last


def test_the_table_is_long_enough_and_says_each_thing_once() -> None:
    commands = [(command, write) for write, command, _ in ROWS.values()]
    assert len(ROWS) >= 100 and len({c for c, w in commands if w is None}) == sum(w is None for _, w in commands)


@pytest.mark.parametrize("device", ["mps", "cuda:7", "xpu"])
def test_devices_that_are_not_here_are_refused_where_others_are(device: str, nothing_trains: Path, capsys: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: True)
        patch.setattr("torch.cuda.device_count", lambda: 1)
        assert run(["audit", "--device", device]) == 2
    assert repr(device) in complaint(capsys)


def test_a_name_on_the_hub_asks_for_the_extra(nothing_trains: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert run(["audit", "hf:cifar10"]) == 2
    said = complaint(capsys)
    assert all(w in said for w in ("'cifar10'", "datasets", "pip install 'surplus[data]'"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder in which nobody may write, not even root, is in Linux")
def test_folders_that_nobody_may_write_in_are_refused(nothing_trains: Path, monkeypatch: Any, capsys: Any) -> None:
    assert run(["audit", "--out", "/proc/report"]) == 2
    assert "--out '/proc/report' cannot be made" in complaint(capsys)
    assert run(["study", "run", "imp", "--out", "/proc/report"]) == 2
    assert "--out '/proc/report'" in complaint(capsys)
    monkeypatch.setenv("SURPLUS_HOME", "/proc/store")
    assert run(["audit"]) == 2
    assert "SURPLUS_HOME '/proc/store' cannot be made" in complaint(capsys)


def test_a_message_that_quotes_line_breaks_stays_one_paragraph(nothing_trains: Path, capsys: Any) -> None:
    assert run(["audit", "two\nlines"]) == 2
    assert "'two\\nlines'" in complaint(capsys)
