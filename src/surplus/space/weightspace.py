"""`WeightSpace`: a network's parameters as one flat vector `theta`, and the network as a pure function of it.

    theta in R^P,  logits = f(theta, x)

K replicas are one matrix (K, P). Weights that a module shares between layers appear once. Buffers (the running
statistics of batch normalisation) are not weights: they are re-estimated for the very point that is evaluated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from surplus.errors import InputError
from surplus.space.randomness import seeded

Buffers = dict[str, Tensor]

_PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORMS = (*_BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Block:
    """One parameter tensor's place in the flat vector."""

    name: str
    """Dotted name, as in `module.named_parameters()`."""
    shape: torch.Size
    start: int
    stop: int
    layer: str
    """Dotted name of the module that owns it."""
    kind: str
    """`weight`, `bias`, `norm`, `embedding` or `other`."""
    prunable: bool
    """Whether it is the weight of a linear or convolution layer (or an attention projection)."""

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)


class WeightSpace:
    """The flat coordinates of one architecture.

    Args:
        make: builds the module; called once here, and once per `init(seed)`.

    Raises:
        InputError: the module has no trainable parameter, or parameters of several dtypes.
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self.make = make
        with seeded(0):
            self.module = make()
        trainable = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        if not trainable:
            raise InputError(f"{type(self.module).__name__} has no trainable parameter; surplus needs at least one")
        dtypes = {p.dtype for p in trainable.values()}
        if len(dtypes) > 1:
            raise InputError(
                f"parameters come in several dtypes ({', '.join(map(str, dtypes))}); give them one, e.g. module.float()"
            )
        self.dtype = dtypes.pop()
        self.blocks = tuple(_blocks(self.module, trainable))
        self.size = self.blocks[-1].stop
        self._sizes = [b.size for b in self.blocks]
        self._aliases = _aliases(self.module)
        self.batch_norms = [
            n for n, m in self.module.named_modules() if isinstance(m, _BATCH_NORMS) and m.running_mean is not None
        ]
        self.has_dropout = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in self.module.modules())
        self.vmaps = True
        """Whether `torch.func.vmap` can follow the network; `try_out` finds out."""

    def __repr__(self) -> str:
        return f"WeightSpace({type(self.module).__name__}, P={self.size:,}, blocks={len(self.blocks)})"

    def __getitem__(self, name: str) -> Block:
        return next(b for b in self.blocks if b.name == name)

    def try_out(self, x: Tensor) -> Tensor:
        """Outputs of an initial point on a small batch x, once every way that the network will be run in.

        Finds out whether training draws random numbers, and whether vmap can follow the network.
        """
        theta = self.init(0)
        out = self.apply(theta, x)
        with seeded(0), torch.no_grad():
            before = torch.get_rng_state()
            if len(x) > 1 or not self.batch_norms:
                self.apply(theta, x, train=True)
            self.has_dropout |= not torch.equal(before, torch.get_rng_state())
            try:
                self.apply(theta.expand(2, -1), x)
            except RuntimeError:
                self.vmaps = False
        return out

    # ---- points ---------------------------------------------------------------------------------------------------

    def init(self, seed: int) -> Tensor:
        """The point (P,) where the module's own initialisation would start under `torch.manual_seed(seed)`."""
        with seeded(seed):
            return self.read(self.make())

    def init_many(self, seeds: Iterable[int]) -> Tensor:
        """Initial points (K, P), one per seed."""
        return torch.stack([self.init(s) for s in seeds])

    def read(self, module: nn.Module) -> Tensor:
        """The point (P,) where a module of this architecture stands now."""
        return self.join(dict(module.named_parameters()))

    def write(self, theta: Tensor, buffers: Buffers | None = None) -> nn.Module:
        """A module of its own that stands at `theta` (P,), with these buffers: for saving and other libraries."""
        module = copy.deepcopy(self.module)
        state = {**{n: t.detach().clone() for n, t in self.split(theta).items()}, **(buffers or {})}
        module.load_state_dict(state | {a: state[n] for a, n in self._aliases.items() if n in state}, strict=False)
        return module.to(theta.device).eval()

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """Views of `theta` (..., P) by name, each (..., *shape); writing into one writes into theta."""
        if theta.shape[-1] != self.size:
            raise InputError(f"this network has P = {self.size:,} weights; got a vector of shape {tuple(theta.shape)}")
        parts = theta.split(self._sizes, dim=-1)  # one split, so that its backward is one concatenation
        return {b.name: part.view(*theta.shape[:-1], *b.shape) for b, part in zip(self.blocks, parts, strict=True)}

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `split`: tensors by name, each (..., *shape), to one vector (..., P); a copy."""
        tensors = [parts[b.name].detach() for b in self.blocks]
        lead = tensors[0].shape[: tensors[0].dim() - len(self.blocks[0].shape)]
        return torch.cat([t.reshape(*lead, -1) for t in tensors], dim=-1)

    @cached_property
    def prunable(self) -> Tensor:
        """(P,) True where a weight belongs to a prunable block."""
        mask = torch.zeros(self.size, dtype=torch.bool)
        for block in self.blocks:
            mask[block.slice] = block.prunable
        return mask

    # ---- the network as a pure function -----------------------------------------------------------------------------

    def fresh_buffers(self, device: torch.device | str = "cpu", replicas: int | None = None) -> Buffers:
        """The buffers as the module builds them, (*shape) or (K, *shape)."""
        lead = () if replicas is None else (replicas,)
        return {n: b.detach().to(device).expand((*lead, *b.shape)).clone() for n, b in self.module.named_buffers()}

    def apply(self, theta: Tensor, x: Tensor, buffers: Buffers | None = None, *, train: bool = False) -> Tensor:
        """f(theta, x): the network's output, pure in theta.

        Args:
            theta: (P,), or (K, P) for K networks at once.
            x: (B, ...) the same batch for all; `apply_each` takes one batch for each.
            buffers: batch-norm statistics for this theta, from `statistics`; the module's fresh ones when None.
            train: use the batch's own statistics (and dropout), as training does.

        Returns:
            (B, ...), or (K, B, ...).
        """
        if theta.dim() == 1:
            return self._call(theta, x, buffers or self.fresh_buffers(theta.device), train)
        buffers = buffers or self.fresh_buffers(theta.device, len(theta))
        return vmap(lambda t, b: self._call(t, x, b, train), randomness="different")(theta, buffers)

    def apply_each(self, theta: Tensor, x: Tensor, buffers: Buffers | None = None, *, train: bool = False) -> Tensor:
        """K networks, each on its own batch: theta (K, P), x (K, B, ...) -> (K, B, ...)."""
        buffers = buffers or self.fresh_buffers(theta.device, len(theta))
        return vmap(lambda t, i, b: self._call(t, i, b, train), randomness="different")(theta, x, buffers)

    def statistics(self, theta: Tensor, batches: Iterable[Tensor]) -> Buffers | None:
        """Batch-norm statistics re-estimated at the point theta: the plain average over `batches` of inputs.

        Args:
            theta: (P,) or (K, P).
            batches: input batches (B, ...) from the training inputs.

        Returns:
            Buffers for `apply`, each (...) or (K, ...); None when the network keeps no statistics.
        """
        if not self.batch_norms:
            return None
        buffers = self.fresh_buffers(theta.device, None if theta.dim() == 1 else len(theta))
        norms: list[Any] = [self.module.get_submodule(n) for n in self.batch_norms]
        momenta = [m.momentum for m in norms]
        self.module.eval()  # the root says evaluation, so no dropout; the norms alone train
        try:
            for i, x in enumerate(batches):
                for norm in norms:
                    norm.train().momentum = 1 / (i + 1)  # cumulative average: each batch weighs the same
                with torch.no_grad():
                    self.apply(theta, x, buffers)  # updates `buffers` in place
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.eval().momentum = momentum
        return buffers

    def _call(self, theta: Tensor, x: Tensor, buffers: Buffers, train: bool) -> Tensor:
        if self.module.training != train:
            self.module.train(train)
        state: dict[str, Any] = {**self.split(theta), **buffers}
        return functional_call(self.module, state, (x,), tie_weights=True)


def _blocks(module: nn.Module, trainable: dict[str, nn.Parameter]) -> Iterable[Block]:
    start = 0
    for name, parameter in trainable.items():
        layer, _, leaf = name.rpartition(".")
        owner = module.get_submodule(layer)
        kind = _kind(owner, leaf)
        prunable = (isinstance(owner, _PRUNABLE) and leaf == "weight") or (
            isinstance(owner, nn.MultiheadAttention) and leaf.endswith("proj_weight")
        )
        yield Block(name, parameter.shape, start, start + parameter.numel(), layer, kind, prunable)
        start += parameter.numel()


def _kind(owner: nn.Module, leaf: str) -> str:
    if isinstance(owner, _NORMS):
        return "norm"
    if isinstance(owner, nn.Embedding):
        return "embedding"
    if "bias" in leaf:
        return "bias"
    return "weight" if "weight" in leaf else "other"


def _aliases(module: nn.Module) -> dict[str, str]:
    """Other names of shared parameters: {alias: first name}."""
    first: dict[int, str] = {}
    aliases = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            aliases[name] = first[id(parameter)]
        first.setdefault(id(parameter), name)
    return aliases
