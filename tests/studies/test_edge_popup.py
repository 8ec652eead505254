from __future__ import annotations

import pytest
import torch

from surplus.studies import Bench
from surplus.studies import edge_popup as study
from surplus.studies.edge_popup import MIDDLE, PROTOCOLS, SIGNED, TRAINED, WIDER
from surplus.tasks import Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("popup")))


def found(monkeypatch, **accuracy):
    """Let subnetworks reach these accuracies, in points, by share or width."""
    noise = 0.001 * torch.tensor([-1.0, 0, 1])

    def by(bench, task, keep, weights="signed-kaiming"):
        units = task.network.options["widths"][0]
        return accuracy.get(f"k{keep * 10:g}", accuracy.get(f"h{units}", 90)) / 100 + noise * units / 32

    monkeypatch.setattr(study, "_found", by)
    monkeypatch.setattr(study, "_as_it_is", lambda *_: 0.1 + 2 * noise)
    monkeypatch.setattr(study, "_trained", lambda *_: 0.95 + noise)


@pytest.mark.parametrize(("middle", "verdict"), [(92, "holds"), (88, "fails")])
def test_the_middle_is_best_if_it_beats_nearly_all(bench, monkeypatch, middle, verdict):
    found(monkeypatch, k5=middle)
    assert study.edge_popup_study(MIDDLE, bench).verdict == verdict


def test_the_left_of_the_inverted_u_is_shown_and_decides_nothing(bench, monkeypatch):
    found(monkeypatch, k1=95, k5=92)
    m = study.edge_popup_study(MIDDLE, bench)
    left = next(r for r in m.rows if r["row"] == "k = 0.5 - k = 0.1")
    assert left["value"] == pytest.approx(-0.03) and left["high"] < 0
    assert m.verdict == "holds" and "verdict" not in left


@pytest.mark.parametrize(("wide", "verdict"), [(95, "holds"), (85, "fails")])
def test_wider_is_better_if_it_is_at_half_of_the_weights(bench, monkeypatch, wide, verdict):
    found(monkeypatch, h32=wide, h8=90)
    assert study.edge_popup_study(WIDER, bench).verdict == verdict


def test_the_random_network_is_near_chance_and_random_subnetworks_stand_beside(bench):
    rows = {r["row"]: r for r in study.edge_popup_study(MIDDLE, bench).rows}
    assert rows["k = 1"]["value"] < 0.3 and rows["random subnetwork"]["value"] < 0.3 < rows["trained"]["value"]
    assert [r["density"] for n, r in rows.items() if n in ("k = 0.5", "k = 0.9", "k = 1")] == [0.5, 0.9, 1]


def test_networks_have_no_biases_and_share_their_data(bench):
    wide, narrow = (study._digits(bench, h) for h in (32, 8))
    assert all(b.prunable for b in wide.space.blocks) and len(wide.test) == 596
    assert wide.train.fingerprint == narrow.train.fingerprint


def test_the_protocols_on_images_run_when_they_are_made_small(tmp_path, provided_files, monkeypatch):
    changes = {"seeds": 2, "images": Duration("2it"), "width": 0.2}
    b = Bench("gpu", PROTOCOLS["gpu"].model_copy(update=changes), Store(tmp_path))
    wanted = study._images
    monkeypatch.setattr(study, "_images", lambda bench, network, width: wanted(bench, network, width * 0.1))
    signed = study.edge_popup_study(SIGNED, b)
    assert [r["row"] for r in signed.rows[1:]] == ["signed constants", "Kaiming-normal", "random subnetwork"]
    m = study.edge_popup_study(TRAINED, b)
    assert m.rows[0]["row"] == "subnetwork - trained" and len(m.rows) == 7
    assert {e.spec["recipe"]["optimiser"] for e in b.runs.values()} == {"sgd", "adam"}
