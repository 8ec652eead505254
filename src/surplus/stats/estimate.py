"""A number, or one per item, with its spread over independent repeats."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A number per item, with its spread over independent repeats.

    `mean`, `stderr`: any common shape. `repeats`: how many independent repeats they rest on, one number or one per
    item (an example may have been held out by some runs only). An item without repeats has a mean of NaN; one with a
    single repeat has a standard error of NaN, for one repeat shows no spread.
    """

    mean: Tensor
    stderr: Tensor
    repeats: int | Tensor

    @classmethod
    def over(cls, samples: Tensor) -> Estimate:
        """Collapse the leading axis, which indexes repeats: (repeats, ...) -> (...). NaN marks a missing repeat."""
        samples = samples if samples.is_floating_point() else samples.double()
        present = ~samples.isnan()
        counts = present.sum(0)
        mean = samples.nanmean(0)
        squares = torch.where(present, samples - mean, 0).square().sum(0)
        variance = squares / (counts - 1).clamp(min=0)  # 0 / 0 = NaN: one repeat shows no spread
        everywhere = bool((counts == len(samples)).all())
        return cls(mean, (variance / counts).sqrt(), len(samples) if everywhere else counts)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Student-t interval for the mean, of the given coverage."""
        from scipy.stats import t

        freedom = torch.as_tensor(self.repeats).double().sub(1).clamp(min=1)
        width = torch.as_tensor(t.ppf(0.5 + level / 2, freedom.cpu().numpy())).to(self.mean) * self.stderr
        return self.mean - width, self.mean + width
