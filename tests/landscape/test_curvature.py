from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surplus.errors import InputError
from surplus.landscape import (
    across_subsets,
    ascent,
    frobenius,
    hessian_operator,
    hvp,
    mean_loss,
    sam_sharpness,
    top_eigenvalue,
    trace,
)
from surplus.space import WeightSpace, generator

F64 = {"dtype": torch.float64}


def draw(k: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(k), **F64)


def cross_entropy(z, y):
    return F.cross_entropy(z, y, reduction="none")


def squared(z, y):
    return (z.squeeze(-1) - y).square()


class Attention(nn.Module):
    """Two tokens, one head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x.unflatten(1, (2, 4))).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v).mean(1))


NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)),
    "relu and batch norm": lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)),
    "dropout": lambda: nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.5), nn.GELU(), nn.Linear(6, 3)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(9, 3)
    ),
    "attention": Attention,
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def setting(request):
    """A network, a point, examples, batch-norm statistics."""
    space = WeightSpace(request.param)
    x, y = draw(0, 20, 8), torch.randint(3, (20,), generator=generator(1))
    theta = space.init(0).double()
    buffers = space.statistics(theta.float(), [x.float()])
    return space, theta, x, y, buffers


def test_least_squares_has_a_known_hessian():
    x, y, w, v = draw(0, 16, 5), draw(1, 16), draw(2, 5), draw(3, 5)
    product = hvp(lambda w: (x @ w - y).square().mean(), w, v)
    torch.testing.assert_close(product, 2 / 16 * x.T @ (x @ v))


def test_a_linear_or_partly_linear_loss_has_no_curvature_there():
    v = draw(0, 3)
    assert torch.equal(hvp(lambda w: w.sum(), draw(1, 3), v), torch.zeros(3, **F64))
    partly = hvp(lambda w: w[0] + w[1] * w[2], draw(1, 3), v)
    torch.testing.assert_close(partly, torch.stack([torch.zeros(()).double(), v[2], v[1]]))


def test_the_operator_on_a_linear_network_is_the_closed_form():
    x, y = draw(0, 30, 4), draw(1, 30)
    space = WeightSpace(lambda: nn.Linear(4, 1, bias=False))
    product = hessian_operator(space, draw(2, 4), x, y, squared, chunk=7)
    v = draw(3, 4)
    torch.testing.assert_close(product(v), 2 / 30 * x.T @ (x @ v))


@pytest.mark.parametrize("chunk", [512, 20, 7])
def test_the_operator_is_the_dense_hessian_of_autodiff(setting, chunk):
    space, theta, x, y, buffers = setting
    product = hessian_operator(space, theta, x, y, cross_entropy, buffers, chunk)
    dense = torch.autograd.functional.hessian(mean_loss(space, x, y, cross_entropy, buffers), theta)
    mine = torch.stack([product(e) for e in torch.eye(space.size, **F64)])
    torch.testing.assert_close(mine, dense)
    torch.testing.assert_close(mine, mine.T)
    assert dense.abs().max() > 1e-3


def test_the_operator_leaves_statistics_and_point_alone():
    space = WeightSpace(NETWORKS["relu and batch norm"])
    x, y, theta = draw(0, 9, 8).float(), torch.arange(9) % 3, space.init(0)
    buffers = space.statistics(theta, [x])
    before = {n: b.clone() for n, b in buffers.items()}
    here = theta.clone()
    v = torch.ones(space.size)
    product = hessian_operator(space, theta, x, y, cross_entropy, buffers)
    assert torch.equal(product(v), product(v))
    assert torch.equal(theta, here) and not theta.requires_grad
    assert all(torch.equal(before[n], buffers[n]) for n in before)


def test_the_measures_of_a_network_agree_with_its_dense_hessian(setting):
    space, theta, x, y, buffers = setting
    product = hessian_operator(space, theta, x, y, cross_entropy, buffers)
    dense = torch.autograd.functional.hessian(mean_loss(space, x, y, cross_entropy, buffers), theta)
    top = top_eigenvalue(product, space.size, generator(4), tol=1e-6, **F64)
    torch.testing.assert_close(top.values[0], torch.linalg.eigvalsh(dense)[-1], rtol=1e-5, atol=0)
    estimate = trace(product, space.size, 60, generator(5), **F64)
    assert abs(estimate.mean - dense.trace()) < 4 * estimate.stderr


def test_the_trace_lands_within_four_standard_errors_and_its_spread_is_known():
    a = draw(0, 30, 30)
    a = a @ a.T
    estimate = trace(lambda v: a @ v, 30, 4000, generator(1), **F64)
    assert abs(estimate.mean - a.trace()) < 4 * estimate.stderr
    variance = 2 * (a.square().sum() - a.diagonal().square().sum())  # Rademacher probes: the diagonal adds nothing
    torch.testing.assert_close(estimate.stderr, (variance / 4000).sqrt(), rtol=0.1, atol=0)


def test_the_trace_of_a_diagonal_needs_one_probe():
    values = torch.arange(1.0, 6)
    estimate = trace(lambda v: values * v, 5, 1, generator(0))
    assert estimate.mean == 15
    assert estimate.stderr.isnan()


def test_the_norm_lands_within_four_standard_errors():
    a = draw(0, 30, 30)
    a = a + a.T
    norms = torch.stack([frobenius(lambda v: a @ v, 30, 400, generator(k), **F64).mean for k in range(20)])
    estimate = frobenius(lambda v: a @ v, 30, 400, generator(1), **F64)
    assert abs(estimate.mean - a.norm()) < 4 * estimate.stderr
    assert 0.6 < estimate.stderr / norms.std() < 1.7  # the standard error is what repeats show
    nothing = frobenius(lambda v: 0 * v, 30, 3, generator(1), **F64)
    assert nothing.mean == nothing.stderr == 0


def test_probes_are_needed():
    with pytest.raises(InputError, match="probes=0"):
        trace(lambda v: v, 3, 0, generator(0))


def test_the_rise_on_a_quadratic_is_in_closed_form():
    a = draw(0, 6, 6)
    a, theta, rho = a @ a.T, draw(1, 6), 0.05
    g = a @ theta
    rise = ascent(lambda t: 0.5 * t @ a @ t, theta, rho)
    torch.testing.assert_close(rise, rho * g.norm() + 0.5 * rho**2 * (g @ a @ g) / g.square().sum())


def test_the_rise_at_a_stationary_point_is_zero():
    assert ascent(lambda t: t.square().sum(), torch.zeros(3, **F64)) == 0


def test_adaptive_sharpness_does_not_see_a_rescaling_that_the_function_does_not_see():
    loss = lambda t: (t[0] * t[1] - 2).square()
    here, there = torch.tensor([1.0, 3.0], **F64), torch.tensor([10.0, 0.3], **F64)
    torch.testing.assert_close(ascent(loss, here, adaptive=True), ascent(loss, there, adaptive=True))
    assert ascent(loss, there) > 2 * ascent(loss, here)


def test_m_sharpness_averages_the_rises_of_disjoint_subsets(setting):
    space, theta, x, y, buffers = setting
    estimate = sam_sharpness(space, theta, x, y, cross_entropy, buffers, m=6)
    rises = [ascent(mean_loss(space, x[i : i + 6], y[i : i + 6], cross_entropy, buffers), theta) for i in (0, 6, 12)]
    torch.testing.assert_close(estimate.mean, torch.stack(rises).mean())
    torch.testing.assert_close(estimate.stderr, torch.stack(rises).std() / 3**0.5)
    assert estimate.repeats == 3
    assert estimate.mean > sam_sharpness(space, theta, x, y, cross_entropy, buffers, m=20).mean  # smaller is sharper


def test_subsets_are_disjoint_and_equal_in_size():
    seen = []

    def measure(index):
        seen.append(index)
        return index.double().mean()

    estimate = across_subsets(measure, 23, 4, generator(0))
    together = torch.cat(seen)
    assert [len(index) for index in seen] == [5] * 4
    assert len(together.unique()) == 20
    torch.testing.assert_close(estimate.mean, together.double().mean())
    with pytest.raises(InputError, match="1 to 3 subsets; got parts=4"):
        across_subsets(measure, 3, 4, generator(0))


def test_examples_and_targets_must_come_in_pairs():
    space = WeightSpace(lambda: nn.Linear(2, 1))
    with pytest.raises(InputError, match="4 inputs and 3 targets"):
        hessian_operator(space, space.init(0), torch.zeros(4, 2), torch.zeros(3), squared)
    with pytest.raises(InputError, match="0 inputs"):
        sam_sharpness(space, space.init(0), torch.zeros(0, 2), torch.zeros(0), squared)
    with pytest.raises(InputError, match=r"1..4.*m=5"):
        sam_sharpness(space, space.init(0), torch.zeros(4, 2), torch.zeros(4), squared, m=5)
