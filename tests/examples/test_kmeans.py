import pytest
import torch
from sklearn.cluster import KMeans, kmeans_plusplus

from surplus.errors import InputError
from surplus.examples import embeddings
from surplus.examples.embeddings import Embeddings, write_embeddings
from surplus.examples.kmeans import assign, class_means, kmeans, nearest, plus_plus, squared_to_own
from surplus.space import generator


def blobs(n=300, d=5, k=6, apart=6.0, dtype=torch.float64):
    g = generator(0, "blobs")
    centres = apart * torch.randn(k, d, generator=g, dtype=dtype)
    return centres[torch.arange(n) % k] + torch.randn(n, d, generator=g, dtype=dtype)


@pytest.mark.parametrize("rounds", [0, 1, 3, 300])
def test_from_the_same_start_it_goes_where_scikit_learn_goes(rounds):
    x = blobs(apart=1.0)
    start = x[:6]
    ours = kmeans(x, 6, generator=generator(0), start=start, rounds=rounds, tolerance=0)
    if rounds == 0:
        assert torch.equal(ours.best, start)
        return
    theirs = KMeans(6, init=start.numpy(), n_init=1, max_iter=rounds, tol=0).fit(x.numpy())
    torch.testing.assert_close(ours.best, torch.from_numpy(theirs.cluster_centers_))
    assert float(ours.inertia[0]) == pytest.approx(theirs.inertia_)
    assert torch.equal(assign(x, ours.best)[1], torch.from_numpy(theirs.labels_))


def test_four_points_have_the_clusters_found_by_hand():
    x = torch.tensor([[0.0, 0], [0, 2], [10, 0], [10, 2]], dtype=torch.float64)
    found = kmeans(x, 2, generator=generator(0), inits=5)
    assert sorted(found.best.tolist()) == [[0, 1], [10, 1]] and float(found.inertia.min()) == pytest.approx(4)
    squared, labels = assign(x, found.best)
    torch.testing.assert_close(squared, torch.ones_like(squared))
    assert labels[0] == labels[1] != labels[2] == labels[3]


def test_chunks_and_files_change_nothing(tmp_path, monkeypatch):
    x = blobs(dtype=torch.float32)
    whole = kmeans(x, 6, generator=generator(0), start=x[:6])
    monkeypatch.setattr(embeddings, "ENTRIES", 5 * 16)
    chunked = kmeans(x, 6, generator=generator(0), start=x[:6])
    write_embeddings(tmp_path / "e.parquet", [x], rows=40)
    streamed = kmeans(Embeddings.of(tmp_path), 6, generator=generator(0), start=x[:6])
    for other in (chunked, streamed):
        torch.testing.assert_close(other.centres, whole.centres)
        torch.testing.assert_close(other.inertia, whole.inertia, rtol=1e-4, atol=0)


def test_a_sample_to_start_from_finds_the_same_blobs(tmp_path):
    x = blobs(3000, dtype=torch.float32, apart=20.0)
    write_embeddings(tmp_path / "e.parquet", [x], rows=500)
    full = kmeans(x, 6, generator=generator(0)).best
    streamed = kmeans(Embeddings.of(tmp_path), 6, generator=generator(1), sample=300)
    assert streamed.rounds <= 3
    torch.testing.assert_close(nearest(full, streamed.best[None])[0][:, 0], torch.zeros(6), atol=1e-3, rtol=0)


def test_initialisations_go_on_together_as_they_would_alone():
    x = blobs(apart=1.0)
    starts = torch.stack([x[:6], x[50:56], x[100:106]])
    together = kmeans(x, 6, generator=generator(0), start=starts, rounds=4, tolerance=0)
    for init, start in enumerate(starts):
        alone = kmeans(x, 6, generator=generator(0), start=start, rounds=4, tolerance=0)
        torch.testing.assert_close(together.centres[init], alone.best)
    assert torch.equal(together.best, together.centres[together.inertia.argmin()])


def test_inertia_falls_from_round_to_round():
    x = blobs(apart=0.5)
    inertia = [
        float(kmeans(x, 6, generator=generator(0), start=x[:6], rounds=r, tolerance=0).inertia) for r in range(8)
    ]
    assert inertia == sorted(inertia, reverse=True) and inertia[-1] < inertia[0]


def test_an_empty_cluster_finds_a_new_centre():
    x = blobs(apart=10.0)
    start = torch.cat([x[:5], torch.full((1, 5), 1e3, dtype=x.dtype)])
    found = kmeans(x, 6, generator=generator(0), start=start)
    assert float(found.inertia) == pytest.approx(float(kmeans(x, 6, generator=generator(0)).inertia.min()))
    assert len(assign(x, found.best)[1].unique()) == 6


def test_equal_rows_can_have_more_clusters_than_values():
    x = torch.ones(5, 2)
    assert kmeans(x, 3, generator=generator(0)).inertia.tolist() == [0, 0, 0]


def test_directions_have_centres_of_length_one_and_do_not_see_lengths():
    x = blobs()
    stretched = x * torch.rand(len(x), 1, generator=generator(1), dtype=x.dtype).add(0.1)
    a, b = (kmeans(y, 6, generator=generator(0), metric="cosine") for y in (x, stretched))
    torch.testing.assert_close(a.centres, b.centres)
    torch.testing.assert_close(a.centres.norm(dim=2), torch.ones(3, 6, dtype=x.dtype))
    squared, labels = assign(x, a.best, metric="cosine")
    cosine = torch.nn.functional.cosine_similarity(x, a.best[labels.long()])
    torch.testing.assert_close(squared, 2 * (1 - cosine))
    assert float(a.inertia.min()) == pytest.approx(float(squared.sum()))


def test_seeding_takes_different_points_and_does_as_well_as_scikit_learns():
    x = blobs(apart=3.0)
    inertia = lambda centres: float(nearest(x, centres[None])[0].sum())
    ours = [plus_plus(x, 6, generator(seed)) for seed in range(60)]
    theirs = [torch.from_numpy(kmeans_plusplus(x.numpy(), 6, random_state=seed)[0]) for seed in range(60)]
    assert all((x[:, None] == c).all(2).any(0).all() and len(c.unique(dim=0)) == 6 for c in ours)
    a, b = (torch.tensor([inertia(c) for c in seeds]) for seeds in (ours, theirs))
    assert (a.mean() - b.mean()).abs() < 4 * ((a.var() + b.var()) / 60).sqrt()
    at_random = [x[torch.randperm(300, generator=generator(seed))[:6]] for seed in range(60)]
    assert a.mean() < 0.8 * sum(map(inertia, at_random)) / 60


def test_the_first_centre_is_uniform_and_the_second_follows_the_squared_distance():
    x = torch.tensor([[0.0], [1.0], [3.0]])
    first = torch.stack([plus_plus(x, 1, generator(seed))[0, 0] for seed in range(900)])
    assert all(abs(float((first == v).double().mean()) - 1 / 3) < 4 * (2 / 9 / 900) ** 0.5 for v in (0, 1, 3))
    drawn = torch.stack([plus_plus(x, 1, generator(seed), x[:1])[0, 0] for seed in range(900)])
    share = 1 - 0.1**2  # of two draws at 1 : 9 the better stays, and that is 3: the inertia left is 1 against 4
    assert abs(float((drawn == 3).double().mean()) - share) < 4 * (share * (1 - share) / 900) ** 0.5


def test_the_same_generator_gives_the_same_centres():
    x = blobs()
    a, b = (kmeans(x, 6, generator=generator(3)) for _ in range(2))
    assert torch.equal(a.centres, b.centres)


def test_processes_change_nothing(monkeypatch):
    x = blobs(dtype=torch.float32)
    alone = kmeans(x, 6, generator=generator(0))
    monkeypatch.setattr(embeddings, "ENTRIES", 5 * 100)
    both = kmeans(x, 6, generator=generator(0), jobs=2)
    torch.testing.assert_close(both.centres, alone.centres)


def test_class_means_and_distances_are_those_of_a_loop(monkeypatch):
    monkeypatch.setattr(embeddings, "ENTRIES", 5 * 16)
    x, own = blobs(), torch.randint(4, (300,), generator=generator(2))
    means = torch.stack([x[own == c].mean(0) for c in range(4)])
    torch.testing.assert_close(class_means(Embeddings.of(x), own, 4), means)
    torch.testing.assert_close(squared_to_own(Embeddings.of(x), means, own), (x - means[own]).square().sum(1))


@pytest.mark.parametrize("given", [{"k": 0}, {"k": 301}, {"k": 2.0}, {"inits": 0}, {"rounds": -1}])
def test_settings_out_of_range_are_refused(given):
    with pytest.raises(InputError, match="k-means needs"):
        kmeans(blobs(), **{"k": 3, "generator": generator(0), **given})


def test_a_start_of_another_shape_and_an_unknown_metric_are_refused():
    with pytest.raises(InputError, match="start holds"):
        kmeans(blobs(), 3, generator=generator(0), start=blobs()[:2])
    with pytest.raises(InputError, match="no metric"):
        kmeans(blobs(), 3, generator=generator(0), metric="manhattan")
