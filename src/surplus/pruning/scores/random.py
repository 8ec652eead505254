"""Random scores: the control that every other weight score must beat.

    s_q ~ U(0, 1)

Kept globally this prunes all layers alike; for fixed layer densities see `random_mask`.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.pruning.scoring import Batch
from surplus.registry import method
from surplus.space import WeightSpace


@method("weight score", name="random", needs=("generator",))
def random_score(space: WeightSpace, theta: Tensor, batch: Batch | None = None, *, generator: Generator) -> Tensor:
    """A uniform number for each weight.

    Args:
        space: the network (not used).
        theta: (P,).
        batch: not used.
        generator: source of the numbers.

    Returns:
        (P,), high = keep.
    """
    return torch.rand(len(theta), generator=generator, device=generator.device, dtype=theta.dtype).to(theta.device)
