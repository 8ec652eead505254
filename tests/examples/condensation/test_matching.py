from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surplus.errors import InputError
from surplus.examples.condensation.matching import grad_distance, gradient, matched

REAL, MADE = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, -1.0]])


@pytest.mark.parametrize(("metric", "value"), [("mse", 10.0), ("l1", 4.0), ("cos", 2.292893)])
def test_distances_of_the_worked_example(metric, value):
    assert float(grad_distance([REAL], [MADE], metric)) == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize("metric", ["mse", "l1"])
def test_distances_are_sums_over_tensors_and_entries(metric):
    twice = grad_distance([REAL, REAL.repeat(1, 2)], [MADE, MADE.repeat(1, 2)], metric)
    assert float(twice) == 3 * float(grad_distance([REAL], [MADE], metric))


def test_cosines_run_over_everything_that_enters_one_output():
    a, b = torch.randn(2, 5, 3, 2, 2, generator=torch.Generator().manual_seed(0)).unbind(0)
    expected = (1 - F.cosine_similarity(a.flatten(1), b.flatten(1))).sum()
    torch.testing.assert_close(grad_distance([a], [b], "cos"), expected)
    torch.testing.assert_close(grad_distance([a], [7 * b], "cos"), expected)  # its length does not count


def test_class_by_class_sees_swapped_classes_and_the_sum_does_not():
    real, made = torch.tensor([[3.0, 1.0], [3.0, -1.0]]), torch.tensor([[3.0, -1.0], [3.0, 1.0]])
    apart = sum(grad_distance([r[None]], [m[None]], "cos") for r, m in zip(real, made, strict=True))
    assert float(apart) == pytest.approx(0.4, abs=1e-6)
    assert float(grad_distance([real.mean(0)[None]], [made.mean(0)[None]], "cos")) == pytest.approx(0, abs=1e-6)


def test_idc_compares_convolutions_and_dc_every_matrix():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(2, 2), nn.Flatten(), nn.Linear(8, 3))
    assert [p.dim() for p in matched(net, "convolutions")] == [4]
    assert [p.dim() for p in matched(net, "matrices")] == [4, 2]
    with pytest.raises(InputError, match="no convolutions"):
        matched(nn.Linear(2, 2), "convolutions")


@pytest.mark.parametrize("metric", ["mse", "cos", "l1"])
def test_the_gradient_in_the_images_equals_finite_differences(metric):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 2, 3, padding=1), nn.GroupNorm(2, 2), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten()
    net = nn.Sequential(*layers, nn.Linear(8, 3)).double()
    weights = matched(net, "matrices")
    target = gradient(net, weights, torch.randn(5, 1, 4, 4).double(), torch.tensor([0, 1, 2, 0, 1]))
    made, labels = torch.randn(2, 1, 4, 4).double(), torch.tensor([1, 2])

    def distance(x):
        return grad_distance(target, gradient(net, weights, x, labels, graph=True), metric)

    leaf = made.clone().requires_grad_()
    (grad,) = torch.autograd.grad(distance(leaf), leaf)
    for place in ((0, 0, 0, 0), (0, 0, 2, 1), (1, 0, 3, 3)):
        step = torch.zeros_like(made)
        step[place] = 1e-6
        slope = (distance(made + step) - distance(made - step)).detach() / 2e-6
        assert float(grad[place]) == pytest.approx(float(slope), rel=1e-4, abs=1e-8)
    assert all(p.grad is None for p in net.parameters())  # nothing was accumulated in the network
