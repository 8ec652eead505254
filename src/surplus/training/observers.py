"""Observers watch `fit`; they never change training. What they remember goes into the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
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


class Observer:
    """Base of all observers: does nothing, remembers nothing."""

    def on_step(self, event: Step) -> None:
        """Called after every update."""

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs to go on."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""


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

    def state(self) -> dict[str, Tensor]:
        if not self.rows:
            return {}
        return {"steps": torch.tensor([s for s, _ in self.rows]), "values": torch.stack([v for _, v in self.rows])}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.rows = list(zip(state["steps"].tolist(), state["values"], strict=True)) if state else []


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
