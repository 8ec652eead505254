from __future__ import annotations

import pytest
import torch

from surplus.stats import Estimate
from surplus.studies import Bench, Untestable, memorization
from surplus.studies.memorization import PRICE, PROTOCOLS, REMOVAL, TAIL, WRONG
from surplus.tasks import Duration
from surplus.training import Store


def bench(tmp_path, scale="smoke", **changes):
    return Bench(scale, PROTOCOLS[scale].model_copy(update=changes), Store(tmp_path))


def rows_of(measured):
    return {(r["row"], r["quantity"]): r["value"] for r in measured.rows}


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    b = bench(tmp_path_factory.mktemp("runs"))
    return b, memorization.memorization_study(WRONG, b)


def test_flipped_labels_are_memorised_and_clean_ones_are_not(labels):
    _, measured = labels
    found = rows_of(measured)
    assert found["flipped labels", "mean memorization"] > 0.8 > 0.3 > found["clean labels", "mean memorization"]
    assert found["memorization", "AUC for flipped labels"] > 0.95
    assert 0.3 < found["random", "AUC for flipped labels"] < 0.7


def test_the_score_is_what_the_networks_subsets_and_answers_give(labels):
    b, _ = labels
    task, wrong = memorization._task(b, 0, b.protocol.flips)
    found = memorization.measured_memorization(b, task, 0)
    i = int(wrong.nonzero()[0])
    inside = found.run.trained_on[:, i]
    expected = found.hits[inside, i].double().mean() - found.hits[~inside, i].double().mean()
    assert found.score.mean[i].item() == pytest.approx(expected.item())
    assert found.run.trained_on.sum(1).tolist() == [int(0.7 * len(wrong))] * 10


def test_networks_that_have_not_fitted_their_data_decide_nothing(tmp_path):
    recipe = PROTOCOLS["smoke"].recipe.model_copy(update={"duration": Duration("1ep")})
    measured = memorization.memorization_study(WRONG, bench(tmp_path, recipe=recipe))
    assert measured.verdict == "undecided" and "do not surely fit" in measured.note
    assert measured.rows and not any("verdict" in r for r in measured.rows)


def test_theory_and_simulation_agree(tmp_path):
    measured = memorization.memorization_study(PRICE, bench(tmp_path))
    found = rows_of(measured)
    assert measured.verdict == "holds"
    assert found["theory, list in random order", "n tau_1"] == pytest.approx(0.5588, abs=1e-4)
    assert found["theory, drawn anew", "n tau_1"] == pytest.approx(0.568, abs=0.006)
    cost, seen = found["list in random order", "error paid by the guessing learner"], 0.9 * 0.1169
    assert cost == pytest.approx(seen, rel=0.05)


def test_another_price_than_the_simulated_one_fails(tmp_path, monkeypatch):
    def wrong(size, redraw):
        return Estimate(torch.tensor(0.7 / size), torch.tensor(0.0), 1)

    monkeypatch.setattr(memorization, "_tau_1", wrong)
    assert memorization.memorization_study(PRICE, bench(tmp_path)).verdict == "fails"


def test_numbers_too_rough_to_tell_are_undecided(tmp_path, monkeypatch):
    def rough(size, redraw):
        return Estimate(torch.tensor(0.6 / size), torch.tensor(0.1 / size), 2)

    monkeypatch.setattr(memorization, "_tau_1", rough)
    assert memorization.memorization_study(PRICE, bench(tmp_path)).verdict == "undecided"


def test_the_tail_has_the_costs_that_were_computed_by_hand(tmp_path):
    measured = memorization.memorization_study(TAIL, bench(tmp_path))
    found = rows_of(measured)
    assert measured.verdict == "holds"
    for l, value in enumerate((0.2285, 0.4717, 1.0877, 2.007)):
        assert found[f"Zipf, 50,000 kinds, l = {l}", "n tau_l"] == pytest.approx(value, abs=1e-3)
        assert found[f"2,500 equal kinds, l = {l}", "n tau_l"] == pytest.approx(20)


def test_without_files_removal_says_what_it_needs(tmp_path, no_files):
    with pytest.raises(Untestable, match="cifar10"):
        memorization.memorization_study(REMOVAL, bench(tmp_path, "gpu"))


def small_gpu(tmp_path, **changes):
    recipe = PROTOCOLS["gpu"].recipe.model_copy(update={"duration": Duration("2ep"), "batch_size": 16})
    settings = {"runs": 4, "seeds": 2, "removal_seeds": 2, "options": {"width": 0.05}, "recipe": recipe}
    return bench(tmp_path, "gpu", **settings, **changes)


def test_the_protocol_for_a_gpu_runs_when_it_is_made_small(tmp_path, provided_files, monkeypatch):
    b = small_gpu(tmp_path)
    score = torch.linspace(0, 1, 60)

    def known(bench, task, seed):
        return memorization.Ensemble(None, None, Estimate(score, score, 4))

    monkeypatch.setattr(memorization, "measured_memorization", known)
    measured = memorization.memorization_study(REMOVAL, b)
    found = {r["row"]: r for r in measured.rows}
    kept = int((score < 0.3).sum()) / 60
    assert found["memorised removed"]["keep"] == found["random removed"]["keep"] == pytest.approx(kept)
    assert found["all examples"]["keep"] == 1
    gap = found["random removed"]["value"] - found["memorised removed"]["value"]
    assert found["random removed - memorised removed"]["value"] == pytest.approx(gap)


def test_where_nothing_is_memorised_there_is_nothing_to_remove(tmp_path, provided_files):
    measured = memorization.memorization_study(REMOVAL, small_gpu(tmp_path, least_memorization=2.0))
    assert measured.verdict == "undecided" and measured.note.startswith("0 of 60 examples")
