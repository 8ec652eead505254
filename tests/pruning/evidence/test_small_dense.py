"""The widest dense network within a budget: by its own option, or with fewer channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.pruning import count
from surplus.pruning.evidence.small_dense import fresh_start, small_dense
from surplus.space import WeightSpace
from surplus.tasks import load, task_from


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def mlp(a, b):
    """Weights, parameters of 64-a-b-10."""
    weights = 64 * a + a * b + 10 * b
    return weights, weights + a + b + 10


@pytest.mark.parametrize("budget", [300, 700, 5000])
def test_widths_stay_in_proportion_and_the_next_wider_network_is_too_large(digits, budget):
    for kind, i in (("weights", 0), ("parameters", 1), ("macs", 0)):
        small, start = small_dense(digits, [3, 4], **{kind: budget})
        a, b = small.network.options["widths"]
        assert b == round(a / 2) and mlp(a, b)[i] <= budget < mlp(a + 1, max(1, round((a + 1) / 2)))[i]
        assert torch.equal(start, small.space.init_many([3, 4])) and small.train is digits.train


def test_the_whole_network_fits_its_own_budget_and_the_least_is_the_answer_to_less(digits):
    assert small_dense(digits, [0], weights=17_024)[0].network.options["widths"] == (128, 64)
    assert small_dense(digits, [0], weights=17_023)[0].network.options["widths"] == (127, 64)
    assert small_dense(digits, [0], parameters=1)[0].network.options["widths"] == (1, 1)


def test_a_width_factor_is_searched_below_the_network_s_own(digits):
    task = task_from(_splits(digits), "small-conv", width=0.5)
    small, _ = small_dense(task, [0], parameters=task.space.size / 4)
    width = small.network.options["width"]
    assert width < 0.5 and 0.8 * task.space.size / 4 < small.space.size <= task.space.size / 4
    wider = task_from(_splits(digits), "small-conv", width=width + 0.5 / 128)
    assert wider.space.size > task.space.size / 4


def test_a_factor_given_as_a_whole_number_is_searched_below_one(digits):
    task = task_from(_splits(digits), "small-conv", width=1)
    small, _ = small_dense(task, [0], parameters=task.space.size / 4)
    assert small.network.options["width"] < 1 and small.space.size <= task.space.size / 4
    same, _ = small_dense(task_from(_splits(digits), "small-conv", width=1.0), [0], parameters=task.space.size / 4)
    assert same.network.options == small.network.options


def _splits(task):
    from surplus.data import Splits

    return Splits("digits", task.train, task.test)


def test_a_transformer_loses_whole_heads_worth_of_width(digits):
    task = task_from(_splits(digits), "vit-small", width=32, heads=4, depth=1, patch=4)
    small, _ = small_dense(task, [0], parameters=task.space.size / 3)
    assert small.network.options["width"] % 4 == 0 and small.space.size <= task.space.size / 3


def test_a_network_of_the_user_s_own_loses_channels_of_each_layer():
    pytest.importorskip("torch_pruning")
    task = task_from(
        _splits(load("digits")), lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    )
    small, start = small_dense(task, [0, 1, 2], macs=74 * 15 + 5)  # 74 a weights for a units
    assert count(small.space.module, (1, 8, 8)).macs == 74 * 15
    assert start.shape == (3, small.space.size) and not torch.equal(start[0], start[1])
    assert torch.equal(start, small_dense(task, [0, 1, 2], macs=74 * 15 + 5)[1])


def test_fresh_weights_keep_the_law_of_the_fan_in():
    wide, narrow = (
        WeightSpace(lambda w=w: nn.Sequential(nn.Linear(30, w), nn.ReLU(), nn.Linear(w, 20))) for w in (400, 100)
    )
    parts = narrow.split(torch.stack([fresh_start(wide, narrow, s) for s in range(40)]))
    expected = narrow.split(narrow.init_many(range(40)))
    for name in parts:
        assert parts[name].std() == pytest.approx(float(expected[name].std()), rel=0.05)
        assert parts[name].abs().max() == pytest.approx(float(expected[name].abs().max()), rel=0.02)


def test_layers_that_the_wide_network_has_not_are_reset_by_themselves():
    wide = WeightSpace(lambda: nn.Linear(5, 3))
    other = WeightSpace(lambda: nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2), nn.Linear(2, 3)))
    torch.testing.assert_close(fresh_start(wide, other, 7), other.init(7))


@pytest.mark.parametrize("budget", [{}, {"weights": 5, "macs": 5}])
def test_one_budget_is_needed(digits, budget):
    with pytest.raises(InputError, match="exactly one of weights=, parameters= and macs="):
        small_dense(digits, [0], **budget)
