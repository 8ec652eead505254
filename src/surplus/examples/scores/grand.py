"""GraNd: how hard an example pulls on the weights early in training (Paul, Ganguli & Dziugaite 2021, arXiv 2107.07075).

    grand_t(x, y) = E_w || grad_w cross_entropy(f_w(x), y) ||_2

w ranges over independent runs stopped after t epochs, and the gradient over ALL their weights; it is the mean of the
lengths, not the length of the mean. `grand_last` keeps the last layer only, which is what DeepCore (Guo, Zhao & Bai
2022, arXiv 2204.08499) calls GraNd.

Score networks that have trained a little: at initialisation the ranking does not reproduce (Kirsch 2023, arXiv
2303.14753).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.examples.evidence import check
from surplus.registry import method
from surplus.space import WeightSpace
from surplus.space.per_example import last_layer_grad_norms, per_example_grad_norms
from surplus.space.weightspace import Buffers
from surplus.stats import Estimate

Norms = Callable[[Tensor, Buffers | None, Tensor, Tensor], Tensor]

_PAPER = "Paul, Ganguli & Dziugaite 2021, arXiv 2107.07075"


@method("example score", paper=_PAPER, high="hard")
def grand(
    space: WeightSpace,
    thetas: Tensor,
    inputs: Tensor,
    labels: Tensor,
    buffers: Buffers | None = None,
    *,
    batch: int = 256,
) -> Estimate:
    """Length of the loss gradient over all weights, averaged over runs.

    Networks are taken in evaluation mode, where batch norm leaves each example a gradient of its own.

    Args:
        space: the networks' weight space.
        thetas: (runs, P) points early in training.
        inputs: (n, ...) examples, not augmented.
        labels: (n,) integers.
        buffers: batch-norm statistics of the runs, each (runs, ...); None re-estimates them on `inputs`.
        batch: examples handled at once.

    Returns:
        Estimate of shape (n,).

    Raises:
        InputError: the shapes do not fit together.
    """

    def norms(theta: Tensor, stats: Buffers | None, x: Tensor, y: Tensor) -> Tensor:
        return per_example_grad_norms(space, theta, x, y, buffers=stats)

    return _mean_over_runs(norms, space, thetas, inputs, labels, buffers, batch)


@method("example score", paper=_PAPER, high="hard")
def grand_last(
    space: WeightSpace,
    thetas: Tensor,
    inputs: Tensor,
    labels: Tensor,
    buffers: Buffers | None = None,
    *,
    batch: int = 256,
) -> Estimate:
    """Length of the loss gradient over the last linear layer, || p - y || sqrt(1 + || h ||^2), averaged over runs.

    Args:
        space: the networks' weight space; the network must end in a linear layer with a bias.
        thetas: (runs, P) points early in training.
        inputs: (n, ...) examples, not augmented.
        labels: (n,) integers.
        buffers: batch-norm statistics of the runs, each (runs, ...); None re-estimates them on `inputs`.
        batch: examples handled at once.

    Returns:
        Estimate of shape (n,).

    Raises:
        InputError: the shapes do not fit together, or the network does not end in a linear layer with a bias.
    """

    def norms(theta: Tensor, stats: Buffers | None, x: Tensor, y: Tensor) -> Tensor:
        logits, features = _last_layer(space, theta, stats, x)
        return last_layer_grad_norms(logits, features, y)

    return _mean_over_runs(norms, space, thetas, inputs, labels, buffers, batch)


def _mean_over_runs(
    norms: Norms,
    space: WeightSpace,
    thetas: Tensor,
    inputs: Tensor,
    labels: Tensor,
    buffers: Buffers | None,
    batch: int,
) -> Estimate:
    check(thetas=thetas, inputs=inputs, labels=labels)
    if batch < 1:
        raise InputError(f"batch is the number of examples handled at once, at least 1; got {batch}")
    _check_runs(buffers, len(thetas))
    parts = -(-len(inputs) // batch)  # of about one size: no last batch of a single example
    runs = []
    for theta, own in zip(thetas, _per_run(buffers, len(thetas)), strict=True):
        stats = own or space.statistics(theta, inputs.chunk(parts))
        pieces = zip(inputs.chunk(parts), labels.chunk(parts), strict=True)
        runs.append(torch.cat([norms(theta, stats, x, y) for x, y in pieces]))
    return Estimate.over(torch.stack(runs))  # the mean of the lengths, not the length of the mean


def _per_run(buffers: Buffers | None, runs: int) -> Iterator[Buffers | None]:
    """Each run's own statistics: {name: (runs, ...)} -> {name: (...)}."""
    for run in range(runs):
        yield {name: b[run] for name, b in buffers.items()} if buffers else None


def _check_runs(buffers: Buffers | None, runs: int) -> None:
    for name, b in (buffers or {}).items():
        if b.dim() == 0 or len(b) != runs:
            raise InputError(
                f"buffers hold the statistics of {runs} runs along their first axis, as space.statistics(thetas, ...) "
                f"gives them; {name!r} has shape {tuple(b.shape)}"
            )


@torch.no_grad()
def _last_layer(space: WeightSpace, theta: Tensor, buffers: Buffers | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, classes), and what enters the linear layer that makes them (n, width)."""
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []
    layers = [m for m in space.module.modules() if isinstance(m, nn.Linear)]
    hooks = [m.register_forward_hook(lambda layer, args, out: calls.append((layer, args[0], out))) for m in layers]
    try:
        logits = space.apply(theta, x, buffers)
    finally:
        for hook in hooks:
            hook.remove()
    if not calls or calls[-1][2] is not logits or calls[-1][0].bias is None or logits.dim() != 2:
        raise InputError(
            "grand-last needs a network whose output (n, classes) is that of a linear layer with a bias; "
            f"{type(space.module).__name__} ends otherwise: use grand, which takes any network"
        )
    return logits, calls[-1][1]
