"""Leaving out the units that a mask has cut off, with the function of the network unchanged.

A unit whose outgoing weights are all zero is unheard. A unit whose incoming weights are all zero is a constant c, and

    W x + b  =  W_rest x_rest + (b + sum_j W_j c_j)

so that its constant moves into the next bias and it is unheard too. Through convolutions with zero padding this is
exact only for c = 0 (the border sees fewer terms), so such a unit stays. Folding goes forwards through the network,
leaving out backwards; both reach every unit that a path of zero weights cuts off.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import is_pruned

from surplus.errors import InputError
from surplus.space import WeightSpace
from surplus.space.units import (
    CONVOLUTIONS,
    NORMS,
    Link,
    SelectLinear,
    is_unitwise,
    links,
    repeated,
    resized,
    weighted,
)


def remove_dead_units(module: nn.Module, mask: Tensor | None = None, *, inputs: bool = True) -> nn.Module:
    """A smaller network of the same function, in evaluation mode: cut-off units are physically gone.

    Units count as cut off where exact zeros cut them off. They are looked for between linear or convolution layers that
    follow one another through activations, batch normalisation, pooling, dropout and flattening; a unit that a skip
    connection, a concatenation or attention also reads stays. At least one unit stays in each layer.

    Args:
        module: any network that `torch.fx` can trace; it is left as it is.
        mask: (P,) applied first, in the order of a `WeightSpace` of this module; None takes the zeros that are there.
        inputs: also leave out the columns of unread inputs of linear layers (which become `SelectLinear`).

    Returns:
        A new module in evaluation mode. `save_module` writes it, `count` shows what was saved.

    Raises:
        InputError: the network cannot be traced, or its weights are computed from others.
    """
    if is_pruned(module) or any(is_parametrized(m) for m in module.modules()):
        raise InputError(
            "some weights are computed from others (torch.nn.utils.prune or parametrize); make them plain first:"
            " from_torch_prune reads the mask to give here"
        )
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    small = copy.deepcopy(module).eval().cpu()  # constants are folded in float64, which not every device has
    with torch.no_grad():
        if mask is not None:
            parameters = dict(small.named_parameters())
            for name, part in WeightSpace(lambda: small).split(mask).items():
                parameters[name].masked_fill_(~part.cpu(), 0)
        found = links(small)
        for link in found:
            _fold_constants(small, link)
        for link in reversed(found):
            _drop_unheard(small, link)
        if inputs:
            _drop_inputs(small, {link.after for link in found})
    return small.to(device)


def _fold_constants(module: nn.Module, link: Link) -> None:
    """Move what constant units send into the next layer's bias, and cut them off from it."""
    before, after = weighted(module, link.before), weighted(module, link.after)
    constant = (before.weight == 0).flatten(1).all(1)  # (units,)
    value = torch.zeros(len(constant)) if before.bias is None else before.bias
    sent = _through(module, link, value.detach().to(before.weight.device, torch.float64))  # (inputs of after,)
    columns = constant.repeat_interleave(len(sent) // len(constant))
    if _pads_with_zeros(after):
        columns &= sent == 0
    gain = after.weight.double().flatten(2).sum(2) if after.weight.dim() > 2 else after.weight.double()
    shift = gain[:, columns] @ sent[columns]
    if shift.any():
        bias = shift if after.bias is None else after.bias + shift
        learns = after.weight.requires_grad if after.bias is None else after.bias.requires_grad
        after.bias = nn.Parameter(bias.to(after.weight.dtype), learns)
    after.weight[:, columns] = 0


def _through(module: nn.Module, link: Link, value: Tensor) -> Tensor:
    """What constant units (units,) become on their way to the next layer, (inputs of that layer,)."""
    after = weighted(module, link.after)
    for node in link.between:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, NORMS):
            value = value.repeat_interleave(layer.num_features // len(value))
            spatial = (1,) * (0 if isinstance(layer, nn.BatchNorm1d) else 2 + isinstance(layer, nn.BatchNorm3d))
            value = copy.deepcopy(layer).double()(value.view(1, -1, *spatial)).flatten()
        elif layer is not None and is_unitwise(node, layer):
            value = copy.deepcopy(layer).double()(value.clone())
        elif layer is None and is_unitwise(node, layer):
            fn: Any = getattr(Tensor, node.target) if isinstance(node.target, str) else node.target
            value = fn(value.clone(), *node.args[1:], **node.kwargs)
    return value.repeat_interleave(after.weight.shape[1] // len(value))


def _drop_unheard(module: nn.Module, link: Link) -> None:
    """Leave out the units that the next layer does not read."""
    before, after = weighted(module, link.before), weighted(module, link.after)
    units = before.weight.shape[0]
    heard = (after.weight != 0).transpose(0, 1).reshape(units, -1).any(1)
    if heard.all():
        return
    if not heard.any():  # at least one unit stays, and need not listen
        heard[0] = True
        before.weight[0] = 0
    keep = heard.nonzero().squeeze(1)
    _replace(module, link.before, resized(before, rows=keep))
    _replace(module, link.after, resized(after, columns=repeated(heard, after.weight.shape[1])))
    for node in link.between:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, NORMS):
            _replace(module, str(node.target), resized(layer, rows=repeated(heard, layer.num_features)))


def _drop_inputs(module: nn.Module, linked: set[str]) -> None:
    """Leave out the columns of linear layers whose inputs are not ours to leave out, but are not read."""
    owners = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
    for name, layer in list(module.named_modules()):
        if type(layer) is not nn.Linear or not name or name in linked or owners[id(layer.weight)] > 1:
            continue
        read = (layer.weight != 0).any(0)
        if read.all():
            continue
        read[0] |= not read.any()
        index = read.nonzero().squeeze(1)
        new = SelectLinear(len(index), layer.out_features, layer.bias is not None, index)
        new.weight, new.bias = nn.Parameter(layer.weight[:, index], layer.weight.requires_grad), layer.bias
        _replace(module, name, new.eval())


def _pads_with_zeros(layer: nn.Module) -> bool:
    if not isinstance(layer, CONVOLUTIONS) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return False
    return any(k > 1 for k in layer.kernel_size) if layer.padding == "same" else any(p != 0 for p in layer.padding)


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)
