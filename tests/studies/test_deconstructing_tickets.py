from __future__ import annotations

import pytest
import torch

from surplus.networks import build
from surplus.pruning import layer_densities
from surplus.pruning.schedules import popup
from surplus.reparam import Supermask
from surplus.space import generator
from surplus.studies import Bench
from surplus.studies import deconstructing_tickets as study
from surplus.studies.deconstructing_tickets import ALONE, PROTOCOLS, RESCALING, SIGNS, ZEROING, Case
from surplus.tasks import Duration, Recipe
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("deconstructing")))


@pytest.fixture(scope="module")
def levels(bench):
    return study._levels(bench)


def test_networks_start_from_gaussian_weights_and_zero_biases(levels):
    space, start = levels[0].run.task.space, levels[0].start
    assert not start[:, ~space.prunable].any() and (start[:, space.prunable] != 0).all()
    w = space.split(start)["linear1.weight"]
    assert w.std().item() == pytest.approx((2 / (64 + 32)) ** 0.5, rel=0.05)


def test_a_cut_keeps_four_fifths_of_each_layer_and_nine_tenths_of_the_output(levels):
    kept = list(layer_densities(levels[0].run.task.space, levels[1].masks[0]).values())
    assert kept == pytest.approx([0.8, 0.8, 0.9], abs=0.01)


def test_the_densities_of_the_laptop_are_those_that_the_criteria_name():
    first, last = ((0.8**k * (64 * 128 + 128 * 64) + 0.9**k * 640) / 17_024 for k in PROTOCOLS["laptop"].levels)
    assert first == pytest.approx(0.18, abs=0.005) and last == pytest.approx(0.1, abs=0.006)
    assert PROTOCOLS["laptop"].one_cut == pytest.approx(0.262, abs=1e-3)


def test_every_mask_of_the_first_claim_is_of_one_density_and_stands_beside_a_random_one(bench):
    m = study.deconstructing_tickets(ALONE, bench)
    on = [r for r in m.rows if r["quantity"] == study.UNTRAINED]
    assert {r["row"] for r in on} == {*study.CRITERIA, "no mask", "trained"}
    assert all(r["density"] == (1 if r["row"] in ("no mask", "trained") else 0.262144) for r in on)
    learnt = [r for r in m.rows if "learnt" in r["quantity"]]
    assert len(learnt) == 4 and all(0.3 < r["density"] < 0.7 for r in learnt)


def test_the_density_of_learnt_masks_is_that_of_drawn_ones(bench, monkeypatch):
    seen = []
    monkeypatch.setattr(study, "expected", lambda level, *a, **k: seen.append(level) or popup.expected(level, *a, **k))
    _, density = study._learnt(bench, "glorot-normal", rescale=True)
    space, shares = seen[0].run.task.space, []
    for weights, z in zip(seen[0].start, seen[0].run.z, strict=True):
        part = Supermask(weights, popup._layers(space, ()), rescale=True)
        drawn = part.draw([generator(0, "drawn", r) for r in range(50)])
        shares.append((part.to_theta(z.expand(50, -1), drawn)[:, space.prunable] != 0).double().mean())
    assert density == pytest.approx(float(torch.stack(shares).mean()), abs=0.003)
    assert abs(density - seen[0].density) > 0.01  # of the rounded mask


def test_shuffled_masks_have_as_many_weights_of_each_layer_as_the_ticket_and_other_ones(bench, levels, monkeypatch):
    trained = []
    plain = study.from_masks
    monkeypatch.setattr(study, "from_masks", lambda task, m, *a, **k: trained.append(m) or plain(task, m, *a, **k))
    assert list(study._random(bench, levels)) == ["random mask", "shuffled mask"]
    space, ticket = levels[0].run.task.space, levels[-1].masks
    by_layer = [[layer_densities(space, mask) for mask in masks] for masks in (*trained, ticket)]
    assert by_layer[1] == by_layer[2] != by_layer[0]
    assert not torch.equal(trained[1], ticket) and not torch.equal(trained[1][0], trained[1][1])


def test_where_each_action_finds_its_masks_zero_finds_the_tickets_and_freezing_others(bench, levels):
    own = {name: study._own_masks(bench, name) for name in ("zero", "freeze")}
    for at in bench.protocol.levels:
        assert torch.equal(own["zero"][at], bench.accuracy(levels[at].run))
    first, last = bench.protocol.levels
    on_its_tickets = {at: study._acted(bench, levels[: at + 1], removed="freeze") for at in (first, last)}
    assert torch.equal(own["freeze"][first], on_its_tickets[first])
    assert not torch.equal(own["freeze"][last], on_its_tickets[last])


def test_actions_are_compared_on_their_own_masks_beside_those_that_decide(bench):
    m = study.deconstructing_tickets(ZEROING, bench)
    own = [r for r in m.rows if r["quantity"] == study.OWN]
    assert not any("verdict" in r for r in own) and "masks that zeroing found" in m.note
    arms = ["zero - freeze", "hybrid-a - zero", "zero", "freeze", "hybrid-a"]
    assert sorted(r["row"] for r in own) == sorted(2 * arms)
    for p in PROTOCOLS.values():
        assert set(p.levels) <= set(p.rounds) and list(p.rounds) == sorted(p.rounds)


def arms(monkeypatch, **accuracy):
    """Let the actions reach these accuracies, in points, in five seeds; 90 where none is given."""
    noise = 0.001 * torch.tensor([-1.0, 0, 1, 2, -2])

    def acted(bench, levels, kept="rewind", signs="own", removed="zero"):
        name = removed.replace("-", "_") if removed != "zero" else f"{kept}_{signs}"
        return accuracy.get(name, 90) / 100 + noise * (1 if name == "rewind_own" else 1.1)

    monkeypatch.setattr(study, "_acted", acted)


@pytest.mark.parametrize(
    ("constant", "random", "verdict"),
    [(90.5, 80, "holds"), (92, 80, "fails"), (90.5, 91, "fails"), (91, 80, "undecided")],
)
def test_signs_suffice_if_constants_do_as_well_and_random_signs_worse(bench, monkeypatch, constant, random, verdict):
    arms(monkeypatch, constant_own=constant, constant_random=random)
    assert study.deconstructing_tickets(SIGNS, bench).verdict == verdict


@pytest.mark.parametrize(
    ("freeze", "hybrid_a", "verdict"),
    [(85, 90, "holds"), (85, 89, "fails"), (91, 92, "fails"), (85, 89.5, "undecided")],
)
def test_zeroing_is_learning_if_freezing_is_worse_and_hybrids_are_not(bench, monkeypatch, freeze, hybrid_a, verdict):
    arms(monkeypatch, freeze=freeze, hybrid_a=hybrid_a)
    m = study.deconstructing_tickets(ZEROING, bench)
    assert m.verdict == verdict
    assert len({r["density"] for r in m.rows}) == 2


def test_the_protocol_of_rescaling_runs_when_it_is_made_small(bench):
    changes = {"seeds": 2, "case": Case(network="lenet-300-100", options={}), "learnt": Duration("3it"), "draws": 2}
    b = Bench("gpu", PROTOCOLS["gpu"].model_copy(update=changes), bench.store)
    m = study.deconstructing_tickets(RESCALING, b)
    assert m.seeds == 2 and len(m.rows) == 2 + 4
    recipe = next(iter(b.runs.values())).spec["recipe"]
    assert recipe["lr"] == 100 and recipe["batch_size"] == 250 and recipe["optimiser"] == "sgd"


def test_other_networks_are_shown_and_decide_nothing(tmp_path, provided_files, bench):
    quick = Recipe(optimiser="adam", lr=1e-3, batch_size=20, duration=Duration("2it"), schedule="constant")
    other = Case(data="cifar10", network="conv-2", options={"width": 0.1}, recipe=quick)
    b = Bench("smoke", bench.protocol.model_copy(update={"others": (other,)}), bench.store)
    m = study.deconstructing_tickets(ALONE, b)
    names = [r["row"] for r in m.rows if r["row"].startswith("conv-2: ")]
    assert len(names) == 2 * len(study.CRITERIA) + 2 and not any("verdict" in r for r in m.rows if r["row"] in names)


def test_the_networks_of_the_gpu_protocol_are_there():
    for case in (PROTOCOLS["gpu"].case, *PROTOCOLS["gpu"].others):
        shape = (1, 28, 28) if case.data == "mnist" else (3, 32, 32)
        assert build(case.network, shape, 10, **case.options) is not None
