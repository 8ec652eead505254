"""`Dataset`: what inputs are taken for, what is refused, what a fingerprint rests on, how it travels."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surplus.data import Dataset, split
from surplus.errors import InputError


def some(n: int = 12, **changes: object) -> Dataset:
    given = {"inputs": torch.arange(2.0 * n).reshape(n, 2), "targets": torch.arange(n) % 3, **changes}
    return Dataset.of(given.pop("inputs"), given.pop("targets"), **given)


# ---- what inputs are ------------------------------------------------------------------------------------------------


def test_integers_are_a_table_unless_the_targets_are_tokens_too():
    big = torch.randint(0, 5000, (20, 6), generator=torch.Generator().manual_seed(0))
    assert Dataset.of(big, torch.arange(20) % 2).kind == "table"  # counts, say: no reason to call them words
    assert Dataset.of(big, torch.arange(20) % 2, kind="text").inputs.dtype == torch.int64
    small = big % 9  # letters: few, and still tokens
    following = Dataset.of(small, small.roll(-1, 1))
    assert following.kind == "text" and following.classes == () and following.targets.shape == (20, 6)


def test_kinds_follow_shapes():
    labels = torch.arange(6) % 2
    assert Dataset.of(torch.rand(6, 4), labels).kind == "table"
    assert Dataset.of(torch.rand(6), labels).shape == (1,)
    assert Dataset.of(torch.rand(6, 4, 5), labels).shape == (1, 4, 5)
    assert Dataset.of(torch.rand(6, 4, 5, 3), labels).shape == (3, 4, 5)
    assert Dataset.of(torch.rand(6, 3, 4, 5), labels).shape == (3, 4, 5)
    assert Dataset.of(torch.rand(6, 2, 4, 5), labels).shape == (2, 4, 5)


def test_pixels_keep_their_scale_or_come_to_bytes():
    labels, g = torch.arange(6) % 2, torch.Generator().manual_seed(0)
    whole = torch.randint(0, 256, (6, 4, 4), generator=g)
    whole[0, 0, 0] = 255
    fine, signed = torch.rand(6, 4, 4, generator=g), torch.randn(6, 4, 4, generator=g)
    inputs = lambda x: Dataset.of(x, labels).inputs[:, 0]
    assert torch.equal(inputs(whole), whole.byte()) and torch.equal(inputs(whole.float()), whole.byte())
    assert torch.equal(inputs(fine), fine) and torch.equal(inputs(signed), signed)  # 0..1, and normalised already
    assert torch.allclose(inputs(254 * fine + 0.5), (254 * fine + 0.5) / 255)
    assert torch.equal(inputs(10 * fine), 10 * fine) and torch.equal(inputs(1000 * fine), 1000 * fine)
    assert torch.equal(inputs(whole > 99), (whole > 99).byte() * 255)


def test_targets_are_classes_measurements_or_tokens():
    assert some().classes == ("0", "1", "2") and some().targets.dtype == torch.int64
    assert some(targets=np.arange(12).reshape(12, 1) % 2).targets.shape == (12,)
    assert some(targets=np.arange(12) % 2 == 1).targets.tolist() == [0, 1] * 6
    assert some(targets=torch.rand(12)).classes == () and some(targets=torch.rand(12, 4)).targets.shape == (12, 4)
    assert some(targets=np.arange(12.0)).targets.dtype == torch.float32  # floats measure, even whole ones


@pytest.mark.parametrize("array", [
    np.ones((6, 2), ">f8"), np.ones((6, 2), np.longdouble), np.ones((6, 2), np.uint64), np.ones((6, 4))[:, ::2],
    np.ones((6, 2), np.float16), [[1, 1.0]] * 6, torch.ones(6, 2, requires_grad=True), torch.ones(6, 2).bfloat16(),
])  # fmt: skip
def test_every_numeric_array_is_taken(array: object):
    data = Dataset.of(array, [0, 1] * 3)
    assert data.inputs.dtype == torch.float32 and data.inputs.sum() == 12 and not data.inputs.requires_grad


def test_read_only_arrays_are_copied_and_never_written_through():
    x = np.ones((6, 2), np.float32)
    x.flags.writeable = False
    Dataset.of(x, [0, 1] * 3).inputs.mul_(2)
    assert x.sum() == 12


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "words"), [
    ({"inputs": torch.ones(0, 2), "targets": torch.ones(0)}, "empty"),
    ({"inputs": torch.ones(12, 0)}, "empty"),
    ({"inputs": torch.tensor(3.0)}, "single value 3.0"),
    ({"inputs": [[1, 2], [1]] * 6}, r"ragged: row 0 has shape \(2,\), row 1 has \(1,\) \(6 of 12 rows differ\)"),
    ({"inputs": [["a", "b"]] * 12}, "type <U1"),
    ({"inputs": [[None, 1]] * 12}, "type object"),
    ({"inputs": torch.ones(12, 2, 2), "kind": "table"}, r"must be \(n, features\)"),
    ({"inputs": torch.ones(12, 2), "kind": "image"}, r"must be \(n, H, W\)"),
    ({"inputs": torch.ones(12, 2), "kind": "text"}, "token numbers"),
    ({"inputs": -torch.ones(12, 2).long(), "kind": "text"}, "token numbers"),
    ({"inputs": torch.ones(12, 2).long(), "targets": -torch.ones(12, 2).long()}, "target tokens below 0"),
    ({"inputs": torch.full((12, 2), torch.nan)}, r"NaN.*12 of 12 rows: 0, 1, 2, 3, 4 and 7 more; drop or mend"),
    ({"targets": torch.arange(9)}, "12 inputs and 9 labels"),
    ({"targets": torch.zeros(12).long()}, "the one class 0"),
    ({"targets": torch.zeros(12).long(), "classes": ("cat", "dog")}, "the one class 'cat'"),
    ({"targets": torch.arange(12) % 3 - 1}, r"outside 0\.\.1.*0 \(label -1\), 3 \(label -1\)"),
    ({"targets": torch.arange(12) % 3, "classes": ("cat", "dog")}, r"outside 0\.\.1 \(2 classes\).*use class numbers"),
    ({"targets": torch.eye(12).long()}, "one-hot"),
    ({"targets": torch.full((12,), torch.inf)}, "labels that are NaN or infinite"),
    ({"targets": 10**9 * (torch.arange(12) % 2)}, "labels up to 1,000,000,000 for 12 examples"),
    ({"ids": [1, 2]}, r"12 examples and ids of shape \(2,\)"),
    ({"ids": [0, 0, *range(10)]}, r"repeats ids: 0 \(3 times\)"),
    ({"ids": ["a"] * 6 + ["b"] * 5 + ["c"]}, r"repeats ids: a \(6 times\), b \(5 times\)"),
    ({"ids": [float("nan"), *range(11)]}, "without an id, in 1 of 12 rows: 0"),
    ({"ids": [None, *"abcdefghijk"]}, "without an id, in 1 of 12 rows: 0"),
])  # fmt: skip
def test_what_cannot_be_used_is_named(changes: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        some(**changes)


def test_labels_like_ids_are_refused_but_few_examples_of_many_classes_are_not():
    with pytest.raises(InputError, match="30 different labels for 30 examples"):
        Dataset.of(torch.ones(30, 2), torch.arange(30))
    assert len(Dataset.of(torch.ones(30, 2), torch.arange(30), classes=[f"c{k}" for k in range(30)]).classes) == 30
    assert len(Dataset.of(torch.ones(6, 2), torch.arange(6)).classes) == 6


# ---- ids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ids", "kind"), [
    (None, "i"), (range(5, 17), "i"), (np.arange(12, dtype=np.uint8), "i"), (np.arange(12.0), "i"),
    ([f"x{i}" for i in range(12)], "U"), (np.array([f"x{i}" for i in range(12)], dtype=object), "U"),
    (np.array([f"x{i}".encode() for i in range(12)]), "U"), ([*range(11), "x"], "U"),
    (np.arange(12, dtype=np.uint64) + np.uint64(2**63), "U"), (np.arange(12) / 2, "U"),
])  # fmt: skip
def test_ids_are_int64_or_words_whatever_they_were(ids: object, kind: str):
    data = some(ids=ids)
    assert data.ids.dtype.kind == kind and (kind == "U" or data.ids.dtype == np.int64)
    assert isinstance(data.ids[0].item(), int if kind == "i" else str)


# ---- indexing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [
    slice(2, 9, 3), slice(None, None, -1), [3, 1, 1], [], -1, 4, np.array([True, False] * 6), torch.tensor([5, 0]),
    torch.arange(12) % 4 == 0, [True] * 3 + [False] * 9,
])  # fmt: skip
def test_indexing_takes_the_same_rows_of_everything(index: object):
    data = some(ids=[f"x{i:02}" for i in range(12)])
    part = data[index]
    rows = np.atleast_1d(np.arange(12)[index.numpy() if isinstance(index, torch.Tensor) else index])
    assert part.ids.tolist() == [f"x{i:02}" for i in rows] and part.targets.tolist() == [i % 3 for i in rows]
    assert part.inputs.tolist() == [[2.0 * i, 2 * i + 1] for i in rows] and part.classes == data.classes
    assert len(part) == len(rows)


def test_positions_that_are_not_there_are_refused():
    with pytest.raises(IndexError):
        some()[[99]]
    with pytest.raises(IndexError):
        some()[[True, False]]


# ---- fingerprints ---------------------------------------------------------------------------------------------------


def test_a_fingerprint_changes_with_inputs_targets_ids_classes_and_nothing_else():
    data = some(ids=[f"x{i}" for i in range(12)])
    moved = data.inputs.clone()
    moved[3, 1] += 1e-5
    others = [
        replace(data, inputs=moved),
        data.with_targets(data.targets.roll(1)),
        replace(data, ids=data.ids[::-1].copy()),
        replace(data, classes=("a", "b", "c")),
        replace(data, kind="text"),
        replace(data, inputs=data.inputs.reshape(12, 1, 2)),
        replace(data, inputs=data.inputs.double()),
        data[:11],
        data[torch.arange(11, -1, -1)],
    ]
    same = [
        some(ids=[f"x{i}" for i in range(12)]),
        some(ids=np.array([f"x{i}" for i in range(12)], dtype=object)),
        data[:],
        data[torch.randperm(12)].__class__.of(data.inputs.numpy(), data.targets.tolist(), ids=data.ids.astype("<U50")),
        replace(data, inputs=data.inputs.t().contiguous().t()),
        pickle.loads(pickle.dumps(data)),
    ]
    assert {d.fingerprint for d in same} == {data.fingerprint}
    assert len({d.fingerprint for d in (data, *others)}) == 1 + len(others)


def test_words_that_join_to_the_same_letters_are_other_ids():
    a, b = (some(3, targets=[0, 1, 0], ids=ids) for ids in (["a\0b", "c", "d"], ["a", "b\0c", "d"]))
    assert a.fingerprint != b.fingerprint


def test_ids_of_a_part_fingerprint_like_ids_given():
    data = some(ids=["long-name", *"abcdefghijk"])
    assert (
        data[1:].fingerprint
        == some(11, inputs=data.inputs[1:], targets=data.targets[1:], ids=[*"abcdefghijk"]).fingerprint
    )


@given(st.integers(0, 11), st.integers(1, 2))
def test_one_changed_label_changes_the_fingerprint(row: int, by: int):
    data = some()
    changed = data.targets.clone()
    changed[row] = (changed[row] + by) % 3
    assert data.with_targets(changed).fingerprint != data.fingerprint


# ---- travel ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [None, [f"x{i}" for i in range(12)]])
@pytest.mark.parametrize("inputs", [torch.rand(12, 3), torch.randint(0, 256, (12, 3, 4, 4)).byte()])
def test_joblib_carries_a_dataset_through_memory_maps_without_a_word(
    tmp_path: Path, inputs: torch.Tensor, ids: list[str] | None, recwarn: pytest.WarningsRecorder
):
    data = some(inputs=inputs, ids=ids)
    name = data.fingerprint
    joblib.dump(data, tmp_path / "data")
    back = joblib.load(tmp_path / "data", mmap_mode="r")
    assert back.__dict__["fingerprint"] == name == replace(back).fingerprint  # carried, and computed anew
    assert torch.equal(back.inputs, data.inputs) and back.ids.tolist() == data.ids.tolist() and back.kind == data.kind
    assert back[:3].targets.tolist() == [0, 1, 2] and not [w for w in recwarn if "writable" in str(w.message)]


def test_pickling_twice_gives_the_same_arrays_which_joblib_shares_between_tasks():
    data = some()
    assert data.__getstate__()["inputs"] is data.__getstate__()["inputs"]


def test_another_device_holds_another_object_and_the_same_one_this():
    data = some()
    assert data.to("cpu") is data
    assert data.to("meta").inputs.device.type == "meta" and data.to("meta") != data


def test_equality_asks_whether_it_is_the_same_object_and_compares_no_tensors():
    data = some()
    assert data == data and data != some() and len({data, some()}) == 2


def test_splitting_text_and_measurements_needs_no_classes():
    data = some(targets=torch.rand(12))
    rest, part = split(data, 0.25)
    assert (len(rest), len(part)) == (9, 3) and sorted([*rest.ids, *part.ids]) == list(range(12))
