from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from surplus.errors import InputError
from surplus.theory import broken_power, compare_forms, extrapolate, fit_law
from surplus.theory.laws import broken_power_law, chinchilla_law, kaplan_law, rosenfeld_law

X = 2.0 ** np.arange(4, 13)
# Best losses of 17 groups of language models: parameters, tokens, loss (Li et al. 2025, arXiv 2503.04715, public grid).
STEP_LAW = torch.tensor(
    [
        [214663680, 4e9, 2.621446],
        [214663680, 1.14e10, 2.484705],
        [214663680, 2e10, 2.440110],
        [214663680, 1e11, 2.342014],
        [268304384, 5e9, 2.557717],
        [268304384, 1.42e10, 2.431947],
        [268304384, 2.5e10, 2.384887],
        [268304384, 8e10, 2.304973],
        [429260800, 8e9, 2.437313],
        [429260800, 2.27e10, 2.322571],
        [429260800, 4e10, 2.274885],
        [429260800, 5e10, 2.256551],
        [536872960, 1e10, 2.383273],
        [536872960, 2.84e10, 2.262901],
        [536872960, 5e10, 2.217085],
        [1073741824, 2e10, 2.225496],
        [1073741824, 5.69e10, 2.120634],
    ],
    dtype=torch.float64,
)


def noisy_curve() -> np.ndarray:
    """y = .2 + 3 x^-.5 with 1% noise."""
    return (0.2 + 3 * X**-0.5) * (1 + 0.01 * np.random.default_rng(1).normal(size=9))


def noisy(y: torch.Tensor, size: float, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return y * (size * noise).exp()


def covers(fit, **truth: float) -> bool:
    return all(fit.intervals[name][0] < value < fit.intervals[name][1] for name, value in truth.items())


def test_a_clean_curve_gives_its_parameters_back():
    fit = fit_law(X, 0.2 + 3 * X**-0.5)
    assert fit.converged
    assert fit.parameters == pytest.approx({"E": 0.2, "A": 3.0, "a": 0.5}, abs=1e-5)
    torch.testing.assert_close(fit.predict([1e6]), torch.tensor([0.203], dtype=torch.float64), atol=1e-7, rtol=0)


def test_a_noisy_curve_extrapolates_as_a_power_and_not_as_an_exponential():
    power, exponential = (extrapolate(X, noisy_curve(), form) for form in ("power-offset", "exponential"))
    assert list(power.fit.parameters.values()) == pytest.approx([0.191, 2.93, 0.485], abs=2e-3)
    assert power.fit.points == 7
    assert power.fit.aicc == pytest.approx(-38.7, abs=0.1)
    assert exponential.fit.aicc == pytest.approx(-6.9, abs=0.1)
    assert (power.predicted / power.y).log().abs().max() < 0.03
    assert (exponential.predicted / exponential.y).log().abs().min() > 0.2
    assert exponential.rms_log_error < 0.3


def test_the_comparison_names_the_law_that_made_the_data():
    told = compare_forms(X, noisy_curve(), bootstrap=0)
    assert told.verdict == "power-offset"
    assert told.extrapolation["power-offset"] < 0.03 < 0.2 < told.extrapolation["exponential"]
    decay = 0.3 + 2 * np.exp(-X / 300) * (1 + 0.01 * np.random.default_rng(0).normal(size=9))
    assert compare_forms(X, decay, bootstrap=0).verdict == "exponential"


def test_the_comparison_is_undecided_when_points_are_few_or_laws_agree():
    few = compare_forms(X[:5], noisy_curve()[:5], bootstrap=0)
    assert few.verdict == "undecided"
    assert math.isnan(few.fits["exponential"].aicc)
    y = 3 * X**-0.5 * (1 + 0.01 * np.random.default_rng(2).normal(size=9))
    same = compare_forms(X, y, ("power", "power-offset", "broken-power"), bootstrap=0)
    assert same.verdict == "undecided"
    assert same.fits["power"].aicc < same.fits["power-offset"].aicc
    assert math.isnan(same.extrapolation["broken-power"]) or same.extrapolation["broken-power"] >= 0


def coverage(points: int, noise: float, times: int, resamples: int) -> np.ndarray:
    """How often the interval holds the exponent, and the band the curve at four times the largest size."""
    rng, x = np.random.default_rng(5), 4.0 ** np.arange(2, 2 + points)
    curve, inside = 0.2 + 3 * x**-0.5, np.zeros(2)
    for seed in range(times):
        fit = fit_law(x, curve * np.exp(noise * rng.normal(size=points)), bootstrap=resamples, seed=seed)
        low, high = fit.predict_interval(4 * x[-1])
        inside += covers(fit, a=0.5), bool(low < 0.2 + 3 * (4 * x[-1]) ** -0.5 < high)
    return inside / times


def test_intervals_cover_even_with_hardly_more_points_than_parameters():
    assert (coverage(points=5, noise=0.05, times=20, resamples=60) >= 0.8).all()


@pytest.mark.slow
@pytest.mark.parametrize(("points", "noise"), [(8, 0.02), (5, 0.05), (4, 0.03)])
def test_intervals_cover_as_often_as_they_say(points, noise):
    assert (coverage(points, noise, times=100, resamples=200) >= 0.88).all()


def test_few_points_give_a_wide_interval():
    rng, widths = np.random.default_rng(0), []
    for _ in range(5):
        y = (0.2 + 3 * X**-0.5) * np.exp(0.02 * rng.normal(size=9))
        limits = [fit_law(X[:n], y[:n], bootstrap=60).intervals["a"] for n in (4, 9)]
        widths.append([high - low for low, high in limits])
    four, nine = np.median(widths, axis=0)
    assert four > 3 * nine


def test_a_floor_of_zero_does_not_trap_the_interval():
    fit = fit_law(4.0 ** np.arange(1, 6), [0.2, 0.11, 0.05, 0.028, 0.0125])  # best without a floor
    assert fit.parameters["E"] < 1e-6
    assert fit.intervals["E"][1] > 0.003
    assert fit.intervals["a"][1] > 1.1 * fit.parameters["a"]


def test_as_many_points_as_parameters_leave_every_interval_unbounded():
    fit = fit_law(X[:3], noisy_curve()[:3])
    assert fit.rms_log_error < 1e-6
    assert fit.intervals == {"E": (0, math.inf), "A": (0, math.inf), "a": (-math.inf, math.inf)}
    low, high = fit.predict_interval([1e4, 1e5])
    assert low.tolist() == [0, 0]
    assert high.isinf().all()


def test_a_curve_that_never_moves_tells_no_exponent():
    fit = fit_law(X[:6], np.full(6, 0.3))
    assert fit.predict(X).tolist() == pytest.approx([0.3] * 9, rel=1e-3)
    assert fit.intervals["a"] == (-math.inf, math.inf)
    flat = fit_law(X[:6], noisy(torch.full((6,), 0.3).double(), 0.02), "power")
    assert covers(flat, a=0.0)


def test_one_wild_point_hardly_moves_the_fit():
    y = 0.1 + 3 * X**-0.5
    y[4] *= 2
    robust, squares = fit_law(X, y, bootstrap=0), fit_law(X, y, bootstrap=0, delta=10.0)
    assert robust.parameters["a"] == pytest.approx(0.5, abs=0.02)
    assert abs(squares.parameters["a"] - 0.5) > 0.05


def test_a_weight_of_two_is_a_point_given_twice_and_only_ratios_of_weights_matter():
    y, weights = noisy_curve(), np.array([1, 1, 2, 1, 1, 1, 2, 1, 1])
    heavy = fit_law(X, y, weights=weights, bootstrap=0)
    twice = fit_law(np.repeat(X, weights), np.repeat(y, weights), bootstrap=0)
    assert heavy.parameters == pytest.approx(twice.parameters, rel=1e-6)
    scaled = fit_law(X, y, weights=100 * weights, bootstrap=50)
    assert scaled.parameters == pytest.approx(heavy.parameters, rel=1e-6)


@pytest.mark.parametrize("form", ["power-offset", "power", "exponential", "log-linear"])
def test_units_of_either_axis_change_nothing_but_the_units(form):
    y = noisy_curve() + 1
    here, there = fit_law(X, y, form), fit_law(1e7 * X, 1e5 * y, form)
    torch.testing.assert_close(1e5 * here.predict(X), there.predict(1e7 * X), rtol=1e-5, atol=0)
    for one, other in zip(here.predict_interval(50.0), there.predict_interval(50e7), strict=True):
        torch.testing.assert_close(1e5 * one, other, rtol=2e-3, atol=0)
    assert here.aicc == pytest.approx(there.aicc, abs=1e-3)


def test_rising_curves_have_negative_exponents():
    x = torch.logspace(1, 5, 12, dtype=torch.float64)
    assert covers(fit_law(x, noisy(0.3 * x**0.5, 0.01), "power"), A=0.3, a=-0.5)
    assert covers(fit_law(x, noisy(0.3 + 0.01 * x**0.5, 0.01)), E=0.3, A=0.01, a=-0.5)


def test_one_dimensional_laws_come_back():
    x = torch.logspace(1, 5, 20, dtype=torch.float64)
    assert covers(fit_law(x, noisy(2 - 0.1 * x.log(), 0.01), "log-linear"), a=2.0, b=0.1)
    assert covers(fit_law(x, noisy(0.3 + 2 * (-x / 500).exp(), 0.01), "exponential"), E=0.3, A=2.0, s=500.0)
    broken = {"a": 0.1, "b": 2.0, "c0": 0.2, "c1": 0.5, "d1": 1e3, "f1": 0.3}
    y = broken_power_law(x, *broken.values())
    assert covers(fit_law(x, noisy(y, 0.01), "broken-power"), **broken)
    assert fit_law(x, y, "broken-power", bootstrap=0).parameters == pytest.approx(broken, rel=1e-4)
    twice = fit_law(x, noisy(y, 0.01), broken_power(2), bootstrap=0)
    assert twice.rms_log_error < 0.011


def test_two_dimensional_laws_come_back():
    x = torch.cartesian_prod(torch.logspace(6, 9, 5), torch.logspace(8, 11, 5)).double()
    hoffmann = {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}
    clean = chinchilla_law(x, **hoffmann)
    assert fit_law(x, clean, "chinchilla", bootstrap=0).parameters == pytest.approx(hoffmann, rel=1e-5)
    assert covers(fit_law(x, noisy(clean, 0.005), "chinchilla"), **hoffmann)
    kaplan = {"Nc": 8.8e13, "aN": 0.076, "Dc": 5.4e13, "aD": 0.095}
    assert covers(fit_law(x, noisy(kaplan_law(x, **kaplan), 0.005), "kaplan"), **kaplan)


def test_rosenfelds_law_predicts_the_largest_network_on_the_most_examples():
    x = torch.cartesian_prod(torch.logspace(3, 6, 5), torch.logspace(2, 5, 5)).double()
    y = noisy(rosenfeld_law(x, 10.0, 0.5, 5.0, 0.3, 0.05, 2.0, 0.9), 0.01)
    whole = fit_law(x, y, "rosenfeld", fixed={"eps0": 0.9})
    assert covers(whole, a=5.0, alpha=0.5, b=2.5, beta=0.3, c=0.025)  # in units of eta
    assert whole.intervals["eps0"] == (0.9, 0.9)
    corner = extrapolate(x, y, "rosenfeld", fixed={"eps0": 0.9}, bootstrap=0)
    assert corner.rms_log_error < 0.03
    assert len(corner.y) >= 6


def test_seventeen_language_models_of_five_sizes_hardly_tell_an_exponent_in_size():
    fit = fit_law(STEP_LAW[:, :2], STEP_LAW[:, 2], "chinchilla")
    assert fit.converged
    low, high = fit.intervals["alpha"]
    assert high > 3 * low
    assert fit.intervals["A"][1] > 30 * fit.intervals["A"][0]
    assert covers(fit, beta=0.306)
    # A coarse grid without a final descent stops at E=.258, A=9.34, B=410, alpha=.083, beta=.306; the fit is closer.
    coarse = chinchilla_law(STEP_LAW[:, :2], 0.258, 9.34, 0.083, 410.0, 0.306)
    residual = lambda predicted: (predicted / STEP_LAW[:, 2]).log().abs().sum()
    assert residual(fit.predict(STEP_LAW[:, :2])) < residual(coarse)


def test_the_same_seed_gives_the_same_fit_and_another_seed_other_intervals():
    one, two, other = (fit_law(X, noisy_curve(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.draws, two.draws)
    assert one.intervals != other.intervals
    assert one.parameters == other.parameters


def test_a_higher_level_is_wider():
    fit = fit_law(X, noisy_curve())
    (low, high), (lower, higher) = fit.predict_interval(1e4), fit.predict_interval(1e4, level=0.99)
    assert lower < low < fit.predict(1e4) < high < higher
    low, high = fit_law(STEP_LAW[:, :2], STEP_LAW[:, 2], "chinchilla", bootstrap=20).predict_interval(
        [[1e9, 1e11], [1e8, 1e9]]
    )
    assert (low < high).all()
    assert low.shape == (2,)


def test_a_fit_of_six_points_with_two_hundred_resamples_takes_under_two_seconds():
    start = time.process_time()
    fit_law(X[:6], noisy_curve()[:6], bootstrap=200)
    assert time.process_time() - start < 2


def test_missing_measurements_are_left_out():
    y = noisy_curve()
    y[4] = math.nan
    assert fit_law(X, y, bootstrap=0).parameters == fit_law(np.delete(X, 4), np.delete(y, 4), bootstrap=0).parameters


def test_a_bad_input_is_refused_with_the_rule():
    with pytest.raises(InputError, match="3 parameters to fit and needs as many distinct sizes; got 2"):
        fit_law([1, 1, 2, 2], [0.5, 0.5, 0.4, 0.4])
    with pytest.raises(InputError, match="0 at position 2"):
        fit_law([1, 2, 3, 4], [0.5, 0.4, 0.0, 0.1])
    with pytest.raises(InputError, match="half an example"):
        fit_law([1, 2, 3, 4], [0.5, 0.4, -0.1, 0.1])
    with pytest.raises(InputError, match=r"shape \(n, 2\)"):
        fit_law([1, 2, 3], [1, 2, 3], "chinchilla")
    with pytest.raises(InputError, match="weights"):
        fit_law([1, 2, 3], [1, 2, 3], weights=[1, 2])
    with pytest.raises(InputError, match="parameter of power-offset"):
        fit_law(X, noisy_curve(), fixed={"b": 1.0})
    with pytest.raises(InputError, match="no positive numbers"):
        fit_law(X, noisy_curve(), fixed={"E": -1e9}, bootstrap=0)
    with pytest.raises(InputError, match="level"):
        fit_law(X, noisy_curve(), level=95)
    with pytest.raises(InputError, match="leave none to predict"):
        extrapolate([1, 2, 3], [3, 2, 1], share=0.9)
    with pytest.raises(InputError, match="share"):
        extrapolate([1, 2, 3], [3, 2, 1], share=1.5)
    with pytest.raises(InputError, match="two forms"):
        compare_forms(X, noisy_curve(), ("power",))
