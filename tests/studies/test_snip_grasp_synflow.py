from __future__ import annotations

import pytest
import torch
from torch import nn

from surplus.pruning import layer_densities, shuffle
from surplus.pruning.masks import density
from surplus.space import WeightSpace
from surplus.studies import Bench
from surplus.studies import snip_grasp_synflow as module
from surplus.studies.snip_grasp_synflow import COLLAPSE, CONSERVED, ORDER, PROTOCOLS, ROUNDS
from surplus.tasks import Augment, Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("pai")))


def test_masks_are_exact_and_differ_between_seeds_and_scores(bench):
    task = module._deep(bench)
    masks = {name: module._masks(bench, task, 0.05, *how) for name, how in ROUNDS.items()}
    masks["random"] = module._random(bench, task, 0.05)
    for pair in masks.values():
        assert density(task.space, pair[0]) == density(task.space, pair[1]) == pytest.approx(0.05, abs=1e-4)
        assert not torch.equal(pair[0], pair[1])
    assert not torch.equal(masks["SNIP"][0], masks["GraSP"][0])
    uniform = layer_densities(task.space, masks["random"][0]).values()
    assert max(uniform) - min(uniform) < 0.01
    moved = shuffle(task.space, masks["SNIP"][0], module._chance(0, "shuffle"))
    assert layer_densities(task.space, moved) == layer_densities(task.space, masks["SNIP"][0])


def test_the_emptiest_layer_is_that_of_fewest_weights(bench):
    task = module._deep(bench)
    masks = torch.ones(2, task.space.size, dtype=torch.bool)
    masks[1, task.space["linear3.weight"].slice] = False
    assert module._fewest(task, masks).tolist() == [640, 0]  # 64 x 10, the last one


def test_a_condition_on_every_seed_is_undecided_where_seeds_disagree():
    verdicts = [
        module._always("x", "= 0", 0.1, torch.tensor(v), torch.tensor(v) == 0).verdict for v in ([0, 0], [0, 1], [1, 1])
    ]
    assert verdicts == ["holds", "undecided", "fails"]


def test_what_is_not_conserved_fails(bench, monkeypatch):
    assert module.snip_grasp_synflow(CONSERVED, bench).verdict == "holds"
    monkeypatch.setattr(module, "synflow", lambda space, theta, x: theta.abs().double())
    failed = module.snip_grasp_synflow(CONSERVED, bench)
    assert failed.verdict == "fails" and all(row["value"] > 0.01 for row in failed.rows)


def test_imbalance_of_a_flow_on_paper():
    space = WeightSpace(lambda: nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)))
    between, units = module._imbalance(space, torch.tensor([3.0, 5.0, 3.0, 5.0]))
    assert (between, units) == (0, 0)
    between, units = module._imbalance(space, torch.tensor([3.0, 5.0, 4.0, 4.0]))
    assert between == 0 and units == pytest.approx(1 / 3)
    assert module._imbalance(space, torch.tensor([3.0, 5.0, 3.0, 9.0]))[0] == pytest.approx(0.5)


def test_the_verdict_on_collapse_rests_on_counts_that_stand_in_its_rows(bench):
    measured = module.snip_grasp_synflow(COLLAPSE, bench)
    conditions = {row["row"]: row["verdict"] for row in measured.rows if "verdict" in row}
    assert set(conditions) == {"SynFlow(100)", "SynFlow(1)", "SynFlow(100) - SNIP", "SynFlow(100) - magnitude"}
    counts = {row["row"]: row["value"] for row in measured.rows if row["quantity"] == module.FEWEST}
    assert counts["SynFlow(1)"] == 0 < counts["SynFlow(100)"]
    assert {"SNIP(100)", "GraSP", "random", "SynFlow(100), with biases"} <= set(counts)
    assert counts["SynFlow(100), with biases left out"] > counts["SynFlow(100), with biases"]
    trained = [row["row"] for row in measured.rows if row["quantity"] == module.ACCURACY]
    assert len(trained) == len(set(trained)) == 7


def test_the_comparison_on_pictures_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    short = {
        "duration": Duration("2ep"),
        "batch_size": 20,
        "milestones": (Duration("1ep"),),
        "augment": Augment(shift=1),
    }
    changes = {
        "seeds": 2,
        "network": "resnet-cifar",
        "options": {"depth": 8, "width": 0.25},
        "densities": (0.5, 0.3),
        "rate": 0.6,
        "rewind_step": 2,
        "execution": "stacked",
        "recipe": gpu.recipe.model_copy(update=short | {"precision": "float32"}),
    }
    bench = Bench("gpu", gpu.model_copy(update=changes), Store(tmp_path))
    measured = module.snip_grasp_synflow(ORDER, bench)
    names = {row["row"] for row in measured.rows if " - " not in row["row"]}
    assert names == {*ROUNDS, "random", "ticket"}
    assert sum("verdict" in row for row in measured.rows) == 4
    assert {e.spec["start_step"] for e in bench.runs.values()} == {0, 2}
