"""Gradients of K chains of linear layers by hand: batched matrix products forwards and back, without a graph.

    a_0 = x,   h_l = W_l a_{l-1} + b_l,   a_l = s(h_l);      D_L = dL/dh_L,   D_{l-1} = s'(h_{l-1}) (D_l W_l)
    dL/dW_l = D_l^T a_{l-1},   dL/db_l = sum over the batch of D_l

Small networks spend most of a step on the graph's bookkeeping; without it a stack of them is about twice as fast.
Losses other than cross-entropy are differentiated by autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surplus.space import WeightSpace
from surplus.tasks import CLASSIFICATION, Objective, Recipe

Weigh = Callable[[Tensor], Tensor | None]
"""Losses (K, B) -> weights (K, B) of the examples in mean(w * loss); None means that all count the same."""
Lose = Callable[[Tensor], Tensor | None]
"""Outputs (K, B, ...) -> losses (K, B), differentiable, row k of the outputs of row k; None means the objective's."""

ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {nn.ReLU: torch.relu, nn.Tanh: torch.tanh}


@dataclass(frozen=True)
class _Layer:
    """One linear layer and what follows it."""

    name: str
    bias: bool
    activation: type[nn.Module] | None


class Chain:
    """An engine (see `engine`) for chains of linear layers with ReLU or tanh between them."""

    def __init__(self, space: WeightSpace, objective: Objective, recipe: Recipe, layers: Sequence[_Layer]) -> None:
        self.space, self.objective, self.recipe, self.layers = space, objective, recipe, layers

    @classmethod
    def of(cls, space: WeightSpace, objective: Objective, recipe: Recipe) -> Chain | None:
        """The engine of such a network; None for any other, and for half precision."""
        layers = _layers(space.module)
        names = [f"{n.name}.{leaf}" for n in layers for leaf in ("weight", "bias")[: 1 + n.bias]]
        if not layers or names != [b.name for b in space.blocks] or recipe.precision != "float32":
            return None
        return cls(space, objective, recipe, layers)

    def __call__(
        self, theta: Tensor, x: Tensor, y: Tensor, step: int, weigh: Weigh | None = None, loss: Lose | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, per-example losses, and each network's gradient of its mean loss."""
        theta = theta.detach()
        parts = self.space.split(theta)
        activations = self._forward(parts, x)
        smoothing = self.recipe.label_smoothing
        outputs, losses, back = loss_gradient(activations[-1], y, self.objective, smoothing, weigh, loss)
        return outputs, losses, self._backward(theta, parts, activations, back)

    @torch.no_grad()
    def outputs(self, theta: Tensor, x: Tensor, step: int, draw: int = 0) -> Tensor:
        """What the forward pass gives: (K, B, C)."""
        return self._forward(self.space.split(theta), x)[-1]

    def _forward(self, parts: dict[str, Tensor], x: Tensor) -> list[Tensor]:
        """The inputs of every layer, each (K, B, n), and the outputs."""
        found = [x.flatten(2)]
        for layer in self.layers:
            weight = parts[f"{layer.name}.weight"].mT  # (K, in, out)
            if layer.bias:
                h = torch.baddbmm(parts[f"{layer.name}.bias"].unsqueeze(1), found[-1], weight)
            else:
                h = torch.bmm(found[-1], weight)
            found.append(ACTIVATIONS[layer.activation](h) if layer.activation else h)
        return found

    def _backward(self, theta: Tensor, parts: dict[str, Tensor], activations: list[Tensor], back: Tensor) -> Tensor:
        """(K, P)."""
        grad = torch.empty_like(theta)
        slots = self.space.split(grad)
        for i in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[i]
            if layer.activation is not None:
                back = through(layer.activation, activations[i + 1], back)
            torch.bmm(back.mT, activations[i], out=slots[f"{layer.name}.weight"])
            if layer.bias:
                torch.sum(back, 1, out=slots[f"{layer.name}.bias"])
            if i:
                back = torch.bmm(back, parts[f"{layer.name}.weight"])
        return grad


def loss_gradient(
    outputs: Tensor, y: Tensor, objective: Objective, smoothing: float, weigh: Weigh | None, loss: Lose | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, losses (K, B), and the gradient of the sum of all mean losses in the outputs (K, B, ...)."""
    outputs = outputs.detach().requires_grad_()
    losses = loss(outputs) if loss is not None else None
    if losses is None and objective.loss is CLASSIFICATION.loss:  # another process has a copy of the objective
        return _cross_entropy(outputs.detach(), y, smoothing, weigh)
    if losses is None:
        losses = objective.loss(outputs.flatten(0, 1), y.flatten(0, 1), smoothing).view(outputs.shape[:2])
    weights = weigh(losses.detach()) if weigh is not None else None
    means = (losses if weights is None else weights * losses).mean(1)
    (back,) = torch.autograd.grad(means.sum(), outputs)
    return outputs.detach(), losses.detach(), back


def _cross_entropy(logits: Tensor, y: Tensor, smoothing: float, weigh: Weigh | None) -> tuple[Tensor, Tensor, Tensor]:
    """The same for cross-entropy with targets q (smoothed labels): L = -q . ln p,  dL/dh = w (p - q) / B."""
    log_p = logits.log_softmax(-1)
    q = torch.full_like(logits, smoothing / logits.shape[-1])
    q.scatter_add_(-1, y.unsqueeze(-1), torch.full_like(logits[..., :1], 1 - smoothing))
    losses = -(q * log_p).sum(-1)
    weights = weigh(losses) if weigh is not None else None
    back = log_p.exp_().sub_(q).div_(y.shape[1])
    return logits, losses, back if weights is None else back.mul_(weights.unsqueeze(-1))


def through(activation: type[nn.Module], after: Tensor, back: Tensor) -> Tensor:
    """s'(h) times a gradient, from a = s(h): 1 where a ReLU is open, 1 - a^2 for tanh."""
    return back * (after > 0) if activation is nn.ReLU else back * (1 - after.square())


def _layers(module: nn.Module) -> list[_Layer]:
    """The layers of a chain; empty where the module is none, or does something beside."""
    hooked = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules())
    if type(module) is not nn.Sequential or hooked:
        return []
    found: list[_Layer] = []
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            found.append(_Layer(name, child.bias is not None, None))
        elif type(child) in ACTIVATIONS and found and found[-1].activation is None:
            found[-1] = _Layer(found[-1].name, found[-1].bias, type(child))
        elif type(child) is nn.Flatten and not found and (child.start_dim, child.end_dim) == (1, -1):
            continue
        else:
            return []
    return found
