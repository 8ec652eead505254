from itertools import pairwise

import torch

from surplus.pruning import keep_top
from surplus.pruning.schedules.imp import imp, levels_for, one_shot, reinitialised
from surplus.tasks import load


def quick():
    return load("digits").with_recipe(duration="4ep", lr=0.05)


def test_levels_nest_hit_exact_densities_and_rewind_to_the_kept_weights():
    task = quick()
    levels = imp(task, levels=3, rate=0.5, rewind_step=5, seeds=2, execution="stacked")
    prunable = int(task.space.prunable.sum())
    alive = prunable
    for before, level in pairwise(levels):
        alive -= round(0.5 * alive)
        assert (level.masks[:, task.space.prunable].sum(1) == alive).all()
        assert (level.masks <= before.masks).all() and torch.equal(level.start, levels[0].run.at(5))
        assert (level.run.theta[~level.masks] == 0).all()
    assert abs(levels[-1].density - alive / prunable) < 1e-9


def test_each_level_removes_the_smallest_weights_of_the_one_before():
    task = quick()
    levels = imp(task, levels=1, rate=0.3, seeds=2, execution="stacked")
    for theta, mask in zip(levels[0].run.theta, levels[1].masks, strict=True):
        kept, cut = mask & task.space.prunable, ~mask
        assert theta[cut].abs().max() <= theta[kept].abs().min()


def test_one_shot_is_one_cut_of_the_dense_network():
    task = quick()
    dense, level = one_shot(task, density=0.25, seeds=2, execution="stacked")
    expected = torch.stack([keep_top(task.space, t.abs(), density=0.25, min_per_layer=1) for t in dense.run.theta])
    assert torch.equal(level.masks, expected) and torch.equal(level.start, dense.start)


def test_reinitialised_keeps_masks_and_changes_weights():
    task = quick()
    level = imp(task, levels=1, rate=0.5, seeds=2, execution="stacked")[1]
    control = reinitialised(task, level, execution="stacked")
    assert torch.equal(control.masks, level.masks) and not torch.equal(control.start, level.start)


def test_levels_for_reaches_the_density():
    assert levels_for(0.0115, 0.2) == 21 and levels_for(0.8**20, 0.2) == 20 and levels_for(1.0, 0.2) == 0
