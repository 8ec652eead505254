"""Test error of a max-margin perceptron taught on the hardest or easiest part of its data (Sorscher et al. 2022).

    x ~ N(0, I_d),  y = sign(T.x),  alpha_tot d examples;  a probe J at angle theta to the teacher T, both of length 1
    kept: a share f, those with lo < |J.x| < hi;  hard (0, g), H(g) = (1 - f) / 2;  easy (g, infinity), H(g) = f / 2
    student = max-margin separator of the kept, margin kappa, overlap R = cos(student, T), test error arccos(R) / pi

In the limit of many dimensions d. Write the student as w ~ a + v, with a in the plane of T and J and v of length 1
across it, and t = y a.x. By Gordon's comparison such a w reaches y w.x >= k on all kept examples if and only if

    alpha E[Q(k - t)] <= 1,  alpha = f alpha_tot,  Q(m) = E_h[(m + h)_+^2] = (m^2 + 1) Phi(m) + m phi(m),  h ~ N(0, 1)

and the student is the a of largest kappa = k(a) / sqrt(1 + |a|^2). Feasible (a, k) form a convex set, so kappa is
quasi-concave in a, without a second stationary point to fall into. The paper finds the same student by the replica
method (its appendix A). Of the plane's two coordinates only q, along a, enters t; the other, r, is a truncated normal,
so each expectation is one integral over q, smooth between known corners.

B. Sorscher, R. Geirhos, S. Shekhar, S. Ganguli, A. Morcos, Beyond neural scaling laws, NeurIPS 2022, arXiv 2206.14486.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import erfinv, ndtr, ndtri

from surplus.errors import InputError, unknown
from surplus.registry import method

PAPER = "Sorscher et al. 2022, arXiv 2206.14486"
Keep = Literal["hard", "easy"]
Array = NDArray[np.float64]
_PARTS: tuple[Keep, ...] = ("hard", "easy")


@dataclass(frozen=True)
class PrunedPerceptron:
    """A student in the limit of many dimensions.

    `error`: chance of a wrong answer on a new example. `overlap`: R, its cosine with the teacher. `margin`: kappa, the
    least y w.x / |w| over its examples. `f`, `keep`: the part of the data that it was taught.
    """

    error: float
    overlap: float
    margin: float
    f: float
    keep: Keep


@method("prediction", paper=PAPER)
def perceptron_pruning(alpha_tot: float, f: float = 1.0, theta: float = 0.0, keep: Keep = "hard") -> PrunedPerceptron:
    """Test error of a max-margin perceptron taught on a share f of its data, the hardest or the easiest.

    Mind the axis. At equal `alpha_tot`, the data owned, pruning at best costs nothing; at equal f `alpha_tot`, the data
    taught, it gains.

    Args:
        alpha_tot: examples before pruning, per dimension.
        f: share kept, in (0, 1].
        theta: angle between probe and teacher in radians, from 0 (perfect) to pi / 2 (the probe knows nothing).
        keep: "hard", the smallest |J.x|, or "easy", the largest.

    Raises:
        InputError: an argument out of range.
    """
    lo, hi = kept_window(f, keep)
    if not 0 <= theta <= math.pi / 2:
        raise InputError(
            f"theta is an angle in radians, 0 to pi/2; got {theta}. Write math.radians(20) for 20 degrees."
        )
    if not 1e-6 <= f * alpha_tot <= 1e6:
        raise InputError(f"f alpha_tot is the examples taught per dimension, 1e-6 to 1e6; got {f * alpha_tot:g}.")
    problem = _Problem(f * alpha_tot, f, lo, hi, theta if f < 1 else 0.0)  # without pruning the probe has no part
    size, turn = problem.solve()
    a = math.exp(size)
    along, across = a * math.cos(turn), math.hypot(1.0, a * math.sin(turn))  # of the teacher
    length, k = math.hypot(1.0, a), problem.reach(a, turn)[0]
    return PrunedPerceptron(math.atan2(across, along) / math.pi, along / length, k / length, f, keep)


@method("prediction", paper=PAPER)
def pruning_frontier(alpha: float, pool: float, theta: float = 0.0, shares: int = 13) -> PrunedPerceptron:
    """The best that `alpha` examples per dimension can teach, chosen hard or easy from a pool of at most `pool`.

    The least of `perceptron_pruning(alpha / f, f, theta, keep)` over f from alpha / pool to 1 and both parts. The pool
    must have an end: with a perfect probe and alpha > 2 (where random labels cease to be separable) the error of the
    hardest falls in proportion to f, to nothing.

    Args:
        alpha: examples taught, per dimension.
        pool: examples to choose from, per dimension; at least alpha.
        theta: angle between probe and teacher in radians.
        shares: how many f to try for each part, evenly spaced in log f, before a search around the best.

    Raises:
        InputError: a pool smaller than alpha, or fewer than 3 shares; and as `perceptron_pruning`.
    """
    if not 0 < alpha <= pool < math.inf:
        raise InputError(f"alpha of the pool's examples are taught, 0 < alpha <= pool; got alpha={alpha}, pool={pool}.")
    if shares < 3:
        raise InputError(f"the search starts from 3 shares or more; got {shares}.")
    grid = np.linspace(math.log(alpha / pool), 0.0, shares)
    lines = [[_taught(alpha, x, theta, keep) for x in grid] for keep in _PARTS]
    line = min(lines, key=lambda line: min(p.error for p in line))
    best = min(range(shares), key=lambda i: line[i].error)
    found = minimize_scalar(
        lambda x: _taught(alpha, x, theta, line[best].keep).error,
        bounds=(grid[max(best - 1, 0)], grid[min(best + 1, shares - 1)]),
        method="bounded",
        options={"xatol": 1e-2},
    )
    return min(line[best], _taught(alpha, found.x, theta, line[best].keep), key=lambda p: p.error)


def kept_window(f: float, keep: Keep = "hard") -> tuple[float, float]:
    """The |J.x| that are kept, from lo to hi, so that a share f of all examples is.

    Raises:
        InputError: f outside (0, 1], or a part that is neither "hard" nor "easy".
    """
    if not 0 < f <= 1:
        raise InputError(f"f is the share of the examples that is kept, in (0, 1]; got {f}.")
    if keep not in _PARTS:
        raise unknown("part of the examples to keep", keep, _PARTS)
    return (0.0, math.sqrt(2) * float(erfinv(f))) if keep == "hard" else (max(0.0, float(-ndtri(f / 2))), math.inf)


def _taught(alpha: float, log_f: float, theta: float, keep: Keep) -> PrunedPerceptron:
    f = min(1.0, math.exp(log_f))
    return perceptron_pruning(alpha / f, f, theta, keep)


# ---- the student of one window --------------------------------------------------------------------------------------

_END = 9.0  # standard deviations beyond which a normal has no mass: phi(9) = 1e-18
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
_TAILS = np.array([-9.0, -5.0, -2.5, 0.0, 2.5, 5.0, 9.0])


@dataclass
class _Problem:
    """Which examples are taught: alpha of them per dimension, a share f, lo < |J.x| < hi, J at theta from T.

    A student's a has length a and stands at angle `turn` from T. Coordinates (q, r) of the plane are along and across
    it; by symmetry y = 1, that is T.x > 0, with the density doubled. The next search begins at the last `margin` found.
    """

    alpha: float
    f: float
    lo: float
    hi: float
    theta: float
    margin: float = 1.0

    def solve(self) -> tuple[float, float]:
        """(log |a|, turn) of the student, where kappa is largest."""
        low, high = -2.0, 2.0
        while self._rise(low) < 0:
            low -= 3
        while self._rise(high) > 0:
            high += 3
        start = brentq(self._rise, low, high, xtol=1e-13)
        if self.theta == 0:  # all there is to know lies along T
            return start, 0.0
        found = minimize(self._log_margin, [start, 0.0], jac=True, method="BFGS", options={"gtol": 1e-9})
        return float(found.x[0]), float(found.x[1])

    def _rise(self, size: float) -> float:
        """Derivative of kappa by log |a| at turn 0, up to a positive factor."""
        a = math.exp(size)
        k, q, _ = self.reach(a, 0.0)
        return a * q - k * a**2 / (1 + a**2)

    def _log_margin(self, z: Array) -> tuple[float, Array]:
        """-log kappa and its gradient at z = (log |a|, turn); far up where no margin is positive."""
        a = math.exp(z[0])
        k, q, r = self.reach(a, z[1])
        if k <= 0:
            return 1e3, np.zeros(2)
        return 0.5 * math.log1p(a**2) - math.log(k), np.array([a**2 / (1 + a**2) - a * q / k, -a * r / k])

    def reach(self, a: float, turn: float) -> tuple[float, float, float]:
        """k(a), and the means of q and r under the weight Q'(k - t): the derivatives of k along and across a.

        The constraint is convex and rising in k, so from the right of the root Newton's method comes down to it, and
        from the left it jumps to the right, at most as far as Jensen's bound by E[t] <= (lo + 1.6) a.
        """
        most = (self.lo + 1.6) * a + self.alpha**-0.5
        k = min(self.margin * math.hypot(1, a), most)
        for _ in range(200):
            q, weights = self._nodes(k, a, turn)
            mass, first = self._across(q, turn)
            m = k - a * q
            tail, density = ndtr(m), _phi(m)
            slope = 2 * weights * (m * tail + density)  # Q'
            total = float(slope @ mass)
            surplus = float(weights * mass @ ((m**2 + 1) * tail + m * density)) - 1 / self.alpha
            step = surplus / total if total > 0 else -math.inf  # so far to the left that nothing is felt
            k = min(k - step, most)
            if abs(step) < 1e-9 * (1e-3 + abs(k)):  # and the next step would be its square
                break
        self.margin = k / math.hypot(1, a)
        return k, float((slope * q) @ mass) / total, float(slope @ first) / total

    def _lines(self, turn: float) -> Iterator[tuple[float, float, float]]:
        """Where the kept region ends: c q + s r = e, for T.x = 0 and J.x = +-lo, +-hi."""
        yield math.cos(turn), -math.sin(turn), 0.0
        c, s = math.cos(self.theta - turn), math.sin(self.theta - turn)
        for e in {self.lo, -self.lo, self.hi, -self.hi} - {math.inf, -math.inf}:
            yield c, s, e

    def _nodes(self, k: float, a: float, turn: float) -> tuple[Array, Array]:
        """Gauss-Legendre nodes in q and weights times 2 phi(q) / f, on panels that end at all corners.

        Beyond q = (k + 9) / a nothing is left of Q; the mass across a moves from 0 to 1 around the end of a line.
        """
        (c0, s0, _), *others = lines = list(self._lines(turn))
        cuts = [np.linspace(-_END, _END, 13), (k - np.linspace(-_END, _END, 9)) / a]
        cuts += [(e - s * _TAILS) / c for c, s, e in lines if abs(c) > 1e-12]
        cuts += [np.array([-s0 * e / (c0 * s - s0 * c)]) for c, s, e in others if abs(c0 * s - s0 * c) > 1e-12]
        ends = np.unique(np.clip(np.concatenate(cuts), -_END, max(-_END, min(_END, (k + _END) / a))))
        half, middle = np.diff(ends) / 2, (ends[1:] + ends[:-1]) / 2
        q = (middle[:, None] + half[:, None] * _NODES).ravel()
        return q, 2 / self.f * _phi(q) * (half[:, None] * _WEIGHTS).ravel()

    def _across(self, q: Array, turn: float) -> tuple[Array, Array]:
        """Integrals of phi(r) and r phi(r) over the kept r, for each q."""
        c, s = math.cos(self.theta - turn), _not_zero(math.sin(self.theta - turn))
        edge = q * math.cos(turn) / _not_zero(math.sin(turn))  # T.x > 0 lies on one side of it
        floor, ceiling = (-math.inf, edge) if turn >= 0 else (edge, math.inf)
        mass, first = np.zeros_like(q), np.zeros_like(q)
        for near, far in ((self.lo, self.hi), (-self.hi, -self.lo)):
            bounds = (near - c * q) / s, (far - c * q) / s
            low = np.clip(np.maximum(np.minimum(*bounds), floor), -40, 40)
            high = np.maximum(np.clip(np.minimum(np.maximum(*bounds), ceiling), -40, 40), low)
            mass += ndtr(high) - ndtr(low)
            first += _phi(low) - _phi(high)
        return mass, first


def _phi(x: Array) -> Array:
    density: Array = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return density


def _not_zero(x: float) -> float:
    """So that a line without slope lies at an infinity instead of nowhere."""
    return x if abs(x) > 1e-300 else 1e-300
