from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.pruning import random_mask
from surplus.pruning.moved import cuttable, moved_ratio
from surplus.pruning.schedules.imp import Level, one_shot
from surplus.space import WeightSpace, generator
from surplus.studies.base import Bench
from surplus.studies.imp import PROTOCOLS, _task
from surplus.training import Store


@pytest.fixture(scope="module")
def space():
    return WeightSpace(lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)))


def level(space, theta, start, mask):
    """A level of one seed whose run is these weights."""
    run = SimpleNamespace(seeds=[0], theta=theta[None], task=SimpleNamespace(space=space))
    return Level(1.0, mask[None], start[None], run)


def test_what_a_cut_may_touch_is_neither_bias_nor_excluded(space):
    assert cuttable(space).tolist() == [True] * 4 + [False] * 2 + [True] * 2 + [False]
    assert cuttable(space, ["2"]).tolist() == [True] * 4 + [False] * 5
    with pytest.raises(InputError, match="prunable layer"):
        cuttable(space, ["3"])


def test_the_ratio_by_hand_with_biases_and_excluded_layers_left_out(space):
    start = torch.zeros(9)
    theta = torch.tensor([3.0, -5, 1, 1, 70, 70, 10, 1, 70])  # 4 weights, 2 biases, 2 weights, a bias
    first = level(space, theta, start, torch.ones(9, dtype=torch.bool))
    kept = torch.tensor([True, True, False, False, True, True, True, False, True])
    after = level(space, theta, start, kept)
    assert moved_ratio(first, after).tolist() == [6]  # (3 + 5 + 10) / 3 over 1
    whole = level(space, theta, start, kept | ~cuttable(space, ["2"]))
    assert moved_ratio(first, whole, exclude=["2"]).tolist() == [4]  # (3 + 5) / 2 over 1
    from_one = torch.ones(1, 9)  # kept moved 2, 6 and 9, removed ones not at all but for one of three
    theta_two = level(space, theta + torch.tensor([0.0, 0, 0, 3, 0, 0, 0, 0, 0]), start, first.masks[0])
    assert moved_ratio(theta_two, after, start=from_one).tolist() == pytest.approx([17 / 3])


def test_what_was_removed_before_counts_on_neither_side(space):
    theta, start = torch.tensor([4.0, 2, 1, 90, 0, 0, 4, 1, 0]), torch.zeros(9)
    first = torch.ones(9, dtype=torch.bool)
    first[3] = False
    after = first & (torch.tensor([1, 0, 0, 0, 1, 1, 1, 0, 1]) > 0)
    assert moved_ratio(level(space, theta, start, first), level(space, theta, start, after)).tolist() == [3]


def test_a_level_without_a_cut_has_no_ratio(space):
    dense = level(space, torch.ones(9), torch.zeros(9), torch.ones(9, dtype=torch.bool))
    with pytest.raises(InputError, match="after a cut"):
        moved_ratio(dense, dense)
    other = replace(dense, run=SimpleNamespace(seeds=[1], theta=dense.run.theta, task=dense.run.task))
    with pytest.raises(InputError, match="same seeds"):
        moved_ratio(dense, other)


def test_on_digits_the_largest_fifth_moved_about_twice_as_far_and_a_random_fifth_as_far(tmp_path):
    store = Store(tmp_path)
    task = _task(Bench("laptop", PROTOCOLS["laptop"], store))
    dense, fifth = one_shot(task, density=0.2, seeds=2, store=store, execution="stacked")
    assert moved_ratio(dense, fifth).tolist() == pytest.approx([2.05] * 2, abs=0.35)
    chance = torch.stack([random_mask(task.space, 0.2, generator(s)) for s in (0, 1)])
    assert moved_ratio(dense, replace(fifth, masks=chance)).tolist() == pytest.approx([1] * 2, abs=0.06)
