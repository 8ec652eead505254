from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from surplus.landscape.geometry import feature_geometry
from surplus.pruning import density, layer_densities
from surplus.studies import Bench, robustness_lottery
from surplus.studies.robustness_lottery import FASTER, FORECASTS, POPUP, PROTOCOLS, SURVIVAL, WRONG
from surplus.tasks import Recipe
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("lottery")))


@pytest.fixture(scope="module")
def levels(bench):
    return robustness_lottery._pruned(bench, robustness_lottery._task(bench), 0.1)


def test_the_margins_sign_is_exact_and_both_kinds_of_network_are_tested(bench):
    measured = robustness_lottery.misclassified(bench)
    signs = [r for r in measured.rows if r["quantity"] == "share of margins with the right sign"]
    assert [r["row"] for r in signs] == ["dense", "magnitude 10%"]
    assert all(r["value"] == 1 and r["verdict"] == "holds" for r in signs)
    assert measured.claim is WRONG


def test_the_control_has_the_ticket_s_density_in_each_layer_at_other_places(bench, levels):
    space, chance = levels[0].run.task.space, robustness_lottery._random(bench, levels[0], 0.1)
    for k in range(2):
        assert density(space, chance.masks[k]) == density(space, levels[1].masks[k])
        assert layer_densities(space, chance.masks[k]) == layer_densities(space, levels[1].masks[k])
    assert not torch.equal(chance.masks[0], chance.masks[1])
    assert torch.equal(chance.start, levels[0].start)


def test_examples_that_are_wrong_when_clean_have_no_survival_and_noise_only_lowers_it(bench, levels):
    task, theta = levels[0].run.task, levels[0].run.theta[0]
    geometry = feature_geometry(task, theta, task.test)
    table = robustness_lottery._forecasts(bench, task, theta, geometry)
    right = geometry.prediction == task.test.targets
    assert torch.equal(~table[:, -1].isnan(), right)
    assert 0.3 < table[right, -1].mean() < 1 and table[right, -1].max() <= 1
    np.testing.assert_allclose(table[right, 1].exp(), geometry.logits[right].softmax(1).amax(1), rtol=1e-5)


def test_the_correlation_is_scipys_averaged_over_networks(bench):
    g = torch.Generator().manual_seed(0)
    table = torch.randn(60, 2, 5, generator=g, dtype=torch.float64)
    table[:7, 0] = torch.nan
    expected = {
        k: np.mean([spearmanr(own[:, k], own[:, 4]).statistic for own in (table[7:, 0], table[:, 1])]) for k in range(4)
    }
    for k, name in enumerate(FORECASTS):
        found = robustness_lottery._correlation(bench, table, name)
        assert found.value == pytest.approx(expected[k]) and found.low < found.value < found.high
    lead = robustness_lottery._correlation(bench, table, "margin", "confidence")
    assert lead.value == pytest.approx(expected[0] - expected[1])


def test_a_forecast_that_is_survival_itself_holds_and_one_that_is_noise_does_not(bench, monkeypatch):
    g = torch.Generator().manual_seed(0)
    chance = torch.randn(300, 5, generator=g, dtype=torch.float64)
    for best, verdict in ((0, "holds"), (1, "fails")):
        table = chance.clone()
        table[:, best] = table[:, 4]
        monkeypatch.setattr(robustness_lottery, "_forecasts", lambda *_, table=table: table)
        measured = robustness_lottery.survival(bench)
        assert measured.verdict == verdict and measured.claim is SURVIVAL


def test_untrained_parts_stand_beside_magnitude_random_and_dense(bench):
    measured = robustness_lottery.untrained_parts(bench)
    arms = {r["row"] for r in measured.rows if r["quantity"] == "mean angle, degrees" and " - " not in r["row"]}
    assert arms == {"dense", "magnitude", "random mask", "edge-popup", "multi-prize"}
    assert [r["needs"] for r in measured.rows if "verdict" in r] == ["> 2 SE", "> 2 SE"]
    assert measured.claim is POPUP


def test_the_deep_protocol_runs_when_it_is_made_small(tmp_path, provided_files, monkeypatch):
    from_task = robustness_lottery.task_from
    monkeypatch.setattr(
        robustness_lottery, "task_from", lambda data, name, recipe: from_task(data, name, recipe=recipe, width=0.0625)
    )
    gpu = PROTOCOLS["gpu"]
    small = gpu.model_copy(
        update={
            "seeds": 2,
            "images": 20,
            "densities": (0.5, 0.1),
            "kinds": ("contrast",),
            "rewind_step": 2,
            "deep": Recipe(lr=0.05, batch_size=20, duration="2ep"),
        }
    )
    measured = robustness_lottery.robust_falls(Bench("gpu", small, Store(tmp_path)))
    assert measured.claim is FASTER and measured.seeds == 2
    names = [r["row"] for r in measured.rows[1:]]
    assert names == 2 * ["dense", "magnitude 50%", "magnitude 10%", "random mask"]
