from __future__ import annotations

import pytest
import torch

from surplus.errors import InputError
from surplus.landscape import barrier
from surplus.space import generator


def evaluation(f):
    """An evaluate callback whose error is f(theta) and whose loss is twice that."""
    return lambda thetas: (f(thetas), 2 * f(thetas))


def bump(thetas):
    """1 at the origin, falling off."""
    return (-thetas.square().sum(1)).exp()


def test_identical_networks_have_no_barrier_anywhere():
    theta = torch.randn(6, generator=generator(0))
    for mode in ("error", "loss"):
        for end in ("mean", "linear"):
            found = barrier(evaluation(bump), theta, theta, mode=mode, end=end)
            assert torch.equal(found.curve, torch.zeros(25))
            assert found.height == 0


def test_a_bump_between_two_points_is_found():
    ends = torch.tensor([[-1.0, 0], [1, 0]], dtype=torch.float64)
    expected = 1 - torch.tensor(-1.0).exp().item()
    found = barrier(evaluation(bump), *ends)
    assert found.height == pytest.approx(expected)
    assert found.at[found.curve.argmax()] == 0.5
    assert barrier(evaluation(bump), *ends, mode="loss").height == pytest.approx(2 * expected)


def test_the_reference_is_the_mean_of_the_ends_or_the_line_between_them():
    slope = lambda thetas: thetas[:, 0]
    start, stop = torch.tensor([0.0, 0]), torch.tensor([4.0, 0])
    mean = barrier(evaluation(slope), start, stop, points=5)
    assert mean.curve.tolist() == [-2, -1, 0, 1, 2]
    assert mean.height == 2
    line = barrier(evaluation(slope), start, stop, points=5, end="linear")
    assert line.curve.tolist() == [0] * 5


def test_a_convex_loss_has_no_barrier_above_the_line():
    x, y = torch.randn(50, 4, generator=generator(1)).double(), torch.arange(50) % 2 * 2.0 - 1

    def logistic(thetas):
        return torch.nn.functional.softplus(-y * (thetas @ x.T)).mean(1)

    ends = 5 * torch.randn(2, 4, generator=generator(2)).double()
    found = barrier(evaluation(logistic), *ends, mode="loss", end="linear")
    assert found.height == pytest.approx(0, abs=1e-12)
    assert found.curve.min() < -0.01


def test_the_ends_are_evaluated_exactly():
    seen = []
    a, b = torch.randn(2, 9, generator=generator(3))
    barrier(lambda t: (seen.append(t), (t.sum(1), t.sum(1)))[1], a, b, points=7)
    assert seen[0].shape == (7, 9)
    assert torch.equal(seen[0][0], a)
    assert torch.equal(seen[0][-1], b)


def test_what_a_barrier_refuses():
    a = torch.zeros(3)
    with pytest.raises(InputError, match=r"\(3,\) and \(4,\)"):
        barrier(evaluation(bump), a, torch.zeros(4))
    with pytest.raises(InputError, match="at least 3 points"):
        barrier(evaluation(bump), a, a, points=2)
    with pytest.raises(InputError, match="mode of a barrier is called 'eror'; did you mean error"):
        barrier(evaluation(bump), a, a, mode="eror")
    with pytest.raises(InputError, match="end of a barrier"):
        barrier(evaluation(bump), a, a, end="max")
