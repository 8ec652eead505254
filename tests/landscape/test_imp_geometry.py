from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from surplus.data import Dataset, Splits
from surplus.errors import InputError
from surplus.landscape import hessian_operator, imp_geometry, trace
from surplus.landscape.connectivity import on_data
from surplus.landscape.imp_geometry import (
    chain_barriers,
    cut_by_curvature,
    cut_by_gordon,
    cut_lengths,
    gordon_statistic,
    largest_cut,
    matching,
    perturbation_robustness,
    perturbed_start,
    projection_errors,
    refilled_gap,
    within_mask,
)
from surplus.pruning import density
from surplus.pruning.moved import cuttable
from surplus.pruning.schedules.imp import imp
from surplus.space import WeightSpace, generator
from surplus.tasks import Duration, Recipe, task_from
from surplus.training import evaluate


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def bowl(h):
    """An evaluate callback of the quadratic w^T diag(h) w / 2, as error and as loss."""
    return lambda thetas: 2 * ((thetas.square() * h / 2).sum(1),)


@pytest.fixture(scope="module")
def task():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(240, 6, generator=g)
    y = (x[:, 0] * x[:, 1] > 0).long()
    splits = Splits("quadrants", Dataset.of(x[:180], y[:180]), Dataset.of(x[180:], y[180:]))
    recipe = Recipe(lr=0.05, batch_size=32, duration=Duration("60it"), optimiser="adam")
    return task_from(splits, "mlp", recipe=recipe, widths=(16,))


@pytest.fixture(scope="module")
def levels(task, tmp_path_factory):
    from surplus.training import Store

    store = Store(tmp_path_factory.mktemp("geometry"))
    return imp(task, levels=2, rate=0.4, seeds=2, store=store, execution="stacked"), store


# ---- matching and barriers ------------------------------------------------------------------------------------------


def test_matching_is_within_one_epsilon_of_each_seeds_own_dense_error():
    errors, dense = f64(0.03, 0.05, 0.04, 0.08).view(2, 2), f64(0.03, 0.06)
    assert matching(errors, dense, 0.01).tolist() == [[True, True], [True, False]]
    with pytest.raises(InputError, match="epsilon"):
        matching(errors, dense, -0.01)


def test_points_of_a_convex_bowl_have_no_barrier_and_the_worked_line_lies_below_its_chord():
    w, v = f64(1, 0), f64(0, 1)
    found = chain_barriers(bowl(f64(1, 4)), torch.stack([w, v]), points=11)
    assert found.to_previous.tolist() == [0.0] and found.to_first.tolist() == [0.0]
    ends = bowl(f64(1, 4))(torch.stack([w, v, (w + v) / 2]))[0]
    assert ends.tolist() == [0.5, 2.0, 0.625]  # 0.625 below the mean of the ends, 1.25


def test_connectivity_need_not_be_transitive():
    ridge = lambda t: 2 * ((t[:, 1] < 0.5).double() * (-8 * (t[:, 0] - 1).square()).exp(),)
    chain = torch.stack([f64(0, 0), f64(0, 1), f64(2, 1), f64(2, 0)])  # round the hill at (1, 0)
    found = chain_barriers(ridge, chain, points=21)
    assert float(found.to_previous.max()) < 0.01
    assert found.to_first[-1] > 0.9


def test_barriers_follow_the_chosen_curve():
    evaluate = lambda t: (torch.zeros(len(t)), t[:, 0] * (2 - t[:, 0]))
    chain = torch.tensor([[0.0], [2.0]])
    assert chain_barriers(evaluate, chain).to_previous.item() == 0
    assert chain_barriers(evaluate, chain, mode="loss").to_previous.item() == 1
    with pytest.raises(InputError, match="two levels"):
        chain_barriers(evaluate, chain[:1])


def test_a_projection_is_the_trained_point_with_the_next_cut_and_no_training():
    chain = torch.stack([f64(1, 2, 3), f64(0, 2, 2)])
    masks = torch.tensor([[True, True, True], [False, True, True]])
    errors = projection_errors(bowl(f64(2, 2, 2)), chain, masks)
    assert errors.tolist() == [4 + 9]


# ---- the gap --------------------------------------------------------------------------------------------------------


def test_the_gap_is_empty_after_the_cut_and_its_refilled_share_is_counted():
    before, mask = f64(0.1, -0.5, 0.9, 1.0, -0.3), torch.tensor([False, True, True, True, False])
    assert refilled_gap(before, mask, before) == 0
    assert refilled_gap(before, mask, f64(0, 0.4, 0.9, -0.2, 0)) == pytest.approx(2 / 3)


# ---- perturbed starts -----------------------------------------------------------------------------------------------


def test_a_perturbed_start_is_as_far_as_the_cut_would_move_it_and_stays_in_the_subspace():
    start = torch.randn(50, generator=generator(0), dtype=torch.float64)
    mask = torch.arange(50) < 40
    after = mask & (torch.arange(50) % 2 == 0)
    moved = {s: perturbed_start(start, mask, after, s, generator(1)) for s in (0.0, 1.0, 4.0)}
    length = start[mask & ~after].norm()
    assert torch.equal(moved[0.0], torch.where(mask, start, 0))
    for scale in (1.0, 4.0):
        assert (moved[scale] - moved[0.0]).norm() == pytest.approx(float(scale * length))
        assert not moved[scale][~mask].any()


def test_without_a_move_training_ends_where_it_did_and_far_moves_end_elsewhere(levels):
    chain, store = levels
    found = perturbation_robustness(chain[0], chain[1], (0.0, 4.0), points=5, store=store, execution="stacked")
    assert found.scales == (0.0, 4.0) and found.barriers.shape == found.errors.shape == (2, 2)
    assert found.barriers[0].tolist() == [0, 0]
    assert torch.equal(found.errors[0], on_data(chain[0].run.task)(chain[0].run.theta)[0])
    assert not torch.equal(found.errors[1], found.errors[0]) or found.barriers[1].max() > 0


def test_weights_that_a_cut_cannot_touch_begin_where_they_did(levels, monkeypatch):
    (first, after, *_), store = levels
    starts, space = [], first.run.task.space
    kept = imp_geometry.from_masks
    monkeypatch.setattr(
        imp_geometry, "from_masks", lambda t, m, start, *a, **o: (starts.append(start), kept(t, m, start, *a, **o))[1]
    )
    how = {"points": 3, "store": store, "execution": "stacked", "exclude": ("head",)}
    perturbation_robustness(first, after, (2.0,), **how)
    free = cuttable(space, ["head"])
    assert torch.equal(starts[0][:, ~free], first.start[:, ~free]) and free.sum() < space.prunable.sum()
    moves = (starts[0] - first.start)[:, free].norm(dim=1)
    own = torch.stack([s[~m & free].norm() for s, m in zip(first.start, after.masks, strict=True)])
    torch.testing.assert_close(moves, 2 * own)


# ---- the largest cut ------------------------------------------------------------------------------------------------


def test_the_largest_cut_is_the_largest_share_that_still_matches(levels):
    chain, store = levels
    dense = on_data(chain[0].run.task)(chain[0].run.theta)[0]
    how = {"store": store, "execution": "stacked"}
    found = largest_cut(chain[0], dense, 0.05, (0.3, 0.97), **how)
    assert found.errors.shape == (2, 2)
    by_hand = [
        max([q for q, e in zip((0.3, 0.97), row, strict=True) if e <= d + 0.05], default=0)
        for row, d in zip(found.errors.T.tolist(), dense.tolist(), strict=True)
    ]
    assert found.largest.tolist() == pytest.approx(by_hand)
    assert largest_cut(chain[0], dense, 1.0, (0.3, 0.97), **how).largest.tolist() == pytest.approx([0.97, 0.97])
    assert largest_cut(chain[0], dense - 2, 0.05, (0.3, 0.97), **how).largest.tolist() == [0, 0]


def test_the_largest_cut_leaves_excluded_layers_whole(levels, monkeypatch):
    chain, store = levels
    dense, space, cuts = torch.zeros(2), chain[0].run.task.space, []
    cut = imp_geometry.levels_from
    monkeypatch.setattr(imp_geometry, "levels_from", lambda *a, **o: [cuts.append(v) or v for v in cut(*a, **o)])
    largest_cut(chain[0], dense, 0.05, (0.9,), store=store, execution="stacked", exclude=("head",))
    mask = cuts[-1].masks[0]
    assert mask[space["head.weight"].slice].all() and density(space, mask, ["head"]) == pytest.approx(0.1, abs=0.01)


def row_of(size):
    """A network of one row of weights and nothing else."""
    return WeightSpace(lambda: nn.Linear(size, 1, bias=False))


def test_the_length_of_a_cut_is_the_norm_of_the_smallest_weights():
    theta, mask = f64(3, -1, 2, 9, 4), torch.tensor([True, True, True, False, True])
    assert cut_lengths(row_of(5), theta, mask, (0.0, 0.25, 0.5, 1.0)).tolist() == pytest.approx(
        [0, 1, math.sqrt(5), math.sqrt(30)]
    )


def test_biases_and_excluded_layers_count_towards_neither_share_nor_length():
    space = WeightSpace(lambda: nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2)))  # 2 weights, 1 bias, 2 and 2
    theta, mask = f64(3, 4, 0.1, 0.2, 1, 0.1, 0.1), torch.ones(7, dtype=torch.bool)
    assert cut_lengths(space, theta, mask, (0.25, 1.0)).tolist() == pytest.approx([0.2, math.sqrt(26.04)])
    assert cut_lengths(space, theta, mask, (0.5, 1.0), exclude=["1"]).tolist() == pytest.approx([3, 5])


def test_the_length_of_gaussian_weights_is_the_closed_form():
    theta = torch.randn(400_000, generator=generator(2), dtype=torch.float64)
    shares = (0.2, 0.5, 0.8)
    lengths = cut_lengths(row_of(len(theta)), theta, torch.ones_like(theta, dtype=torch.bool), shares)
    relative = (lengths / theta.norm()).tolist()
    normal = torch.distributions.Normal(0.0, 1.0)
    for share, value in zip(shares, relative, strict=True):
        t = float(normal.icdf(torch.tensor((1 + share) / 2, dtype=torch.float64)))
        density = math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
        assert value == pytest.approx(math.sqrt(share - 2 * t * density), rel=0.01)
    assert relative == pytest.approx([0.0651, 0.2671, 0.5918], abs=2e-3)


def test_an_isotropic_bowl_is_cut_as_far_as_its_loss_allows():
    theta = torch.ones(100, dtype=torch.float64)  # cutting a share q moves by sqrt(100 q), and costs 50 q h
    mask, h = torch.ones(100, dtype=torch.bool), 0.1
    shares = tuple(k / 10 for k in range(1, 10))
    lengths = cut_lengths(row_of(100), theta, mask, shares)
    loss = bowl(torch.full((100,), h, dtype=torch.float64))
    for budget in (0.1, 1.0, 2.6, 100.0):
        costs = [
            float(loss(torch.cat([torch.ones(round(100 * q)), torch.zeros(100 - round(100 * q))])[None])[0])
            for q in shares
        ]
        exact = max([q for q, c in zip(shares, costs, strict=True) if c <= budget + 1e-12], default=0.0)
        assert cut_by_curvature(h, budget + 1e-12, lengths, shares) == exact
    flat, sharp = (cut_by_curvature(c, 1.0, lengths, shares) for c in (0.05, 0.5))
    assert flat > sharp


def test_gordons_statistic_of_a_sphere_and_of_flat_directions():
    sphere = torch.full((7,), 2.0, dtype=torch.float64)  # r^2 = 2 * 0.25 / 2 = 0.25
    assert gordon_statistic(sphere, 0.25, 0.5).item() == pytest.approx(0.5)
    assert gordon_statistic(sphere, 0.25, 0.0).item() == pytest.approx(1)
    mixed = f64(2, 2, 0, -3)  # flat and falling directions set no limit
    assert gordon_statistic(mixed, 0.25, f64(0.5, 1.5)).tolist() == pytest.approx([0.75, (0.2 + 2) / 4])
    assert gordon_statistic(f64(2, 0), 0.25, 0.5, weights=f64(3, 1)).item() == pytest.approx(0.625)


def test_the_cut_by_gordon_is_the_last_share_below_the_statistic_at_its_distance():
    shares, lengths = (0.2, 0.5, 0.8), f64(0.1, 0.5, 2.0)
    # statistic of the sphere above: 0.25 / (0.25 + R^2) = 0.96, 0.5, 0.06
    sphere = torch.full((7,), 2.0, dtype=torch.float64)
    assert cut_by_gordon(sphere, 0.25, lengths, shares) == 0.2  # 0.5 is not below 0.5
    assert cut_by_gordon(sphere * 1e-6, 0.25, lengths, shares) == 0.8
    assert cut_by_gordon(sphere * 1e6, 0.25, lengths, shares) == 0.0


def test_the_operator_on_kept_coordinates_is_the_submatrix(task):
    h = torch.randn(6, 6, generator=generator(3), dtype=torch.float64)
    h, mask = h + h.T, torch.tensor([True, False, True, True, False, True])
    product = within_mask(lambda v: h @ v, mask)
    small = torch.stack([product(e) for e in torch.eye(4, dtype=torch.float64)])
    torch.testing.assert_close(small, h[mask][:, mask])


def test_the_mean_curvature_of_a_network_in_its_subspace_is_that_of_the_dense_hessian(task, levels):
    level, space = levels[0][1], task.space
    theta, mask = level.run.theta[0].double(), level.masks[0] & space.prunable
    x, y = task.prepare(task.train.inputs[:40]), task.train.targets[:40]
    product = within_mask(hessian_operator(space, theta, x, y, task.loss), mask)
    kept = int(mask.sum())
    diagonal = sum(float(product(e)[i]) for i, e in enumerate(torch.eye(kept, dtype=torch.float64)))
    found = trace(product, kept, 60, generator(4), dtype=torch.float64)
    assert abs(float(found.mean) - diagonal) < 4 * float(found.stderr) + 1e-9


def test_errors_of_the_callback_are_those_of_the_task(task, levels):
    theta = levels[0][0].run.theta
    errors, losses = on_data(task)(theta)
    found = evaluate(task, theta, task.test)
    assert torch.equal(errors, 1 - found.metric) and torch.equal(losses, found.loss)
    other, _ = on_data(task, task.train)(theta)
    assert torch.equal(other, 1 - evaluate(task, theta, task.train).metric)
