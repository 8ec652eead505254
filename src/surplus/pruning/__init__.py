"""Which weights matter: scores, masks, controls, and networks that are really smaller."""

from surplus.pruning.budgets import allocate, density_schedule, prunable_blocks, spread
from surplus.pruning.checkpoints import Checkpoint, export_onnx, load_checkpoint, read_checkpoint, save_checkpoint
from surplus.pruning.counting import Size, count, keep_fraction, latency
from surplus.pruning.evidence.controls import controls, inversion, train_controls, train_scratch
from surplus.pruning.evidence.reporting import repeats_needed, report, report_structured
from surplus.pruning.evidence.small_dense import small_dense
from surplus.pruning.evidence.training_cost import training_budget, training_macs
from surplus.pruning.export import from_torch_prune, load_ticket, save_ticket, to_torch_prune
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
from surplus.pruning.moved import moved_ratio
from surplus.pruning.schedules.actions import imp_with_actions
from surplus.pruning.schedules.activating import activating_while_pruning, dead_rate
from surplus.pruning.schedules.dct_plus_sparse import dct_plus_sparse
from surplus.pruning.schedules.earlycrop import cropit, earlycrop
from surplus.pruning.schedules.imp import (
    Level,
    Trained,
    at_start,
    by_rate,
    from_masks,
    imp,
    levels_from,
    one_shot,
    to_density,
)
from surplus.pruning.schedules.overlap import fine_tuned, overlap
from surplus.pruning.schedules.popup import edge_popup, supermask
from surplus.pruning.schedules.transfer import ticket_transfer, unify
from surplus.pruning.scores.criteria import large_init, magnitude_increase, movement
from surplus.pruning.scores.crop import crop
from surplus.pruning.scores.grasp import grasp
from surplus.pruning.scores.magnitude import magnitude
from surplus.pruning.scores.random import random_score
from surplus.pruning.scores.snip import snip
from surplus.pruning.scores.synflow import synflow
from surplus.pruning.scoring import balanced_rows, iterate_score
from surplus.pruning.storing import load_module, save_module
from surplus.pruning.structured.consensus import consensus_subnetwork
from surplus.pruning.structured.dead_units import remove_dead_units
from surplus.pruning.structured.distillation import Distillation
from surplus.pruning.structured.earlycrop_structured import earlycrop_structured
from surplus.pruning.structured.equivalence import same_function
from surplus.pruning.structured.random_search import random_search
from surplus.pruning.structured.shrink import saving, shrink
from surplus.pruning.structured.smaller import smaller_task
from surplus.pruning.structured.tas import tas
from surplus.space.units import SelectLinear

__all__ = [
    "Checkpoint",
    "Distillation",
    "Level",
    "SelectLinear",
    "Size",
    "Ticket",
    "Trained",
    "activating_while_pruning",
    "allocate",
    "at_start",
    "balanced_rows",
    "by_rate",
    "consensus_subnetwork",
    "controls",
    "count",
    "crop",
    "cropit",
    "cut",
    "cut_at_threshold",
    "dct_plus_sparse",
    "dead_rate",
    "density",
    "density_schedule",
    "earlycrop",
    "earlycrop_structured",
    "edge_popup",
    "export_onnx",
    "fine_tuned",
    "from_masks",
    "from_torch_prune",
    "grasp",
    "imp",
    "imp_with_actions",
    "inversion",
    "iterate_score",
    "keep_fraction",
    "keep_top",
    "large_init",
    "latency",
    "layer_densities",
    "levels_from",
    "load_checkpoint",
    "load_module",
    "load_ticket",
    "magnitude",
    "magnitude_increase",
    "moved_ratio",
    "movement",
    "one_shot",
    "overlap",
    "prunable_blocks",
    "random_mask",
    "random_score",
    "random_search",
    "read_checkpoint",
    "remove_dead_units",
    "repeats_needed",
    "report",
    "report_structured",
    "same_function",
    "save_checkpoint",
    "save_module",
    "save_ticket",
    "saving",
    "shrink",
    "shuffle",
    "small_dense",
    "smaller_task",
    "snip",
    "spread",
    "supermask",
    "synflow",
    "tas",
    "ticket_transfer",
    "to_density",
    "to_torch_prune",
    "train_controls",
    "train_scratch",
    "training_budget",
    "training_macs",
    "unify",
]
