"""Spectra of symmetric operators from products alone: extreme eigenvalues, and the density of all.

    A Q_m = Q_m T_m + beta_m q_{m+1} e_m^T,   T_m = tridiag(beta, alpha, beta)

Lanczos 1950; density by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017; for networks Ghorbani, Krishnan & Xiao
2019, arXiv 1901.10159, section 3). Every new vector is orthogonalised against all before it, twice: without that,
rounding brings ghost copies of converged eigenvalues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.stats import Estimate

Matvec = Callable[[Tensor], Tensor]
"""v (P,) -> A v (P,), A symmetric."""


@dataclass(frozen=True)
class Krylov:
    """m steps of Lanczos."""

    alpha: Tensor
    """(m,) diagonal of T."""
    beta: Tensor
    """(m,) below the diagonal; the last is the length of what the m steps left over, 0 when they used up the space."""
    basis: Tensor
    """(m, P) orthonormal rows."""

    @property
    def matrix(self) -> Tensor:
        """T (m, m)."""
        off = self.beta[:-1]
        return self.alpha.diag() + off.diag(1) + off.diag(-1)

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (m,) of T, rising, and its eigenvectors (m, m) in columns."""
        return tuple(torch.linalg.eigh(self.matrix))


def lanczos(matvec: Matvec, start: Tensor, steps: int) -> Krylov:
    """At most `steps` steps from the vector `start` (P,); fewer when its invariant subspace is used up."""
    return deque(_growing(matvec, start, steps), maxlen=1).pop()


@dataclass(frozen=True)
class Eigenvalues:
    """The largest eigenvalues, with what is known of their error."""

    values: Tensor
    """(k,) falling."""
    errors: Tensor
    """(k,) || A v - value v ||: an eigenvalue of A lies at most this far from the value."""
    vectors: Tensor
    """(k, P) of unit length."""
    steps: int
    """Products with A that it took."""


@method("measure", paper="Lanczos 1950; for networks Sagun et al. 2016, arXiv 1611.07476")
def top_eigenvalue(
    matvec: Matvec,
    dim: int,
    generator: Generator,
    tol: float = 1e-3,
    k: int = 1,
    *,
    steps: int = 200,
    dtype: torch.dtype = torch.float32,
) -> Eigenvalues:
    """The k algebraically largest eigenvalues of a symmetric operator.

    Lanczos from a random vector until all k errors are below `tol` times the largest modulus seen. When `steps` end
    first, the errors say how far it came. Copies of an equal eigenvalue are found only when the operator has few
    distinct ones. For the smallest, hand over `lambda v: -matvec(v)`.

    Args:
        matvec: v (dim,) -> A v (dim,).
        dim: side of A.
        generator: draws the first vector; it lives on the device of the operator.
        tol: relative error asked for.
        k: how many eigenvalues.
        steps: the most products, each of which keeps a vector (dim,) in memory.
        dtype: of the operator.

    Raises:
        InputError: k outside 1..dim, or fewer steps than k.
    """
    if not 1 <= k <= min(dim, steps):
        raise InputError(
            f"k eigenvalues of a {dim} x {dim} matrix in {steps} steps: k lies in 1..{min(dim, steps)}; got {k}"
        )
    start = torch.randn(dim, generator=generator, device=generator.device, dtype=dtype)
    for krylov in _growing(matvec, start, min(steps, dim), generator):
        m = len(krylov.alpha)
        if m < k or (m % 5 and m < min(steps, dim)):
            continue  # looking costs a small eigenproblem: not at every step
        values, s = krylov.ritz()
        errors = krylov.beta[-1] * s[-1].abs()
        if (errors[-k:] <= tol * values.abs().max()).all():
            break
    vectors = s[:, -k:].T.flip(0) @ krylov.basis
    return Eigenvalues(values[-k:].flip(0), errors[-k:].flip(0), vectors, m)


@dataclass(frozen=True)
class SpectralDensity:
    """The density of eigenvalues: the share of them per unit length."""

    grid: Tensor
    """(points,) where it is given."""
    density: Estimate
    """(points,), spread over probes."""
    nodes: Tensor
    """(probes, steps) quadrature nodes, the probes' Ritz values; NaN where a probe stopped early."""
    weights: Tensor
    """(probes, steps) their weights, each row summing to 1; 0 where a probe stopped early."""
    width: float
    """Standard deviation of the Gaussian that each node is drawn as."""

    def moment(self, power: int) -> Estimate:
        """Mean of eigenvalue^power, from the quadrature: exact per probe for power < 2 steps; times P it is a trace."""
        return Estimate.over((self.weights * self.nodes.nan_to_num() ** power).sum(1))


@method("measure", paper="Ghorbani, Krishnan & Xiao 2019, arXiv 1901.10159")
def spectral_density(
    matvec: Matvec,
    dim: int,
    probes: int,
    steps: int,
    generator: Generator,
    grid: Tensor | int = 2000,
    *,
    width: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> SpectralDensity:
    """Density of all eigenvalues by stochastic Lanczos quadrature.

        phi(t) = mean_j sum_l tau_jl N(t; theta_jl, width^2),   tau_jl = (first component of T_j's l-th eigenvector)^2

    Args:
        matvec: v (dim,) -> A v (dim,).
        dim: side of A.
        probes: random starting vectors; their spread gives the standard error. 1 to 10 are usual.
        steps: Lanczos steps per probe; 100 is usual.
        generator: draws the probes; it lives on the device of the operator.
        grid: where to give the density, or how many points over the whole spectrum.
        width: of the Gaussians; when None, width^2 = 1e-5 times the squared range of the spectrum.
        dtype: of the operator.

    Raises:
        InputError: probes or steps below 1.
    """
    if probes < 1 or steps < 1:
        raise InputError(
            f"a spectral density needs at least one probe and one step; got probes={probes}, steps={steps}"
        )
    nodes = torch.full((probes, min(steps, dim)), torch.nan, dtype=dtype, device=generator.device)
    weights = torch.zeros_like(nodes)
    for j in range(probes):
        start = torch.randn(dim, generator=generator, device=generator.device, dtype=dtype)
        values, vectors = lanczos(matvec, start, steps).ritz()
        nodes[j, : len(values)], weights[j, : len(values)] = values, vectors[0].square()
    return _smooth(nodes, weights, grid, width)


def _smooth(nodes: Tensor, weights: Tensor, grid: Tensor | int, width: float | None) -> SpectralDensity:
    """Nodes and weights (probes, steps) as a sum of Gaussians; arguments as in `spectral_density`."""
    seen = nodes[~nodes.isnan()]
    low, high = seen.min().item(), seen.max().item()
    reach = high - low or abs(high) or 1.0  # a single eigenvalue has no range
    width = 1e-5**0.5 * reach if width is None else width
    if isinstance(grid, int):
        grid = torch.linspace(low - 6 * width, high + 6 * width, grid, dtype=nodes.dtype, device=nodes.device)
    normal = torch.distributions.Normal(grid.to(nodes), width)
    bells = [normal.log_prob(row.unsqueeze(1)).exp() for row in nodes.nan_to_num()]  # (steps, points) per probe
    density = torch.stack([w @ bell for w, bell in zip(weights, bells, strict=True)])
    return SpectralDensity(grid, Estimate.over(density), nodes, weights, width)


def _growing(matvec: Matvec, start: Tensor, steps: int, generator: Generator | None = None) -> Iterator[Krylov]:
    """The state after each step. With a generator, a used-up subspace is left by a fresh vector orthogonal to it."""
    dim = len(start)
    steps = min(steps, dim)
    basis = start.new_empty(min(steps, 32), dim)  # doubled when full: most spectra need far fewer vectors than allowed
    alpha, beta = start.new_zeros(2, steps)
    basis[0] = start / start.norm()
    tiny = torch.finfo(start.dtype).eps ** (2 / 3)
    for i in range(steps):
        w = matvec(basis[i])
        alpha[i] = basis[i].dot(w)
        w = _against(w, basis[: i + 1])
        size = w.norm()
        scale = max(alpha[: i + 1].abs().max(), beta[: i + 1].max())
        ended = bool(size <= tiny * scale) or i + 1 == dim
        beta[i] = 0 if ended else size
        yield Krylov(alpha[: i + 1], beta[: i + 1], basis[: i + 1])
        if i + 1 == steps or (ended and generator is None):
            return
        if ended:
            w = torch.randn(dim, generator=generator, device=start.device, dtype=start.dtype)
            w = _against(w, basis[: i + 1])
        if i + 1 == len(basis):
            basis = torch.cat([basis, torch.empty_like(basis[: steps - len(basis)])])
        basis[i + 1] = w / w.norm()


def _against(w: Tensor, basis: Tensor) -> Tensor:
    """What is left of w (P,) orthogonal to the rows of basis (m, P); twice is enough (Kahan, in Parlett 1980)."""
    for _ in range(2):
        w = w - basis.T @ (basis @ w)
    return w
