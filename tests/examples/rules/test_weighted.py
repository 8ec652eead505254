"""Example weights."""

from dataclasses import replace

import pytest
import torch

from surplus.errors import InputError
from surplus.examples.rules.weighted import Weighted, normalised
from surplus.tasks import load
from surplus.training import fit


@pytest.fixture(scope="module")
def task():
    digits = load("digits").with_recipe(duration="1it", batch_size=1000, lr=0.05)
    return replace(digits, train=digits.train[:300])


def test_a_whole_weight_is_so_many_copies_of_the_example(task):
    weights = torch.arange(300) % 3
    copies = torch.arange(300).repeat_interleave(weights)
    scaled = normalised(weights.float(), weights > 0)
    by_weight = fit(task, seeds=[0], rule=Weighted(scaled), subsets=[weights > 0])
    by_copies = fit(task, seeds=[0], subsets=[copies])
    assert torch.allclose(by_weight.theta, by_copies.theta, atol=1e-6)


def test_each_replica_may_have_weights_of_its_own(task):
    weights = torch.stack([torch.ones(300), torch.zeros(300)])
    run = fit(task.with_recipe(weight_decay=0.0), seeds=[0, 1], rule=Weighted(weights), execution="spread")
    assert torch.equal(run.theta[1], task.space.init(1)) and not torch.equal(run.theta[0], task.space.init(0))


def test_normalised_weights_have_mean_one_where_kept():
    kept = torch.tensor([True, False, True])
    assert torch.equal(normalised(torch.tensor([1.0, 5.0, 3.0]), kept), torch.tensor([0.5, 0.0, 1.5]))


@pytest.mark.parametrize("weights", [torch.ones(299), -torch.ones(300), torch.full((300,), torch.nan)])
def test_weights_that_do_not_fit_are_refused(task, weights):
    with pytest.raises(InputError, match="weights"):
        fit(task, seeds=[0], rule=Weighted(weights))
    with pytest.raises(InputError, match="weight above zero"):
        normalised(torch.zeros(2), torch.tensor([True, True]))


def test_weights_are_a_tensor(task):
    with pytest.raises(InputError, match="a tensor"):
        fit(task, rule=Weighted([1.0]))
