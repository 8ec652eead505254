"""Weight scores against numbers on paper, conservation laws, and one another."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.pruning import (
    balanced_rows,
    density,
    grasp,
    iterate_score,
    layer_densities,
    magnitude,
    random_score,
    snip,
    synflow,
)
from surplus.registry import find
from surplus.space import WeightSpace, generator


def two_layers():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    return net


@pytest.fixture
def tiny():
    """f(x) = W2 relu(W1 x) at a point of which the scores are known."""
    space = WeightSpace(two_layers)
    theta = torch.tensor([1, -2, 0.5, 1, 1, 1, -1, 2], dtype=torch.float64)
    return space, theta, (torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([0]))


def deep(width=64, depth=6):
    hidden = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        return self.head(self.bn2(self.conv2(x)).relu().mean((2, 3)))


def test_snip_of_the_small_case(tiny):
    score = snip(*tiny)
    assert (score / score.sum()).tolist() == pytest.approx([0, 0, 0.05, 0.20, 0, 0.25, 0, 0.50], abs=1e-9)


def test_snip_is_the_gradient_with_respect_to_the_mask(tiny):
    space, theta, (x, y) = tiny
    c = torch.ones_like(theta, requires_grad=True)
    nn.functional.cross_entropy(space.apply(c * theta, x), y).backward()
    torch.testing.assert_close(snip(*tiny), c.grad.abs())


def test_grasp_of_the_small_case(tiny):
    removal = -grasp(*tiny, temperature=1.0)
    expected = [0, 0, -2.70197, -10.80788, 0, 7.10457, 0, -14.20913]
    assert removal.tolist() == pytest.approx(expected, abs=1e-5)
    warm = -grasp(*tiny)
    expected = [0, 0, -0.142331, -0.569325, 0, 0.288343, 0, -0.576686]
    assert (warm / warm.sum().abs()).tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(grasp(*tiny, signed=False), grasp(*tiny).abs())


def test_grasp_is_theta_times_the_dense_hessians_product(tiny):
    space, theta, (x, y) = tiny
    loss = lambda t: nn.functional.cross_entropy(space.apply(t, x) / 200, y)
    g, h = torch.func.grad(loss)(theta), torch.func.hessian(loss)(theta)
    torch.testing.assert_close(grasp(*tiny), theta * (h @ g))


def test_synflow_of_the_small_case_is_conserved(tiny):
    space, theta, batch = tiny
    score = synflow(space, theta, batch)
    assert score.tolist() == pytest.approx([2, 4, 1.5, 3, 3, 1.5, 3, 3])
    first, second = score[:4].view(2, 2), score[4:].view(2, 2)
    assert first.sum(1).tolist() == pytest.approx([6, 4.5]) == second.sum(0).tolist()
    assert torch.equal(score, synflow(space, -theta, batch[0]))


def test_synflow_conserves_its_flow_in_every_layer_and_unit():
    sizes = [7, 30, 20, 5]
    make = lambda: nn.Sequential(
        *[m for a, b in pairwise(sizes) for m in (nn.Linear(a, b, bias=False), nn.ReLU())][:-1]
    )
    space = WeightSpace(make)
    score = synflow(space, space.init(0), torch.zeros(3, 7))
    layers = list(space.split(score).values())
    totals = torch.stack([s.sum() for s in layers])
    torch.testing.assert_close(totals, totals[:1].expand(3), rtol=1e-9, atol=0)
    torch.testing.assert_close(layers[0].sum(1), layers[1].sum(0), rtol=1e-9, atol=0)
    assert score.dtype == torch.float64


def test_synflow_without_biases_is_conserved_on_a_network_that_has_them():
    space = WeightSpace(
        lambda: nn.Sequential(nn.Linear(7, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5))
    )
    theta, x = space.init(0), torch.zeros(1, 7)
    totals = lambda score: [float(score[b.slice].sum()) for b in space.blocks if b.prunable]
    without = synflow(space, theta, x, biases=False)
    assert totals(without) == pytest.approx(totals(without)[:1] * 3, rel=1e-12)
    assert not any(without[b.slice].any() for b in space.blocks if b.kind == "bias")
    first, _, last = totals(synflow(space, theta, x))
    assert last > 1.01 * first


def test_biases_let_synflow_empty_a_layer_and_without_them_it_does_not():
    space = WeightSpace(deep)
    theta, x = space.init(5), torch.zeros(1, 64)
    fewest = [
        min(layer_densities(space, iterate_score("synflow", space, theta, x, density=0.01, biases=b)).values())
        for b in (True, False)
    ]
    assert fewest[0] < 0.003 < fewest[1]


def test_synflow_survives_a_depth_that_overflows_single_precision():
    make = lambda: nn.Sequential(*[nn.Linear(50, 50, bias=False) for _ in range(60)])
    space = WeightSpace(make)
    score = synflow(space, 5 * space.init(0), torch.zeros(1, 50))
    assert score.isfinite().all() and score.max() > torch.finfo(torch.float32).max


def test_scores_hold_through_batch_normalisation_and_leave_the_network_as_it_was():
    space, g = WeightSpace(Norms), generator(0)
    theta, batch = space.init(0), (torch.randn(6, 1, 8, 8, generator=g), torch.tensor([0, 1, 2, 0, 1, 2]))
    before = theta.clone()
    for name in ("magnitude", "snip", "grasp", "synflow"):
        score = find("weight score", name).fn(space, theta, batch)
        assert score.shape == theta.shape and score.isfinite().all() and not score.requires_grad
    flow = synflow(space, theta, batch)
    totals = [float(flow[space[n].slice].sum()) for n in ("conv1.weight", "conv2.weight", "head.weight")]
    assert totals == pytest.approx(totals[:1] * 3)  # fresh statistics: normalisation is the identity
    assert torch.equal(theta, before)
    assert not torch.equal(snip(space, theta, batch), snip(space, theta, batch, train=True))


def test_synflow_takes_frozen_parameters_by_their_absolute_value():
    def make():
        net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
        nn.init.constant_(net[1].weight, -3.0).requires_grad_(False)
        return net

    space = WeightSpace(make)
    score = synflow(space, torch.tensor([1.0, -1.0, 2.0, 0.5]), torch.zeros(1, 2))
    assert score.tolist() == [3, 3, 6, 1.5]


def test_scores_take_a_loss_of_their_own(tiny):
    space, theta, (x, _) = tiny
    squares = lambda out, y: (out - y).square().sum(1)
    target = torch.zeros(1, 2, dtype=torch.float64)
    score = snip(space, theta, (x, target), loss=squares)
    assert float(score[4:].sum()) == pytest.approx(2 * (2.5**2 + 5.0**2))  # W2 . dL/dW2 = 2 |f|^2, all terms positive


def test_magnitude_and_random_need_no_batch(tiny):
    space, theta, _ = tiny
    assert torch.equal(magnitude(space, theta), theta.abs())
    draw = lambda s: random_score(space, theta, generator=generator(s))
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


def test_a_score_without_its_batch_says_so(tiny):
    space, theta, _ = tiny
    for score in (snip, grasp):
        with pytest.raises(InputError, match="give it a batch"):
            score(space, theta, None)
    with pytest.raises(InputError, match="got tokens"):
        synflow(space, theta, torch.zeros(1, 4, dtype=torch.int64))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_cut_of_synflow_collapses_a_layer_and_a_hundred_do_not(seed):
    space = WeightSpace(deep)
    theta, x = space.init(seed), torch.zeros(1, 64)
    one, hundred = (iterate_score("synflow", space, theta, x, density=0.01, rounds=n) for n in (1, None))
    assert min(layer_densities(space, one).values()) == 0
    assert min(layer_densities(space, hundred).values()) > 0
    assert density(space, one) == density(space, hundred) == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize("name", ["magnitude", "snip", "grasp", "synflow"])
def test_masks_of_an_iterated_score_nest(name):
    space, g = WeightSpace(lambda: deep(16, 2)), generator(1)
    theta, batch = space.init(0), (torch.randn(20, 16, generator=g), torch.arange(20) % 10)
    seen = []
    fn = find("weight score", name).fn

    def watched(space, theta, batch):
        seen.append(theta != 0)
        return fn(space, theta, batch)

    mask = iterate_score(watched, space, theta, batch, density=0.1, rounds=6)
    for earlier, later in zip(seen, [*seen[1:], mask & (theta != 0)], strict=True):
        assert not (later & ~earlier).any()
    assert density(space, mask) == pytest.approx(0.1, abs=1e-3)


def test_iterating_spares_excluded_layers_and_rejects_unknown_scores(tiny):
    space, theta, batch = tiny
    mask = iterate_score("snip", space, theta, batch, density=0.5, rounds=3, exclude=("2",))
    assert layer_densities(space, mask) == {"0.weight": 0.5, "2.weight": 1}
    with pytest.raises(InputError, match="did you mean snip"):
        iterate_score("snipp", space, theta, batch, density=0.5)


def test_balanced_rows_hold_each_class_equally():
    targets = torch.tensor([0] * 50 + [1] * 7 + [2] * 20)
    rows = balanced_rows(targets, 5, generator(0))
    assert targets[rows].bincount().tolist() == [5, 5, 5]
    assert len(rows.unique()) == 15
    assert not torch.equal(rows, balanced_rows(targets, 5, generator(1)))


def test_synflow_takes_statistics_by_their_absolute_value():
    space = WeightSpace(Norms)
    theta, x = space.init(0), torch.zeros(1, 1, 8, 8)
    buffers = space.fresh_buffers()
    buffers["bn1.running_mean"] += torch.tensor([0.5, 0.0, 1.0, 0.0])
    flipped = {n: -b if n == "bn1.running_mean" else b for n, b in buffers.items()}
    assert torch.equal(synflow(space, theta, x, buffers=flipped), synflow(space, theta, x, buffers=buffers))
    assert not torch.equal(synflow(space, theta, x), synflow(space, theta, x, buffers=buffers))


def test_a_pruned_networks_flow_leaves_out_what_is_gone(tiny):
    space, theta, (x, y) = tiny
    mask = torch.tensor([1, 1, 1, 1, 1, 0, 1, 1], dtype=torch.bool)
    point = theta * mask
    loss = lambda t: nn.functional.cross_entropy(space.apply(t, x) / 200, y)
    g, h = torch.func.grad(loss)(point), torch.func.hessian(loss)(point)
    torch.testing.assert_close(grasp(space, point, (x, y)), point * (h @ (mask * g)))
    assert not torch.allclose(point * (h @ g), point * (h @ (mask * g)))


def test_grasps_score_is_that_of_two_halves_whose_gradients_are_summed():
    """The authors' code: g = g_1 + g_2 of two halves, then the sum of both halves' products with it."""
    space, draw = WeightSpace(lambda: deep(8, 2).double()), generator(0)
    theta, x, y = space.init(0), torch.randn(20, 8, generator=draw, dtype=torch.float64), torch.arange(20) % 10
    losses = [
        lambda t, half=half: nn.functional.cross_entropy(space.apply(t, x[half]) / 200, y[half])
        for half in (slice(0, 10), slice(10, 20))
    ]
    g = sum(torch.func.grad(loss)(theta) for loss in losses)
    product = sum(torch.func.jvp(torch.func.grad(loss), (theta,), (g,))[1] for loss in losses)
    torch.testing.assert_close(grasp(space, theta, (x, y)), theta * product / 4)


def test_snip_in_a_hundred_rounds_is_a_hundred_exact_cuts_and_not_one():
    space, draw = WeightSpace(lambda: deep(16, 2)), generator(2)
    theta, batch = space.init(0), (torch.randn(30, 16, generator=draw), torch.arange(30) % 10)
    sizes = []

    def watched(space, theta, batch):
        sizes.append(int((theta != 0)[space.prunable].sum()))
        return snip(space, theta, batch)

    mask = iterate_score(watched, space, theta, batch, density=0.05, rounds=100)
    total = int(space.prunable.sum())
    assert sizes == [round(total * 0.05 ** (k / 100)) for k in range(100)]
    assert int(mask[space.prunable].sum()) == round(0.05 * total)
    assert torch.equal(mask, iterate_score("snip", space, theta, batch, density=0.05, rounds=100))
    assert not torch.equal(mask, iterate_score("snip", space, theta, batch, density=0.05))


def test_initial_magnitude_empties_the_layers_of_large_fan_in_first():
    def make():
        net = nn.Sequential(nn.Linear(400, 50), nn.ReLU(), nn.Linear(50, 10))
        for layer in (net[0], net[2]):
            nn.init.kaiming_normal_(layer.weight)
        return net

    space = WeightSpace(make)
    wide, narrow = layer_densities(space, iterate_score("magnitude", space, space.init(0), density=0.1)).values()
    assert wide < 0.1 < 0.3 < narrow


def test_scores_leave_the_point_that_they_read(tiny):
    space, theta, batch = tiny
    before = theta.clone()
    for name in ("snip", "grasp", "crop", "synflow", "magnitude"):
        score = find("weight score", name).fn(space, theta, batch)
        score += 1
    assert torch.equal(theta, before)
