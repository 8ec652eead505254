"""What theory says the number should be: closed forms and law fits. No training happens here."""

from surplus.theory.budget_split import BudgetSplit, budget_split, split_between
from surplus.theory.law_fits import Extrapolation, LawComparison, LawFit, compare_forms, extrapolate, fit_law
from surplus.theory.laws import FORMS, Allocation, Form, broken_power, compute_optimal, find_form
from surplus.theory.long_tail import (
    LongTail,
    LongTailSimulation,
    draw_frequencies,
    excess_error,
    long_tail,
    simulate_long_tail,
    singleton_floor,
    zipf,
)
from surplus.theory.perceptron_pruning import (
    PrunedPerceptron,
    kept_window,
    perceptron_pruning,
    pruning_frontier,
)
from surplus.theory.perceptron_simulation import PerceptronSimulation, max_margin, simulate_perceptron_pruning
from surplus.theory.pruning_curve import pruning_law
from surplus.theory.pruning_law import MatchingPrediction, PruningFit, fit_pruning_law, predict_matching
from surplus.theory.smallest_network import smallest_network

__all__ = [
    "FORMS",
    "Allocation",
    "BudgetSplit",
    "Extrapolation",
    "Form",
    "LawComparison",
    "LawFit",
    "LongTail",
    "LongTailSimulation",
    "MatchingPrediction",
    "PerceptronSimulation",
    "PrunedPerceptron",
    "PruningFit",
    "broken_power",
    "budget_split",
    "compare_forms",
    "compute_optimal",
    "draw_frequencies",
    "excess_error",
    "extrapolate",
    "find_form",
    "fit_law",
    "fit_pruning_law",
    "kept_window",
    "long_tail",
    "max_margin",
    "perceptron_pruning",
    "predict_matching",
    "pruning_frontier",
    "pruning_law",
    "simulate_long_tail",
    "simulate_perceptron_pruning",
    "singleton_floor",
    "smallest_network",
    "split_between",
    "zipf",
]
