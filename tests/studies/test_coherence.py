from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from surplus.networks import build
from surplus.space import WeightSpace
from surplus.studies import Bench
from surplus.studies import coherence as study
from surplus.studies.coherence import BETTER, EASY, MEMORY, PROTOCOLS, REAL, coherence_study, equal_progress, half_way
from surplus.tasks import Duration
from surplus.training import Store


def bench(tmp_path, scale="smoke", **changes):
    return Bench(scale, PROTOCOLS[scale].model_copy(update=changes), Store(tmp_path))


def recorded(*curve):
    """A run in which accuracy on three right labels, and on one wrong label, went like this."""
    correct = torch.tensor(curve)[None, :, None].expand(1, -1, 4).clone()
    correct[0, :, 3] = 0
    return SimpleNamespace(record={"correct": correct})


def test_equal_progress_is_where_each_arm_is_for_good_at_what_the_slowest_reaches():
    right = torch.tensor([True, True, True, False])
    runs = {"fast": recorded(0.9, 0.5, 0.8, 0.9), "slow": recorded(0.8, 0.7, 0.6, 0.8)}
    assert equal_progress(runs, right) == {"fast": 2, "slow": 3}
    assert equal_progress({"one": recorded(0.9, 0.9, 0.9)}, right) == {"one": 0}
    assert study.by_epoch(runs["fast"], ~right).tolist() == [0, 0, 0, 0]


def test_half_way_is_ten_epochs_from_three_quarters_on():
    curve = torch.linspace(0, 1, 101)
    assert half_way(curve) == slice(75, 85)
    assert half_way(curve / 2) == half_way((curve >= 0.99).float()) == slice(91, 101)
    assert half_way(torch.zeros(4)) == slice(0, 4)


def test_labels_that_nobody_visited_do_not_count():
    run = recorded(0.5, 0.5)
    run.record["correct"][0, 0, 1] = torch.nan
    run.record["correct"][0, 0, 2] = 1.0
    assert study.by_epoch(run, torch.tensor([True, True, True, False])).tolist() == [0.75, 0.5]


def test_random_labels_keep_the_pictures_and_half_the_noisy_labels_are_wrong(tmp_path):
    b = bench(tmp_path)
    clean, random = study._clean(b, 3), study._random(b, 3)
    assert torch.equal(clean.train.inputs, random.train.inputs) and len(clean.train) == b.protocol.examples
    assert (clean.train.targets == random.train.targets).double().mean() < 0.3
    task, wrong = study._noisy(b, "digits", 100, b.protocol.noisy_recipe, 3)
    assert len(task.train) == 100 and abs(int(wrong.sum()) - 50) <= 5  # as near as whole examples per class allow


def test_groups_have_one_size_and_balanced_ones_all_classes():
    labels = torch.arange(60) % 3
    groups = study._groups((labels == 0).float() + torch.linspace(0, 0.5, 60), labels, 12, seed=0)
    assert {int(chosen.sum()) for chosen in groups.values()} == {12}
    assert labels[groups["hardest"]].eq(0).all() and not labels[groups["easiest"]].eq(0).any()
    assert labels[groups["hardest, classes balanced"]].bincount().tolist() == [4, 4, 4]


@pytest.mark.parametrize(("real", "verdict"), [([8.0, 9.0, 8.5], "holds"), ([1.0, 1.1, 1.2], "fails")])
def test_real_labels_must_be_three_times_as_coherent_at_every_early_look(tmp_path, monkeypatch, real, verdict):
    b = bench(tmp_path, seeds=3, looks=(0, 1, 8, 20), recipe=PROTOCOLS["smoke"].recipe)
    alike = lambda bench, task, seed: SimpleNamespace(seed=seed, real=bool((task.train.targets == _true(seed)).all()))
    _true = lambda seed: study._clean(b, seed).train.targets
    monkeypatch.setattr(study, "_watched", alike)
    monkeypatch.setattr(study, "_hits", lambda bench, run: torch.ones(2))
    late = {20: 100.0}  # under random labels: no part of the criterion
    value = lambda run, look: real[run.seed] if run.real else late.get(look, 1.0)
    monkeypatch.setattr(study, "_at", lambda bench, run, look: SimpleNamespace(m_coherence=value(run, look)))
    assert coherence_study(REAL, b).verdict == verdict


@pytest.mark.parametrize(("m3", "verdict"), [(0.5, "holds"), (0.78, "fails")])
def test_all_robust_averages_must_memorize_five_points_less(tmp_path, monkeypatch, m3, verdict):
    share = {"SGD": 0.8, "RM3": 0.7, "M3": m3, "winsorized": 0.6}
    b = bench(tmp_path, seeds=3)
    rules = {id(rule): name for name, rule in study.RULES.items()}
    monkeypatch.setattr(study, "_trained", lambda bench, task, rule, seed: SimpleNamespace(name=rules[id(rule)]))
    monkeypatch.setattr(study, "equal_progress", lambda runs, right: dict.fromkeys(runs, 0))
    monkeypatch.setattr(study, "by_epoch", lambda run, which: torch.full((30,), share[run.name]))
    monkeypatch.setattr(Bench, "accuracy", lambda self, run: torch.tensor([0.5]))
    monkeypatch.setattr(study, "_hits", lambda bench, run: torch.ones(b.protocol.noisy_examples))
    assert coherence_study(MEMORY, b).verdict == verdict


def test_the_protocol_for_a_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    p = PROTOCOLS["gpu"]
    short = lambda recipe: recipe.model_copy(update={"duration": Duration("2ep"), "batch_size": 20})
    b = bench(
        tmp_path, "gpu", seeds=2, nets=2, network="mlp", options={"widths": (8,)}, looks=(0, 1, 2), group=9,
        recipe=short(p.recipe), noisy_recipe=short(p.noisy_recipe), image_recipe=short(p.image_recipe),
    )  # fmt: skip
    for claim in (REAL, MEMORY, EASY):
        measured = coherence_study(claim, b)
        assert measured.rows and measured.seeds == 2


def test_images_are_compared_at_equal_progress(tmp_path, provided_files):
    short = PROTOCOLS["laptop"].image_recipe.model_copy(update={"duration": Duration("3ep"), "batch_size": 20})
    b = bench(tmp_path, "laptop", seeds=2, options={"widths": (8,)}, images="cifar10", image_recipe=short)
    measured = coherence_study(BETTER, b)
    assert {row["row"] for row in measured.rows} == {"RM3 - SGD", "M3 - SGD", "SGD", "RM3", "M3"}


def test_the_network_of_the_gpu_protocol_has_no_batch_norm():
    p = PROTOCOLS["gpu"]
    space = WeightSpace(lambda: build(p.network, (3, 32, 32), 10, **p.options))
    assert not space.batch_norms and space.size > 2e5
