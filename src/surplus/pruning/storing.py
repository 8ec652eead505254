"""Modules of any layer sizes as a folder: `weights.safetensors` and `config.json`; nothing is unpickled.

The configuration names the network that it was made from and lists the size of every layer. Loading builds the
network afresh (by its name, or by a function of the caller's), puts a layer of the listed size in the place of each
that differs, and loads the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load, save
from torch import Tensor, nn

from surplus.errors import InputError, StoreError
from surplus.pruning.dead_units import SelectLinear
from surplus.pruning.export import write_atomically

_FORMAT = "surplus module 1"
_WEIGHTS, _CONFIG = "weights.safetensors", "config.json"

_CONVOLUTION = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
_TRANSPOSED = ("kernel_size", "stride", "padding", "output_padding", "groups", "dilation", "padding_mode")
_BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features"),
    SelectLinear: ("in_features", "out_features"),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), ("in_channels", "out_channels", *_CONVOLUTION)),
    **dict.fromkeys(
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), ("in_channels", "out_channels", *_TRANSPOSED)
    ),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _BATCH_NORM),
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
    nn.RMSNorm: ("normalized_shape", "eps", "elementwise_affine"),
    nn.Embedding: ("num_embeddings", "embedding_dim", "padding_idx"),
    nn.PReLU: ("num_parameters",),
}
_BIASED = (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm)
_TYPES = {c.__name__: c for c in _ARGUMENTS}


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
        module: the network; linear, convolution, normalisation and embedding layers may have any size.
        network: what built it, {"name", "input_shape", "outputs", "options"} of `surplus.networks.build`; a network of
            your own has none, and `load_module` is then given its factory.
        meta: what else belongs to it: anything that JSON holds.

    Returns:
        The folder.
    """
    folder = Path(folder)
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in module.state_dict().items()}
    weights = save(tensors)
    config = {
        "format": _FORMAT,
        "network": _checked(network) if network is not None else None,
        "layers": {name: d for name, m in module.named_modules() if (d := _describe(m)) is not None},
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
    for name, described in config["layers"].items():
        _fit(module, name, described, tensors, folder)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"the factory builds another network than the one in {folder}: {error}") from None
    return module.eval()


def _describe(layer: nn.Module) -> dict[str, Any] | None:
    """Type and constructor arguments of a layer that may change its size; None for others."""
    names = _ARGUMENTS.get(type(layer))
    if names is None:
        return None
    arguments = {n: _plain(getattr(layer, n)) for n in names}
    if isinstance(layer, _BIASED):
        arguments["bias"] = layer.bias is not None
    return {"type": type(layer).__name__, "arguments": arguments}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _fit(
    module: nn.Module, name: str, described: dict[str, Any], tensors: dict[str, Tensor], folder: str | Path
) -> None:
    """Put a layer of the described size where the built one differs."""
    parent, _, leaf = name.rpartition(".")
    try:
        present = module.get_submodule(name)
    except AttributeError:
        raise InputError(f"the factory builds another network than that of {folder}: no layer {name!r}") from None
    if _describe(present) == described or not name:
        return
    kind = _TYPES.get(described["type"])
    if kind is None:
        raise StoreError(f"{folder} lists a layer of type {described['type']!r}; known are {', '.join(_TYPES)}")
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in described["arguments"].items()}
    new = cast(Callable[..., nn.Module], kind)(**arguments)
    weight = tensors.get(f"{name}.weight")
    setattr(module.get_submodule(parent), leaf, new if weight is None else new.to(weight.dtype))


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
