"""Fits of the pruning law, and what they predict before pruning to the end.

Fits (`fit_pruning_law`) minimise squared relative errors, as Rosenfeld et al. 2021 (arXiv 2006.10621) do. The law knows
no error below eps_np, where pruned networks often are at moderate densities, and a curve that never reaches the plateau
does not tell eps_up: it is then held at the error of guessing.

Predictions (`predict_matching`) rest on a few levels, too few to fit three constants. They weigh all laws of a grid by

    (sum of squared relative errors)^(-n / 2)  x  prior

that is, by the likelihood of n levels under Gaussian noise of unknown size. Prior: the matching density anywhere on a
logarithmic scale between a hundredth of the smallest density seen and 1; the slope gamma around 1 within a factor of
two (one standard deviation; published and our own curves lie between 0.5 and 1.5); eps_np as its standard error over
seeds says; eps_up the error of guessing. The density that is told is the median over all laws, as the ends of its
interval are their quantiles; the likeliest law, whose curve is drawn, may pass the margin elsewhere, even outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.space import generator
from surplus.theory.law_fits import LawFit, fit_law
from surplus.theory.pruning_curve import check_plateaus, density_at, joint_form, pruning_form, pruning_law

_REACHED = 0.8
"""A curve whose largest error is this share of the plateau has reached it."""
_NOISE = 0.005
"""Relative noise below which no curve is taken to lie, however well a law fits it."""
_FAR = 100
"""The matching density is sought down to this fraction of the smallest density seen."""


# ---- fits -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PruningFit:
    """The law fitted to one network or to many.

    `mu` and `sigma`: mean and standard deviation of the relative error of the fit. `plateau` says where eps_up comes
    from: "fitted", "held", or "unidentified", fitted to a curve that does not reach it. `eps_np` (n,) of the rows.
    """

    law: LawFit
    eps_np: Tensor
    mu: float
    sigma: float
    plateau: Literal["fitted", "held", "unidentified"]

    @property
    def joint(self) -> bool:
        """Whether the fit is over several networks."""
        return self.law.form.inputs > 1

    def error_at(self, density: Any, width: float = 1.0, depth: float = 1.0, eps_np: float | None = None) -> Tensor:
        """Predicted error at densities (n,) or a number; the network's own eps_np where the fit is of many."""
        return self.law.predict(self._rows(density, width, depth, eps_np))

    def error_interval(
        self,
        density: Any,
        width: float = 1.0,
        depth: float = 1.0,
        eps_np: float | None = None,
        level: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Bootstrap interval of the curve, arguments as for `error_at`."""
        return self.law.predict_interval(self._rows(density, width, depth, eps_np), level)

    def density_at(self, error: float, width: float = 1.0, depth: float = 1.0, eps_np: float | None = None) -> float:
        """The density at which the predicted error is reached: 1 where it is from the first cut on, 0 where never."""
        values = torch.tensor(list(self.law.parameters.values()), dtype=torch.float64)
        return float(self._inverse(error, values[None], width, depth, eps_np))

    def density_interval(
        self,
        error: float,
        width: float = 1.0,
        depth: float = 1.0,
        eps_np: float | None = None,
        level: float | None = None,
    ) -> tuple[float, float]:
        """Bootstrap interval of `density_at`; 0 to 1 where there are too few points for one."""
        if not len(self.law.draws):
            return 0.0, 1.0
        found = self._inverse(error, self.law.draws, width, depth, eps_np)
        tail = (1 - (level or self.law.level)) / 2
        low, high = torch.quantile(found, torch.tensor([tail, 1 - tail], dtype=found.dtype)).tolist()
        return float(low), float(high)

    def _inverse(self, error: float, draws: Tensor, width: float, depth: float, eps_np: float | None) -> Tensor:
        """Densities (draws,) at which the error is reached."""
        of = dict(zip(self.law.form.parameters, draws.unbind(-1), strict=True))
        low = of.get("eps_np", torch.as_tensor(self._own(eps_np), dtype=torch.float64))
        scale = depth ** of["phi"] * width ** of["psi"] if self.joint else 1.0
        found = density_at(error, low, of["eps_up"], of["gamma"], of["p"]) / scale
        return found.clamp(max=1.0)

    def _rows(self, density: Any, width: float, depth: float, eps_np: float | None) -> Tensor:
        at = torch.as_tensor(density, dtype=torch.float64)
        if not self.joint:
            return at
        others = (width, depth, self._own(eps_np))
        return torch.stack([at, *(torch.full_like(at, v) for v in others)], -1)

    def _own(self, eps_np: float | None) -> float:
        if eps_np is not None:
            return eps_np
        if float(self.eps_np.max() - self.eps_np.min()) > 0:
            raise InputError("this law was fitted to several networks; say eps_np=, the unpruned error of yours")
        return float(self.eps_np[0])


def fit_pruning_law(
    densities: Any,
    errors: Any,
    eps_np: Any,
    *,
    widths: Any = None,
    depths: Any = None,
    eps_up: float | None = None,
    chance: float | None = None,
    bootstrap: int = 200,
    seed: int | Generator = 0,
    level: float = 0.95,
) -> PruningFit:
    """Fit the law to test errors at densities, one row per network and density (the mean over seeds).

    Args:
        densities: (n,) kept shares, the unpruned network left out.
        errors: (n,) test errors.
        eps_np: the unpruned error of the network, or (n,) of each row's.
        widths: (n,) of each row's network, for a joint fit; its exponent psi is 0 when None.
        depths: (n,) likewise, exponent phi.
        eps_up: the plateau, when it is known.
        chance: error of guessing, 1 - 1/classes; the plateau is held there unless the errors reach it.
        bootstrap: resamples behind the intervals.
        seed: a seed or a generator.
        level: coverage of the intervals.

    Raises:
        InputError: as `fit_law`; an unpruned error that is not positive or not below the plateau.
    """
    d, y, low = (_double(v) for v in (densities, errors, eps_np))
    low = low.expand(d.shape)
    reached = chance is not None and float(y.max()) >= _REACHED * chance
    held = eps_up if eps_up is not None or chance is None or reached else chance
    check_plateaus(float(low.min()), None)
    check_plateaus(float(low.max()), held)
    settings: dict[str, Any] = {"bootstrap": bootstrap, "seed": seed, "level": level}
    settings |= {"residuals": "relative", "delta": 1e6}  # least squares on relative errors
    if widths is None and depths is None and float(low.max()) == float(low.min()):
        fit = fit_law(d, y, pruning_form(float(low[0]), held), **settings)
        predicted = fit.predict(d)
    else:
        fixed = ({"psi": 0.0} if widths is None else {}) | ({"phi": 0.0} if depths is None else {})
        ones = torch.ones_like(d)
        width, depth = (ones if v is None else _double(v) for v in (widths, depths))
        rows = torch.stack([d, width, depth, low], 1)
        fit = fit_law(rows, y, joint_form(held), fixed=fixed, **settings)
        predicted = fit.predict(rows)
    delta = predicted / y - 1
    sigma = float(delta.std()) if len(delta) > 1 else 0.0
    return PruningFit(fit, low, float(delta.mean()), sigma, _plateau(fit, y, held))


def _plateau(fit: LawFit, y: Tensor, held: float | None) -> Literal["fitted", "held", "unidentified"]:
    """A plateau counts as seen when the errors come near it and its interval spans less than a factor of two."""
    if held is not None:
        return "held"
    low, high = fit.intervals["eps_up"]
    seen = float(y.max()) >= _REACHED * fit.parameters["eps_up"] and (high <= 2 * low or not len(fit.draws))
    return "fitted" if seen else "unidentified"


def _double(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64).detach().cpu()


# ---- before pruning to the end --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MatchingPrediction:
    """Where a pruning curve is expected to leave the margin, from its first levels.

    `density` is the smallest whose predicted mean error exceeds the dense one by no more than the margin: the median
    over all laws, between `low` and `high`, quantiles of the same. A `low` near a hundredth of the smallest density
    seen means that the levels do not yet show a rise. All are None where no law can be fitted; `reason` says why.
    """

    density: float | None
    low: float | None
    high: float | None
    margin: float
    eps_np: float
    levels: int
    smallest: float
    """The smallest density that was seen."""
    fit: PruningFit | None
    """The likeliest law, with draws of all."""
    reason: str = ""

    @property
    def sentence(self) -> str:
        """The prediction in words."""
        if self.fit is None or self.density is None or self.low is None or self.high is None:
            return f"No pruning law could be fitted: {self.reason}."
        after = f"After {self.levels} levels, down to {self.smallest:.1%} of the weights, "
        far = 5 * self.smallest / _FAR  # so far out the levels only say that there was no rise
        if self.high >= 1:
            return after + "the pruning law cannot tell yet which density will match."
        if self.density < self.smallest / 10:  # rests on the prior: nothing was seen so far out
            return f"{after}the error hardly rises: by the pruning law, {self.high:.1%} or less will match."
        spread = f"at most {self.high:.1%}" if self.low < far else f"{self.low:.1%} to {self.high:.1%}"
        return f"{after}the pruning law expects that {self.density:.1%} ({spread}) will match."

    def held_out(self, densities: Any, errors: Any) -> float | None:
        """RMS relative error of the predictions at further densities (n,) with errors (n,) or (n, seeds)."""
        at, seen = _double(densities), _double(errors)
        seen = seen.mean(1) if seen.dim() > 1 else seen
        if self.fit is None or not len(at):
            return None
        known = seen > 0
        gap = self.fit.error_at(at[known]) / seen[known] - 1
        return float(gap.square().mean().sqrt()) if len(gap) else None


def predict_matching(
    densities: Any,
    errors: Any,
    dense_errors: Any,
    margin: float,
    classes: int,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int | Generator = 0,
) -> MatchingPrediction:
    """The density at which the mean error will exceed the dense one by the margin, from the first pruning levels.

    Args:
        densities: (levels,) kept shares, without the dense level.
        errors: (levels, seeds) test errors, or their means (levels,).
        dense_errors: (seeds,) of the dense networks, or their mean.
        margin: the largest loss of accuracy that counts as none.
        classes: for the error of guessing.
        level: coverage of the interval.
        draws: laws behind it, drawn by their weight.
        seed: a seed or a generator.

    Raises:
        InputError: not one row of errors for each density, a margin that is not positive, fewer than two classes.
    """
    d, y, dense = (_double(v) for v in (densities, errors, dense_errors))
    if d.dim() != 1 or y.shape[:1] != d.shape or margin <= 0 or classes < 2:
        raise InputError(
            f"a prediction needs one row of errors per density, a positive margin and two classes or more; got"
            f" densities {tuple(d.shape)}, errors {tuple(y.shape)}, margin {margin} and {classes} classes"
        )
    y, dense = y.mean(1) if y.dim() > 1 else y, dense.reshape(-1)
    own, chance = float(dense.mean()), 1 - 1 / classes
    keep = (d < 1) & (y > 0)
    seen, smallest = int(keep.sum()), float(d.min()) if len(d) else 1.0
    reason = _impossible(seen, own, chance, margin)
    if reason:
        return MatchingPrediction(None, None, None, margin, own, seen, smallest, None, reason)
    spread = float(dense.std()) / own / len(dense) ** 0.5 if len(dense) > 1 else 0.0
    laws, weights = _weighed(d[keep], y[keep], own, spread, margin, chance)
    chance_of = seed if isinstance(seed, Generator) else generator(seed, "pruning law")
    drawn = laws[weights.multinomial(draws, replacement=True, generator=chance_of)]
    fit = _of_weighed(d[keep], y[keep], laws[weights.argmax()], drawn, level)
    places = density_at(own + margin, *drawn.unbind(1)).clamp(max=1.0)
    tails = torch.tensor([(1 - level) / 2, 0.5, (1 + level) / 2], dtype=places.dtype)
    low, middle, high = torch.quantile(places, tails).tolist()
    return MatchingPrediction(middle, low, high, margin, own, seen, smallest, fit)


def _weighed(d: Tensor, y: Tensor, own: float, spread: float, margin: float, chance: float) -> tuple[Tensor, Tensor]:
    """Laws of a grid as constants (laws, 4) in the order of the law's arguments, and weights (laws,) that sum to 1."""
    places = torch.linspace(float((d.min() / _FAR).log()), 0.0, 400, dtype=d.dtype).exp()  # of the matching density
    slopes = torch.linspace(-2, 2, 17, dtype=d.dtype)  # log2 gamma, and its prior's standard deviations
    offsets = torch.linspace(-2, 2, 9, dtype=d.dtype) if spread > 0 else torch.zeros(1, dtype=d.dtype)
    place, slope, offset = torch.cartesian_prod(places, slopes, offsets).unbind(1)
    low, gamma = own * (spread * offset).exp(), 2**slope
    p = place / density_at(own + margin, low, chance, gamma, 1.0)
    laws = torch.stack([low, torch.full_like(low, chance), gamma, p], 1)
    possible = (p > 0) & p.isfinite()  # the margin lies between the plateaus
    off = pruning_law(d, *(v[:, None] for v in laws[possible].unbind(1))) / y - 1  # (possible laws, n)
    likelihood = -len(d) / 2 * (off.square().mean(1) + _NOISE**2).log()
    weights = (likelihood - (slope.square() + offset.square())[possible] / 2).softmax(0)
    return laws[possible], weights


def _of_weighed(d: Tensor, y: Tensor, best: Tensor, draws: Tensor, level: float) -> PruningFit:
    """The likeliest law with draws of all as its uncertainty."""
    values = best.tolist()
    form = pruning_form(values[0], values[1])
    off = pruning_law(d, *values) / y - 1
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=d.dtype)
    ends = torch.quantile(draws, tails, dim=0).T.tolist()
    law = LawFit(
        form=form,
        parameters=dict(zip(form.parameters, values, strict=True)),
        intervals={name: (low, high) for name, (low, high) in zip(form.parameters, ends, strict=True)},
        aicc=math.nan,
        rms_log_error=float(off.log1p().square().mean().sqrt()),
        converged=True,
        points=len(d),
        level=level,
        draws=draws,
    )
    return PruningFit(law, torch.full_like(d, values[0]), float(off.mean()), float(off.std()), "held")


def crossing(densities: Any, errors: Any, error: float) -> float | None:
    """The density at which a measured curve first exceeds an error on its way down; None where it never does.

    Interpolated in the logarithm of the density between the last level within the error and the first beyond it.

    Args:
        densities: (n,) falling, the dense network's 1 first.
        errors: (n,) mean errors.
        error: the limit; the dense network's own lies within it.
    """
    d, y = _double(densities), _double(errors)
    beyond = (y > error).nonzero()
    if not len(beyond) or int(beyond[0]) == 0:
        return None
    i = int(beyond[0])
    part = (error - y[i - 1]) / (y[i] - y[i - 1])
    return float(torch.lerp(d[i - 1].log(), d[i].log(), part).exp())


def _impossible(levels: int, own: float, chance: float, margin: float) -> str:
    """Why no law can be fitted, or nothing."""
    if own <= 0:
        return "the dense networks make no error on the test set, and the law is about ratios to theirs"
    if levels < 3:
        return f"a law needs at least 3 pruned levels to be fitted to, and there are {levels}"
    if own + margin >= chance:
        return "the dense networks do hardly better than guessing"
    return ""
