from __future__ import annotations

import pytest
import torch

from surplus.errors import InputError
from surplus.reparam import Line, Simplex, squared_cosine
from surplus.space import generator

ENDS = torch.tensor([[1.0, 2, 2], [2, 0, 1]])


def test_squared_cosine_of_the_worked_example():
    assert squared_cosine(*ENDS).item() == pytest.approx(16 / 45)
    assert squared_cosine(ENDS[0], -3 * ENDS[0]).item() == pytest.approx(1)


def test_a_quarter_of_the_way_the_ends_share_the_gradient_three_to_one():
    line, at, grad = Line(ENDS), torch.tensor([0.75, 0.25]), torch.tensor([1.0, -2, 4])
    z = line.start().requires_grad_()
    theta = line.to_theta(z, at)
    torch.testing.assert_close(theta.detach(), torch.tensor([1.25, 1.5, 1.75]))
    theta.backward(grad)
    torch.testing.assert_close(z.grad, torch.cat([0.75 * grad, 0.25 * grad]))
    torch.testing.assert_close(line.pullback(z, grad, at), z.grad)


def test_the_default_position_is_the_centre():
    corners = torch.randn(4, 6, generator=generator(0))
    simplex = Simplex(corners)
    torch.testing.assert_close(simplex.to_theta(simplex.start()), corners.mean(0))


def test_one_corner_is_ordinary_training_bit_for_bit():
    theta = torch.randn(9, generator=generator(1))
    alone = Simplex(theta[None])
    at = alone.draw([generator(2)])[0]
    assert torch.equal(alone.to_theta(alone.start(), at), theta)
    assert torch.equal(alone.pullback(alone.start(), theta, at), theta)


def test_positions_are_uniform_on_the_simplex():
    g = generator(0)
    draws = Simplex(torch.zeros(3, 2)).draw([g] * 4000)
    torch.testing.assert_close(draws.sum(1), torch.ones(4000))
    assert (draws.mean(0) - 1 / 3).abs().max() < 0.015
    # uniform on the triangle: the share with a_1 > t is (1 - t)^2
    assert abs((draws[:, 0] > 0.5).double().mean() - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5


def test_stacked_replicas_each_have_their_own_position():
    whole = Simplex(torch.randn(5, 3, 4, generator=generator(3)))
    at = whole.draw([generator(s) for s in range(5)])
    assert at.shape == (5, 3)
    theta = whole.to_theta(whole.start(), at)
    torch.testing.assert_close(theta[2], (at[2, :, None] * whole.corners[2]).sum(0))


def test_a_line_has_two_ends():
    with pytest.raises(InputError, match=r"two ends.*\(3, 2\)"):
        Line(torch.zeros(3, 2))
    with pytest.raises(InputError, match=r"m floating-point.*int64"):
        Simplex(torch.zeros(3, 2, dtype=torch.int64))
