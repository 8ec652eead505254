"""The study of the consensus subnetwork: its arms, its thresholds, and its protocol on images made small."""

from __future__ import annotations

import pytest
import torch

from surplus.stats import Interval
from surplus.studies import Bench, consensus_subnetwork
from surplus.studies.consensus_subnetwork import AGREE, BUDGET, IMAGES, PROTOCOLS, SAME, WITH, Found
from surplus.tasks import Augment, Duration
from surplus.training import Store

UNITS = 8


def faked(monkeypatch, polarised, free, kept=4):
    """Let training find these (gated, static, consensus), one triple per seed."""

    def trained(bench, seed, name, options=None):
        gated, static, consensus = (polarised if name == WITH else free)[seed]
        return Found(gated, static, torch.arange(UNITS) < kept, consensus)

    monkeypatch.setattr(consensus_subnetwork, "_trained", trained)
    monkeypatch.setattr(consensus_subnetwork, "controls", lambda bench, options: {"random blocks": [0.9] * 3})


@pytest.fixture
def bench(tmp_path):
    return Bench("laptop", PROTOCOLS["laptop"].model_copy(update={"seeds": 3}), Store(tmp_path))


SURE = [(0.97, 0.97, 1.0), (0.98, 0.98, 0.999), (0.975, 0.975, 1.0)]
LOOSE = [(0.97, 0.93, 0.8), (0.98, 0.95, 0.82), (0.975, 0.94, 0.78)]


def test_the_claims_hold_where_gates_agree_and_only_then(bench, monkeypatch):
    faked(monkeypatch, SURE, LOOSE)
    for claim in (SAME, BUDGET, AGREE):
        assert consensus_subnetwork.consensus_study(claim, bench).verdict == "holds"


def test_a_loss_of_a_point_on_freezing_fails(bench, monkeypatch):
    faked(monkeypatch, [(g, g - 0.01, c) for g, _, c in SURE], LOOSE)
    assert consensus_subnetwork.consensus_study(SAME, bench).verdict == "fails"


def test_without_a_loss_in_the_free_arm_the_first_claim_fails(bench, monkeypatch):
    faked(monkeypatch, SURE, SURE)
    assert consensus_subnetwork.consensus_study(SAME, bench).verdict == "fails"
    assert consensus_subnetwork.consensus_study(AGREE, bench).verdict == "fails"


@pytest.mark.parametrize(("kept", "verdict"), [(4, "holds"), (3, "fails"), (5, "fails"), (8, "fails")])
def test_a_whole_block_off_is_too_much(bench, monkeypatch, kept, verdict):
    faked(monkeypatch, SURE, LOOSE, kept)
    assert consensus_subnetwork.consensus_study(BUDGET, bench).verdict == verdict


def test_below_is_the_mirror_of_above():
    def interval(low, high):
        return Interval((low + high) / 2, low, high, 0.95, 3)

    assert consensus_subnetwork.below(interval(0.1, 0.2), 0.3) == "holds"
    assert consensus_subnetwork.below(interval(0.1, 0.4), 0.3) == "undecided"
    assert consensus_subnetwork.below(interval(0.3, 0.4), 0.3) == "fails"


def test_controls_have_as_many_blocks_as_the_network_that_they_stand_beside(tmp_path, monkeypatch):
    b, seen = Bench("smoke", PROTOCOLS["smoke"].model_copy(update={"seeds": 1}), Store(tmp_path)), []
    inside = Bench.accuracy
    monkeypatch.setattr(Bench, "accuracy", lambda self, run: seen.append(run.task.space.module) or inside(self, run))
    found = consensus_subnetwork._trained(b, 0, WITH)
    arms = consensus_subnetwork.controls(b, b.protocol.options)
    assert list(arms) == ["all blocks", "random blocks", "random blocks, cut after training"]
    blocks = [len(module.blocks) for module in seen]  # gated, static; both again; then the three controls
    left = int(found.kept.sum())
    assert blocks == [4, left, 4, left, 4, left, left] and left < 4
    assert [sum(module.units) for module in seen] == [4, 0, 4, 0, 0, 0, 0]


def test_blocks_that_always_run_stay_when_others_are_cut(tmp_path):
    b = Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path))
    task = consensus_subnetwork._task(b, 0, {"width": 16, "blocks": 4})
    start = task.space.init(0)
    whole = consensus_subnetwork._from(b, *consensus_subnetwork.static_task(task, start, torch.ones(4).bool()), 0)
    small, theta = consensus_subnetwork._without(whole, [1, 0, 1, 1, 0][:4], torch.tensor([False, True, False]))
    assert len(small.space.module.blocks) == 2 and small.space.size == len(theta)


def test_the_protocol_on_images_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    recipe = gpu.recipe.model_copy(update={"duration": Duration("2ep"), "batch_size": 30, "augment": Augment(shift=1)})
    changes = {"seeds": 2, "depths": (14,), "options": {"width": 0.25}, "recipe": recipe}
    b = Bench("gpu", gpu.model_copy(update=changes), Store(tmp_path))
    measured = consensus_subnetwork.consensus_study(IMAGES, b)
    assert [r["row"] for r in measured.rows[:2]] == [f"{WITH} - all blocks", f"{WITH} - random blocks"]
    assert {r["row"] for r in measured.rows[2:]} == {
        f"{name}, depth 14" for name in (WITH, "all blocks", "random blocks", "random blocks, cut after training")
    }
