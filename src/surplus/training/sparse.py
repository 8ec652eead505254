"""Training of a very sparse chain in the coordinates of its kept weights, with sparse products.

    H = S A + b,   A' = s(H);      D_prev = s'(H_prev) * (S^T D),   dL/dS = (D A^T) at the kept places only

S (out, in) holds the kept weights of a layer as compressed rows, A (in, B) its inputs, a column per example. Products,
gradients and the optimiser's work all shrink with the density; masked weights are not there, so they stay 0. On a CPU
this wins below about a twelfth of the weights of a large layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surplus.reparam import Mask
from surplus.space import WeightSpace
from surplus.tasks import Objective, Recipe
from surplus.training.chain import ACTIVATIONS, Chain, Lose, Weigh, loss_gradient, through

DENSEST, SMALLEST = 0.08, 100_000
"""Sparse products are used up to this density, in networks of at least so many weights."""


@dataclass(frozen=True)
class Kept:
    """The kept weights of one masked network as its coordinates."""

    space: WeightSpace
    index: Tensor
    """(1, d) their places in the whole network, in order."""

    def gather(self, theta: Tensor) -> Tensor:
        """Whole points (1, P) -> (1, d)."""
        return theta.gather(1, self.index)

    def scatter(self, small: Tensor, onto: Tensor) -> Tensor:
        """Points (1, d) put in their places in whole ones (1, P)."""
        return onto.scatter(1, self.index, small)


def kept_only(space: WeightSpace, coordinates: Sequence[object], objective: Objective, recipe: Recipe) -> Kept | None:
    """The kept weights as coordinates, where one large and very sparse chain is trained by itself; None elsewhere."""
    first = coordinates[0]
    if len(coordinates) > 1 or type(first) is not Mask or first.mask.dim() > 1 or space.size < SMALLEST:
        return None
    if recipe.optimiser == "muon" or Chain.of(space, objective, recipe) is None:
        return None
    if int(first.mask[space.prunable].sum()) > DENSEST * int(space.prunable.sum()):
        return None
    if not all(first.mask[b.slice].all() if b.kind == "bias" else first.mask[b.slice].any() for b in space.blocks):
        return None
    return Kept(space, first.mask.nonzero().view(1, -1))


@dataclass(frozen=True)
class _Rows:
    """Where the kept weights of a layer are: as compressed rows, and as those of the transposed matrix."""

    shape: tuple[int, int]
    values: slice
    """In z."""
    rows: tuple[Tensor, Tensor]
    """Where each row begins, and the columns."""
    turned: tuple[Tensor, Tensor, Tensor]
    """The same of the transposed matrix, and the order of the values there."""
    bias: slice | None
    """In z."""


class SparseChain:
    """An engine (see `engine`) for one chain of linear layers whose z (1, d) are its kept weights."""

    def __init__(self, kept: Kept, objective: Objective, recipe: Recipe) -> None:
        chain = Chain.of(kept.space, objective, recipe)
        assert chain is not None
        self.objective, self.recipe, self.layers = objective, recipe, chain.layers
        place = torch.full((kept.space.size,), -1)
        place[kept.index[0]] = torch.arange(kept.index.shape[1])
        self.parts = [_rows(kept.space, place, layer.name, layer.bias) for layer in self.layers]
        with warnings.catch_warnings():  # torch says once that sparse rows are young
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            _matrix(torch.zeros(2).int(), torch.empty(0).int(), torch.empty(0), (1, 1))

    def __call__(
        self, theta: Tensor, x: Tensor, y: Tensor, step: int, weigh: Weigh | None = None, loss: Lose | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, per-example losses, and the gradient (1, d) of the mean loss."""
        z = theta.detach()[0]
        matrices = [_matrix(*part.rows, z[part.values], part.shape) for part in self.parts]
        columns = self._forward(z, x, matrices)
        outputs, losses, back = loss_gradient(
            columns[-1].t().unsqueeze(0), y, self.objective, self.recipe.label_smoothing, weigh, loss
        )
        rows = [x[0].flatten(1), *(c.t().contiguous() for c in columns[1:-1])]
        return outputs, losses, self._backward(z, matrices, columns, rows, back[0].t().contiguous()).unsqueeze(0)

    @torch.no_grad()
    def outputs(self, theta: Tensor, x: Tensor, step: int, draw: int = 0) -> Tensor:
        """What the forward pass gives: (1, B, C)."""
        matrices = [_matrix(*part.rows, theta[0][part.values], part.shape) for part in self.parts]
        return self._forward(theta[0], x, matrices)[-1].t().unsqueeze(0)

    def _forward(self, z: Tensor, x: Tensor, matrices: Sequence[Tensor]) -> list[Tensor]:
        """The inputs of every layer, each (n, B), and the outputs."""
        found = [x[0].flatten(1).t().contiguous()]
        for layer, part, matrix in zip(self.layers, self.parts, matrices, strict=True):
            h = matrix @ found[-1]
            if part.bias is not None:
                h = h.add_(z[part.bias].unsqueeze(1))
            found.append(ACTIVATIONS[layer.activation](h) if layer.activation else h)
        return found

    def _backward(
        self, z: Tensor, matrices: Sequence[Tensor], columns: Sequence[Tensor], rows: Sequence[Tensor], back: Tensor
    ) -> Tensor:
        """The gradient (d,); columns (n, B) and rows (B, n) are the inputs of every layer."""
        grad = torch.zeros_like(z)
        for i in range(len(self.layers) - 1, -1, -1):
            layer, part = self.layers[i], self.parts[i]
            if layer.activation is not None:
                back = through(layer.activation, columns[i + 1], back)
            grad[part.values] = torch.sparse.sampled_addmm(matrices[i], back, rows[i], beta=0.0).values()
            if part.bias is not None:
                grad[part.bias] = back.sum(1)
            if i:
                starts, inner, order = part.turned
                back = _matrix(starts, inner, z[part.values][order], part.shape[::-1]) @ back
        return grad


def _rows(space: WeightSpace, place: Tensor, layer: str, bias: bool) -> _Rows:
    """Where a layer's kept weights lie in z, given each weight's place there (-1 where it is masked)."""
    block = space[f"{layer}.weight"]
    where = place[block.slice].view(block.shape)
    row, column = (where >= 0).nonzero(as_tuple=True)
    first = int(where[row[0], column[0]])
    order = column.argsort(stable=True)
    shape = (int(block.shape[0]), int(block.shape[1]))
    own = place[space[f"{layer}.bias"].slice] if bias else None
    return _Rows(
        shape,
        slice(first, first + len(row)),
        (_starts(row, shape[0]), column.int()),  # int32 is what the products want
        (_starts(column[order], shape[1]), row[order].int(), order),
        slice(int(own[0]), int(own[-1]) + 1) if own is not None else None,
    )


def _starts(sorted_rows: Tensor, n: int) -> Tensor:
    """Where each of n rows begins, (n + 1,)."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), sorted_rows.bincount(minlength=n).cumsum(0)]).int()


def _matrix(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
