from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from surplus.errors import InputError
from surplus.registry import find
from surplus.theory import compare_forms, extrapolate, fit_law
from surplus.theory.pruning_curve import density_at, joint_form, pruning_form, pruning_law
from surplus.theory.pruning_law import _weighed, crossing, fit_pruning_law, predict_matching
from surplus.theory.smallest_network import dense_error_between, smallest_network

CONSTANTS = {"eps_np": 0.08, "eps_up": 0.9, "gamma": 0.8, "p": 5e-4}
DENSITIES = 0.8 ** torch.arange(41, dtype=torch.float64)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noisy(y: torch.Tensor, size: float, seed: int = 0) -> torch.Tensor:
    return y * (size * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).exp()


# ---- the law --------------------------------------------------------------------------------------------------------


def test_the_law_at_worked_points():
    want = [0.0800034, 0.0800136, 0.0803377, 0.1067356, 0.4745519, 0.8860241, 0.8999986]
    got = pruning_law(f64(1, 0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-6), **CONSTANTS)
    assert got.tolist() == pytest.approx(want, abs=5e-8)


def test_it_is_the_modulus_of_the_papers_complex_form():
    d = f64(1, 0.3, 1e-2, 1e-3, 1e-5)
    e, up, gamma, p = CONSTANTS.values()
    paper = e * ((d - 1j * p * (up / e) ** (1 / gamma)) / (d - 1j * p)).abs() ** gamma
    torch.testing.assert_close(pruning_law(d, **CONSTANTS), paper)


def test_its_ends_are_the_two_plateaus_and_between_them_it_falls_with_slope_gamma():
    assert pruning_law(f64(1e6, 1e-12), **CONSTANTS).tolist() == pytest.approx([0.08, 0.9])
    wide = {"eps_np": 1e-9, "eps_up": 0.9, "gamma": 0.8, "p": 1e-9}
    a, b = pruning_law(f64(1e-4, 1e-3), **wide).log10()
    assert float(a - b) == pytest.approx(0.8, abs=1e-3)


def test_a_small_gamma_does_not_overflow():
    values = pruning_law(f64(1, 0.1, 1e-3), 0.001, 0.9, 1e-3, 0.2)
    assert values.isfinite().all() and ((values >= 0.001 - 1e-12) & (values <= 0.9 + 1e-12)).all()
    assert density_at(0.4, 0.001, 0.9, 0.01, 0.2).isfinite()


def test_the_density_of_an_error_inverts_the_law_and_is_unbounded_beyond_the_plateaus():
    d = f64(0.3, 0.1, 1e-2, 1e-4)
    torch.testing.assert_close(density_at(pruning_law(d, **CONSTANTS), **CONSTANTS), d, rtol=1e-6, atol=0)
    assert density_at(f64(0.05, 0.08, 0.9, 0.95), **CONSTANTS).tolist() == [np.inf, np.inf, 0, 0]


def test_it_is_in_the_catalogue():
    assert find("prediction", "pruning-law").fn is pruning_law


# ---- fits -----------------------------------------------------------------------------------------------------------


def test_exact_errors_give_the_constants_back():
    fit = fit_pruning_law(DENSITIES, pruning_law(DENSITIES, 0.08, 0.9, 0.8, 0.01), 0.08, bootstrap=0)
    assert fit.law.parameters == pytest.approx({"eps_np": 0.08, "eps_up": 0.9, "gamma": 0.8, "p": 0.01}, rel=1e-6)
    assert fit.plateau == "fitted" and abs(fit.mu) < 1e-9 and fit.sigma < 1e-9


def test_noise_of_the_size_of_seeds_moves_them_little_and_the_intervals_cover():
    fit = fit_pruning_law(DENSITIES, noisy(pruning_law(DENSITIES, 0.08, 0.9, 0.8, 0.01), 0.034), 0.08)
    for name, value in {"eps_up": 0.9, "gamma": 0.8, "p": 0.01}.items():
        low, high = fit.law.intervals[name]
        assert low < value < high and high / low < 1.5
    assert abs(fit.mu) < 0.01 and 0.02 < fit.sigma < 0.05


def test_a_curve_that_never_reaches_the_plateau_does_not_tell_it_and_chance_takes_its_place():
    d = DENSITIES[1:15]
    y = noisy(pruning_law(d, 0.03, 0.9, 0.61, 4.3e-4), 0.03)
    assert float(y.max()) < 0.1
    free, held = fit_pruning_law(d, y, 0.03), fit_pruning_law(d, y, 0.03, chance=0.9)
    assert free.plateau == "unidentified"
    assert held.plateau == "held" and held.law.parameters["eps_up"] == 0.9
    full = pruning_law(DENSITIES, 0.03, 0.9, 0.8, 0.05)
    reached = fit_pruning_law(DENSITIES, noisy(full, 0.01), 0.03, chance=0.9, bootstrap=0)
    assert reached.plateau == "fitted" and reached.law.parameters["eps_up"] == pytest.approx(0.9, rel=0.02)


def test_relative_errors_count_alike_at_both_ends():
    y = pruning_law(DENSITIES, 0.01, 0.9, 0.8, 0.01)
    y[:20] *= 1.1  # 10% off where errors are small
    off = fit_pruning_law(DENSITIES, y, 0.01, bootstrap=0).error_at(DENSITIES) / y - 1
    assert float(off.abs().max()) > 0.02  # an absolute fit would have hidden it
    least = fit_law(DENSITIES, y, "power", residuals="relative", delta=1e6, bootstrap=0)
    A, a = least.parameters.values()
    loss = lambda A, a: float(((A * DENSITIES**-a / y - 1) ** 2).sum())
    assert loss(A, a) < min(loss(A * 1.001, a), loss(A / 1.001, a), loss(A, a * 1.001), loss(A, a / 1.001))


def test_the_law_beats_power_laws_on_its_own_curve_and_predicts_the_sparse_end():
    d = DENSITIES[1:21]
    y = noisy(pruning_law(d, 0.03, 0.9, 0.8, 2e-3), 0.02)
    how = {"residuals": "relative", "delta": 1e6, "bootstrap": 0, "downward": True}
    told = compare_forms(d, y, (pruning_form(0.03, 0.9), "power", "power-offset"), **how)
    assert told.fits["pruning"].aicc < told.fits["power-offset"].aicc < told.fits["power"].aicc
    assert told.extrapolation["pruning"] < 0.1
    held = extrapolate(d, y, pruning_form(0.03, 0.9), downward=True, bootstrap=0)
    assert float(held.x.max()) < float(d[13]) and len(held.x) == 6


# ---- over networks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def family():
    """Rows of density, width, depth, unpruned error, error; phi = 1.2, psi = 1.5."""
    rows = []
    for w in (0.5, 1.0, 2.0):
        for depth in (8.0, 14.0, 20.0):
            own = 0.08 * w**-0.4 * (depth / 8) ** -0.2
            y = pruning_law(depth**1.2 * w**1.5 * DENSITIES[1:31], own, 0.9, 0.7, 0.03)
            rows += [(d, w, depth, own, e) for d, e in zip(DENSITIES[1:31].tolist(), y.tolist(), strict=True)]
    return f64(*[v for row in rows for v in row]).view(-1, 5)


def fit_family(rows, y=None, **how):
    d, w, depth, own, exact = rows.unbind(1)
    return fit_pruning_law(d, exact if y is None else y, own, widths=w, depths=depth, **how)


def test_the_joint_fit_recovers_the_invariant(family):
    fit = fit_family(family, noisy(family[:, 4], 0.06), bootstrap=60)
    assert fit.sigma == pytest.approx(0.06, abs=0.01)
    for name, value in {"eps_up": 0.9, "gamma": 0.7, "phi": 1.2, "psi": 1.5}.items():
        low, high = fit.law.intervals[name]
        assert low < value < high and high - low < 0.25, name


def test_equal_invariants_mean_equal_ratios_to_the_unpruned_error(family):
    fit = fit_family(family, bootstrap=0)
    narrow = fit.error_at(0.4, width=0.5, depth=8.0, eps_np=0.1) / 0.1
    same = 0.4 * 0.5**1.5 / 2**1.5 * (8 / 14) ** 1.2
    wide = pruning_law(f64(same) * 14**1.2 * 2**1.5, 0.1, 0.9, 0.7, 0.03) / 0.1
    assert float(narrow) == pytest.approx(float(wide), rel=1e-5)


def test_a_held_out_width_is_predicted(family):
    seen = family[:, 1] != 2.0
    fit = fit_family(family[seen], noisy(family[seen, 4], 0.03), bootstrap=0)
    rest = family[~seen & (family[:, 2] == 14)]
    off = fit.error_at(rest[:, 0], 2.0, 14.0, float(rest[0, 3])) / rest[:, 4] - 1
    assert float(off.abs().max()) < 0.06
    with pytest.raises(InputError, match="several networks"):
        fit.error_at(0.1)


def test_the_smallest_network_for_an_error_is_a_pruned_larger_one(family):
    fit = fit_family(family, bootstrap=0)
    depths, widths = [8.0, 14.0, 20.0], [0.5, 0.7, 1.0, 1.4, 2.0]
    own = lambda depth, width: 0.08 * width**-0.4 * (depth / 8) ** -0.2
    target = own(8.0, 0.7)
    best = smallest_network(fit, target, depths, widths, own)
    assert best.density < 1 and best.size < 8 * 0.7**2  # smaller than the dense network of just that error
    reached = pruning_law(
        f64(best.density) * best.depth**1.2 * best.width**1.5, own(best.depth, best.width), 0.9, 0.7, 0.03
    )
    assert float(reached) == pytest.approx(target, rel=1e-4)
    grid, brute = torch.logspace(-4, 0, 4000, dtype=torch.float64), []
    for depth, w in itertools.product(depths, widths):
        reaching = pruning_law(grid * depth**1.2 * w**1.5, own(depth, w), 0.9, 0.7, 0.03) <= target * 1.0001
        brute += [depth * w**2 * float(grid[reaching][0])] if reaching.any() else []
    assert best.size == pytest.approx(min(brute), rel=0.01)
    with pytest.raises(InputError, match="no network of these"):
        smallest_network(fit, 1e-3, depths, widths, own)


def test_unpruned_errors_between_networks_are_exact_at_the_measured_ones():
    between = dense_error_between([8, 8, 20, 20], [1, 2, 1, 2], [0.1, 0.08, 0.07, 0.05])
    assert between(20, 1) == pytest.approx(0.07)
    line = dense_error_between([8, 14, 20], [1, 1, 1], [0.08, 0.07, 0.06])
    at = np.log(11 / 8) / np.log(14 / 8)
    assert line(11, 1) == pytest.approx(0.08 ** (1 - at) * 0.07**at)


# ---- before pruning to the end --------------------------------------------------------------------------------------


def levels(rate: float, count: int) -> torch.Tensor:
    return (1 - rate) ** torch.arange(1, count + 1, dtype=torch.float64)


def test_exact_levels_predict_the_matching_density_and_the_levels_to_come():
    d = levels(0.36, 8)
    y = pruning_law(d, 0.03, 0.9, 0.6, 1e-3)
    told = predict_matching(d[:5], y[:5, None].repeat(1, 5), [0.03] * 5, margin=0.01, classes=10)
    truth = float(density_at(0.04, 0.03, 0.9, 0.6, 1e-3))
    assert told.density == pytest.approx(truth, rel=0.05) and told.low <= truth <= told.high
    assert told.high < 1.3 * told.low and told.levels == 5
    assert told.held_out(d[5:], y[5:, None].repeat(1, 5)) < 0.1
    assert told.fit.plateau == "held" and told.sentence.startswith("After 5 levels, down to 10.7% of the weights, ")


def test_every_law_on_the_grid_passes_the_margin_at_its_own_place():
    d = levels(0.36, 5)
    laws, weights = _weighed(d, pruning_law(d, 0.03, 0.9, 0.6, 1e-3), 0.03, 0.1, 0.01, 0.9)
    at = density_at(0.04, *laws.unbind(1))
    assert float(weights.sum()) == pytest.approx(1)
    assert float(at.min()) == pytest.approx(float(d[-1]) / 100) and float(at.max()) == pytest.approx(1)
    torch.testing.assert_close(pruning_law(at, *laws.unbind(1)), torch.full_like(at, 0.04))


def test_a_bad_day_of_the_dense_networks_widens_the_interval():
    d = levels(0.36, 5)
    y = noisy(pruning_law(d, 0.03, 0.9, 0.6, 1e-3), 0.03)
    sure, unsure = (predict_matching(d, y, f64(0.03 - s, 0.03 + s), 0.01, 10) for s in (0.0, 0.006))
    assert unsure.high / unsure.low > 1.1 * sure.high / sure.low


@pytest.mark.parametrize(
    ("rate", "count", "gamma", "p"), [(0.36, 5, 0.6, 1e-3), (0.36, 4, 1.3, 1e-2), (0.6, 3, 0.8, 2e-3)]
)
def test_the_interval_of_few_noisy_levels_covers_about_as_often_as_it_says(rate, count, gamma, p):
    d, inside, times = levels(rate, count), 0, 40
    y, truth = pruning_law(d, 0.03, 0.9, gamma, p), float(density_at(0.04, 0.03, 0.9, gamma, p))
    for seed in range(times):
        told = predict_matching(d, noisy(y, 0.05, seed), 0.03, 0.01, 10, seed=seed)
        inside += told.low <= truth <= told.high
    assert inside / times >= 0.87


def test_levels_that_show_no_rise_bound_the_density_from_above_only():
    d = levels(0.36, 5)
    told = predict_matching(d, noisy(torch.full((5,), 0.03, dtype=torch.float64), 0.02), 0.03, 0.01, 10)
    assert told.low < 2 * float(d[-1]) / 100 and told.high < float(d[-1])
    assert f"by the pruning law, {told.high:.1%} or less will match" in told.sentence


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("count", "p"), [(5, 0.0), (5, 1e-3), (3, 1e-3)])
def test_the_density_is_the_median_over_all_laws_and_lies_in_its_interval(seed, count, p):
    d = levels(0.36, count)  # without a rise, p = 0, the likeliest law is at the far end, outside the interval
    y = pruning_law(d, 0.03, 0.9, 0.8, p) if p else torch.full_like(d, 0.03)
    told = predict_matching(d, noisy(y, 0.05, seed), 0.03, 0.01, 10)
    assert told.low <= told.density <= told.high
    places = density_at(0.04, *told.fit.law.draws.unbind(1)).clamp(max=1)
    assert (places < told.density).double().mean() <= 0.5 <= (places <= told.density).double().mean()


def test_a_prediction_is_quick_and_the_same_each_time():
    d = levels(0.36, 6)
    y = noisy(pruning_law(d, 0.03, 0.9, 0.6, 1e-3), 0.05)
    began = time.process_time()
    first = predict_matching(d, y, f64(0.029, 0.031), 0.01, 10)
    assert time.process_time() - began < 1  # some hundredths of a second of one quiet processor
    again = predict_matching(d, y, f64(0.029, 0.031), 0.01, 10)
    assert (first.density, first.low, first.high) == (again.density, again.low, again.high)


def test_a_measured_curve_crosses_a_limit_between_two_levels():
    d, y = f64(1, 0.5, 0.25, 0.125), f64(0.02, 0.02, 0.03, 0.05)
    assert crossing(d, y, 0.025) == pytest.approx(0.5**1.5)
    assert crossing(d, y, 0.03) == pytest.approx(0.25)
    assert crossing(d, y, 0.06) is None


@pytest.mark.parametrize(
    ("count", "dense", "reason"),
    [(2, 0.03, "at least 3"), (5, 0.0, "no error"), (5, 0.895, "hardly better than guessing")],
)
def test_where_no_law_can_be_fitted_the_reason_is_said(count, dense, reason):
    told = predict_matching(levels(0.36, count), [0.05] * count, [dense] * 3, 0.01, 10)
    assert told.density is None and told.fit is None and reason in told.reason
    assert told.held_out([0.1], [0.2]) is None


def test_what_the_fits_refuse():
    with pytest.raises(InputError, match="plateau above it"):
        fit_pruning_law([0.5, 0.2, 0.1], [0.1, 0.2, 0.3], 0.9, eps_up=0.8)
    with pytest.raises(InputError, match="plateau above it"):
        pruning_form(0.0)
    with pytest.raises(InputError, match="positive margin"):
        predict_matching([0.5, 0.2, 0.1], [0.1, 0.2, 0.3], 0.1, 0.0, 10)
    with pytest.raises(InputError, match="density, width, depth, eps_np"):
        fit_law([0.5, 0.2], [0.1, 0.2], joint_form())
    with pytest.raises(InputError, match="residuals"):
        fit_law([1.0, 2, 3], [3.0, 2, 1], residuals="absolute")
