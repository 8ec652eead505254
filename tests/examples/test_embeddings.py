import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from surplus.errors import InputError
from surplus.examples import embeddings
from surplus.examples.embeddings import Embeddings, read_ids, write_embeddings
from surplus.space import generator


def rows(n=50, d=4):
    return torch.randn(n, d, generator=generator(0))


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(embeddings, "ENTRIES", 4 * 8)  # eight rows of four numbers


def test_a_tensor_comes_back_in_chunks(small_chunks):
    data = Embeddings.of(rows())
    assert (len(data), data.dim, data.in_memory) == (50, 4, True)
    assert [len(c) for c in data.chunks()] == [8] * 6 + [2]
    assert torch.equal(data.all(), rows())


def test_a_file_holds_what_was_written(tmp_path, small_chunks):
    write_embeddings(tmp_path / "e.parquet", rows().split(7), ids=[f"n{i}" for i in range(50)], rows=5)
    data = Embeddings.of(tmp_path / "e.parquet")
    assert (len(data), data.dim, data.in_memory) == (50, 4, False)
    assert torch.equal(data.all(), rows()) and max(len(c) for c in data.chunks()) <= 8
    assert read_ids(tmp_path / "e.parquet")[:2] == ["n0", "n1"]
    assert [f.name for f in tmp_path.iterdir()] == ["e.parquet"]


def test_a_large_row_group_is_read_in_chunks_too(tmp_path, small_chunks):
    write_embeddings(tmp_path / "e.parquet", [rows()], rows=50)
    (part,) = Embeddings.of(tmp_path / "e.parquet").parts
    assert [len(c) for c in part.chunks()] == [8] * 6 + [2]


def test_files_of_a_folder_follow_their_names_and_parts_read_alone(tmp_path, small_chunks):
    for name, piece in zip("ba", rows().split(25), strict=True):
        write_embeddings(tmp_path / f"{name}.parquet", [piece], rows=5)
    data = Embeddings.of(tmp_path)
    assert torch.equal(data.all(), rows().roll(25, 0))
    for part in data.parts:
        read = torch.cat(list(pickle.loads(pickle.dumps(part)).chunks()))
        assert torch.equal(read, data.all()[part.start : part.stop])


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.float16(), pa.int64()])
def test_lists_and_columns_of_any_numbers_are_read(tmp_path, kind):
    x = (rows() * 10).round()
    table = {f"f{j}": pa.array(x[:, j].numpy()).cast(pa.float64()).cast(kind) for j in range(4)}
    pq.write_table(pa.table({"id": range(50), "label": range(50), **table}), tmp_path / "columns.parquet")
    assert torch.equal(Embeddings.of(tmp_path / "columns.parquet").all(), x)
    flat = pa.array(x.flatten().numpy()).cast(pa.float64()).cast(kind)
    lists = pa.ListArray.from_arrays(pa.array(range(0, 204, 4), pa.int32()), flat)
    pq.write_table(pa.table({"id": range(50), "features": lists}), tmp_path / "lists.parquet")
    assert torch.equal(Embeddings.of(tmp_path / "lists.parquet").all(), x)
    assert torch.equal(Embeddings.of(tmp_path / "columns.parquet", columns=["f1", "f0"]).all(), x[:, [1, 0]])


def test_unit_rows_have_length_one_each_time():
    unit = Embeddings.of(rows()).unit()
    torch.testing.assert_close(unit.all(), rows() / rows().norm(dim=1, keepdim=True))
    assert torch.equal(unit.all(), unit.all())


def test_taking_and_sampling_read_the_rows_asked_for(small_chunks):
    data = Embeddings.of(rows())
    at = torch.tensor([0, 7, 8, 30, 49])
    assert torch.equal(data.take(at), rows()[at])
    sample = data.sample(20, generator(1))
    assert sample.shape == (20, 4) and len(sample.unique(dim=0)) == 20
    assert torch.equal(data.sample(99, generator(1)), rows())


def test_rows_are_sampled_uniformly():
    data, counts = Embeddings.of(torch.arange(10.0)[:, None]), torch.zeros(10)
    for seed in range(1000):
        counts[data.sample(3, generator(seed)).long().flatten()] += 1
    assert (counts / 1000 - 0.3).abs().max() < 4 * (0.3 * 0.7 / 1000) ** 0.5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_are_named(bad, small_chunks):
    x = rows()
    x[[9, 11], 2] = bad
    with pytest.raises(InputError, match=r"rows 9, 11 are NaN"):
        Embeddings.of(x).all()


def test_large_numbers_are_no_infinity():
    x = torch.full((4, 2), 3e38)
    assert torch.equal(Embeddings.of(x).all(), x)


def test_a_row_without_direction_is_named(small_chunks):
    x = rows()
    x[13] = 0
    with pytest.raises(InputError, match="row 13"):
        Embeddings.of(x).unit().all()


@pytest.mark.parametrize("shape", [(3,), (0, 4), (4, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"\(n, d\)"):
        Embeddings.of(torch.zeros(shape))


def table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_files_that_hold_no_embeddings_are_refused(tmp_path):
    with pytest.raises(InputError, match="neither a Parquet file"):
        Embeddings.of(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="not a readable Parquet"):
        Embeddings.of(tmp_path / "text")
    with pytest.raises(InputError, match="holds no rows"):
        Embeddings.of(table(tmp_path / "empty", x=pa.array([], pa.float32())))
    with pytest.raises(InputError, match="neither a column of lists"):
        Embeddings.of(table(tmp_path / "words", word=["a"], id=[1]))
    two = table(tmp_path / "two", a=[[1.0]], b=[[2.0]])
    with pytest.raises(InputError, match="several columns of lists: a, b"):
        Embeddings.of(two)
    assert Embeddings.of(two, columns="b").all().tolist() == [[2.0]]
    with pytest.raises(InputError, match="no such columns"):
        Embeddings.of(two, columns="c")
    with pytest.raises(InputError, match="no column 'id'"):
        read_ids(two)


@pytest.mark.parametrize("values", [[[1.0, 2.0], [3.0]], [[1.0], None], [[1.0], [None]]])
def test_lists_that_are_ragged_or_missing_are_refused(tmp_path, values):
    with pytest.raises(InputError, match="missing, or of different lengths"):
        Embeddings.of(table(tmp_path / "e", e=pa.array(values, pa.list_(pa.float32())))).all()


def test_missing_numbers_in_columns_are_refused(tmp_path):
    with pytest.raises(InputError, match="1 missing values"):
        Embeddings.of(table(tmp_path / "e", a=[1.0, None], b=[1.0, 2.0])).all()


def test_files_must_agree_in_their_dimensions(tmp_path):
    write_embeddings(tmp_path / "a.parquet", [rows(5, 3)])
    write_embeddings(tmp_path / "b.parquet", [rows(5, 4)])
    with pytest.raises(InputError, match=r"b\.parquet has 4 dimensions"):
        Embeddings.of(tmp_path)


def test_nothing_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="no rows to write"):
        write_embeddings(tmp_path / "e.parquet", [])
