"""Files of an active learner."""

import pyarrow.parquet as pq
import pytest
import torch

from surplus.errors import InputError
from surplus.examples.active import pool_of, query_embeddings, query_source, read_labelled, write_queries
from surplus.examples.active.files import check_queries
from surplus.examples.embeddings import write_embeddings


@pytest.fixture
def pool(tmp_path):
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 6, generator=g) * 5
    rows = centres[torch.arange(90) % 3] + torch.randn(90, 6, generator=g)
    write_embeddings(tmp_path / "pool.parquet", [rows], ids=[f"x{i}" for i in range(90)])
    return tmp_path / "pool.parquet"


def test_ids_come_from_a_table_or_line_by_line(tmp_path):
    (tmp_path / "a.csv").write_text("id,label\n3,cat\n1,dog\n")
    (tmp_path / "a.txt").write_text("3\n\n1\n")
    write_queries(tmp_path / "a.parquet", pq.read_table(_parquet(tmp_path)))
    assert read_labelled(tmp_path / "a.csv") == (["3", "1"], ["cat", "dog"])
    assert read_labelled(tmp_path / "a.txt") == (["3", "1"], None)
    assert read_labelled(tmp_path / "a.parquet") == (["3", "1"], None)


def _parquet(folder):
    import pyarrow as pa

    pq.write_table(pa.table({"id": [3, 1]}), folder / "b.parquet")
    return folder / "b.parquet"


def test_a_pool_without_labels_is_asked_one_example_of_each_cluster(pool):
    ids = query_embeddings(pool, "typiclust", 3)["id"].to_pylist()
    assert {int(i[1:]) % 3 for i in ids} == {0, 1, 2}


def test_labels_teach_the_model_and_labelled_examples_are_not_asked_again(pool, tmp_path):
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("id,label\nx0,a\nx1,b\nx2,c\n")
    table = query_embeddings(pool, "margin", 5, labelled=labelled)
    assert not set(table["id"].to_pylist()) & {"x0", "x1", "x2"} and table["strategy"].to_pylist() == ["margin"] * 5
    data = pool_of(pool, ["x0", "x4"], ["b", "a"])
    assert data.classes == ("a", "b") and data.targets[[0, 4]].tolist() == [1, 0]


def test_queries_are_written_as_the_name_says(pool, tmp_path):
    table = query_embeddings(pool, "random", 4)
    write_queries(tmp_path / "ask.csv", table)
    assert (tmp_path / "ask.csv").read_text().splitlines()[0].replace('"', "") == "order,id,strategy"
    write_queries(tmp_path / "ask.parquet", table)
    assert pq.read_table(tmp_path / "ask.parquet").equals(table)


def test_mistakes_are_told(pool, tmp_path):
    (tmp_path / "twice.txt").write_text("x1\nx1\n")
    (tmp_path / "no.csv").write_text("name\nx1\n")
    (tmp_path / "ids.txt").write_text("x1\nx2\n")
    (tmp_path / "strange.txt").write_text("y1\n")
    for call, words in [
        (lambda: read_labelled(tmp_path / "absent.csv"), "is no file"),
        (lambda: read_labelled(tmp_path / "twice.txt"), "more than once: x1"),
        (lambda: read_labelled(tmp_path / "no.csv"), "no column id"),
        (lambda: query_embeddings(pool, "margin", 2, labelled=tmp_path / "ids.txt"), "a column label"),
        (
            lambda: query_embeddings(pool, "typiclust", 2, labelled=tmp_path / "strange.txt"),
            "not among the embeddings: y1",
        ),
    ]:
        with pytest.raises(InputError, match=words):
            call()


def test_ids_of_a_table_are_text_as_written(tmp_path):
    (tmp_path / "a.csv").write_text("id,label\n007,1\n010,0\n")
    assert read_labelled(tmp_path / "a.csv") == (["007", "010"], ["1", "0"])
    (tmp_path / "hole.csv").write_text("id,label\n007,\n010,0\n")
    with pytest.raises(InputError, match="a row without label"):
        read_labelled(tmp_path / "hole.csv")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="is no text"):
        read_labelled(tmp_path / "binary.txt")


def test_places_where_no_queries_can_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path, words in [("ask.txt", "a .csv or .parquet file"), ("", "a .csv or"), ("file/ask.csv", "is a file")]:
        with pytest.raises(InputError, match=words):
            check_queries(tmp_path / path)


def test_a_pool_needs_no_labels(tmp_path):
    rows = [f"r{i:02d},{i % 5},{(i * 7) % 11}" for i in range(40)]
    (tmp_path / "bare.csv").write_text("\n".join(["id,a,b", *rows]))
    ids = query_source(tmp_path / "bare.csv", "typiclust", 4)["id"].to_pylist()
    assert len(set(ids)) == 4 and all(i.startswith("r") for i in ids)
    (tmp_path / "known.csv").write_text("id,label\nr00,cat\nr01,dog\nr02,cat\n")
    table = query_source(tmp_path / "bare.csv", "margin", 5, labelled=tmp_path / "known.csv")
    assert not set(table["id"].to_pylist()) & {"r00", "r01", "r02"} and table["strategy"][0].as_py() == "margin"


def test_labels_may_be_missing_where_they_are_not_known(tmp_path):
    rows = [f"{i},{i % 5},{i % 3 if i < 9 else ''}" for i in range(60)]
    (tmp_path / "some.csv").write_text("\n".join(["id,a,label", *rows]))
    (tmp_path / "known.txt").write_text("\n".join(map(str, range(9))))
    assert len(query_source(tmp_path / "some.csv", "margin", 5, labelled=tmp_path / "known.txt")) == 5
    (tmp_path / "more.txt").write_text("\n".join(map(str, range(12))))
    with pytest.raises(InputError, match="3 labelled examples have none"):
        query_source(tmp_path / "some.csv", "margin", 5, labelled=tmp_path / "more.txt")


def test_a_flat_folder_of_images_is_a_pool(tmp_path):
    from PIL import Image

    g = torch.Generator().manual_seed(0)
    for i in range(12):
        Image.fromarray(torch.randint(256, (8, 8), generator=g).byte().numpy()).save(tmp_path / f"p{i}.png")
    ids = query_source(tmp_path, "coreset", 3)["id"].to_pylist()
    assert len(set(ids)) == 3 and all(i.endswith(".png") for i in ids)


def test_every_example_of_a_labelled_file_may_be_asked_for():
    assert len(query_source("digits", "random", 1797)) == 1797
