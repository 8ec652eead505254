"""Which pruned networks stay right on corrupted data, told by the geometry of their last features.

    vector of (network, condition) = (angles, norms, margins of the same N examples), each metric z-scored over all

Li et al. 2024 (arXiv 2206.07918). A condition is clean data, or a corruption at a severity of 1 to 5. Networks and
conditions are compared by the Euclidean distance of their vectors in R^3N. Robust accuracy is the mean over corruptions
and severities. Corruption comes before normalisation, and all networks see the same corrupted examples.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surplus.data import Dataset
from surplus.data.corruptions import corrupt_images
from surplus.data.corruptions.base import unit
from surplus.errors import InputError, unknown
from surplus.landscape.geometry import feature_geometry
from surplus.pruning.schedules.imp import Level
from surplus.space import generator
from surplus.tasks import Task
from surplus.training import features

USUAL = ("gaussian-noise", "impulse-noise", "gaussian-blur", "zoom-blur", "contrast", "fog", "pixelate")
"""Corruptions of each family; `surplus.data.corruptions` has all 19."""
METRICS = ("angle", "norm", "margin")
Metric = str
"""One of `METRICS`."""
_AT_ONCE = 32_768
"""Covered images in memory at once."""


@dataclass(frozen=True)
class Variant:
    """One network: its weights (P,), removed ones at 0, and what it is called in tables and pictures."""

    theta: Tensor
    method: str = "dense"
    density: float = 1.0
    """Kept share of the prunable weights."""


class Condition(NamedTuple):
    """Clean data, or a corruption at a severity of 1 to 5."""

    kind: str = "clean"
    severity: int = 0

    def __str__(self) -> str:
        return self.kind if not self.severity else f"{self.kind} {self.severity}"


def variants_of(levels: Mapping[str, Sequence[Level]], replica: int = 0) -> dict[str, Variant]:
    """Variants by name from the levels of several pruning methods; dense levels become one variant, the first.

    Args:
        levels: method -> its levels, as `imp`, `one_shot` and other schedules return them.
        replica: which of each level's networks to take.
    """
    found: dict[str, Variant] = {}
    for name, rows in levels.items():
        for level in rows:
            dense = level.density == 1
            theta = level.run.theta[replica]
            label = "dense" if dense else f"{name} {100 * level.density:.3g}%"
            found.setdefault(label, Variant(theta, "dense" if dense else name, level.density))
    return found


@dataclass(frozen=True, eq=False)
class Robustness:
    """V networks under C conditions on the same n examples; `conditions` begins with clean data."""

    variants: dict[str, Variant]
    conditions: tuple[Condition, ...]
    data: Dataset
    """The n examples as they were."""
    inputs: Tensor
    """(C, n, ...) the examples under each condition, before normalisation."""
    prediction: Tensor
    """(V, C, n)."""
    angles: Tensor
    """(V, C, n, classes) degrees."""
    angle: Tensor
    """(V, C, n) degrees to the true class."""
    norm: Tensor
    """(V, C, n)."""
    margin: Tensor
    """(V, C, n)."""

    @cached_property
    def correct(self) -> Tensor:
        """(V, C, n)."""
        return self.prediction == self.data.targets.to(self.prediction.device)

    @cached_property
    def fragility(self) -> Tensor:
        """(V, n) share of the corrupted conditions under which the answer is not the one for the clean example."""
        changed = self.prediction[:, 1:] != self.prediction[:, :1]
        return changed.float().mean(1) if len(self.conditions) > 1 else torch.zeros_like(self.prediction[:, 0]).float()

    def table(self) -> list[dict[str, Any]]:
        """A row per network: name, method, density, accuracy clean, under each kind (mean over severities), robust."""
        accuracy = self.correct.double().mean(2).tolist()  # (V, C)
        kinds = list(dict.fromkeys(c.kind for c in self.conditions))
        rows = []
        for (name, v), found in zip(self.variants.items(), accuracy, strict=True):
            of = {k: [a for a, c in zip(found, self.conditions, strict=True) if c.kind == k] for k in kinds}
            means = {k: sum(a) / len(a) for k, a in of.items()}
            robust = [m for k, m in means.items() if k != "clean"]
            row = {"network": name, "method": v.method, "density": v.density, **means}
            rows.append(row | ({"robust": sum(robust) / len(robust)} if robust else {}))
        return rows

    def vectors(self) -> np.ndarray:
        """(V C, 3 n) geometric vectors, network by network; each metric z-scored over all of them at once."""
        parts = [_standard(getattr(self, metric)).flatten(0, 1) for metric in METRICS]
        return torch.cat(parts, 1).cpu().numpy()


def robustness(
    task: Task,
    variants: Mapping[str, Variant],
    *,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] = (1, 3, 5),
    data: Dataset | None = None,
    centred: bool = False,
    relative: bool = False,
    seed: int = 0,
) -> Robustness:
    """Predictions and geometry of several networks under corruption.

    Args:
        task: whose network the variants are.
        variants: by name.
        corruptions: names from the catalogue; `USUAL` for images and Gaussian noise for tables when None.
        severities: of 1 to 5.
        data: examples; the test set when None.
        centred: measure angle and norm from each network's mean feature on clean training data.
        relative: measure angles to the rows of the last layer less their mean.
        seed: of the corruptions.

    Raises:
        InputError: no variants, weights of another network, no classes, an unknown corruption or severity.
    """
    if not variants:
        raise InputError("nothing to compare: variants are networks by name, {'dense': Variant(theta), ...}")
    for name, v in variants.items():
        if v.theta.shape != (task.space.size,):
            raise InputError(
                f"variant {name!r} has weights of shape {tuple(v.theta.shape)}; the network of {task.name} has"
                f" P = {task.space.size:,}"
            )
    clean = data or task.test
    usual = USUAL if clean.kind == "image" else ("gaussian-noise",) if clean.kind == "table" else ()
    kinds = usual if corruptions is None else corruptions
    conditions = (Condition(), *(Condition(k.replace("_", "-"), s) for k in kinds for s in severities))
    sets = [corrupted(task, clean, c, seed) for c in conditions]
    joined = _joined(sets)  # one pass per network, so that batch-norm statistics are estimated once
    rows = []
    for v in variants.values():
        centre = features(task, v.theta, task.train).mean(0) if centred else None
        rows.append(feature_geometry(task, v.theta, joined, centre=centre, relative=relative))
    shape = (len(conditions), len(clean))
    names = ("prediction", "angles", *METRICS)
    found = {k: torch.stack([getattr(g, k).unflatten(0, shape) for g in rows]) for k in names}
    return Robustness(dict(variants), conditions, clean, unit(joined.inputs).unflatten(0, shape), **found)


def corrupted(task: Task, data: Dataset, condition: Condition, seed: int = 0) -> Dataset:
    """The examples under a condition; columns of a table take Gaussian noise of severity / 10 of their deviation.

    Raises:
        InputError: no such corruption for these data, or no such severity.
    """
    kind, severity = condition
    if kind == "clean":
        return data
    chance = generator(seed, "robustness", kind, severity)
    if data.kind == "image":
        return replace(data, inputs=corrupt_images(kind, data.inputs, severity, chance))
    if data.kind != "table" or kind != "gaussian-noise":
        known = ("gaussian-noise",) if data.kind == "table" else ()
        raise unknown(f"corruption of a {data.kind}", kind, known)
    if severity not in range(1, 6):
        raise InputError(f"severity is one of 1, 2, 3, 4, 5; got {severity!r}")
    noise = torch.randn(data.inputs.shape, generator=chance).to(data.inputs)
    return replace(data, inputs=data.inputs + severity / 10 * task.moments[1].to(data.inputs) * noise)


# ---- geometric similarity -------------------------------------------------------------------------------------------


def distances(vectors: np.ndarray) -> np.ndarray:
    """Euclidean distances (M, M) between vectors (M, d)."""
    from scipy.spatial.distance import pdist, squareform

    found: np.ndarray = squareform(pdist(np.asarray(vectors, dtype=np.float64)))
    return found


def spanning_tree(distances: np.ndarray) -> list[tuple[int, int]]:
    """The M - 1 edges (i < j) of the minimum spanning tree of points at these distances (M, M)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    rows, columns = np.triu_indices(len(distances), 1)
    lengths = np.maximum(distances[rows, columns], 1e-300)  # a zero would say: no edge
    tree = minimum_spanning_tree(coo_array((lengths, (rows, columns)), distances.shape).tocsr())
    return sorted((int(min(e)), int(max(e))) for e in zip(*tree.nonzero(), strict=True))


def embed(vectors: np.ndarray, seed: int = 0) -> tuple[np.ndarray, str]:
    """Places (M, 2) of vectors (M, d) in the plane, and the name of the method that found them.

    UMAP where umap-learn is installed and there are more than four points, else principal components, which for
    Euclidean distances are classical scaling.
    """
    if len(vectors) < 2:
        return np.zeros((len(vectors), 2)), "one point"
    try:
        umap = importlib.import_module("umap")
    except ImportError:
        umap = None
    if umap is not None and len(vectors) > 4:
        neighbours = min(15, len(vectors) - 1)
        return umap.UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(vectors), "UMAP"
    from sklearn.decomposition import PCA

    found = PCA(min(2, *vectors.shape), svd_solver="full").fit_transform(vectors)
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1]))), "principal components (classical scaling)"


def redundant(found: Robustness, threshold: float = 0.5) -> list[dict[str, Any]]:
    """Pairs of corruptions that do much the same to the networks, nearest first.

    Args:
        found: of `robustness`.
        threshold: two kinds are redundant when their distance is below this share of their mean distance from clean.

    Returns:
        A row per pair: first, second, ratio (mean over networks and severities), redundant.
    """
    d = distances(found.vectors()).reshape(*(len(found.variants), len(found.conditions)) * 2)
    kinds = list(dict.fromkeys(c.kind for c in found.conditions[1:]))
    severities = list(dict.fromkeys(c.severity for c in found.conditions[1:]))
    rows = []
    for a, b in combinations(kinds, 2):
        ratios = []
        for s in severities:
            i, j = found.conditions.index(Condition(a, s)), found.conditions.index(Condition(b, s))
            for v in range(len(found.variants)):
                moved = (d[v, i, v, 0] + d[v, j, v, 0]) / 2
                ratios.append(d[v, i, v, j] / moved if moved else 0.0)
        ratio = float(np.mean(ratios))
        rows.append({"first": a, "second": b, "ratio": ratio, "redundant": ratio < threshold})
    return sorted(rows, key=lambda row: row["ratio"])


# ---- geometric attribution ------------------------------------------------------------------------------------------


def occlusion(
    task: Task, theta: Tensor, data: Dataset, patch: int | None = None, *, centre: Tensor | None = None
) -> dict[Metric, Tensor]:
    """How angle, norm and margin change when a patch of the image is covered with the training data's mean.

    Args:
        task: whose network and normalisation are used.
        theta: (P,).
        data: n images (C, H, W).
        patch: side of the patch in pixels, which moves by its own side; an eighth of the width when None.
        centre: as in `feature_geometry`.

    Returns:
        metric -> (n, rows, columns): the value with the patch covered less that of the whole image.

    Raises:
        InputError: the examples are no images, or the patch does not fit.
    """
    if data.kind != "image":
        raise InputError(f"patches are of images; the examples of {task.name} are a {data.kind}")
    _, height, width = data.shape
    side = max(1, width // 8) if patch is None else patch
    if not 1 <= side <= min(height, width):
        raise InputError(f"a patch has a side of 1 to {min(height, width)} pixels; got {side}")
    corners = [(top, left) for top in range(0, height, side) for left in range(0, width, side)]
    grid = (-(-height // side), -(-width // side))
    found: dict[Metric, list[Tensor]] = {m: [] for m in METRICS}
    for rows in torch.arange(len(data)).split(max(1, _AT_ONCE // len(corners))):
        part = data[rows]
        sets = _joined([part, *(_covered(task, part, top, left, side) for top, left in corners)])
        geometry = feature_geometry(task, theta, sets, centre=centre)
        for m in METRICS:
            values = getattr(geometry, m).unflatten(0, (-1, len(part)))  # (1 + patches, n)
            found[m].append((values[1:] - values[0]).nan_to_num(0.0).T.unflatten(1, grid))
    return {m: torch.cat(v) for m, v in found.items()}


def _covered(task: Task, data: Dataset, top: int, left: int, side: int) -> Dataset:
    x, mean = data.inputs.clone(), task.moments[0].to(data.inputs.device)
    fill = (255 * mean).round() if x.dtype == torch.uint8 else mean
    x[:, :, top : top + side, left : left + side] = fill.to(x.dtype)
    return replace(data, inputs=x)


def _joined(sets: Sequence[Dataset]) -> Dataset:
    """The examples of several sets, one after another."""
    inputs, targets = (torch.cat([getattr(d, name) for d in sets]) for name in ("inputs", "targets"))
    return replace(sets[0], inputs=inputs, targets=targets, ids=np.arange(len(inputs)))


def _standard(values: Tensor) -> Tensor:
    """Values less their mean, by their deviation, over all entries; infinite margins count as the largest finite."""
    v = values.double()
    finite = v[v.isfinite()]
    low, high = finite.aminmax() if len(finite) else (0.0, 0.0)
    v = v.nan_to_num(float(low), float(high), float(low))
    return (v - v.mean()) / v.std(correction=0).clamp(min=1e-12)
