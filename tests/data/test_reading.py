"""Reading: every format gives the same data, classes keep their names, splits are the given ones or carved by class."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from surplus.data import Dataset, Splits, read, split
from surplus.data.decoding import decode
from surplus.errors import InputError


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def encoded(pixels: np.ndarray, ending: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, ending)
    return buffer.getvalue()


def pictures(n: int, *shape: int) -> np.ndarray:
    return rng().integers(0, 256, (n, *shape), dtype=np.uint8)


def write_images(folder: Path, **classes: np.ndarray) -> None:
    for name, images in classes.items():
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(images):
            (folder / name / f"{i}.png").write_bytes(encoded(image))


def write_hub(path: Path, images: np.ndarray, labels: list[int], names: list[str] | None = None) -> None:
    """Parquet as the Hugging Face hub writes image data: struct<bytes, path>, and class names in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": encoded(image), "path": None} for image in images]
    image = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": image, "label": pa.array(labels)})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


def together(splits: Splits) -> tuple[torch.Tensor, torch.Tensor, list[Any]]:
    """Inputs, targets and ids of train and test in the order of their row numbers."""
    ids = np.concatenate([splits.train.ids, splits.test.ids])
    order = torch.from_numpy(ids.argsort(kind="stable"))
    inputs = torch.cat([splits.train.inputs, splits.test.inputs])
    return inputs[order], torch.cat([splits.train.targets, splits.test.targets])[order], sorted(ids.tolist())


# ---- formats --------------------------------------------------------------------------------------------------------


def test_digits_are_the_1797_of_scikit_learn_with_a_fifth_of_each_class_held_out():
    splits = read("digits")
    assert (len(splits.train), len(splits.test), splits.carved) == (1438, 359, True)
    assert splits.train.shape == (1, 8, 8) and splits.train.classes == tuple("0123456789")
    inputs, targets, ids = together(splits)
    from sklearn.datasets import load_digits

    assert ids == list(range(1797)) and targets.tolist() == load_digits().target.tolist()
    assert np.abs(inputs.squeeze(1).numpy() * (16 / 255) - load_digits().images).max() < 0.04
    share = splits.test.targets.bincount() / targets.bincount()
    assert ((share - 0.2).abs() < 0.01).all()


@pytest.mark.parametrize("ending", ["csv", "parquet", "npz"])
@pytest.mark.parametrize("labels", ["words", "numbers with gaps", "numbers from 0", "whole floats", "booleans"])
def test_a_table_reads_the_same_from_each_format(tmp_path: Path, ending: str, labels: str):
    x = rng().normal(size=(30, 3)).round(3)
    number = np.arange(30) % 3
    y, classes = {
        "words": (np.array(["cow", "ant", "bee"])[number], ("ant", "bee", "cow")),
        "numbers with gaps": (np.array([7, 10, 2])[number], ("2", "7", "10")),
        "numbers from 0": (number, ("0", "1", "2")),
        "whole floats": (np.array([1.0, 2.0, 3.0])[number], ("1", "2", "3")),
        "booleans": (number == 1, ("False", "True")),
    }[labels]
    path = tmp_path / f"table.{ending}"
    columns = {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "label": y}
    if ending == "npz":
        np.savez(path, **columns)
    elif ending == "parquet":
        pq.write_table(pa.table({k: pa.array(v.tolist()) for k, v in columns.items()}), path)
    else:
        path.write_text(
            "\n".join([",".join(columns), *(",".join(map(str, r)) for r in zip(*columns.values(), strict=True))])
        )
    splits = read(path)
    inputs, targets, ids = together(splits)
    assert splits.name == "table" and splits.train.kind == "table" and splits.train.classes == splits.test.classes
    assert splits.train.classes == classes and ids == list(range(30))
    assert inputs.dtype == torch.float32 and torch.allclose(inputs.double(), torch.from_numpy(x), atol=1e-6)
    assert [classes[t] for t in targets] == [str(int(v) if labels == "whole floats" else v) for v in y.tolist()]


@pytest.mark.parametrize("kind", ["bool", "uint8", "uint16", "int8", "int64", "float16", "float64", ">f4", ">i2"])
def test_every_number_type_is_a_feature(tmp_path: Path, kind: str):
    x = (np.arange(40).reshape(20, 2) % 2).astype(kind)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(20) % 2)
    inputs, _, _ = together(read(tmp_path / "d.npz"))
    assert inputs.dtype == torch.float32 and inputs.tolist() == x.astype(float).tolist()


def test_parquet_columns_of_many_types_are_features_or_words(tmp_path: Path):
    n = 20
    columns = {
        "flag": pa.array([i % 2 == 0 for i in range(n)]),
        "small": pa.array(range(n), pa.uint16()),
        "price": pa.array([f"{i}.25" for i in range(n)]).cast(pa.decimal128(8, 2)),
        "single": pa.array(np.arange(n) / 7, pa.float32()),
        "label": pa.array(["yes", "no"] * (n // 2)).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    splits = read(tmp_path / "t.parquet")
    inputs, targets, _ = together(splits)
    assert splits.train.classes == ("no", "yes") and targets.tolist() == [1, 0] * (n // 2)
    assert torch.allclose(inputs[3], torch.tensor([0.0, 3.0, 3.25, 3 / 7]))


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 4), pa.large_list(pa.float64())])
def test_a_parquet_column_of_lists_is_one_block_of_features(tmp_path: Path, kind: Any):
    x = np.arange(80, dtype=np.float32).reshape(20, 4)
    table = pa.table({"embedding": pa.array(x.tolist(), kind), "weight": range(20), "label": [0, 1] * 10})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    inputs, _, _ = together(read(tmp_path / "t.parquet"))
    assert inputs.tolist() == x.tolist()


def test_nested_parquet_lists_are_images_and_empty_values_in_them_are_refused(tmp_path: Path):
    x = pictures(10, 4, 5)
    pq.write_table(pa.table({"x": x.tolist(), "label": [0, 1] * 5}), tmp_path / "t.parquet")
    splits = read(tmp_path / "t.parquet")
    assert splits.train.kind == "image" and together(splits)[0].squeeze(1).numpy().tolist() == x.tolist()
    pq.write_table(pa.table({"x": [[1.0, None]] + [[1.0, 2.0]] * 9, "label": [0, 1] * 5}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"NaN, infinite.*rows: 0"):
        read(tmp_path / "t.parquet")


def test_columns_are_matched_by_name_across_splits(tmp_path: Path):
    (tmp_path / "train.csv").write_text("a,b,label\n" + "".join(f"{i},{-i},{i % 2}\n" for i in range(6)))
    (tmp_path / "test.csv").write_text("label,b,a,more\n1,-7,7,9\n0,-8,8,9\n")
    splits = read(tmp_path)
    assert splits.test.inputs.tolist() == [[7, -7], [8, -8]] and splits.test.targets.tolist() == [1, 0]
    assert not splits.carved and len(splits.train) == 6


def test_types_of_csv_columns_are_read_off_all_rows(tmp_path: Path):
    rows = "".join(f"{i},{i % 2}\n" for i in range(300_000))
    (tmp_path / "long.csv").write_text("a,label\n" + rows + "0.5,1\n")
    splits = read(tmp_path / "long.csv")
    assert (torch.cat([splits.train.inputs, splits.test.inputs]) == 0.5).sum() == 1


def test_csv_details(tmp_path: Path):
    path = tmp_path / "T.CSV"
    path.write_bytes("\ufeff,Species,größe\n0,cat,1\n1,dog,2\n2,cat,3\n3,dog,4\n4,cat,5\n5,dog,6\n".encode())
    splits = read(path, labels="Species")  # pandas' nameless row numbers are no feature, a byte order mark is no letter
    assert splits.train.shape == (1,) and splits.train.classes == ("cat", "dog")


def test_label_columns_are_found_by_their_usual_names_in_any_case(tmp_path: Path):
    (tmp_path / "t.csv").write_text("a,Target,y\n" + "".join(f"{i},{i % 2},{i % 3}\n" for i in range(9)))
    assert len(read(tmp_path / "t.csv").train.classes) == 2
    assert len(read(tmp_path / "t.csv", labels="y").train.classes) == 3


@pytest.mark.parametrize("values", [np.arange(30) + 5, np.array([f"k{i:02}" for i in range(30)])])
@pytest.mark.parametrize("column", ["id", "key"])
def test_ids_are_numbers_or_words_of_a_column(tmp_path: Path, values: np.ndarray, column: str):
    table = pa.table({"a": range(30), column: values, "label": [0, 1] * 15})
    pq.write_table(table, tmp_path / "t.parquet")
    splits = read(tmp_path / "t.parquet", ids=None if column == "id" else column)
    assert together(splits)[2] == values.tolist() and splits.train.shape == (1,)
    assert splits.train.ids.dtype.kind == ("i" if values.dtype.kind == "i" else "U")


def test_labels_that_are_measurements_stay_floats_in_all_splits(tmp_path: Path):
    (tmp_path / "train.csv").write_text("a,y\n" + "".join(f"{i},{i / 3:.4f}\n" for i in range(9)))
    (tmp_path / "test.csv").write_text("a,y\n1,2\n3,4\n")  # whole numbers by chance
    splits = read(tmp_path)
    assert splits.train.classes == () and splits.test.targets.dtype == torch.float32
    assert splits.test.targets.tolist() == [2, 4]
    (tmp_path / "many.csv").write_text("a,y\n" + "".join(f"{i},{i * 1000}.0\n" for i in range(40)))
    np.savez(tmp_path / "many.npz", x=np.ones((40, 2)), y=np.arange(40) * 1000.0)
    for name in ("many.csv", "many.npz"):  # floats, whole, but as many as rows
        assert read(tmp_path / name).train.targets.is_floating_point()


def test_classes_come_from_the_training_split(tmp_path: Path):
    np.savez(tmp_path / "d.npz", x_train=np.ones((9, 2)), y_train=np.arange(9) % 3 * 10, x_test=np.ones((2, 2)),
             y_test=np.array([20.0, 10.0]))  # fmt: skip
    splits = read(tmp_path / "d.npz")
    assert splits.test.classes == ("0", "10", "20") and splits.test.targets.tolist() == [2, 1]


def test_a_class_of_one_example_stays_in_training(tmp_path: Path):
    np.savez(tmp_path / "d.npz", x=np.ones((13, 2)), y=np.array([0, 1] * 6 + [2]))
    splits = read(tmp_path / "d.npz")
    assert splits.train.targets.bincount().tolist() == [5, 5, 1] and splits.test.targets.tolist().count(2) == 0


# ---- npz ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["{}_{}", "{1}_{0}"])
def test_npz_names_tell_splits(tmp_path: Path, names: str):
    parts = {}
    for i, part in enumerate(("train", "val", "test")):
        parts[names.format("images", part)] = pictures(6 + i, 5, 5)
        parts[names.format("labels", part)] = (np.arange(6 + i) % 2)[:, None]  # one column, as MedMNIST has it
    np.savez(tmp_path / "d.npz", **parts)
    splits = read(tmp_path / "d.npz")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (6, 7, 8) and not splits.carved
    assert splits.test.ids.tolist() == list(range(8)) and splits.train.kind == "image"


def test_npz_single_values_and_arrays_that_are_no_inputs_are_left_alone(tmp_path: Path):
    np.savez(tmp_path / "d.npz", x=pictures(8, 4, 4), y=np.array([b"a", b"b"] * 4), made=2024, names=np.array(["a"]))
    assert read(tmp_path / "d.npz").train.classes == ("a", "b")


def test_npz_tokens_are_text(tmp_path: Path):
    tokens = rng().integers(0, 50, (20, 6))
    np.savez(tmp_path / "classes.npz", tokens=tokens, y=np.arange(20) % 2)
    np.savez(tmp_path / "next.npz", tokens=tokens, y=tokens)
    classes, following = read(tmp_path / "classes.npz"), read(tmp_path / "next.npz")
    assert classes.train.kind == following.train.kind == "text" and classes.train.classes == ("0", "1")
    assert following.train.targets.shape[1:] == (6,) and following.train.inputs.dtype == torch.int64


@pytest.mark.parametrize("layout", ["(n, H, W)", "(n, H, W, 3)", "(n, 3, H, W)", "(n, H, W, 1)"])
@pytest.mark.parametrize("scale", ["bytes", "unit floats", "byte floats", "uint16"])
def test_npz_images_of_every_layout_and_scale(tmp_path: Path, layout: str, scale: str):
    shape = {"(n, H, W)": (6, 7), "(n, H, W, 3)": (6, 7, 3), "(n, 3, H, W)": (3, 6, 7), "(n, H, W, 1)": (6, 7, 1)}
    x = pictures(10, *shape[layout])
    stored = {"bytes": x, "unit floats": x / 255, "byte floats": x.astype(float), "uint16": x.astype(np.uint16)}[scale]
    np.savez(tmp_path / "d.npz", x=stored, y=np.arange(10) % 2)
    inputs, _, _ = together(read(tmp_path / "d.npz"))
    expected = x if x.ndim == 4 and x.shape[1] == 3 else (x if x.ndim == 4 else x[..., None]).transpose(0, 3, 1, 2)
    if scale == "unit floats":
        assert inputs.dtype == torch.float32 and np.allclose(inputs.numpy() * 255, expected, atol=1e-3)
    else:
        assert inputs.dtype == torch.uint8 and (inputs.numpy() == expected).all()


# ---- the hub's layout -----------------------------------------------------------------------------------------------


def test_the_hubs_layout_with_shards_splits_and_class_names(tmp_path: Path):
    x = pictures(12, 6, 5, 3)
    names = ["frog", "dog"]
    write_hub(tmp_path / "plain" / "train-00000-of-00002.parquet", x[:7], [0, 1] * 3 + [0], names)
    write_hub(tmp_path / "plain" / "train-00001-of-00002.parquet", x[7:], [1, 0, 1, 0, 1], names)
    write_hub(tmp_path / "plain" / "validation-00000-of-00001.parquet", x[:4], [1, 1, 0, 0], names)
    write_hub(tmp_path / "plain" / "test-00000-of-00001.parquet", x[:3], [1, 1, 1, 0][1:], None)  # metadata lost
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "train.parquet").write_text("not to be read")
    splits = read(tmp_path)
    assert splits.train.classes == splits.test.classes == ("frog", "dog") and not splits.carved
    assert (splits.train.inputs.permute(0, 2, 3, 1).numpy() == x).all() and splits.train.ids.tolist() == [*range(12)]
    assert splits.train.targets.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert splits.test.targets.tolist() == [1, 1, 0] and len(splits.validation) == 4


def test_class_names_in_another_order_are_refused(tmp_path: Path):
    x = pictures(6, 4, 4)
    write_hub(tmp_path / "train.parquet", x, [0, 1] * 3, ["cat", "dog"])
    write_hub(tmp_path / "test.parquet", x, [0, 1] * 3, ["dog", "cat"])
    with pytest.raises(InputError, match=r"\(test\) names its classes otherwise"):
        read(tmp_path)
    (tmp_path / "test.parquet").rename(tmp_path / "train-2.parquet")
    with pytest.raises(InputError, match="differ in their class names"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("my-train", "my-test"), ("training", "testing"), ("x_train.v2", "TEST_x"), ("all", "valid")],
)
def test_a_word_of_the_file_name_tells_the_split(tmp_path: Path, train: str, test: str):
    for name, n in ((train, 8), (test, 3)):
        (tmp_path / f"{name}.csv").write_text("a,label\n" + "".join(f"{i},{i % 2}\n" for i in range(n)))
    splits = read(tmp_path)
    assert (len(splits.train), len(splits.test), splits.carved) == (8, 3, False)


def test_the_folder_tells_the_split_where_the_file_does_not(tmp_path: Path):
    for name, n in (("train", 8), ("test", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.csv").write_text("a,label\n" + "".join(f"{i},{i % 2}\n" for i in range(n)))
    assert [len(s) for s in (read(tmp_path).train, read(tmp_path).test)] == [8, 3]


def test_a_name_on_the_hub_reads_like_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    x = pictures(6, 5, 5)
    write_hub(tmp_path / "train.parquet", x, [0, 1] * 3)
    label = type("ClassLabel", (), {"names": ["a", "b"]})
    rows = types.SimpleNamespace(
        features={"image": object(), "label": label()},
        data=types.SimpleNamespace(table=pq.read_table(tmp_path / "train.parquet")),
    )
    parts = {"train": rows, "test": rows, "unsupervised": None}
    hub = types.SimpleNamespace(load_dataset=lambda name: parts, ClassLabel=label)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    splits = read("hf:someone/set")
    assert splits.name == "someone-set" and splits.train.classes == ("a", "b") and not splits.carved
    assert (splits.test.inputs.squeeze(1).numpy() == x).all()


def test_what_the_hub_says_when_it_fails_is_passed_on(monkeypatch: pytest.MonkeyPatch):
    def fail(name: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=fail))
    with pytest.raises(InputError, match="'someone/set' could not be read: no route"):
        read("hf:someone/set")


# ---- images in folders ----------------------------------------------------------------------------------------------


def test_a_folder_per_class_with_paths_for_ids(tmp_path: Path):
    cat, dog = pictures(6, 5, 7), pictures(5, 5, 7)[::-1]
    write_images(tmp_path, cat=cat, dog=dog)
    (tmp_path / "cat" / "._0.png").write_bytes(b"what macOS leaves")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    splits = read(tmp_path)
    inputs, targets, ids = together(splits)
    assert splits.carved and splits.train.classes == ("cat", "dog") and splits.train.shape == (1, 5, 7)
    assert ids == [f"cat/{i}.png" for i in range(6)] + [f"dog/{i}.png" for i in range(5)]
    assert targets.tolist() == [0] * 6 + [1] * 5 and (inputs[:, 0].numpy() == np.concatenate([cat, dog])).all()


def test_train_and_test_folders_share_the_classes_of_train(tmp_path: Path):
    x = pictures(4, 5, 5, 3)
    write_images(tmp_path / "train", ant=x, bee=x, cow=x)
    write_images(tmp_path / "Test", bee=x[:1], cow=x[:2])  # no ant: numbers must not shift
    splits = read(tmp_path)
    assert splits.test.targets.tolist() == [1, 2, 2] and splits.test.classes == ("ant", "bee", "cow")
    assert splits.train.shape == (3, 5, 5) and not splits.carved


def test_classes_may_be_called_like_splits(tmp_path: Path):
    write_images(tmp_path, dev=pictures(4, 5, 5), ops=pictures(4, 5, 5))
    assert read(tmp_path).train.classes == ("dev", "ops")


def test_grey_among_colour_becomes_colour():
    colour, grey = pictures(1, 4, 4, 3)[0], pictures(1, 4, 4)[0]
    x = decode([encoded(colour), encoded(grey)], "here")
    assert (x[0] == colour).all() and (x[1] == grey[..., None]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_decodes_to_grey_or_colour(mode: str):
    buffer = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(np.full((3, 4), 200 * 256, np.uint16)).save(buffer, "PNG")
    else:
        image = Image.new("RGB", (4, 3), (200, 200, 200))
        image.convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    x = decode([buffer.getvalue()], "here")
    grey = mode in ("1", "L", "LA", "I;16")
    assert x.shape == ((1, 3, 4) if grey else (1, 3, 4, 3)) and x.dtype == np.uint8
    assert mode == "1" or (np.abs(x.astype(int) - 200) <= 5).all()


@pytest.mark.parametrize("ending", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG"])
def test_every_format_of_image_decodes(ending: str):
    flat = np.full((8, 8, 3), 120, np.uint8)
    x = decode([encoded(flat, ending)] * 3, "here")
    assert x.shape == (3, 8, 8, 3) and np.abs(x.astype(int) - 120).max() <= 2


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(content: bytes):
    with pytest.raises(InputError, match="cannot be decoded, in rows 0"):
        decode([content, None], "here")


@given(st.integers(0, 70), st.integers(0, 255))
def test_a_damaged_image_decodes_or_is_named(at: int, value: int):
    content = bytearray(encoded(np.arange(64, dtype=np.uint8).reshape(8, 8)))
    content[at] = value
    try:
        assert decode([bytes(content)], "here").shape[0] == 1
    except InputError as error:
        assert "rows 0" in str(error)


# ---- carving --------------------------------------------------------------------------------------------------------


def test_carving_is_repeatable_and_turns_with_the_seed(tmp_path: Path):
    np.savez(tmp_path / "d.npz", x=rng().normal(size=(100, 2)), y=np.arange(100) % 4)
    one, same, other = (read(tmp_path / "d.npz", seed=s) for s in (0, 0, 1))
    assert one.test.ids.tolist() == same.test.ids.tolist() != other.test.ids.tolist()
    assert one.train.fingerprint == same.train.fingerprint != other.train.fingerprint
    assert one.test.targets.bincount().tolist() == [5] * 4 and one.carved
    assert read(tmp_path / "d.npz", test_share=0.4).test.targets.bincount().tolist() == [10] * 4


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=5), share=st.floats(0.05, 0.6))
def test_carving_leaves_every_class_in_training_and_loses_no_row(counts: list[int], share: float):
    labels = np.repeat(np.arange(len(counts)), counts)
    rest, part = split(
        Dataset.of(np.zeros((len(labels), 1)), labels, classes=[str(k) for k in range(len(counts))]), share
    )
    assert sorted([*rest.ids, *part.ids]) == list(range(len(labels)))
    for k, count in enumerate(counts):
        taken = int((part.targets == k).sum())
        assert taken == min(round(share * count), count - 1)


def test_names_of_files_folders_and_paths_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    np.savez(tmp_path / "d.v1.npz", x=np.ones((9, 2)), y=np.arange(9) % 2)
    (tmp_path / "set.v2").mkdir()
    np.savez(tmp_path / "set.v2" / "train.npz", x=np.ones((9, 2)), y=np.arange(9) % 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("~/d.v1.npz").name == "d.v1" and read(str(tmp_path / "set.v2")).name == "set.v2"
    monkeypatch.chdir(tmp_path / "set.v2")
    assert read(".").name == "set.v2"
    with pytest.raises(InputError, match="cannot be read"):
        read("~nobody-of-this-name/d.npz")
