"""Condensation: a few synthetic images per class that train a network as nearly as possible as all real ones do.

made = condense(task, method="idc", per_class=1)
evaluate_condensed(made, task)      # accuracy of networks trained on it, beside random real images
made.save("mnist-1")                # a folder that is a data set like any other
"""

from surplus.examples.condensation.condensed import Condensed
from surplus.examples.condensation.condensing import condense
from surplus.examples.condensation.evaluation import CondensedEvaluation, evaluate_condensed, usual_evaluation

__all__ = ["Condensed", "CondensedEvaluation", "condense", "evaluate_condensed", "usual_evaluation"]
