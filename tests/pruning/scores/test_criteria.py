"""Mask criteria: the worked example, their place in pruning schedules, and ranks against the paper's bisection."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from surplus.pruning import keep_top
from surplus.pruning.schedules.imp import at_start, imp, one_shot
from surplus.pruning.scores.criteria import (
    large_final,
    large_init,
    large_init_large_final,
    magnitude_increase,
    movement,
    small_final,
    small_init,
    small_init_small_final,
)
from surplus.registry import find
from surplus.space import WeightSpace, generator
from surplus.tasks import load

ALL = (
    large_final, small_final, large_init, small_init, magnitude_increase, movement, large_init_large_final,
    small_init_small_final,
)  # fmt: skip
FIVE = WeightSpace(lambda: torch.nn.Linear(5, 1, bias=False))
INIT, FINAL = torch.tensor([0.5, -0.4, 0.1, -0.05, 0.3]), torch.tensor([0.2, -0.9, 0.6, 0.1, -0.25])


def kept(score, **options):
    mask = keep_top(FIVE, score(FIVE, FINAL, start=INIT, **options), count=2)
    return set(mask.nonzero().flatten().tolist())


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (large_final, {1, 2}),
        (small_final, {0, 3}),
        (large_init, {0, 1}),
        (small_init, {2, 3}),
        (magnitude_increase, {1, 2}),
    ],
)
def test_two_of_five_weights_of_the_worked_example(score, expected):
    assert kept(score) == expected


def test_scores_of_the_worked_example():
    increase, moved = (fn(FIVE, FINAL, start=INIT) for fn in (magnitude_increase, movement))
    torch.testing.assert_close(increase, torch.tensor([-0.3, 0.5, 0.5, 0.05, -0.05]))
    torch.testing.assert_close(moved, torch.tensor([0.3, 0.5, 0.5, 0.15, 0.55]))
    assert 4 in kept(movement)


@pytest.mark.parametrize("score", ALL)
def test_weights_that_changed_their_sign_come_last(score):
    plain, same = (score(FIVE, FINAL, start=INIT, same_sign=s) for s in (False, True))
    assert torch.equal(same[:3], plain[:3]) and (same[3:] == -torch.inf).all()


def test_large_final_is_magnitude():
    assert torch.equal(large_final(FIVE, FINAL, start=INIT), find("weight score", "magnitude").fn(FIVE, FINAL))


def test_an_alpha_of_the_callers_compares_sizes():
    both = large_init_large_final(FIVE, FINAL, start=INIT, alpha=0.5)
    torch.testing.assert_close(both, torch.tensor([0.1, 0.4, 0.1, 0.05, 0.125]))
    neither = small_init_small_final(FIVE, FINAL, start=INIT, alpha=2.0)
    torch.testing.assert_close(neither, -torch.tensor([0.5, 1.8, 1.2, 0.2, 0.5]))


@pytest.mark.parametrize("q", [0.2, 0.5, 0.8])
def test_ranks_give_the_mask_of_a_common_percentile(q):
    space = WeightSpace(lambda: torch.nn.Linear(40, 10, bias=False))
    start, noise = torch.randn(2, 400, generator=generator(0))
    theta = 3 * (0.7 * start + noise)
    a, b = start.abs(), theta.abs()
    both, neither = (a >= a.quantile(q)) & (b >= b.quantile(q)), (a < a.quantile(q)) & (b < b.quantile(q))
    for score, expected in ((large_init_large_final, both), (small_init_small_final, neither)):
        found = keep_top(space, score(space, theta, start=start), count=int(expected.sum()))
        assert torch.equal(found, expected)


def test_ranks_are_within_layers_and_leave_out_removed_weights():
    space = WeightSpace(
        lambda: torch.nn.Sequential(torch.nn.Linear(4, 1, bias=False), torch.nn.Linear(1, 4, bias=False))
    )
    start = torch.tensor([1.0, 2, 3, 4, 40, 30, 20, 10])
    theta = torch.tensor([0.0, 2, 3, 4, 40, 30, 20, 10])
    score = large_init_large_final(space, theta, start=start)
    torch.testing.assert_close(score, torch.tensor([0, 1 / 3, 2 / 3, 1, 1, 0.75, 0.5, 0.25]))


@pytest.mark.parametrize("name", ["small-final", "movement", "large-init-large-final"])
def test_schedules_take_them_by_name(name):
    task = load("digits", widths=(16,)).with_recipe(duration="10it")
    options = {"density": 0.3, "score": name, "seeds": 2, "scope": "layer", "execution": "stacked"}
    dense, last = one_shot(task, **options)
    fn = find("weight score", name).fn
    for theta, start, mask in zip(dense.run.theta, dense.start, last.masks, strict=True):
        score = fn(task.space, theta, start=start)
        assert torch.equal(mask, keep_top(task.space, score, density=0.3, scope="layer", min_per_layer=1))
    assert imp(task, rate=0.5, **options)[-1].density == last.density
    assert at_start(task, **options)[0].density == last.density


def test_schedules_take_the_same_sign_form():
    task = load("digits", widths=(16,)).with_recipe(duration="200it", lr=0.1)
    dense, last = one_shot(task, density=0.2, score=partial(small_init, same_sign=True), seeds=2, execution="stacked")
    flipped = dense.start * dense.run.theta < 0
    assert flipped.any() and not (flipped & last.masks & task.space.prunable).any()
