"""Label noise: wrong labels of a known law, with the record of which labels are wrong.

    y'_i ~ P[y_i, :]        P (K, K), rows sum to one; changed_i = (y'_i != y_i)

Symmetric, asymmetric: Patrini et al. 2017, arXiv 1609.03944. Pairs: Han et al. 2018, arXiv 1804.06872. Random labels:
Zhang et al. 2017, arXiv 1611.03530. By input: Xia et al. 2020, arXiv 2006.07836.

`rate` is the chance that a label is *redrawn*. Where the draw may return the true label (`uniform_resample`, `permute`,
`random_labels`) fewer labels end up wrong, rate (1 - 1/K) for the uniform draw; `NoisyLabels.rate` tells how many did.
Draw noise once, on training labels, and keep it: redrawn each epoch it averages away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from surplus.errors import InputError, unknown
from surplus.registry import find, method

CIFAR100_SUPERCLASSES = (
    (4, 30, 55, 72, 95),  # aquatic mammals
    (1, 32, 67, 73, 91),  # fish
    (54, 62, 70, 82, 92),  # flowers
    (9, 10, 16, 28, 61),  # food containers
    (0, 51, 53, 57, 83),  # fruit and vegetables
    (22, 39, 40, 86, 87),  # household electrical devices
    (5, 20, 25, 84, 94),  # household furniture
    (6, 7, 14, 18, 24),  # insects
    (3, 42, 43, 88, 97),  # large carnivores
    (12, 17, 37, 68, 76),  # large man-made outdoor things
    (23, 33, 49, 60, 71),  # large natural outdoor scenes
    (15, 19, 21, 31, 38),  # large omnivores and herbivores
    (34, 63, 64, 66, 75),  # medium-sized mammals
    (26, 45, 77, 79, 99),  # non-insect invertebrates
    (2, 11, 35, 46, 98),  # people
    (27, 29, 44, 78, 93),  # reptiles
    (36, 50, 65, 74, 80),  # small mammals
    (47, 52, 56, 59, 96),  # trees
    (8, 13, 48, 58, 90),  # vehicles 1
    (41, 69, 81, 85, 89),  # vehicles 2
)
"""CIFAR-100's fine labels (alphabetical numbers) by coarse label; a superclass is not five consecutive numbers."""

FLIPS: dict[str, dict[int, int]] = {
    "mnist": {2: 7, 3: 8, 5: 6, 6: 5, 7: 1},
    "fashion": {0: 6, 2: 4, 5: 7, 7: 5},
    "cifar10": {9: 1, 2: 0, 3: 5, 5: 3, 4: 7},
    "cifar100": {a: b for group in CIFAR100_SUPERCLASSES for a, b in zip(group, group[1:] + group[:1], strict=True)},
}
"""Which class is taken for which, per data set; other classes keep their labels."""


@dataclass(frozen=True)
class NoisyLabels:
    """Labels after noise, and what the noise did."""

    labels: Tensor
    """(n,) the labels to train on."""
    changed: Tensor
    """(n,) bool: the label differs from the true one."""
    transition: Tensor | None
    """(K, K) chance of label j where the truth is i, on the CPU; None where it depends on more than the class."""

    @property
    def rate(self) -> float:
        """Share of labels that are wrong."""
        return self.changed.double().mean().item()


def from_transition(labels: Tensor, transition: Tensor, generator: Generator, exact: bool = False) -> NoisyLabels:
    """Draw every label from its class's row of a transition matrix.

    Args:
        labels: (n,) true classes.
        transition: (K, K), row i is the law of the new label where the truth is i.
        generator: source of the draws.
        exact: flip exactly round((1 - P_ii) n_i) examples of class i, rather than each by its own draw.

    Raises:
        InputError: labels out of range, or rows that are not probabilities.
    """
    classes = _check_transition(transition)
    _check_labels(labels, classes)
    noisy = labels.clone()
    for k in labels.unique().tolist():
        members = (labels == k).nonzero().squeeze(1)
        noisy[members] = _draw(transition[k].to(generator.device), k, len(members), generator, exact).to(noisy)
    return _record(labels, noisy, transition)


@method("corruption", paper="Patrini et al. 2017, arXiv 1609.03944", on="labels")
def symmetric(labels: Tensor, rate: float, classes: int, generator: Generator, *, exact: bool = False) -> NoisyLabels:
    """Every wrong class is equally likely: P_ii = 1 - rate, P_ij = rate / (K - 1).

    Args:
        labels: (n,) true classes.
        rate: chance that a label is wrong.
        classes: K.
        generator: source of the draws.
        exact: exactly round(rate n_k) wrong labels in each class k, in place of a binomial number.
    """
    _check(labels, rate, classes)
    transition = torch.full((classes, classes), rate / (classes - 1), dtype=torch.float64).fill_diagonal_(1 - rate)
    return from_transition(labels, transition, generator, exact)


@method("corruption", paper="Han et al. 2018, arXiv 1804.06872", on="labels")
def pairflip(labels: Tensor, rate: float, classes: int, generator: Generator, *, exact: bool = False) -> NoisyLabels:
    """Each class is taken for the next one: P_ii = 1 - rate, P_i,(i+1 mod K) = rate. Arguments as for `symmetric`."""
    _check(labels, rate, classes)
    eye = torch.eye(classes, dtype=torch.float64)
    return from_transition(labels, (1 - rate) * eye + rate * eye.roll(1, 1), generator, exact)


@method("corruption", paper="Xia et al. 2021 (CDR, its code), OpenReview Eql5b1_hTE4", on="labels")
def trid(labels: Tensor, rate: float, classes: int, generator: Generator, *, exact: bool = False) -> NoisyLabels:
    """Each class is taken for either neighbour: P_i,(i +- 1 mod K) = rate / 2. Arguments as for `symmetric`."""
    _check(labels, rate, classes)
    eye = torch.eye(classes, dtype=torch.float64)
    transition = (1 - rate) * eye + rate / 2 * (eye.roll(1, 1) + eye.roll(-1, 1))
    return from_transition(labels, transition, generator, exact)


@method("corruption", paper="Patrini et al. 2017, arXiv 1609.03944", on="labels")
def asymmetric(
    labels: Tensor,
    rate: float,
    classes: int,
    generator: Generator,
    *,
    flips: str | Mapping[int, int],
    exact: bool = False,
) -> NoisyLabels:
    """Some classes are taken for a class that looks like them: P_i,flips(i) = rate.

    Only classes that `flips` names lose labels: on CIFAR-10 five of ten, so rate / 2 of all labels are wrong. CIFAR-100
    moves within its true superclasses; code in use that takes five consecutive numbers for a superclass moves between
    unlike ones.

    Args:
        labels: (n,) true classes.
        rate: chance that a label of a named class is wrong.
        classes: K.
        generator: source of the draws.
        flips: "mnist", "fashion", "cifar10", "cifar100", or a map from class to the class it is taken for.
        exact: exactly round(rate n_k) wrong labels in each named class k.
    """
    _check(labels, rate, classes)
    if isinstance(flips, str):
        if flips not in FLIPS:
            raise unknown("table of flips", flips, FLIPS)
        flips = FLIPS[flips]
    outside = sorted(k for k in {*flips.keys(), *flips.values()} if not 0 <= k < classes)
    if outside:
        raise InputError(
            f"flips names the classes {outside}, but with classes={classes} they run from 0 to {classes - 1}"
        )
    transition = torch.eye(classes, dtype=torch.float64)
    for truth, taken_for in flips.items():
        transition[truth, truth] -= rate
        transition[truth, taken_for] += rate
    return from_transition(labels, transition, generator, exact)


@method("corruption", paper="Mindermann et al. 2022, arXiv 2206.07137", on="labels")
def uniform_resample(
    labels: Tensor, rate: float, classes: int, generator: Generator, *, exact: bool = False
) -> NoisyLabels:
    """Redraw a label uniformly over ALL classes with chance `rate`, so rate (1 - 1/K) of them end up wrong.

    Args:
        labels: (n,) true classes.
        rate: chance of a redraw; not the share of wrong labels.
        classes: K.
        generator: source of the draws.
        exact: redraw exactly int(rate n) labels.
    """
    _check(labels, rate, classes)
    n = len(labels)
    count = _share(rate, n)
    if exact:
        redrawn = torch.zeros(n, dtype=torch.bool, device=generator.device)
        redrawn[torch.randperm(n, generator=generator, device=generator.device)[:count]] = True
        rate = count / max(n, 1)
    else:
        redrawn = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64) < rate
    drawn = torch.randint(classes, (n,), generator=generator, device=generator.device)
    noisy = torch.where(redrawn.to(labels.device), drawn.to(labels), labels)
    eye = torch.eye(classes, dtype=torch.float64)
    return _record(labels, noisy, (1 - rate) * eye + rate / classes)


@method("corruption", paper="Zhang et al. 2017, arXiv 1611.03530", on="labels")
def random_labels(labels: Tensor, rate: float, classes: int, generator: Generator) -> NoisyLabels:
    """Nothing to learn: a label is uniform over all classes with chance `rate`; the paper's main case is rate = 1."""
    return uniform_resample(labels, rate, classes, generator)


@method("corruption", paper="Paul, Ganguli & Dziugaite 2021, arXiv 2107.07075", on="labels")
def permute(labels: Tensor, rate: float, classes: int, generator: Generator) -> NoisyLabels:
    """Shuffle the labels of int(rate n) random examples among themselves; class counts stay exactly as they were.

    The transition depends on the counts n_j: a chosen example keeps its own label with chance 1/m among m, and
    otherwise gets that of another example.

    Args:
        labels: (n,) true classes.
        rate: share of examples to shuffle; some get their own class back.
        classes: K.
        generator: source of the draws.
    """
    _check(labels, rate, classes)
    n, m = len(labels), _share(rate, len(labels))
    chosen = torch.randperm(n, generator=generator, device=generator.device)[:m].to(labels.device)
    noisy = labels.clone()
    noisy[chosen.sort().values] = labels[chosen]
    eye = torch.eye(classes, dtype=torch.float64)
    others = (labels.cpu().bincount(minlength=classes) - eye) / max(n - 1, 1)  # row i: all labels but one of class i
    moved = max(m - 1, 0) / max(n, 1)  # chance m/n of being chosen, times 1 - 1/m of another's label
    return _record(labels, noisy, (1 - moved) * eye + moved * others)


@method("corruption", paper="Xia et al. 2020, arXiv 2006.07836", on="labels")
def instance_dependent(
    labels: Tensor, rate: float, classes: int, generator: Generator, *, inputs: Tensor, spread: float = 0.1
) -> NoisyLabels:
    """An example's own look decides how likely it is wrong, and as what.

        q_i ~ N(rate, spread^2) cut to [0, 1];  W ~ N(0, 1)^(K x d x K);  P(y'_i = j) = q_i softmax_{j != y_i}(x_i
        W[y_i])_j

    With many inputs of order one the softmax is nearly one-hot: keep the scale of the paper, pixels in [0, 1]. The cut
    lifts the mean of q above a rate within 2 spreads of 0 (0.2055 for 0.2) and lowers it near 1; rate = 0 leaves labels
    alone.

    Args:
        labels: (n,) true classes.
        rate: centre of the law of each example's chance to be wrong.
        classes: K.
        generator: source of the draws.
        inputs: (n, ...) what the network sees, before normalisation; flattened to (n, d).
        spread: standard deviation of the chances before the cut; 0.1 in the paper.
    """
    _check(labels, rate, classes)
    if len(inputs) != len(labels):
        raise InputError(f"{len(inputs)} inputs came with {len(labels)} labels; give one row of inputs for each label")
    if not spread > 0:
        raise InputError(f"spread is a standard deviation and must be above 0; got {spread}")
    noisy = labels.clone()
    if rate > 0:
        q = _chances(rate, spread, len(labels), generator)
        wrong = (torch.rand(len(labels), generator=generator, device=generator.device) < q).to(labels.device)
        flat = inputs.flatten(1).float()
        for k in range(
            classes
        ):  # each W[k] is drawn whether or not the class occurs, so the law does not hang on the sample
            W = torch.randn(flat.shape[1], classes, generator=generator, device=generator.device)
            members = ((labels == k) & wrong).nonzero().squeeze(1)
            logits = flat[members].to(W.device) @ W
            logits[:, k] = -torch.inf
            noisy[members] = _sample_rows(logits, generator).to(noisy)
    return _record(labels, noisy, None)


def human(labels: Tensor, annotated: Tensor, classes: int) -> NoisyLabels:
    """Noise that people made (CIFAR-10N, say): their labels beside the true ones, with the observed transition."""
    _check_labels(labels, classes)
    _check_labels(annotated, classes)
    if len(labels) != len(annotated):
        raise InputError(
            f"{len(annotated)} annotated labels came with {len(labels)} true ones; both must list the same examples"
        )
    return _record(labels, annotated, empirical_transition(labels, annotated, classes))


def empirical_transition(labels: Tensor, noisy: Tensor, classes: int) -> Tensor:
    """Observed share (K, K) of label j among examples of class i; NaN in the rows of classes that do not occur."""
    cells = labels.long().cpu() * classes + noisy.long().cpu()
    counts = cells.bincount(minlength=classes**2).view(classes, classes).double()
    return counts / counts.sum(1, keepdim=True)


def corrupt_labels(
    name: str, labels: Tensor, rate: float, classes: int, generator: Generator, **options: Any
) -> NoisyLabels:
    """Label noise by its name in the catalogue ("symmetric", "pairflip", ...); `options` go to that function.

    Raises:
        InputError: no corruption has this name, or the one that has is not of labels.
    """
    row = find("corruption", name)
    if row.traits.get("on") != "labels":
        raise InputError(
            f'{name!r} corrupts {row.traits.get("on", "something else")}, not labels; try "symmetric" or "pairflip"'
        )
    noisy: NoisyLabels = row.fn(labels, rate, classes, generator, **options)
    return noisy


def _record(labels: Tensor, noisy: Tensor, transition: Tensor | None) -> NoisyLabels:
    return NoisyLabels(noisy, noisy != labels, transition)


def _draw(row: Tensor, k: int, count: int, generator: Generator, exact: bool) -> Tensor:
    """New labels (count,) for the examples of class k."""
    if not exact:
        return row.multinomial(count, replacement=True, generator=generator)
    new = torch.full((count,), k, device=generator.device)
    others = row.index_fill(0, torch.tensor([k], device=row.device), 0)
    flips = round(count * others.sum().item())
    if flips:
        where = torch.randperm(count, generator=generator, device=generator.device)[:flips]
        new[where] = others.multinomial(flips, replacement=True, generator=generator)
    return new


def _chances(rate: float, spread: float, n: int, generator: Generator) -> Tensor:
    """(n,) draws of a normal cut to [0, 1], by its inverse distribution function."""
    low, high = torch.special.ndtr(torch.tensor([-rate / spread, (1 - rate) / spread], dtype=torch.float64)).tolist()
    u = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
    return rate + spread * torch.special.ndtri(low + (high - low) * u)


def _sample_rows(logits: Tensor, generator: Generator) -> Tensor:
    """One draw (m,) from the softmax of each row of (m, K): the largest of logit + Gumbel noise."""
    u = torch.rand(logits.shape, generator=generator, device=generator.device, dtype=torch.float64)
    return (logits.double() - torch.log(-torch.log(u))).argmax(1)


def _share(rate: float, n: int) -> int:
    """int(rate n), safe from 0.29 * 100 = 28.999...96."""
    return int(rate * n + 1e-9)


def _check(labels: Tensor, rate: float, classes: int) -> None:
    if not 0 <= rate <= 1:
        raise InputError(f"rate is a share of the labels and lies in [0, 1]; got {rate}")
    _check_labels(labels, classes)


def _check_labels(labels: Tensor, classes: int) -> None:
    if classes < 2:
        raise InputError(f"noise needs another class to move a label to: classes must be at least 2; got {classes}")
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(
            f"labels are one integer per example, shape (n,); got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    rows = ((labels < 0) | (labels >= classes)).nonzero().squeeze(1)
    if len(rows):
        shown = ", ".join(f"row {i}: {labels[i].item()}" for i in rows[:5].tolist())
        raise InputError(f"with classes={classes} labels run from 0 to {classes - 1}; {len(rows)} do not ({shown})")


def _check_transition(transition: Tensor) -> int:
    if transition.dim() != 2 or transition.shape[0] != transition.shape[1]:
        raise InputError(f"a transition matrix is (K, K); got shape {tuple(transition.shape)}")
    sums = transition.sum(1)
    if (transition < 0).any() or not torch.allclose(sums, torch.ones_like(sums), atol=1e-5):
        raise InputError(
            f"each row of a transition matrix holds probabilities that sum to 1; the rows sum to {sums.tolist()}"
        )
    return len(transition)
