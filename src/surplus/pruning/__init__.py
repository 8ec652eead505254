"""Which weights matter: scores, masks, controls, and networks that are really smaller."""

from surplus.pruning.budgets import allocate, density_schedule, prunable_blocks, spread
from surplus.pruning.controls import controls, inversion
from surplus.pruning.counting import Size, count, keep_fraction, latency
from surplus.pruning.dead_units import remove_dead_units
from surplus.pruning.export import from_torch_prune, load_ticket, save_ticket, to_torch_prune
from surplus.pruning.grasp import grasp
from surplus.pruning.magnitude import magnitude
from surplus.pruning.masks import (
    Ticket,
    cut,
    cut_at_threshold,
    density,
    keep_top,
    layer_densities,
    random_mask,
    shuffle,
)
from surplus.pruning.random import random_score
from surplus.pruning.scoring import balanced_rows, iterate_score
from surplus.pruning.snip import snip
from surplus.pruning.storing import load_module, save_module
from surplus.pruning.structured import shrink
from surplus.pruning.synflow import synflow
from surplus.space.units import SelectLinear

__all__ = [
    "SelectLinear",
    "Size",
    "Ticket",
    "allocate",
    "balanced_rows",
    "controls",
    "count",
    "cut",
    "cut_at_threshold",
    "density",
    "density_schedule",
    "from_torch_prune",
    "grasp",
    "inversion",
    "iterate_score",
    "keep_fraction",
    "keep_top",
    "latency",
    "layer_densities",
    "load_module",
    "load_ticket",
    "magnitude",
    "prunable_blocks",
    "random_mask",
    "random_score",
    "remove_dead_units",
    "save_module",
    "save_ticket",
    "shrink",
    "shuffle",
    "snip",
    "spread",
    "synflow",
    "to_torch_prune",
]
