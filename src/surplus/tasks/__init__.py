"""What is learned: data, network, objective and recipe under a name."""

from surplus.tasks.builtin import load
from surplus.tasks.objective import CLASSIFICATION, LANGUAGE, REGRESSION, Objective, classification_record, custom
from surplus.tasks.recipe import Augment, Duration, Recipe
from surplus.tasks.task import Network, Task, parse_network, parse_recipe, task_from

__all__ = [
    "CLASSIFICATION",
    "LANGUAGE",
    "REGRESSION",
    "Augment",
    "Duration",
    "Network",
    "Objective",
    "Recipe",
    "Task",
    "classification_record",
    "custom",
    "load",
    "parse_network",
    "parse_recipe",
    "task_from",
]
