"""Nested dropout: features in order of use, so that a short prefix of them holds what is not noise.

    per batch draw n,  P(n) ~ exp(-((n - mu) / sigma)^2), n = 1..d;    logits = W [h_1 ... h_n 0 ... 0], W without bias
    k* = argmax_n  accuracy(first n features on clean validation data) - 1e-5 (n - 1)

Stage two fine-tunes two such networks by Co-teaching on the halves of each batch (Chen et al. 2022, arXiv 2206.13140,
after Rippel, Gelbart & Adams 2014, arXiv 1402.0915).

    task = compressed(load("mnist/", "mlp"), sigma=10)
    run = fit(task, seeds=2, keep=ends)           # the steps that end an epoch
    theta, found = best_epoch(task, run, ends)    # each network at its best epoch, and its k*
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from surplus.data import Dataset
from surplus.errors import InputError
from surplus.examples.rules.batch_choice import cross_entropies
from surplus.registry import method
from surplus.space import Buffers
from surplus.tasks import CLASSIFICATION, Network, Recipe, Task
from surplus.training import Batch, Choice, Moment, Rule, Run, features, predict

_PAPER = "Chen, Hu, Shen, Ai & Suykens 2022, arXiv 2206.13140"


def prefix_law(d: int, sigma: float, mu: float = 0.0) -> Tensor:
    """P(n) for n = 1..d, in double precision: (d,)."""
    n = torch.arange(1, d + 1, dtype=torch.float64)
    return (-(((n - mu) / sigma) ** 2)).softmax(0)


class PrefixMask(nn.Module):
    """Keeps a random prefix of the features while training, and the first `length` of them in evaluation.

    Args:
        d: number of features.
        sigma: width of the law of the prefix length.
        mu: its centre.
    """

    length: Tensor

    def __init__(self, d: int, sigma: float, mu: float = 0.0) -> None:
        super().__init__()
        self.d, self.sigma, self.mu = d, sigma, mu
        self.register_buffer("length", torch.tensor(float(d)))

    def forward(self, features: Tensor) -> Tensor:
        """(B, d) -> (B, d); one prefix for the whole batch, and no rescaling."""
        length: Tensor | int = self.length
        if self.training:
            law = prefix_law(self.d, self.sigma, self.mu)
            length = (
                int(torch.searchsorted(law.cumsum(0), torch.rand((), dtype=torch.float64)).clamp(max=self.d - 1)) + 1
            )
        return features * (torch.arange(self.d, device=features.device) < length)


@dataclass(frozen=True)
class _Compressed:
    """Builds a network whose features are masked before a last layer without bias."""

    network: Network
    sigma: float | None
    dropout: float | None

    def __call__(self) -> nn.Module:
        module = self.network()
        head = getattr(module, "head", None)
        if not isinstance(head, nn.Linear):
            raise InputError(
                f"the network {self.network.name} has no linear last layer called head to put a mask before"
            )
        d = head.in_features
        mask = PrefixMask(d, self.sigma) if self.sigma is not None else nn.Dropout(self.dropout or 0.0)
        last = nn.Linear(d, head.out_features, bias=False)
        module.head = nn.Sequential(mask, last)
        return module


@method("training rule", paper=_PAPER, name="nested-dropout")
def compressed(task: Task, *, sigma: float | None = None, dropout: float | None = None) -> Task:
    """The task with a network that compresses its last features, by nested dropout or by the ordinary one.

    Args:
        task: with a network whose last layer is linear and called `head`, as all of surplus's are.
        sigma: width of nested dropout's prefix law; the authors take 10 (CIFAR-10) and 100 (CIFAR-100, Clothing1M).
        dropout: instead, the share of features that ordinary dropout leaves out; the authors take 0.3 and 0.7.

    Raises:
        InputError: not exactly one of the two, a value out of bounds, or a network without such a layer.
    """
    if (sigma is None) == (dropout is None):
        raise InputError("give one of sigma= (nested dropout) and dropout= (the ordinary one)")
    if (sigma is not None and not sigma > 0) or (dropout is not None and not 0 <= dropout < 1):
        raise InputError(f"sigma is above 0 and dropout in [0, 1); got sigma={sigma}, dropout={dropout}")
    kind = f"sigma={sigma:g}" if sigma is not None else f"dropout={dropout:g}"
    network = Network(f"{task.network.name}+{kind}", factory=_Compressed(task.network, sigma, dropout))
    made = replace(task, network=network)
    _ = made.space  # builds it now, so that a misfit is an error here
    return made


# ---- prefixes -------------------------------------------------------------------------------------------------------


class Prefix(NamedTuple):
    """The best number of features of each network."""

    length: Tensor
    """(K,) k*, at least 1."""
    accuracy: Tensor
    """(K,) with so many."""
    curve: Tensor
    """(K, d) with 1, 2, ... d of them."""


def prefix_accuracies(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Accuracy of a linear layer on the first 1, 2, ... d features.

    Args:
        features: (n, d).
        weight: (classes, d), without bias.
        labels: (n,).

    Returns:
        (d,).
    """
    logits, right = torch.zeros(len(features), len(weight), dtype=features.dtype, device=features.device), []
    for j in range(features.shape[1]):
        logits.addr_(features[:, j], weight[:, j])
        right.append((logits.argmax(1) == labels).float().mean())
    return torch.stack(right)


def best_prefix(task: Task, thetas: Tensor, data: Dataset | None = None) -> Prefix:
    """k* of each network on clean validation data; ties, and gains below 1e-5 a feature, go to the shorter prefix.

    Args:
        task: made by `compressed`.
        thetas: (K, P).
        data: the task's validation set when None.

    Raises:
        InputError: no data, or a task that `compressed` did not make.
    """
    _mask_name(task)
    data = data or task.validation
    if data is None:
        raise InputError("the best prefix is chosen on clean validation data, and the task has none; give data=")
    last = next(reversed(task.space.blocks))
    curves = [
        prefix_accuracies(features(task, t, data), t[last.slice].view(last.shape), data.targets.to(t.device))
        for t in thetas
    ]
    curve = torch.stack(curves)
    penalty = 1e-5 * torch.arange(curve.shape[1], device=curve.device)
    at = (curve.double() - penalty).argmax(1)
    return Prefix(at + 1, curve.gather(1, at[:, None])[:, 0], curve)


def best_epoch(task: Task, run: Run, steps: Sequence[int], data: Dataset | None = None) -> tuple[Tensor, Prefix]:
    """Each network at the kept step where its best prefix is most accurate, and that prefix; ties go to the earlier.

    Args:
        task: made by `compressed`.
        run: trained with `keep=steps`.
        steps: those that end an epoch, say.
        data: clean validation data; the task's validation set when None.
    """
    theta = run.at(steps[0])
    best = best_prefix(task, theta, data)
    for step in steps[1:]:
        at = run.at(step)
        found = best_prefix(task, at, data)
        better = found.accuracy > best.accuracy
        theta = torch.where(better[:, None], at, theta)
        best = Prefix(
            *(torch.where(better.view(-1, *[1] * (b.dim() - 1)), a, b) for a, b in zip(found, best, strict=True))
        )
    return theta, best


def predict_prefix(task: Task, thetas: Tensor, data: Dataset, lengths: Tensor) -> Tensor:
    """Outputs (K, n, classes) of each network thetas (K, P) with its first lengths (K,) features."""
    outputs = [predict(task, t, data, buffers=_with_length(task, t, k)) for t, k in zip(thetas, lengths, strict=True)]
    return torch.stack(outputs)


def _mask_name(task: Task) -> str:
    """The name of the prefix mask in the network."""
    names = [n for n, m in task.space.module.named_modules() if isinstance(m, PrefixMask)]
    if not names:
        raise InputError(
            f"the network {task.network.name} has no prefix mask; make the task with compressed(task, sigma=...)"
        )
    return names[0]


def _with_length(task: Task, theta: Tensor, length: Tensor) -> Buffers:
    """All buffers of the network at theta (P,), with this prefix length."""
    buffers = {**task.space.fresh_buffers(theta.device), **(task.statistics(theta) or {})}
    return {**buffers, f"{_mask_name(task)}.length": length.to(theta.device, torch.float32)}


# ---- stage two ------------------------------------------------------------------------------------------------------


class FrozenNorm(nn.Module):
    """A batch norm with fixed statistics: what it does to each channel, as two numbers in the network's weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, ...) -> the same."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return x * self.weight.view(shape) + self.bias.view(shape)


@dataclass(frozen=True)
class _Frozen:
    """Builds a network whose batch norms are frozen."""

    network: Network

    def __call__(self) -> nn.Module:
        module = copy.deepcopy(self.network())
        for name, norm in list(module.named_modules()):
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                parent, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(parent), leaf, FrozenNorm(norm.num_features))
        return module


def freeze_norms(task: Task, thetas: Tensor) -> tuple[Task, Tensor]:
    """The same functions with every batch norm's statistics written into its weights, as stage two wants them.

    Args:
        task: whose network may have batch norms; without any, all is returned as it came.
        thetas: (K, P).

    Returns:
        The task with a network of frozen norms, and thetas (K, P) that give its outputs in evaluation mode.
    """
    if not task.space.batch_norms:
        return task, thetas
    frozen = replace(task, network=Network(f"{task.network.name}, norms frozen", factory=_Frozen(task.network)))
    rows = []
    for theta in thetas:
        parts, stats = dict(task.space.split(theta)), task.statistics(theta) or {}
        for name in task.space.batch_norms:
            norm: Any = task.space.module.get_submodule(name)
            scale = parts[f"{name}.weight"] / (stats[f"{name}.running_var"] + norm.eps).sqrt()
            shift = parts[f"{name}.bias"] - stats[f"{name}.running_mean"] * scale
            parts |= {f"{name}.weight": scale, f"{name}.bias": shift}
        rows.append(frozen.space.join(parts))
    return frozen, torch.stack(rows)


@method("training rule", paper=_PAPER, name="nested-co-teaching")
@dataclass(frozen=True)
class NestedCoTeaching(Rule):
    """Fine-tunes pairs of compressed networks, each half of a batch filtered by one and taught to the other.

    Net 1 ranks the first half of each batch and net 2 the second, without dropout and at the prefix k* of the last
    validation (all features where the network has no prefix mask). Net 1 trains on what net 2 kept, and the reverse,
    both with one draw of the prefix. Norms that `freeze_norms` froze stay as they are.

    Args:
        forget: share of each half that is left out.
    """

    together: ClassVar[int] = 2
    one_draw: ClassVar[bool] = True
    forget: float = 0.2

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """Refuse rates outside [0, 1), a task without validation data, and norms that would go on learning."""
        if not 0 <= self.forget < 1:
            raise InputError(f"forget is the share of each batch that is left out, in [0, 1); got {self.forget:g}")
        if task.objective is not CLASSIFICATION:
            raise InputError(f"nested co-teaching ranks by class predictions; {task.name!r} is {task.objective.name}")
        if task.validation is None and _masked(task):
            raise InputError("nested co-teaching chooses prefixes on clean validation data, and the task has none")
        if task.space.batch_norms:
            raise InputError("stage two wants frozen batch norms; pass what freeze_norms(task, run.theta) gives")

    def start(self, now: Moment) -> dict[str, Tensor]:
        return {"length": self._lengths(now), "frozen": now.theta[:, _frozen(now.task)].clone()}

    def end_epoch(self, now: Moment) -> None:
        now.state["length"] = self._lengths(now)

    def choose(self, now: Moment, batch: Batch) -> Choice:
        half = batch.index.shape[1] // 2
        losses = self._losses(now, batch)  # (K, B)
        keep = max(1, int((1 - self.forget) * half))
        first = losses[0::2, :half].argsort(dim=1, stable=True)[:, :keep]  # what net 1 keeps of the first half
        second = losses[1::2, half : 2 * half].argsort(dim=1, stable=True)[:, :keep] + half
        return Choice(torch.stack([second, first], 1).flatten(0, 1))  # each is taught what the other kept

    def after_step(self, now: Moment, z: Tensor) -> None:
        if now.state["frozen"].numel():
            z[:, _frozen(now.task)] = now.state["frozen"]

    def _losses(self, now: Moment, batch: Batch) -> Tensor:
        if not _masked(now.task):
            return cross_entropies(batch.outputs(train=False), batch.targets)
        space, rows = now.task.space, zip(now.theta, batch.inputs, now.state["length"], strict=True)
        with torch.no_grad():
            outputs = [space.apply(t, x, _with_length(now.task, t, k)) for t, x, k in rows]
        return cross_entropies(torch.stack(outputs), batch.targets)

    def _lengths(self, now: Moment) -> Tensor:
        if not _masked(now.task):
            return torch.zeros(len(now.seeds))
        return best_prefix(now.task, now.theta).length.float()


def _masked(task: Task) -> bool:
    return any(isinstance(m, PrefixMask) for m in task.space.module.modules())


def _frozen(task: Task) -> Tensor:
    """(P,) bool: weights of frozen norms."""
    frozen = torch.zeros(task.space.size, dtype=torch.bool)
    for block in task.space.blocks:
        frozen[block.slice] = isinstance(task.space.module.get_submodule(block.layer), FrozenNorm)
    return frozen
