"""What theory says the number should be: closed forms and law fits. No training happens here."""

from surplus.theory.law_fits import Extrapolation, LawComparison, LawFit, compare_forms, extrapolate, fit_law
from surplus.theory.laws import FORMS, Allocation, Form, broken_power, compute_optimal, find_form
from surplus.theory.long_tail import (
    LongTail,
    LongTailSimulation,
    draw_frequencies,
    long_tail,
    simulate_long_tail,
    singleton_floor,
    zipf,
)

__all__ = [
    "FORMS",
    "Allocation",
    "Extrapolation",
    "Form",
    "LawComparison",
    "LawFit",
    "LongTail",
    "LongTailSimulation",
    "broken_power",
    "compare_forms",
    "compute_optimal",
    "draw_frequencies",
    "extrapolate",
    "find_form",
    "fit_law",
    "long_tail",
    "simulate_long_tail",
    "singleton_floor",
    "zipf",
]
