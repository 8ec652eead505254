import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.examples import hardness
from surplus.examples.scores.deepfool import deepfool
from surplus.space import WeightSpace


def linear(classes=4, d=3):
    space = WeightSpace(lambda: nn.Linear(d, classes))
    return space, space.init_many([0, 1]).double()


def nonlinear():
    space = WeightSpace(lambda: nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)))
    return space, space.init_many([3]).double() * 3


def test_for_a_linear_classifier_it_is_the_distance_to_the_nearest_boundary():
    space, thetas = linear()
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)).double()
    distances = []
    for theta in thetas:
        w, z = space.split(theta)["weight"], space.apply(theta, x)
        y = z.argmax(1)
        gap = (z - z.gather(1, y[:, None])).abs() / (w[None] - w[y][:, None]).norm(dim=2)
        distances.append(gap.scatter(1, y[:, None], torch.inf).amin(1))
    torch.testing.assert_close(deepfool(space, thetas, x).mean, torch.stack(distances).mean(0))
    torch.testing.assert_close(deepfool(space, thetas, x, iterations=1).mean, torch.stack(distances).mean(0))


def test_no_shorter_step_in_any_of_many_directions_crosses_much_earlier():
    """An upper bound of the true distance, and a close one."""
    space, thetas = nonlinear()
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double()
    found = deepfool(space, thetas, x).mean
    angle = torch.linspace(0, 2 * torch.pi, 181, dtype=torch.float64)[:-1]
    around = torch.stack([angle.cos(), angle.sin()], 1)
    radii = torch.linspace(0, 3, 301, dtype=torch.float64)
    grid = x[:, None, None] + radii[None, :, None, None] * around
    labels = space.apply(thetas[0], grid.view(-1, 2)).argmax(1).view(20, 301, 180)
    crossed = (labels != labels[:, :1]).any(2)
    true = torch.where(crossed.any(1), radii[crossed.int().argmax(1)], torch.inf)
    seen = true.isfinite()
    assert seen.sum() >= 10
    assert (found[seen] >= true[seen] - 0.02).all()
    assert (found[seen] / true[seen].clamp(min=0.01)).median() < 1.3


def test_batches_change_nothing_and_low_is_hard():
    space, thetas = nonlinear()
    x = torch.randn(11, 2, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(deepfool(space, thetas, x, batch=3).mean, deepfool(space, thetas, x).mean)
    nearest = deepfool(space, thetas, x).mean.argmin()
    assert hardness("deepfool", deepfool(space, thetas, x).mean).argmax() == nearest


def test_an_example_on_its_own_is_scored_as_in_company():
    space, thetas = nonlinear()
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(2)).double()
    alone = torch.cat([deepfool(space, thetas, x[i : i + 1]).mean for i in range(9)])
    torch.testing.assert_close(deepfool(space, thetas, x).mean, alone)


def test_a_classifier_that_never_changes_its_mind_gives_finite_scores():
    space = WeightSpace(lambda: nn.Linear(2, 2))
    theta = torch.zeros(1, space.size)
    theta[0, -1] = 1.0
    assert deepfool(space, theta, torch.randn(4, 2)).mean.tolist() == [0, 0, 0, 0]


def test_images_and_batch_norm_are_taken_in_evaluation_mode():
    space = WeightSpace(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    )
    thetas, x = space.init_many([0]), torch.randn(7, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    buffers = space.statistics(thetas, [x])
    whole = deepfool(space, thetas, x, buffers).mean
    assert whole.shape == (7,) and whole.isfinite().all() and (whole > 0).all()
    torch.testing.assert_close(deepfool(space, thetas, x[:2], buffers).mean, whole[:2], rtol=1e-4, atol=1e-5)


def test_settings_and_outputs_that_cannot_be_used_are_refused():
    space, thetas = linear()
    with pytest.raises(InputError, match="at least 1 iteration"):
        deepfool(space, thetas, torch.randn(4, 3).double(), iterations=0)
    one = WeightSpace(lambda: nn.Linear(3, 1))
    with pytest.raises(InputError, match="two or more classes"):
        deepfool(one, one.init_many([0]), torch.randn(4, 3))
