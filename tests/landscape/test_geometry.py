from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from surplus.data import Dataset, Splits
from surplus.errors import InputError
from surplus.landscape.geometry import (
    class_angles,
    feature_angle,
    feature_geometry,
    feature_margin,
    feature_norm,
    last_layer,
)
from surplus.tasks import load, task_from
from surplus.training import features

W = torch.tensor([[2.0, 0], [0, 1], [-1, -1]], dtype=torch.float64)
B = torch.tensor([0, 0.5, 0], dtype=torch.float64)
X = torch.tensor([[1.0, 1]], dtype=torch.float64)
Y = torch.tensor([0])


def drawn(seed, n=40, classes=5, width=7):
    g = torch.Generator().manual_seed(seed)
    x, w, b = (torch.randn(*s, generator=g, dtype=torch.float64) for s in [(n, width), (classes, width), (classes,)])
    return x, w, b, torch.randint(classes, (n,), generator=g)


def test_the_worked_example_has_its_angle_norm_and_margin():
    assert float(feature_angle(X, W, Y)) == pytest.approx(45)
    assert float(feature_norm(X)) == pytest.approx(1.414214, abs=1e-6)
    assert (X @ W.T + B).tolist() == [[2, 1.5, -2]]
    assert float(feature_margin(X, W, Y, B)) == pytest.approx(0.223607, abs=1e-6)
    without_class_1 = feature_margin(X, W[[0, 2]], Y, B[[0, 2]])
    assert float(without_class_1) == pytest.approx(1.264911, abs=1e-6)


def test_the_margin_is_the_distance_to_the_nearest_point_where_two_logits_tie():
    # (2, -1) . (x, y) = 1/2 is the boundary to class 1: a step of the margin along its normal makes both logits equal.
    step = X - feature_margin(X, W, Y, B) * torch.tensor([[2.0, -1]], dtype=torch.float64) / 5**0.5
    logits = step @ W.T + B
    assert float(logits[0, 0] - logits[0, 1]) == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 10_000))
def test_the_margin_is_negative_exactly_where_the_largest_logit_is_another_class(seed):
    x, w, b, y = drawn(seed)
    assert torch.equal(feature_margin(x, w, y, b) < 0, (x @ w.T + b).argmax(1) != y)


@given(st.integers(0, 10_000))
def test_one_vector_added_to_all_rows_changes_no_margin_and_no_relative_angle(seed):
    x, w, b, y = drawn(seed)
    moved = w + torch.linspace(-1, 1, w.shape[1], dtype=torch.float64)
    torch.testing.assert_close(feature_margin(x, moved, y, b), feature_margin(x, w, y, b))
    torch.testing.assert_close(
        feature_angle(x, moved, y, relative=True), feature_angle(x, w, y, relative=True), rtol=1e-6, atol=1e-6
    )
    assert not torch.allclose(feature_angle(x, moved, y), feature_angle(x, w, y))


@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_scaling_the_features_scales_norm_and_margin_and_leaves_the_angle(seed, scale):
    x, w, _, y = drawn(seed)
    torch.testing.assert_close(feature_angle(scale * x, w, y), feature_angle(x, w, y), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(feature_norm(scale * x), scale * feature_norm(x))
    torch.testing.assert_close(feature_margin(scale * x, w, y), scale * feature_margin(x, w, y))


def test_moving_the_origin_changes_angle_and_norm_as_told_but_never_the_margin():
    x, w, b, y = drawn(3)
    c = x.mean(0)
    torch.testing.assert_close(feature_margin(x - c, w, y, b + w @ c), feature_margin(x, w, y, b))
    torch.testing.assert_close(feature_angle(x, w, y, centre=c), feature_angle(x - c, w, y))
    torch.testing.assert_close(feature_norm(x, centre=c), feature_norm(x - c))


def test_features_after_a_relu_all_lie_within_ninety_degrees_until_they_are_centred():
    x = drawn(1)[0].relu() + 0.1
    ones = torch.ones(1, x.shape[1], dtype=torch.float64)
    y = torch.zeros(len(x), dtype=torch.long)
    assert (feature_angle(x, ones, y) < 90).all()
    assert (feature_angle(x, ones, y, centre=x.mean(0)) > 90).any()


def test_zero_features_and_zero_rows_are_at_ninety_degrees_and_flagged():
    angles, none = class_angles(torch.tensor([[0.0, 0], [1, 0]]), torch.tensor([[1.0, 0], [0, 0]]))
    assert angles.tolist() == [[90, 90], [0, 90]]
    assert none.tolist() == [[True, True], [False, True]]


def test_classes_of_one_row_are_told_apart_by_their_bias_alone():
    w = torch.tensor([[1.0, 0], [1, 0]])
    y = torch.tensor([0])
    x = torch.tensor([[2.0, 3]])
    assert feature_margin(x, w, y, torch.tensor([1.0, 0])).item() == math.inf
    assert feature_margin(x, w, y, torch.tensor([0.0, 1])).item() == -math.inf
    assert feature_margin(x, w, y).item() == 0


def test_a_networks_geometry_is_that_of_its_features_and_its_last_layer():
    task = load("digits", widths=(16, 12))
    theta = task.space.init(0)
    found, x = feature_geometry(task, theta, task.test), features(task, theta, task.test)
    parts = task.space.split(theta)
    weight, bias = last_layer(task, theta)
    assert torch.equal(weight, parts["head.weight"]) and torch.equal(bias, parts["head.bias"])
    torch.testing.assert_close(found.logits, task.space.apply(theta, task.prepare(task.test.inputs)))
    torch.testing.assert_close(found.angle, feature_angle(x, weight, task.test.targets))
    torch.testing.assert_close(found.norm, x.norm(dim=1))
    assert torch.equal(found.margin < 0, found.prediction != task.test.targets)
    assert not found.degenerate.any()


def test_a_dead_network_is_flagged_throughout():
    task = load("digits", widths=(8,))
    found = feature_geometry(task, torch.zeros(task.space.size), task.test)
    assert (
        found.degenerate.all() and (found.angle == 90).all() and (found.norm == 0).all() and (found.margin == 0).all()
    )


def test_a_last_layer_without_bias_has_a_bias_of_zero():
    task = load("digits", widths=(8,), bias=False)
    assert not last_layer(task, task.space.init(0))[1].any()


def test_what_has_no_classes_or_no_last_linear_layer_is_refused():
    sine = load("sinusoid")
    with pytest.raises(InputError, match="about classes; the targets of sinusoid"):
        feature_geometry(sine, sine.space.init(0), sine.test)
    g = torch.Generator().manual_seed(0)
    data = Dataset.of(torch.rand(20, 1, 8, 8, generator=g), torch.arange(20) % 2)
    net = lambda: nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten())
    task = task_from(Splits("squares", data, data), net)
    with pytest.raises(InputError, match="does not end in a linear layer"):
        last_layer(task, task.space.init(0))


@pytest.mark.parametrize(
    ("x", "w", "y", "words"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), torch.tensor([0, 1]), r"got \(2, 3\), \(2, 4\) and \(2,\)"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0]), r"and \(1,\)"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0, 2]), "rows 0 to 1 of the last layer; got 0 to 2"),
    ],
)
def test_shapes_that_do_not_fit_are_told(x, w, y, words):
    with pytest.raises(InputError, match=words):
        feature_margin(x, w, y)
