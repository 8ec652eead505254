"""Frozen random weights, and masks over them that are learnt.

    theta = m * w      supermask:  m ~ Bernoulli(sigmoid(z)), drawn at each step;       dm/dz := sigmoid'(z)
                       top-k:      m = 1 for the k largest |z| of each layer;           dm/dz := sign(z)

The second column is the straight-through rule: the draw or the threshold counts as the identity in the backward pass.

Supermasks: Zhou, Lan, Liu & Yosinski 2019, arXiv 1905.01067, section 5; with dynamic weight rescaling a layer's weights
are multiplied by size / sum(m), and the gradient sees that. Top-k is edge-popup: Ramanujan, Wortsman, Kembhavi, Farhadi
& Rastegari 2020, arXiv 1911.13299; its binary form, theta = a * sign(w) * m with a = |m * w|_1 / |m|_0 in each layer,
is the multi-prize ticket of Diffenderfer & Kailkhura 2021, arXiv 2103.09377; a is a constant in the backward pass here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.reparam.base import Reparametrisation, check_vector, fingerprint

Layers = Sequence[tuple[int, int]]
"""(start, stop) of each tensor that is masked, in the flat vector."""


class LearntMask(Reparametrisation):
    """Weights w that never train, and a number z for each weight of some layers, which says whether it is kept.

    Args:
        weights: (P,) the frozen w, or (K, P); what lies in no layer stays as it is.
        layers: (start, stop) of each masked tensor.
        z: (d,) where training begins, d the size of all layers, or (K, d).

    Raises:
        InputError: layers that are empty or leave weight space, or a z of another length.
    """

    def __init__(self, weights: Tensor, layers: Layers, z: Tensor) -> None:
        self.weights = check_vector("weights", weights)
        self.layers = tuple((int(a), int(b)) for a, b in layers)
        if not self.layers or not all(0 <= a < b <= weights.shape[-1] for a, b in self.layers):
            raise InputError(
                f"layers are (start, stop) of tensors among P = {weights.shape[-1]:,} weights; got {self.layers}"
            )
        self.sizes = [b - a for a, b in self.layers]
        self.size = sum(self.sizes)
        if z.shape != (*weights.shape[:-1], self.size):
            raise InputError(f"these layers have {self.size:,} weights, one number each; got shape {tuple(z.shape)}")
        self.z = z.to(weights)
        self.at = torch.cat([torch.arange(a, b, device=weights.device) for a, b in self.layers])
        self.own = self._inside(weights)

    def start(self) -> Tensor:
        """The numbers as they were given."""
        return self.z.clone()

    @abstractmethod
    def kept(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Booleans (..., d): which of the layers' weights stay."""

    def mask(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """`kept` on all weights, (..., P); what lies in no layer is kept."""
        kept = self.kept(z, drawn)
        return kept.new_ones(*kept.shape[:-1], self.weights.shape[-1]).index_copy(-1, self.at, kept)

    def spec(self) -> dict[str, Any]:
        """Name, weights, layers, where training begins."""
        name = type(self).__name__.lower()
        given = {"weights": fingerprint(self.weights), "z": fingerprint(self.z)}
        return {"name": name, **given, "layers": [list(pair) for pair in self.layers]}

    def _placed(self, values: Tensor) -> Tensor:
        """The frozen w with the layers' weights replaced: (..., d) -> (..., P)."""
        whole = self.weights.expand(*values.shape[:-1], self.weights.shape[-1])
        return whole.index_copy(-1, self.at, values)

    def _by_layer(self, values: Tensor) -> Iterable[tuple[int, Tensor]]:
        """Each layer's size and its values, (..., d) -> (..., size)."""
        return zip(self.sizes, values.split(self.sizes, -1), strict=True)

    def _inside(self, theta: Tensor) -> Tensor:
        """The layers' entries of a vector: (..., P) -> (..., d)."""
        return torch.cat([theta[..., a:b] for a, b in self.layers], -1)  # slices are several times faster than `at`


@method("reparametrisation", paper="Zhou, Lan, Liu & Yosinski 2019, arXiv 1905.01067")
class Supermask(LearntMask):
    """A mask drawn anew at each step, weight by weight; the probabilities are learnt.

    Without a draw, that is where the network is evaluated, a weight is kept whose probability is at least one half. The
    paper draws then too: `expected` of `surplus.pruning.schedules.popup` averages over such draws.

    Args:
        weights: (P,) the frozen weights, or (K, P).
        layers: (start, stop) of each masked tensor.
        z: (d,) logits where training begins, or (K, d); 0, that is probability 1/2, when None.
        rescale: multiply each layer's weights by size / kept of the very mask (dynamic weight rescaling); a layer of
            which nothing is kept counts as one of which one weight is.

    Raises:
        InputError: layers that are empty or leave weight space, or a z of another length.
    """

    def __init__(self, weights: Tensor, layers: Layers, z: Tensor | None = None, rescale: bool = False) -> None:
        size = sum(b - a for a, b in layers)
        super().__init__(weights, layers, weights.new_zeros(*weights.shape[:-1], size) if z is None else z)
        self.rescale = rescale

    def draw(self, generators: Sequence[Generator]) -> Tensor:
        """Uniform numbers (replicas, d)."""
        rows = [torch.rand(self.size, generator=g, device=g.device) for g in generators]
        return torch.stack([row.to(self.weights) for row in rows])

    def kept(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Where the draw lies below the probability; where that is at least 1/2 when None."""
        return z >= 0 if drawn is None else drawn < z.sigmoid()

    def to_theta(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """M * w, times size / sum(m) with `rescale`: (..., d) -> (..., P)."""
        p = z.sigmoid()
        m = self.kept(z, drawn).to(z) + (p - p.detach())  # the draw's value, the probability's gradient
        if self.rescale:
            m = torch.cat([n / part.sum(-1, keepdim=True).clamp(min=1) * part for n, part in self._by_layer(m)], -1)
        return self._placed(m * self.own)

    def pullback(self, z: Tensor, grad_theta: Tensor, drawn: Tensor | None = None) -> Tensor:
        """sigmoid'(z) w g; with `rescale`, f (h - sum(h m) / sum(m)) for h = w g and f = size / sum(m)."""
        p, h = z.sigmoid(), self._inside(grad_theta) * self.own
        if self.rescale:
            m, parts = self.kept(z, drawn).to(z), []
            for (n, kept), (_, own) in zip(self._by_layer(m), self._by_layer(h), strict=True):
                alive = kept.sum(-1, keepdim=True).clamp(min=1)
                parts.append((own - (own * kept).sum(-1, keepdim=True) / alive) * (n / alive))
            h = torch.cat(parts, -1)
        return h * p * (1 - p)

    def spec(self) -> dict[str, Any]:
        """Name, weights, layers, where training begins, and whether it rescales."""
        return {**super().spec(), "rescale": self.rescale}

    def stacked(self, parts: Sequence[Supermask]) -> Reparametrisation:
        """One matrix (K, P) of weights."""
        if len({(part.layers, part.rescale) for part in parts}) > 1:
            return super().stacked(parts)
        weights, z = (torch.stack([getattr(part, name) for part in parts]) for name in ("weights", "z"))
        return Supermask(weights, self.layers, z, self.rescale)


@method("reparametrisation", name="top-k", paper="Ramanujan et al. 2020, arXiv 1911.13299; Diffenderfer et al. 2021")
class TopK(LearntMask):
    """Edge-popup: each layer uses the weights of largest |score|, a fixed number of them.

    Scores of unused weights receive gradient too, so a weight can return.

    Args:
        weights: (P,) the frozen weights, or (K, P).
        layers: (start, stop) of each masked tensor.
        z: (d,) scores where training begins, or (K, d).
        count: how many weights of each layer are used.
        binary: give the used weights of a layer one size, their mean |w|, and keep their signs.

    Raises:
        InputError: layers that are empty or leave weight space, a z of another length, a count that a layer has not.
    """

    def __init__(self, weights: Tensor, layers: Layers, z: Tensor, count: Sequence[int], binary: bool = False) -> None:
        super().__init__(weights, layers, z)
        self.count, self.binary = tuple(count), binary
        if len(self.count) != len(self.sizes) or not all(
            0 <= k <= n for k, n in zip(self.count, self.sizes, strict=True)
        ):
            raise InputError(f"count says how many of each layer's {self.sizes} weights are used; got {self.count}")

    def kept(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """The largest |z| of each layer, to the exact count."""
        pairs = zip(z.detach().abs().split(self.sizes, -1), self.count, strict=True)
        return torch.cat([_largest(part, k) for part, k in pairs], -1)

    def to_theta(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """M * w, or a * sign(w) * m: (..., d) -> (..., P)."""
        kept, size = self.kept(z).to(z), z.abs()
        return self._placed((kept + (size - size.detach())) * self._used(kept))

    def pullback(self, z: Tensor, grad_theta: Tensor, drawn: Tensor | None = None) -> Tensor:
        """sign(z) w g, or sign(z) a sign(w) g."""
        kept = self.kept(z).to(z) if self.binary else z
        return self._inside(grad_theta) * self._used(kept) * z.sign()

    def spec(self) -> dict[str, Any]:
        """Name, weights, layers, where training begins, counts, and whether it is binary."""
        return {**super().spec(), "count": list(self.count), "binary": self.binary}

    def stacked(self, parts: Sequence[TopK]) -> Reparametrisation:
        """One matrix (K, P) of weights."""
        if len({(part.layers, part.count, part.binary) for part in parts}) > 1:
            return super().stacked(parts)
        weights, z = (torch.stack([getattr(part, name) for part in parts]) for name in ("weights", "z"))
        return TopK(weights, self.layers, z, self.count, self.binary)

    def _used(self, kept: Tensor) -> Tensor:
        """What a kept weight is in the network, (..., d)."""
        if not self.binary:
            return self.own
        pairs = zip(self._by_layer(kept * self.own.abs()), self.count, strict=True)
        means = [(size.sum(-1, keepdim=True) / max(k, 1)).expand_as(size) for (_, size), k in pairs]
        return torch.cat(means, -1) * self.own.sign()


def _largest(values: Tensor, k: int) -> Tensor:
    """True at the k largest of the last axis; exactly k, whatever ties."""
    best = values.topk(k, sorted=False).indices  # several times faster than a sort
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, best, True)
