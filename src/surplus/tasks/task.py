"""`Task`: what is learned. Data, network, objective and recipe under one name; every method starts from one."""

from __future__ import annotations

import hashlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import FunctionType
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from surplus.data import Dataset, Splits
from surplus.errors import InputError, settings_from, unknown
from surplus.networks import build
from surplus.registry import find
from surplus.reparam import fingerprint
from surplus.space import Buffers, WeightSpace, generator, seeded
from surplus.tasks.objective import CLASSIFICATION, LANGUAGE, REGRESSION, Objective
from surplus.tasks.recipe import Recipe


@dataclass(frozen=True)
class Network:
    """A network by name and options, or by a user's own factory; picklable, and its `identity` goes into run hashes."""

    name: str
    input_shape: tuple[int, ...] = ()
    outputs: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    factory: Callable[[], nn.Module] | None = None

    def __call__(self) -> nn.Module:
        return self.factory() if self.factory else build(self.name, self.input_shape, self.outputs, **self.options)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes two networks the same: name and options, or a factory's source and structure."""
        if self.factory is None:
            return {
                "name": self.name,
                "input_shape": list(self.input_shape),
                "outputs": self.outputs,
                "options": self.options,
            }
        with seeded(0):
            module = self.factory()
        kinds = {type(m) for m in module.modules() if not type(m).__module__.startswith("torch.")}
        plain = [
            {k: v for k, v in vars(m).items() if isinstance(v, int | float | str | tuple)} for m in module.modules()
        ]
        shapes = [(n, tuple(p.shape)) for n, p in module.named_parameters()]
        fixed = [fingerprint(t) for t in (*(p for p in module.parameters() if not p.requires_grad), *module.buffers())]
        text = repr(
            (sorted(map(_source, kinds)), _surroundings([self.factory, *kinds]), str(module), plain, shapes, fixed)
        )
        return {"name": self.name, "factory": hashlib.sha256(text.encode()).hexdigest()}


@dataclass(frozen=True)
class Task:
    """Data, network, objective and recipe.

    `mean`, `std`: per channel or feature of the training inputs, in the scale of float inputs; the network sees
    (x - mean) / std.
    """

    name: str
    train: Dataset
    test: Dataset
    network: Network
    objective: Objective = CLASSIFICATION
    recipe: Recipe = field(default_factory=Recipe)
    validation: Dataset | None = None
    carved: bool = False

    @cached_property
    def space(self) -> WeightSpace:
        """The network's weight space; a trial pass of two examples checks that the network fits the data."""
        space = WeightSpace(self.network) if self.network.factory else self._built()
        self._try(space)
        return space

    def _built(self) -> WeightSpace:
        """The weight space of a named network; what its factory cannot use is bad input."""
        try:
            return WeightSpace(self.network)
        except InputError:
            raise
        except Exception as error:  # whatever a factory runs into
            given, known = self.network.options, inspect.signature(find("network", self.network.name).fn).parameters
            raise InputError(
                f"the network {self.network.name} cannot be built with {_listed(given)}: {_first_line(error)}."
                f" Usual values: {_listed({k: known[k].default for k in given if k in known})}"
            ) from error

    def _try(self, space: WeightSpace) -> None:
        data = self.train[:2]
        try:
            out = space.try_out(self.prepare(data.inputs))
        except InputError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise InputError(
                f"the network {self.network.name} cannot take inputs of shape {self.train.shape}:"
                f" {_first_line(error)}; choose another --network, or one built for this shape"
            ) from error
        if self.objective is CLASSIFICATION and (out.dim() != 2 or out.shape[1] < len(self.train.classes)):
            raise InputError(
                f"the network {self.network.name} gives outputs of shape {tuple(out.shape[1:])} for"
                f" {len(self.train.classes)} classes; one logit per class is expected"
            )
        if self.objective is REGRESSION and out.numel() != data.targets.numel():
            raise InputError(
                f"the network {self.network.name} gives outputs of shape {tuple(out.shape[1:])} for targets of shape"
                f" {tuple(data.targets.shape[1:])}; one output per number is expected"
            )
        loss = self.loss(out, data.targets)
        if loss.shape != (len(data),):
            raise InputError(
                f"the loss {self.objective.name} gives shape {tuple(loss.shape)} for {len(data)} examples;"
                " one number per example is expected"
            )

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training inputs: per channel for images, per column for tables."""
        x = self.train.inputs
        if self.train.kind == "image":
            sums = torch.zeros(2, x.shape[1], dtype=torch.float64, device=x.device)
            for part in (_float(p).double() for p in x.split(4096)):
                sums += torch.stack([part.sum((0, 2, 3)), part.square().sum((0, 2, 3))])
            mean, square = sums / (x.numel() // x.shape[1])
            std = (square - mean.square()).clamp(min=0).sqrt()
        else:
            mean, std = x.double().mean(0), x.double().std(0, correction=0)
        shape = (-1, 1, 1) if self.train.kind == "image" else (-1,)
        std = torch.where(std > 1e-8, std, 1.0)  # a constant column stays constant
        return mean.float().reshape(shape), std.float().reshape(shape)

    def prepare(self, inputs: Tensor) -> Tensor:
        """Inputs as the network sees them: float, normalised; tokens pass as they are."""
        if self.train.kind == "text":
            return inputs
        mean, std = (m.to(inputs.device) for m in self.moments)
        return (_float(inputs) - mean) / std

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Per-example loss without label smoothing: (B, ...), (B, ...) -> (B,)."""
        return self.objective.loss(outputs, targets, 0.0)

    def statistics(self, theta: Tensor, examples: int = 2048, batch: int = 512) -> Buffers | None:
        """Batch-norm statistics for the point(s) theta, from a fixed sample of the training inputs."""
        if not self.space.batch_norms:
            return None
        g = generator(0, "batch-norm sample")
        rows = torch.randperm(len(self.train), generator=g)[:examples].to(self.train.inputs.device)
        parts = rows.tensor_split(-(-len(rows) // batch))
        return self.space.statistics(theta, (self.prepare(self.train.inputs[r]).to(theta.device) for r in parts))

    def batches(self, data: Dataset, size: int = 1024) -> Iterator[tuple[Tensor, Tensor]]:
        """Prepared inputs and targets in order."""
        for x, y in zip(data.inputs.split(size), data.targets.split(size), strict=True):
            yield self.prepare(x), y

    def to(self, device: torch.device | str) -> Task:
        """The same task with its data on another device."""
        moved = self.validation.to(device) if self.validation else None
        train, test = self.train.to(device), self.test.to(device)
        if train is self.train and test is self.test and moved is self.validation:
            return self
        return self._keeping_facts(replace(self, train=train, test=test, validation=moved))

    def _keeping_facts(self, other: Task) -> Task:
        """`other`, the same data and network, with what was worked out of them here: space, moments, identity."""
        for name in ("space", "moments", "identity"):
            other.__dict__[name] = getattr(self, name)
        return other

    def with_recipe(self, /, **changes: Any) -> Task:
        """The same task, trained otherwise.

        Raises:
            InputError: a setting that the recipe does not have, or a value outside its bounds.
        """
        for name in changes:
            if name not in Recipe.model_fields:
                raise unknown("setting of the recipe", name, Recipe.model_fields)
        try:
            return self._keeping_facts(replace(self, recipe=Recipe(**{**self.recipe.model_dump(), **changes})))
        except ValidationError as error:
            raise settings_from(error) from None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a run's hash rests on: data, network and objective (the recipe is the run's own)."""
        return {
            "train": self.train.fingerprint,
            "validation": self.validation.fingerprint if self.validation else None,
            "network": self.network.identity,
            "objective": _objective_identity(self.objective),
        }

    @property
    def classes(self) -> int:
        return len(self.train.classes)


def task_from(
    data: Splits,
    network: str | Callable[[], nn.Module] | None = None,
    *,
    recipe: Recipe | None = None,
    objective: Objective | None = None,
    name: str | None = None,
    **options: Any,
) -> Task:
    """A task from data and, if wished, a network.

    Args:
        data: the splits.
        network: a registered name, with options after a colon if wished ("vgg-16:width=0.25"), or a function without
            arguments that builds a module; chosen by the data when None.
        recipe: how to train; the network's own default when None.
        objective: read off the targets when None.
        name: the data's name when None.
        options: options of the named network (width, norm, ...).

    Raises:
        InputError: no such network, or it does not fit the data.
    """
    from surplus.tasks.defaults import default_network, default_recipe

    objective = objective or _objective(data.train)
    if callable(network):
        if options:
            raise InputError(f"options ({_listed(options)}) are for named networks; let your own function set them")
        spec = Network(getattr(network, "__qualname__", type(network).__name__), factory=network)
    else:
        named, written = parse_network(network)
        chosen, usual = default_network(data.train) if named is None else (find("network", named).name, {})
        spec = Network(chosen, _input_shape(data), _outputs(data, objective), {**usual, **written, **options})
    recipe = recipe or default_recipe(spec.name, data.train)
    task = Task(name or data.name, data.train, data.test, spec, objective, recipe, data.validation, data.carved)
    _ = task.space  # builds the network and tries it: a misfit is an error now, not in training
    return task


def _input_shape(data: Splits) -> tuple[int, ...]:
    """What a network factory takes as `input_shape`: an input's shape, or (vocabulary, length) for text."""
    return (_vocabulary(data), *data.train.shape) if data.train.kind == "text" else data.train.shape


def _vocabulary(data: Splits) -> int:
    """The number of token ids that the texts of all splits use: one more than the largest."""
    parts = [d for d in (data.train, data.validation, data.test) if d is not None]
    targets = [d.targets for d in parts if d.targets.shape == d.inputs.shape]
    return 1 + max(int(t.max()) for t in (*(d.inputs for d in parts), *targets))


def _objective(data: Dataset) -> Objective:
    if data.targets.is_floating_point():
        return REGRESSION
    return LANGUAGE if data.targets.dim() == 2 else CLASSIFICATION


def _outputs(data: Splits, objective: Objective) -> int:
    targets = data.train.targets
    if objective is LANGUAGE:
        return _vocabulary(data)
    if targets.is_floating_point():
        return math.prod(targets.shape[1:])
    return len(data.train.classes)


def _objective_identity(objective: Objective) -> str:
    """An objective's name; with the code of its loss where it is the user's own, since names repeat."""
    if objective in (CLASSIFICATION, REGRESSION, LANGUAGE):
        return objective.name
    return f"{objective.name} {hashlib.sha256(_code(objective.loss).encode()).hexdigest()}"


def _code(fn: Callable[..., Any], depth: int = 4) -> str:
    """A function's instructions, its constants and what it closes over, functions likewise."""
    code = getattr(fn, "__code__", None)
    if code is None or not depth:
        return repr(fn) if isinstance(fn, partial) else getattr(fn, "__qualname__", type(fn).__qualname__)
    constants = [repr(c) for c in (*code.co_consts, *(fn.__defaults__ or ())) if not inspect.iscode(c)]
    held = [cell.cell_contents for cell in fn.__closure__ or ()]
    inner = [_code(h, depth - 1) if callable(h) else repr(h) for h in held]
    return repr((code.co_code.hex(), code.co_names, constants, inner))


_KNOWN = ("surplus", "torch", "functools")
"""Packages whose versions are in a run's name by themselves."""


def _surroundings(definitions: Iterable[Any]) -> list[str]:
    """The functions, classes and plain constants of the files that a user's factory and modules come from."""
    owners = {str(getattr(d, "__module__", None)) for d in definitions}
    found = []
    for module in (sys.modules[n] for n in sorted(owners & set(sys.modules)) if n.split(".")[0] not in _KNOWN):
        for name, value in sorted(vars(module).items()):
            if isinstance(value, type | FunctionType) and value.__module__ == module.__name__:
                found.append(_source(value))
            elif isinstance(value, int | float | str | tuple) and not name.startswith("__"):
                found.append(f"{name} = {value!r}")
    return found


def _source(kind: Any) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return kind.__qualname__


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in options.items()) or "its own options"


def _float(inputs: Tensor) -> Tensor:
    return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()


def parse_network(text: str | None) -> tuple[str | None, dict[str, Any]]:
    """A network and its options from one word: "vgg-16:width=0.25,norm=group", "mlp:widths=64-64".

    Raises:
        InputError: an option without a value.
    """
    if text is None:
        return None, {}
    name, _, options = text.partition(":")
    return name, _settings(options)


def parse_recipe(text: str) -> dict[str, Any]:
    """Changes to a recipe from one word: "lr=0.05,duration=20ep".

    Raises:
        InputError: a setting without a value.
    """
    return _settings(text)


def _settings(text: str) -> dict[str, Any]:
    pairs = [p.partition("=") for p in text.split(",") if p]
    for name, equals, value in pairs:
        if not name.strip() or not equals or not value.strip():
            raise InputError(f"settings are written name=value,name=value; got {name + equals + value!r}")
    return {name.strip().replace("-", "_"): _value(value.strip()) for name, _, value in pairs}


def _value(text: str) -> Any:
    """A number, a boolean, numbers joined by hyphens, or the word itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"\d+(-\d+)+", text):
        return tuple(map(int, text.split("-")))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
