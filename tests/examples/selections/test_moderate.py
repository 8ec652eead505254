import torch

from surplus.examples import moderate
from surplus.examples.selections.moderate import distance_from_median


def test_the_middling_examples_of_a_line_are_kept():
    x = torch.tensor([[-4.0], [-2.0], [0.0], [1.0], [5.0]])  # mean 0; distances 4, 2, 0, 1, 5; median 2
    labels = torch.zeros(5, dtype=torch.long)
    assert distance_from_median(x, labels).tolist() == [2, 0, 2, 1, 3]
    kept = moderate(torch.zeros(5), 3, labels=labels, embeddings=x)
    assert kept.nonzero().squeeze(1).tolist() == [0, 1, 3]  # 0 and 2 tie; the lower index stays


def test_an_even_class_has_the_median_between_its_middle_two():
    x = torch.tensor([[-3.0], [-1.0], [0.0], [4.0]])  # distances 3, 1, 0, 4; median 2
    assert distance_from_median(x, torch.zeros(4, dtype=torch.long)).tolist() == [1, 1, 2, 2]


def test_each_class_has_a_centre_of_its_own():
    g = torch.Generator().manual_seed(0)
    x, labels = torch.randn(30, 3, generator=g), torch.randint(3, (30,), generator=g)
    moved = x + 100 * labels[:, None]
    torch.testing.assert_close(distance_from_median(moved, labels), distance_from_median(x, labels), atol=1e-4, rtol=0)


def test_images_are_read_as_rows():
    x = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 2
    flat = moderate(torch.zeros(8), 3, labels=labels, embeddings=x.flatten(1))
    assert torch.equal(moderate(torch.zeros(8), 3, labels=labels, embeddings=x), flat)
