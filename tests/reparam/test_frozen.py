"""Weights that are held where they are, and weights of two values."""

from __future__ import annotations

import json

import pytest
import torch

from surplus.errors import InputError
from surplus.reparam import Frozen, Mask, Reparametrisation, signed_constant, stack
from surplus.space import WeightSpace, generator
from surplus.tasks import load
from surplus.training import fit

THETA, MASK = torch.tensor([1.0, -2, 3, -4]), torch.tensor([True, False, True, False])


def test_held_weights_are_used_and_get_no_gradient():
    held = Frozen(THETA, MASK, torch.tensor([9.0, 5, 9, 6]))
    assert held.start().tolist() == [1, 0, 3, 0]
    assert held.to_theta(held.start()).tolist() == [1, 5, 3, 6]
    assert held.pullback(held.start(), torch.tensor([1.0, 2, 3, 4])).tolist() == [1, 0, 3, 0]


def test_its_pullback_is_that_of_autograd_alone_and_in_a_stack():
    parts = [Frozen(THETA + k, MASK ^ (k == 1), THETA - k) for k in range(3)]
    z, grad = torch.randn(3, 4, generator=generator(0)), torch.randn(3, 4, generator=generator(1))
    whole = stack(parts)
    torch.testing.assert_close(whole.pullback(z, grad), Reparametrisation.pullback(whole, z, grad))
    for k, part in enumerate(parts):
        assert torch.equal(whole.to_theta(z)[k], part.to_theta(z[k]))
        assert torch.equal(whole.pullback(z, grad)[k], part.pullback(z[k], grad[k]))
        assert torch.equal(whole.start()[k], part.start())


def test_held_at_zero_it_is_a_mask():
    z, grad = torch.randn(4, generator=generator(0)), torch.randn(4, generator=generator(1))
    a, b = Frozen(THETA, MASK, torch.zeros(4)), Mask(THETA, MASK)
    assert torch.equal(a.to_theta(z), b.to_theta(z)) and torch.equal(a.pullback(z, grad), b.pullback(z, grad))


def test_its_spec_tells_apart_masks_and_held_values_and_forgets_what_is_never_used():
    held = torch.tensor([0.0, 5, 0, 6])
    specs = [Frozen(THETA, MASK, v).spec() for v in (held, held + 1)]
    specs.append(Frozen(THETA, ~MASK, held).spec())
    assert len({json.dumps(s) for s in specs}) == 3
    assert Frozen(THETA, MASK, held + MASK).spec() == specs[0]


def test_held_weights_do_not_move_in_training_not_even_by_weight_decay():
    task = load("digits", widths=(8,)).with_recipe(duration="4it", lr=0.1, weight_decay=0.1)
    start = task.space.init_many([0, 1])
    mask = torch.rand(task.space.size, generator=generator(0)) < 0.5
    options = {"seeds": 2, "coordinates": lambda theta, seed: Frozen(theta, mask, theta)}
    run = fit(task, execution="stacked", **options)
    assert torch.equal(run.theta[:, ~mask], start[:, ~mask]) and (run.theta != start)[:, mask].float().mean() > 0.9
    torch.testing.assert_close(fit(task, execution="spread", **options).theta, run.theta)


def test_shapes_that_differ_are_refused():
    with pytest.raises(InputError, match="one entry per weight"):
        Frozen(THETA, MASK, THETA[:3])
    with pytest.raises(InputError, match=r"torch\.float32 of shape \(4,\)"):
        Frozen(THETA, MASK.float(), THETA)


def test_signed_constants_keep_signs_and_the_spread_of_the_whole_tensor():
    space = WeightSpace(lambda: torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)))
    theta = space.init_many([0, 1])
    out = signed_constant(space, theta)
    for name in ("0.weight", "2.weight"):
        before, after = (space.split(t)[name].flatten(1) for t in (theta, out))
        torch.testing.assert_close(after.abs(), before.std(1, correction=0, keepdim=True).expand_as(after))
        assert torch.equal(after.sign(), before.sign())
    assert torch.equal(out[:, ~space.prunable], theta[:, ~space.prunable])
    assert torch.equal(signed_constant(space, theta[1]), out[1])
