"""Co-teaching: two networks, each trained on what the other finds easy (Han et al. 2018, arXiv 1804.06872).

    I1 = argsmallest_R l1,  I2 = argsmallest_R l2         R = int((1 - r_T) B)
    net 1 steps on mean_{I2} l1,  net 2 on mean_{I1} l2   r_T rises to the noise rate over the first T_k epochs

The two start apart and err apart, so that each filters the wrong labels that the other would learn by heart. Choosing
by one's own losses would be self-training.

    run = fit(task, seeds=[0, 1, 2, 3], rule=CoTeaching(noise=0.45))      # two pairs: (0, 1) and (2, 3)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.tasks import Recipe, Task
from surplus.training import Batch, Moment, Rule


def forget_rate(epoch: int, noise: float, ramp: int = 10, exponent: float = 1.0) -> float:
    """r_T, the share left out of a batch in epoch T = 0, 1, ...: even steps from 0 to noise^exponent over the ramp."""
    return noise**exponent * min(1.0, epoch / (ramp - 1) if ramp > 1 else 1.0) if epoch < ramp else noise


def exchange(losses: Tensor, keep: int) -> Tensor:
    """Weights (K, B) by which each network of a pair trains on the `keep` smallest losses of the other.

    For a loop of your own: `w = exchange(torch.stack([l1, l2]).detach(), keep)`; then step on `(w[0] * l1).mean()` and
    on `(w[1] * l2).mean()`.

    Args:
        losses: (K, B), rows 2i and 2i + 1 being a pair, on one batch.
        keep: how many examples each network is shown.

    Returns:
        B / keep for the other's smallest losses and 0 elsewhere, so that mean(w l) is their mean; ties to the first.
    """
    k, b = losses.shape
    small = losses.argsort(dim=1, stable=True)[:, :keep]
    own = torch.zeros_like(losses).scatter(1, small, b / keep)
    return own.view(k // 2, 2, b).flip(1).reshape(k, b)


@method("training rule", paper="Han et al. 2018, arXiv 1804.06872", name="co-teaching")
@dataclass(frozen=True)
class CoTeaching(Rule):
    """Trains networks in pairs, each on the examples of smallest loss under the other.

    Replicas 2i and 2i + 1 are a pair: they start from their own seeds and see the batches of seed 2i. The record of a
    network holds what it was shown.

    Args:
        noise: share of wrong labels, known or guessed; so many of each batch are left out in the end.
        ramp: epochs until then (T_k).
        exponent: the ramp rises to noise^exponent (the paper's c).
    """

    together: ClassVar[int] = 2
    noise: float = 0.2
    ramp: int = 10
    exponent: float = 1.0

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """Refuse rates outside [0, 1)."""
        if not 0 <= self.noise < 1 or self.ramp < 1 or self.exponent <= 0:
            raise InputError(
                "co-teaching needs a noise rate in [0, 1), a ramp of at least one epoch and an exponent above 0; got"
                f" noise={self.noise:g}, ramp={self.ramp}, exponent={self.exponent:g}"
            )

    def weigh(self, now: Moment, batch: Batch, losses: Tensor) -> Tensor:
        remembered = 1 - forget_rate(now.epoch, self.noise, self.ramp, self.exponent)
        return exchange(losses, max(1, int(remembered * losses.shape[1])))


def label_precision(loss: Tensor, wrong: Tensor) -> Tensor:
    """Share of right labels among what each network was shown in each epoch.

    Args:
        loss: (K, epochs, n), the record's losses: NaN where an example was not trained on.
        wrong: (n,) or (K, n) bool.

    Returns:
        (K, epochs).
    """
    shown = ~loss.isnan()
    return (shown & ~wrong.expand(len(loss), -1).unsqueeze(1)).sum(2) / shown.sum(2)
