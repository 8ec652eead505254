"""Training rules: what a method changes about a step, as hooks of the one loop.

    batch  --choose-->  examples  --forward, weigh-->  gradients  --combine, gradient-->  optimiser  --after_step-->  z

A rule is a frozen dataclass of settings; what it remembers between steps lies in a dictionary of tensors that goes into
checkpoints. Every hook sees all K replicas of a stack at once, as a leading axis, and must treat each row alone (or
each group of `together` rows), so that a replica trains alike alone and in company.

    run = fit(task, seeds=4, rule=CoTeaching(noise=0.45))
"""

from __future__ import annotations

import hashlib
import inspect
import json
import marshal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.reparam import fingerprint
from surplus.tasks import Recipe, Task


@dataclass(frozen=True)
class Moment:
    """Where training stands, as a rule sees it."""

    task: Task
    """On the device of training."""
    recipe: Recipe
    seeds: tuple[int, ...]
    step: int
    """Updates done so far, counted from the start of the schedule."""
    total: int
    epoch: int
    steps_per_epoch: int
    lr: float
    theta: Tensor
    """(K, P) now."""
    state: dict[str, Tensor]
    """What the rule remembers; it may change tensors in place or put new ones under the same names."""


@dataclass(frozen=True)
class Batch:
    """One batch of each replica."""

    index: Tensor
    """(K, B) which training examples."""
    inputs: Tensor
    """(K, B, ...) augmented and normalised, as the network gets them."""
    targets: Tensor
    """(K, B)."""
    forward: Callable[[Tensor, bool, int], Tensor] = field(repr=False)

    def outputs(self, train: bool = True, draw: int = 0) -> Tensor:
        """(K, B, ...) without gradient; `train=False` switches dropout off. Batch norms use this batch either way.

        `draw` = 1, 2, ... gives further draws of dropout; 0 is the one that the gradient pass has.
        """
        with torch.no_grad():
            return self.forward(self.inputs, train, draw)

    def take(self, columns: Tensor) -> Batch:
        """The examples at these places (K, b) of the batch."""
        rows = torch.arange(len(columns), device=columns.device).unsqueeze(1)
        return replace(
            self,
            index=self.index[rows, columns],
            inputs=self.inputs[rows, columns],
            targets=self.targets[rows, columns],
        )


@dataclass(frozen=True)
class Choice:
    """Which examples of a batch are trained on."""

    columns: Tensor
    """(K, b) places in the batch, the same number for every replica."""
    weights: Tensor | None = None
    """(K, b) their weights in the mean loss; 1 when None."""


class Rule:
    """Base of all rules: trains as usual. Override the hooks that the method needs."""

    together: ClassVar[int] = 1
    """How many replicas belong together: replicas 2i and 2i + 1 form a pair, with one order of examples, for 2."""
    one_draw: ClassVar[bool] = False
    """Whether replicas that belong together draw the same dropout."""
    per_replica: ClassVar[tuple[str, ...]] = ()
    """Settings that may be tensors with a row per replica."""

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """Refuse what does not fit together.

        Raises:
            InputError: before training starts.
        """

    def start(self, now: Moment) -> dict[str, Tensor]:
        """What the rule remembers at the beginning, by name."""
        return {}

    def choose(self, now: Moment, batch: Batch) -> Choice | None:
        """Before the gradient pass: which examples to train on; all when None."""
        return None

    def loss(self, now: Moment, batch: Batch, outputs: Tensor) -> Tensor | None:
        """Losses (K, B) in place of the objective's, from the outputs (K, B, ...); differentiable. None: as they are.

        Row k may depend on all of row k of the outputs, but on no other. Gradients of microbatches do not use it.
        """
        return None

    def answers(self, outputs: Tensor) -> Tensor:
        """The part of the outputs (K, B, ...) that answers the task, where a network in training gives more."""
        return outputs

    def weigh(self, now: Moment, batch: Batch, losses: Tensor) -> Tensor | None:
        """From the losses (K, B) of the training forward pass: weights (K, B) in mean(w * loss); all 1 when None."""
        return None

    def parts(self, batch_size: int) -> int:
        """Into how many microbatches the batch is cut, each with a gradient of its own; `batch_size` is one each.

        What does not divide evenly is left out. Weights do not apply to microbatches.
        """
        return 1

    def combine(self, now: Moment, grads: Tensor) -> Tensor:
        """One gradient (K, P) from those of the microbatches (K, m, P)."""
        return grads.mean(1)

    def gradient(self, now: Moment, z: Tensor, grad: Tensor) -> Tensor:
        """The gradient (K, d) that the optimiser gets, from the one that it would get at z (K, d)."""
        return grad

    def after_step(self, now: Moment, z: Tensor) -> None:
        """Change z (K, d) in place after the optimiser's step."""

    def end_epoch(self, now: Moment) -> None:
        """After the last step of an epoch."""

    def finished(self, now: Moment) -> bool:
        """Asked after each epoch: whether to end training here, for all replicas."""
        return False

    # ---- what the loop asks ---------------------------------------------------------------------------------------

    def spec(self) -> dict[str, Any]:
        """What makes two rules the same: name, settings, and the file that defines it."""
        assert is_dataclass(self), f"{type(self).__name__} must be a frozen dataclass, so that its settings are known"
        settings = {f.name: _plain(getattr(self, f.name), f"{type(self).__name__}.{f.name}") for f in fields(self)}
        return {"name": type(self).__name__, "code": _code(type(self)), **settings}

    def part(self, replicas: list[int]) -> Self:
        """The same rule for some of the replicas."""
        given = {name: getattr(self, name) for name in self.per_replica}
        rows = {k: v[replicas] for k, v in given.items() if isinstance(v, Tensor) and v.dim() > 1}
        return replace(self, **rows) if rows else self  # type: ignore[type-var]

    def to(self, device: torch.device | str) -> Self:
        """The same rule with its tensors on another device."""
        assert is_dataclass(self)
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved) if moved else self


def check_parts(rule: Rule, task: Task, recipe: Recipe) -> None:
    """Refuse gradients of single examples where these depend on the batch, or on a draw."""
    alone = recipe.batch_size > 1 and rule.parts(recipe.batch_size) == recipe.batch_size
    if alone and (task.space.batch_norms or task.space.has_dropout):
        raise InputError(
            f"{type(rule).__name__} takes the gradient of each example alone, which batch norm and dropout do not"
            f" allow; choose a network without them, instead of {task.network.name}"
        )


def check_pairs(rule: Rule, replicas: int, subsets: tuple[Tensor, ...] | None) -> None:
    """Refuse replicas that do not come in whole groups, or groups whose replicas see different examples."""
    g = rule.together
    if replicas % g:
        raise InputError(f"{type(rule).__name__} trains networks in groups of {g}; got {replicas} replicas")
    for k in range(0, replicas if subsets else 0, g):
        assert subsets is not None
        if any(not torch.equal(subsets[k], other) for other in subsets[k + 1 : k + g]):
            raise InputError(
                f"{type(rule).__name__} trains replicas {k} to {k + g - 1} on the same batches, and their subsets"
                " differ; give both the same"
            )


def check_rule(rule: Any) -> None:
    """Refuse what is no rule.

    Raises:
        InputError: says what a rule is.
    """
    if not isinstance(rule, Rule) or not is_dataclass(rule):
        given = rule.__name__ if isinstance(rule, type) else repr(rule)
        raise InputError(
            f"rule is an instance of a subclass of surplus.training.Rule that is a frozen dataclass, such as"
            f" CoTeaching(noise=0.2); got {given}"
        )


def _plain(value: Any, name: str) -> Any:
    """A setting as plain JSON."""
    if isinstance(value, Tensor):
        return fingerprint(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise InputError(
            f"the setting {name} of the rule is {value!r}; runs are told apart by settings, which are tensors, finite"
            " numbers, strings, None, or lists of these without tensors"
        ) from None
    return list(value) if isinstance(value, tuple) else value


@cache
def _code(kind: type) -> str:
    """Hash of the source files of a rule and of those that it derives from, or of the classes where there is none."""
    own = [c for c in kind.__mro__ if issubclass(c, Rule) and c is not Rule]
    return hashlib.sha256(b"".join(dict.fromkeys(map(_source, own)))).hexdigest()[:16]


def _source(kind: type) -> bytes:
    """The file that defines a class; its own lines, or else its compiled methods, if it was typed at a prompt."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file and Path(file).exists():
        return Path(file).read_bytes()
    try:
        return inspect.getsource(kind).encode()
    except (OSError, TypeError):
        made = [marshal.dumps(f.__code__) for f in vars(kind).values() if inspect.isfunction(f)]
        return b"".join([kind.__qualname__.encode(), *made])
