import pytest
import torch

from surplus.errors import InputError
from surplus.examples import local_outlier_factor


def test_an_even_ring_has_factor_one_and_a_far_point_stands_out():
    angles = torch.arange(12, dtype=torch.float64) * torch.pi / 6
    ring = torch.stack([angles.cos(), angles.sin()], 1)
    torch.testing.assert_close(local_outlier_factor(ring, neighbours=2).mean, torch.ones(12, dtype=torch.float64))
    outlier = torch.tensor([[9.0, 9.0]], dtype=torch.float64)
    factor = local_outlier_factor(torch.cat([ring, outlier]), neighbours=2).mean
    assert factor.argmax() == 12
    assert factor[12] > 5


def test_few_examples_use_all_the_neighbours_there_are():
    assert local_outlier_factor(torch.tensor([[0.0], [1.0], [3.0]])).mean.shape == (3,)


def test_one_example_has_no_neighbours():
    with pytest.raises(InputError, match="at least 2 examples"):
        local_outlier_factor(torch.ones(1, 2))
