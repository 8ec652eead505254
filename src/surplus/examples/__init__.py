"""Which examples matter: one number per example from training evidence, and rules that pick a subset by it."""

from surplus.examples.comparing import Comparing, Selected, compare, written
from surplus.examples.evidence import EVIDENCE
from surplus.examples.gathering import Gathering, gather
from surplus.examples.score_table import ScoreTable, score_embeddings, score_record, score_task
from surplus.examples.scores.aum import aum
from surplus.examples.scores.c_score import accuracy_profile, c_score
from surplus.examples.scores.el2n import el2n, el2n_from_logits
from surplus.examples.scores.forgetting import forgetting
from surplus.examples.scores.grand import grand, grand_last
from surplus.examples.scores.kernel_density import density, same_class_density, signed_density
from surplus.examples.scores.learning_speed import cumulative_accuracy, cumulative_confidence, cumulative_loss
from surplus.examples.scores.local_outlier_factor import local_outlier_factor
from surplus.examples.scores.memorization import influence, influential_pairs, memorization
from surplus.examples.scoring import correlations, hardness, reliability, score, score_all
from surplus.examples.selections.balanced import class_balanced_hardest, class_balanced_random, within_classes
from surplus.examples.selections.base import easiest, hardest, offset_window, random_subset, select
from surplus.examples.selections.ccs import ccs
from surplus.examples.selections.herding import herding, herding_order
from surplus.examples.selections.k_center import k_center, k_center_order
from surplus.examples.selections.moderate import moderate
from surplus.examples.stability import Stability, stability

__all__ = [
    "EVIDENCE",
    "Comparing",
    "Gathering",
    "ScoreTable",
    "Selected",
    "Stability",
    "accuracy_profile",
    "aum",
    "c_score",
    "ccs",
    "class_balanced_hardest",
    "class_balanced_random",
    "compare",
    "correlations",
    "cumulative_accuracy",
    "cumulative_confidence",
    "cumulative_loss",
    "density",
    "easiest",
    "el2n",
    "el2n_from_logits",
    "forgetting",
    "gather",
    "grand",
    "grand_last",
    "hardest",
    "hardness",
    "herding",
    "herding_order",
    "influence",
    "influential_pairs",
    "k_center",
    "k_center_order",
    "local_outlier_factor",
    "memorization",
    "moderate",
    "offset_window",
    "random_subset",
    "reliability",
    "same_class_density",
    "score",
    "score_all",
    "score_embeddings",
    "score_record",
    "score_task",
    "select",
    "signed_density",
    "stability",
    "within_classes",
    "written",
]
