import pytest
import torch

from surplus.errors import InputError
from surplus.examples import density, same_class_density, signed_density
from surplus.examples.scores import kernel_density
from surplus.examples.scores.kernel_density import half_mean_distance


def test_two_points_have_the_density_found_by_hand():
    x, y = torch.tensor([[0.0], [2.0]], dtype=torch.float64), torch.tensor([0, 1])
    apart = torch.exp(torch.tensor(-4.0, dtype=torch.float64))  # h = 1, distance 2
    assert half_mean_distance(x) == 1
    torch.testing.assert_close(density(x).mean, ((1 + apart) / 2).expand(2))
    torch.testing.assert_close(same_class_density(x, y).mean, torch.full((2,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(signed_density(x, y).mean, ((1 - apart) / 2).expand(2))


def test_signed_is_twice_same_class_minus_density():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 2, 3, generator=g), torch.randint(3, (30,), generator=g)
    torch.testing.assert_close(signed_density(x, y).mean, 2 * same_class_density(x, y).mean - density(x).mean)


def test_one_class_makes_all_three_the_same():
    x, y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.ones(12, dtype=torch.long)
    torch.testing.assert_close(same_class_density(x, y).mean, density(x).mean)
    torch.testing.assert_close(signed_density(x, y).mean, density(x).mean)


def test_blocks_of_rows_change_nothing(monkeypatch):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(23, 4, generator=g), torch.randint(3, (23,), generator=g)
    whole = signed_density(x, y).mean
    monkeypatch.setattr(kernel_density, "ENTRIES", 23 * 5)  # blocks of 5, the last one of 3
    torch.testing.assert_close(signed_density(x, y).mean, whole)


def test_the_default_bandwidth_makes_the_score_blind_to_scale():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(density(100 * x).mean, density(x).mean)
    torch.testing.assert_close(density(x).mean, density(x, bandwidth=half_mean_distance(x)).mean)


def test_a_label_among_another_class_scores_low():
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(20, 2, generator=g), torch.randn(20, 2, generator=g) + 6])
    y = torch.arange(40) // 20
    y[5] = 1
    assert same_class_density(x, y).mean.argmin() == 5
    assert signed_density(x, y).mean.argmin() == 5


def test_equal_inputs_leave_no_bandwidth():
    with pytest.raises(InputError, match="all inputs are equal"):
        density(torch.ones(4, 2))
