from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from surplus.data import Dataset, read
from surplus.errors import InputError
from surplus.examples.active import embed, principal_components, query, query_dataset
from surplus.examples.embeddings import write_embeddings
from surplus.space import generator


@pytest.fixture(scope="module")
def digits():
    return read("digits", test_share=0.5, seed=0).train


def table(n=40, ids=None):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 4
    x = 3 * torch.eye(4)[y] + 0.3 * torch.randn(n, 4, generator=g)
    return Dataset.of(torch.cat([x, torch.ones(n, 1)], 1), y, ids=ids)


def test_the_first_queries_of_the_digits_hit_nearly_all_classes(digits):
    found = query_dataset(digits, budget=20)
    ids = found["id"].to_pylist()
    assert found.column_names == ["order", "id", "strategy"] and found["order"].to_pylist() == list(range(1, 21))
    assert len(set(ids)) == 20 and set(found["strategy"].to_pylist()) == {"typiclust"}
    at = {name: row for row, name in enumerate(digits.ids.tolist())}
    assert len({int(digits.targets[at[name]]) for name in ids}) >= 9
    assert query_dataset(digits, budget=20).equals(found)


@pytest.mark.parametrize("strategy", ["margin", "bald", "badge"])
def test_a_strategy_without_a_model_says_that_it_started_at_random(strategy):
    start = query_dataset(table(), strategy, 6)
    assert set(start["strategy"].to_pylist()) == {"random"}
    after = query_dataset(table(), strategy, 6, labelled=start["id"].to_pylist())
    assert set(after["strategy"].to_pylist()) == {strategy}
    assert not set(after["id"].to_pylist()) & set(start["id"].to_pylist())


def test_only_the_labels_of_the_labelled_are_looked_at():
    data, known = table(), list(range(8))
    lied = data.targets.clone()
    lied[8:] = 3 - lied[8:]
    asked = [query_dataset(d, "margin", 5, labelled=known)["id"].to_pylist() for d in (data, data.with_targets(lied))]
    assert asked[0] == asked[1]


def test_ids_are_words_as_well_as_numbers():
    names = [f"row-{i}" for i in range(40)]
    found = query_dataset(table(ids=names), budget=3, labelled=["row-3"])["id"].to_pylist()
    assert set(found) <= set(names) - {"row-3"}
    by_text = query_dataset(table(), budget=3, labelled=["3"])  # as a file gives them
    assert by_text.equals(query_dataset(table(), budget=3, labelled=np.array([3])))
    with pytest.raises(InputError, match="2 labelled ids are not in the data set: 99, x"):
        query_dataset(table(), labelled=["99", "x"])


def test_embeddings_and_probabilities_of_ones_own_are_used(tmp_path):
    data, g = table(), torch.Generator().manual_seed(1)
    mine = torch.randn(40, 6, generator=g)
    want = query("typiclust", mine, 5, generator=generator(0, "query", "typiclust")).tolist()
    write_embeddings(tmp_path / "mine.parquet", [mine])
    for given in (mine, mine.numpy(), tmp_path / "mine.parquet"):
        assert query_dataset(data, budget=5, embeddings=given)["id"].to_pylist() == want
    p = torch.rand(40, 3, generator=g)
    p = p / p.sum(1, keepdim=True)
    want = query("entropy", mine, 5, probabilities=p).tolist()
    assert query_dataset(data, "entropy", 5, embeddings=mine, probabilities=p)["id"].to_pylist() == want
    with pytest.raises(InputError, match=r"\(40, d\)"):
        query_dataset(data, embeddings=mine[:39])


def test_no_labelled_example_is_asked_for_again():
    for strategy in ("typiclust", "margin", "random"):
        found = query_dataset(table(), strategy, 10, labelled=range(30))
        assert sorted(found["id"].to_pylist()) == list(range(30, 40))


def test_settings_reach_the_strategy():
    with pytest.raises(InputError, match="no setting 'power'"):
        query_dataset(table(), power=2)
    assert len(query_dataset(table(), "prob-cover", 4, delta=0.5)) == 4


def test_the_plain_embedding_is_that_of_the_reference_library():
    data = table()
    x = data.inputs[:, :4].numpy()
    want = PCA(3).fit_transform((x - x.mean(0)) / x.std(0))
    want = torch.from_numpy(want / np.linalg.norm(want, axis=1, keepdims=True))
    got = embed(data, 3)
    torch.testing.assert_close(got @ got.T, (want @ want.T).float(), rtol=1e-4, atol=1e-4)  # axes may be mirrored
    assert embed(data).shape == (40, 5)  # the constant column has no direction of its own


def test_images_of_bytes_and_few_rows_have_an_embedding(digits):
    assert embed(digits[:8], 50).shape == (8, 8) and embed(digits, 50).norm(dim=1).allclose(torch.ones(len(digits)))


def test_test_data_are_projected_on_the_same_axes():
    x, y = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(0)).unbind()
    a, b = principal_components(x, 3, y)
    both = principal_components(x, 3, x)
    torch.testing.assert_close(both[0], both[1])
    assert a.shape == b.shape == (30, 3)


def test_text_and_no_dimension_are_refused():
    text = Dataset.of(torch.randint(5, (6, 4)), torch.arange(6) % 2, kind="text")
    with pytest.raises(InputError, match="pass embeddings="):
        query_dataset(text, budget=2)
    with pytest.raises(InputError, match="at least 1"):
        query_dataset(table(), dims=0)


def test_a_classifier_needs_classes():
    values = Dataset.of(torch.randn(20, 3), torch.rand(20))
    with pytest.raises(InputError, match="not classes"):
        query_dataset(values, "margin", 3, labelled=[0, 1])
    assert len(query_dataset(values, "typiclust", 3)) == 3
