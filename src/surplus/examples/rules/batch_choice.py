"""Online batch selection: draw a large batch, train on the examples of it that rank highest.

    of B examples keep the b = max(1, int(share B)) of highest rank;    recipe.batch_size is B

The interface that Mindermann et al. 2022 (arXiv 2206.07137) compare their rule in, with its baselines: uniform choice,
highest loss, largest gradient-norm bound || p - y || (Katharopoulos & Fleuret 2018, arXiv 1803.00942) and importance
sampling by it, and the acquisition functions of active learning over passes with dropout. In a loop of your own,
`ChosenBatches` is a batch sampler that asks a function of yours for the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import Sampler

from surplus.errors import InputError
from surplus.registry import method
from surplus.space import generator
from surplus.tasks import CLASSIFICATION, Recipe, Task
from surplus.training import Batch, Choice, Moment, Rule

_PAPER = "Mindermann et al. 2022, arXiv 2206.07137"


@dataclass(frozen=True)
class BatchChoice(Rule):
    """Base: keeps the examples of highest rank.

    Args:
        share: of the large batch that is trained on, in (0, 1].
        train_mode: rank by the forward pass of training, with dropout; without it otherwise.
    """

    share: float = 0.1
    train_mode: bool = True

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """Refuse shares outside (0, 1] and tasks without classes."""
        if not 0 < self.share <= 1:
            raise InputError(f"share is the part of each batch that is trained on, in (0, 1]; got {self.share:g}")
        if task.objective is not CLASSIFICATION:
            raise InputError(
                f"{type(self).__name__} ranks by class predictions; {task.name!r} is {task.objective.name}"
            )

    def rank(self, now: Moment, batch: Batch) -> Tensor:
        """(K, B): high ranks are trained on."""
        raise NotImplementedError

    def choose(self, now: Moment, batch: Batch) -> Choice:
        return Choice(highest(self.rank(now, batch), self.share))

    def losses(self, now: Moment, batch: Batch) -> Tensor:
        """(K, B) current losses."""
        return cross_entropies(batch.outputs(self.train_mode), batch.targets)


def highest(ranks: Tensor, share: float) -> Tensor:
    """Places (K, b) of the b = max(1, int(share B)) highest of ranks (K, B), highest first; ties to the first place."""
    return ranks.argsort(dim=1, descending=True, stable=True)[:, : max(1, int(share * ranks.shape[1]))]


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """(K, B, classes), (K, B) -> (K, B)."""
    return -logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _draws(now: Moment, shape: torch.Size) -> Tensor:
    """Uniform numbers (K, B), each replica from its own seed."""
    rows = [torch.rand(shape[1], generator=generator(s, "choice", now.step)) for s in now.seeds]
    return torch.stack(rows).to(now.theta.device)


@method("training rule", paper=_PAPER, name="uniform-choice")
@dataclass(frozen=True)
class UniformChoice(BatchChoice):
    """Trains on a uniform part of each batch."""

    def rank(self, now: Moment, batch: Batch) -> Tensor:
        return _draws(now, batch.index.shape)


@method("training rule", paper="Loshchilov & Hutter 2015, arXiv 1511.06343", name="highest-loss")
@dataclass(frozen=True)
class HighestLoss(BatchChoice):
    """Trains on the examples of each batch that have the highest loss."""

    def rank(self, now: Moment, batch: Batch) -> Tensor:
        return self.losses(now, batch)


@method("training rule", paper="Katharopoulos & Fleuret 2018, arXiv 1803.00942", name="gradient-norm")
@dataclass(frozen=True)
class GradientNorm(BatchChoice):
    """Trains on the examples of each batch whose gradient with respect to the logits, p - y, is longest."""

    def rank(self, now: Moment, batch: Batch) -> Tensor:
        p = batch.outputs(self.train_mode).softmax(-1)
        return (p - one_hot(batch.targets, p.shape[-1])).norm(dim=-1)


@method("training rule", paper="Katharopoulos & Fleuret 2018, arXiv 1803.00942", name="gradient-norm-sampling")
@dataclass(frozen=True)
class GradientNormSampling(GradientNorm):
    """Draws examples in proportion to || p - y ||, with replacement, weighed so that the gradient is unbiased."""

    def choose(self, now: Moment, batch: Batch) -> Choice:
        q = self.rank(now, batch) + 1e-12
        q = q / q.sum(1, keepdim=True)  # (K, B)
        count = max(1, int(self.share * q.shape[1]))
        points = torch.sort(_draws(now, torch.Size([len(q), count]))).values * (1 - 1e-6)
        columns = torch.searchsorted(q.cumsum(1), points).clamp(max=q.shape[1] - 1)
        return Choice(columns, 1 / (q.shape[1] * q.gather(1, columns)))


@dataclass(frozen=True)
class _Dropout(BatchChoice):
    """Ranks by the predictions (T, K, B, classes) of T passes with dropout."""

    passes: int = 10

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        super().check(task, recipe, replicas)
        if not task.space.has_dropout:
            raise InputError(f"{type(self).__name__} compares passes with dropout, and {task.network.name} has none")

    def log_p(self, batch: Batch) -> Tensor:
        """(T, K, B, classes)."""
        return torch.stack([batch.outputs(draw=t + 1) for t in range(self.passes)]).log_softmax(-1)


def entropy_of_mean(log_p: Tensor) -> Tensor:
    """H(mean_t p_t), (T, ..., classes) -> (...)."""
    mean = log_p.logsumexp(0) - torch.tensor(len(log_p)).log().to(log_p)
    return -(mean.exp() * mean).sum(-1)


def mean_entropy(log_p: Tensor) -> Tensor:
    """mean_t H(p_t), (T, ..., classes) -> (...)."""
    return -(log_p.exp() * log_p).sum(-1).mean(0)


@method("training rule", paper="Houlsby et al. 2011, arXiv 1112.5745", name="bald-choice")
@dataclass(frozen=True)
class BaldChoice(_Dropout):
    """Trains on the examples on which passes with dropout disagree: H(mean p) - mean H(p)."""

    def rank(self, now: Moment, batch: Batch) -> Tensor:
        log_p = self.log_p(batch)
        return entropy_of_mean(log_p) - mean_entropy(log_p)


@method("training rule", paper=_PAPER, name="predictive-entropy-choice")
@dataclass(frozen=True)
class PredictiveEntropyChoice(_Dropout):
    """Trains on the examples of highest predictive entropy, H(mean p) over passes with dropout."""

    def rank(self, now: Moment, batch: Batch) -> Tensor:
        return entropy_of_mean(self.log_p(batch))


@method("training rule", paper=_PAPER, name="conditional-entropy-choice")
@dataclass(frozen=True)
class ConditionalEntropyChoice(_Dropout):
    """Trains on the examples of highest conditional entropy, mean H(p) over passes with dropout."""

    def rank(self, now: Moment, batch: Batch) -> Tensor:
        return mean_entropy(self.log_p(batch))


@method("training rule", paper=_PAPER, name="loss-minus-entropy-choice")
@dataclass(frozen=True)
class LossMinusEntropyChoice(_Dropout):
    """Trains on the examples whose loss most exceeds the conditional entropy over passes with dropout."""

    def rank(self, now: Moment, batch: Batch) -> Tensor:
        log_p = self.log_p(batch)
        mean = log_p.logsumexp(0) - torch.tensor(len(log_p)).log().to(log_p)
        loss = -mean.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
        return loss - mean_entropy(log_p)


class ChosenBatches(Sampler[list[int]]):
    """Batch sampler for a loop of your own: of each large batch, the indices that your function ranks highest.

        batches = ChosenBatches(len(data), rank, large=320, share=0.1, seed=0)
        for x, y in DataLoader(data, batch_sampler=batches): ...

    Args:
        n: examples in the data set.
        rank: indices (B,) -> ranks (B,), asked just before the batch is used; RHO-LOSS is
            `lambda i: losses_now(i) - irreducible[i]`. Loaders with workers ask ahead of time: use num_workers=0.
        large: examples in a large batch.
        share: of it that is used.
        seed: of the order, which is new in each epoch.
    """

    def __init__(
        self, n: int, rank: Callable[[Tensor], Tensor], *, large: int = 320, share: float = 0.1, seed: int = 0
    ) -> None:
        if n < 1 or large < 1 or not 0 < share <= 1:
            raise InputError(
                f"n and large are at least 1 and share is in (0, 1]; got n={n}, large={large}, share={share}"
            )
        self.n, self.rank, self.large, self.share, self.seed, self.epoch = n, rank, large, share, seed, 0

    def __len__(self) -> int:
        return -(-self.n // self.large)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.n, generator=generator(self.seed, "order", self.epoch))
        self.epoch += 1
        for index in order.tensor_split(len(self)):
            ranks = torch.as_tensor(self.rank(index))
            if ranks.shape != index.shape:
                raise InputError(f"rank gave shape {tuple(ranks.shape)} for {len(index)} indices; give one number each")
            yield index[highest(ranks[None].cpu(), self.share)[0]].tolist()
