"""Modules of any layer sizes as a folder: `weights.safetensors` and `config.json`; nothing is unpickled.

The configuration names the network that it was made from and lists the size of every layer. Loading builds the
network afresh (by its name, or by a function of the caller's), brings each layer to the listed size, and loads the
weights. What else a layer is (stride, padding, a class of your own) comes from the network that was built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from surplus.errors import InputError, StoreError
from surplus.pruning.structured.heads import FewerHeads
from surplus.space.units import SelectLinear
from surplus.training.store import write_atomically

_FORMAT = "surplus module 1"
_WEIGHTS, _CONFIG = "weights.safetensors", "config.json"
_SIZES = (
    *("in_features", "out_features", "in_channels", "out_channels", "groups", "num_features", "normalized_shape"),
    *("num_groups", "num_channels", "num_embeddings", "embedding_dim", "num_parameters", "heads"),
)


def save_module(
    folder: str | Path,
    module: nn.Module,
    *,
    network: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """Write a module, whatever the sizes of its layers.

    Args:
        folder: made if it is not there.
        module: the network, after `shrink` or `remove_dead_units`, or as it was built.
        network: what built it, {"name", "input_shape", "outputs", "options"} of `surplus.networks.build`; a network of
            your own has none, and `load_module` is then given its factory.
        meta: what else belongs to it: anything that JSON holds.

    Returns:
        The folder.
    """
    folder = Path(folder)
    weights = save({n: t.detach().cpu().contiguous().clone() for n, t in module.state_dict().items()})
    config = {
        "format": _FORMAT,
        "network": None if network is None else _checked(network),
        "layers": {name: sizes for name, m in module.named_modules() if (sizes := _sizes(m))},
        "selecting": [name for name, m in module.named_modules() if isinstance(m, SelectLinear)],
        "fewer_heads": {n: m.kept.tolist() for n, m in module.named_modules() if isinstance(m, FewerHeads)},
        "sha256": hashlib.sha256(weights).hexdigest(),
        "meta": dict(meta or {}),
    }
    write_atomically(folder / _WEIGHTS, weights)
    write_atomically(folder / _CONFIG, json.dumps(config, indent=2).encode())
    return folder


def load_module(folder: str | Path, make: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Build a saved module again, in evaluation mode.

    Args:
        folder: as `save_module` wrote it.
        make: builds the network in its original sizes; needed when it was saved without a network's name.

    Raises:
        StoreError: the folder is damaged.
        InputError: there is no such folder, no factory is known, or the factory builds another network.
    """
    config, tensors = _read(Path(folder))
    module = (make or _factory(config, folder))()
    try:
        for name in config["selecting"]:
            _make_selecting(module, name)
        for name, kept in config.get("fewer_heads", {}).items():
            _make_fewer_heads(module, name, kept)
        for name, sizes in config["layers"].items():
            _set_sizes(module.get_submodule(name), sizes)
        _make_room(module, tensors)
        module.load_state_dict(tensors)
    except (AttributeError, RuntimeError) as error:
        raise InputError(f"the factory builds another network than the one in {folder}: {error}") from None
    return module.eval()


def _sizes(layer: nn.Module) -> dict[str, int | list[int]]:
    """Those of a layer's attributes that shrinking changes."""
    found = {name: getattr(layer, name, None) for name in _SIZES}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items() if isinstance(v, int | tuple)}


def _set_sizes(layer: nn.Module, sizes: dict[str, Any]) -> None:
    for name, value in sizes.items():
        plain = isinstance(value, int) or (isinstance(value, list) and all(isinstance(v, int) for v in value))
        if name not in _SIZES or not plain:
            raise StoreError(f"the configuration sets {name!r} to {value!r}, which is no size of a layer")
        if not hasattr(layer, name):
            raise AttributeError(f"a {type(layer).__name__} has no {name}")
        setattr(layer, name, tuple(value) if isinstance(value, list) else value)


def _make_selecting(module: nn.Module, name: str) -> None:
    """Put a layer that reads some of its inputs in the place of a linear one."""
    parent, _, leaf = name.rpartition(".")
    layer = module.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise AttributeError(f"{name} is a {type(layer).__name__}, not a linear layer")
    new = SelectLinear(layer.in_features, layer.out_features, layer.bias is not None)
    setattr(module.get_submodule(parent), leaf, new)


def _make_fewer_heads(module: nn.Module, name: str, kept: list[int]) -> None:
    """Put attention with some of its heads in the place of torch's."""
    parent, _, leaf = name.rpartition(".")
    layer = module.get_submodule(name)
    if not isinstance(layer, nn.MultiheadAttention):
        raise AttributeError(f"{name} is a {type(layer).__name__}, not torch's attention")
    setattr(module.get_submodule(parent), leaf, FewerHeads(layer, torch.tensor(kept)))


def _make_room(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give each parameter and buffer the shape and type of its tensor; shared ones stay shared."""
    renewed: dict[int, nn.Parameter] = {}
    for name, tensor in tensors.items():
        parent, _, leaf = name.rpartition(".")
        owner = module.get_submodule(parent)
        old = owner._parameters.get(leaf, owner._buffers.get(leaf))
        if old is not None and (old.shape, old.dtype) == (tensor.shape, tensor.dtype):
            continue
        if leaf in owner._parameters:
            learns = old is None or old.requires_grad
            new = nn.Parameter(torch.empty_like(tensor), learns and tensor.is_floating_point())
            owner._parameters[leaf] = new if old is None else renewed.setdefault(id(old), new)
        elif leaf in owner._buffers:
            owner._buffers[leaf] = torch.empty_like(tensor)


def _factory(config: dict[str, Any], folder: str | Path) -> Callable[[], nn.Module]:
    network = config["network"]
    if network is None:
        raise InputError(
            f"{folder} was saved without a network's name; give its factory: load_module(folder, make=...)"
        )
    from surplus.networks import build

    shape, options = tuple(network["input_shape"]), network.get("options", {})
    return lambda: build(network["name"], shape, network["outputs"], **options)


def _checked(network: Mapping[str, Any]) -> dict[str, Any]:
    missing = {"name", "input_shape", "outputs"} - set(network)
    if missing:
        names = ", ".join(sorted(missing))
        raise InputError(f"a network is described by name, input_shape, outputs and options; missing: {names}")
    return {**network, "input_shape": list(network["input_shape"])}


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        text, weights = (folder / _CONFIG).read_text(), (folder / _WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no saved module: {error.filename} is missing") from None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise StoreError(f"{folder / _CONFIG} is damaged: {error}") from None
    if config.get("format") != _FORMAT:
        raise StoreError(f"{folder / _CONFIG} is not of save_module, or of a later version")
    if hashlib.sha256(weights).hexdigest() != config["sha256"]:
        raise StoreError(f"{folder / _WEIGHTS} is not the file that {_CONFIG} belongs to; save the module again")
    return config, load(weights)
