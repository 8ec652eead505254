"""What a network costs: parameters, non-zeros, multiply-adds, bytes, and measured seconds.

    linear   in * out per position            convolution   (in / groups) * out * kernel * output positions

One multiply-add (MAC) is one multiplication and one addition; tools that count both apart show twice the number.
Biases, normalisation, activations, pooling and the products of attention between activations are not counted.
Density, compression and speed-up follow Blalock et al. 2020 (arXiv 2003.03033): the speed-up of MACs is theory,
`latency` is what the machine does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.pruning.budgets import prunable_blocks
from surplus.space import WeightSpace
from surplus.space.units import evaluating
from surplus.stats import Estimate

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_COUNTED = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED, nn.MultiheadAttention)


@dataclass(frozen=True)
class Size:
    """What a network costs, for one example."""

    parameters: int
    """Elements of all parameters: weights, biases, normalisation; buffers are not counted."""
    nonzero: int
    """Those that are not zero, or that the mask keeps."""
    macs: int
    """Multiply-adds of one forward pass, zeros included."""
    macs_nonzero: float
    """Multiply-adds with a weight that is kept: each layer's, times its density."""
    bytes: int
    """Parameters and buffers as they lie in memory."""
    bytes_packed: int
    """The same, storing non-zero values and one bit per place."""

    @property
    def compression(self) -> float:
        """All parameters over the non-zero ones."""
        return self.parameters / max(self.nonzero, 1)

    @property
    def speedup(self) -> float:
        """Theoretical: multiply-adds over those with kept weights."""
        return self.macs / max(self.macs_nonzero, 1)


def count(module: nn.Module, input_shape: Sequence[int] | Tensor, mask: Tensor | None = None) -> Size:
    """Count what a network costs.

    Args:
        module: any module.
        input_shape: shape of one input, without the batch; or an example batch (1, ...), for tokens say.
        mask: (P,) kept weights, in the order of a `WeightSpace` of this module; when None, the exact zeros that are
            there count, also those by chance, such as fresh biases.

    Returns:
        The counts, for one example.
    """
    kept = _kept(module, mask)
    macs: list[tuple[int, float]] = []
    record = lambda layer, inputs, output: macs.extend(_layer_macs(layer, inputs, output, kept))  # noqa: E731
    with _hooked(module, record), evaluating(module):
        module(example(module, input_shape))
    parameters = list(module.parameters())
    nonzero = sum(int(kept[id(p)].sum()) for p in parameters)
    stored = [*parameters, *module.buffers()]
    size = sum(t.numel() * t.element_size() for t in stored)
    saved = sum((p.numel() - int(kept[id(p)].sum())) * p.element_size() for p in parameters)
    bitmap = sum(-(-p.numel() // 8) for p in parameters if not kept[id(p)].all())
    return Size(
        parameters=sum(p.numel() for p in parameters),
        nonzero=nonzero,
        macs=sum(m for m, _ in macs),
        macs_nonzero=sum(m * d for m, d in macs),
        bytes=size,
        bytes_packed=size - saved + bitmap,
    )


def latency(
    module: nn.Module,
    input_shape: Sequence[int] | Tensor,
    batch: int = 1,
    *,
    repeats: int = 30,
    warmup: int = 5,
) -> Estimate:
    """Seconds of one forward pass, measured: the median, with its standard error.

    The error is that of a median of normal times, 1.2533 sigma / sqrt(n), sigma from the median absolute deviation, so
    that a hiccup of the machine does not count.

    Args:
        module: runs in evaluation mode on the device where it lies.
        input_shape: shape of one input, without the batch; or an example batch (1, ...).
        batch: inputs at once; report 1 and 64.
        repeats: measured passes, at least 30.
        warmup: passes before those.

    Raises:
        InputError: fewer than 30 repeats.
    """
    if repeats < 30:
        raise InputError(f"a median of times needs at least 30 repeats to be trusted; got {repeats}")
    x = example(module, input_shape)
    x = x.repeat(batch, *[1] * (x.dim() - 1))
    with evaluating(module):
        times = [_timed(module, x) for _ in range(warmup + repeats)][warmup:]
    median = statistics.median(times)
    sigma = 1.4826 * statistics.median(abs(t - median) for t in times)
    mean, stderr = torch.tensor([median, 1.2533 * sigma / repeats**0.5], dtype=torch.float64)
    return Estimate(mean, stderr, repeats)


def keep_fraction(space: WeightSpace, compression: float, exclude: Iterable[str] = ()) -> float:
    """Density of the prunable weights that makes the whole network `compression` times smaller.

        f = (parameters / c - parameters that stay) / prunable

    Args:
        space: the network.
        compression: all parameters over the non-zero ones, at least 1.
        exclude: layers that stay whole.

    Raises:
        InputError: the parameters that stay alone are too many.
    """
    if compression < 1:
        raise InputError(f"compression is all parameters over the kept ones, at least 1; got {compression}")
    prunable = sum(b.size for b in prunable_blocks(space, exclude))
    stay = space.size - prunable
    fraction = (space.size / compression - stay) / prunable
    if fraction <= 0:
        raise InputError(
            f"{compression:g} times smaller would be {space.size / compression:,.0f} parameters, but {stay:,} are never"
            f" pruned; ask for less than {space.size / max(stay, 1):.4g}"
        )
    return fraction


def example(module: nn.Module, input_shape: Sequence[int] | Tensor) -> Tensor:
    """An input batch of one for a module, where its weights lie; of given examples the first."""
    here = next(module.parameters(), torch.empty(0))
    if isinstance(input_shape, Tensor):
        return input_shape[:1].to(here.device)
    return torch.zeros(1, *input_shape, dtype=here.dtype, device=here.device)


def _kept(module: nn.Module, mask: Tensor | None) -> dict[int, Tensor]:
    """For each parameter, by identity, which of its elements count as non-zero."""
    names, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    if mask is not None:
        parts = WeightSpace(lambda: module).split(mask)
        return {id(p): parts[n] if n in parts else torch.ones_like(p, dtype=torch.bool) for n, p in names.items()}
    masked = {n: b for n, p in names.items() if (b := buffers.get(f"{n.removesuffix('_orig')}_mask")) is not None}
    return {id(p): masked.get(n, p.detach()) != 0 for n, p in names.items()}  # a mask of torch.nn.utils.prune counts


def _layer_macs(
    layer: nn.Module, inputs: tuple[Tensor, ...], output: Any, kept: dict[int, Tensor]
) -> Iterator[tuple[int, float]]:
    """(multiply-adds, density) of each weight of a layer that saw one example."""
    if isinstance(layer, nn.MultiheadAttention):
        yield from _attention_macs(layer, inputs, kept)
    elif isinstance(layer, nn.Linear):
        yield layer.weight.numel() * output.shape[:-1].numel(), _share(layer.weight, kept)
    elif isinstance(layer, _TRANSPOSED):  # each input position meets the whole kernel
        yield layer.weight.numel() * inputs[0][:, 0].numel(), _share(layer.weight, kept)
    elif isinstance(layer, _CONVOLUTIONS):
        yield layer.weight.numel() * output[:, 0].numel(), _share(layer.weight, kept)


def _attention_macs(
    layer: nn.MultiheadAttention, inputs: tuple[Tensor, ...], kept: dict[int, Tensor]
) -> Iterator[tuple[int, float]]:
    """The four projections, which do not run as linear layers of their own."""
    tokens = [t.shape[:-1].numel() for t in inputs[:3]]  # of query, key and value
    joint = layer.in_proj_weight
    if joint is not None:
        yield joint.numel() // 3 * sum(tokens), _share(joint, kept)
    else:
        for weight, n in zip((layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight), tokens, strict=True):
            yield weight.numel() * n, _share(weight, kept)
    yield layer.out_proj.weight.numel() * tokens[0], _share(layer.out_proj.weight, kept)


def _share(weight: Tensor, kept: dict[int, Tensor]) -> float:
    """Density of a weight; one that is computed from others (a mask's product) has its own zeros."""
    return kept.get(id(weight), weight != 0).double().mean().item()


@contextmanager
def _hooked(module: nn.Module, seen: Callable[[nn.Module, tuple[Tensor, ...], Any], None]) -> Iterator[None]:
    """Call `seen` at each forward pass of a layer that is counted."""

    def hook(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        seen(layer, (*args, *(named[k] for k in ("input", "query", "key", "value") if k in named)), output)

    handles = [m.register_forward_hook(hook, with_kwargs=True) for m in module.modules() if isinstance(m, _COUNTED)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _timed(module: nn.Module, x: Tensor) -> float:
    _synchronise(x.device)
    start = time.perf_counter()
    module(x)
    _synchronise(x.device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    """Wait for an accelerator, whose calls return before they are done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
