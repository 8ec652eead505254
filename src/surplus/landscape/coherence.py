"""Coherence: how many examples the gradient of one example serves (Chatterjee & Zielinski 2022, arXiv 2203.10036).

    alpha = || mean_i g_i ||^2 / mean_i || g_i ||^2  in [0, 1],      m-coherence = m alpha  in [0, m]

g_i is the loss gradient of example i out of m. m-coherence is 1 for orthogonal gradients of one length, m for equal
ones, below 1 where they cancel. It is high for real labels and low for random ones early in training. Compare it at
equal m only. Earlier papers call alpha / (1/m) "alpha_m / alpha_m^perp" (arXiv 2008.01217).

The plain alpha exceeds that of the population by about (1 - alpha) / m. Over pairs of different examples alone,

    alpha' = (m || mean g ||^2 - v) / ((m - 1) v),    v = mean_i || g_i ||^2,

numerator and denominator are unbiased. One pass keeps a sum of gradients and a sum of squares per layer; the alpha of
the network is the mean of its layers' alphas, each weighted by its share of v.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.space import WeightSpace
from surplus.space.per_example import Loss, cross_entropy, per_example_grads
from surplus.space.weightspace import Buffers

_FLOATS = 2**24
"""Gradients held at once, in numbers: 64 MB."""


@dataclass(frozen=True)
class Coherence:
    """The two moments of a sample of gradients, layer by layer, and what is made of them."""

    units: int
    """m: gradients in the sample, of single examples or of microbatches."""
    layers: tuple[str, ...]
    """Names of the L layers."""
    signal: Tensor
    """(L,) squared length of the mean gradient."""
    energy: Tensor
    """(L,) mean squared length of the gradients, v."""

    @property
    def alpha(self) -> Tensor:
        """|| mean g ||^2 / v of all weights together; NaN where every gradient is zero."""
        return self.signal.sum() / self.energy.sum()

    @property
    def m_coherence(self) -> Tensor:
        """How many examples the gradient of one serves: m alpha."""
        return self.units * self.alpha

    @property
    def unbiased(self) -> Tensor:
        """Estimate alpha' of the population, from pairs of different examples; may be negative, NaN for m = 1."""
        v = self.energy.sum()
        return (self.units * self.signal.sum() - v) / ((self.units - 1) * v)

    @property
    def share(self) -> Tensor:
        """(L,) each layer's part of v: the weights with which the layers' alphas average to alpha."""
        return self.energy / self.energy.sum()

    @property
    def per_layer(self) -> dict[str, Tensor]:
        """Each layer's own alpha, by name; NaN where a layer receives no gradient."""
        return dict(zip(self.layers, self.signal / self.energy, strict=True))


def coherence_of(gradients: Tensor | Iterable[Tensor], sizes: dict[str, int] | None = None) -> Coherence:
    """Coherence of gradients at hand.

    Args:
        gradients: (m, P), or blocks of it one after the other.
        sizes: how many of the P columns belong to each layer, in order; one layer "all" when None.

    Raises:
        InputError: no gradient, or sizes that do not add up to P.
    """
    blocks = [gradients] if isinstance(gradients, Tensor) else gradients
    units, total, squares = 0, torch.zeros(()), torch.zeros(())
    for block in blocks:
        names = {"all": block.shape[1]} if sizes is None else sizes
        if sum(names.values()) != block.shape[1]:
            raise InputError(f"the layers have {sum(names.values()):,} weights, the gradients {block.shape[1]:,}")
        units, total = units + len(block), block.sum(0) + total.to(block)
        squares = _squares(block.square().sum(0), list(names.values())) + squares.to(block)
    if not units:
        raise InputError("coherence is over a sample of gradients, and none was given")
    return Coherence(units, tuple(names), _squares((total / units).square(), list(names.values())), squares / units)


@method("measure", name="m-coherence", paper="Chatterjee & Zielinski 2022, arXiv 2203.10036")
def gradient_coherence(
    space: WeightSpace,
    theta: Tensor,
    x: Tensor,
    y: Tensor,
    loss: Loss = cross_entropy,
    buffers: Buffers | None = None,
    *,
    unit: int = 1,
    chunk: int | None = None,
) -> Coherence:
    """Coherence of the gradients of a sample of examples, or of microbatches, at one point.

    With unit > 1 the sample is of consecutive microbatches, whose batch norms use the statistics of the microbatch as
    in training: for networks in which no example has a gradient of its own. `alpha_of_examples` translates. What does
    not fill a microbatch is left out.

    Args:
        space: the network.
        theta: (P,) the point.
        x: (n, ...) inputs as the network takes them.
        y: (n, ...) targets.
        loss: (outputs, targets) -> (n,), not averaged.
        buffers: batch-norm statistics of the point, for unit = 1.
        unit: examples per gradient.
        chunk: gradients held at once; as many as fit 64 MB when None.

    Raises:
        InputError: not one target per example, fewer examples than a unit, or dropout beside batch norm (unit > 1).
    """
    if len(x) != len(y) or not 1 <= unit <= len(x):
        raise InputError(
            f"coherence needs one target per example and 1 <= unit <= examples;"
            f" got {len(x):,} inputs, {len(y):,} targets, unit={unit}"
        )
    chunk = chunk or max(1, _FLOATS // space.size)
    if unit == 1:
        parts = zip(x.split(chunk), y.split(chunk), strict=True)
        return coherence_of((per_example_grads(space, theta, a, b, loss, buffers) for a, b in parts), _layers(space))
    return coherence_of(_microbatch_grads(space, theta, x, y, loss, unit, chunk), _layers(space))


def alpha_of_microbatches(alpha: float | Tensor, k: int) -> float | Tensor:
    """From alpha of single examples to that of means over k: k a / (1 + (k - 1) a), for the population."""
    return k * alpha / (1 + (k - 1) * alpha)


def alpha_of_examples(alpha: float | Tensor, k: int) -> float | Tensor:
    """From alpha of means over k examples to that of single ones, a / (k - (k - 1) a)."""
    return alpha / (k - (k - 1) * alpha)


def _layers(space: WeightSpace) -> dict[str, int]:
    """Number of weights of each layer, in the order of theta."""
    sizes: dict[str, int] = {}
    for block in space.blocks:
        sizes[block.layer] = sizes.get(block.layer, 0) + block.size
    return sizes


def _squares(squared: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sums of (P,) over each layer's columns: (L,)."""
    return torch.stack([part.sum() for part in squared.split(list(sizes))])


def _microbatch_grads(
    space: WeightSpace, theta: Tensor, x: Tensor, y: Tensor, loss: Loss, unit: int, chunk: int
) -> Iterator[Tensor]:
    """Gradients (units, P) of consecutive microbatches' mean losses, some units at a time."""
    train = bool(space.batch_norms)
    if train and space.has_dropout:
        raise InputError("batch norm in training mode would bring dropout along: take unit=1 and give buffers")
    full = len(x) // unit * unit
    for xs, ys in zip(x[:full].split(chunk * unit), y[:full].split(chunk * unit), strict=True):
        points = theta.detach().repeat(len(xs) // unit, 1).requires_grad_()
        batches = xs.unflatten(0, (-1, unit))  # (units, unit, ...)
        with torch.enable_grad():
            if space.vmaps:
                outputs = space.apply_each(points, batches, train=train).flatten(0, 1)
            else:
                outputs = torch.cat([space.apply(p, b, train=train) for p, b in zip(points, batches, strict=True)])
            (grads,) = torch.autograd.grad(loss(outputs, ys).sum() / unit, points)
        yield grads
