"""A data set as a crawl of the web would bring it: uneven classes, wrong labels, near-copies and things of no class.

    n (1 - duplicates - foreign) originals, their class sizes falling geometrically; flips n of them mislabelled

with the record of what each example is. It stands in for data like Clothing-1M, whose truth nobody knows (Mindermann et
al. 2022, arXiv 2206.07137, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from surplus.data.dataset import Dataset
from surplus.data.longtail import exponential_imbalance
from surplus.errors import InputError, unknown
from surplus.registry import method


@dataclass(frozen=True)
class NoisyWeb:
    """A spoilt data set, and what each of its n examples is."""

    dataset: Dataset
    kind: Tensor
    """(n,) int64, a position in `names`."""
    source: Tensor
    """(n,) the row of the original data that an example was made from; of a blend, the first of the two."""

    names: ClassVar[tuple[str, ...]] = ("clean", "flipped", "duplicate", "foreign")

    def of(self, name: str) -> Tensor:
        """(n,) True where an example is of the named kind."""
        if name not in self.names:
            raise unknown("kind of example", name, self.names)
        return self.kind == self.names.index(name)


@method("corruption", paper="after Mindermann et al. 2022, arXiv 2206.07137 (Clothing-1M)", on="dataset")
def noisy_web(
    dataset: Dataset,
    *,
    flips: float = 0.2,
    duplicates: float = 0.2,
    foreign: float = 0.1,
    imbalance: float = 5.0,
    generator: Generator,
) -> NoisyWeb:
    """Spoil labelled data as a crawl does: uneven classes, wrong labels, near-copies, strangers.

    A flipped label is one time in two that of the class whose mean input lies nearest, else of any other class; the
    most mistaken class is hit three times as often as the least. A near-copy repeats a clean image, shifted by up to a
    sixteenth of its side, up to a tenth brighter or darker, a little noisy (a table's row: noisy alone). Half of the
    strangers are scrambled inputs, half are the mean of two classes' examples; their labels are drawn at random.

    Args:
        dataset: images or a table with classes; its labels are taken for the truth.
        flips: share of all examples with a wrong label.
        duplicates: share of near-copies.
        foreign: share of strangers.
        imbalance: size of the largest class over that of the smallest, among the originals; classes in random order.
        generator: source of all draws.

    Returns:
        The examples in random order, with new ids; counts are exact up to rounding.

    Raises:
        InputError: shares that leave nothing clean, data without classes, or text.
    """
    _check(dataset, flips, duplicates, foreign)
    labels, classes = dataset.targets.cpu(), len(dataset.classes)
    order = torch.randperm(classes, generator=generator, device=generator.device)
    originals = exponential_imbalance(labels, imbalance, classes, generator, order=order).nonzero().squeeze(1)
    n = round(len(originals) / (1 - duplicates - foreign))
    hit = _hit(labels[originals], round(flips * n), classes, generator)
    clean, flipped = originals[~hit], originals[hit]
    copied = clean[_integers(len(clean), round(duplicates * n), generator)]
    strange = _integers(len(labels), n - len(originals) - len(copied), generator)

    inputs = _floats(dataset.inputs)
    x = [
        inputs[clean],
        inputs[flipped],
        _near_copies(inputs[copied], generator),
        _strangers(dataset, strange, generator),
    ]
    y = [
        labels[clean],
        _mistaken(inputs, labels, labels[flipped], classes, generator),
        labels[copied],
        _integers(classes, len(strange), generator),
    ]
    kind = torch.arange(4).repeat_interleave(torch.tensor([len(part) for part in y]))
    source = torch.cat([clean, flipped, copied, strange])
    at = torch.randperm(n, generator=generator, device=generator.device).cpu()
    pixels, targets = _as_in(dataset, torch.cat(x)[at]), torch.cat(y)[at].to(dataset.targets)
    return NoisyWeb(Dataset(pixels, targets, np.arange(n), dataset.classes, dataset.kind), kind[at], source[at])


def _check(dataset: Dataset, flips: float, duplicates: float, foreign: float) -> None:
    if not dataset.classes or dataset.kind == "text":
        raise InputError("a noisy web is made of images or a table with classes; text and regression are not offered")
    if min(flips, duplicates, foreign) < 0 or not flips + duplicates + foreign < 1:
        raise InputError(
            "flips, duplicates and foreign are shares of all examples that leave clean ones;"
            f" got {flips} + {duplicates} + {foreign}"
        )


def _hit(labels: Tensor, count: int, classes: int, generator: Generator) -> Tensor:
    """Which (m,) exactly `count` labels go wrong; a class's rate is 0.5 to 1.5 of the mean, in a random order."""
    rates = torch.linspace(0.5, 1.5, classes, dtype=torch.float64)
    rates = rates[torch.randperm(classes, generator=generator, device=generator.device).cpu()]
    u = torch.rand(len(labels), generator=generator, device=generator.device, dtype=torch.float64).cpu()
    first = (-u.log() / rates[labels]).argsort()[:count]  # a race of exponential clocks: draws without replacement
    return torch.zeros(len(labels), dtype=torch.bool).index_fill(0, first, True)


def _mistaken(inputs: Tensor, labels: Tensor, truth: Tensor, classes: int, generator: Generator) -> Tensor:
    """Wrong labels for `truth` (m,): every other one the class that looks most alike, the others any wrong class."""
    flat = inputs.flatten(1)
    means = torch.stack([flat[labels == k].mean(0) for k in range(classes)]).cpu()
    alike = torch.cdist(means, means).fill_diagonal_(torch.inf).argmin(1)
    other = (truth + 1 + _integers(classes - 1, len(truth), generator)) % classes
    return torch.where(_integers(2, len(truth), generator) == 0, alike[truth], other)


def _near_copies(x: Tensor, generator: Generator) -> Tensor:
    """Images a little shifted, brightened and noisy; rows of a table with a little noise."""
    if not len(x):
        return x
    noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
    if x.dim() == 2:
        return x + 0.05 * x.std(0, correction=0) * noise
    h, w = x.shape[2:]
    reach = min(h, w) // 16
    padded, at = F.pad(x, (reach,) * 4, mode="replicate"), _integers((2 * reach + 1) ** 2, len(x), generator)
    moved = torch.empty_like(x)
    for k in at.unique().tolist():
        down, right = divmod(k, 2 * reach + 1)
        moved[at == k] = padded[at == k, :, down : down + h, right : right + w]
    light = 0.9 + 0.2 * torch.rand(len(x), 1, 1, 1, generator=generator, device=generator.device).to(x)
    return (light * moved + 0.02 * noise).clamp(0, 1)


def _strangers(dataset: Dataset, rows: Tensor, generator: Generator) -> Tensor:
    """Inputs of no class: the first half of `rows` scrambled, each of the others averaged with one of another class."""
    x, labels, half = _floats(dataset.inputs[rows]), dataset.targets.cpu(), len(rows) // 2
    places = x[:half].flatten(2) if x.dim() == 4 else x[:half, None]  # (half, channels, places): channels move together
    keys = torch.rand(half, 1, places.shape[2], generator=generator, device=generator.device).to(x.device)
    scrambled = places.gather(2, keys.argsort(2).expand_as(places)).view_as(x[:half])
    partners = torch.empty(len(rows) - half, dtype=torch.int64)
    for k in labels.unique():
        mine, others = labels[rows[half:]] == k, (labels != k).nonzero().squeeze(1)
        partners[mine] = others[_integers(len(others), int(mine.sum()), generator)]
    return torch.cat([scrambled, (x[half:] + _floats(dataset.inputs[partners])) / 2])


def _floats(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.float() / 255


def _as_in(dataset: Dataset, inputs: Tensor) -> Tensor:
    """Floats as the data set's own bytes or floats."""
    return inputs if dataset.inputs.is_floating_point() else (255 * inputs).round().to(dataset.inputs.dtype)


def _integers(below: int, count: int, generator: Generator) -> Tensor:
    return torch.randint(below, (count,), generator=generator, device=generator.device).cpu()
