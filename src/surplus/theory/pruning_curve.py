"""The pruning law: the error of iteratively pruned networks over density, width and depth.

    error(d) = eps_np [ (d^2 + p^2 (eps_up / eps_np)^(2 / gamma)) / (d^2 + p^2) ]^(gamma / 2)

eps_np: error of the unpruned network, measured, never fitted. eps_up: the plateau at extreme sparsity. Between the two
the error is a power law of slope -gamma, which ends at density p, towards the *high* plateau; pruning begins to hurt
near p (eps_up / eps_np)^(1 / gamma). Over widths w and depths l the density enters as m* = l^phi w^psi d. The size of
the data enters through eps_np alone. Rosenfeld et al. 2021 (arXiv 2006.10621, sections 4 and 5), whose
| (d - j p (eps_up / eps_np)^(1 / gamma)) / (d - j p) |^gamma is the same number. `surplus.theory.pruning_law` fits it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.theory.laws import Form, Number


@method("prediction", paper="Rosenfeld et al. 2021, arXiv 2006.10621, equation 1")
def pruning_law(density: Tensor, eps_np: Number, eps_up: Number, gamma: Number, p: Number) -> Tensor:
    """Test error of a network pruned iteratively to a density, between two plateaus joined by a power law.

    Args:
        density: kept share of the weights, or m* = l^phi w^psi d.
        eps_np: error of the unpruned network.
        eps_up: error at extreme sparsity.
        gamma: slope of the power law between the plateaus; beyond 1,000 the law is its own limit, and stays there.
        p: density at which the power law ends in the upper plateau.
    """
    low, up, slope, place = (torch.as_tensor(v, dtype=density.dtype) for v in (eps_np, eps_up, gamma, p))
    slope, d, turn = slope.clamp(max=1000.0), 2 * density.log(), 2 * place.log()
    raised = torch.logaddexp(d, turn + 2 / slope * (up / low).log())  # a small gamma would overflow the power itself
    return low * (slope / 2 * (raised - torch.logaddexp(d, turn))).exp()


def density_at(error: Number, eps_np: Number, eps_up: Number, gamma: Number, p: Number) -> Tensor:
    """The density at which the law reaches an error: its inverse, infinite below eps_np and 0 from eps_up on.

    d = p sqrt((U - T) / (T - 1)),   T = (error / eps_np)^(2 / gamma),   U = (eps_up / eps_np)^(2 / gamma)

    Arguments broadcast; the result is in double precision.
    """
    target, low, up, slope, place = (torch.as_tensor(v, dtype=torch.float64) for v in (error, eps_np, eps_up, gamma, p))
    slope = slope.clamp(max=1000.0)
    log_t, log_u = 2 / slope * (target / low).log(), 2 / slope * (up / low).log()
    t, u = log_t.clamp(min=1e-300), torch.maximum(log_u, log_t + 1e-300)
    over = u + (-torch.expm1(t - u)).clamp(min=1e-300).log()  # log (U - T)
    under = t + (-torch.expm1(-t)).log()  # log (T - 1)
    found = (place.clamp(min=1e-300).log() + (over - under) / 2).exp()
    return torch.where(log_t <= 0, torch.inf, torch.where(log_t >= log_u, 0.0, found))


# ---- forms ----------------------------------------------------------------------------------------------------------


def pruning_form(eps_np: float, eps_up: float | None = None) -> Form:
    """The law of one network as a form to fit: eps_np held at what was measured, eps_up too when it is given.

    Raises:
        InputError: errors that are not positive, or an unpruned one at or above the plateau.
    """
    check_plateaus(eps_np, eps_up)
    held = {"eps_np": eps_np} | ({} if eps_up is None else {"eps_up": eps_up})
    names = ("eps_np", "eps_up", "gamma", "p")

    def starts(x: Tensor, y: Tensor) -> Tensor:
        up, gamma, p = _starts(x, y, eps_np, eps_up).unbind(1)
        return torch.stack([torch.full_like(up, eps_np), up, gamma, p], 1)

    return Form("pruning", pruning_law, names, starts, fixed=held)


def joint_form(eps_up: float | None = None) -> Form:
    """The law over networks, for rows (density, width, depth, eps_np): m* = depth^phi width^psi density."""
    names = ("eps_up", "gamma", "p", "phi", "psi")

    def law(x: Tensor, eps_up: Number, gamma: Number, p: Number, phi: Number, psi: Number) -> Tensor:
        density, width, depth, eps_np = x.unbind(-1)
        return pruning_law(depth**phi * width**psi * density, eps_np, eps_up, gamma, p)

    def starts(x: Tensor, y: Tensor) -> Tensor:
        simple = _starts(x[:, 0], y, float(x[:, 3].min()), eps_up)
        powers = torch.cartesian_prod(*(torch.tensor([0.0, 1.0], dtype=y.dtype),) * 2)
        return torch.cat([torch.cat([simple, row.expand(len(simple), 2)], 1) for row in powers])

    held = {} if eps_up is None else {"eps_up": eps_up}
    columns = ("density", "width", "depth", "eps_np")
    return Form("pruning, joint", law, names, starts, frozenset({"phi", "psi"}), 4, held, columns)


def _starts(x: Tensor, y: Tensor, eps_np: float, eps_up: float | None) -> Tensor:
    """(starts, 3) of eps_up, gamma and p; p as the density range of the data suggests."""
    ups = [eps_up] if eps_up is not None else [1.2 * float(y.max()), 2.0 * float(y.max()), 10.0 * float(y.max())]
    ups = [max(up, 1.05 * eps_np) for up in ups]
    axes = (ups, [0.2, 0.3, 0.5, 0.8, 1.5, 3.0], [1e-4, 1e-3, 1e-2, 0.1, 0.5, 2.0])
    up, gamma, place = torch.cartesian_prod(*(torch.tensor(axis, dtype=torch.float64) for axis in axes)).unbind(1)
    return torch.stack([up, gamma, place * x.max()], 1)


def check_plateaus(eps_np: float, eps_up: float | None) -> None:
    """Refuse errors that the law cannot join."""
    if not 0 < eps_np < math.inf or (eps_up is not None and not eps_np < eps_up):
        told = "" if eps_up is None else f" and the plateau at {eps_up:g}"
        raise InputError(
            f"the pruning law goes from the unpruned error up to a plateau above it, so 0 < eps_np < eps_up; got"
            f" eps_np = {eps_np:g}{told}."
        )
