"""Masks that are learnt over frozen weights: their forward and backward formulas, and how they train."""

from __future__ import annotations

import json

import pytest
import torch

from surplus.errors import InputError
from surplus.landscape.curvature import hvp
from surplus.reparam import Reparametrisation, Stack, Supermask, TopK, stack
from surplus.space import generator
from surplus.tasks import load
from surplus.training import fit

P, LAYERS = 20, [(1, 9), (11, 18)]  # 8 and 7 weights; five others stay
D = 15


def point(k: int, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (P,)), generator=generator(k), dtype=torch.float64)


CASES = {
    "supermask": lambda k: Supermask(point(k), LAYERS, point(50 + k, D)),
    "rescaled": lambda k: Supermask(point(k), LAYERS, point(50 + k, D), rescale=True),
    "top-k": lambda k: TopK(point(k), LAYERS, point(50 + k, D), [3, 2]),
    "binary": lambda k: TopK(point(k), LAYERS, point(50 + k, D), [3, 2], binary=True),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def make(request):
    return request.param


def rows_of(part, k):
    """Draws of k steps, or None."""
    return part.draw([generator(s) for s in range(k)])


# ---- what both promise the training loop --------------------------------------------------------------------------


def test_theta_is_the_frozen_weights_under_a_mask(make):
    one = make(0)
    z, inside = one.start(), torch.zeros(P, dtype=torch.bool).index_fill(0, one.at, True)
    theta, mask = one.to_theta(z), one.mask(z)
    assert torch.equal(theta[~inside], one.weights[~inside]) and mask[~inside].all()
    assert torch.equal(theta != 0, mask) and torch.equal(theta.sign()[mask], one.weights.sign()[mask])
    assert torch.equal(mask[one.at], one.kept(z))


def test_the_closed_form_pullback_is_that_of_autograd_with_and_without_a_draw(make):
    one = make(1)
    z, grad = point(3, D), point(4)
    draws = rows_of(one, 5)
    for drawn in (None, *([] if draws is None else draws)):
        torch.testing.assert_close(one.pullback(z, grad, drawn), Reparametrisation.pullback(one, z, grad, drawn))


def test_leading_axes_are_replicas_of_one_map(make):
    one = make(2)
    z, grad = point(5, 3, 2, D), point(6, 3, 2, P)
    torch.testing.assert_close(one.to_theta(z)[1, 1], one.to_theta(z[1, 1]))
    torch.testing.assert_close(one.pullback(z, grad)[2, 0], one.pullback(z[2, 0], grad[2, 0]))


def test_a_stack_does_to_each_row_what_its_part_does(make):
    parts = [make(k) for k in range(3)]
    whole = stack(parts)
    assert not isinstance(whole, Stack)
    z, grad = point(7, 3, D), point(8, 3, P)
    drawn = whole.draw([generator(k) for k in range(3)])
    each = [None] * 3 if drawn is None else drawn
    assert torch.equal(whole.start(), torch.stack([one.start() for one in parts]))
    for k, one in enumerate(parts):
        assert drawn is None or torch.equal(one.draw([generator(k)])[0], drawn[k])
        torch.testing.assert_close(whole.to_theta(z, drawn)[k], one.to_theta(z[k], each[k]))
        torch.testing.assert_close(whole.pullback(z, grad, drawn)[k], one.pullback(z[k], grad[k], each[k]))


def test_the_spec_is_json_and_tells_apart_what_differs(make):
    specs = [json.dumps(make(k).spec(), sort_keys=True) for k in (0, 0, 1)]
    assert specs[0] == specs[1] != specs[2]


def test_the_spec_names_every_setting():
    w, z = point(0), point(1, D)
    variants = [
        Supermask(w, LAYERS, z),
        Supermask(w, LAYERS, z, rescale=True),
        Supermask(w, [(0, 8), (11, 18)], z),
        TopK(w, LAYERS, z, [3, 2]),
        TopK(w, LAYERS, z, [3, 3]),
        TopK(w, LAYERS, z, [3, 2], binary=True),
    ]
    assert len({json.dumps(v.spec(), sort_keys=True) for v in variants}) == len(variants)


def test_parts_of_other_settings_stack_one_by_one():
    a, b = TopK(point(0), LAYERS, point(1, D), [3, 2]), TopK(point(0), LAYERS, point(1, D), [4, 2])
    assert isinstance(stack([a, b]), Stack)
    assert isinstance(stack([CASES["supermask"](0), CASES["rescaled"](0)]), Stack)


def test_it_moves_to_another_device(make):
    there = make(0).to("meta")
    assert there.start().device.type == there.to_theta(there.start()).device.type == "meta"
    assert make(0).start().device.type == "cpu"


def test_what_does_not_fit_together_is_refused():
    w = point(0)
    with pytest.raises(InputError, match=r"among P = 20 weights; got \(\(15, 25\),\)"):
        Supermask(w, [(15, 25)])
    with pytest.raises(InputError, match=r"15 weights, one number each; got shape \(14,\)"):
        Supermask(w, LAYERS, point(1, 14))
    with pytest.raises(InputError, match=r"got \(9, 2\)"):
        TopK(w, LAYERS, point(1, D), [9, 2])
    with pytest.raises(InputError, match=r"got \(3,\)"):
        TopK(w, LAYERS, point(1, D), [3])


# ---- supermask ------------------------------------------------------------------------------------------------------


def test_the_straight_through_gradient_of_a_linear_function_is_c_sigma_one_minus_sigma():
    c, z = point(0, 8), point(1, 8)
    one = Supermask(torch.ones(8, dtype=torch.float64), [(0, 8)])
    p = z.sigmoid()
    torch.testing.assert_close(one.pullback(z, c, one.draw([generator(0)])[0]), c * p * (1 - p))


def test_rescaling_of_the_worked_mask_is_eight_thirds():
    kept = torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 0])
    one = Supermask(torch.ones(8), [(0, 8)], rescale=True)
    theta = one.to_theta(torch.zeros(8), drawn=1 - kept)  # a draw of 0 keeps, of 1 does not
    torch.testing.assert_close(theta, 8 / 3 * kept)


def test_an_empty_layer_gives_zeros_and_a_finite_gradient():
    one = Supermask(torch.ones(8), [(0, 8)], rescale=True)
    z, grad, drawn = torch.zeros(8), torch.arange(8.0), torch.ones(8)
    assert torch.equal(one.to_theta(z, drawn), torch.zeros(8))
    torch.testing.assert_close(one.pullback(z, grad, drawn), Reparametrisation.pullback(one, z, grad, drawn))
    torch.testing.assert_close(one.pullback(z, grad, drawn), 8 * grad / 4)


def test_weights_are_kept_as_often_as_their_probability_says():
    z = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    one = Supermask(torch.ones(5), [(0, 5)], z)
    drawn = one.draw([generator(k) for k in range(4000)])
    share, p = one.kept(z, drawn).double().mean(0), z.sigmoid().double()
    assert ((share - p).abs() < 4 * (p * (1 - p) / 4000).sqrt()).all()
    assert one.kept(z).tolist() == [False, False, True, True, True]  # evaluated where the probability is one half


def test_it_begins_at_one_half():
    assert torch.equal(Supermask(point(0), LAYERS).start(), torch.zeros(D, dtype=torch.float64))


# ---- top-k ----------------------------------------------------------------------------------------------------------


def test_the_largest_scores_of_either_sign_are_used_to_the_exact_count():
    w = torch.arange(1.0, 11)
    z = torch.tensor([0.1, -0.9, 0.2, 0.3, -0.8, 0.05, 0.7, -0.1, 0.0, 0.4])
    theta = TopK(w, [(0, 10)], z, [3]).to_theta(z)
    assert theta.tolist() == [0, 2, 0, 0, 5, 0, 7, 0, 0, 0]
    for k in range(11):
        assert int(TopK(w, [(0, 10)], z, [k]).kept(torch.ones(10)).sum()) == k  # ties everywhere


def test_unused_weights_get_the_gradient_of_their_mask_too():
    w, z, grad = torch.tensor([2.0, 3, 5]), torch.tensor([0.9, -0.1, 0.2]), torch.tensor([1.0, 10, 100])
    assert TopK(w, [(0, 3)], z, [1]).pullback(z, grad).tolist() == [2, -30, 500]


def test_a_binary_layer_has_the_mean_size_of_its_used_weights():
    w, z = torch.tensor([2.0, -4, 5, 7]), torch.tensor([0.9, -0.8, 0.2, 0.1])
    one = TopK(w, [(0, 4)], z, [2], binary=True)
    assert one.to_theta(z).tolist() == [3, -3, 0, 0]
    assert one.pullback(z, torch.ones(4)).tolist() == [3, 3, 3, 3]  # a sign(w) sign(z)


def test_layers_are_cut_each_for_itself():
    z = torch.cat([torch.full((8,), 0.01), torch.full((7,), 5.0)])
    kept = TopK(point(0).float(), LAYERS, z, [3, 2]).kept(z)
    assert int(kept[:8].sum()) == 3 and int(kept[8:].sum()) == 2


# ---- training -------------------------------------------------------------------------------------------------------


def learnt(task, kind):
    layers = [(b.start, b.stop) for b in task.space.blocks if b.prunable]
    size = sum(b - a for a, b in layers)

    def coordinates(theta, seed):
        if kind == "top-k":
            scores = 0.1 * torch.randn(size, generator=generator(seed, "scores"))
            return TopK(theta, layers, scores, [(b - a) // 2 for a, b in layers])
        return Supermask(theta, layers, rescale=kind == "rescaled")

    return coordinates


@pytest.mark.parametrize("kind", ["supermask", "rescaled", "top-k"])
def test_replicas_train_alike_alone_or_stacked_and_weights_never_move(kind):
    task = load("digits", widths=(16,)).with_recipe(duration="6it", lr=1.0)
    options = {"coordinates": learnt(task, kind), "record": True}
    whole = fit(task, seeds=[0, 1, 2], execution="stacked", **options)
    alone = fit(task, seeds=[1], **options)
    torch.testing.assert_close(alone.z[0], whole.z[1], rtol=1e-4, atol=1e-5)
    start = task.space.init_many([0, 1, 2])
    if kind != "rescaled":
        used = whole.theta != 0
        assert torch.equal(whole.theta[used], start[used]) and not used.all()
    assert not torch.equal(whole.z, torch.stack([learnt(task, kind)(t, s).start() for s, t in enumerate(start)]))
    assert whole.record["loss"].shape[0] == 3


def test_a_learnt_mask_classifies_and_its_point_has_a_curvature():
    task = load("digits", widths=(64,)).with_recipe(duration="15ep", lr=0.1)
    run = fit(task, seeds=2, coordinates=learnt(task, "top-k"), execution="stacked")
    assert (run.evaluate("test").metric > 0.6).all()
    x, y = next(task.batches(task.train))
    loss = lambda theta: task.loss(task.space.apply(theta, x), y).mean()
    assert hvp(loss, run.theta[0], torch.ones(task.space.size)).isfinite().all()
