"""The one training loop: K replicas, each with its own seed, subset, order and coordinates, from start to end.

    theta = r(z);  g = d loss / d theta on each replica's own batch;  z <- optimiser(z, r'(z)^T g)

Everything random is drawn from (seed, purpose, epoch), and everything that carries over between steps is in the
checkpoint, so an interrupted run ends with the very weights of an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from surplus.data import Dataset
from surplus.errors import InputError, unknown
from surplus.reparam import Identity, Mask, Reparametrisation, stack
from surplus.space import generator
from surplus.space.per_example import per_example_grads
from surplus.tasks import Augment, Recipe, Task
from surplus.training.augment import augment, draw
from surplus.training.compact import Compact, Rest, agrees, compact
from surplus.training.engine import Engine, engine_for
from surplus.training.observers import Observer, Step
from surplus.training.optim import OPTIMISERS, Optimiser, clip_per_replica, learning_rate
from surplus.training.record import ExampleRecord
from surplus.training.rules import Batch, Choice, Moment, Rule
from surplus.training.sparse import Kept, SparseChain, kept_only
from surplus.training.store import Entry

_PREPARED_BYTES = 2**28
"""Inputs are prepared once rather than batch by batch where all of them stay below this."""
CHECKPOINT_SECONDS = 5.0
"""Least time between checkpoints; longer where writing one takes more than a twentieth of it."""


@dataclass(frozen=True)
class Plan:
    """All that one stack of replicas needs; its lists have one item per replica, and its subsets one size."""

    task: Task
    recipe: Recipe
    seeds: tuple[int, ...]
    subsets: tuple[Tensor, ...] | None
    """Which training examples each replica sees, as positions; all when None."""
    coordinates: tuple[Reparametrisation, ...]
    start_step: int = 0
    record: bool = False
    keep: tuple[int, ...] = ()
    """Steps whose weights are kept."""
    curve: int | None = None
    """Every so many steps the test metric is noted."""
    device: str = "cpu"
    threads: int = 1
    stacked: bool = False
    """All replicas in one program rather than one after another."""
    rule: Rule | None = None
    observers: tuple[Observer, ...] = field(default=())

    @property
    def examples(self) -> int:
        return len(self.subsets[0]) if self.subsets else len(self.task.train)

    @cached_property
    def steps_per_epoch(self) -> int:
        return -(-self.examples // self.recipe.batch_size)

    @cached_property
    def total(self) -> int:
        return self.recipe.duration.steps(self.steps_per_epoch)

    def _kept(self) -> Kept | None:
        return kept_only(self.task.space, self.coordinates, self.task.objective, self.recipe)

    def compact(self) -> Compact | Kept | None:
        """Fewer coordinates for masked networks; a rule and observers want to see all of them."""
        if self.rule or self.observers:
            return None
        if self.device == "cpu" and (few := self._kept()) is not None:
            return few
        found = compact(self.task.space, self.coordinates, self.recipe.optimiser)
        if found is None:
            return None
        first, examples = self.coordinates[0], self.task.prepare(self.task.train.inputs[:4])
        return found if isinstance(first, Mask) and agrees(found, self.task.space, first.mask, examples) else None


@dataclass(frozen=True)
class Taught:
    """What one step learnt from."""

    batch: Batch
    outputs: Tensor
    """(K, B, ...)."""
    losses: Tensor
    """(K, B)."""
    grad: Tensor
    """(K, P)."""
    weights: Tensor | None = None
    """(K, B); None where all examples counted the same."""


class Loop:
    """The state of training, and how it moves."""

    def __init__(self, plan: Plan, entry: Entry) -> None:
        self.plan, self.entry, self.recipe = plan, entry, plan.recipe
        self.device = torch.device(plan.device)
        self.data = plan.task.train.to(self.device)
        self.task = plan.task.to(self.device)
        self.reparam = stack(plan.coordinates).to(self.device)
        self.step = plan.start_step
        self.rest: Rest | None = None
        self.compact = self._compact()
        """Fewer coordinates of masked networks, where that saves much."""
        self.space = self.compact.space if self.compact else plan.task.space
        self.z = self.reparam.start().to(self.device).clone()
        self.optimiser = self._optimiser(self.z)
        self.history: list[Tensor] = []
        self.curve: list[Tensor] = []
        """(1 + K,) each: a step, and the test metric of every replica after it."""
        self.running = torch.zeros(len(plan.seeds), device=self.device)
        self.diverged_at = torch.full((len(plan.seeds),), -1, dtype=torch.int64)
        self.best: dict[str, Tensor] = {}
        self.stopped = False
        self.random = any(c.draw([generator(0)]) is not None for c in plan.coordinates)
        self.record = self._recorder() if plan.record else None
        self._epoch = -1
        self.rule = plan.rule.to(self.device) if plan.rule else Rule()
        self.memory: dict[str, Tensor] = {}
        """What the rule remembers."""
        parts = torch.arange(plan.examples).tensor_split(plan.steps_per_epoch)  # batches of nearly equal size
        self._bounds = [0, *(int(p[-1]) + 1 for p in parts)]

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> Tensor:
        """Train to the end, from the last checkpoint if there is one; returns theta (K, P)."""
        self._resume()
        if self.step == self.plan.start_step:
            self._keep(self.step)
        self.engine = self._engine()
        if self.plan.rule and not self.memory:
            self.memory = self.rule.start(self._now(self.step // self.plan.steps_per_epoch, self.recipe.lr, self.theta))
        due = time.monotonic() + CHECKPOINT_SECONDS
        while self.step < self.plan.total and not self._finished():
            self._update()
            if (began := time.monotonic()) > due:
                self.entry.write_checkpoint(self._state())
                took = time.monotonic() - began
                due = began + took + max(CHECKPOINT_SECONDS, 20 * took)
        if self.record is not None:
            self.record.flush()
        return self._final()

    def _update(self) -> None:
        epoch, i = divmod(self.step, self.plan.steps_per_epoch)
        if epoch != self._epoch:
            self._begin_epoch(epoch)
        lr = self._rate(self.step)
        drawn = self._drawn()
        theta = self._at(drawn)
        batch = self._batch(self.order[:, self._bounds[i] : self._bounds[i + 1]], theta)
        if self.plan.rule:
            taught = self._taught(batch, self._now(epoch, lr, theta))
        else:
            x = self.compact.inputs(batch.inputs) if isinstance(self.compact, Compact) else batch.inputs
            taught = Taught(batch, *self.engine(theta, x, batch.targets, self.step))
        grad = self._pulled(taught.grad, drawn)
        if self.recipe.clip is not None:
            grad = clip_per_replica(grad, self.recipe.clip)
        if self.plan.rule:
            grad = self.rule.gradient(self._now(epoch, lr, theta), self.z, grad)
        self.optimiser.step(self.z, grad, lr, self.step - self.plan.start_step + 1)
        if self.plan.rule:
            self.rule.after_step(self._now(epoch, lr, theta), self.z)
        self.step += 1
        self.running += taught.losses.mean(1)
        last = i + 1 == self.plan.steps_per_epoch
        index, targets = taught.batch.index, taught.batch.targets
        event = Step(
            self.step, self.plan.total, epoch, last, theta, index, taught.outputs, targets, taught.losses, lr,
            taught.weights,
        )  # fmt: skip
        self._observe(event)
        if self.plan.rule and last:
            now = self._now(epoch, lr, self.theta)
            self.rule.end_epoch(now)
            self.stopped = self.rule.finished(now)

    def _at(self, drawn: Tensor | None) -> Tensor:
        """r(z), where the next gradient is taken."""
        if isinstance(self.reparam, Mask | Identity):
            return self.z  # 0 outside the mask from its start on, so the product changes nothing
        return self.reparam.to_theta(self.z, drawn)

    def _pulled(self, grad: Tensor, drawn: Tensor | None) -> Tensor:
        """The gradient (K, d) in the coordinates; overwrites the one that it is given."""
        if isinstance(self.reparam, Mask):
            return grad.mul_(self.reparam.keep)
        return self.reparam.pullback(self.z, grad, drawn)

    def _drawn(self) -> Tensor | None:
        """What the coordinates of each replica draw at this step, each from its own seed; None where nothing is."""
        if not self.random:
            return None
        return self.reparam.draw([generator(seed, "coordinates", self.step) for seed in self.plan.seeds])

    def _batch(self, index: Tensor, theta: Tensor) -> Batch:
        """The examples (K, B), augmented and normalised."""
        targets, forward = self.data.targets[index], partial(self._forward, theta)
        if self.prepared is not None:
            return Batch(index, self.prepared[index], targets, forward)
        x = self.data.inputs[index]  # (K, B, ...)
        if self.draws is not None:
            x = augment(x, self.recipe.augment, self.draws, index)
        return Batch(index, self.task.prepare(x), targets, forward)

    @cached_property
    def prepared(self) -> Tensor | None:
        """All inputs as the network gets them, where they stay as they are, are seen again, and take little memory."""
        augmented = self.data.kind == "image" and self.recipe.augment != Augment()
        again = self.plan.total - self.plan.start_step > self.plan.steps_per_epoch
        small = self.data.inputs.numel() * torch.finfo(self.space.dtype).bits // 8 <= _PREPARED_BYTES
        return None if augmented or not again or not small else self.task.prepare(self.data.inputs)

    def _forward(self, theta: Tensor, x: Tensor, train: bool, draw: int) -> Tensor:
        """Outputs (K, B, ...) without gradient: as in training, or without dropout."""
        if train:
            return self.engine.outputs(theta, x, self.step, draw)
        space = self.task.space
        rows = [space.apply(t, i, space.statistics(t, [i])) for t, i in zip(theta, x, strict=True)]
        return torch.stack(rows)

    def _taught(self, batch: Batch, now: Moment) -> Taught:
        """One batch under the rule: what is chosen of it, how it weighs, and how its gradients are joined."""
        choice = self.rule.choose(now, batch)
        self._check_choice(choice, batch)
        weights = None if choice is None else choice.weights
        batch = batch if choice is None else batch.take(choice.columns)
        m = self.rule.parts(batch.index.shape[1])
        if m > 1:
            return self._in_parts(batch, now, m)

        def weigh(losses: Tensor) -> Tensor | None:
            nonlocal weights
            weights = weights if weights is not None else self.rule.weigh(now, batch, losses)
            if weights is not None and weights.shape != losses.shape:
                raise InputError(
                    f"{type(self.rule).__name__} gave weights of shape {tuple(weights.shape)};"
                    f" expected is one per replica and example, {tuple(losses.shape)}"
                )
            return weights

        def loss(outputs: Tensor) -> Tensor | None:
            return self.rule.loss(now, batch, outputs)

        outputs, losses, grad = self.engine(now.theta, batch.inputs, batch.targets, self.step, weigh, loss)
        return Taught(batch, self.rule.answers(outputs), losses, grad, weights)

    def _check_choice(self, choice: Choice | None, batch: Batch) -> None:
        """Refuse a choice, or microbatches, that the network cannot be trained on."""
        name, (k, b) = type(self.rule).__name__, batch.index.shape
        if choice is not None:
            c = choice.columns
            if c.dim() != 2 or len(c) != k or not c.shape[1] or c.dtype != torch.int64:
                raise InputError(
                    f"{name} chose columns of shape {tuple(c.shape)} and type {c.dtype} from a batch of {b}; expected"
                    f" are whole numbers of shape ({k}, at least 1)"
                )
            b = c.shape[1]
        m = max(1, self.rule.parts(b))
        if m > b:
            raise InputError(f"{name} cuts batches into {m} parts, and one has {b} examples; enlarge batch_size")
        if self.task.space.batch_norms and b // m < 2:
            raise InputError(
                f"{name} trains on one example at a time here, which batch normalisation cannot; enlarge batch_size, or"
                " the share that is chosen"
            )

    def _in_parts(self, batch: Batch, now: Moment, m: int) -> Taught:
        """A gradient for each of m microbatches of one size, joined by the rule."""
        if m == batch.index.shape[1]:
            return self._each_alone(batch, now)
        each = batch.index.shape[1] // m
        columns = torch.arange(m * each, device=self.device).expand(len(now.seeds), -1)
        batch = batch.take(columns)
        cuts = zip(batch.inputs.split(each, 1), batch.targets.split(each, 1), strict=True)
        outputs, losses, grads = zip(*(self.engine(now.theta, x, y, self.step) for x, y in cuts), strict=True)
        joined = self.rule.combine(now, torch.stack(grads, 1))
        return Taught(batch, torch.cat(outputs, 1), torch.cat(losses, 1), joined)

    def _each_alone(self, batch: Batch, now: Moment) -> Taught:
        """A gradient for every example."""

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            return self.task.objective.loss(outputs, targets, self.recipe.label_smoothing)

        space, outputs = self.task.space, batch.outputs()
        rows = zip(now.theta, batch.inputs, batch.targets, strict=True)
        grads = torch.stack([per_example_grads(space, t, x, y, loss) for t, x, y in rows])  # (K, B, P)
        losses = loss(outputs.flatten(0, 1), batch.targets.flatten(0, 1)).view(batch.index.shape)
        return Taught(batch, outputs, losses, self.rule.combine(now, grads))

    def _now(self, epoch: int, lr: float, theta: Tensor) -> Moment:
        p = self.plan
        return Moment(
            self.task, self.recipe, p.seeds, self.step, p.total, epoch, p.steps_per_epoch, lr, theta, self.memory
        )

    @cached_property
    def leaders(self) -> list[int]:
        """For each replica the seed that orders its examples: its own, or that of the first of its group."""
        g = self.rule.together
        return [self.plan.seeds[k - k % g] for k in range(len(self.plan.seeds))]

    def _observe(self, event: Step) -> None:
        if self.record is not None:
            trained = None if event.weights is None else event.weights != 0
            self.record.update(event.index, event.outputs, event.targets, trained)
            if event.last_of_epoch or event.step == event.total:
                self.record.end_epoch()
        self._keep(event.step)
        if self.plan.curve and (event.step % self.plan.curve == 0 or event.step == event.total):
            self._note()
        if self.plan.observers:
            event = Step(**{**event.__dict__, "theta": self.theta})
            for observer in self.plan.observers:
                observer.on_step(event)
        if event.last_of_epoch or event.step == event.total:
            self._end_epoch(event.epoch, event.lr, event.step)

    def _keep(self, step: int) -> None:
        if step in self.plan.keep:
            self.entry.write_tensors(f"trajectory/{step:08d}.safetensors", {"theta": self.theta})

    def _note(self) -> None:
        from surplus.training.predict import evaluate

        metric = evaluate(self.task, self.theta, self.task.test).metric.cpu()
        self.curve.append(torch.cat([torch.tensor([float(self.step)]), metric]))

    def _begin_epoch(self, epoch: int) -> None:
        """Each replica's order and augmentation for this epoch, drawn from its own seed."""
        plan = self.plan
        orders = []
        for k, seed in enumerate(self.leaders):
            order = torch.randperm(plan.examples, generator=generator(seed, "order", epoch))
            orders.append(plan.subsets[k][order] if plan.subsets else order)
        self.order = torch.stack(orders).to(self.device)
        image = self.data.kind == "image"
        self.draws = (
            draw(self.recipe.augment, self.leaders, epoch, self.data.shape, len(self.data), self.device)
            if image
            else None
        )
        self._epoch = epoch

    def _end_epoch(self, epoch: int, lr: float, step: int) -> None:
        batches = step - max(epoch * self.plan.steps_per_epoch, self.plan.start_step)
        loss = (self.running / max(batches, 1)).cpu()
        self.running.zero_()
        lost = ~loss.isfinite() & (self.diverged_at < 0)
        self.diverged_at[lost] = step
        validation = self._validate() if self.recipe.patience else torch.full_like(loss, torch.nan)
        self.history.append(
            torch.stack(
                [torch.full_like(loss, epoch), torch.full_like(loss, step), torch.full_like(loss, lr), loss, validation]
            )
        )

    def _validate(self) -> Tensor:
        """Validation loss (K,), with the best point of each replica kept until its patience ends."""
        from surplus.training.predict import evaluate

        assert self.recipe.patience and self.task.validation is not None
        loss = evaluate(self.task, self.theta, self.task.validation).loss.cpu()
        if not self.best:
            self.best = {
                "loss": torch.full_like(loss, torch.inf),
                "waited": torch.zeros(len(loss)),
                "theta": self.theta.clone(),
            }
        active = self.best["waited"] < self.recipe.patience
        better = active & (loss < self.best["loss"])
        self.best["theta"][better] = self.theta[better]
        self.best["loss"] = torch.where(better, loss, self.best["loss"])
        self.best["waited"] = torch.where(better, 0, self.best["waited"] + active)
        return loss

    def _finished(self) -> bool:
        """Every replica has diverged, or waited out its patience, or the rule says so."""
        if self.stopped:
            return True
        stopped = (
            self.best["waited"] >= self.recipe.patience
            if self.best and self.recipe.patience
            else torch.zeros(len(self.plan.seeds), dtype=torch.bool)
        )
        return bool((stopped | (self.diverged_at >= 0)).all())

    @property
    def theta(self) -> Tensor:
        """(K, P) now."""
        with torch.no_grad():
            theta = self.reparam.to_theta(self.z)
            if self.compact is None or self.rest is None:
                return theta
            return self.compact.scatter(theta, self.rest.at(self.step, self._optimiser, self._rate))

    def _final(self) -> Tensor:
        return (self.best["theta"] if self.best else self.theta).detach().clone()

    # ---- parts ----------------------------------------------------------------------------------------------------

    def _compact(self) -> Compact | Kept | None:
        """Put masked networks in fewer coordinates."""
        found = self.plan.compact()
        if found is None:
            return None
        whole = self.reparam.start().to(self.device)
        if isinstance(found, Kept):
            self.rest = Rest(whole, torch.zeros_like(whole, dtype=torch.bool), self.plan.start_step)
            self.reparam = Identity(found.gather(whole))
            return found
        found = found.to(self.device)
        self.rest = Rest(whole, found.rest, self.plan.start_step)
        self.reparam = Mask(found.gather(whole), found.mask)
        return found

    def _optimiser(self, z: Tensor) -> Optimiser:
        shaped_like_weights = z.shape[1] == self.space.size
        return OPTIMISERS[self.recipe.optimiser](self.recipe, z, self.space.blocks if shaped_like_weights else None)

    def _rate(self, step: int) -> float:
        return learning_rate(self.recipe, step, self.plan.total, self.plan.steps_per_epoch)

    def _engine(self) -> Engine:
        seeds = self.leaders if self.rule.one_draw else self.plan.seeds
        objective, stacked = self.task.objective, self.plan.stacked
        if isinstance(self.compact, Kept):
            return SparseChain(self.compact, objective, self.recipe)
        return engine_for(self.space, objective, self.recipe, seeds, self.device, stacked=stacked)

    def _recorder(self) -> ExampleRecord:
        def write(name: str, content: bytes) -> None:
            self.entry.write(f"record/{name}", content)

        return ExampleRecord(
            len(self.data), replicas=len(self.plan.seeds), reduce=self.task.objective.record, write=write
        )

    # ---- interruption ----------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        state = {
            "step": torch.tensor(self.step),
            "stopped": torch.tensor(self.stopped),
            "z": self.z,
            "running": self.running,
            "diverged_at": self.diverged_at,
        }
        state |= {f"optimiser.{k}": v for k, v in self.optimiser.state.items()} | {
            f"best.{k}": v for k, v in self.best.items()
        }
        state |= {f"rule.{k}": v for k, v in self.memory.items()}
        if self.curve:
            state["curve"] = torch.stack(self.curve)
        if self.history:
            state["history"] = torch.stack(self.history)
        if self.record is not None:
            state |= {f"record.{k}": v for k, v in self.record.state().items()}
        return state

    def _resume(self) -> None:
        state = self.entry.read_checkpoint()
        if state is None:
            self.entry.clear()
            return
        self.step, self.stopped = int(state["step"]), bool(state["stopped"])
        self.z.copy_(state["z"])
        self.running.copy_(state["running"])
        self.diverged_at = state["diverged_at"]
        for name, tensor in self.optimiser.state.items():
            tensor.copy_(state[f"optimiser.{name}"])
        self.best = {k: v.to(self.device) if k == "theta" else v for k, v in _below("best", state).items()}
        self.memory = {k: v.to(self.device) for k, v in _below("rule", state).items()}
        self.curve = list(state["curve"]) if "curve" in state else []
        self.history = list(state["history"]) if "history" in state else []
        if self.record is not None:
            self.record.load_state(_below("record", state))


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in state.items() if k.startswith(f"{prefix}.")}


HISTORY = ("epoch", "step", "lr", "loss", "validation_loss")


def history_table(history: Sequence[Tensor], seeds: Sequence[int]) -> dict[str, list[float]]:
    """The history as columns, a row per epoch and replica."""
    rows = torch.stack(list(history)) if history else torch.empty(0, len(HISTORY), len(seeds))  # (epochs, 5, K)
    columns = {name: rows[:, i].flatten().tolist() for i, name in enumerate(HISTORY)}
    whole = {name: [int(v) for v in columns[name]] for name in ("epoch", "step")}
    return {"seed": list(seeds) * len(rows), **columns, **whole}


def curve_table(curve: Sequence[Tensor], seeds: Sequence[int]) -> dict[str, list[Any]]:
    """The test metric as columns, a row per noted step and replica."""
    rows = torch.stack(list(curve)) if curve else torch.empty(0, 1 + len(seeds))
    steps = rows[:, :1].long().expand(-1, len(seeds))
    return {"seed": list(seeds) * len(rows), "step": steps.flatten().tolist(), "metric": rows[:, 1:].flatten().tolist()}


def dataset_of(task: Task, which: str | Dataset) -> Dataset:
    """A task's split by name, or a data set as it is."""
    if isinstance(which, Dataset):
        return which
    splits = {"train": task.train, "test": task.test, "validation": task.validation}
    there = {name: data for name, data in splits.items() if data is not None}
    if which not in there:
        raise unknown("split of this task", which, there)
    return there[which]
