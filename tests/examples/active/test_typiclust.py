from __future__ import annotations

import sys

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from surplus.errors import InputError
from surplus.examples.active import clusters_of, nearness, query, typicality
from surplus.examples.active import typiclust as strategy
from surplus.space import generator

MODULE = sys.modules[strategy.__module__]  # the package exports the function under the same name
POINTS = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])


def ask(clusters, budget, points=None, **options):
    clusters = torch.tensor(clusters)
    points = torch.arange(len(clusters)).float()[:, None] if points is None else points
    return query("typiclust", points, budget, clusters=clusters, normalise=False, **options).tolist()


def test_five_points_by_hand():
    euclidean = nearness(POINTS, 2)
    assert euclidean.tolist() == pytest.approx([0.66666, 0.99999, 0.99999, 0.66666, 0.13333], abs=2e-5)
    assert nearness(POINTS, 2, squared=True).tolist() == pytest.approx([0.4, 0.99999, 0.99999, 0.4, 0.0177], abs=2e-5)
    assert euclidean.argmax() == 1  # of equal ones the first
    assert torch.equal(typicality(POINTS).mean, euclidean)  # 20 neighbours, but no more than half of the points


def test_squares_can_rank_otherwise():
    # the neighbours of 0 are at 1 and 3.5, those of 10 at 2.4 and 2.4
    points = torch.tensor([[0.0], [1.0], [-3.5], [10.0], [12.4], [7.6]])
    plain, squared = (nearness(points, 2, squared=s) for s in (False, True))
    assert plain[0] > plain[3] and squared[0] < squared[3]


def test_typicality_is_the_inverse_mean_distance_of_a_reference_library():
    x = torch.randn(70, 3, generator=torch.Generator().manual_seed(0))
    for k in (1, 5, 20):
        far = torch.from_numpy(NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, 1:].mean(1)).float()
        torch.testing.assert_close(nearness(x, k), 1 / (far + 1e-5), rtol=1e-4, atol=1e-5)


def test_blocks_of_rows_change_nothing(monkeypatch):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = nearness(x, 5)
    monkeypatch.setattr(MODULE, "ENTRIES", 130)
    torch.testing.assert_close(nearness(x, 5), whole)


def test_a_lone_point_and_equal_points_have_a_finite_typicality():
    assert nearness(torch.zeros(1, 2)).tolist() == [0]
    assert nearness(torch.zeros(4, 2)).tolist() == pytest.approx([1e5] * 4)


def test_the_most_typical_of_the_largest_cluster_comes_first():
    # cluster 1 has seven points around 13, cluster 0 six around 2.5
    picks = ask(
        [0] * 6 + [1] * 7,
        2,
        torch.tensor([0.0, 2, 2.4, 2.5, 3, 9, 10, 12, 12.9, 13, 13.1, 14, 19])[:, None],
        neighbours=2,
    )
    assert picks == [9, 2]


def test_neighbours_come_from_the_cluster_alone():
    # Point 3 is closest to its neighbours in space, which belong to the other cluster.
    points = torch.tensor([0.0, 1, 2, 5.0, 3, 4, 6, 5.1, 4.9, 5.2, 4.8, 5.05])[:, None]
    ids = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    own = nearness(points[:7]).argmax()
    assert ask(ids, 1, points) == [int(own)] and int(own) != 3


def test_clusters_with_labels_wait():
    # three clusters of seven: one label in 0, none in 1 and 2, so 1, 2, 0, and then again in the same order
    ids = [0] * 7 + [1] * 7 + [2] * 7
    picks = ask(ids, 5, labelled=[0])
    assert [ids[i] for i in picks] == [1, 2, 0, 1, 2]


def test_a_large_cluster_with_a_label_waits_for_a_small_one_without():
    ids = [0] * 12 + [1] * 6
    assert [ids[i] for i in ask(ids, 2, labelled=[0])] == [1, 0]


def test_the_setting_squared_reaches_the_picks():
    points = torch.tensor([0.0, 1.0, -3.5, 10.0, 12.4, 7.6])[:, None]
    plain, squared = (nearness(points, 2, squared=s).argmax().item() for s in (False, True))
    assert plain != squared
    assert [ask([0] * 6, 1, points, neighbours=2, squared=s) for s in (False, True)] == [[plain], [squared]]


def test_the_order_is_made_once_and_emptied_clusters_are_passed_over():
    ids = [0] * 8 + [1] * 6
    picks = ask(ids, 14)
    assert sorted(picks) == list(range(14)) and [ids[i] for i in picks[:12]] == [0, 1] * 6
    assert [ids[i] for i in picks[12:]] == [0, 0]


def test_small_clusters_wait_for_the_others_and_are_used_in_the_end():
    ids = [0] * 5 + [1] * 6 + [2] * 1  # labels count as members
    assert [ids[i] for i in ask(ids, 12)] == [1] * 6 + [0, 2] + [0] * 4
    assert [ids[i] for i in ask(ids, 3, least_size=1)] == [1, 0, 2]
    assert [ids[i] for i in ask(ids, 2, labelled=[5])] == [1, 1]
    assert [ids[i] for i in ask(ids, 3, candidates=[*range(5), 10, 11])] == [0, 1, 2]  # two clusters of one are left


def test_the_labelled_are_no_neighbours():
    # Points 0 to 5; were the labelled 2 and 3 counted, 4 would look typical.
    points = torch.tensor([0.0, 0.5, 4.0, 4.0, 4.1, 9.0, 0.4, 20.0])[:, None]
    free = torch.tensor([0, 1, 4, 5, 6, 7])
    best = free[nearness(points[free]).argmax()]
    assert ask([0] * 8, 1, points, labelled=[2, 3]) == [int(best)] and int(best) != 4


def test_there_are_as_many_clusters_as_there_will_be_labels(monkeypatch):
    asked = []
    monkeypatch.setattr(
        MODULE,
        "clusters_of",
        lambda h, k, g: asked.append((k, float(h.norm(dim=1).mean()))) or torch.arange(len(h)) % k,
    )
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)) * 5
    query("typiclust", x, 7, labelled=[1, 2, 3])
    query("typiclust", x, 7, most_clusters=5)
    assert [k for k, _ in asked] == [10, 5] and [length for _, length in asked] == pytest.approx([1, 1])


def test_separate_groups_each_get_one_query():
    g = torch.Generator().manual_seed(0)
    centres = torch.eye(5).repeat_interleave(20, 0)
    picks = query("typiclust", centres + 0.05 * torch.randn(100, 5, generator=g), 5, generator=generator(0))
    assert sorted((picks // 20).tolist()) == [0, 1, 2, 3, 4]
    again = query("typiclust", centres, 3, labelled=[0, 25], generator=generator(0))
    assert sorted((again // 20).tolist()) == [2, 3, 4]


def test_many_clusters_are_made_in_mini_batches():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    ids = clusters_of(x, 60, generator(0))
    assert ids.shape == (200,) and ids.unique().numel() > 40 and torch.equal(ids, clusters_of(x, 60, generator(0)))


def test_clusters_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"integers \(5,\)"):
        query("typiclust", POINTS, 2, clusters=torch.zeros(4, dtype=torch.long))
    with pytest.raises(InputError, match="integers"):
        query("typiclust", POINTS, 2, clusters=torch.zeros(5))


def test_cluster_numbers_need_not_be_dense():
    assert ask([7] * 6 + [-2] * 8, 3) == ask([1] * 6 + [0] * 8, 3)


def test_the_strategy_is_the_registered_one():
    from surplus.registry import find

    assert find("query strategy", "typiclust").fn is strategy and find("example score", "typicality").fn is typicality
