from __future__ import annotations

import pytest
import torch

from surplus.networks import build
from surplus.studies import Bench, el2n_grand
from surplus.studies.el2n_grand import HARDEST, IMAGES, INIT, NOISE, OFFSET, PROTOCOLS, train_on
from surplus.training import Store


def bench(tmp_path, scale="smoke", **changes):
    return Bench(scale, PROTOCOLS[scale].model_copy(update=changes), Store(tmp_path))


def test_subsets_of_all_sizes_train_for_the_same_number_of_steps(tmp_path):
    b = bench(tmp_path)
    task = el2n_grand._clean(b, 0)
    few = torch.zeros(len(task.train), dtype=torch.bool).index_fill(0, torch.arange(100), True)
    train_on(b, task, {"few": few}, 0)
    steps = {entry.manifest["steps"] for entry in b.runs.values()}
    assert steps == {b.protocol.epochs * -(-len(task.train) // 64)} and len(b.runs) == 2


def test_scoring_networks_are_the_first_epochs_of_full_training(tmp_path):
    b = bench(tmp_path, score_epoch=1)  # before the rate first falls, after 1.8 epochs
    task = el2n_grand._clean(b, 0)
    per_epoch = -(-len(task.train) // b.protocol.recipe.batch_size)
    full = b.fit(task, seeds=el2n_grand._nets(b, 0)[:1], recipe=el2n_grand._training(b, task), keep=[per_epoch])
    torch.testing.assert_close(full.at(per_epoch)[0], el2n_grand._early(b, task, 0).theta[0])


def answers(monkeypatch, table):
    """Let training return these accuracies: subset name -> one number per seed."""
    monkeypatch.setattr(el2n_grand, "el2n", lambda bench, task, seed: torch.arange(len(task.train)).float())
    monkeypatch.setattr(
        el2n_grand, "train_on", lambda bench, task, subsets, seed: {name: table[name][seed] for name in subsets}
    )


@pytest.mark.parametrize(
    ("random", "verdict"), [([0.5, 0.51, 0.49], "holds"), ([0.8, 0.81, 0.79], "fails"), ([0.5, 0.9, 0.5], "undecided")]
)
def test_the_offset_window_must_beat_random_and_random_the_hardest(tmp_path, monkeypatch, random, verdict):
    table = {"offset window": [0.7, 0.72, 0.69], "hardest": [0.2, 0.21, 0.19], "easiest": [0.6] * 3, "random": random}
    answers(monkeypatch, table)
    measured = el2n_grand.el2n_grand(OFFSET, bench(tmp_path, seeds=3))
    assert measured.verdict == verdict and measured.claim is OFFSET


def test_on_images_only_the_hardest_half_is_compared_with_random(tmp_path, monkeypatch, provided_files):
    answers(monkeypatch, {"hardest": [0.9, 0.91, 0.9], "random": [0.8, 0.8, 0.81], "easiest": [0.99] * 3})
    assert el2n_grand.el2n_grand(HARDEST, bench(tmp_path, seeds=3)).verdict == "fails"
    small = {"seeds": 3, "options": {"width": 0.05}}
    assert el2n_grand.el2n_grand(HARDEST, bench(tmp_path, "gpu", **small)).verdict == "holds"


def test_the_protocol_for_a_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    recipe = PROTOCOLS["gpu"].recipe.model_copy(update={"batch_size": 16})
    b = bench(tmp_path, "gpu", seeds=2, nets=1, epochs=1, score_epoch=1, options={"width": 0.05}, recipe=recipe)
    for claim in (NOISE, OFFSET, HARDEST, INIT):
        measured = el2n_grand.el2n_grand(claim, b)
        assert measured.rows and measured.seeds == 2
        assert claim is not NOISE or {row["noise"] for row in measured.rows} == {"aggregate", "worse"}


def test_the_network_of_the_gpu_protocol_is_there():
    p = PROTOCOLS["gpu"]
    assert sum(w.numel() for w in build(p.network, (3, 32, 32), 10, **p.options).parameters()) > 1e6


def test_pruning_curves_on_images_set_three_scores_beside_random(tmp_path, provided_files):
    small = {"seeds": 2, "images": 40, "image_width": 0.05, "image_epochs": 2, "image_nets": 1}
    measured = el2n_grand.el2n_grand(IMAGES, bench(tmp_path, "laptop", **small))
    arms = {(row["row"], row.get("keep")) for row in measured.rows}
    assert {(name, keep) for name in ("EL2N", "GraNd", "forgetting", "random") for keep in (0.6, 0.3)} <= arms
    assert sum(" - random" in row["row"] for row in measured.rows) == 3
