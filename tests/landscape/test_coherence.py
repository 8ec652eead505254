from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surplus.errors import InputError
from surplus.landscape.coherence import alpha_of_examples, alpha_of_microbatches, coherence_of, gradient_coherence
from surplus.space import WeightSpace, generator
from surplus.space.per_example import per_example_grads

F64 = {"dtype": torch.float64}


def draw(k: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(k), **F64)


def mlp() -> WeightSpace:
    return WeightSpace(lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)))


def setting(space: WeightSpace, n: int = 20):
    return space.init(0).double(), draw(0, n, 8), torch.randint(3, (n,), generator=generator(1))


def by_pairs(g: torch.Tensor) -> torch.Tensor:
    """Mean inner product of different gradients over the mean squared length."""
    products = g @ g.T
    m = len(g)
    return (products.sum() - products.trace()) / (m * (m - 1)) / (products.trace() / m)


def test_three_gradients_worked_by_hand():
    c = coherence_of(torch.tensor([[1.0, 0], [0, 1], [1, 1]], **F64))
    numbers = torch.stack([c.alpha, c.m_coherence, c.unbiased])
    torch.testing.assert_close(numbers, torch.tensor([2 / 3, 2, 1 / 2], **F64))


def test_equal_gradients_serve_all_orthogonal_ones_themselves_opposite_ones_nobody():
    assert coherence_of(torch.ones(7, 4)).m_coherence == 7
    orthogonal = coherence_of(torch.eye(5))
    torch.testing.assert_close(orthogonal.m_coherence, torch.tensor(1.0))
    assert abs(orthogonal.unbiased) < 1e-7
    assert coherence_of(torch.tensor([[1.0, 2], [-1, -2]])).m_coherence == 0


def test_without_any_gradient_coherence_is_unknown():
    assert coherence_of(torch.zeros(3, 4)).alpha.isnan()
    assert coherence_of(torch.ones(1, 4)).unbiased.isnan()
    with pytest.raises(InputError, match="none was given"):
        coherence_of([])


def test_pairs_of_different_examples_give_the_unbiased_value():
    g = draw(3, 12, 5) + 0.5
    torch.testing.assert_close(coherence_of(g).unbiased, by_pairs(g))


def test_plain_alpha_is_too_high_by_one_minus_alpha_over_m_and_the_unbiased_one_is_not():
    m, mean = 10, torch.tensor([0.5, 0.0, 0.0], **F64)
    samples = [coherence_of(mean + draw(k, m, 3)) for k in range(400)]
    signal, energy = (torch.stack([getattr(c, name).sum() for c in samples]).mean() for name in ("signal", "energy"))
    alpha = 0.25 / 3.25
    assert abs(signal / energy - (alpha + (1 - alpha) / m)) < 0.01
    assert abs((m * signal - energy) / ((m - 1) * energy) - alpha) < 0.01


def test_layers_average_to_the_network_by_their_share_of_the_energy():
    space = mlp()
    c = gradient_coherence(space, *setting(space))
    assert c.layers == ("0", "2") and c.share.sum() == 1
    torch.testing.assert_close((c.share * torch.stack(list(c.per_layer.values()))).sum(), c.alpha)
    assert c.per_layer["0"] != c.per_layer["2"]


@pytest.mark.parametrize("chunk", [None, 20, 7, 1])
def test_blocks_make_no_difference_and_the_gradients_are_those_of_vmap(chunk):
    space = mlp()
    theta, x, y = setting(space)
    c, g = gradient_coherence(space, theta, x, y, chunk=chunk), per_example_grads(space, theta, x, y)
    assert c.units == 20
    torch.testing.assert_close(c.alpha, g.mean(0).square().sum() / g.square().sum(1).mean())
    torch.testing.assert_close(c.per_layer["2"], coherence_of(g[:, 54:]).alpha)
    torch.testing.assert_close(c.unbiased, by_pairs(g))


def test_order_and_scale_of_the_loss_make_no_difference():
    space = mlp()
    theta, x, y = setting(space)
    here = gradient_coherence(space, theta, x, y)
    order = torch.randperm(20, generator=generator(4))
    scaled = lambda z, t: 3 * F.cross_entropy(z, t, reduction="none")
    torch.testing.assert_close(gradient_coherence(space, theta, x[order], y[order], scaled).alpha, here.alpha)


@pytest.mark.parametrize("chunk", [None, 2])
def test_microbatches_are_units_and_an_incomplete_one_is_left_out(chunk):
    space = mlp()
    theta, x, y = setting(space, 14)
    c = gradient_coherence(space, theta, x, y, unit=4, chunk=chunk)
    g = per_example_grads(space, theta, x[:12], y[:12]).view(3, 4, -1).mean(1)
    assert c.units == 3
    torch.testing.assert_close(c.alpha, coherence_of(g).alpha)


def test_microbatches_of_a_network_with_batch_norm_are_normalised_as_in_training():
    space = WeightSpace(lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double())
    theta, x, y = setting(space, 12)
    module = space.write(theta).train()
    rows = []
    for xs, ys in zip(x.split(4), y.split(4), strict=True):
        grads = torch.autograd.grad(F.cross_entropy(module(xs), ys), list(module.parameters()))
        rows.append(torch.cat([g.flatten() for g in grads]))
    c = gradient_coherence(space, theta, x, y, unit=4)
    torch.testing.assert_close(c.alpha, coherence_of(torch.stack(rows)).alpha)


def test_a_network_that_vmap_cannot_follow_is_taken_one_microbatch_at_a_time():
    space = mlp()
    theta, x, y = setting(space)
    here = gradient_coherence(space, theta, x, y, unit=5)
    space.vmaps = False
    torch.testing.assert_close(gradient_coherence(space, theta, x, y, unit=5).alpha, here.alpha)


def test_means_over_k_examples_are_more_coherent_as_the_formula_says():
    assert alpha_of_microbatches(0.1, 1) == pytest.approx(0.1)
    assert alpha_of_microbatches(0.1, 10) == pytest.approx(1 / 1.9)
    assert alpha_of_examples(alpha_of_microbatches(0.03, 8), 8) == pytest.approx(0.03)
    g = 0.4 + draw(0, 40_000, 2)  # alpha = 0.32 / 2.32
    means = g.view(-1, 4, 2).mean(1)
    assert float(coherence_of(means).unbiased) == pytest.approx(alpha_of_microbatches(0.32 / 2.32, 4), abs=0.02)


def test_bad_samples_are_refused():
    space = mlp()
    theta, x, y = setting(space)
    with pytest.raises(InputError, match="19 targets"):
        gradient_coherence(space, theta, x, y[1:])
    with pytest.raises(InputError, match="unit=21"):
        gradient_coherence(space, theta, x, y, unit=21)
    with pytest.raises(InputError, match="5 weights, the gradients 4"):
        coherence_of(torch.ones(3, 4), {"a": 2, "b": 3})
    both = WeightSpace(
        lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    )
    with pytest.raises(InputError, match="dropout"):
        gradient_coherence(both, both.init(0), x, y, unit=4)
