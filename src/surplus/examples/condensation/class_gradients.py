"""What DC, DSA and DCC share: images step after all classes, and the network trains on the images themselves.

    for il = 0 .. inner - 1:   S <- S - lr d/dS L(S);   the network takes `epochs` epochs on S, except after the last il

    L_DC = sum_c D(g(T_c), g(S_c))            class by class
    L_DCC = D(mean_c g(T_c), g(S))            the gradients of all classes together

The distance is that of cosines by output row over every weight matrix, classifier included. Images are stored
normalised and are not clamped.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.optim import SGD

from surplus.examples.condensation.diff_augment import DiffAugment
from surplus.examples.condensation.evaluation import EvaluationSettings
from surplus.examples.condensation.matching import grad_distance, gradient, matched
from surplus.examples.condensation.networks import frozen_norms, has_batch_norm, train_epoch
from surplus.examples.condensation.scene import Scene, Settings, State

Loops = dict[int, tuple[int, int]]
LOOPS: Loops = {10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""Images per class to (matching steps, epochs of the network in between), as both official codes have them."""
_NORM_BATCH = 16  # real examples per class behind the statistics of batch norms


class ClassGradientSettings(Settings):
    """Common to DC, DSA and DCC, with the official codes' values."""

    normalised: ClassVar[bool] = True
    factor: ClassVar[int] = 1
    formation: ClassVar[Literal["single"]] = "single"

    network: str | None = "conv-net"
    """Where gradients are matched, with options after a colon ("conv-net:width=64"); the task's own when None."""
    start: Literal["noise", "real"] = "noise"
    """What the images are at first: standard normal noise, or random real images."""
    outer: Annotated[int, Field(ge=1)] = 1000
    """Networks to match gradients on."""
    loops: Loops = Field(default={1: (1, 1), **LOOPS})
    """Images per class to (inner, epochs); numbers that are not listed take the nearest entry."""
    inner: Annotated[int, Field(ge=1)] | None = None
    """Matching steps along each network; from `loops` when None."""
    epochs: Annotated[int, Field(ge=0)] | None = None
    """Epochs on the synthetic images between two steps; from `loops` when None."""
    real_batch: Annotated[int, Field(ge=1)] = 256
    """Real examples of a class per step."""
    image_lr: Annotated[float, Field(ge=0)] = 0.1
    """Rate of the images."""
    image_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Momentum of the images."""
    net_lr: Annotated[float, Field(gt=0)] = 0.01
    """Rate of the network."""
    net_batch: Annotated[int, Field(ge=1)] = 256
    """Synthetic examples per step of the network."""
    augment: str = ""
    """Changes one of which real and synthetic images of a class share, joined by hyphens; none when empty."""

    def rounds(self, per_class: int) -> tuple[int, int]:
        """(inner, epochs) for so many images per class."""
        nearest = min(self.loops, key=lambda n: (abs(n - per_class), n))
        inner, epochs = self.loops[nearest]
        return self.inner or inner, epochs if self.epochs is None else self.epochs

    @property
    def evaluation(self) -> EvaluationSettings:
        """300 epochs, or 1000 where images are augmented, as in the papers."""
        return EvaluationSettings(epochs=1000 if self.augment else 300, augment=self.augment)


def start(scene: Scene) -> Tensor:
    """Images to start from, normalised."""
    if scene.settings.start == "noise":
        return scene.noise_start()
    return scene.normalise(scene.real_start())


def match(scene: Scene, state: State, outer: int, together_from: int | None) -> dict[str, float]:
    """One outer iteration.

    Args:
        scene: data, settings, seed.
        state: the images, changed in place.
        outer: which one.
        together_from: the first inner step whose loss is L_DCC; None for L_DC throughout.

    Returns:
        Means over the inner steps: `distance`, the loss itself over the number of its gradients, and `together`, the
        distance of the gradients of all classes together.
    """
    s: ClassGradientSettings = scene.settings
    g, module = scene.draws("outer", outer), scene.network(outer)
    optimiser = SGD(module.parameters(), s.net_lr)
    inner, epochs = s.rounds(scene.per_class)
    told = torch.zeros(2, device=scene.device)
    for il in range(inner):
        together = together_from is not None and il >= together_from
        grad, distances = image_gradient(scene, module, state.images, together, g)
        state.descend(grad, slice(None), s.image_lr, s.image_momentum)
        told += distances
        for _ in range(epochs if il < inner - 1 else 0):
            augment = DiffAugment(s.augment)
            train_epoch(module, optimiser, state.images, scene.targets, g, batch=s.net_batch, augment=augment)
    return dict(zip(("distance", "together"), (told / inner).tolist(), strict=True))


def image_gradient(
    scene: Scene, module: nn.Module, images: Tensor, together: bool, generator: Generator
) -> tuple[Tensor, Tensor]:
    """D L / d images, and the two distances that `match` reports, (2,)."""
    weights = matched(module, "matrices")
    few = [scene.real(c, _NORM_BATCH, generator) for c in range(scene.classes)] if has_batch_norm(module) else []
    with frozen_norms(module, torch.cat(few) if few else images):
        if together:
            return _together(scene, module, weights, images, generator)
        return _class_by_class(scene, module, weights, images, generator)


def _together(
    scene: Scene, module: nn.Module, weights: list[nn.Parameter], images: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """L_DCC: one distance between the mean of the classes' real gradients and the gradient on all images."""
    leaf, changed = images.detach().clone().requires_grad_(), []
    target = [torch.zeros_like(w) for w in weights]
    for c in range(scene.classes):
        real, made = _siamese(scene, leaf[scene.rows(c)], c, generator)
        _add(target, gradient(module, weights, real, scene.label(c, len(real))), 1 / scene.classes)
        changed.append(made)
    ours = gradient(module, weights, torch.cat(changed), scene.targets, graph=True)
    distance = grad_distance(target, ours, "cos")
    (grad,) = torch.autograd.grad(distance, leaf)
    return grad, distance.detach().expand(2)


def _class_by_class(
    scene: Scene, module: nn.Module, weights: list[nn.Parameter], images: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """L_DC: the sum of a distance per class, differentiated class by class so that one graph at a time is held."""
    total, grads = torch.zeros((), device=scene.device), list[Tensor]()
    targets, sums = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    for c in range(scene.classes):
        leaf = images[scene.rows(c)].detach().clone().requires_grad_()
        real, made = _siamese(scene, leaf, c, generator)
        target = gradient(module, weights, real, scene.label(c, len(real)))
        ours = gradient(module, weights, made, scene.label(c, len(made)), graph=True)
        distance = grad_distance(target, ours, "cos")
        grads += torch.autograd.grad(distance, leaf)
        total += distance.detach()
        _add(targets, target, 1 / scene.classes)
        _add(sums, ours, 1 / scene.classes)
    return torch.cat(grads), torch.stack([total / scene.classes, grad_distance(targets, sums, "cos")])


def _siamese(scene: Scene, made: Tensor, c: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A batch of real images of a class and its synthetic ones, under one draw of the augmentation."""
    s: ClassGradientSettings = scene.settings
    real, augment = scene.real(c, s.real_batch, generator), DiffAugment(s.augment)
    draw = augment.draw(generator)
    return augment(real, draw), augment(made, draw)


def _add(sums: list[Tensor], grads: list[Tensor], weight: float) -> None:
    for total, grad in zip(sums, grads, strict=True):
        total.add_(grad.detach(), alpha=weight)
