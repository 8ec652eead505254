"""What a condensed set is worth: fresh networks trained on it, against random real examples at equal storage.

    gain = accuracy after training on the condensed set - accuracy after training on per_class random real images,

both under the same evaluation, paired by seed, after the last epoch. The number alone says little: a longer or better
augmented evaluation lifts both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.optim import SGD

from surplus.data import Dataset, Splits
from surplus.errors import InputError, check_device, settings_of
from surplus.examples.condensation.condensed import Condensed
from surplus.examples.condensation.diff_augment import DiffAugment, without_flip
from surplus.examples.condensation.networks import accuracy, train_epoch
from surplus.examples.condensation.scene import task_of
from surplus.registry import find
from surplus.space import generator
from surplus.space.randomness import seed_for
from surplus.stats import Comparison, Estimate, paired
from surplus.tasks import Task
from surplus.training.executor import fan_out
from surplus.training.store import Store, code_version, write_atomically

ROOMS = ("space", "data", "networks", "tasks", "examples/condensation")
"""The code that decides a result."""


class EvaluationSettings(BaseModel):
    """How networks are trained on small sets."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    network: str | None = None
    """A registered network, with options after a colon; that on which the set was learned when None."""
    epochs: Annotated[int, Field(ge=1)] = 300
    """Passes over the set."""
    lr: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """L2 penalty."""
    falls: tuple[float, ...] = (0.5,)
    """Shares of training after which the rate is multiplied by `gamma`."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of those falls."""
    batch: Annotated[int, Field(ge=1)] = 256
    """Examples per step."""
    augment: str = ""
    """Changes of images, joined by hyphens; images without colour are never mirrored."""
    order: Literal["one", "stacked"] = "one"
    """One change at a time, or several on top of each other."""
    cutmix: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Chance that a batch is mixed by CutMix."""

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch."""
        return self.lr * self.gamma ** sum(epoch >= share * self.epochs for share in self.falls)


@dataclass(frozen=True)
class CondensedEvaluation:
    """Accuracies (seeds,) after training on the condensed set and on random real images, and the paired difference."""

    condensed: Tensor
    random: Tensor
    gain: Comparison

    def __str__(self) -> str:
        """Both accuracies and the gain, with 95% intervals, in percent."""
        arms = {"condensed": self.condensed, "random real images at equal storage": self.random}
        lines = [f"{name}: {_percent(Estimate.over(values))}" for name, values in arms.items()]
        g = self.gain
        gain = f"{100 * g.difference:+.1f} points, 95% interval {100 * g.low:+.1f} to {100 * g.high:+.1f}"
        return "\n".join([*lines, f"gain: {gain} ({g.seeds} seeds)"])

    def save(self, folder: str | Path) -> None:
        """Write evaluation.json: accuracies by seed, and the gain over random real images with its interval."""
        arms = {"condensed": self.condensed.tolist(), "random_real": self.random.tolist()}
        text = json.dumps({**arms, "gain": asdict(self.gain)}, indent=1)
        write_atomically(Path(folder) / "evaluation.json", text.encode())


def evaluate_condensed(
    condensed: Condensed,
    task: Task | Splits,
    settings: EvaluationSettings | None = None,
    *,
    seeds: int | Iterable[int] = 3,
    device: str = "cpu",
    jobs: int | None = 1,
    store: Store | None = None,
) -> CondensedEvaluation:
    """Train fresh networks on a condensed set, and as many on random real images at equal storage.

    Args:
        condensed: from `condense`, or `Condensed.load`.
        task: the real data: training examples to draw from and to normalise by, test examples to be measured on.
        settings: of the training; those of the method's paper when None.
        seeds: of initialisation, order, augmentation and the draw of real images; one network each, or how many.
        device: where to train.
        jobs: processes; one per processor when None.
        store: where accuracies are kept; $SURPLUS_HOME, else the platform's cache folder, when None.

    Raises:
        InputError: data of another shape or other classes, or without test examples; fewer than two seeds.
    """
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if len(seeds) < 2:
        raise InputError(f"an evaluation needs at least two seeds for its intervals; got {len(seeds)}")
    settings = settings or usual_evaluation(condensed)
    task = task_of(task, settings.network or condensed.facts["settings"]["network"])
    if task.train.shape != tuple(condensed.images.shape[1:]) or task.train.classes != condensed.classes:
        raise InputError(
            f"the condensed set holds {len(condensed.classes)} classes of shape {tuple(condensed.images.shape[1:])},"
            f" the data {len(task.train.classes)} of shape {task.train.shape}; give the data that it was learned from"
        )
    made = condensed.decode()
    arms = [lambda seed: made, lambda seed: random_real(task.train, condensed.per_class, seed)]
    a, b = (accuracies(task, arm, settings, seeds, device=device, jobs=jobs, store=store) for arm in arms)
    return CondensedEvaluation(a, b, paired(a, b))


def usual_evaluation(condensed: Condensed, epochs: int | None = None) -> EvaluationSettings:
    """The evaluation of the paper that the set's method comes from, or one of that kind with so many epochs."""
    kind = find("condensation", condensed.facts["method"]).traits["settings"]
    settings: EvaluationSettings = kind(**condensed.facts["settings"]).evaluation
    return (
        settings if epochs is None else settings_of(EvaluationSettings, **{**settings.model_dump(), "epochs": epochs})
    )


def random_real(data: Dataset, per_class: int, seed: int) -> Dataset:
    """As many random real examples of each class, fewer where a class has not so many."""
    g, rows = generator(seed, "condensation", "random real"), []
    for c in range(len(data.classes)):
        members = (data.targets.cpu() == c).nonzero().squeeze(1)
        rows.append(members[torch.randperm(len(members), generator=g)[:per_class]])
    return data[torch.cat(rows)]


def accuracies(
    task: Task,
    examples: Callable[[int], Dataset],
    settings: EvaluationSettings,
    seeds: Iterable[int],
    *,
    device: str = "cpu",
    jobs: int | None = 1,
    store: Store | None = None,
) -> Tensor:
    """Test accuracy (seeds,) of fresh networks trained on the examples that each seed gets.

    Args:
        task: gives the network, the normalisation and the test examples.
        examples: seed -> what to train on.
        settings: of the training.
        seeds: one network each.
        device: where to train.
        jobs: processes; one per processor when None.
        store: where accuracies are kept.
    """
    check_device(device)
    if not len(task.test):
        raise InputError("there are no test examples to measure accuracy on; give a task or splits that have some")
    calls = [(task, examples(seed), settings, seed, device, store or Store()) for seed in seeds]
    return torch.tensor(list(fan_out(_kept_accuracy, calls, jobs)), dtype=torch.float64)


def _kept_accuracy(task: Task, data: Dataset, s: EvaluationSettings, seed: int, device: str, store: Store) -> float:
    spec = {
        "of": "accuracy after training on a small set",
        "task": task.identity,
        "test": task.test.fingerprint,
        "examples": data.fingerprint,
        "settings": s.model_dump(mode="json"),
        "seed": seed,
        "device": torch.device(device).type,
        "version": code_version(*ROOMS),
        "torch": torch.__version__,
    }
    made = store.cached(spec, lambda: {"accuracy": torch.tensor(train_on(task, data, s, seed, device))})
    return float(made["accuracy"])


def train_on(task: Task, data: Dataset, s: EvaluationSettings, seed: int, device: str = "cpu") -> float:
    """Test accuracy of one fresh network after training on `data`, as the task normalises it."""
    x, y = task.prepare(data.inputs).to(device), data.targets.to(device)
    space, g = task.space, generator(seed, "condensation", "evaluation")
    module = space.write(space.init(seed_for(seed, "condensation", "evaluation network"))).to(device)
    optimiser = SGD(module.parameters(), s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
    augment = DiffAugment(without_flip(s.augment, x.shape[1]), s.order)
    for epoch in range(s.epochs):
        optimiser.param_groups[0]["lr"] = s.rate(epoch)
        train_epoch(module, optimiser, x, y, g, batch=s.batch, augment=augment, cutmix=s.cutmix)
    return accuracy(module, task.prepare(task.test.inputs).to(device), task.test.targets.to(device))


def _percent(e: Estimate) -> str:
    low, high = e.interval()
    return f"{100 * float(e.mean):.1f}%, 95% interval {100 * float(low):.1f} to {100 * float(high):.1f}"
