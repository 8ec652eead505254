from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch

from surplus.errors import InputError
from surplus.studies import Bench, Untestable, c_score, data, run_study
from surplus.studies.c_score import DENSITY, FLIPPED, HUMAN, PROTOCOLS, PROXY
from surplus.tasks import Duration
from surplus.training import Store


def bench(tmp_path, scale="smoke", **changes):
    return Bench(scale, PROTOCOLS[scale].model_copy(update=changes), Store(tmp_path))


def test_published_scores_that_separate_perfectly_are_not_what_was_claimed(tmp_path, provided_files):
    measured = c_score.c_score_study(HUMAN, bench(tmp_path))
    assert measured.verdict == "fails" and measured.value == 1  # 1 is not within 0.01 of 0.695
    assert [r["labels"] for r in measured.rows if "labels" in r] == ["aggregate", "worse", "random1"]


def test_published_scores_near_the_expected_areas_hold(tmp_path, provided_files, monkeypatch):
    monkeypatch.setattr(c_score, "AREAS", {"aggregate": 0.995, "worse": 1.0, "random1": 1.005})
    assert c_score.c_score_study(HUMAN, bench(tmp_path)).verdict == "holds"


def test_without_the_files_the_claim_says_what_it_needs(tmp_path, no_files):
    result = run_study("c-score", "smoke", Store(tmp_path))
    assert result.verdicts[HUMAN.slug] == "undecided"
    assert result.measured[3].note.startswith("needs the files scores/")


def test_scores_in_another_order_than_the_labels_are_refused(tmp_path, provided_files):
    table = pq.read_table(provided_files / data.CSCORES)
    labels = table.column("label").to_numpy()
    table = table.set_column(1, "label", [labels[::-1].copy()])
    pq.write_table(table, provided_files / data.CSCORES)
    with pytest.raises(InputError, match="labels differ"):
        c_score.c_score_study(HUMAN, bench(tmp_path))


def test_the_protocol_for_a_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    recipe = PROTOCOLS["gpu"].recipe.model_copy(update={"duration": Duration("2ep"), "batch_size": 16})
    small = bench(tmp_path, "gpu", runs=2, ratios=(0.3, 0.7), options={"width": 0.05}, recipe=recipe)
    measured = c_score.c_score_study(FLIPPED, small)
    assert -1 <= measured.value <= 1 and measured.rows[0]["quantity"] == "Spearman with the published scores"
    assert len(small.runs) == 4


@pytest.mark.parametrize(("gap", "verdict"), [(0.05, "holds"), (-0.05, "fails"), (0.0, "fails")])
def test_learning_speed_must_beat_every_kernel_proxy(tmp_path, monkeypatch, gap, verdict):
    found = {name: [0.1] * 3 for name in (*c_score.KERNELS, "local outlier factor", "random")}
    found |= {"learning speed": [0.8, 0.81, 0.82], "signed density": [0.8 - gap, 0.81 - gap, 0.82 - gap]}
    monkeypatch.setattr(c_score, "_agreements", lambda bench, proxies: {n: found.get(n, [0.0] * 3) for n in proxies})
    assert c_score.c_score_study(PROXY, bench(tmp_path)).verdict == verdict


def test_density_is_judged_by_its_distance_to_the_same_class_density_and_by_chance(tmp_path, monkeypatch):
    found = {
        "density": [0.1, 0.11],
        "same-class density": [0.7, 0.72],
        "signed density": [0.5, 0.5],
        "random": [0.0, 0.0],
    }
    monkeypatch.setattr(c_score, "_agreements", lambda bench, proxies: {name: found[name] for name in proxies})

    def told(bench, task, seed):
        return -(task.train.targets != data.splits("digits", seed).train.targets).float()

    seeing = bench(tmp_path, seeds=2)
    monkeypatch.setitem(c_score._KERNEL_PROXIES, "density", told)  # a density that knows the wrong labels
    measured = c_score.c_score_study(DENSITY, seeing)
    assert measured.verdict == "fails" and measured.value == 1 and measured.rows[0]["verdict"] == "holds"


def test_a_regular_example_is_foretold_and_a_flipped_one_is_not(tmp_path):
    b = bench(tmp_path, runs=10)
    task, wrong = c_score._task(b, 0)
    c = c_score.measured_c(b, task, 0)
    assert torch.all((c >= 0) & (c <= 1)) and c[wrong].mean() < 0.1 and c[~wrong].mean() > 0.8


def test_subsets_too_small_for_all_classes_are_said_to_be(tmp_path):
    b = bench(tmp_path, ratios=(0.005,))
    with pytest.raises(Untestable, match="no example of some class"):
        c_score.measured_c(b, c_score._task(b, 0)[0], 0)


def test_learning_speed_is_a_mean_of_probabilities(tmp_path):
    b = bench(tmp_path)
    task, wrong = c_score._task(b, 0)
    s = c_score.speed(b, task, 0)
    assert torch.all((s >= 0) & (s <= 1)) and s[wrong].mean() < s[~wrong].mean()
