from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.pruning import cut
from surplus.pruning.masks import cut_at_threshold
from surplus.pruning.schedules.data_diet import diet_subset, pretrain_subset, tickets_on_a_diet
from surplus.pruning.schedules.imp import from_masks
from surplus.space import WeightSpace, generator
from surplus.tasks import load
from surplus.training import Store, fit


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def quick(**changes):
    return load("digits").with_recipe(**{"duration": "4ep", "lr": 0.05, "schedule": "constant", **changes})


def ten():
    """A space of ten weights and no bias."""
    return WeightSpace(lambda: nn.Linear(10, 1, bias=False)), torch.arange(1.0, 11), torch.ones(10, dtype=torch.bool)


# ---- how many weights a cut removes ---------------------------------------------------------------------------------


def test_of_ten_weights_at_a_fifth_the_exact_cut_keeps_eight_and_the_published_code_seven():
    space, theta, mask = ten()
    assert cut(space, theta.abs(), mask, 0.2).tolist() == [False] * 2 + [True] * 8
    assert cut_at_threshold(space, theta, mask, 0.2).tolist() == [False] * 3 + [True] * 7


def test_a_cut_at_a_threshold_removes_all_ties_and_never_brings_back_a_weight():
    space, theta, mask = ten()
    ties = torch.tensor([1.0, 2, 3, 3, 3, 4, 5, 6, 7, 8])
    assert cut_at_threshold(space, -ties, mask, 0.2).sum() == 5
    once = cut_at_threshold(space, theta, mask, 0.2)
    twice = cut_at_threshold(space, theta, once, 0.2)
    assert (twice <= once).all() and twice.sum() == 7 - (math.ceil(0.2 * 7) + 1)
    assert (
        cut_at_threshold(space, theta, mask.clone().fill_(False).index_fill(0, torch.tensor([4]), True), 0.2).sum() == 0
    )
    with pytest.raises(InputError, match="nothing is left"):
        cut_at_threshold(space, theta, ~mask, 0.2)


def test_the_code_rule_by_the_code_itself_on_a_network_with_biases():
    space = load("digits").space
    theta, mask = space.init(0), torch.ones(space.size, dtype=torch.bool)
    weights = theta[space.prunable].abs()
    threshold = weights.sort().values[math.ceil(0.2 * len(weights))]
    found = cut_at_threshold(space, theta, mask, 0.2)
    assert torch.equal(found[space.prunable], weights > threshold) and found[~space.prunable].all()


def test_library_and_exact_cut_remove_the_same_weights():
    from torch.nn.utils import prune

    space = load("digits").space
    theta = space.init(0)
    module = space.write(theta)
    layers = [(m, "weight") for m in module.modules() if isinstance(m, nn.Linear)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=0.2)
    ours = space.split(cut(space, theta.abs(), torch.ones_like(theta, dtype=torch.bool), 0.2))
    for layer, name in (
        (layer, b.name) for (layer, _), b in zip(layers, [b for b in space.blocks if b.prunable], strict=True)
    ):
        assert torch.equal(layer.weight_mask.bool(), ours[name])


def test_densities_are_powers_of_eight_tenths_and_masks_nest(store):
    task = quick(duration="1ep")
    levels = tickets_on_a_diet(task, "random", 100, steps=5, levels=3, seeds=2, store=store, execution="stacked")
    size = int(task.space.prunable.sum())
    assert [level.density for level in levels] == pytest.approx([1, 0.8, 0.64, 0.512], abs=2.5 / size)
    for before, after in pairwise(levels):
        assert (after.masks <= before.masks).all() and torch.equal(after.start, levels[0].start)
        assert (after.run.theta[~after.masks] == 0).all()
    compat = tickets_on_a_diet(
        task, "random", 100, steps=5, levels=1, seeds=2, count="threshold", store=store, execution="stacked"
    )
    kept = compat[1].masks[:, task.space.prunable].sum(1)
    assert (kept == size - math.ceil(0.2 * size) - 1).all()


# ---- pre-training ---------------------------------------------------------------------------------------------------


def test_pre_training_on_everything_and_going_on_is_training_without_a_break(store):
    task = quick(momentum=0.0)  # an optimiser without memory, which starts empty after the break
    point = pretrain_subset(task, "all", steps=7, seeds=[3], store=store)
    whole = fit(task, seeds=[3], keep=(7,), store=store)
    torch.testing.assert_close(point.theta, whole.at(7))
    level = from_masks(task, torch.ones_like(point.theta, dtype=torch.bool), point.theta, [3], 7, store=store)
    torch.testing.assert_close(level.run.theta, whole.theta)


def test_the_number_of_steps_does_not_depend_on_the_size(store):
    task = quick()
    for size in (50, 400, None):
        run = pretrain_subset(task, "random", size, steps=23, seeds=[0], store=store)
        assert run.parts[0].manifest["steps"] == 23
        assert size is None or run.trained_on.sum() == size


def test_the_rate_of_pre_training_is_the_initial_one(store):
    task = quick(schedule="step", milestones=("1ep",), gamma=0.1)
    rates = pretrain_subset(task, "all", steps=40, seeds=[0], store=store).history["lr"]
    assert len(rates) == 2 and rates == pytest.approx([0.05] * len(rates))


def test_levels_start_in_the_schedule_where_pre_training_ended(store):
    task = quick(duration="2ep", schedule="step", milestones=("1ep",), gamma=0.1)
    per_epoch = -(-len(task.train) // task.recipe.batch_size)
    level = tickets_on_a_diet(task, "all", steps=per_epoch, levels=0, seeds=[0], store=store)[0]
    assert level.run.history["lr"] == pytest.approx([0.005])  # one epoch is left, at the lower rate
    assert level.run.parts[0].manifest["steps"] == 2 * per_epoch


def test_no_steps_rewind_to_the_initial_weights(store):
    task = quick(duration="1ep")
    level = tickets_on_a_diet(task, "all", steps=0, levels=0, seeds=[4], store=store)[0]
    assert torch.equal(level.start[0], task.space.init(4))
    assert torch.equal(level.run.theta, fit(task, seeds=[4], store=store).theta)


def test_random_labels_teach_nothing_and_the_levels_see_the_true_ones(store):
    task = quick(duration="10ep")
    taught = pretrain_subset(task, "all", steps=100, seeds=2, store=store, execution="stacked")
    misled = pretrain_subset(task, "random-labels", steps=100, seeds=2, store=store, execution="stacked")
    right = [float(run.evaluate("test").metric.mean()) for run in (taught, misled)]
    assert right[0] > 0.8 and right[1] < 0.3
    whole = torch.ones_like(misled.theta, dtype=torch.bool)
    level = from_masks(task, whole, misled.theta, [0, 1], 100, store=store, execution="stacked")
    assert level.run.task is task and level.accuracy.mean() > 0.8


# ---- which examples -------------------------------------------------------------------------------------------------


def test_the_easiest_and_the_hardest_are_the_ends_of_the_ranking():
    labels, scores = torch.zeros(6, dtype=torch.int64), torch.tensor([0.5, 0.1, 0.9, 0.3, 0.3, 0.7])
    assert diet_subset("easiest", labels, 3, generator(0), scores=scores).tolist() == [1, 3, 4]
    assert diet_subset("hardest", labels, 2, generator(0), scores=scores).tolist() == [2, 5]
    assert diet_subset("all", labels, 2, generator(0)).tolist() == list(range(6))


def test_a_balanced_choice_has_the_floor_of_each_class_and_the_rest_at_random():
    labels = torch.arange(4).repeat_interleave(torch.tensor([50, 20, 100, 10]))
    chosen = diet_subset("balanced", labels, 31, generator(0))
    counts = labels[chosen].bincount()
    assert len(chosen.unique()) == 31 and (counts >= 7).all()
    every = torch.stack([labels[diet_subset("balanced", labels, 31, generator(s))].bincount() for s in range(20)])
    assert len(every.unique(dim=0)) > 1 and (every.sum(1) == 31).all()


def test_random_choices_differ_between_seeds_and_not_within(store):
    options = {"steps": 1, "seeds": [0, 1], "store": store, "execution": "stacked"}
    runs = [pretrain_subset(quick(), "random", 60, **options) for _ in range(2)]
    first, second = runs[0].trained_on
    assert not torch.equal(first, second) and torch.equal(runs[1].trained_on[0], first)


def test_what_a_diet_refuses():
    labels = torch.arange(4)
    with pytest.raises(InputError, match="needs scores="):
        diet_subset("easiest", labels, 2, generator(0))
    with pytest.raises(InputError, match="diet is called 'eesiest'; did you mean easiest"):
        diet_subset("eesiest", labels, 2, generator(0))
    with pytest.raises(InputError, match="from 1 to 4"):
        diet_subset("random", labels, 5, generator(0))
    with pytest.raises(InputError, match="at least one step"):
        pretrain_subset(quick(), "all", steps=0)
    with pytest.raises(InputError, match="way to count"):
        tickets_on_a_diet(quick(), "all", steps=0, levels=1, count="exakt")
