"""Which examples matter: one number per example from training evidence, and rules that pick a subset by it."""

from surplus.examples.comparing import Comparing, Selected, compare, written
from surplus.examples.embeddings import Embeddings, read_ids, write_embeddings
from surplus.examples.evidence import EVIDENCE
from surplus.examples.gathering import Gathering, gather
from surplus.examples.kmeans import assign, kmeans
from surplus.examples.score_table import ScoreTable, score_embeddings, score_record, score_task
from surplus.examples.scores.aum import aum
from surplus.examples.scores.c_score import accuracy_profile, c_score, lacking_a_class
from surplus.examples.scores.cal import cal
from surplus.examples.scores.deepfool import deepfool
from surplus.examples.scores.el2n import el2n, el2n_from_logits
from surplus.examples.scores.forgetting import forgetting
from surplus.examples.scores.grand import grand, grand_last
from surplus.examples.scores.kernel_density import density, same_class_density, signed_density
from surplus.examples.scores.learning_speed import (
    cumulative_accuracy,
    cumulative_confidence,
    cumulative_loss,
    speed_proxies,
)
from surplus.examples.scores.local_outlier_factor import local_outlier_factor
from surplus.examples.scores.memorization import influence, influence_blocks, influential_pairs, memorization
from surplus.examples.scores.neighbours import knn_disagreement, knn_distance
from surplus.examples.scores.prototypes import class_prototype_distance, prototype_distance
from surplus.examples.scores.uncertainty import entropy, least_confidence, prediction_margin
from surplus.examples.scoring import correlations, hardness, reliability, score, score_all
from surplus.examples.search import neighbourhoods
from surplus.examples.selections.balanced import class_balanced_hardest, class_balanced_random, within_classes
from surplus.examples.selections.base import easiest, hardest, offset_window, random_subset, select
from surplus.examples.selections.ccs import ccs
from surplus.examples.selections.contextual_diversity import contextual_diversity
from surplus.examples.selections.craig import craig, craig_weights
from surplus.examples.selections.glister import glister
from surplus.examples.selections.grad_match import grad_match, grad_match_weights
from surplus.examples.selections.gradients import Validation
from surplus.examples.selections.herding import herding, herding_order
from surplus.examples.selections.k_center import k_center, k_center_order
from surplus.examples.selections.moderate import moderate
from surplus.examples.selections.prototypes import prototypes
from surplus.examples.selections.submodular import facility_location, graph_cut, log_determinant
from surplus.examples.stability import Stability, stability

__all__ = [
    "EVIDENCE",
    "Comparing",
    "Embeddings",
    "Gathering",
    "ScoreTable",
    "Selected",
    "Stability",
    "Validation",
    "accuracy_profile",
    "assign",
    "aum",
    "c_score",
    "cal",
    "ccs",
    "class_balanced_hardest",
    "class_balanced_random",
    "class_prototype_distance",
    "compare",
    "contextual_diversity",
    "correlations",
    "craig",
    "craig_weights",
    "cumulative_accuracy",
    "cumulative_confidence",
    "cumulative_loss",
    "deepfool",
    "density",
    "easiest",
    "el2n",
    "el2n_from_logits",
    "entropy",
    "facility_location",
    "forgetting",
    "gather",
    "glister",
    "grad_match",
    "grad_match_weights",
    "grand",
    "grand_last",
    "graph_cut",
    "hardest",
    "hardness",
    "herding",
    "herding_order",
    "influence",
    "influence_blocks",
    "influential_pairs",
    "k_center",
    "k_center_order",
    "kmeans",
    "knn_disagreement",
    "knn_distance",
    "lacking_a_class",
    "least_confidence",
    "local_outlier_factor",
    "log_determinant",
    "memorization",
    "moderate",
    "neighbourhoods",
    "offset_window",
    "prediction_margin",
    "prototype_distance",
    "prototypes",
    "random_subset",
    "read_ids",
    "reliability",
    "same_class_density",
    "score",
    "score_all",
    "score_embeddings",
    "score_record",
    "score_task",
    "select",
    "signed_density",
    "speed_proxies",
    "stability",
    "within_classes",
    "write_embeddings",
    "written",
]
