from __future__ import annotations

import pytest
import torch

from surplus.studies import Bench, coreset_baselines, run_study
from surplus.studies.coreset_baselines import (
    CCS,
    HERDING,
    PARITY,
    PICKS,
    PROTOCOLS,
    SMALL,
    choose,
    deepcore_pick,
    look,
    train_on,
)
from surplus.training import Store


def bench(tmp_path, scale="smoke", **changes):
    return Bench(scale, PROTOCOLS[scale].model_copy(update=changes), Store(tmp_path))


def test_every_claim_gets_a_verdict_and_random_is_always_a_row(tmp_path, no_files):
    result = run_study("coreset-baselines", "smoke", Store(tmp_path / "store"), out=tmp_path)
    assert [m.claim for m in result.measured] == [SMALL, HERDING, CCS, PARITY]
    for m in result.measured:
        assert m.verdict in ("holds", "fails", "undecided")
        assert any(row["row"].startswith("random") for row in m.rows)
    assert result.verdicts["deepcore-is-reproduced"] == "holds"
    assert 1_000 < (tmp_path / "coreset-baselines.svg").stat().st_size < 100_000


def test_all_rules_keep_as_many_of_each_class_as_random(tmp_path, no_files):
    b = bench(tmp_path)
    seen = look(b, 0)
    p = PROTOCOLS["laptop"]
    random = choose(seen, "random", 0.05, 0)
    shares = seen.labels[random].bincount()
    for rule in (*p.rules, *p.once, "CCS", "hardest by AUM"):
        assert torch.equal(seen.labels[choose(seen, rule, 0.05, 0)].bincount(), shares), rule
    assert int(random.sum()) == round(0.05 * len(seen.labels))
    assert (shares - 0.05 * seen.labels.bincount()).abs().max() < 1


def test_choices_of_all_sizes_train_for_the_same_number_of_steps_from_one_point(tmp_path, no_files):
    b = bench(tmp_path, steps=5)
    seen = look(b, 0)
    looked = set(b.runs)
    train_on(b, seen, {"random": choose(seen, "random", 0.02, 0), "craig": choose(seen, "craig", 0.1, 0)}, 0)
    trained = [entry.manifest for key, entry in b.runs.items() if key not in looked]
    assert len(trained) == 2 and {m["steps"] for m in trained} == {5}


def answers(monkeypatch, table):
    """Let training return these accuracies: rule -> one number per seed."""
    monkeypatch.setattr(coreset_baselines, "look", lambda bench, seed: None)
    monkeypatch.setattr(coreset_baselines, "choose", lambda seen, rule, keep, seed: torch.ones(4, dtype=torch.bool))
    monkeypatch.setattr(
        coreset_baselines, "train_on", lambda bench, seen, subsets, seed: {name: table[name][seed] for name in subsets}
    )


@pytest.mark.parametrize(("graph_cut", "verdict"), [(0.8, "holds"), (0.5, "fails")])
def test_both_halves_of_the_first_claim_must_hold(tmp_path, monkeypatch, graph_cut, verdict):
    p = PROTOCOLS["smoke"]
    high, low, middle = [0.8, 0.81, 0.8], [0.3, 0.31, 0.32], [0.6, 0.6, 0.61]
    table = dict.fromkeys(p.hard_first, low) | {rule: high for rule in (*p.rules, *p.once) if rule not in p.hard_first}
    answers(monkeypatch, {**table, "random": middle, "graph-cut": [graph_cut, graph_cut, graph_cut + 0.01]})
    assert coreset_baselines.coreset_baselines(SMALL, bench(tmp_path, seeds=3)).verdict == verdict


@pytest.mark.parametrize(
    ("ccs", "verdict"), [([0.9, 0.91, 0.9], "holds"), ([0.8, 0.81, 0.8], "holds"), ([0.7, 0.71, 0.71], "fails")]
)
def test_coverage_must_beat_the_hardest_and_not_lose_to_chance(tmp_path, monkeypatch, ccs, verdict):
    answers(monkeypatch, {"CCS": ccs, "random": [0.8, 0.8, 0.81], "hardest by AUM": [0.5, 0.5, 0.51]})
    assert coreset_baselines.coreset_baselines(CCS, bench(tmp_path, seeds=3)).verdict == verdict


def test_the_stored_picks_are_those_of_the_formulas_and_a_wrong_one_is_noticed(tmp_path, monkeypatch):
    for name, stored in PICKS.items():
        assert deepcore_pick(name, 4).nonzero().squeeze(1).tolist() == list(stored)
    monkeypatch.setattr(coreset_baselines, "PICKS", {**PICKS, "herding": (0, 1, 2, 3)})
    assert coreset_baselines.coreset_baselines(PARITY, bench(tmp_path)).verdict == "fails"


def test_the_protocol_for_a_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    recipe = PROTOCOLS["gpu"].recipe.model_copy(update={"batch_size": 16})
    changes = {"nets": 1, "looks": 1, "steps": 2, "options": {"width": 0.05}, "execution": "stacked", "jobs": 1}
    b = bench(tmp_path, "gpu", seeds=2, recipe=recipe, **changes)
    for claim in (SMALL, HERDING, CCS):
        measured = coreset_baselines.coreset_baselines(claim, b)
        assert measured.rows and measured.verdict in ("holds", "fails", "undecided")
