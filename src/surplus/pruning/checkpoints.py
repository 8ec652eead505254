"""A pruned network in one file that other programs read: written out, compressed rows, 2:4, or ONNX.

    layout   holds, of each prunable tensor as a matrix (out, inputs)                              float32, density d
    dense    all of it, zeros written out: a plain state dict                                      4 bytes a weight
    csr      crow (out + 1), the columns and the values of kept weights, row by row                about (4 + i) d
    2:4      two values of every four neighbours in a row, and their places in two bits each       2.125
    onnx     the graph and all of it, zeros written out                                            4

i is what a column's number takes: 1, 2 or 4 bytes, the least that hold all of a tensor's. The first three are
safetensors files; other tensors (biases, normalisation, buffers) lie in them as they are. Nothing is unpickled on the
way back, and weights come back bit for bit. `load_checkpoint` sees from the file which it is.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from surplus.errors import InputError, MissingExtra, StoreError, unknown
from surplus.pruning.counting import example
from surplus.space import WeightSpace
from surplus.space.units import evaluating
from surplus.space.weightspace import Buffers
from surplus.training.store import write_atomically

Layout = Literal["dense", "csr", "2:4"]
_FORMAT = "surplus checkpoint 1"


@dataclass(frozen=True)
class Checkpoint:
    """What a file of `save_checkpoint` holds."""

    layout: str
    tensors: dict[str, Tensor]
    """The state dict, with zeros written out."""
    bytes: int
    """Size of the file."""
    sparse: dict[str, Tensor] = field(default_factory=dict)
    """For the layout csr: the prunable tensors as `torch.sparse_csr` matrices (out, inputs)."""
    meta: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: str | Path,
    space: WeightSpace,
    theta: Tensor,
    mask: Tensor | None = None,
    *,
    layout: Layout = "dense",
    buffers: Buffers | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """Write a pruned network.

    Args:
        path: the file, usually *.safetensors; replaced in one step if it is there.
        space: the network.
        theta: (P,) the weights.
        mask: (P,) what is kept; what is not zero, when None.
        layout: `dense`, `csr` or `2:4`.
        buffers: batch-norm statistics of this point (`task.statistics(theta)`); fresh ones when None.
        meta: what else belongs to it: anything that JSON holds.

    Returns:
        The path; `path.stat().st_size` is what it costs.

    Raises:
        InputError: an unknown layout; for 2:4 a tensor that is neither whole nor keeps two of every four at most.
    """
    if layout not in get_args(Layout):
        raise unknown("layout", layout, get_args(Layout))
    module, kept = _standing(space, theta, mask, buffers)
    tensors = _state(module)
    shapes: dict[str, list[int]] = {}
    for block in space.blocks if layout != "dense" else ():
        if block.prunable:
            packed = _PACK[layout](block.name, tensors[block.name], kept[block.name])
            if packed:
                shapes[block.name] = list(block.shape)
                del tensors[block.name]
                tensors |= {f"{block.name}:{part}": t for part, t in packed.items()}
    header = {"format": _FORMAT, "layout": layout, "packed": json.dumps(shapes), "meta": json.dumps(dict(meta or {}))}
    path = Path(path)
    write_atomically(path, save({n: t.cpu().contiguous().clone() for n, t in tensors.items()}, header))
    return path


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file of `save_checkpoint` as tensors.

    Raises:
        InputError: there is no such file.
        StoreError: it is damaged, or something else.
    """
    data = _bytes(path)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
        stored = load(data)
    except (SafetensorError, ValueError, AttributeError) as error:
        raise StoreError(f"{path} cannot be read as safetensors ({error}); it is damaged or something else") from None
    if header.get("format") != _FORMAT:
        raise StoreError(f"{path} is a safetensors file but no checkpoint; write one with save_checkpoint")
    layout, packed = header["layout"], json.loads(header["packed"])
    tensors, sparse = {n: t for n, t in stored.items() if n.partition(":")[0] not in packed}, {}
    try:
        for name, shape in packed.items():
            parts = {n.partition(":")[2]: t for n, t in stored.items() if n.partition(":")[0] == name}
            if layout == "csr":
                sparse[name] = _csr(parts, shape)
            tensors[name] = _UNPACK[layout](parts, shape)
    except (KeyError, RuntimeError, IndexError) as error:
        raise StoreError(f"{path}: {name} does not fit together ({error}); save the checkpoint again") from None
    return Checkpoint(layout, tensors, len(data), sparse, json.loads(header["meta"]))


def load_checkpoint(path: str | Path, space: WeightSpace | None = None) -> nn.Module:
    """The network of a checkpoint of any layout, in evaluation mode.

    Args:
        path: a file of `save_checkpoint` or `export_onnx`.
        space: the network; a file in ONNX brings its own.

    Raises:
        InputError: no such file, or it is of another network.
        StoreError: the file is damaged, or something else.
        MissingExtra: a file in ONNX, and onnxruntime is not installed.
    """
    if not _is_safetensors(path):
        return OnnxModule(_bytes(path), path)
    if space is None:
        raise InputError(f"{path} holds weights alone; give the network that they belong to: space=task.space")
    found = read_checkpoint(path)
    module = copy.deepcopy(space.module)
    own: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    own |= dict(module.named_buffers(remove_duplicate=False))
    try:
        missing, surplus = module.load_state_dict(found.tensors, strict=False)
    except RuntimeError as error:
        raise InputError(f"the checkpoint in {path} is of another network: {error}") from None
    loaded = {id(own[n]) for n in found.tensors if n in own}
    missing = [n for n in missing if id(own.get(n)) not in loaded]  # shared weights are stored once
    if missing or surplus:
        shown = ", ".join([*(f"no {n}" for n in missing), *(f"{n} too many" for n in surplus)])
        raise InputError(f"the checkpoint in {path} is of another network: {shown}")
    return module.eval()


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def export_onnx(
    path: str | Path,
    space: WeightSpace,
    theta: Tensor,
    mask: Tensor | None = None,
    *,
    input_shape: Sequence[int] | Tensor,
    buffers: Buffers | None = None,
) -> Path:
    """Write a pruned network as a graph in ONNX, for a batch of any size.

    Args:
        path: the file, usually *.onnx.
        space: the network.
        theta: (P,) the weights.
        mask: (P,) what is kept; what is not zero, when None.
        input_shape: shape of one input, without the batch, or an example batch; inputs are as the network sees them.
        buffers: batch-norm statistics of this point; fresh ones when None.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
        InputError: the network's graph cannot be followed.
    """
    for library in ("onnx", "onnxscript"):
        _optional(library, "writing ONNX")
    module, _ = _standing(space, theta, mask, buffers)
    x = example(module, input_shape).repeat_interleave(2, 0)  # two: a batch of one would be taken for a constant
    batch = torch.export.Dim("batch", min=1)
    try:
        with evaluating(module), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module, (x,), dynamo=True, verbose=False, dynamic_shapes=({0: batch},), input_names=["input"]
            )
        assert program is not None
        data = program.model_proto.SerializeToString()
    except Exception as error:  # export runs the user's own forward, which may raise anything
        raise InputError(f"{type(module).__name__} cannot be written in ONNX: {str(error).splitlines()[0]}") from error
    write_atomically(Path(path), data)
    return Path(path)


class OnnxModule(nn.Module):
    """A graph in ONNX that runs on the CPU through onnxruntime; it cannot be trained.

    Args:
        data: the file's content.
        path: where it came from, for messages.
    """

    def __init__(self, data: bytes, path: str | Path) -> None:
        super().__init__()
        runtime = _optional("onnxruntime", "running ONNX")
        try:
            self.session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has many kinds, none of them public
            reason = str(error).splitlines()[0]
            raise StoreError(f"{path} is neither a checkpoint nor ONNX, or damaged: {reason}") from None
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (B, ...) to the network's outputs."""
        (out,) = self.session.run(None, {self.session.get_inputs()[0].name: x.detach().cpu().numpy()})
        return torch.from_numpy(out)


def _optional(library: str, purpose: str) -> Any:
    import importlib

    try:
        return importlib.import_module(library)
    except ImportError:
        raise MissingExtra(library, "onnx", purpose) from None


# ---- packing: name, weight and mask (out, in, ...) -> parts ---------------------------------------------------------


def _pack_rows(name: str, weight: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """Compressed rows, with the narrowest integers that hold the indices."""
    rows = kept.flatten(1)
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), rows.sum(1).cumsum(0)])
    column = rows.nonzero()[:, 1]
    return {
        "crow": crow.to(_integer(int(crow[-1]))),
        "col": column.to(_integer(rows.shape[1] - 1)),
        "values": weight.flatten(1)[rows],
    }


def _unpack_rows(parts: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
    matrix = _csr(parts, shape)
    row = torch.arange(len(matrix)).repeat_interleave(matrix.crow_indices().diff())
    out = matrix.values().new_zeros(matrix.shape)
    out[row, matrix.col_indices()] = matrix.values()  # not to_dense, which adds to zero and loses the sign of -0
    return out.view(*shape)


def _csr(parts: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
    rows, columns = shape[0], torch.Size(shape[1:]).numel()
    index = parts["crow"].int(), parts["col"].int()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the layout is called a beta
        return torch.sparse_csr_tensor(*index, parts["values"], (rows, columns), check_invariants=True)


def _pack_two_of_four(name: str, weight: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """Values and places of the kept two of each four; nothing for a tensor that is kept whole.

    Columns that do not fill four stay as they are, as `keep_top(scope="2:4")` leaves them.
    """
    values, rows = weight.flatten(1), kept.flatten(1)
    if kept.all():
        return {}
    whole = rows.shape[1] // 4 * 4
    groups = rows[:, :whole].reshape(-1, 4)
    over = int((groups.sum(1) > 2).sum())
    if over:
        raise InputError(
            f"{name} is not 2:4: {over:,} of {len(groups):,} groups of four neighbouring inputs keep more than two;"
            " make the mask with keep_top(..., density=0.5, scope='2:4'), or choose the layout csr"
        )
    order = (~groups).int() * 4 + torch.arange(4)
    at = order.argsort(1)[:, :2].sort(1).values  # the kept ones, then the first others: always two places
    code = (at[:, 0] | at[:, 1] << 2).to(torch.uint8)  # four bits a group
    code = torch.cat([code, code.new_zeros(len(code) % 2)]).view(-1, 2)
    two = values[:, :whole].reshape(-1, 4).gather(1, at)
    return {"values": two, "places": code[:, 0] | code[:, 1] << 4, "rest": values[:, whole:]}


def _unpack_two_of_four(parts: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
    two, rest = parts["values"], parts["rest"]
    code = torch.stack([parts["places"] & 15, parts["places"] >> 4], 1).flatten()[: len(two)].long()
    groups = two.new_zeros(len(two), 4).scatter(1, torch.stack([code & 3, code >> 2], 1), two)
    return torch.cat([groups.view(shape[0], -1), rest], 1).reshape(*shape)


_PACK = {"csr": _pack_rows, "2:4": _pack_two_of_four}
_UNPACK = {"csr": _unpack_rows, "2:4": _unpack_two_of_four}


# ---- files and modules ----------------------------------------------------------------------------------------------


def _standing(
    space: WeightSpace, theta: Tensor, mask: Tensor | None, buffers: Buffers | None
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module on the CPU at the masked point, and what is kept of each tensor."""
    theta = theta.detach().cpu()
    kept = (theta != 0) if mask is None else mask.cpu()
    if theta.shape != (space.size,) or kept.shape != theta.shape or kept.dtype != torch.bool:
        raise InputError(
            f"this network has P = {space.size:,} weights: theta is (P,) and mask (P,) booleans; got"
            f" {tuple(theta.shape)}, and {kept.dtype} of shape {tuple(kept.shape)}"
        )
    own = {n: b.cpu() for n, b in (buffers or {}).items()}
    return space.write(theta.masked_fill(~kept, 0), own), space.split(kept)


def _state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with shared tensors once, under their first name."""
    stored = module.state_dict()
    names = [*(n for n, _ in module.named_parameters()), *(n for n, _ in module.named_buffers())]
    return {n: stored[n] for n in names if n in stored}


def _integer(most: int) -> torch.dtype:
    return next(t for t in (torch.uint8, torch.int16, torch.int32, torch.int64) if most <= torch.iinfo(t).max)


def _bytes(path: str | Path) -> bytes:
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}")
    return Path(path).read_bytes()


def _is_safetensors(path: str | Path) -> bool:
    """Whether the file begins with the length of a JSON header, and that with a brace."""
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}")
    with Path(path).open("rb") as file:
        return file.read(9)[8:] == b"{"
