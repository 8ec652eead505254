"""A consensus subnetwork: gates that see the input are pushed to agree in one run of training, then frozen and removed.

    loss = CE + act (A(m) - a)^2 + pol(t) mean_u m_u (1 - m_u),    A(m) = sum_u c_u m_u / sum_u c_u

m_u: mean over the batch of unit u's BINARY gates (straight-through); a: the share that shall stay; pol(t) rises
linearly from 0 over the first half of training. The last term is 0 exactly where all inputs agree; taken of each
input's own gates it would be 0 also where each goes its own way. Zhi et al. 2025, arXiv 2302.10798, which polarises
gates and has no public code: this loss is our reconstruction.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from surplus.data import Dataset
from surplus.errors import InputError
from surplus.networks.gated import Gated
from surplus.pruning.budgets import check_density
from surplus.pruning.counting import count
from surplus.pruning.structured.smaller import smaller_task
from surplus.registry import method
from surplus.tasks import Network, Recipe, Task
from surplus.training import Batch, Moment, Rule, Run, fit

_PAPER = "Zhi, Babbar, Liu, Sun, Silavong, Shi & Moran 2025, arXiv 2302.10798"
AGREED = 0.99
"""Below this consensus rate the static network is another function than the one that was trained."""


class NoConsensus(UserWarning):
    """Inputs do not agree on the gates, so removing units changes what the network does."""


def polarisation(mean: Tensor) -> Tensor:
    """mean_u m_u (1 - m_u) of mean binary gates (..., units), in [0, 1/4]: 0 where all inputs agree."""
    return (mean * (1 - mean)).mean(-1)


def activity(mean: Tensor, costs: Sequence[float]) -> Tensor:
    """Share of the cost that is switched on, from mean gates (..., units)."""
    weights = torch.tensor(costs, dtype=mean.dtype, device=mean.device)
    return mean @ (weights / weights.sum())


@method("training rule", paper=_PAPER)
@dataclass(frozen=True)
class Consensus(Rule):
    """Trains a gated network towards gates that are the same for all inputs, a given share of them open.

    Args:
        costs: one number per gate, its part in the activity; all 1 for the plain share, or `unit_costs(task)`.
        activity: the share a that shall stay open.
        act: weight of the activity's squared distance from that.
        pol: weight of the polarisation, once it has risen; 0 leaves gates free to differ.
        ramp: share of training over which it rises.
    """

    costs: tuple[float, ...]
    activity: float = 0.5
    act: float = 3.0
    pol: float = 1.0
    ramp: float = 0.5

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """Refuse networks without gates, other numbers of costs than gates, and settings out of bounds."""
        units = sum(_gated(task).units)
        if len(self.costs) != units or min(self.costs) <= 0:
            raise InputError(
                f"costs are one number above 0 for each of the {units} gates of {task.network.name}; got"
                f" {len(self.costs)}, the least of them {min(self.costs, default=0)}"
            )
        if not 0 < self.activity <= 1 or self.act < 0 or self.pol < 0 or not 0 < self.ramp <= 1:
            raise InputError(
                "activity and ramp lie in (0, 1], and the weights act and pol are not negative; got"
                f" activity={self.activity}, ramp={self.ramp}, act={self.act}, pol={self.pol}"
            )

    def loss(self, now: Moment, batch: Batch, outputs: Tensor) -> Tensor:
        logits, gates = self.answers(outputs), outputs[..., -len(self.costs) :]
        smoothing = now.recipe.label_smoothing
        losses = now.task.objective.loss(logits.flatten(0, 1), batch.targets.flatten(0, 1), smoothing)
        mean = gates.mean(1)  # (K, units)
        rise = min(1.0, now.step / (self.ramp * now.total))
        extra = self.act * (activity(mean, self.costs) - self.activity).square() + self.pol * rise * polarisation(mean)
        return losses.view(gates.shape[:2]) + extra.unsqueeze(1)

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs[..., : -len(self.costs)]


def gated_task(task: Task, **options: Any) -> Task:
    """The task with a gated network: its own if that has gates, else gated-resnet for images from 16x16, or gated-mlp.

    Args:
        task: any task.
        options: of the gated network, when it is put in the place of the task's own.
    """
    if isinstance(task.space.module, Gated) and any(task.space.module.units):
        return task
    image = task.train.kind == "image" and min(task.train.shape[1:]) >= 16
    outputs = int(task.space.apply(task.space.init(0), task.prepare(task.train.inputs[:2])).shape[1])
    network = Network("gated-resnet" if image else "gated-mlp", task.train.shape, outputs, options)
    made = replace(task, network=network)
    _ = made.space  # builds it now, so that a misfit is an error here
    return made


def unit_costs(task: Task) -> tuple[float, ...]:
    """Multiply-adds that each gate of the task's network switches, for `Consensus(costs=...)`."""
    module, costs = _gated(task), list[float]()
    every = torch.ones(sum(module.units), dtype=torch.bool)
    full = count(module.static(every), task.train.shape).macs
    for units in filter(None, module.units):  # the gates of one block cost the same
        without = every.clone()
        without[len(costs)] = False
        costs += [float(max(full - count(module.static(without), task.train.shape).macs, 1))] * units
    return tuple(costs)


@dataclass(frozen=True)
class GateStatistics:
    """What the gates of one trained network do on a data set."""

    mean: Tensor
    """(units,) share of the examples for which each is open."""
    kept: Tensor
    """(units,) whether more than half of them want it."""

    @property
    def consensus(self) -> float:
        """mean_u max(m_u, 1 - m_u): 1 when all examples agree on every gate."""
        return float(torch.maximum(self.mean, 1 - self.mean).mean())


def gate_statistics(task: Task, theta: Tensor, data: Dataset | None = None) -> GateStatistics:
    """Gates of the network at theta (P,) over the training set, or other examples."""
    module: Any = task.space.write(theta, task.statistics(theta))
    where = task.to(theta.device)
    with torch.no_grad():
        gates = [module.run(x)[1] for x, _ in where.batches(data.to(theta.device) if data else where.train)]
    mean = torch.cat(gates).double().mean(0).cpu()
    return GateStatistics(mean, mean > 0.5)


def static_task(task: Task, theta: Tensor, kept: Tensor) -> tuple[Task, Tensor]:
    """The task with the network at theta (P,) cut down to the units kept (units,), and where that network stands."""
    module: Any = task.space.write(theta.cpu(), task.statistics(theta.cpu()))
    return smaller_task(task, module.static(kept.cpu()))


def ungated(task: Task, seeds: Sequence[int], *, network: dict[str, Any] | None = None, **options: Any) -> Run:
    """The network with all of its units and no gates, trained: what a consensus is compared with.

    Args:
        task: as for `consensus_subnetwork`.
        seeds: one replica each, from the initial weights of the gated network.
        network: options of the gated network that stands in for the task's own.
        options: of `fit`.
    """
    gated = gated_task(task, **(network or {}))
    every = torch.ones(sum(_gated(gated).units), dtype=torch.bool)
    made = [static_task(gated, theta, every) for theta in gated.space.init_many(seeds)]
    return fit(made[0][0], seeds=seeds, start=torch.stack([theta for _, theta in made]), **options)


@method("structured pruning", paper=_PAPER, reference=ungated)
def consensus_subnetwork(
    task: Task,
    *,
    keep: float,
    seeds: int | Sequence[int] = 5,
    flops_weighted: bool = False,
    act: float = 3.0,
    pol: float = 1.0,
    network: dict[str, Any] | None = None,
    **options: Any,
) -> list[Run]:
    """Train a gated network to a consensus and keep the units that it agreed on; nothing is fine-tuned afterwards.

    A task whose network has no gates is trained with gated-resnet (images from 16x16) or gated-mlp (all else) instead.

    Args:
        task: what is trained.
        keep: share of the gated units that shall stay; what stays in the end is a whole number of them near it.
        seeds: one replica each.
        flops_weighted: count units by the multiply-adds that they switch.
        act: weight of the distance from `keep`.
        pol: weight of the polarisation.
        network: options of the gated network that stands in for the task's own.
        options: of `fit`.

    Returns:
        For each seed a run of one replica and no steps, on the task with the static network: it stands where training
        of the gated network ended.
    """
    check_density(keep)
    gated = gated_task(task, **(network or {}))
    costs = unit_costs(gated) if flops_weighted else (1.0,) * sum(_gated(gated).units)
    run = fit(gated, seeds=seeds, rule=Consensus(costs, keep, act, pol), **options)
    where = {name: options[name] for name in ("device", "store", "recipe") if name in options}
    return [frozen(run, k, **where) for k in range(len(run))]


def frozen(run: Run, replica: int, **options: Any) -> Run:
    """The static network of one replica of a gated run, as a run of no steps; warns where gates do not agree."""
    theta, seed = run.theta[replica], run.seeds[replica]
    found = gate_statistics(run.task, theta)
    if found.consensus < AGREED:
        warnings.warn(
            f"seed {seed}: the inputs agree on {found.consensus:.1%} of the gates, not {AGREED:.0%}, so the static"
            " network differs from the trained one; train longer, or raise pol",
            NoConsensus,
            stacklevel=3,
        )
    small, point = static_task(run.task, theta, found.kept)
    return standing(small, point, seed, **options)


def standing(task: Task, theta: Tensor, seed: int, **options: Any) -> Run:
    """A run of one replica that stands at theta (P,): it begins where the schedule ends."""
    recipe = options.get("recipe") or task.recipe
    end = recipe.duration.steps(-(-len(task.train) // recipe.batch_size))
    return fit(task, seeds=[seed], start=theta[None], start_step=end, **options)


def _gated(task: Task) -> Gated:
    module = task.space.module
    if not isinstance(module, Gated) or not any(module.units):
        raise InputError(
            f"the network {task.network.name} has no gates; choose gated-mlp or gated-resnet, or take gated_task(task)"
        )
    return module
