"""CDR: only the weights that matter to the batch learn, and the others fade (Xia et al. 2021, ICLR, Eql5b1_hTE4).

    s_j = | g_j w_j |;   the (1 - noise) m largest of m weights are critical

    paper:  critical      w <- w - lr [ (1 - noise) g + l1 sgn w ]         others  w <- w - lr l1 sgn w
    code:   gradient      (1 - noise) g if critical, else 0                then SGD with momentum and L2 decay

s is SNIP's score (`surplus.pruning.snip`), here on the batch of the step and before the decay. It is compared over the
whole network, among tensors of two or more axes; biases and norms follow their full gradient and do not fade in paper
mode. L1 decay stops at zero. In code mode (github.com/xiaoboxia/CDR) momentum goes on moving weights that are critical
no longer; in paper mode it waits until they are again. Stop early by held-out examples, whose labels may be noisy too.

As a rule: `fit(task, rule=CDR(noise=0.4))`. In a loop of your own: `CDROptimizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softshrink

from surplus.errors import InputError, unknown
from surplus.registry import method
from surplus.space import Block, generator
from surplus.tasks import Recipe, Task
from surplus.training import Moment, Rule

Mode = Literal["paper", "code"]


def critical_weights(
    weights: Sequence[Tensor], grads: Sequence[Tensor], noise: float, sample: int | None = None
) -> list[Tensor]:
    """Which weights are critical: |g w| reaches the int((1 - noise) m)-th largest of all m; ties are all in.

    Args:
        weights: tensors (..., m_i) that are pooled; sum of m_i = m.
        grads: their gradients, same shapes.
        noise: share of wrong labels, in [0, 1).
        sample: read the threshold off so many scores, drawn once and for all; exact when None or not below m.

    Returns:
        Booleans of the same shapes.
    """
    scores = torch.cat([(w * g).abs() for w, g in zip(weights, grads, strict=True)], -1)
    m = scores.shape[-1]
    pool = scores
    if sample is not None and sample < m:
        places = torch.randint(m, (sample,), generator=generator(0, "cdr sample"))
        pool = scores[..., places.to(scores.device)]
    out = pool.shape[-1] - max(1, int((1 - noise) * pool.shape[-1] + 1e-9))
    if noise == 0:
        mask = torch.ones_like(scores, dtype=torch.bool)
    else:
        mask = scores >= pool.kthvalue(out + 1, -1, keepdim=True).values
    return list(mask.split([w.shape[-1] for w in weights], -1))


# ---- as a rule of `fit` ---------------------------------------------------------------------------------------------


@method("training rule", paper="Xia et al. 2021, ICLR (OpenReview Eql5b1_hTE4)")
@dataclass(frozen=True)
class CDR(Rule):
    """Critical weights follow a damped gradient, the others only decay; see the file's head for the two modes."""

    noise: float
    """Share of wrong labels, known or estimated; 0 trains as usual (in paper mode with l1 = 0)."""
    mode: Mode = "code"
    """"code": as the authors released it, decay by the recipe's weight_decay; "paper": decay by l1."""
    l1: float = 1e-3
    """Rate of the decay in paper mode."""
    sample: int | None = None
    """Scores that the threshold is read off, for large networks; all when None."""

    def check(self, task: Task, recipe: Recipe, replicas: int) -> None:
        """Settings in their bounds, and one kind of decay."""
        check_settings(self.noise, self.mode, self.l1, self.sample)
        if self.mode == "paper" and recipe.weight_decay:
            raise InputError(
                f"CDR in paper mode decays by l1={self.l1:g}; set weight_decay=0 (got {recipe.weight_decay:g}),"
                " or mode='code'"
            )

    def gradient(self, now: Moment, z: Tensor, grad: Tensor) -> Tensor:
        """Damped where critical, zero elsewhere; whole for biases and norms."""
        if z.shape[1] != now.task.space.size:
            raise InputError("CDR asks which weights are critical, so it trains weights, not other coordinates")
        blocks = _scored(now.task.space.blocks)
        parts = [(z[:, b.slice], grad[:, b.slice]) for b in blocks]
        masks = critical_weights([w for w, _ in parts], [g for _, g in parts], self.noise, self.sample)
        critical = torch.ones_like(grad, dtype=torch.bool)
        factor = torch.ones_like(grad)
        for block, mask in zip(blocks, masks, strict=True):
            critical[:, block.slice] = mask
            factor[:, block.slice] = mask * (1 - self.noise)
        if self.mode == "paper":
            now.state["before"], now.state["critical"] = z.clone(), critical  # until the end of the step
        return grad * factor

    def after_step(self, now: Moment, z: Tensor) -> None:
        """In paper mode: undo what momentum did to weights that are not critical, then L1 decay."""
        if self.mode == "paper":
            z.copy_(torch.where(now.state.pop("critical"), z, now.state.pop("before")))
            for block in _scored(now.task.space.blocks):
                z[:, block.slice] = faded(z[:, block.slice], now.lr * self.l1)


def faded(w: Tensor, by: float) -> Tensor:
    """sgn(w) max(|w| - by, 0)."""
    return softshrink(w, by) if by else w


def check_settings(noise: float, mode: str, l1: float, sample: int | None) -> None:
    """Refuse settings of CDR that mean nothing.

    Raises:
        InputError: out of bounds, or no such mode.
    """
    if mode not in get_args(Mode):
        raise unknown("mode of CDR", mode, get_args(Mode))
    if not 0 <= noise < 1 or l1 < 0 or (sample is not None and sample < 1):
        raise InputError(
            f"CDR needs a noise rate in [0, 1), l1 >= 0 and sample >= 1 or None; got {noise=}, {l1=}, {sample=}"
        )


def _scored(blocks: Iterable[Block]) -> list[Block]:
    """Weights proper: the code takes tensors of two and four axes, linear layers and 2-d convolutions."""
    return [b for b in blocks if len(b.shape) >= 2]


# ---- for a loop of your own -----------------------------------------------------------------------------------------


class CDROptimizer(torch.optim.SGD):
    """`torch.optim.SGD` that moves critical weights only.

    Args:
        params: as of `torch.optim.SGD`; scores are pooled over all groups.
        lr: learning rate.
        noise: share of wrong labels, known or estimated.
        mode: "code" or "paper", see the file's head.
        l1: rate of the decay in paper mode.
        sample: scores that the threshold is read off; all when None.
        options: of `torch.optim.SGD`; the authors' code takes momentum=0.9, weight_decay=1e-3.

    Raises:
        InputError: settings out of bounds, or weight_decay in paper mode.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        noise: float,
        mode: Mode = "code",
        l1: float = 1e-3,
        sample: int | None = None,
        **options: Any,
    ) -> None:
        check_settings(noise, mode, l1, sample)
        if mode == "paper" and options.get("weight_decay"):
            raise InputError(f"CDR in paper mode decays by {l1=}; leave out weight_decay, or set mode='code'")
        super().__init__(params, lr, **options)
        self.noise, self.mode, self.l1, self.sample = noise, mode, l1, sample

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; `p.grad` is left as it was."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rates = {p: g["lr"] for g in self.param_groups for p in g["params"] if p.grad is not None and p.dim() >= 2}
        came = {p: p.grad for p in rates}
        grads = [g.flatten() for g in came.values() if g is not None]
        masks = critical_weights([p.flatten() for p in came], grads, self.noise, self.sample)
        critical = {p: mask.view_as(p) for p, mask in zip(came, masks, strict=True)}
        before = {p: p.clone() for p in came} if self.mode == "paper" else {}
        for p, mask in critical.items():
            p.grad = p.grad * (mask * (1 - self.noise)).to(p)
        super().step()
        for p, mask in critical.items():
            p.grad = came[p]
            if self.mode == "paper":
                p.copy_(faded(torch.where(mask, p, before[p]), rates[p] * self.l1))
        return loss
