from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from surplus.networks import build
from surplus.pruning import count, density
from surplus.pruning.schedules.imp import Level
from surplus.space import WeightSpace
from surplus.studies import Bench
from surplus.studies import predictive_controls as study
from surplus.studies.predictive_controls import PROTOCOLS, RANKING, SCATTER, SCRATCH, SHUFFLE
from surplus.tasks import Augment, Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("controls")))


@pytest.fixture(scope="module")
def measured(bench):
    return study.predictive_controls(SHUFFLE, bench)


def test_every_method_stands_beside_its_controls_at_one_density(measured):
    arms = [r for r in measured.rows if r["quantity"] == study.ACCURACY and "verdict" not in r]
    assert all(r["density"] == pytest.approx(0.05, abs=1e-3) for r in arms)
    names = {r["row"] for r in arms}
    for method in ("iterative", "SNIP", "magnitude at init"):
        assert {method, f"{method}, shuffle", f"{method}, reinit", f"{method}, inversion"} <= names
        assert {f"random-global, for {method}", f"random-erk, for {method}"} <= names
    assert "iterative, magnitude-after-training" in names and "SNIP, magnitude-after-training" not in names


def test_a_cost_is_the_method_s_accuracy_less_its_shuffle_s(measured):
    rows = {(r["row"], r["quantity"]): r["value"] for r in measured.rows}
    for method in ("iterative", "SNIP"):
        difference = rows[method, study.ACCURACY] - rows[f"{method}, shuffle", study.ACCURACY]
        assert rows[method, study.COST] == pytest.approx(difference, abs=1e-6)
    needs = [r["needs"] for r in measured.rows if r["quantity"] == study.COST]
    assert needs == ["> 2 SE", "not > 2 SE", "not > 2 SE"]


@pytest.mark.parametrize(
    ("costs", "verdict"),
    [({"iterative": 0.1, "SNIP": 0.0}, "holds"), ({"iterative": 0.1, "SNIP": 0.05}, "fails"),
     ({"iterative": 0.0, "SNIP": 0.0}, "fails")],
)  # fmt: skip
def test_the_shuffle_separates_only_if_it_costs_one_and_not_the_other(bench, measured, monkeypatch, costs, verdict):
    one = Bench("smoke", bench.protocol.model_copy(update={"scores": ("SNIP",)}), bench.store)
    found = []

    def accuracy(_, level):
        """0.9 for a method and for its controls, but for the shuffle."""
        found.append(level)
        method = "iterative" if len(found) <= 2 else "SNIP"
        noise = torch.tensor([0.001, -0.001]) * (len(found) % 2)
        return 0.9 + noise - (0 if len(found) % 2 else costs[method])

    monkeypatch.setattr(study, "_accuracy", accuracy)
    assert study.predictive_controls(SHUFFLE, one).verdict == verdict


def test_the_ratio_of_speed_ups_is_that_of_multiply_adds_counted_by_hand(monkeypatch):
    def make():
        net = nn.Sequential(
            nn.Conv2d(3, 10, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(10 * 32 * 32, 10, bias=False)
        )
        nn.init.constant_(net[0].weight, 2.0), nn.init.constant_(net[2].weight, 1.0)
        return net

    space = WeightSpace(make)
    n, conv, linear = 270 + 102_400, 270, 102_400
    total = round(0.9 * 0.1 * n)  # the convolution's weights are larger: global pruning keeps all of them
    fewer = conv * 1024 + (total - conv)
    uniform = 27 * 1024 + 10_240
    assert study._speedup_ratio(space, 0, 0.1) == pytest.approx(uniform / fewer, rel=1e-3)
    assert conv * 1024 + linear == count(space.module, (3, 32, 32)).macs


def test_the_ranking_is_told_from_every_seed_of_the_net_that_shows_it_best(bench, monkeypatch):
    ratios = iter([0.7, 0.9, 0.8, 1.1])
    monkeypatch.setattr(study, "_speedup_ratio", lambda space, seed, d: next(ratios))
    two = {"nets": {"small-conv": {}, "conv-2": {}}}
    measured = study.predictive_controls(RANKING, Bench("smoke", bench.protocol.model_copy(update=two), bench.store))
    assert measured.verdict == "holds" and measured.value == 0.9
    assert [(r["low"], r["high"]) for r in measured.rows[1:]] == [(0.7, 0.9), (0.8, 1.1)]


def test_compressions_are_those_of_the_whole_network(bench):
    levels = study.compressed(bench)
    space = levels[0].run.task.space
    found = [count(space.module, (1, 8, 8), level.masks[0]).compression for level in levels]
    assert found == pytest.approx([1, 4, 8], rel=0.005)
    assert all(level.run.seeds == (0, 1, 2) for level in levels)
    assert not (levels[2].masks & ~levels[1].masks).any()
    random = study._random(bench, levels[2])
    assert density(space, random.masks[0]) == levels[2].density


@pytest.mark.parametrize(("spread", "verdict"), [(0.05, "holds"), (0.01, "undecided"), (0.001, "fails")])
def test_scatter_is_a_ratio_of_spreads_over_seeds(bench, monkeypatch, spread, verdict):
    many = bench.protocol.model_copy(update={"spread_seeds": 20})
    levels = study.compressed(bench)
    monkeypatch.setattr(study, "compressed", lambda _: levels)
    monkeypatch.setattr(study, "_random", lambda _, level: level)
    draws = torch.randn(20, generator=torch.Generator().manual_seed(0))
    other = torch.randn(20, generator=torch.Generator().manual_seed(1))
    by_level = {id(levels[0]): 0.9 + 0.01 * other, id(levels[2]): 0.9 + spread * draws}
    monkeypatch.setattr(study, "_accuracy", lambda _, level: by_level.get(id(level), 0.9 + 0.01 * draws))
    measured = study.predictive_controls(SCATTER, Bench("smoke", many, bench.store))
    assert measured.verdict == verdict and measured.seeds == 20
    assert measured.value == pytest.approx(float(spread * draws.std() / (0.01 * other.std())), rel=1e-3)


def test_the_protocol_of_scratch_runs_when_it_is_made_small(tmp_path, provided_files):
    pytest.importorskip("torch_pruning")
    gpu = PROTOCOLS["gpu"]
    recipe = gpu.scratch.recipe.model_copy(
        update={"duration": Duration("2ep"), "batch_size": 20, "augment": Augment(), "milestones": (Duration("1ep"),)}
    )
    small = {
        "seeds": 2,
        "network": "small-conv",
        "options": {"norm": "batch"},
        "tuning": Duration("1ep"),
        "recipe": recipe,
    }
    p = gpu.model_copy(update={"scratch": gpu.scratch.model_copy(update=small)})
    measured = study.predictive_controls(SCRATCH, Bench("gpu", p, Store(tmp_path)))
    assert [r["row"] for r in measured.rows[1:]] == ["dense", "fine-tuned", "scratch-E", "scratch-B"]
    assert measured.seeds == 2 and measured.rows[0]["needs"] == "> -0.005"


def test_the_networks_of_all_protocols_are_there():
    assert PROTOCOLS["laptop"].scores == tuple(study.SCORES)
    for name, options in PROTOCOLS["laptop"].nets.items():
        assert WeightSpace(partial(build, name, (3, 32, 32), 10, **options)).size > 10_000
    assert PROTOCOLS["gpu"].scratch.network == "vgg-11" and PROTOCOLS["gpu"].network == "resnet-20"


def test_a_layer_that_is_left_one_weight_is_told_of(bench):
    task = study._task(bench)
    masks = torch.ones(3, task.space.size, dtype=torch.bool)
    block = next(b for b in task.space.blocks if b.prunable)
    masks[:2, block.start + 1 : block.stop] = False
    levels = {"SNIP": Level(0.5, torch.ones_like(masks), masks, None), "magnitude": Level(0.5, masks, masks, None)}
    (said,) = study._collapsed(task, levels)
    assert said.startswith(f"Magnitude leaves one of the {block.size:,} weights of {block.name} in 2 of 3 networks")
    masks[1] = True
    assert study._collapsed(task, levels) == []
