"""Scaling laws: how error or loss falls with examples, parameters or steps, in the forms that the field fits.

Each law is a function of its natural parameters; `surplus.theory.law_fits` fits them. Laws of two inputs take rows of
(parameters, examples), in this order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from surplus.errors import InputError, unknown
from surplus.registry import method

Number = Tensor | float


@method("prediction", paper="Hestness et al. 2017, arXiv 1712.00409")
def power_law(x: Tensor, A: Number, a: Number) -> Tensor:
    """Error falls as a power of x, with no floor: y = A x^-a."""
    return A * x**-a


@method("prediction", paper="Hoffmann et al. 2022, arXiv 2203.15556, one input")
def power_offset_law(x: Tensor, E: Number, A: Number, a: Number) -> Tensor:
    """Error falls as a power of x to a floor: y = E + A x^-a."""
    return E + A * x**-a


@method("prediction", paper="Sorscher et al. 2022, arXiv 2206.14486")
def exponential_law(x: Tensor, E: Number, A: Number, s: Number) -> Tensor:
    """Error falls exponentially in x to a floor: y = E + A exp(-x / s)."""
    return E + A * torch.exp(-x / s)


@method("prediction")
def log_linear_law(x: Tensor, a: Number, b: Number) -> Tensor:
    """Error falls by the same amount with each doubling of x: y = a - b ln x."""
    return a - b * x.log()


@method("prediction", paper="Hoffmann et al. 2022, arXiv 2203.15556, equation 2")
def chinchilla_law(x: Tensor, E: Number, A: Number, alpha: Number, B: Number, beta: Number) -> Tensor:
    """Loss of a network of N parameters on D examples, two separate shortfalls: L = E + A N^-alpha + B D^-beta."""
    N, D = x.unbind(-1)
    return E + A * N**-alpha + B * D**-beta


@method("prediction", paper="Kaplan et al. 2020, arXiv 2001.08361, equation 1.5")
def kaplan_law(x: Tensor, Nc: Number, aN: Number, Dc: Number, aD: Number) -> Tensor:
    """Loss of N parameters on D examples, with one bottleneck at a time: L = ((Nc/N)^(aN/aD) + Dc/D)^aD."""
    N, D = x.unbind(-1)
    return ((Nc / N) ** (aN / aD) + Dc / D) ** aD


@method("prediction", paper="Rosenfeld et al. 2020, arXiv 1909.12673")
def rosenfeld_law(
    x: Tensor, a: Number, alpha: Number, b: Number, beta: Number, c: Number, eta: Number, eps0: Number
) -> Tensor:
    """Error between guessing (eps0) and power laws in n examples and m parameters: eps0 |e / (e - i eta)|.

    e = a n^-alpha + b m^-beta + c. Only the ratios of a, b and c to eta matter, so a fit holds eta at 1.
    """
    m, n = x.unbind(-1)
    e = a * n**-alpha + b * m**-beta + c
    return eps0 * e / (e**2 + eta**2) ** 0.5


@method("prediction", paper="Caballero et al. 2023, arXiv 2210.14891, equation 1")
def broken_power_law(x: Tensor, a: Number, b: Number, c0: Number, *breaks: Number) -> Tensor:
    """Power laws joined smoothly: y = a + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i).

    Args:
        x: (n,).
        a: floor.
        b: amplitude.
        c0: exponent before the first break.
        breaks: c_i, d_i, f_i for each break: change of the exponent, place, width in units of ln x.
    """
    value = b * x**-c0
    for c, d, f in zip(breaks[::3], breaks[1::3], breaks[2::3], strict=True):
        bend = torch.as_tensor((x / d).log() / f)
        value = value * torch.exp(-c * f * torch.logaddexp(bend, torch.zeros_like(bend)))  # no overflow for small f
    return a + value


@dataclass(frozen=True)
class Allocation:
    """How to spend compute: on how many parameters and how many examples."""

    parameters: float
    examples: float


@method("prediction", paper="Hoffmann et al. 2022, arXiv 2203.15556, equation 4")
def compute_optimal(
    compute: float, A: float, alpha: float, B: float, beta: float, flops_per_pair: float = 6.0
) -> Allocation:
    """Parameters N and examples D of least loss under Chinchilla's law, given compute = 6 N D.

        G = (alpha A / (beta B))^(1 / (alpha + beta))
        N = G (C/6)^(beta / (alpha + beta))        D = (C/6)^(alpha / (alpha + beta)) / G

    Args:
        compute: C, floating-point operations.
        A: amplitude of the shortfall in parameters.
        alpha: its exponent.
        B: amplitude of the shortfall in examples.
        beta: its exponent.
        flops_per_pair: operations that one parameter spends on one example; 6 is one forward and one backward pass.

    Raises:
        InputError: an argument that is not positive.
    """
    if min(compute, A, alpha, B, beta, flops_per_pair) <= 0:
        given = f"compute={compute}, A={A}, alpha={alpha}, B={B}, beta={beta}, flops_per_pair={flops_per_pair}"
        raise InputError(f"the split of compute is defined for positive constants only; got {given}.")
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    pairs = compute / flops_per_pair
    return Allocation(G * pairs ** (beta / (alpha + beta)), pairs ** (alpha / (alpha + beta)) / G)


@dataclass(frozen=True)
class Form:
    """A law as something to fit: which parameters it has, which may be negative, where a search starts.

    `starts` maps x (n,) or (n, 2) and y (n,) to natural parameters (starts, k) that fit the data's own scale, so the
    units of x and y do not matter. `fixed` holds parameters at a value unless the caller holds them at another.
    `columns` says what the rows of x hold where a law has several inputs.
    """

    name: str
    law: Callable[..., Tensor]
    parameters: tuple[str, ...]
    starts: Callable[[Tensor, Tensor], Tensor]
    signed: frozenset[str] = frozenset()
    inputs: int = 1
    fixed: Mapping[str, float] = field(default_factory=dict)
    columns: tuple[str, ...] = ("parameters", "examples")


def find_form(name: str | Form) -> Form:
    """The form of this name ("power-offset", "power_offset" and "power-offset-law" are one), or the form itself.

    Raises:
        InputError: no such form; the message offers the nearest names.
    """
    if isinstance(name, Form):
        return name
    label = name.lower().replace("_", "-").replace("+", "-").removesuffix("-law")
    if label not in FORMS:
        raise unknown("form of scaling law", name, FORMS)
    return FORMS[label]


def broken_power(breaks: int = 1) -> Form:
    """The broken power law with this many breaks, as a form to fit.

    Raises:
        InputError: fewer than one break.
    """
    if breaks < 1:
        raise InputError(f"a broken power law has at least one break; got {breaks}. Without any, fit 'power-offset'.")
    names = tuple(f"{letter}{i}" for i in range(1, breaks + 1) for letter in "cdf")
    signed = frozenset(f"c{i}" for i in range(breaks + 1))

    def starts(x: Tensor, y: Tensor) -> Tensor:
        middle = (torch.arange(breaks, dtype=y.dtype) + 0.5) / breaks
        rows = []
        for share, c0, c, shift, f in _grid(_FLOORS, (0.05, 0.3, 0.8), (-0.3, 0.3, 0.8), (-0.3, 0.0, 0.3), (0.1, 0.5)):
            d = torch.quantile(x.log(), middle + shift / breaks).exp()
            bends = torch.stack([c.expand(breaks), d, f.expand(breaks)], 1).flatten()
            b = (y.max() - share * y.min()) / broken_power_law(x, 0.0, 1.0, c0, *bends).max()
            rows.append(torch.cat([torch.stack([share * y.min(), b, c0]), bends]))
        return torch.stack(rows)

    return Form("broken-power", broken_power_law, ("a", "b", "c0", *names), starts, signed)


_FLOORS = (0.01, 0.3, 0.6, 0.85, 0.97)  # as a share of the smallest y
_SLOPES = (-1.0, -0.3, 0.1, 0.25, 0.5, 1.0, 2.0)


def _grid(*axes: Any) -> Tensor:
    """Every combination, (starts, axes)."""
    return torch.cartesian_prod(*(torch.as_tensor(axis, dtype=torch.float64) for axis in axes))


def _power_starts(x: Tensor, y: Tensor) -> Tensor:
    a = torch.tensor(_SLOPES, dtype=y.dtype)
    A = (y.log().mean() + a * x.log().mean()).exp()
    return torch.stack([A, a], 1)


def _power_offset_starts(x: Tensor, y: Tensor) -> Tensor:
    share, a = _grid(_FLOORS, _SLOPES).unbind(1)
    E = share * y.min()
    return torch.stack([E, (y.max() - E) / _largest(x, a), a], 1)


def _exponential_starts(x: Tensor, y: Tensor) -> Tensor:
    share, scale = _grid(_FLOORS, (0.05, 0.2, 0.5, 1.0, 3.0)).unbind(1)
    E, s = share * y.min(), scale * x.max()
    return torch.stack([E, (y.max() - E) * (x.min() / s).exp(), s], 1)


def _log_linear_starts(x: Tensor, y: Tensor) -> Tensor:
    z = x.log() - x.log().mean()
    slope = -(z * y).sum() / z.square().sum().clamp(min=1e-300)
    b = torch.tensor([1.0, 0.5, 0.0], dtype=y.dtype) * slope
    return torch.stack([y.mean() + b * x.log().mean(), b], 1)


def _chinchilla_starts(x: Tensor, y: Tensor) -> Tensor:
    slopes = (0.1, 0.3, 0.6, 1.2)
    floor, alpha, beta, share = _grid((0.1, 0.5, 0.9), slopes, slopes, (0.2, 0.5, 0.8)).unbind(1)
    E = floor * y.min()
    A = share * (y.max() - E) / _largest(x[:, 0], alpha)
    B = (1 - share) * (y.max() - E) / _largest(x[:, 1], beta)
    return torch.stack([E, A, alpha, B, beta], 1)


def _kaplan_starts(x: Tensor, y: Tensor) -> Tensor:
    slopes = (0.05, 0.15, 0.4, 1.0)
    aN, aD, share = _grid(slopes, slopes, (0.3, 0.7, 1.0)).unbind(1)
    Nc, Dc = (x[:, i].min() * (share * y.max()) ** (1 / slope) for i, slope in ((0, aN), (1, aD)))
    return torch.stack([Nc, aN, Dc, aD], 1)


def _rosenfeld_starts(x: Tensor, y: Tensor) -> Tensor:
    slopes = (0.2, 0.5, 1.0)
    guess, floor, alpha, beta, share = _grid((1.05, 1.5), (0.1, 0.7), slopes, slopes, (0.3, 0.7)).unbind(1)
    eps0 = guess * y.max()
    largest, smallest = (v / (eps0**2 - v**2).sqrt() for v in (y.max(), y.min()))  # e at the two ends, for eta = 1
    c = floor * smallest
    a = share * (largest - c) / _largest(x[:, 1], alpha)
    b = (1 - share) * (largest - c) / _largest(x[:, 0], beta)
    return torch.stack([a, alpha, b, beta, c, torch.ones_like(c), eps0], 1)


def _largest(x: Tensor, slope: Tensor) -> Tensor:
    """Largest x^-slope over the data, for each slope."""
    return (x ** -slope[:, None]).amax(1)


def _make(
    law: Callable[..., Tensor], starts: Callable[[Tensor, Tensor], Tensor], signed: str = "", **more: Any
) -> Form:
    parameters = tuple(inspect.signature(law).parameters)[1:]
    name = law.__name__.removesuffix("_law").replace("_", "-")
    return Form(name, law, parameters, starts, frozenset(signed.split()), **more)


FORMS: dict[str, Form] = {
    made.name: made
    for made in (
        _make(power_law, _power_starts, signed="a"),
        _make(power_offset_law, _power_offset_starts, signed="a"),
        _make(exponential_law, _exponential_starts),
        _make(log_linear_law, _log_linear_starts, signed="a b"),
        _make(chinchilla_law, _chinchilla_starts, signed="alpha beta", inputs=2),
        _make(kaplan_law, _kaplan_starts, inputs=2),
        _make(rosenfeld_law, _rosenfeld_starts, inputs=2, fixed={"eta": 1.0}),
        broken_power(1),
    )
}
