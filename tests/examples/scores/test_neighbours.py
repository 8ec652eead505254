import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from surplus.data import read
from surplus.errors import InputError
from surplus.examples import search
from surplus.examples.embeddings import Embeddings, write_embeddings
from surplus.examples.scores.neighbours import knn_disagreement, knn_distance
from surplus.examples.search import closest, neighbourhoods
from surplus.space import generator
from surplus.stats import rank_correlation


def curved(n=6000, d=32, latent=6):
    """Rows on a bent surface of six dimensions in 32, as embeddings lie."""
    g = generator(0, "curved")
    z = torch.randn(n, latent, generator=g)
    return torch.tanh(z @ torch.randn(latent, d, generator=g)) + 0.02 * torch.randn(n, d, generator=g)


def gathered(data, k, **options):
    n = len(data)
    distance, others, seen = torch.zeros(n, k), torch.zeros(n, k, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    for rows, d, o in neighbourhoods(data, k, **options):
        distance[rows], others[rows] = d.float(), o
        seen[rows] += 1
    assert (seen == 1).all()
    return distance, others


def test_points_on_a_line_have_the_scores_found_by_hand():
    x, y = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(knn_distance(x, k=2).mean, torch.tensor([2.0, 1.5, 2.5, 5.0]))
    torch.testing.assert_close(knn_disagreement(x, y, k=2).mean, torch.tensor([0.5, 0.5, 1.0, 0.5]))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_exact_search_is_scikit_learns(metric, monkeypatch):
    monkeypatch.setattr(search, "ENTRIES", 500 * 7)  # blocks of seven rows
    x = curved(500)
    distance, others = gathered(x, 5, metric=metric)
    finder = NearestNeighbors(n_neighbors=6, metric=metric, algorithm="brute").fit(x.double().numpy())
    expected, which = (torch.from_numpy(a[:, 1:]) for a in finder.kneighbors(x.double().numpy()))
    torch.testing.assert_close(distance, expected.float(), atol=1e-5, rtol=1e-4)
    assert (others == which).double().mean() > 0.999


def test_equal_rows_are_neighbours_but_no_row_is_its_own():
    x = torch.tensor([[0.0, 0], [0, 0], [5, 5]])
    distance, others = gathered(x, 1)
    assert distance[:2].flatten().tolist() == [0, 0] and others[:2].flatten().tolist() == [1, 0]
    assert closest(x, 3, 1)[1].flatten()[:2].tolist() == [1, 0]


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_inverted_file_finds_nine_in_ten_and_ranks_nearly_as_the_exact_search(on_disk, tmp_path):
    x = curved()
    true, others = gathered(x, 10, cells=1)
    data = x
    if on_disk:
        write_embeddings(tmp_path / "e.parquet", [x], rows=1000)
        data = Embeddings.of(tmp_path)
    distance, found = gathered(data, 10, cells=40, probes=8)
    recall = (found[:, :, None] == others[:, None]).any(1).double().mean()
    assert 0.9 < recall < 0.999  # a fifth of the rows are looked at
    assert (distance + 1e-4 >= true).all()
    assert rank_correlation(distance.mean(1), true.mean(1)).value > 0.95


def test_more_probes_find_more_and_all_probes_find_all():
    x = curved(2000)
    true, others = gathered(x, 10, cells=1)
    share = [
        (gathered(x, 10, cells=20, probes=p)[1][:, :, None] == others[:, None]).any(1).double().mean() for p in (1, 4)
    ]
    assert share[0] < share[1]
    torch.testing.assert_close(gathered(x, 10, cells=20, probes=50)[0], true, atol=1e-4, rtol=1e-4)


def test_cells_smaller_than_k_borrow_from_the_next():
    assert gathered(curved(300), 20, cells=100, probes=1)[0].isfinite().all()


def test_scores_on_digits_point_at_moved_labels():
    train = read("digits").train
    y = train.targets.clone()
    moved = torch.randperm(len(y), generator=generator(0))[:70]
    y[moved] = (y[moved] + 1) % 10
    suspects = knn_disagreement(train.inputs, y).mean.argsort(descending=True)[:70]
    assert len(set(suspects.tolist()) & set(moved.tolist())) > 60


def test_files_give_the_scores_of_tensors(tmp_path):
    x, y = curved(800), torch.arange(800) % 3
    write_embeddings(tmp_path / "e.parquet", [x], rows=100)
    data = Embeddings.of(tmp_path)
    torch.testing.assert_close(knn_distance(data).mean, knn_distance(x).mean)
    torch.testing.assert_close(knn_disagreement(data, y).mean, knn_disagreement(x, y).mean)


def test_few_rows_use_all_the_neighbours_there_are():
    torch.testing.assert_close(knn_distance(torch.tensor([[0.0], [1.0], [3.0]])).mean, torch.tensor([2.0, 1.5, 2.5]))


@pytest.mark.parametrize("given", [{"k": 0}, {"probes": 0}, {"cells": 0}, {"cells": 21}])
def test_settings_out_of_range_are_refused(given):
    with pytest.raises(InputError, match="neighbours need"):
        knn_distance(curved(20), **given)


def test_one_row_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="at least 2 rows"):
        knn_distance(torch.ones(1, 2))
    with pytest.raises(InputError, match="one per embedding"):
        knn_disagreement(curved(20), torch.zeros(19, dtype=torch.long))
