"""Curvature of the loss at a point of weight space: Hessian products, trace, norm, and sharpness.

    H v = d/dtheta (grad L(theta) . v),    tr H = E v^T H v,    ||H||_F^2 = E ||H v||^2   (v random signs)

Hutchinson 1989; Pearlmutter 1994; for networks Yao et al. 2020 (PyHessian, arXiv 1912.07145). Sharpness is that of
Foret et al. 2021 (arXiv 2010.01412), the adaptive one that of Kwon et al. 2021 (arXiv 2102.11600). A rescaling of
layers that leaves the network alone changes the trace and the largest eigenvalue (Dinh et al. 2017), but not adaptive
sharpness.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from surplus.errors import InputError
from surplus.landscape.lanczos import Matvec
from surplus.registry import method
from surplus.space import Buffers, WeightSpace
from surplus.stats import Estimate

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> (B,), one number per example."""


def hvp(loss: Callable[[Tensor], Tensor], theta: Tensor, v: Tensor) -> Tensor:
    """Hessian of a scalar function of theta (P,), times v (P,)."""
    with torch.enable_grad():
        theta = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
        if not gradient.requires_grad:  # the loss is linear
            return torch.zeros_like(v)
        (product,) = torch.autograd.grad(gradient, theta, v, allow_unused=True)
    return torch.zeros_like(v) if product is None else product


def mean_loss(
    space: WeightSpace, x: Tensor, y: Tensor, loss: Loss, buffers: Buffers | None = None
) -> Callable[[Tensor], Tensor]:
    """Theta (P,) -> the mean loss over these examples, evaluation mode, in the precision of theta.

    Args:
        space: the network.
        x: (n, ...) inputs as the network takes them.
        y: (n, ...) targets.
        loss: (outputs, targets) -> (n,).
        buffers: batch-norm statistics of the point, from `space.statistics`.
    """

    def value(theta: Tensor) -> Tensor:
        state = buffers or space.fresh_buffers(theta.device)
        state = {name: _as(b, theta) for name, b in state.items()}
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
            return loss(space.apply(theta, _as(x, theta), state), _as(y, theta)).mean()

    return value


def hessian_operator(
    space: WeightSpace,
    theta: Tensor,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    buffers: Buffers | None = None,
    chunk: int = 512,
) -> Matvec:
    """V (P,) -> H v, H the Hessian of the mean loss over a fixed set of examples.

    Evaluation mode: no dropout, batch normalisation with fixed statistics. For a small network give theta in float64;
    the network follows.

    Args:
        space: the network.
        theta: (P,) the point.
        x: (n, ...) inputs as the network takes them.
        y: (n, ...) targets.
        loss: (outputs, targets) -> (n,).
        buffers: batch-norm statistics of the point, from `space.statistics`.
        chunk: examples per pass; chunks are weighted by their size.

    Raises:
        InputError: no examples, or not one target for each.
    """
    _check_examples(x, y)
    parts = [
        (mean_loss(space, xs, ys, loss, buffers), len(xs) / len(x))
        for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True)
    ]

    def product(v: Tensor) -> Tensor:
        total = torch.zeros_like(theta)
        for part, weight in parts:
            total.add_(hvp(part, theta, v), alpha=weight)
        return total

    return product


@method("measure", name="hessian-trace", paper="Hutchinson 1989; Yao et al. 2020, arXiv 1912.07145")
def trace(
    matvec: Matvec, dim: int, probes: int, generator: Generator, *, dtype: torch.dtype = torch.float32
) -> Estimate:
    """Trace of a symmetric operator, mean of v^T A v over random sign vectors; the spread is over probes.

    Args:
        matvec: v (dim,) -> A v (dim,).
        dim: side of A.
        probes: how many sign vectors.
        generator: draws them; it lives on the device of the operator.
        dtype: of the operator.
    """
    signs = _signs(dim, probes, generator, dtype)
    return Estimate.over(torch.stack([v.dot(matvec(v)) for v in signs]))


@method("measure", name="hessian-norm", paper="Hutchinson 1989; Yao et al. 2020, arXiv 1912.07145")
def frobenius(
    matvec: Matvec, dim: int, probes: int, generator: Generator, *, dtype: torch.dtype = torch.float32
) -> Estimate:
    """Frobenius norm of a symmetric operator, square root of the mean of ||A v||^2 over random sign vectors.

    The standard error is that of the mean, carried through the root: se / (2 norm). Arguments as in `trace`.
    """
    signs = _signs(dim, probes, generator, dtype)
    squared = Estimate.over(torch.stack([matvec(v).square().sum() for v in signs]))
    norm = squared.mean.sqrt()
    return Estimate(norm, torch.where(norm > 0, squared.stderr / (2 * norm), squared.stderr), squared.repeats)


def ascent(loss: Callable[[Tensor], Tensor], theta: Tensor, rho: float = 0.05, *, adaptive: bool = False) -> Tensor:
    """Rise of a scalar loss after one step of length rho uphill: L(theta + e) - L(theta).

        e = rho g / ||g||,   or adaptive   e = rho T^2 g / ||T g||,  T = diag |theta|

    This is the paper's first-order answer to max over ||e|| <= rho (adaptive: over ||e / theta|| <= rho).
    """
    with torch.enable_grad():
        theta = theta.detach().requires_grad_()
        here = loss(theta)
        (g,) = torch.autograd.grad(here, theta)
    with torch.no_grad():
        scale = theta.abs() if adaptive else torch.ones_like(theta)
        length = (scale * g).norm()
        if length == 0:
            return torch.zeros_like(here)
        return loss(theta + rho * scale.square() * g / length) - here


@method("measure", paper="Foret et al. 2021, arXiv 2010.01412; adaptive: Kwon et al. 2021, arXiv 2102.11600")
def sam_sharpness(
    space: WeightSpace,
    theta: Tensor,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    buffers: Buffers | None = None,
    *,
    rho: float = 0.05,
    m: int = 128,
    adaptive: bool = False,
) -> Estimate:
    """m-sharpness: the rise `ascent` finds, averaged over disjoint subsets of m examples; the spread is over subsets.

    Smaller subsets have sharper losses, so compare at equal m. Subsets are consecutive: shuffle sorted data before. The
    examples past the last full subset are left out; m = n takes all of them at once and has no spread.

    Args:
        space: the network.
        theta: (P,) the point.
        x: (n, ...) inputs as the network takes them.
        y: (n, ...) targets.
        loss: (outputs, targets) -> (n,).
        buffers: batch-norm statistics of the point.
        rho: length of the step.
        m: examples per subset.
        adaptive: measure the step relative to the size of each weight.

    Raises:
        InputError: no examples, not one target for each, m outside 1..n, or rho not positive.
    """
    _check_examples(x, y)
    if not 1 <= m <= len(x) or rho <= 0:
        raise InputError(f"m lies in 1..{len(x):,} (the examples given) and rho is positive; got m={m}, rho={rho}")
    full = len(x) // m * m
    subsets = zip(x[:full].split(m), y[:full].split(m), strict=True)
    rises = [ascent(mean_loss(space, xs, ys, loss, buffers), theta, rho, adaptive=adaptive) for xs, ys in subsets]
    return Estimate.over(torch.stack(rises))


def across_subsets(measure: Callable[[Tensor], Tensor], examples: int, parts: int, generator: Generator) -> Estimate:
    """A measure on disjoint random subsets of the data of equal size: what it owes to the examples at hand.

    The largest eigenvalue is convex in the Hessian, so its mean over subsets exceeds that on all data together.

    Args:
        measure: positions (examples // parts,) -> a number or any tensor.
        examples: how many there are.
        parts: how many subsets.
        generator: shuffles the examples.

    Raises:
        InputError: fewer examples than parts.
    """
    if not 1 <= parts <= examples:
        raise InputError(f"{examples:,} examples fall into 1 to {examples:,} subsets; got parts={parts}")
    order = torch.randperm(examples, generator=generator, device=generator.device)
    return Estimate.over(torch.stack([measure(index) for index in order[: examples // parts * parts].view(parts, -1)]))


def _as(tensor: Tensor, theta: Tensor) -> Tensor:
    """On theta's device, and of its precision when it holds real numbers."""
    return tensor.to(theta) if tensor.is_floating_point() else tensor.to(theta.device)


def _signs(dim: int, probes: int, generator: Generator, dtype: torch.dtype) -> list[Tensor]:
    if probes < 1:
        raise InputError(f"an estimate from random probes needs at least one; got probes={probes}")
    return [
        1 - 2 * torch.randint(2, (dim,), generator=generator, device=generator.device).to(dtype) for _ in range(probes)
    ]


def _check_examples(x: Tensor, y: Tensor) -> None:
    if len(x) == 0 or len(x) != len(y):
        raise InputError(f"curvature needs examples with one target each; got {len(x):,} inputs and {len(y):,} targets")
