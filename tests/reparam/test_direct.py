from __future__ import annotations

import pytest
import torch

from surplus.errors import InputError
from surplus.reparam import Identity, Mask


def test_identity_is_ordinary_training():
    theta = torch.arange(5.0)
    same = Identity(theta)
    assert same.to_theta(theta) is theta
    assert same.start() is not theta  # the optimiser writes into z
    assert torch.equal(same.start(), theta)


@pytest.mark.parametrize(
    "optimiser",
    [
        lambda z: torch.optim.SGD([z], lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda z: torch.optim.Adam([z], lr=0.1, weight_decay=0.1),
        lambda z: torch.optim.AdamW([z], lr=0.1, weight_decay=0.1),
    ],
)
def test_masked_weights_stay_exactly_zero_under_every_optimiser(optimiser):
    g = torch.Generator().manual_seed(0)
    theta0, target = torch.randn(2, 50, generator=g)
    mask = torch.rand(50, generator=g) < 0.3
    sparse = Mask(theta0, mask)
    z = sparse.start().requires_grad_()
    steps = optimiser(z)
    for _ in range(20):
        theta = sparse.to_theta(z.detach())
        z.grad = sparse.pullback(z, theta - target)
        steps.step()
    assert torch.equal(z == 0, ~mask)
    assert torch.equal(sparse.to_theta(z) == 0, ~mask)
    assert (sparse.to_theta(z) - target)[mask].norm() < (theta0 - target)[mask].norm()


def test_weights_under_the_mask_do_not_count_for_identity_of_a_run():
    mask = torch.tensor([True, False])
    assert Mask(torch.tensor([1.0, 2.0]), mask).spec() == Mask(torch.tensor([1.0, 3.0]), mask).spec()


def test_a_mask_must_be_boolean_and_fit():
    with pytest.raises(InputError, match=r"boolean.*torch.float32"):
        Mask(torch.zeros(3), torch.ones(3))
    with pytest.raises(InputError, match=r"\(3,\).*\(4,\)"):
        Mask(torch.zeros(3), torch.ones(4, dtype=torch.bool))


def test_a_starting_point_must_be_a_vector_of_floats():
    with pytest.raises(InputError, match="int64"):
        Identity(torch.arange(3))
    with pytest.raises(InputError, match=r"\(\)"):
        Identity(torch.tensor(1.0))
