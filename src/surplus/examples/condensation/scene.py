"""What every condensation method works on: real examples by class, fresh networks, settings, seed, device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor, nn

from surplus.data import Dataset, Splits
from surplus.errors import InputError
from surplus.examples.condensation.decode import mix
from surplus.space import generator
from surplus.space.randomness import seed_for
from surplus.tasks import CLASSIFICATION, Task, task_from

Source = Task | Splits | Dataset


class Settings(BaseModel):
    """What all methods have in common; each adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    normalised: ClassVar[bool]
    """Whether images are stored as the network sees them, rather than as pixels in [0, 1]."""

    @classmethod
    def usual(cls, data: Dataset) -> dict[str, Any]:
        """What these data are given instead of the defaults.

        On images below 16x16 the network has fewer poolings: an instance norm of 2x2 maps has gradients so steep that
        matching them does not descend.
        """
        side = min(data.shape[1:])
        return {} if side >= 16 else {"network": f"conv-net:depth={2 if side >= 8 else 1}"}


@dataclass
class State:
    """The images being learned, and the momentum of their descent."""

    images: Tensor
    """(classes per_class, C, H, W), class by class."""
    velocity: Tensor

    def descend(self, grad: Tensor, rows: slice, lr: float, momentum: float) -> None:
        """One step of SGD on all images, of which only `rows` have a gradient; the others glide on."""
        self.velocity *= momentum
        self.velocity[rows] += grad
        self.images -= lr * self.velocity


@dataclass(frozen=True)
class Scene:
    """Real data on their device, and everything that is drawn from the seed.

    `task`: its data on the device, its network that on which gradients are matched.
    """

    task: Task
    settings: Any
    per_class: int
    seed: int
    device: torch.device

    @property
    def classes(self) -> int:
        return self.task.classes

    @cached_property
    def members(self) -> list[Tensor]:
        """Positions of each class's real examples."""
        targets = self.task.train.targets.cpu()
        members = [(targets == c).nonzero().squeeze(1) for c in range(self.classes)]
        if empty := [self.task.train.classes[c] for c, rows in enumerate(members) if not len(rows)]:
            raise InputError(f"there are no examples of {', '.join(empty)}; every class needs some to be condensed")
        return members

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel, (C, 1, 1), of pixels in [0, 1]."""
        mean, std = self.task.moments
        return mean.to(self.device), std.to(self.device)

    @cached_property
    def targets(self) -> Tensor:
        """(classes per_class,) classes of the synthetic images."""
        return torch.arange(self.classes, device=self.device).repeat_interleave(self.per_class)

    def draws(self, *purpose: object) -> Generator:
        return generator(self.seed, "condensation", *purpose)

    def network(self, outer: int) -> nn.Module:
        """The network of one outer iteration, at its own random start, in training mode."""
        space = self.task.space
        return space.write(space.init(seed_for(self.seed, "condensation", "network", outer))).to(self.device).train()

    def rows(self, c: int) -> slice:
        """Where the synthetic images of a class stand."""
        return slice(c * self.per_class, (c + 1) * self.per_class)

    def label(self, c: int, count: int) -> Tensor:
        return torch.full((count,), c, device=self.device)

    def real(self, c: int, count: int, generator: Generator) -> Tensor:
        """At most `count` real images of a class, without repetition, normalised."""
        members = self.members[c]
        return self._images(members[torch.randperm(len(members), generator=generator)[:count]])

    def anything(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """At most `count` real examples of all classes, normalised, with their classes."""
        rows = torch.randperm(len(self.task.train), generator=generator)[:count]
        return self._images(rows), self.task.train.targets[rows.to(self.device)]

    def _images(self, rows: Tensor) -> Tensor:
        return self.task.prepare(self.task.train.inputs[rows.to(self.device)])

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] as the network sees them."""
        mean, std = self.moments
        return (pixels - mean) / std

    def pixels(self, normalised: Tensor) -> Tensor:
        """The inverse of `normalise`; nothing is clamped."""
        mean, std = self.moments
        return normalised * std + mean

    def real_start(self, factor: int = 1) -> Tensor:
        """Pixels of random real images, per_class of each class; with a factor above 1, factor^2 shrunk into each."""
        return torch.cat([self._start_of(c, factor) for c in range(self.classes)])

    def _start_of(self, c: int, factor: int) -> Tensor:
        g, members, wanted = self.draws("start", c), self.members[c], self.per_class * factor**2
        orders = [torch.randperm(len(members), generator=g) for _ in range(-(-wanted // len(members)))]
        images = self.pixels(self._images(members[torch.cat(orders)[:wanted]]))  # a small class comes round again
        return mix(images, factor)

    def noise_start(self) -> Tensor:
        """Standard normal noise in the normalised space."""
        shape = (self.classes * self.per_class, *self.task.train.shape)
        return torch.randn(shape, generator=self.draws("noise")).to(self.device)


def task_of(source: Source, network: str | None) -> Task:
    """Pictures in classes with the network of this name, or with the task's own.

    Raises:
        InputError: other data than pictures in classes, or a network that does not fit them.
    """
    if isinstance(source, Task) and network is None:
        task = source
    elif network is None:
        raise InputError("network=None takes the task's own network; give a task, or name a network such as conv-net")
    else:
        task = task_from(_splits(source), network)
    if task.train.kind != "image" or task.objective is not CLASSIFICATION:
        raise InputError(
            f"condensation makes pictures of each class; got {task.train.kind} data for {task.objective.name}"
        )
    return task


def _splits(source: Source) -> Splits:
    if isinstance(source, Dataset):
        return Splits("data", source, source[:0])
    return Splits(source.name, source.train, source.test, source.validation, source.carved)
