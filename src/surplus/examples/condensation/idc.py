"""IDC: gradients matched along a network that trains on real data; every stored image decodes into several.

    for each class c:  S <- S - lr d/dS D(g(T_c), g(A(decode S_c))),   g = gradient of the mean cross-entropy

then the network takes a pass over a few hundred real examples, and all again. Real and synthetic images share one draw
of the augmentation; only the gradients of convolutions are compared; pixels are stored in [0, 1].

Kim et al. 2022, "Dataset Condensation via Efficient Synthetic-Data Parameterization", arXiv 2205.14959. A factor of 1
is the paper's IDC-I.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.optim import SGD

from surplus.data import Dataset
from surplus.errors import InputError
from surplus.examples.condensation.decode import Formation, decode
from surplus.examples.condensation.diff_augment import DiffAugment
from surplus.examples.condensation.evaluation import EvaluationSettings
from surplus.examples.condensation.matching import Layers, Metric, grad_distance, gradient, matched
from surplus.examples.condensation.networks import train_epoch
from surplus.examples.condensation.scene import Scene, Settings, State
from surplus.registry import method

MIXED = EvaluationSettings(
    epochs=1000,
    falls=(2 / 3, 5 / 6),
    gamma=0.2,
    batch=64,
    augment="color-crop-flip-scale-rotate",
    order="stacked",
    cutmix=0.5,
)
"""The paper's evaluation."""


class IdcSettings(Settings):
    """IDC, with the official code's values for CIFAR-10."""

    normalised: ClassVar[bool] = False

    network: str | None = "conv-net"
    """Where gradients are matched, with options after a colon ("conv-net:width=64"); the task's own when None."""
    factor: Annotated[int, Field(ge=1)] = 2
    """Cells along a side of a stored image; 1 stores images as they are (IDC-I)."""
    formation: Formation = "single"
    """"single" decodes by the factor alone, "multi" by every factor up to it."""
    start: Literal["auto", "real", "mix", "noise"] = "auto"
    """Random real images, several of them shrunk into each, or noise; "auto" is "mix" where the factor is above 1."""
    outer: Annotated[int, Field(ge=1)] = 2000
    """Networks to match gradients on; the official code counts niter = outer inner / 100."""
    inner: Annotated[int, Field(ge=1)] = 100
    """Matching steps per class along each network."""
    early: Annotated[int, Field(ge=0)] = 0
    """Epochs on all real data before the first step (the paper's ImageNet runs: 10)."""
    metric: Metric = "mse"
    """Distance of gradients."""
    layers: Layers = "convolutions"
    """Whose gradients are matched; "matrices" adds the classifier."""
    real_batch: Annotated[int, Field(ge=1)] = 64
    """Real examples of a class per step."""
    most: Annotated[int, Field(ge=1)] = 128
    """Decoded images of a class per step, at most; more are sub-sampled."""
    image_lr: Annotated[float, Field(ge=0)] = 5e-3
    """Rate of the images for 10 stored per class; it is multiplied by per_class / 10."""
    image_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Momentum of the images."""
    augment: str = "color-crop-cutout"
    """Changes that real and synthetic images share; the networks' own training leaves cutout to CutMix."""
    net_examples: Annotated[int, Field(ge=0)] = 500
    """Real examples that the network trains on after each step (the paper's 2000 gives slightly better sets)."""
    net_batch: Annotated[int, Field(ge=1)] = 64
    """Their batches."""
    net_lr: Annotated[float, Field(gt=0)] = 0.01
    """Rate of the network."""
    net_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of the network."""
    net_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Weight decay of the network."""
    cutmix: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Chance that a batch of the network's training is mixed."""

    @classmethod
    def usual(cls, data: Dataset) -> dict[str, Any]:
        """For grey images the official code takes the l1 distance and a smaller rate."""
        grey = {"metric": "l1", "image_lr": 1e-4} if data.shape[0] == 1 else {}
        return {**super().usual(data), **grey}

    @property
    def evaluation(self) -> EvaluationSettings:
        return MIXED


def start(scene: Scene) -> Tensor:
    """Pixels to start from.

    Raises:
        InputError: the real pixels are not in [0, 1], where the synthetic ones are kept.
    """
    s: IdcSettings = scene.settings
    inputs = scene.task.train.inputs
    low, high = (float(v) for v in inputs.aminmax())
    if inputs.is_floating_point() and not 0 <= low <= high <= 1:
        raise InputError(
            f"idc keeps pixels in [0, 1], and these lie in [{low:.3g}, {high:.3g}]; give images before normalisation,"
            " or take method dc, dsa or dcc"
        )
    if s.start == "noise":
        return (scene.noise_start() / 4 + 0.5).clamp(0, 1)
    return scene.real_start(1 if s.start == "real" else s.factor)


@method("condensation", paper="Kim et al. 2022, arXiv 2205.14959", settings=IdcSettings, start=start)
def idc(scene: Scene, state: State, outer: int) -> dict[str, float]:
    """IDC: gradients matched class by class along a network trained on real data, several images stored in one.

    Args:
        scene: data, settings, seed.
        state: the images, changed in place.
        outer: which outer iteration.

    Returns:
        The mean distance per class and step.
    """
    s: IdcSettings = scene.settings
    g, module = scene.draws("outer", outer), scene.network(outer)
    optimiser = SGD(module.parameters(), s.net_lr, momentum=s.net_momentum, weight_decay=s.net_decay)
    for _ in range(s.early):
        train_on_real(scene, module, optimiser, len(scene.task.train), g)
    state.images.clamp_(0, 1)
    total = torch.zeros((), device=scene.device)
    weights = matched(module, s.layers)
    for _ in range(s.inner):
        for c in range(scene.classes):
            distance, grad = image_gradient(scene, module, weights, state.images[scene.rows(c)], c, g)
            state.descend(grad, scene.rows(c), s.image_lr * scene.per_class / 10, s.image_momentum)
            total += distance
        train_on_real(scene, module, optimiser, s.net_examples, g)
    return {"distance": float(total) / (s.inner * scene.classes)}


def image_gradient(
    scene: Scene, module: nn.Module, weights: list[nn.Parameter], stored: Tensor, c: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """The matching distance of a class, and its gradient in the class's stored images (per_class, C, H, W)."""
    s: IdcSettings = scene.settings
    stored = stored.detach().clone().requires_grad_()
    real = scene.real(c, s.real_batch, generator)
    made = scene.normalise(decoded(s, stored, generator))
    augment = DiffAugment(s.augment, "stacked")
    draw = augment.draw(generator)  # shared
    target = gradient(module, weights, augment(real, draw), scene.label(c, len(real)))
    ours = gradient(module, weights, augment(made, draw), scene.label(c, len(made)), graph=True)
    distance = grad_distance(target, ours, s.metric)
    (grad,) = torch.autograd.grad(distance, stored)
    return distance.detach(), grad


def decoded(s: IdcSettings, stored: Tensor, generator: Generator) -> Tensor:
    """Training images of stored ones, sub-sampled to at most `most`."""
    made = decode(stored, s.factor, s.formation)
    if len(made) <= s.most:
        return made
    return made[torch.randperm(len(made), generator=generator)[: s.most].to(made.device)]


def train_on_real(scene: Scene, module: nn.Module, optimiser: SGD, examples: int, generator: Generator) -> None:
    """One pass of the network over so many real examples."""
    s: IdcSettings = scene.settings
    if examples:
        x, y = scene.anything(examples, generator)
        own = "-".join(n for n in DiffAugment(s.augment).names if n != "cutout" or not s.cutmix)
        augment = DiffAugment(own, "stacked")
        train_epoch(module, optimiser, x, y, generator, batch=s.net_batch, augment=augment, cutmix=s.cutmix)
