"""RHO-LOSS: train on what is learnable, worth learning and not yet learnt (Mindermann et al. 2022, arXiv 2206.07137).

    rho_i = L[y_i | x_i; D_t] - L[y_i | x_i; D_holdout]

The first term is the loss of the network that is being trained; the second, the irreducible loss, is that of a network
trained on held-out data only. Noise has both high and redundant examples have both low, so neither is chosen. It
approximates the gain in held-out log-likelihood from training on the example.

    task, holdout = held_apart(load("digits"))
    run = fit(task, rule=RhoLoss(irreducible_losses(task, holdout).mean(0)))
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from surplus.data import Dataset
from surplus.errors import InputError
from surplus.examples.rules.batch_choice import BatchChoice, cross_entropies, highest
from surplus.registry import method
from surplus.space import generator, seed_for, seeded
from surplus.tasks import Recipe, Task
from surplus.training import Batch, Choice, Moment, Run, Store, fit, predict
from surplus.training.optim import OPTIMISERS

_PAPER = "Mindermann et al. 2022, arXiv 2206.07137"


def reducible_losses(losses: Tensor, irreducible: Tensor) -> Tensor:
    """Reducible losses rho = L - IL, element by element; negative values are usual."""
    return losses - irreducible


@dataclass(frozen=True)
class _Irreducible(BatchChoice):
    """Knows the irreducible losses: (n,), or (K, n) for each replica its own."""

    per_replica: ClassVar[tuple[str, ...]] = ("irreducible",)
    irreducible: Tensor | None = None

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        super().check(task, recipe, replicas)
        n, given = len(task.train), self.irreducible
        if given is not None and tuple(given.shape) not in {(n,), (replicas, n)}:
            raise InputError(
                f"irreducible losses have shape {tuple(given.shape)}; {n} training examples need ({n},),"
                f" or ({replicas}, {n}) with a row per replica"
            )
        if given is not None and not bool(given.isfinite().all()):
            raise InputError("irreducible losses must be finite: one per training example, in the order of the data")

    def of(self, batch: Batch) -> Tensor:
        """(K, B)."""
        assert self.irreducible is not None
        return self.irreducible.expand(len(batch.index), -1).gather(1, batch.index)


@method("training rule", paper=_PAPER, name="lowest-irreducible-loss")
@dataclass(frozen=True)
class LowestIrreducibleLoss(_Irreducible):
    """Trains on the examples of each batch that have the lowest irreducible loss: a baseline of RHO-LOSS."""

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        super().check(task, recipe, replicas)
        if self.irreducible is None:
            raise InputError("give the irreducible losses (n,), as `irreducible_losses` computes them")

    def rank(self, now: Moment, batch: Batch) -> Tensor:
        return -self.of(batch)


@method("training rule", paper=_PAPER, name="rho-loss")
@dataclass(frozen=True)
class RhoLoss(_Irreducible):
    """Trains on the examples of each batch whose loss most exceeds their irreducible loss.

    Args:
        share: of the large batch that is trained on; the paper's is 0.1 of 320.
        train_mode: rank by the forward pass of training (batch statistics, dropout), the authors' default.
        irreducible: losses (n,) or (K, n) of held-out-trained networks, from `irreducible_losses`.
        reference: instead of them, the held-out-trained weights (P,) or (K, P), of the same network: their losses are
            then taken on the augmented batch itself.
        update: train the reference on the chosen examples, too (the derivation's D_t, which the method drops).
        temperature: draw in proportion to exp(rho / temperature), with replacement, instead of taking the highest.
    """

    per_replica: ClassVar[tuple[str, ...]] = ("irreducible", "reference")
    reference: Tensor | None = None
    update: bool = False
    temperature: float | None = None

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        super().check(task, recipe, replicas)
        if (self.irreducible is None) == (self.reference is None):
            raise InputError("RHO-LOSS needs one of irreducible= (losses) and reference= (weights)")
        p = task.space.size
        if self.reference is not None and tuple(self.reference.shape) not in {(p,), (replicas, p)}:
            raise InputError(f"reference has shape {tuple(self.reference.shape)}; expected ({p},) or ({replicas}, {p})")
        if self.update and self.reference is None:
            raise InputError("update=True trains the reference network; give reference=")
        if self.temperature is not None and self.temperature <= 0:
            raise InputError(f"temperature is above 0; got {self.temperature:g}")

    def start(self, now: Moment) -> dict[str, Tensor]:
        if self.reference is None:
            return {}
        reference = self.reference.to(now.theta).expand_as(now.theta).clone()
        optimiser = OPTIMISERS[now.recipe.optimiser](now.recipe, reference, now.task.space.blocks)
        return {"reference": reference, "updates": torch.zeros(()), **(optimiser.state if self.update else {})}

    def rank(self, now: Moment, batch: Batch) -> Tensor:
        return reducible_losses(self.losses(now, batch), self._irreducible(now, batch))

    def choose(self, now: Moment, batch: Batch) -> Choice:
        rho = self.rank(now, batch)
        t = self.temperature
        columns = highest(rho, self.share) if t is None else self._drawn(now, rho, t)
        if self.update:
            self._teach(now, batch.take(columns))
        return Choice(columns)

    def _irreducible(self, now: Moment, batch: Batch) -> Tensor:
        if self.reference is None:
            return self.of(batch)
        space = now.task.space
        with torch.no_grad():
            rows = zip(now.state["reference"], batch.inputs, strict=True)
            outputs = torch.stack([space.apply(t, x, space.statistics(t, [x])) for t, x in rows])
        return cross_entropies(outputs.float(), batch.targets)

    def _drawn(self, now: Moment, rho: Tensor, temperature: float) -> Tensor:
        count = max(1, int(self.share * rho.shape[1]))
        rows = zip(now.seeds, (rho / temperature).softmax(1).nan_to_num(1.0).cpu(), strict=True)
        draws = [p.multinomial(count, True, generator=generator(seed, "rho", now.step)) for seed, p in rows]
        return torch.stack(draws).to(rho.device)

    def _teach(self, now: Moment, batch: Batch) -> None:
        """One step of the reference on the chosen examples, by the recipe's optimiser at the current rate."""
        reference = now.state["reference"].requires_grad_()
        with seeded(seed_for(now.seeds[0], "reference", now.step)):  # stacks of several have no dropout
            outputs = now.task.space.apply_each(reference, batch.inputs, train=True)
        (grad,) = torch.autograd.grad(cross_entropies(outputs, batch.targets).mean(1).sum(), reference)
        reference = reference.detach()
        optimiser = OPTIMISERS[now.recipe.optimiser](now.recipe, reference, now.task.space.blocks)
        optimiser.state = {k: now.state[k] for k in optimiser.state}
        now.state["updates"] += 1
        optimiser.step(reference, grad, now.lr, int(now.state["updates"]))
        now.state["reference"] = reference


def held_apart(task: Task, share: float = 0.5, seed: int = 0) -> tuple[Task, Dataset]:
    """The task on part of its training examples, and the others as the holdout that irreducible losses learn from.

    Args:
        task: data, network and recipe.
        share: of the training examples that go to the holdout, in (0, 1).
        seed: of the split.

    Raises:
        InputError: a share that leaves one side empty.
    """
    n = len(task.train)
    count = round(share * n)
    if not 0 < count < n:
        raise InputError(f"share is the part of {n} training examples to hold out, in (0, 1); got {share:g}")
    order = torch.randperm(n, generator=generator(seed, "holdout"))
    rows = order[count:].sort().values, order[:count].sort().values
    return replace(task, train=task.train[rows[0]]), task.train[rows[1]]


def irreducible_losses(
    task: Task, holdout: Dataset, *, seeds: int | list[int] = 1, device: str = "cpu", store: Store | None = None
) -> Tensor:
    """Losses of networks that were trained on the holdout, at the epoch where the training examples' loss is lowest.

    Args:
        task: its training examples are scored; its network and recipe serve the networks of the holdout, too (replace
            them with smaller ones if wished: `dataclasses.replace(task, network=...)`).
        holdout: examples that the training set does not hold.
        seeds: of the networks.
        device: where they train.
        store: where runs are kept.

    Returns:
        (seeds, n) in evaluation mode, without augmentation.
    """
    teacher = replace(task, train=holdout, validation=None)
    ends = _epoch_ends(teacher)
    run = fit(teacher, seeds=seeds, keep=ends, device=device, store=store)
    return _best(run, ends, teacher, task.train, task.train)


def double_irreducible_losses(
    task: Task, *, seeds: int | list[int] = 1, device: str = "cpu", store: Store | None = None
) -> Tensor:
    """Irreducible losses without a holdout: each half of the training examples under networks trained on the other.

    Checkpoints are chosen on the validation set, as there is no example that neither network has seen otherwise.

    Returns:
        (seeds, n).

    Raises:
        InputError: the task has no validation set.
    """
    if task.validation is None:
        raise InputError(
            "checkpoints of the two halves are chosen on a validation set, and the task has none; give one"
        )
    n, listed = len(task.train), list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    rows = []
    for seed in listed:
        order = torch.randperm(n, generator=generator(seed, "halves"))
        halves = order[: n // 2].sort().values, order[n // 2 :].sort().values
        losses = torch.empty(n)
        for own, other in (halves, halves[::-1]):
            half = replace(task, train=task.train[other])
            ends = _epoch_ends(half)
            run = fit(half, seeds=[seed], keep=ends, device=device, store=store)
            losses[own] = _best(run, ends, half, task.validation, task.train[own])[0]
        rows.append(losses)
    return torch.stack(rows)


def _epoch_ends(task: Task) -> list[int]:
    """The steps that end an epoch."""
    per_epoch = -(-len(task.train) // task.recipe.batch_size)
    total = task.recipe.duration.steps(per_epoch)
    return [*range(per_epoch, total, per_epoch), total]


def _best(run: Run, steps: list[int], teacher: Task, judge: Dataset, scored: Dataset) -> Tensor:
    """(K, n) losses on `scored` at each network's step of lowest mean loss on `judge`."""
    best, lowest = run.at(steps[0]), torch.full((len(run),), torch.inf)
    for step in steps:
        thetas = run.at(step)
        mean = _losses(teacher, thetas, judge).mean(1)
        better = mean < lowest
        best, lowest = torch.where(better[:, None], thetas, best), torch.where(better, mean, lowest)
    return _losses(teacher, best, scored)


def _losses(task: Task, thetas: Tensor, data: Dataset) -> Tensor:
    outputs = predict(task, thetas, data)
    return cross_entropies(outputs, data.targets.to(outputs.device).expand(len(thetas), -1)).cpu()
