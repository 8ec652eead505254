"""Networks that are really smaller: whole channels go, together with everything that is tied to them.

Channels that are tied together form one group (Fang et al. 2023, arXiv 2301.12900), each is worth the sum of squared
weights in it, and groups are compared after a division by their means:

    I_g(c) / mean_c I_g(c),    I_g(c) = sum over the group's tensors of sum |w|^2 in channel c

Keeping a share r of all channels keeps about r^2 of the weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surplus.errors import InputError, unknown
from surplus.pruning.budgets import check_density
from surplus.pruning.counting import Size, count, example, latency
from surplus.pruning.masks import Scope
from surplus.pruning.structured.groups import Group, channel_groups, head_groups, weight_values
from surplus.space.units import evaluating
from surplus.stats import Estimate

_SEARCH_STEPS = 10


@dataclass(frozen=True)
class Saving:
    """What a smaller network costs beside the one that it came from."""

    before: Size
    after: Size
    seconds_before: Estimate
    """Of one forward pass, measured."""
    seconds_after: Estimate

    @property
    def parameters(self) -> float:
        """How many times fewer parameters."""
        return self.before.parameters / self.after.parameters

    @property
    def macs(self) -> float:
        """How many times fewer multiply-adds."""
        return self.before.macs / self.after.macs

    @property
    def speedup(self) -> float:
        """How many times faster, as measured."""
        return float(self.seconds_before.mean / self.seconds_after.mean)


def saving(module: nn.Module, small: nn.Module, input_shape: Sequence[int] | Tensor, batch: int = 1) -> Saving:
    """Count and time a network and a smaller one.

    Args:
        module: before.
        small: after.
        input_shape: shape of one input, without the batch; or an example batch (1, ...).
        batch: inputs at once while timing.
    """
    before, after = (count(m, input_shape) for m in (module, small))
    return Saving(before, after, latency(module, input_shape, batch), latency(small, input_shape, batch))


def shrink(
    module: nn.Module,
    input_shape: Sequence[int] | Tensor,
    *,
    keep: float | None = None,
    density: float | None = None,
    importance: Tensor | None = None,
    scope: Scope = "global",
    round_to: int = 1,
    heads: bool = False,
    exclude: Iterable[str] = (),
) -> nn.Module:
    """A network with fewer channels; fine-tune it afterwards, with batch-norm statistics estimated anew.

    Args:
        module: the network; it is left as it is.
        input_shape: shape of one input, without the batch; or an example batch, for tokens say.
        keep: share of the channels to keep, or
        density: share of the parameters; the largest `keep` that stays below it is searched for.
        importance: (P,) any weight score at this point, not negative; squared weights when None.
        scope: `global` ranks the channels of all groups together, `layer` keeps the same share in each group.
        round_to: channel counts become multiples of this, even where all would stay; where there are fewer, all stay.
            8 suits most hardware.
        heads: also leave out whole heads of attention (that of our networks, and `nn.MultiheadAttention`); a head is
            ranked as a channel is. Otherwise the layers of attention stay.
        exclude: layers whose outputs stay. The layer that gives the network's output always stays.

    Returns:
        A new module in evaluation mode.

    Raises:
        MissingExtra: Torch-Pruning is not installed.
        InputError: not one of keep and density is given, or the network's channels cannot be followed.
    """
    if (keep is None) == (density is None):
        raise InputError("say how much to keep by one of keep= (of the channels) and density= (of the parameters)")
    if scope not in ("global", "layer"):
        raise unknown("scope", scope, ("global", "layer"))
    x, exclude = example(module, input_shape), tuple(exclude)
    if keep is not None:
        check_density(keep)
        return _shrunk(module, x, keep, importance, scope, round_to, heads, exclude)
    assert density is not None
    check_density(density)
    most = density * _parameters(module)
    low, high, best = 0.0, 1.0, None
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        small = _shrunk(module, x, middle, importance, scope, round_to, heads, exclude)
        fits = _parameters(small) <= most
        low, high, best = (middle, high, small) if fits else (low, middle, best)
    if best is None:
        raise InputError(
            f"with a channel left in each layer, more than {density:.3g} of the parameters stay; ask for more"
        )
    return best


def _shrunk(
    module: nn.Module,
    x: Tensor,
    keep: float,
    importance: Tensor | None,
    scope: Scope,
    round_to: int,
    heads: bool,
    exclude: tuple[str, ...],
) -> nn.Module:
    small = copy.deepcopy(module).eval()
    values = weight_values(small, importance)
    learns = {n: p.requires_grad for n, p in small.named_parameters()}
    small.requires_grad_(True)  # the channels are followed along the gradient's graph
    with evaluating(small):
        before = small(x).shape
    try:
        groups = [*channel_groups(small, x, values, exclude), *(head_groups(small, values, exclude) if heads else ())]
        if not groups:
            raise InputError(f"{type(small).__name__} has no channels that may go: every layer is excluded or fixed")
        for group, goes in zip(groups, _choice(groups, keep, scope, round_to), strict=True):
            if goes:
                group.remove(goes)
        with evaluating(small):
            after = small(x).shape
    except InputError:
        raise
    except (RuntimeError, ValueError, IndexError, AttributeError, AssertionError) as error:
        raise InputError(
            f"the channels of {type(module).__name__} cannot be followed ({error}); name the layers at fault in exclude"
        ) from error
    if after != before:
        raise InputError(f"the output shrank from {tuple(before)} to {tuple(after)}; name the output layer in exclude")
    for name, parameter in small.named_parameters():
        parameter.requires_grad_(learns[name])
    return small


def _choice(groups: Sequence[Group], keep: float, scope: Scope, round_to: int) -> list[list[int]]:
    """For each group, the channels that go: the least important, down to a whole number of `round_to`."""
    sizes = [len(g.importance) for g in groups]
    if scope == "layer":
        counts = [round(keep * n) for n in sizes]
    else:
        relative = [g.importance / g.importance.mean().clamp(min=torch.finfo(torch.float64).tiny) for g in groups]
        owner = torch.cat([torch.full((n,), i) for i, n in enumerate(sizes)])
        best = torch.cat(relative).argsort(descending=True, stable=True)[: round(keep * sum(sizes))]
        counts = owner[best].bincount(minlength=len(groups)).tolist()
    out = []
    for group, n, wanted in zip(groups, sizes, counts, strict=True):
        step = round_to // math.gcd(round_to, group.parts) if group.rounded else 1
        most, least = max(n // step * step, min(n, step)), step
        count = min(most, max(least, round(wanted / step) * step))
        goes = group.importance.argsort(stable=True)[: n - count]
        out.append(sorted(int(c) + p * n for p in range(group.parts) for c in goes))
    return out


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
