"""Data that studies train on: the bundled digits, and the files that a user provides.

$SURPLUS_DATA names a folder. Studies look in it for

    cifar10/, mnist/                        the image sets, in the layout of the Hugging Face hub
    embeddings/cifar10.npz                  arrays train (50000, d), test (10000, d): features of a self-supervised net
    scores/cifar10_cscores_train.parquet    index, label, cscore          (Jiang et al. 2021)
    scores/cifar10n_train.parquet           index, clean, aggre, random1, random2, random3  (CIFAR-10N, Wei et al. 2022)

where `index` is the row number in CIFAR-10's training split.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surplus.data import Splits, read
from surplus.data.noise import symmetric
from surplus.errors import InputError
from surplus.space import generator
from surplus.studies.base import Untestable

FOLDER = "SURPLUS_DATA"
CSCORES, CIFAR10N = "scores/cifar10_cscores_train.parquet", "scores/cifar10n_train.parquet"


def provided(*names: str) -> list[Path]:
    """Paths of files or folders that the user provides.

    Raises:
        Untestable: they are not there.
    """
    folder = os.environ.get(FOLDER)
    paths = [Path(folder or ".").expanduser() / name for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if not folder or not path.exists()]
    if missing:
        where = "which is not set" if not folder else "where they are missing"
        raise Untestable(f"needs the files {', '.join(missing)} in the folder that {FOLDER} names, {where}")
    return paths


def splits(name: str, seed: int, test_share: float = 0.3) -> Splits:
    """The digits, cut anew for each seed, or an image set of the user's with its own test split."""
    return read("digits", test_share=test_share, seed=seed) if name == "digits" else _images(provided(name)[0])


@lru_cache(maxsize=1)
def _images(folder: Path) -> Splits:
    """Read once: every seed and claim asks for the same pictures."""
    return read(folder)


def flipped(data: Splits, rate: float, seed: int) -> tuple[Splits, Tensor]:
    """The same data with exactly this share of each class's training labels moved to another class, and which (n,)."""
    train = data.train
    noise = symmetric(train.targets, rate, len(train.classes), generator(seed, "study", "flips"), exact=True)
    return replace(data, train=train.with_targets(noise.labels)), noise.changed


@dataclass(frozen=True)
class HumanLabels:
    """CIFAR-10N: labels that people gave, beside the true ones; each (n,), in the order of `index`."""

    index: Tensor
    clean: Tensor
    aggregate: Tensor
    singles: Tensor
    """(3, n): one person's answer each."""

    @property
    def worse_is_wrong(self) -> Tensor:
        """(n,) whether the data set's "worse" label is wrong: it is as soon as one of the three answers is."""
        return (self.singles != self.clean).any(0)

    def worse(self, seed: int) -> Tensor:
        """(n,) a wrong answer out of the three where there is one, drawn at random, else the true label."""
        wrong = self.singles != self.clean
        draw = torch.rand(self.singles.shape, generator=generator(seed, "study", "worse"))
        chosen = (draw + wrong).argmax(0)  # a wrong answer has the larger number
        return self.singles.gather(0, chosen[None])[0]


def human_labels() -> HumanLabels:
    """The label file of CIFAR-10N."""
    columns = _columns(provided(CIFAR10N)[0], ("index", "clean", "aggre", "random1", "random2", "random3"))
    index, clean, aggregate, *singles = columns
    return HumanLabels(index, clean.long(), aggregate.long(), torch.stack(singles).long())


def published_c_scores() -> tuple[Tensor, Tensor, Tensor]:
    """Index, label and C-score (n,) of the published file."""
    index, labels, scores = _columns(provided(CSCORES)[0], ("index", "label", "cscore"))
    return index.long(), labels.long(), scores.double()


def joined(index: Tensor, labels: Tensor, other_index: Tensor, other_labels: Tensor, what: str) -> Tensor:
    """Positions (n,) in the other table of the rows `index`, once both agree on every label.

    Raises:
        InputError: rows are missing, or labels differ: then the two are in different orders.
    """
    order = other_index.argsort()
    at = order[torch.searchsorted(other_index[order], index).clamp(max=len(order) - 1)]
    if not bool((other_index[at] == index).all()):
        raise InputError(f"{what}: {int((other_index[at] != index).sum()):,} rows of one have no partner in the other")
    wrong = int((other_labels[at] != labels).sum())
    if wrong:
        raise InputError(f"{what}: {wrong:,} of {len(labels):,} labels differ, so the two are in different orders")
    return at


def _columns(path: Path, names: tuple[str, ...]) -> list[Tensor]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    absent = [n for n in names if n not in table.column_names]
    if absent:
        raise InputError(
            f"{path.name} has no column {', '.join(absent)}; its columns are {', '.join(table.column_names)}"
        )
    return [torch.from_numpy(np.array(table.column(n).to_numpy())) for n in names]
