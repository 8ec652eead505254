from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.pruning import layer_densities
from surplus.pruning.schedules.imp import from_masks, imp, one_shot
from surplus.pruning.schedules.overlap import fine_tuned, overlap, ticket_arms
from surplus.registry import find
from surplus.space import WeightSpace
from surplus.tasks import load
from surplus.training import fit

QUICK = {"seeds": 2, "execution": "stacked"}


def quick():
    return load("digits", "mlp", widths=(24, 12)).with_recipe(
        optimiser="sgd", duration="70it", batch_size=50, lr=0.05, schedule="step", milestones=("40it",)
    )


def row(size):
    """A space of one layer without bias."""
    return WeightSpace(lambda: nn.Linear(size, 1, bias=False))


def drawn(space, seed):
    return torch.randn(space.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- R_p ------------------------------------------------------------------------------------------------------------


def test_the_worked_example():
    theta = torch.tensor([0.9, -0.8, 0.1, 0.2, -0.05, 0.6, 0.3, -0.4])
    other = torch.tensor([1, 0.05, -0.7, 0.3, 0.2, 0.8, 0.1, -0.6])
    assert overlap(row(8), theta, other, 0.25) == 0.5 and overlap(row(8), theta, other, 0.5) == 0.75
    assert overlap(row(8), theta, other, 1) == 1


def test_a_point_overlaps_with_its_multiples_and_all_weights_overlap():
    space = load("digits").space
    theta, other = drawn(space, 0), drawn(space, 1)
    for p in (0.1, 0.3, 0.7):
        assert overlap(space, theta, theta, p) == overlap(space, theta, -3 * theta, p) == 1
    assert overlap(space, theta, other, 1.0) == 1


def test_layers_count_by_themselves_and_removed_weights_are_no_candidates():
    space = load("digits").space
    theta, other = drawn(space, 0), drawn(space, 1)
    mask = drawn(space, 2) > 0.5
    theta = torch.where(mask, theta, 100.0)  # were they candidates, removed weights would be the largest of both
    other = torch.where(mask, other, 100.0)
    common = total = 0
    for b in (b for b in space.blocks if b.prunable):
        there = mask[b.slice].nonzero().squeeze(1).tolist()
        size = round(0.2 * len(there))
        tops = [set(sorted(there, key=lambda i: -abs(float(t[b.slice][i])))[:size]) for t in (theta, other)]
        common, total = common + len(tops[0] & tops[1]), total + size
    assert overlap(space, theta, other, 0.2, mask) == pytest.approx(common / total)
    assert overlap(space, theta, other, 0.2, mask, exclude=["head"]) != overlap(space, theta, other, 0.2, mask)


def test_independent_points_overlap_by_p():
    space = load("digits").space
    points = torch.stack([drawn(space, s) for s in range(20)])
    others = torch.stack([drawn(space, s) for s in range(20, 40)])
    for p in (0.1, 0.5):
        found = overlap(space, points, others, p)
        assert found.shape == (20,)
        assert (found.mean() - p).abs() < 4 * found.std() / 20**0.5


def test_rows_are_compared_with_rows_or_all_with_one_point():
    space = row(30)
    many, one = torch.stack([drawn(space, s) for s in range(3)]), drawn(space, 9)
    assert torch.equal(overlap(space, many, one), torch.stack([overlap(space, t, one) for t in many]))


def test_shares_that_count_nothing_are_refused():
    theta = torch.ones(8)
    for p in (0, 1.5):
        with pytest.raises(InputError, match=r"\(0, 1\]"):
            overlap(row(8), theta, theta, p)
    with pytest.raises(InputError, match="rounds to none"):
        overlap(row(8), theta, theta, 0.05)


# ---- fine-tuning ----------------------------------------------------------------------------------------------------


def test_fine_tuning_goes_on_from_the_weights_that_stay_to_the_exact_density():
    task = quick()
    levels = fine_tuned(task, density=0.3, rate=0.5, **QUICK)
    prunable = int(task.space.prunable.sum())
    assert len(levels) == 3 and int(levels[-1].masks[0][task.space.prunable].sum()) == round(0.3 * prunable)
    for before, level in pairwise(levels):
        assert (level.masks <= before.masks).all() and torch.equal(level.start, before.run.theta)
        assert not level.run.theta[~level.masks].any()
        for theta, mask, older in zip(before.run.theta, level.masks, before.masks, strict=True):
            cut = older & ~mask
            assert theta[cut].abs().max() <= theta[mask & task.space.prunable].abs().min()


def test_each_round_restarts_the_schedule_in_the_same_order_of_data():
    task = quick()
    dense, level = fine_tuned(task, density=0.3, rate=0.9, **QUICK)
    assert level.run.history["lr"] == dense.run.history["lr"] and len(set(dense.run.history["lr"])) == 2
    again = fit(task, masks=level.masks, start=dense.run.theta, **QUICK)
    assert again.keys == level.run.keys


def test_one_cut_of_fine_tuning_has_the_mask_of_one_shot_pruning():
    task = quick()
    assert torch.equal(
        fine_tuned(task, density=0.3, rate=0.9, **QUICK)[1].masks, one_shot(task, density=0.3, **QUICK)[1].masks
    )
    assert find("pruning schedule", "fine-tuning").fn is fine_tuned
    assert len(fine_tuned(task, density=1.0, **QUICK)) == 1


# ---- the arms -------------------------------------------------------------------------------------------------------


def test_all_arms_come_from_one_mask_that_cuts_all_layers_alike():
    task = quick()
    arms = ticket_arms(task, density=0.25, rate=0.5, **QUICK)
    ticket, dense = arms["ticket"], arms["dense"]
    assert all(torch.equal(arms[name].masks, ticket.masks) for name in ("reinit", "fine-tuned"))
    assert torch.equal(ticket.masks, imp(task, density=0.25, rate=0.5, scope="layer", **QUICK)[-1].masks)
    assert list(layer_densities(task.space, ticket.masks[0]).values()) == pytest.approx([0.25] * 3, abs=0.01)
    first = task.space.init_many([0, 1])
    assert torch.equal(ticket.start, first) and not torch.isclose(arms["reinit"].start, first).all()
    assert torch.equal(arms["fine-tuned"].start, dense.run.theta)
    assert torch.equal(arms["dense twice"].start, dense.run.theta) and arms["dense twice"].masks.all()
    trained = from_masks(task, ticket.masks, dense.run.theta, [0, 1], execution="stacked")
    assert trained.run.keys == arms["fine-tuned"].run.keys
    assert not torch.equal(arms["dense twice"].run.theta, dense.run.theta)


def test_arms_need_something_to_cut():
    with pytest.raises(InputError, match="below density 1"):
        ticket_arms(quick(), density=1.0, **QUICK)
