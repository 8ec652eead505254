"""Angle, norm and margin: how the features before the last layer lie to their class (Li et al. 2024, arXiv 2206.07918).

    logit_i = |W_i| |X| cos(angle_i) + b_i
    angle   = arccos( W_y . X / (|W_y| |X|) )                                      degrees, to the true class y
    norm    = |X|
    margin  = min over j != y of  ( (W_y - W_j) . X + b_y - b_j ) / |W_y - W_j|    distance to the nearest boundary

The margin is a distance in feature space, negative exactly where an example is misclassified; it does not change when
one vector is added to every row of W, and softmax does not either. The angle does change: `relative` subtracts the mean
row first. Features after a ReLU all lie in one orthant, less than 90 degrees apart: `centre` subtracts a point first,
say the mean feature of the training data. Norms compare within a network, hardly across networks whose normalisation
scales the features differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surplus.data import Dataset
from surplus.errors import InputError
from surplus.registry import method
from surplus.tasks import Task
from surplus.training import features

PAPER = "Li et al. 2024, arXiv 2206.07918"


@dataclass(frozen=True)
class Geometry:
    """Where n examples lie in one network's feature space."""

    angles: Tensor
    """(n, C) degrees to every class."""
    logits: Tensor
    """(n, C)."""
    norm: Tensor
    """(n,)."""
    margin: Tensor
    """(n,) in units of the features; negative where the example is misclassified."""
    labels: Tensor
    """(n,) true classes."""
    degenerate: Tensor
    """(n,) True where feature or class direction is zero: the angle, then 90, means nothing."""

    @property
    def angle(self) -> Tensor:
        """(n,) degrees to the true class."""
        return _own(self.angles, self.labels)

    @property
    def prediction(self) -> Tensor:
        """(n,) the class of the largest logit."""
        return self.logits.argmax(1)


def class_angles(
    features: Tensor, weight: Tensor, *, centre: Tensor | None = None, relative: bool = False
) -> tuple[Tensor, Tensor]:
    """Angles between features and class directions.

    Args:
        features: (n, D).
        weight: (C, D) rows of the last layer.
        centre: (D,) subtracted from the features.
        relative: subtract the mean row from the rows.

    Returns:
        Degrees (n, C), 90 where a vector is zero; and which (n, C) are so for want of a direction.
    """
    x = features if centre is None else features - centre
    w = weight - weight.mean(0) if relative else weight
    lengths = x.norm(dim=1)[:, None] * w.norm(dim=1)  # (n, C)
    none = lengths == 0
    cosine = (x @ w.T / lengths.masked_fill(none, 1)).clamp(-1, 1)
    return torch.rad2deg(cosine.acos()).masked_fill(none, 90), none


@method("measure", paper=PAPER)
def feature_angle(
    features: Tensor, weight: Tensor, labels: Tensor, *, centre: Tensor | None = None, relative: bool = False
) -> Tensor:
    """Angle to the true class: degrees (n,) between the features and their class's row of the last layer.

    Args:
        features: (n, D) what enters the last layer.
        weight: (C, D).
        labels: (n,) classes.
        centre: (D,) subtracted from the features.
        relative: subtract the mean row from the rows.

    Raises:
        InputError: shapes that do not fit together, or labels beyond the rows.
    """
    _check(features, weight, labels)
    return _own(class_angles(features, weight, centre=centre, relative=relative)[0], labels)


@method("measure", paper=PAPER)
def feature_norm(features: Tensor, *, centre: Tensor | None = None) -> Tensor:
    """Length of the features (n, D) -> (n,), from `centre` (D,) on when that is given."""
    return (features if centre is None else features - centre).norm(dim=1)


@method("measure", paper=PAPER)
def feature_margin(features: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None) -> Tensor:
    """Signed distance (n,) from the features to the nearest decision boundary, negative where misclassified.

    Two classes with one and the same row have no boundary between them: the larger bias decides, at an infinite
    distance, and equal biases tie, at distance 0.

    Args:
        features: (n, D) what enters the last layer.
        weight: (C, D).
        labels: (n,) classes.
        bias: (C,); zeros when None.

    Raises:
        InputError: shapes that do not fit together, or labels beyond the rows.
    """
    _check(features, weight, labels)
    b = weight.new_zeros(len(weight)) if bias is None else bias
    logits = features @ weight.T + b
    gap = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")[labels]  # (n, C)
    lead = torch.where(gap == 0, b[labels][:, None] - b, _own(logits, labels)[:, None] - logits)
    distance = (lead / gap).nan_to_num(0.0, torch.inf, -torch.inf)
    return distance.scatter(1, labels[:, None], torch.inf).amin(1)


def last_layer(task: Task, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,) of the linear layer that gives the outputs of the point theta (P,).

    Raises:
        InputError: the network's output is not that of a linear layer.
    """
    module = task.space.write(theta)
    calls: list[tuple[nn.Linear, Tensor]] = []
    for layer in (m for m in module.modules() if isinstance(m, nn.Linear)):
        layer.register_forward_hook(lambda layer, _, out: calls.append((layer, out)))
    with torch.no_grad():
        out = module(task.prepare(task.train.inputs[:2]).to(theta.device))
    if not calls or calls[-1][1].shape != out.shape:
        raise InputError(f"the network {task.network.name} does not end in a linear layer, so it has no class rows")
    weight, bias = calls[-1][0].weight.detach(), calls[-1][0].bias
    return weight, weight.new_zeros(len(weight)) if bias is None else bias.detach()


def feature_geometry(
    task: Task, theta: Tensor, data: Dataset, *, centre: Tensor | None = None, relative: bool = False
) -> Geometry:
    """Angle, norm and margin of the examples of `data` under the point theta.

    Args:
        task: whose network and normalisation are used.
        theta: (P,).
        data: any examples of the task's shape.
        centre: (D,) subtracted from the features for angle and norm; `features(task, theta, task.train).mean(0)`, say.
        relative: subtract the mean row of the last layer for the angles.

    Raises:
        InputError: targets that are no classes, or a network that does not end in a linear layer.
    """
    if not data.classes or data.targets.dim() != 1:
        raise InputError(
            f"angle, norm and margin are about classes; the targets of {task.name} are {task.objective.name}"
        )
    (weight, bias), x = last_layer(task, theta), features(task, theta, data)
    weight, bias, labels = weight.to(x), bias.to(x), data.targets.to(x.device)
    angles, none = class_angles(x, weight, centre=centre, relative=relative)
    margin = feature_margin(x, weight, labels, bias)
    norm = feature_norm(x, centre=centre)
    return Geometry(angles, x @ weight.T + bias, norm, margin, labels, _own(none, labels))


def _own(values: Tensor, labels: Tensor) -> Tensor:
    """Of each row of (n, C), the entry of its class: (n,)."""
    return values.gather(1, labels[:, None])[:, 0]


def _check(features: Tensor, weight: Tensor, labels: Tensor) -> None:
    fits = features.dim() == weight.dim() == 2 and features.shape[1] == weight.shape[1]
    if not fits or labels.shape != features.shape[:1]:
        raise InputError(
            "features are (n, D), the last layer's weight (C, D), labels (n,); got "
            f"{tuple(features.shape)}, {tuple(weight.shape)} and {tuple(labels.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(weight):
        raise InputError(
            f"labels name rows 0 to {len(weight) - 1} of the last layer; got {int(labels.min())} to {int(labels.max())}"
        )
