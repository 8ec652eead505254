"""The study of searched sizes: equal costs, the same teacher, and its protocol on images made small."""

from __future__ import annotations

import pytest
import torch

from surplus.pruning import count
from surplus.pruning.structured.tas_search import Searched, SearchSettings
from surplus.pruning.structured.tas_sizes import Sizes
from surplus.studies import Bench, tas
from surplus.studies.tas import PROTOCOLS, RANDOM, TARGET, TEACHER, UNIFORM
from surplus.tasks import Augment, Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    changes = {"search": SearchSettings(epochs=1, batch_size=256)}
    return Bench("smoke", PROTOCOLS["smoke"].model_copy(update=changes), Store(tmp_path_factory.mktemp("tas")))


def test_all_families_cost_as_much_as_the_searched_sizes(bench):
    found, back = tas._search(bench, 0)
    for family in ("searched", "uniform", "random"):
        sizes = tas._sizes(bench, 0, family)
        assert back.macs(sizes) == pytest.approx(found.macs, rel=0.05)
    assert tas._sizes(bench, 0, "searched") == found.sizes


def test_the_same_teacher_serves_all_families_of_a_seed(bench):
    tas._accuracy(bench, 1, "uniform", True)
    tas._accuracy(bench, 1, "random", True)
    tas._accuracy(bench, 1, "uniform", False)
    rules = [e.spec["rule"] for e in bench.runs.values()]
    logits = {r["logits"] for r in rules if r}
    assert len(logits) == 1 and rules.count(None) == 2  # the teacher, and the student of labels alone
    widths = [e.spec["task"]["network"]["options"]["widths"] for e in bench.runs.values()]
    assert widths[0] == (32, 24, 16) or list(widths[0]) == [32, 24, 16]


def pretend(monkeypatch, macs):
    """Let the search of each seed end at these shares of the cost, target one half."""

    def search(bench, seed):
        back = tas.backbone(tas._task(bench, seed))
        full = back.macs(back.full)
        cost = int(macs[seed] * full)
        return Searched(Sizes(back.widths, ()), cost, full / 2, full / 20, torch.tensor([[cost, cost]])), back

    monkeypatch.setattr(tas, "_search", search)


@pytest.mark.parametrize(("macs", "verdict"), [((0.46, 0.5), "holds"), ((0.46, 0.51), "fails"), ((0.44, 0.5), "fails")])
def test_every_seed_must_meet_the_target(bench, monkeypatch, macs, verdict):
    pretend(monkeypatch, macs)
    assert tas.tas_study(TARGET, bench).verdict == verdict


def accuracies(monkeypatch, values):
    monkeypatch.setattr(tas, "_accuracy", lambda bench, seed, family, kd: values[family, kd] + seed / 100)
    monkeypatch.setattr(tas, "_costs", lambda bench: [])
    monkeypatch.setattr(tas, "_teacher", lambda bench, seed: None)
    monkeypatch.setattr(Bench, "accuracy", lambda self, run: torch.tensor([0.9]))


@pytest.mark.parametrize(("gain", "verdict"), [(0.01, "holds"), (0.0, "fails"), (-0.01, "fails")])
def test_each_claim_compares_the_arms_that_it_names(bench, monkeypatch, gain, verdict):
    base = {(family, kd): 0.9 for family in ("searched", "uniform", "random") for kd in (True, False)}
    accuracies(monkeypatch, base | {("searched", True): 0.9 + gain})
    assert tas.tas_study(UNIFORM, bench).verdict == verdict
    assert tas.tas_study(RANDOM, bench).verdict == verdict
    accuracies(monkeypatch, base | {("searched", True): 0.9 + gain, ("uniform", True): 0.9 + gain})
    assert tas.tas_study(TEACHER, bench).verdict == verdict


def test_both_families_must_gain_from_the_teacher(bench, monkeypatch):
    base = {(family, kd): 0.9 for family in ("searched", "uniform", "random") for kd in (True, False)}
    accuracies(monkeypatch, base | {("searched", True): 0.95})
    assert tas.tas_study(TEACHER, bench).verdict == "fails"


def test_the_protocol_on_images_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    recipe = gpu.recipe.model_copy(
        update={"duration": Duration("2it"), "warmup": Duration("1it"), "batch_size": 30, "augment": Augment(shift=1)}
    )
    search = gpu.search.model_copy(update={"epochs": 1, "batch_size": 15})
    changes = {"seeds": 2, "network": "resnet-cifar", "options": {"depth": 8, "width": 0.25}}
    small = gpu.model_copy(update=changes | {"recipe": recipe, "search": search})
    b = Bench("gpu", small, Store(tmp_path))
    measured = tas.tas_study(UNIFORM, b)
    assert {r["row"] for r in measured.rows[2:]} >= {"searched, distilled", "random, labels alone", "full network"}
    run = next(e for e in b.runs.values() if e.spec["task"]["network"]["name"] == "sized-resnet")
    options = run.spec["task"]["network"]["options"]
    assert len(options["widths"]) == 1 + 2 * sum(options["depths"])
    task = tas._task(b, 0)
    assert count(task.space.module, task.train.shape).macs == tas._search(b, 0)[1].macs(tas._search(b, 0)[1].full)
