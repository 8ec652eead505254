"""A fixed cosine matrix plus a sparse trainable one in each layer (Price & Tanner 2021, arXiv 2102.07655).

    W_l = a_l D_l + S_l,    D[k, i] = c_k cos(pi (2 i + 1) k / (2 N)),  c_0 = sqrt(1 / N), else c_k = sqrt(2 / N)

with N = max(in, out). D gives the first `out` coefficients of the orthonormal DCT-II of the input, padded with zeros to
length N: an isometry where out >= in, a projection else. A convolution reads its patch as one vector in the order row,
column, channel. D costs no storage, a_l is one number, and S_l, zero at the start, lives on a fixed support: signals
pass through D however few weights there are to train.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surplus.errors import InputError, unknown
from surplus.registry import method
from surplus.reparam.base import Reparametrisation, check_vector, fingerprint
from surplus.space import Block, WeightSpace


def cosine_matrix(inputs: int, outputs: int) -> Tensor:
    """D (outputs, inputs) in float64: D x = the first coefficients of `scipy.fft.dct(x padded to N, norm="ortho")`.

    Args:
        inputs: length of x.
        outputs: number of coefficients.

    Raises:
        InputError: a length below 1.
    """
    if inputs < 1 or outputs < 1:
        raise InputError(f"a cosine matrix has at least one input and one output; got {inputs} and {outputs}")
    n = max(inputs, outputs)
    k, i = torch.arange(outputs, dtype=torch.float64)[:, None], torch.arange(inputs, dtype=torch.float64)
    scale = torch.full((outputs, 1), math.sqrt(2 / n), dtype=torch.float64)
    scale[0] = math.sqrt(1 / n)
    return scale * torch.cos(math.pi * (2 * i + 1) * k / (2 * n))


def cosine_weight(shape: Sequence[int]) -> Tensor:
    """The cosine matrix as the weight of a linear layer (out, in) or a convolution (out, in / groups, kernel...).

    A patch is flattened with its channel as the fastest index, which is not the order of the weight's own axes.
    """
    outputs, channels, *kernel = shape
    flat = cosine_matrix(channels * math.prod(kernel), outputs)
    return flat.view(outputs, *kernel, channels).movedim(-1, 1).contiguous()


@method("reparametrisation", name="dct-plus-sparse", paper="Price & Tanner 2021, arXiv 2102.07655")
class DctPlusSparse(Reparametrisation):
    """Cosine offset plus sparse weights; biases, normalisation and other layers are trained as they are.

    z = (a_1 ... a_L, S on its support, the other weights); a = 1 and S = 0 at the start. Weight decay, where the recipe
    has some, shrinks a as well, as in the authors' code. The weights theta are dense, and D follows from the shapes.

    Args:
        space: the network.
        theta0: (P,) whose values outside the layers are the start.
        support: (P,) booleans: where S may differ from zero; read in the layers only.
        layers: names of the weight tensors to build this way; all prunable ones when None.
        trainable: train the factors a; fixed at 1 if not.

    Raises:
        InputError: shapes that do not fit, or a name that is no prunable tensor.
    """

    def __init__(
        self,
        space: WeightSpace,
        theta0: Tensor,
        support: Tensor,
        *,
        layers: Sequence[str] | None = None,
        trainable: bool = True,
    ) -> None:
        if theta0.shape != (space.size,) or support.shape != (space.size,) or support.dtype != torch.bool:
            raise InputError(
                f"this network has P = {space.size:,} weights: theta0 is (P,) and support (P,) booleans; got"
                f" {tuple(theta0.shape)}, and {support.dtype} of shape {tuple(support.shape)}"
            )
        check_vector("theta0", theta0)
        blocks = _layers(space, layers)
        inside = torch.zeros(space.size, dtype=torch.bool)
        self.offset = torch.zeros_like(theta0)
        """(P,) D, and 0 outside the layers."""
        for block in blocks:
            inside[block.slice] = True
            self.offset[block.slice] = cosine_weight(block.shape).flatten().to(theta0)
        inside = inside.to(theta0.device)
        sparse, rest = (support.to(inside.device) & inside).nonzero().squeeze(1), (~inside).nonzero().squeeze(1)
        self.slices = tuple((b.start, b.stop) for b in blocks)
        self.trainable = trainable
        self.count = len(blocks) if trainable else 0
        """How many factors z holds."""
        self.free = torch.cat([sparse, rest])
        """(m,) places in theta of the numbers that follow in z; (K, m) for a stack."""
        self.first = torch.cat([torch.zeros_like(theta0[sparse]), theta0[rest]])
        """Their starting values."""
        self.nonzeros = len(sparse)
        self.size = self.count + len(self.free)

    def start(self) -> Tensor:
        """Factors 1, sparse weights 0, the others as in theta0."""
        return torch.cat([self.first.new_ones(*self.first.shape[:-1], self.count), self.first], dim=-1)

    def to_theta(self, z: Tensor, drawn: Tensor | None = None) -> Tensor:
        """A D + S: (..., d) -> (..., P)."""
        factors, values = z[..., : self.count], z[..., self.count :]
        places = self.free.expand(*values.shape[:-1], -1)
        theta = z.new_zeros(*z.shape[:-1], len(self.offset)).scatter(-1, places, values)
        if not self.count:
            return theta + self.offset
        for layer, (a, b) in enumerate(self.slices):
            theta[..., a:b] += factors[..., layer : layer + 1] * self.offset[a:b]
        return theta

    def pullback(self, z: Tensor, grad_theta: Tensor, drawn: Tensor | None = None) -> Tensor:
        """<D_l, gradient> for each factor; the gradient itself for each number on the support and for the others."""
        values = grad_theta.gather(-1, self.free.expand(*grad_theta.shape[:-1], -1))
        inner = [grad_theta[..., a:b] @ self.offset[a:b] for a, b in self.slices[: self.count]]
        return torch.cat([torch.stack(inner, -1), values], -1) if inner else values

    def spec(self) -> dict[str, Any]:
        """Name, layers, support, and the starting values outside them."""
        places = {"free": fingerprint(self.free), "first": fingerprint(self.first)}
        where = {"layers": list(map(list, self.slices)), "offset": fingerprint(self.offset)}
        return {"name": "dct-plus-sparse", **where, **places, "trainable": self.trainable}

    def stacked(self, parts: Sequence[DctPlusSparse]) -> Reparametrisation:
        """One matrix of places (K, m), where all parts share their layers and differ in support and start."""
        if any((p.slices, p.count, p.nonzeros) != (self.slices, self.count, self.nonzeros) for p in parts):
            return super().stacked(parts)
        whole = copy.copy(self)
        whole.free = torch.stack([p.free for p in parts])
        whole.first = torch.stack([p.first for p in parts])
        return whole


def _layers(space: WeightSpace, names: Sequence[str] | None) -> list[Block]:
    blocks = [b for b in space.blocks if b.prunable]
    for name in names or ():
        if name not in [b.name for b in blocks]:
            raise unknown("prunable tensor", name, [b.name for b in blocks])
    chosen = blocks if names is None else [b for b in blocks if b.name in names]
    if not chosen:
        raise InputError("no layer is left to build of cosines: the network has no linear layer or convolution")
    return chosen
