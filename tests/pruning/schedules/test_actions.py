"""What kept and removed weights become: each action on a small layer by hand, and in training."""

from __future__ import annotations

import pytest
import torch

from surplus.errors import InputError
from surplus.pruning.schedules.actions import (
    KEPT,
    REMOVED,
    imp_with_actions,
    kept_values,
    last_values,
    removed_values,
    retrained,
)
from surplus.pruning.schedules.imp import imp
from surplus.space import WeightSpace, generator
from surplus.tasks import load

SPACE = WeightSpace(lambda: torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)))
START = torch.randn(SPACE.size, generator=generator(0))
TRAINED = START * (0.2 + 2 * torch.rand(SPACE.size, generator=generator(1)))
MASK = ~SPACE.prunable | (torch.rand(SPACE.size, generator=generator(2)) < 0.5)
WEIGHTS = [b for b in SPACE.blocks if b.prunable]


def values(action, signs="own", seed=3):
    return kept_values(SPACE, START, MASK, action, generator(seed), signs=signs)


def held(action, seed=3):
    return removed_values(SPACE, START, TRAINED, MASK, action, generator(seed))


@pytest.mark.parametrize("action", KEPT)
def test_kept_weights_keep_their_signs_or_get_random_ones_of_the_same_size(action):
    own, random = values(action), values(action, "random")
    assert torch.equal(own.sign(), START.sign())
    torch.testing.assert_close(own.abs(), random.abs())
    share = (random.sign() == START.sign())[SPACE.prunable].float().mean()
    assert 0.2 < share < 0.8
    for point in (own, random):
        assert torch.equal(point[~SPACE.prunable], START[~SPACE.prunable])
    assert torch.equal(own, values(action)) and not torch.equal(random, values(action, "random", seed=4))


def test_rewinding_leaves_everything_and_constants_have_the_spread_of_the_tensor():
    assert torch.equal(values("rewind"), START)
    for b in WEIGHTS:
        torch.testing.assert_close(values("constant")[b.slice].abs(), START[b.slice].std(correction=0).expand(b.size))


def test_permutations_keep_the_sizes_of_the_tensor_or_of_its_kept_weights():
    for b in WEIGHTS:
        before, kept = START[b.slice].abs(), MASK[b.slice]
        whole, some = values("reinit")[b.slice].abs(), values("reshuffle")[b.slice].abs()
        assert torch.equal(whole.sort().values, before.sort().values) and not torch.equal(whole, before)
        assert torch.equal(some[kept].sort().values, before[kept].sort().values) and not torch.equal(some, before)
        assert torch.equal(some[~kept], before[~kept])


def test_removed_weights_are_held_where_the_action_says():
    grew = TRAINED.abs() > START.abs()
    zero = torch.zeros(SPACE.size)
    assert torch.equal(held("zero")[0], zero) and torch.equal(held("freeze")[0], START)
    assert torch.equal(held("hybrid-a")[0], torch.where(grew, START, zero))
    assert torch.equal(held("hybrid-b")[0], held("hybrid-a")[0])
    assert torch.equal(held("reverse-hybrid")[0], torch.where(grew, zero, START))
    assert torch.equal(held("hybrid-b")[1], MASK & SPACE.prunable & ~grew)
    assert not any(held(action)[1].any() for action in REMOVED if action != "hybrid-b")


def test_the_control_of_hybrids_freezes_as_many_removed_weights_of_each_tensor():
    given, moved = held("hybrid-a")[0], held("random-hybrid")[0]
    for b in WEIGHTS:
        out = ~MASK[b.slice]
        assert int((given[b.slice][out] != 0).sum()) == int((moved[b.slice][out] != 0).sum())
    assert not torch.equal(given[~MASK], moved[~MASK])
    assert torch.equal(moved[moved != 0], START[moved != 0])


def test_unknown_actions_and_signs_are_refused():
    with pytest.raises(InputError, match="mask-1 action"):
        values("rewinding")
    with pytest.raises(InputError, match="choice of signs"):
        values("rewind", "none")
    with pytest.raises(InputError, match="mask-0 action"):
        held("hybrid")


def quick():
    return load("digits", widths=(16,)).with_recipe(duration="20it", lr=0.1, weight_decay=0.01)


def test_the_last_value_of_a_weight_is_that_before_its_removal():
    levels = imp(quick(), levels=2, rate=0.5, seeds=2, execution="stacked")
    values = last_values(levels)
    first, second = levels[0].run.theta, levels[1].run.theta
    cut_first, cut_second = ~levels[1].masks, levels[1].masks & ~levels[2].masks
    assert torch.equal(values[cut_first], first[cut_first])
    assert torch.equal(values[cut_second], second[cut_second])
    assert torch.equal(values[levels[2].masks], second[levels[2].masks])


@pytest.mark.parametrize("removed", REMOVED)
def test_retraining_moves_kept_weights_only(removed):
    task = quick()
    levels = imp(task, levels=1, rate=0.7, seeds=2, execution="stacked")
    masks, start, trained = levels[1].masks, levels[0].start, last_values(levels)
    level = retrained(task, masks, start, trained, [0, 1], removed=removed, execution="stacked")
    for k, seed in enumerate((0, 1)):
        chance = generator(seed, "mask-0 action")
        there, zeroed = removed_values(task.space, start[k], trained[k], masks[k], removed, chance)
        assert torch.equal(level.run.theta[k][~masks[k]], there[~masks[k]])
        assert not level.start[k][zeroed].any()
    assert (level.run.theta != level.start)[masks].float().mean() > 0.9
    assert level.density == levels[1].density


def test_rewound_and_zeroed_it_is_the_ticket_itself():
    task = quick()
    levels = imp(task, levels=1, rate=0.7, seeds=2, execution="stacked")
    again = retrained(task, levels[1].masks, levels[0].start, last_values(levels), [0, 1], execution="stacked")
    assert torch.equal(again.run.theta, levels[1].run.theta)


def test_without_other_actions_the_schedule_is_iterative_magnitude_pruning():
    options = {"density": 0.3, "rate": 0.5, "seeds": 2, "scope": "layer", "execution": "stacked"}
    for ours, plain in zip(imp_with_actions(quick(), **options), imp(quick(), **options), strict=True):
        assert torch.equal(ours.masks, plain.masks) and torch.equal(ours.run.theta, plain.run.theta)


def test_at_every_level_removed_weights_stay_frozen_and_densities_are_exact():
    task = quick()
    levels = imp_with_actions(task, density=0.3, rate=0.5, removed="freeze", signs="random", seeds=2)
    assert len(levels) == 3 and levels[-1].density == pytest.approx(0.3, abs=1e-3)
    for level in levels[1:]:
        assert torch.equal(level.run.theta[~level.masks], levels[0].start[~level.masks])
    assert (levels[2].masks <= levels[1].masks).all()
    assert len(imp_with_actions(task, density=1.0, seeds=1)) == 1
