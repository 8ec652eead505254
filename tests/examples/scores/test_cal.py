import pytest
import torch
from scipy.stats import entropy as kl
from sklearn.neighbors import NearestNeighbors

from surplus.errors import InputError
from surplus.examples.scores import cal as module
from surplus.examples.scores.cal import cal


def material(n=40, runs=3):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, generator=g), torch.randn(runs, n, 4, generator=g).softmax(-1)


def test_it_is_the_mean_divergence_from_the_nearest_neighbours():
    x, p = material()
    near = NearestNeighbors(n_neighbors=6).fit(x.numpy()).kneighbors(x.numpy(), return_distance=False)[:, 1:]
    q = p.double().numpy()
    each = lambda r, i, j: 0.5 * kl(q[r, i], q[r, j]) + 0.5 * kl(q[r, j], q[r, i])
    expected = [[sum(each(r, i, j) for j in near[i]) / 5 for i in range(40)] for r in range(3)]
    torch.testing.assert_close(cal(x, p, neighbours=5).mean.double(), torch.tensor(expected).mean(0))


def test_one_that_is_predicted_unlike_its_neighbours_stands_out():
    x = torch.arange(20.0)[:, None]
    p = torch.where(x < 10, torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9]))[None]
    p[0, 3] = torch.tensor([0.1, 0.9])
    values = cal(x, p, neighbours=2).mean
    assert values.argmax() == 3 and values[9] > values[6] == 0


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, p = material()
    whole = cal(x, p).mean
    monkeypatch.setattr(module, "ENTRIES", 100)
    torch.testing.assert_close(cal(x, p).mean, whole)


def test_few_examples_are_all_neighbours_and_images_are_read_as_rows():
    x, p = material(4)
    torch.testing.assert_close(cal(x, p, neighbours=10).mean, cal(x, p, neighbours=3).mean)
    torch.testing.assert_close(cal(x.view(4, 1, 3), p).mean, cal(x, p).mean)


def test_a_probability_of_zero_gives_a_finite_score():
    x, p = material(5, 1)
    p[0, 2] = torch.tensor([1.0, 0, 0, 0])
    assert cal(x, p).mean.isfinite().all()


def test_settings_out_of_range_are_refused():
    x, p = material(5, 1)
    with pytest.raises(InputError, match="at least one other"):
        cal(x, p, neighbours=0)
    with pytest.raises(InputError, match="n = "):
        cal(x[:4], p)
