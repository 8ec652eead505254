from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from surplus.landscape.connectivity import ExampleBarriers
from surplus.networks import build
from surplus.studies import Bench
from surplus.studies import tickets_on_a_data_diet as study
from surplus.studies.tickets_on_a_data_diet import CONNECTION, EASY, FEW, MATCHING, PROTOCOLS, REWINDING
from surplus.tasks import Augment, Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("diet")))


def bench(tmp_path, **changes):
    return Bench("smoke", PROTOCOLS["smoke"].model_copy(update=changes), Store(tmp_path))


def accuracies(monkeypatch, **arms):
    """Let chains end at these accuracies, a number per seed."""
    chains = {
        name.replace("_", "-"): [SimpleNamespace(end=False), SimpleNamespace(end=torch.tensor(v))]
        for name, v in arms.items()
    }
    monkeypatch.setattr(study, "chain", lambda bench, diet, steps: chains[diet if steps else "initial"])
    monkeypatch.setattr(study, "accuracy", lambda bench, level: level.end)
    monkeypatch.setattr(study, "_curve", lambda bench, name, levels: [])
    monkeypatch.setattr(study, "_by_chance", lambda bench, level: {"row": "random mask", "quantity": "test accuracy"})


@pytest.mark.parametrize(
    ("few", "verdict"),
    [
        ([0.95, 0.951, 0.949], "holds"),
        ([0.96, 0.961, 0.959], "holds"),  # better is no worse
        ([0.945, 0.946, 0.944], "fails"),  # worse by half a point, surely
        ([0.93, 0.931, 0.929], "fails"),
        ([0.97, 0.951, 0.929], "undecided"),  # a point of loss is within the noise
    ],
)
def test_few_examples_must_be_no_worse_and_not_by_a_point(tmp_path, monkeypatch, few, verdict):
    accuracies(monkeypatch, all=[0.951, 0.951, 0.949], random=few)
    assert study.tickets_on_a_data_diet(FEW, bench(tmp_path, seeds=3)).verdict == verdict
    accuracies(monkeypatch, random=[0.951, 0.951, 0.949], easiest=few)
    assert study.tickets_on_a_data_diet(EASY, bench(tmp_path, seeds=3)).verdict == verdict


@pytest.mark.parametrize(
    ("initial", "verdict"), [([0.8, 0.81], "holds"), ([0.895, 0.896], "fails"), ([0.8, 0.9], "undecided")]
)
def test_pre_training_must_win_by_more_than_a_point(tmp_path, monkeypatch, initial, verdict):
    accuracies(monkeypatch, all=[0.9, 0.901], initial=initial)
    assert study.tickets_on_a_data_diet(REWINDING, bench(tmp_path)).verdict == verdict


@pytest.mark.parametrize(
    ("early", "verdict"), [([0.5, 0.6, 0.5], "holds"), ([1.0, 1.0, 1.0], "fails"), ([0.7, 0.8, 1.0], "undecided")]
)
def test_the_share_of_connected_examples_must_rise(tmp_path, monkeypatch, early, verdict):
    def line(share):
        correct = (torch.arange(10) < round(10 * share)).expand(3, 10)
        return ExampleBarriers(torch.linspace(0, 1, 3), torch.zeros(3, 10), correct)

    monkeypatch.setattr(study, "lines", lambda bench, step: [line(s) for s in (early if not step else [0.8, 0.9, 0.8])])
    monkeypatch.setattr(study, "subsets", lambda bench: {"random 2": torch.tensor([0, 9])})
    assert study.tickets_on_a_data_diet(CONNECTION, bench(tmp_path)).verdict == verdict


def test_the_mechanics_of_real_levels_hold_and_broken_ones_are_counted(shared):
    levels = study.chain(shared, "all", 10)
    assert study._off_count(levels) <= 2.5 and study._escaped(levels) == 0
    assert study._escaped([levels[1], levels[0]]) > 1000 and study._off_count([levels[1], levels[0]]) > 100
    verdicts = [r["verdict"] for r in study.tickets_on_a_data_diet(MATCHING, shared).rows if "verdict" in r]
    assert verdicts[1:] == ["holds", "holds"]


def test_arms_share_seeds_and_differ_in_their_starting_points(shared):
    whole, few, initial = (
        study.chain(shared, diet, steps)[0] for diet, steps in (("all", 10), ("random", 10), ("all", 0))
    )
    assert whole.run.seeds == few.run.seeds == initial.run.seeds
    assert torch.equal(initial.start, whole.run.task.space.init_many(shared.seeds))
    away = [(level.start - initial.start).norm() for level in (whole, few)]
    assert min(away) > 0 and not torch.equal(whole.start, few.start)
    steps = {e.spec["start_step"] for e in shared.runs.values()}
    assert {0, 10} <= steps


def test_subsets_are_the_ends_of_el2n(shared):
    parts, scores = study.subsets(shared), study.el2n(shared)
    easiest, hardest, random = parts.values()
    assert len(easiest) == len(hardest) == len(random) == 100
    assert scores[easiest].max() <= scores.sort().values[99] and scores[hardest].min() >= scores.sort().values[-100]
    assert scores[easiest].mean() < scores[random].mean() < scores[hardest].mean()


def test_the_protocol_for_a_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    recipe = gpu.recipe.model_copy(update={"duration": Duration("3ep"), "batch_size": 20, "augment": Augment(shift=1)})
    small = {"seeds": 2, "levels": 1, "fifth": 1, "steps": 4, "sooner": 2, "share": 0.5, "nets": 1, "score_steps": 3}
    small |= {"options": {"width": 0.25}, "recipe": recipe, "execution": "stacked"}
    b = Bench("gpu", gpu.model_copy(update=small), Store(tmp_path))
    for claim in (REWINDING, FEW, EASY, MATCHING):
        measured = study.tickets_on_a_data_diet(claim, b)
        assert measured.rows and any(r["row"].startswith("random") for r in measured.rows), claim.slug


def test_the_networks_of_the_protocols_are_there():
    laptop, gpu = PROTOCOLS["laptop"], PROTOCOLS["gpu"]
    assert sum(w.numel() for w in build(laptop.network, (1, 28, 28), 10).parameters()) == 266_610
    assert build(gpu.network, (3, 32, 32), 10, **gpu.options) is not None
    assert round(gpu.share * 50_000) == 3200 and 0.8**gpu.levels < 0.11 and laptop.shared < 8 * 79
