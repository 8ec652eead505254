"""Every control has the ticket's density and breaks exactly one thing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surplus.data import Dataset, Splits
from surplus.errors import InputError
from surplus.pruning import Ticket, controls, density, inversion, keep_top, layer_densities
from surplus.pruning.counting import count
from surplus.pruning.evidence.controls import DENSE, MASKED, corrupted, smart_ratio_fits, train_controls, train_scratch
from surplus.pruning.evidence.training_cost import stretched, trained_steps, training_budget, training_macs
from surplus.pruning.schedules.imp import Level, at_start, imp, one_shot
from surplus.pruning.scoring import iterate_on_task, score_on_task
from surplus.pruning.structured.smaller import smaller_task
from surplus.space import WeightSpace
from surplus.tasks import Duration, Recipe, load, task_from
from surplus.training import Run, Store, fit


def make():
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10), nn.ReLU(), nn.Linear(10, 4))


def a_ticket(exclude=(), density=0.3):
    space = WeightSpace(make)
    theta = space.init(0)
    return space, Ticket(theta, keep_top(space, theta.abs(), density=density, exclude=exclude)), theta.abs()


def test_inversion_keeps_the_lowest_of_each_layer():
    space = WeightSpace(lambda: nn.Linear(5, 1, bias=False))
    score = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    mask = keep_top(space, score, count=2)
    assert inversion(space, mask, score).tolist() == [False, True, False, True, False]


def test_controls_share_density_and_break_one_thing_each():
    space, ticket, score = a_ticket()
    found = controls(space, ticket, seed=0, score=score)
    random = {f"random-{rule}" for rule in ("global", "uniform", "erk", "smart")}
    assert set(found) == {"shuffle", "inversion", "reinit"} | random
    assert {round(density(space, t.mask), 6) for t in found.values()} == {round(density(space, ticket.mask), 6)}
    layers = layer_densities(space, ticket.mask)
    assert layer_densities(space, found["shuffle"].mask) == layers == layer_densities(space, found["inversion"].mask)
    for name, control in found.items():
        assert torch.equal(control.theta, ticket.theta) == (name != "reinit")
        assert torch.equal(control.mask, ticket.mask) == (name == "reinit")


def test_controls_repeat_under_their_seed_and_spare_what_the_ticket_spared():
    space, ticket, score = a_ticket(exclude=("4",))
    one, same, other = (controls(space, ticket, seed, score, exclude=("4",)) for seed in (0, 0, 1))
    assert all(torch.equal(one[n].mask, same[n].mask) and torch.equal(one[n].theta, same[n].theta) for n in one)
    assert not torch.equal(one["shuffle"].mask, other["shuffle"].mask)
    assert not torch.equal(one["reinit"].theta, other["reinit"].theta)
    assert all(layer_densities(space, t.mask)["4.weight"] == 1 for t in one.values())
    assert "inversion" not in controls(space, ticket, 0)


def test_the_smart_ratio_is_left_out_where_three_tenths_of_the_last_layer_are_too_many():
    space, few, _ = a_ticket(density=0.01)  # 9 of 940; 0.3 of the last layer are 12
    assert "random-smart" not in controls(space, few, 0)
    assert not smart_ratio_fits(space, 11.9 / 940) and smart_ratio_fits(space, 12 / 940)
    _, enough, _ = a_ticket(density=0.02)
    last = layer_densities(space, controls(space, enough, 0)["random-smart"].mask)["4.weight"]
    assert last == pytest.approx(0.3, abs=0.02)


def test_a_ticket_starts_from_the_kept_weights_alone():
    _, ticket, _ = a_ticket()
    assert torch.equal(ticket.start, torch.where(ticket.mask, ticket.theta, 0))


# ---- trained --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("controls"))


@pytest.fixture(scope="module")
def task():
    return load("digits", widths=(24, 12)).with_recipe(duration="40it")


@pytest.fixture(scope="module")
def levels(task, store):
    return imp(task, levels=2, rate=0.6, rewind_step=5, seeds=[3, 4], store=store, execution="stacked")


@pytest.fixture(scope="module")
def trained(task, levels, store):
    names = (*MASKED, *DENSE)
    budget = training_budget(levels)
    return train_controls(task, levels[-1], step=5, names=names, budget=budget, store=store, execution="stacked")


def test_trained_controls_share_density_seeds_and_the_first_step(task, levels, trained):
    ticket = levels[-1]
    assert list(trained) == [*MASKED, *DENSE]
    for name in MASKED:
        level = trained[name]
        assert isinstance(level, Level) and level.run.seeds == (3, 4)
        assert [density(task.space, m) for m in level.masks] == [density(task.space, m) for m in ticket.masks]
        assert not level.run.theta[~level.masks].any()
        fresh = name in ("reinit", "magnitude-at-init")
        assert level.run.parts[0].spec["start_step"] == (0 if fresh else 5)
        assert torch.equal(level.start, ticket.start) != fresh
        assert torch.equal(level.masks, ticket.masks) == (name == "reinit")


def test_a_control_ends_as_if_it_were_trained_alone(task, trained, store):
    level = trained["random-erk"]
    alone = fit(
        task, seeds=[4], masks=level.masks[1:], start=level.start[1:], start_step=5, store=store, execution="spread"
    )
    torch.testing.assert_close(level.run.theta[1], alone.theta[0], atol=1e-4, rtol=1e-3)


def test_magnitude_controls_keep_the_largest_weights_before_and_after_training(task, levels, trained):
    d = levels[-1].density
    dense, start = levels[0].run.theta, task.space.init_many([3, 4])
    for name, points in (("magnitude-after-training", dense), ("magnitude-at-init", start)):
        expected = torch.stack([keep_top(task.space, p.abs(), density=d, min_per_layer=1) for p in points])
        assert torch.equal(trained[name].masks, expected)
    for mask, kept in zip(trained["inversion"].masks, levels[-1].masks, strict=True):
        assert layer_densities(task.space, mask) == layer_densities(task.space, kept)


def test_dense_controls_cost_no_more_than_the_ticket_and_the_longer_one_as_much_as_the_search(task, levels, trained):
    size = count(task.space.module, (1, 8, 8), levels[-1].masks[0])
    assert count(trained["small-parameters"].task.space.module, (1, 8, 8)).parameters <= size.nonzero
    assert count(trained["small-macs"].task.space.module, (1, 8, 8)).macs <= size.macs_nonzero
    assert trained_steps(trained["dense-longer"]) == 40 + 2 * 35
    assert isinstance(trained["dense-longer"], Run) and trained["dense-longer"].task.space.size == task.space.size


def test_a_score_s_mask_on_data_without_meaning_is_that_score_s_on_them(task, store):
    ticket = at_start(task, density=0.2, score="snip", seeds=[0], store=store)[-1]
    names = ("random-labels", "random-pixels", "inversion")
    found = train_controls(task, ticket, names=names, score="snip", store=store)
    for what in ("labels", "pixels"):
        false = corrupted(task, what)
        expected = iterate_on_task("snip", false, ticket.start[0], seed=0, density=ticket.density, min_per_layer=1)
        assert torch.equal(found[f"random-{what}"].masks[0], expected)
        assert not torch.equal(expected, ticket.masks[0])
    fits = 1 - (found["inversion"].masks & ticket.masks)[:, task.space.prunable].sum() / ticket.masks.sum()
    assert fits > 0.9  # what is kept by inversion is hardly ever kept by the ticket at this density


@pytest.mark.parametrize("score", ["movement", "snip"])
def test_a_score_that_chose_after_training_chooses_after_training_in_its_controls(task, store, score):
    options = {"store": store, "execution": "stacked"}
    dense, ticket = one_shot(task, density=0.2, score=score, rewind_step=5, seeds=[3, 4], **options)
    names = ("inversion", "random-labels")
    made = train_controls(task, ticket, step=5, names=names, score=score, trained=True, **options)
    false = imp(corrupted(task, "labels"), levels=0, rewind_step=5, seeds=[3, 4], **options)[0]
    for i, seed in enumerate((3, 4)):
        how = {"seed": seed, "trained": True}
        own = score_on_task(score, task, dense.run.theta[i], start=dense.start[i], **how)
        again = keep_top(task.space, own, density=0.2, min_per_layer=1)
        assert torch.equal(again, ticket.masks[i])  # the ticket's own score, and
        assert torch.equal(made["inversion"].masks[i], inversion(task.space, ticket.masks[i], own))
        misled = score_on_task(score, false.run.task, false.run.theta[i], start=false.start[i], **how)
        assert torch.equal(
            made["random-labels"].masks[i], keep_top(task.space, misled, density=ticket.density, min_per_layer=1)
        )


def test_corrupted_data_keep_their_values_and_lose_their_meaning(task):
    labels, pixels = corrupted(task, "labels"), corrupted(task, "pixels")
    agree = (labels.train.targets == task.train.targets).double().mean()
    assert 0.06 < agree < 0.14 and labels.test is task.test
    assert torch.equal(pixels.train.inputs.flatten(1).sort().values, task.train.inputs.flatten(1).sort().values)
    assert not torch.equal(pixels.train.inputs, task.train.inputs)
    table = Splits("t", *(Dataset.of(torch.rand(30, 4), torch.arange(30) % 3) for _ in range(2)))
    mixed = corrupted(task_from(table, "mlp", widths=(4,)), "pixels").train.inputs
    torch.testing.assert_close(mixed.sort().values, table.train.inputs.sort().values)


def test_text_has_no_pixels_and_numbers_have_no_labels():
    with pytest.raises(InputError, match="text"):
        corrupted(load("markov-text"), "pixels")
    with pytest.raises(InputError, match="classes"):
        corrupted(load("sinusoid"), "labels")


def test_names_and_budget_are_checked_before_training(task, levels):
    with pytest.raises(InputError, match="did you mean shuffle"):
        train_controls(task, levels[-1], names=("shufle",))
    with pytest.raises(InputError, match="budget=training_budget"):
        train_controls(task, levels[-1], names=("dense-longer",))
    with pytest.raises(InputError, match="scratch-E"):
        train_scratch(task, [], names=("scratch-C",))


def test_scratch_trains_the_small_architecture_afresh_for_equal_epochs_or_equal_multiply_adds(task, store):
    runs = []
    for seed, widths in ((3, (18, 9)), (4, (6, 3))):
        small, theta = smaller_task(task, load("digits", widths=widths).network())
        runs.append(fit(small.with_recipe(duration="10it"), seeds=[seed], start=theta[None], store=store))
    found = train_scratch(task, runs, store=store)
    macs = [64 * a + a * b + 10 * b for a, b in ((24, 12), (18, 9), (6, 3))]
    assert [trained_steps(r) for r in found["scratch-E"]] == [40, 40]
    assert [trained_steps(r) for r in found["scratch-B"]] == [
        round(40 * macs[0] / macs[1]),
        80,
    ]  # 3.7 times is cut to 2
    assert [r.seeds for r in found["scratch-B"]] == [(3,), (4,)]
    again = train_scratch(task, runs, ["scratch-E"], store=store)["scratch-E"]
    assert torch.equal(again[0].theta, found["scratch-E"][0].theta)


def test_a_longer_recipe_moves_its_milestones():
    recipe = Recipe(duration=Duration("30ep"), schedule="step", milestones=(Duration("20ep"), Duration("100it")))
    longer = stretched(recipe, 1.5)
    assert (longer.duration, *longer.milestones) == ("45ep", "30ep", "150it")
    assert stretched(recipe, 1.0) == recipe


def test_training_costs_three_forward_passes_of_the_kept_weights(task, levels):
    per_batch = 1438 / 23  # 23 batches of at most 64
    weights = 64 * 24 + 24 * 12 + 12 * 10
    assert training_macs(levels[0]) == pytest.approx(3 * weights * 40 * per_batch)
    kept = int(levels[-1].masks[0][task.space.prunable].sum())
    assert training_macs(levels[-1]) == pytest.approx(3 * kept * 35 * per_batch)
    assert training_budget(levels) == pytest.approx((40 + 35 + 35) / 40)


def test_streams_of_controls_are_apart():
    space, ticket, _ = a_ticket()
    masks = [t.mask for n, t in controls(space, ticket, 0).items() if n.startswith("random")]
    assert len({tuple(m.tolist()) for m in masks}) == len(masks)
