"""`Recipe`: how a network is trained, as one frozen object; its fields are the command line's and the manifest's."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, field_validator
from pydantic_core import core_schema

from surplus.errors import InputError


class Duration(str):
    """A length of training with its unit: "20ep" epochs, "500it" steps."""

    def __new__(cls, text: str) -> Duration:
        if not re.fullmatch(r"\d+(\.\d+)?ep|\d+it", str(text)):
            raise InputError(f"a duration is written like 20ep (epochs) or 500it (steps); got {str(text)!r}")
        return super().__new__(cls, text)

    def steps(self, steps_per_epoch: int) -> int:
        """The number of optimiser steps, for this many steps per epoch; at least one, unless the duration is zero."""
        length = float(self[:-2])
        steps = length if self.endswith("it") else length * steps_per_epoch
        return max(round(steps), 1 if length else 0)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        text = core_schema.no_info_before_validator_function(
            str, core_schema.no_info_after_validator_function(cls, core_schema.str_schema())
        )  # a bare number becomes a word first, so that the message is about the unit it lacks
        return core_schema.json_or_python_schema(
            json_schema=text, python_schema=text, serialization=core_schema.to_string_ser_schema()
        )


class Augment(BaseModel):
    """Random changes of training images, drawn anew for each replica and epoch; 0 and False switch one off."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    shift: Annotated[int, Field(ge=0)] = 0
    """Crop after padding by this many pixels (reflected), that is, a shift of up to so many pixels each way."""
    flip: bool = False
    """Mirror left to right half of the time."""
    cutout: Annotated[int, Field(ge=0)] = 0
    """Side in pixels of a grey square at a random place."""


class Recipe(BaseModel):
    """How a network is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    optimiser: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    """Update rule. `muon` orthogonalises the momentum of hidden weight matrices and leaves the rest to AdamW."""
    lr: Annotated[float, Field(gt=0)] = 0.1
    """Learning rate at its peak."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD and Muon."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Averaging constants of Adam's two moments."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 penalty (SGD, Adam) or decoupled decay (AdamW, Muon)."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Examples per step; an epoch is cut into batches of nearly equal size, none larger than this."""
    duration: Duration = Duration("20ep")
    """Length of training: "20ep" or "500it"."""
    schedule: Literal["constant", "cosine", "step", "onecycle", "linear"] = "cosine"
    """How the learning rate moves after warm-up; `onecycle` rises for 30% and falls to zero, linearly; `linear` falls
    to zero from the first milestone on."""
    milestones: tuple[Duration, ...] = ()
    """When the `step` schedule multiplies the rate by `gamma`, and where the `linear` one begins to fall."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of the `step` schedule."""
    warmup: Duration = Duration("0it")
    """Linear rise from zero at the start."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread evenly over the classes."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest gradient norm, per replica; longer gradients are scaled down to it."""
    augment: Augment = Augment()
    """Random changes of training images."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many epochs without a lower validation loss, and return to the best point."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of forward and backward passes; weights and updates stay in float32."""
    channels_last: bool = False
    """Memory layout of images; on most machines the faster one for convolutions, above all with bfloat16."""

    @field_validator("duration")
    @classmethod
    def _lasts(cls, duration: Duration) -> Duration:
        if not duration.steps(1):
            raise InputError(f"training takes at least one step, as in 1it or 20ep; got {duration!r}")
        return duration
