"""Two networks of one function are told from two that differ, whatever the scale of their outputs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.pruning import random_mask, remove_dead_units
from surplus.pruning.structured.equivalence import same_function
from surplus.space import WeightSpace, generator


def make():
    return nn.Sequential(
        nn.Linear(9, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Dropout(0.5), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 4)
    )


@pytest.fixture
def pair():
    space = WeightSpace(make)
    big = space.write(space.init(0) * random_mask(space, 0.05, generator(0)))
    return big, remove_dead_units(big), torch.randn(64, 9, generator=generator(1))


def test_removing_dead_units_leaves_the_function_and_asking_leaves_the_modes(pair):
    big, small, x = pair
    assert small[0].out_features < 40
    big.train()
    assert same_function(big, small, x) and same_function(small, big, x)
    assert big.training and not small.training and big[1].num_batches_tracked == 0


def test_one_weight_that_is_heard_makes_another_function(pair):
    big, _, x = pair
    other = copy.deepcopy(big)
    other[6].bias.data[2] += 2e-5
    assert not same_function(big, other, x) and same_function(big, other, x, tol=3e-5)


def test_the_tolerance_grows_with_the_outputs():
    one, two = (nn.Linear(1, 1, bias=False) for _ in range(2))
    x = torch.ones(1, 1)
    for size, alike in ((0.0, False), (1.0, False), (1000.0, True)):
        one.weight.data.fill_(size), two.weight.data.fill_(size + 1e-3)
        assert same_function(one, two, x) == alike


def test_outputs_that_are_no_numbers_are_never_the_same():
    broken = nn.Linear(2, 1)
    broken.weight.data.fill_(torch.nan)
    assert not same_function(broken, broken, torch.ones(3, 2))


def test_networks_of_different_tasks_and_empty_batches_are_refused():
    with pytest.raises(InputError, match=r"\(3, 4\) and \(3, 5\)"):
        same_function(nn.Linear(2, 4), nn.Linear(2, 5), torch.ones(3, 2))
    with pytest.raises(InputError, match="a batch of none"):
        same_function(nn.Linear(2, 4), nn.Linear(2, 4), torch.ones(0, 2))
