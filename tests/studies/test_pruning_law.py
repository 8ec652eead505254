from __future__ import annotations

import math

import pytest
import torch

from surplus.studies import Bench, pruning_law
from surplus.studies.base import draw_study
from surplus.studies.pruning_law import FITS, LARGER, PROTOCOLS, SYNFLOW, WIDTHS
from surplus.studies.results import StudyResult, undecided
from surplus.tasks import Augment, Duration
from surplus.theory.pruning_curve import pruning_law as law
from surplus.training import Store

DENSITIES = 0.8 ** torch.arange(1, 21, dtype=torch.float64)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("pruning-law")))


def seeds(noise: float, constants=(0.02, 0.9, 0.8, 2e-3)):
    """Errors (4, 1 + levels) of four seeds around the law."""
    g = torch.Generator().manual_seed(0)
    means = torch.cat([torch.tensor([constants[0]]).double(), law(DENSITIES, *constants)])
    return means * (noise * torch.randn(4, 21, generator=g, dtype=torch.float64)).exp()


def test_errors_by_the_law_pass_and_are_told_from_power_laws(bench):
    errors = seeds(0.02)
    numbers = lambda m: pruning_law._numbers(DENSITIES, m, 0.9, pruning_law.OTHERS)
    mean, spread, power, offset = pruning_law._over_seeds(bench, errors, numbers)
    checks = pruning_law._fit_checks("law", mean, spread)
    assert [c.verdict for c in checks] == ["holds", "holds"]
    assert power.low > 10 and offset.value > 0


def test_errors_far_from_the_law_fail(bench):
    errors = seeds(0.0)
    errors[:, 1::2] *= 2  # a saw of a factor of two
    numbers = lambda m: pruning_law._numbers(DENSITIES, m, 0.9, {})
    mean, spread = pruning_law._over_seeds(bench, errors, numbers)
    assert pruning_law._fit_checks("law", mean, spread)[1].verdict == "fails"
    assert mean.low == pytest.approx(mean.high)  # all seeds are alike


def test_the_law_is_compared_with_others_fitted_to_the_same_densities(bench):
    rows = pruning_law._drawn(DENSITIES, seeds(0.01), 0.9)
    names = ["pruning law", "power law", "offset power law"]
    for name in names:
        assert len([r for r in rows if r["row"] == name and "density" in r]) == 20
    off = {r["row"]: r["value"] for r in rows if "density" not in r}
    assert off["pruning law"] < min(off["power law"], 0.1)


def test_first_levels_foretell_the_matching_density_beside_the_measured_one(bench):
    *told, measured = pruning_law._ahead(bench, DENSITIES, seeds(0.02, (0.02, 0.9, 0.8, 2e-2)), 10)
    assert [r["row"] for r in told] == ["predicted from the first 3 levels"]
    assert told[0]["low"] < measured["value"] < told[0]["high"]


def test_sensitivity_tells_what_rests_on_the_plateau_and_on_high_densities():
    rows = pruning_law._sensitivity(DENSITIES, seeds(0.02), 0.9)
    plateau = {r["row"]: r["plateau"] for r in rows if "plateau" in r}
    assert plateau == {
        "all densities": "held",
        "plateau free": "unidentified",
        "density at most 0.3": "held",
    }


def test_a_plateau_that_no_error_comes_near_is_said_to_be_unidentified_and_shows_no_number():
    rows = pruning_law._sensitivity(DENSITIES, seeds(0.02), 0.9)
    free = {r["quantity"]: r for r in rows if r["row"] == "plateau free"}
    for name in ("eps_up", "p"):
        assert math.isnan(free[name]["value"]) and math.isnan(free[name]["high"])
        assert free[name]["note"].startswith("unidentified")
    assert 0.5 < free["gamma"]["value"] < 1.2 and "note" not in free["gamma"]
    held = {r["quantity"]: r for r in rows if r["row"] == "all densities"}
    assert held["eps_up"]["value"] == 0.9 and "note" not in held["eps_up"]


def test_the_small_dense_network_has_at_most_as_many_weights(bench):
    task, p = pruning_law._task(bench), bench.protocol
    for weights in (2000, 400, 120):
        small = pruning_law.smaller(task, p, weights)
        assert 0.5 * weights < int(small.space.prunable.sum()) <= weights and small.train is task.train


def test_a_pruned_network_stands_beside_a_dense_and_a_random_one_of_its_size(bench):
    measured = pruning_law.pruning_law_study(LARGER, bench)
    names = {r["row"] for r in measured.rows if " - " not in r["row"]}
    assert names == {"pruned", "small dense", "random mask"}
    assert all(r["density"] == pytest.approx(0.25, abs=0.01) for r in measured.rows)


def test_synflow_and_iterative_pruning_begin_from_the_same_dense_networks(bench):
    first = {}
    for claim, name in ((FITS, "iterative pruning"), (SYNFLOW, "SynFlow")):
        rows = pruning_law.pruning_law_study(claim, bench).rows
        first[name] = next(r["value"] for r in rows if r["row"] == name and r["density"] == 1)
    assert first["SynFlow"] == first["iterative pruning"]


def test_the_protocol_across_widths_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    recipe = gpu.across.recipe.model_copy(
        update={"duration": Duration("1ep"), "batch_size": 30, "augment": Augment(shift=1), "precision": "float32"}
    )
    changes = {"seeds": 2, "levels": 3, "widths": (0.25, 0.5), "rewind_step": 1, "recipe": recipe}
    small = gpu.model_copy(update={"across": gpu.across.model_copy(update=changes)})
    measured = pruning_law.pruning_law_study(WIDTHS, Bench("gpu", small, Store(tmp_path)))
    assert [r["row"] for r in measured.rows if "verdict" in r] == [
        "width 0.25 held out",
        "width 0.5 held out",
        "joint fit, to the single ones",
    ]
    assert measured.seeds == 2
    means = {r["row"]: r["value"] for r in measured.rows if r["row"].endswith("held out, mean")}
    assert set(means) == {"width 0.25 held out, mean", "width 0.5 held out, mean"}
    assert all(math.isfinite(v) for v in means.values())
    d, *_ = pruning_law._width(Bench("gpu", small, Store(tmp_path)), 0.25)
    assert d.tolist() == pytest.approx([0.8, 0.64, 0.512], abs=2e-4)  # of what cuts may touch: the head stays whole


def test_the_figure_shows_results_without_numbers_too(tmp_path, bench):
    measured = tuple(undecided(c, "not run") for c in (FITS, WIDTHS, SYNFLOW, LARGER))
    result = StudyResult("pruning-law", "", "", "smoke", measured, {})
    assert draw_study(result, tmp_path).stat().st_size > 1_000
