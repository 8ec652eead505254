from __future__ import annotations

import pytest
import torch

from surplus.pruning import layer_densities
from surplus.studies import Bench, weight_correlation
from surplus.studies.weight_correlation import FALLS, PROTOCOLS, SHRINKS, TUNING
from surplus.tasks import Augment, Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("correlation")))


def test_each_rate_and_share_has_a_row_for_initial_late_and_fresh_weights(bench):
    measured = weight_correlation.weight_correlation(FALLS, bench)
    rows = {(r["row"], r["quantity"]): r["value"] for r in measured.rows}
    for rate in ("0.003", "0.03", "0.3"):
        assert {q for name, q in rows if name == f"theta_10, lr {rate}"} == {
            f"R_{p} with theta_T" for p in ("0.1", "0.2", "0.5")
        }
        assert rows[f"fresh theta_0, lr {rate}", "R_0.2 with theta_T"] == pytest.approx(0.2, abs=0.1)


def test_sparse_overlaps_are_those_of_masked_starts_with_the_fine_tuned_end(bench):
    measured = weight_correlation.weight_correlation(FALLS, bench)
    rows = [r for r in measured.rows if r["quantity"] == "R_0.2 with fine-tuned end, 50% kept"]
    assert [r["row"] for r in rows[:2]] == ["theta_0 m, lr 0.003", "fresh theta_0 m, lr 0.003"]
    assert len(rows) == 6 and rows[0]["value"] > 0.5 > 0.35 > rows[1]["value"]


def test_rates_at_which_networks_hardly_train_are_named():
    assert weight_correlation._hardly_trained({0.003: 0.9, 0.03: 0.98}) == []
    (said,) = weight_correlation._hardly_trained({0.003: 0.9, 0.03: 0.98, 0.3: 0.25})
    assert "0.3 (mean accuracy 0.25)" in said and "0.003" not in said


@pytest.mark.parametrize(
    ("drop", "fresh", "verdict"), [(0.1, 0.21, "holds"), (-0.1, 0.21, "fails"), (0.1, 0.3, "fails")]
)
def test_the_overlap_must_fall_in_every_seed_and_be_chance_for_fresh_weights(bench, monkeypatch, drop, fresh, verdict):
    fits, level = [], iter([0.8, 0.8 - drop, 0.5])

    def overlap(space, start, theta, p, mask=None, exclude=()):
        if mask is not None:
            return torch.full((2,), 0.5, dtype=torch.float64)
        if not fits or fits[-1][0] is not theta:
            fits.append((theta, next(level)))
        value = fits[-1][1]
        return torch.full((2,), value if torch.equal(start, space.init_many([0, 1])) else fresh, dtype=torch.float64)

    monkeypatch.setattr(weight_correlation, "overlap", overlap)
    assert weight_correlation.weight_correlation(FALLS, bench).verdict == verdict


def test_fine_tuning_stands_beside_all_arms_at_one_density(bench):
    measured = weight_correlation.weight_correlation(TUNING, bench)
    arms = {r["row"]: r["density"] for r in measured.rows if r["quantity"] == "test accuracy" and " - " not in r["row"]}
    sparse = ("ticket", "reinit", "fine-tuned", "fine-tuned in rounds", "random mask")
    assert all(arms[name] == pytest.approx(0.3, abs=0.01) for name in sparse)
    assert arms["dense"] == arms["dense twice"] == 1


def test_random_masks_have_the_layer_densities_of_the_ticket(bench):
    task = weight_correlation._task(bench)
    arms = weight_correlation._arms(bench, task, 0.3)
    chance = weight_correlation._by_chance(bench, task, arms["ticket"])
    for ours, ticket in zip(chance.masks, arms["ticket"].masks, strict=True):
        wanted = layer_densities(task.space, ticket)
        assert layer_densities(task.space, ours) == pytest.approx(wanted, abs=0.01)
        assert not torch.equal(ours, ticket)


def test_the_protocol_of_the_gap_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    changes = {"duration": Duration("3it"), "milestones": (Duration("2it"),), "batch_size": 20}
    recipe = gpu.recipe.model_copy(update={**changes, "augment": Augment(shift=1)})
    small = {"seeds": 2, "options": {"width": 0.25}, "recipe": recipe, "gap_density": 0.8, "execution": "stacked"}
    b = Bench("gpu", gpu.model_copy(update=small), Store(tmp_path / "store"))
    measured = weight_correlation.weight_correlation(SHRINKS, b)
    assert {r["row"] for r in measured.rows[1:]} >= {"ticket, lr 0.01", "reinit, lr 0.1", "dense twice, lr 0.1"}
    first = weight_correlation._task(b).space["conv.weight"]
    ticket = weight_correlation._arms(b, weight_correlation._task(b).with_recipe(lr=0.1), 0.8)["ticket"]
    assert ticket.masks[:, first.slice].all() and measured.seeds == 2
