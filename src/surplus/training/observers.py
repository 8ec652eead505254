"""Observers watch `fit`; they never change training. A run that is watched starts anew each time, without resuming."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Step:
    """What an observer sees after an update."""

    step: int
    """Updates done so far, counted from the start of the schedule."""
    total: int
    epoch: int
    last_of_epoch: bool
    theta: Tensor
    """(K, P) after the update."""
    index: Tensor
    """(K, B) which examples the batch held."""
    outputs: Tensor
    """(K, B, ...) before the update."""
    targets: Tensor
    losses: Tensor
    """(K, B)."""
    lr: float
    weights: Tensor | None = None
    """(K, B) of the examples in the mean loss; None where all counted the same."""


class Observer:
    """Base of all observers: does nothing."""

    def on_step(self, event: Step) -> None:
        """Called after every update."""


class Probe(Observer):
    """Measure something of the weights every so many steps: `rows` collects (step, value).

    Args:
        measure: theta (K, P) -> (K,) or any tensor with a leading K.
        every: steps between measurements.
    """

    def __init__(self, measure: Callable[[Tensor], Tensor], every: int) -> None:
        self.measure, self.every = measure, every
        self.rows: list[tuple[int, Tensor]] = []

    def on_step(self, event: Step) -> None:
        if event.step % self.every == 0 or event.step == event.total:
            self.rows.append((event.step, self.measure(event.theta).detach().cpu()))


class Progress(Observer):
    """A progress bar on the terminal; silent where there is none."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._bar: object | None = None

    def on_step(self, event: Step) -> None:
        from rich.progress import Progress as Bar

        if self._bar is None:
            self._bar = Bar(transient=True)
            self._bar.start()
            self._row = self._bar.add_task(self.label, total=event.total)
        assert isinstance(self._bar, Bar)
        self._bar.update(self._row, completed=event.step)
        if event.step == event.total:
            self._bar.stop()
            self._bar = None
