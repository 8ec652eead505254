"""Tickets as files, and masks in the form of `torch.nn.utils.prune`.

A ticket's file is safetensors: every tensor under its own name, the mask of a prunable tensor `w` under `w:mask`, and
a JSON text in the header. Nothing is unpickled on the way back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import prune

from surplus.errors import InputError, StoreError
from surplus.pruning.masks import Ticket, density
from surplus.space import WeightSpace
from surplus.training.store import write_atomically

_FORMAT = "surplus ticket 1"


def save_ticket(
    path: str | Path, space: WeightSpace, theta: Tensor, mask: Tensor, meta: Mapping[str, Any] | None = None
) -> Path:
    """Write a mask and the weights that it starts from.

    Args:
        path: the file, usually *.safetensors; replaced in one step if it is there.
        space: the network.
        theta: (P,) the start, with the values of removed weights too.
        mask: (P,) the kept weights.
        meta: what else belongs to the ticket (seed, level, accuracy ...): anything that JSON holds.

    Returns:
        The path.
    """
    kept = density(space, mask)
    tensors = {name: t.detach().cpu().contiguous() for name, t in space.split(theta).items()}
    tensors |= {f"{name}:mask": m.cpu().contiguous() for name, m in space.split(mask).items()}
    header = {"format": _FORMAT, "density": repr(kept), "meta": json.dumps(dict(meta or {}))}
    path = Path(path)
    write_atomically(path, save({n: t.clone() for n, t in tensors.items()}, header))
    return path


def load_ticket(path: str | Path, space: WeightSpace) -> Ticket:
    """Read a ticket back.

    Args:
        path: a file of `save_ticket`.
        space: the network; its tensors must have the names and shapes of the file's.

    Raises:
        StoreError: the file is damaged or is no ticket.
        InputError: there is no such file, or the ticket is of another network.
    """
    header, tensors = _read(path)
    if header.get("format") != _FORMAT:
        raise StoreError(f"{path} is a safetensors file but no ticket; write one with save_ticket")
    for block in space.blocks:
        found = tensors.get(block.name)
        if found is None or found.shape != block.shape:
            shown = "nothing" if found is None else f"shape {tuple(found.shape)}"
            raise InputError(
                f"the ticket in {path} is of another network:"
                f" {block.name} has shape {tuple(block.shape)} here, {shown} there"
            )
    theta = space.join(tensors)
    mask = space.join({b.name: tensors[f"{b.name}:mask"] for b in space.blocks})
    return Ticket(theta, mask, json.loads(header["meta"]))


def to_torch_prune(space: WeightSpace, theta: Tensor, mask: Tensor) -> nn.Module:
    """A module at theta (P,) whose prunable weights carry their masks (P,) as `torch.nn.utils.prune` does.

    `weight_orig` is the parameter, `weight_mask` the buffer, and `weight` their product at every forward pass.
    """
    module = space.write(theta)
    parts = space.split(mask)
    for block in space.blocks:
        if block.prunable:
            owner, leaf = module.get_submodule(block.layer), block.name.rpartition(".")[2]
            prune.custom_from_mask(owner, leaf, parts[block.name].to(theta))
    return module


def from_torch_prune(space: WeightSpace, module: nn.Module) -> Ticket:
    """The ticket of a module that `torch.nn.utils.prune` has pruned: its unpruned values, and what its masks keep.

    Args:
        space: the network as it is without pruning.
        module: pruned by masks; tensors without a mask count as kept whole.

    Raises:
        InputError: the module is not one of this network.
    """
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    values, masks = {}, {}
    for block in space.blocks:
        value = parameters.get(f"{block.name}_orig", parameters.get(block.name))
        if value is None or value.shape != block.shape:
            shape = tuple(block.shape)
            raise InputError(f"this module is not of the given network: it has no {block.name} of shape {shape}")
        values[block.name] = value
        masks[block.name] = buffers.get(f"{block.name}_mask", torch.ones_like(value)) != 0
    return Ticket(space.join(values), space.join(masks))


def _read(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path} cannot be read as safetensors ({error}); it is damaged or something else") from None
