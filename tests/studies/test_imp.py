from __future__ import annotations

import pytest
import torch

from surplus.networks import build
from surplus.pruning import density, layer_densities
from surplus.studies import Bench, imp
from surplus.studies.imp import ACCURACY, EARLIER, ITERATIVE, PROTOCOLS, REWINDING, TICKET
from surplus.tasks import Augment, Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("imp")))


@pytest.fixture(scope="module")
def levels(bench):
    return imp._levels(bench)


def test_levels_keep_four_tenths_of_each_layer_and_seven_of_the_output(levels):
    space = levels[0].run.task.space
    kept = list(layer_densities(space, levels[1].masks[0]).values())
    assert kept[:-1] == pytest.approx([0.4] * (len(kept) - 1), abs=0.01) and kept[-1] == pytest.approx(0.7, abs=0.01)


def test_one_cut_and_shuffle_have_the_layer_densities_of_the_ticket_and_random_its_total(bench, levels):
    space, ticket = levels[0].run.task.space, levels[-1]
    once, chance = imp.one_cut(bench, levels, 3), imp.random_places(bench, levels, 3)
    even = imp.random_places(bench, levels, 3, "random, uniform")
    for k in range(2):
        assert layer_densities(space, once.masks[k]) == layer_densities(space, ticket.masks[k])
        assert density(space, chance.masks[k]) == density(space, ticket.masks[k])
        assert not torch.equal(once.masks[k], ticket.masks[k])
        assert density(space, even.masks[k]) == density(space, ticket.masks[k])
        assert list(layer_densities(space, even.masks[k]).values()) == pytest.approx([ticket.density] * 3, abs=5e-3)
    assert not torch.equal(chance.masks[0], chance.masks[1])


def test_a_ticket_starts_from_its_own_initial_weights_and_keeps_removed_ones_at_zero(levels):
    ticket = levels[-1]
    assert torch.equal(ticket.start, levels[0].run.task.space.init_many([0, 1]))
    assert not ticket.run.theta[~ticket.masks].any()


def test_the_small_dense_network_has_at_most_as_many_weights(levels):
    task, p = levels[0].run.task, PROTOCOLS["smoke"]
    for weights in (3000, 500, 150):
        small = imp.smaller(task, p, weights)
        count = int(small.space.prunable.sum())
        assert 0.5 * weights < count <= weights
        assert small.train is task.train
    assert imp.smaller(task, p, 1).network.options["widths"] == (1, 1)  # the least there is


def steps(monkeypatch, ticket, dense, reinit):
    """Let the arms reach their lowest validation loss at these steps."""
    found = iter([ticket, dense, reinit, [60] * 5, [60] * 5])
    monkeypatch.setattr(imp, "_best_step", lambda bench, run, looks: torch.tensor(next(found)))


@pytest.mark.parametrize(
    ("ticket", "verdict"),
    [([20] * 5, "holds"), ([20, 20, 20, 40, 40], "undecided"), ([60, 60, 60, 20, 20], "undecided")],
)
def test_a_ticket_is_earlier_when_it_is_so_for_every_one_of_five_seeds(bench, monkeypatch, ticket, verdict):
    five = Bench("smoke", bench.protocol.model_copy(update={"seeds": 5, "levels": 1}), bench.store)
    steps(monkeypatch, ticket, [40] * 5, [60] * 5)
    measured = imp.imp_study(EARLIER, five)
    assert measured.verdict == verdict
    assert measured.note.startswith("too short") == (ticket.count(60) > 2)


def test_a_ticket_that_is_later_than_the_dense_network_fails(bench, monkeypatch):
    five = Bench("smoke", bench.protocol.model_copy(update={"seeds": 5, "levels": 1}), bench.store)
    steps(monkeypatch, [40] * 5, [20] * 5, [60] * 5)
    assert imp.imp_study(EARLIER, five).verdict == "fails"


def test_the_lowest_validation_loss_is_found_among_the_looks(bench, levels):
    run = bench.fit(levels[0].run.task, seeds=[0, 1], keep=[20, 40, 60], execution="stacked")
    assert imp._best_step(bench, run, [20, 40, 60]).tolist() == [60, 60]
    assert imp._best_step(bench, run, [40, 20]).tolist() == [40, 40]


def test_both_random_masks_stand_beside_the_ticket_in_every_claim(bench, levels):
    for claim in (TICKET, ITERATIVE, EARLIER):
        names = {r["row"] for r in imp.imp_study(claim, bench).rows}
        assert {"ticket", "random", "random, uniform"} <= names


def test_each_arm_tells_its_accuracy_where_its_loss_was_lowest_and_at_the_end(bench, levels, monkeypatch):
    monkeypatch.setattr(imp, "_best_step", lambda bench, run, looks: torch.tensor([20, 60]))
    rows = imp.imp_study(EARLIER, bench).rows
    value = {(r["row"], r["quantity"]): r["value"] for r in rows}
    names = ("ticket", "dense", "reinit", "random", "random, uniform")
    for name in names:
        assert (name, "test accuracy at the lowest validation loss") in value and (
            name,
            f"{ACCURACY} at the end",
        ) in value
    dense = bench.fit(levels[0].run.task, seeds=[0, 1], keep=[20, 40, 60], execution="stacked")
    mixed = torch.stack([dense.at(20)[0], dense.at(60)[1]])
    right = [
        (
            levels[0].run.task.space.write(w)(dense.task.prepare(dense.task.test.inputs)).argmax(1)
            == dense.task.test.targets
        )
        for w in mixed
    ]
    want = torch.stack(right).double().mean()
    assert value["dense", "test accuracy at the lowest validation loss"] == pytest.approx(float(want), abs=1e-6)
    assert value["dense", f"{ACCURACY} at the end"] == pytest.approx(float(bench.accuracy(dense).mean()))


def test_kept_weights_moved_farther_than_removed_ones_and_random_ones_as_far(bench, levels):
    rows = [r for r in imp.imp_study(TICKET, bench).rows if r["quantity"] == imp.MOVED]
    assert [r["density"] for r in rows if r["row"] == "ticket"] == [v.density for v in levels[1:]]
    for row in rows:
        assert row["value"] > 1.2 if row["row"] == "ticket" else row["value"] == pytest.approx(1, abs=0.15)


def test_the_laptop_looks_every_20_steps_and_the_gpu_every_100():
    assert (PROTOCOLS["laptop"].every, PROTOCOLS["gpu"].every) == (20, 100)


def test_the_protocol_of_rewinding_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    recipe = gpu.rewinding.recipe.model_copy(
        update={"duration": Duration("3ep"), "batch_size": 20, "augment": Augment(shift=1)}
    )
    changes = {"seeds": 2, "levels": 1, "steps": (0, 4), "options": {"width": 0.25}, "recipe": recipe}
    small = gpu.model_copy(update={"rewinding": gpu.rewinding.model_copy(update=changes)})
    b = Bench("gpu", small, Store(tmp_path))
    measured = imp.imp_study(REWINDING, b)
    assert [r["row"] for r in measured.rows[1:]] == [
        "rewound to step 0",
        "rewound to step 4",
        "random, from step 4",
        "random, uniform, from step 4",
    ]
    assert measured.seeds == 2
    assert all(r["density"] == pytest.approx(0.8, abs=1e-4) for r in measured.rows[1:])  # of what cuts may touch
    from_four = [e.spec["start_step"] for e in b.runs.values()]
    assert from_four.count(4) == 2 + 4  # the ticket's and the random masks', two seeds


def test_the_networks_of_the_gpu_protocol_are_there():
    p = PROTOCOLS["gpu"]
    lenet = build(p.network, (1, 28, 28), 10, **p.options)
    assert sum(w.numel() for w in lenet.parameters()) == 266_610
    assert build(p.rewinding.network, (3, 32, 32), 10) is not None
