import pytest
import torch

from surplus.errors import InputError
from surplus.examples.embeddings import Embeddings, write_embeddings
from surplus.examples.scores.prototypes import class_prototype_distance, prototype_distance
from surplus.space import generator


def fans(n=120, classes=4, d=8):
    """Directions around one axis per class, the spread growing with the row; lengths at random."""
    g = generator(0, "fans")
    y = torch.arange(n) % classes
    spread = torch.linspace(0, 0.4, n, dtype=torch.float64)[:, None]
    x = torch.eye(d, dtype=torch.float64)[y] + spread * torch.randn(n, d, generator=g, dtype=torch.float64)
    return x * torch.rand(n, 1, generator=g, dtype=torch.float64).add(0.5), y


def test_two_pairs_of_directions_have_the_distance_found_by_hand():
    angle = torch.tensor([-0.3, 0.3, 1.3, 1.9], dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin()], 1) * torch.tensor([[1.0], [5.0], [2.0], [0.1]], dtype=torch.float64)
    half = 1 - torch.tensor(0.3, dtype=torch.float64).cos()
    found = prototype_distance(x, k=2, inits=3)
    torch.testing.assert_close(found.mean, half.expand(4))
    torch.testing.assert_close(found.stderr, torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(class_prototype_distance(x, torch.tensor([5, 5, 9, 9])).mean, half.expand(4))


def test_one_cluster_is_measured_from_the_mean_direction():
    x, y = fans()
    mean = torch.nn.functional.normalize(x, dim=1).mean(0)
    expected = 1 - torch.nn.functional.cosine_similarity(x, mean[None])
    torch.testing.assert_close(prototype_distance(x, k=1).mean, expected)
    torch.testing.assert_close(class_prototype_distance(x, torch.zeros_like(y)).mean, expected)


def test_the_classes_set_the_number_of_clusters_and_nothing_else():
    x, y = fans()
    by_labels, by_k = prototype_distance(x, labels=y), prototype_distance(x, k=4)
    assert torch.equal(by_labels.mean, by_k.mean)
    assert torch.equal(by_labels.mean, prototype_distance(x, labels=y.roll(1)).mean)


def test_clear_clusters_make_both_variants_agree_and_the_odd_rank_high():
    x, y = fans()
    found, supervised = prototype_distance(x, k=4), class_prototype_distance(x, y)
    torch.testing.assert_close(found.mean[:60], supervised.mean[:60], atol=0.02, rtol=0)
    assert supervised.mean[:30].max() < supervised.mean[-30:].median()


def test_a_wrong_label_is_far_from_its_class_but_not_from_its_cluster():
    x, y = fans()
    y[0] = 1
    assert class_prototype_distance(x, y).mean.argmax() == 0
    assert prototype_distance(x, labels=y).mean[0] < 0.02


def test_lengths_and_the_order_of_rows_do_not_count():
    x, _ = fans()
    order = torch.randperm(120, generator=generator(1))
    found = prototype_distance(x, k=7, inits=2)
    torch.testing.assert_close(prototype_distance((3 * x)[order], k=7, inits=2).mean, found.mean[order])


def test_initialisations_that_differ_show_as_standard_error():
    x = torch.randn(200, 6, generator=generator(0))
    found = prototype_distance(x, k=9, inits=4)
    assert found.repeats == 4 and found.stderr.max() > 0.01


def test_files_give_the_scores_of_tensors(tmp_path):
    x, y = fans(2000)
    x = x.float()
    write_embeddings(tmp_path / "e.parquet", [x], rows=300)
    on_disk = Embeddings.of(tmp_path)
    torch.testing.assert_close(class_prototype_distance(on_disk, y).mean, class_prototype_distance(x, y).mean)
    streamed = prototype_distance(on_disk, k=4, sample=500)  # seeded on other rows, so the same up to the tolerance
    torch.testing.assert_close(streamed.mean, prototype_distance(x, k=4).mean, atol=0.01, rtol=0)


def test_labels_that_do_not_fit_are_refused():
    x, y = fans()
    with pytest.raises(InputError, match="one per embedding"):
        class_prototype_distance(x, y[:-1])
    with pytest.raises(InputError, match="integer classes"):
        prototype_distance(x, labels=y.float())
    with pytest.raises(InputError, match="k-means needs k from 1 to 120"):
        prototype_distance(x, k=121)
