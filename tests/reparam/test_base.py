"""What every reparametrisation promises the training loop."""

from __future__ import annotations

import json

import pytest
import torch

from surplus.errors import InputError
from surplus.registry import find
from surplus.reparam import (
    Dense,
    Identity,
    Line,
    Mask,
    RandomSubspace,
    Reparametrisation,
    Simplex,
    Stack,
    Subspace,
    fingerprint,
    stack,
)

P = 37


def point(k: int, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (P,)), generator=torch.Generator().manual_seed(k), dtype=torch.float64)


CASES = {
    "identity": lambda k: Identity(point(k)),
    "mask": lambda k: Mask(point(k), point(100 + k) > 0),
    "dense": lambda k: RandomSubspace(point(k), 5, "dense", seed=k),
    "sparse": lambda k: RandomSubspace(point(k), 5, "sparse", seed=k),
    "fastfood": lambda k: RandomSubspace(point(k), 5, "fastfood", seed=k),
    "basis": lambda k: Subspace(point(k), Dense(point(200 + k, 4, P))),
    "line": lambda k: Line(point(k, 2, P)),
    "simplex": lambda k: Simplex(point(k, 3, P)),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def make(request):
    return request.param


def test_the_start_lies_in_weight_space(make):
    one = make(0)
    assert one.start().shape == (one.size,)
    assert one.to_theta(one.start()).shape == (P,)
    assert one.start().dtype == one.to_theta(one.start()).dtype == torch.float64


def test_the_closed_form_pullback_is_that_of_autograd(make):
    one = make(1)
    z, grad = point(3, one.size), point(4)
    torch.testing.assert_close(one.pullback(z, grad), Reparametrisation.pullback(one, z, grad))
    with torch.no_grad():
        torch.testing.assert_close(Reparametrisation.pullback(one, z, grad), one.pullback(z, grad))


def test_leading_axes_are_replicas_of_one_map(make):
    one = make(2)
    z, grad = point(5, 3, 2, one.size), point(6, 3, 2, P)
    torch.testing.assert_close(one.to_theta(z)[1, 1], one.to_theta(z[1, 1]))
    torch.testing.assert_close(one.pullback(z, grad)[2, 0], one.pullback(z[2, 0], grad[2, 0]))


def test_a_stack_does_to_each_row_what_its_part_does(make):
    parts = [make(k) for k in range(3)]
    whole = stack(parts)
    z, grad = point(7, 3, whole.size), point(8, 3, P)
    torch.testing.assert_close(whole.start(), torch.stack([one.start() for one in parts]))
    there = [one.to_theta(row) for one, row in zip(parts, z, strict=True)]
    torch.testing.assert_close(whole.to_theta(z), torch.stack(there))
    pulled = [one.pullback(row, g) for one, row, g in zip(parts, z, grad, strict=True)]
    torch.testing.assert_close(whole.pullback(z, grad), torch.stack(pulled))
    torch.testing.assert_close(Reparametrisation.pullback(whole, z, grad), torch.stack(pulled))


def test_the_spec_is_json_and_tells_apart_what_differs(make):
    specs = [json.dumps(make(k).spec(), sort_keys=True) for k in (0, 0, 1)]
    assert specs[0] == specs[1] != specs[2]


def test_it_moves_to_another_device(make):
    there = make(0).to("meta")
    assert there.start().device.type == there.to_theta(there.start()).device.type == "meta"
    assert stack([make(0), make(1)]).to("meta").start().device.type == "meta"
    assert make(0).start().device.type == "cpu"


def test_parts_of_different_kinds_stack_too():
    parts = [Identity(point(0)), Mask(point(1), point(2) > 0)]
    whole = stack(parts)
    assert isinstance(whole, Stack)
    torch.testing.assert_close(whole.start()[1], parts[1].start())
    assert [part["name"] for part in whole.spec()["parts"]] == ["identity", "mask"]


def test_stacking_refuses_parts_of_several_lengths_and_no_parts():
    with pytest.raises(InputError, match=r"lengths \[5, 37\]"):
        stack([CASES["identity"](0), CASES["dense"](0)])
    with pytest.raises(InputError, match="got no reparametrisation"):
        stack([])


def test_a_fingerprint_sees_values_shape_and_type():
    a = torch.arange(4.0)
    others = [a + 1, a.view(2, 2), a.double(), a.bfloat16(), a[:0]]
    assert len({fingerprint(t) for t in (a, *others)}) == 6
    assert fingerprint(a) == fingerprint(a.clone()) == fingerprint(torch.arange(8.0)[::2] / 2)


@pytest.mark.parametrize("name", ["identity", "mask", "random-subspace", "line", "simplex"])
def test_the_catalogue_has_it(name):
    assert find("reparametrisation", name).summary


def test_coordinates_of_several_kinds_train_in_one_stack(tmp_path):
    from surplus.reparam import RandomSubspace
    from surplus.tasks import load
    from surplus.training import Store, fit

    task = load("digits").with_recipe(duration="5it")
    run = fit(task, seeds=2, coordinates=lambda theta, seed: RandomSubspace(theta, 10), store=Store(tmp_path), jobs=1)
    assert run.z.shape == (2, 10) and run.theta.shape == (2, task.space.size)


def test_a_line_is_trained_at_a_position_of_its_own_at_each_step(tmp_path):
    from surplus.reparam import Line
    from surplus.tasks import load
    from surplus.training import Store, fit

    task = load("digits").with_recipe(duration="60it")

    def between(theta, seed):
        return Line(torch.stack([theta, task.space.init(seed + 100)]))

    alone, together = (
        fit(task, seeds=seeds, coordinates=between, store=Store(tmp_path / name), execution="stacked", jobs=1)
        for seeds, name in (([1], "alone"), ([0, 1], "together"))
    )
    torch.testing.assert_close(alone.z[0], together.z[1], atol=1e-4, rtol=1e-3)
    ends = alone.z[0].unflatten(0, (2, -1))
    moved = [(end - start).norm() for end, start in zip(ends, (task.space.init(1), task.space.init(101)), strict=True)]
    assert min(moved) > 0 and abs(moved[0] - moved[1]) / max(moved) > 1e-3  # the centre would move both alike
    torch.testing.assert_close(alone.theta[0], ends.mean(0))
    assert alone.evaluate("test").metric.item() > 0.5
