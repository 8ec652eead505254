"""Fit a scaling law, compare laws, and extrapolate: exponents with intervals, verdicts that may be "undecided".

    minimise sum_i w_i huber_delta(log f(x_i) - log y_i),  delta = 1e-3
    AICc = n ln(RSS / n) + 2 k + 2 k (k + 1) / (n - k - 1)      RSS of log residuals; k counts the noise variance

Hoffmann et al. 2022, arXiv 2203.15556, section 3.3; the sum (not the mean) and the check of the gradient follow
Besiroglu et al. 2024, arXiv 2404.10102. Plain least squares on y lets the largest y decide, and a straight line through
log-log points is biased by the floor E; neither is offered. Residuals may be relative instead, f(x_i) / y_i - 1, and
with a large delta the fit is by least squares, as Rosenfeld et al. 2021 (arXiv 2006.10621) fit the pruning law.

Intervals come from a parametric bootstrap: new data around the fitted curve, with log-normal noise of the size that
the residuals show, refitted from the found minimum and from the best start of the grid. The noise level of each
resample is itself drawn, as sigma_hat times sqrt(freedom / chi2), because a few points say little about it: for a law
linear in its parameters this is Student's t interval. Drawing cases again, the usual bootstrap, breaks down where there
are hardly more points than parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from surplus.errors import InputError, unknown
from surplus.space import generator
from surplus.theory.laws import Form, find_form
from surplus.theory.robust import Problem, descend, polish


@dataclass(frozen=True)
class LawFit:
    """A fitted law.

    `parameters` and `intervals` go by the law's own names. `aicc` is NaN where the data are too few, n <= k + 1.
    `converged`: the gradient vanished. `draws` (resamples, k) are the refitted parameters behind the intervals; with as
    many parameters as points, or a y that never moves, there is no spread to measure: `draws` is empty and every
    interval is unbounded.
    """

    form: Form
    parameters: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    aicc: float
    rms_log_error: float
    converged: bool
    points: int
    level: float
    draws: Tensor

    def predict(self, x: Any) -> Tensor:
        """The law at x: (n,) or a number; rows (parameters, examples) for a law of two inputs."""
        return self.form.law(_inputs(x, self.form), *self.parameters.values())

    def predict_interval(self, x: Any, level: float | None = None) -> tuple[Tensor, Tensor]:
        """Where the curve lies at x (not where one more noisy measurement would), at the fit's level or another."""
        at, level = _inputs(x, self.form), self.level if level is None else _check_level(level)
        if not len(self.draws):
            none = torch.zeros_like(self.predict(at))
            return none, none + torch.inf
        columns = self.draws.T.reshape(self.draws.shape[1], -1, *[1] * (at.ndim - (self.form.inputs > 1)))
        low, high = _quantiles(self.form.law(at, *columns), level)
        return low, high


@dataclass(frozen=True)
class Extrapolation:
    """A law fitted to the smaller sizes and judged on the larger.

    `x`, `y` and `predicted` are of the held-out points.
    """

    fit: LawFit
    x: Tensor
    y: Tensor
    predicted: Tensor
    rms_log_error: float


@dataclass(frozen=True)
class LawComparison:
    """Laws side by side. `verdict` names the winner, or is "undecided".

    A law wins when its AICc is the lowest by more than 10 and its extrapolation error is the lowest too.
    `extrapolation` is the RMS log error on the largest sizes; NaN where the smaller ones are too few for the law.
    """

    fits: dict[str, LawFit]
    extrapolation: dict[str, float]
    verdict: str


def fit_law(
    x: Any,
    y: Any,
    form: str | Form = "power-offset",
    weights: Any = None,
    bootstrap: int = 200,
    seed: int | Generator = 0,
    level: float = 0.95,
    fixed: Mapping[str, float] | None = None,
    delta: float = 1e-3,
    residuals: Literal["log", "relative"] = "log",
) -> LawFit:
    """Fit a scaling law to measured errors or losses.

    Args:
        x: (n,) sizes, or (n, inputs) rows such as (parameters, examples) for a law of several inputs; positive.
        y: (n,) errors or losses; positive. NaN marks a missing measurement. Average repeats first or give each its row.
        form: a name in `FORMS`, or a `Form` such as `broken_power(2)`.
        weights: (n,) relative weights, 1 / var(log y) when known; equal when absent.
        bootstrap: resamples behind the intervals; 0 leaves them unbounded.
        seed: a seed or a generator.
        level: coverage of the intervals.
        fixed: parameters held at a known value, {"eps0": 0.9} say.
        delta: where Huber's loss turns from square to absolute, in units of the residuals; a large one means least
            squares.
        residuals: "log" for log f(x) - log y, "relative" for f(x) / y - 1.

    Raises:
        InputError: shapes that do not match, values that have no logarithm, fewer distinct sizes than parameters, an
            unknown form or parameter, parameters held where no positive prediction is possible, unknown residuals.
    """
    if residuals not in ("log", "relative"):
        raise unknown("kind of residuals", residuals, ("log", "relative"))
    model = _Model.of(form, fixed)
    x, y, weights, level = *_data(x, y, weights, model), _check_level(level)
    problem, target = Problem(model.curve(x), weights, delta), y.log()
    if residuals == "relative":
        curve, unit = problem.curve, y.log()
        problem, target = Problem(lambda u: (curve(u) - unit).exp(), weights, delta), torch.ones_like(y)
    starts = model.coordinates(model.form.starts(x, y))
    points, converged = _search(problem, starts, target)
    misfit = problem.predict(points[0]) - target
    freedom = len(y) - len(model.free) if float(y.max() - y.min()) > 1e-12 * float(y.max()) else 0
    chance = seed if isinstance(seed, Generator) else generator(seed, "law")
    draws = torch.empty(0, len(model.form.parameters), dtype=y.dtype)
    if freedom > 0 and bootstrap > 0:
        draws = model.natural(_bootstrap(problem, points, starts, misfit, freedom, bootstrap, chance))
    return LawFit(
        form=model.form,
        parameters=dict(zip(model.form.parameters, model.natural(points[0]).tolist(), strict=True)),
        intervals=model.intervals(draws, level),
        aicc=_aicc(misfit, weights, len(model.free)),
        rms_log_error=float((misfit if residuals == "log" else misfit.log1p()).square().mean().sqrt()),
        converged=converged,
        points=len(y),
        level=level,
        draws=draws,
    )


def extrapolate(
    x: Any, y: Any, form: str | Form = "power-offset", share: float = 0.7, downward: bool = False, **settings: Any
) -> Extrapolation:
    """Fit the smallest sizes and predict the rest.

    Args:
        x: as for `fit_law`; laws of two inputs order their rows by the product.
        y: as for `fit_law`.
        form: as for `fit_law`.
        share: of the distinct sizes, how many to fit (rounded up).
        downward: fit the largest sizes and predict the smaller, as where weights are removed.
        settings: further arguments of `fit_law`.

    Raises:
        InputError: a share outside (0, 1), or one that leaves nothing to predict; and as `fit_law`.
    """
    if not 0 < share < 1:
        raise InputError(f"share is how much of the sizes to fit, so it lies in (0, 1); got {share}.")
    model = _Model.of(form, settings.get("fixed"))
    x, y, weights = _data(x, y, settings.pop("weights", None), model)
    size = (x.log() if x.ndim == 1 else x.log().sum(1)) * (-1 if downward else 1)
    steps = size.unique()
    kept = math.ceil(share * len(steps) - 1e-9)
    if kept == len(steps):
        raise InputError(
            f"{len(steps)} distinct sizes leave none to predict when {share:.0%} are fitted; measure more sizes."
        )
    small = size <= steps[kept - 1]
    fit = fit_law(x[small], y[small], form, weights[small], **settings)
    predicted = fit.predict(x[~small])
    error = float((predicted / y[~small]).log().square().mean().sqrt())
    return Extrapolation(fit, x[~small], y[~small], predicted, error)


def compare_forms(
    x: Any,
    y: Any,
    forms: Sequence[str | Form] = ("power-offset", "exponential"),
    share: float = 0.7,
    downward: bool = False,
    **settings: Any,
) -> LawComparison:
    """Fit several laws to the same data and say which one they support, if any.

    Args:
        x: as for `fit_law`.
        y: as for `fit_law`.
        forms: two or more.
        share: of the sizes, how many the extrapolation fits.
        downward: whether these are the largest, as for `extrapolate`.
        settings: further arguments of `fit_law`.

    Raises:
        InputError: fewer than two forms; and as `fit_law`.
    """
    if len(forms) < 2:
        raise InputError(f"a comparison needs two forms or more; got {len(forms)}.")
    fits = {model.name: fit_law(x, y, model, **settings) for model in map(find_form, forms)}
    held = {**settings, "share": share, "downward": downward, "bootstrap": 0}
    errors = {name: _extrapolation_error(x, y, fit.form, held) for name, fit in fits.items()}
    first, second = sorted(fits, key=lambda name: (math.isnan(fits[name].aicc), fits[name].aicc))[:2]
    clear = fits[second].aicc - fits[first].aicc > 10  # False when either is NaN
    agreed = all(errors[first] < errors[name] for name in fits if name != first)
    return LawComparison(fits, errors, first if clear and agreed else "undecided")


def _extrapolation_error(x: Any, y: Any, form: Form, settings: Mapping[str, Any]) -> float:
    try:
        return extrapolate(x, y, form, **settings).rms_log_error
    except InputError:  # the smaller sizes are fewer than the law's parameters
        return math.nan


@dataclass(frozen=True)
class _Model:
    """A form whose fixed parameters are set; the search moves the free ones, by their logarithm unless signed."""

    form: Form
    free: tuple[int, ...]
    held: Tensor

    @classmethod
    def of(cls, name: str | Form, fixed: Mapping[str, float] | None) -> _Model:
        made = find_form(name)
        values = {**made.fixed, **(fixed or {})}
        for key in values:
            if key not in made.parameters:
                raise unknown(f"parameter of {made.name}", key, made.parameters)
        held = torch.tensor([values.get(name, math.nan) for name in made.parameters], dtype=torch.float64)
        return cls(made, tuple(i for i, name in enumerate(made.parameters) if name not in values), held)

    def natural(self, u: Tensor) -> Tensor:
        """Coordinates (..., free) -> all parameters (..., k)."""
        columns = list(self.held.expand(*u.shape[:-1], -1).unbind(-1))
        for column, i in enumerate(self.free):
            columns[i] = u[..., column] if self.form.parameters[i] in self.form.signed else u[..., column].exp()
        return torch.stack(columns, -1)

    def coordinates(self, natural: Tensor) -> Tensor:
        """All parameters (..., k) -> coordinates (..., free)."""
        columns = [natural[..., i] for i in self.free]
        signed = [self.form.parameters[i] in self.form.signed for i in self.free]
        return torch.stack([c if s else c.clamp(min=1e-300).log() for c, s in zip(columns, signed, strict=True)], -1)

    def curve(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Coordinates (..., n or 1, free) -> log predictions (..., n)."""
        return lambda u: self.form.law(x, *self.natural(u).unbind(-1)).log()

    def intervals(self, draws: Tensor, level: float) -> dict[str, tuple[float, float]]:
        names = self.form.parameters
        if not len(draws):
            lows = [-math.inf if name in self.form.signed else 0.0 for name in names]
            return {
                name: (low, math.inf) if i in self.free else (float(self.held[i]), float(self.held[i]))
                for i, (name, low) in enumerate(zip(names, lows, strict=True))
            }
        low, high = _quantiles(draws, level)
        return dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def _search(problem: Problem, starts: Tensor, target: Tensor, keep: int = 24) -> tuple[Tensor, bool]:
    """Minima found from the best of the starts, (found, free), the lowest first; and whether that one converged."""
    order = problem.loss(problem.predict(starts) - target).argsort(stable=True)
    found, loss = descend(problem, starts[order[:keep]], target, steps=60)
    found, loss = descend(problem, found[loss.argsort(stable=True)[:4]], target, steps=300)
    if not loss.isfinite().any():
        raise InputError(
            "the law predicts no positive numbers from any start; check the units of x and y, and `fixed`."
        )
    polished = [polish(problem, u, target) for u in _distinct(problem, found[loss.isfinite()])]
    polished.sort(key=lambda result: result[1])
    return torch.stack([point for point, _, _ in polished]), polished[0][2]


def _distinct(problem: Problem, points: Tensor) -> Tensor:
    """The points whose curves differ from those of all points before them."""
    curves = problem.predict(points)
    gap = (curves[:, None] - curves).abs().amax(-1)  # (points, points)
    return points[[bool((gap[i, :i] > 1e-4).all()) for i in range(len(points))]]


def _bootstrap(
    problem: Problem,
    points: Tensor,
    starts: Tensor,
    residuals: Tensor,
    freedom: int,
    resamples: int,
    chance: Generator,
) -> Tensor:
    """Coordinates refitted to new data around the first of the points, (resamples, free)."""
    n = len(residuals)
    sigma = ((problem.weights * residuals.square()).sum() / freedom).sqrt().clamp(min=1e-9)
    normal = torch.randn(resamples, n + freedom, generator=chance, dtype=residuals.dtype)
    noise, chi_square = normal[:, :n], normal[:, n:].square().sum(1, keepdim=True)
    scale = sigma * (freedom / chi_square).sqrt() / problem.weights.sqrt()
    targets = problem.predict(points[0]) + scale * noise
    # A minimum at E = 0 has no slope back to E > 0, so each resample also starts where the grid suits it best.
    grid = problem.predict(starts)
    fresh = starts[[int(problem.loss(grid - target).argmin()) for target in targets]]
    begin = torch.cat([points.repeat_interleave(resamples, 0), fresh])
    found, loss = descend(problem, begin, targets.repeat(len(points) + 1, 1), steps=100)
    best = loss.view(-1, resamples).argmin(0)
    return found.view(-1, resamples, found.shape[-1])[best, torch.arange(resamples)]


def _aicc(residuals: Tensor, weights: Tensor, free: int) -> float:
    n, k = len(residuals), free + 1
    if n <= k + 1:
        return math.nan
    mean_square = float((weights * residuals.square()).mean().clamp(min=1e-30))
    return n * math.log(mean_square) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def _quantiles(values: Tensor, level: float) -> tuple[Tensor, Tensor]:
    low, high = torch.quantile(values, torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=values.dtype), dim=0)
    return low, high


def _inputs(x: Any, form: Form) -> Tensor:
    at = torch.as_tensor(x, dtype=torch.float64).detach().cpu()
    if form.inputs > 1 and (at.ndim == 0 or at.shape[-1] != form.inputs):
        rows = f"rows of ({', '.join(form.columns)}), shape (n, {form.inputs})"
        raise InputError(f"{form.name} takes {rows}; got shape {tuple(at.shape)}.")
    return at


def _data(x: Any, y: Any, weights: Any, model: _Model) -> tuple[Tensor, Tensor, Tensor]:
    """The measurements that are there, double precision; weights with mean 1."""
    at, value = _inputs(x, model.form), torch.as_tensor(y, dtype=torch.float64).detach().cpu()
    given = torch.ones_like(value) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
    weight = given.detach().cpu()
    shape = "(n,)" if model.form.inputs == 1 else f"(n, {model.form.inputs})"
    if (
        value.ndim != 1
        or at.shape[:1] != value.shape
        or at.ndim != min(model.form.inputs, 2)
        or weight.shape != value.shape
    ):
        raise InputError(
            f"{model.form.name} is fitted to x of shape {shape}, y and weights of shape (n,); got x {tuple(at.shape)}, "
            f"y {tuple(value.shape)}, weights {tuple(weight.shape)}."
        )
    present = ~value.isnan()
    at, value, weight = at[present], value[present], weight[present]
    for name, numbers in (("x", at), ("y", value), ("weights", weight)):
        odd = ~((numbers > 0) & numbers.isfinite())
        if odd.any():
            raise InputError(
                f"laws are fitted to logarithms, so {name} is positive and finite; got {numbers[odd][0]:g} at position "
                f"{int(odd.nonzero()[0, 0])}. An error of 0 is better given as half an example, 0.5 / n_test."
            )
    distinct = len(at.unique(dim=0))
    if distinct < len(model.free):
        raise InputError(
            f"{model.form.name} has {len(model.free)} parameters to fit and needs as many distinct sizes; got "
            f"{distinct}. Measure more, hold parameters with fixed={{...}}, or take a smaller law such as 'power'."
        )
    return at, value, weight / weight.mean()


def _check_level(level: float) -> float:
    if not 0 < level < 1:
        raise InputError(f"level is the share of intervals that cover, so it lies in (0, 1); got {level}.")
    return level
