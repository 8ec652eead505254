"""Active learning: which examples to have labelled next; a file per strategy or family.

    picks = query("typiclust", features, 20, labelled=known, generator=generator(seed, "query"))

With few labels ask for typical examples (typiclust, prob-cover), with many for uncertain ones (margin, badge).
In a loop of your own: query, have the picks labelled, train, predict on all examples, query again, and so on:

    picks = query("margin", features, 20, labelled=known, probabilities=model(x).softmax(-1))

Strategies that ask a model (least-confidence, margin, entropy, dbal, bald, badge) have none before the first label:
without `probabilities=` they then start from a random draw, and `query` warns with `RandomStart`. `learn_actively`
plays the loop through on labelled data; `query_dataset` answers for a data set in one call.
"""

from surplus.examples.active.badge import badge
from surplus.examples.active.base import Pool, RandomStart, query, random, starts_at_random
from surplus.examples.active.coreset import coreset
from surplus.examples.active.datasets import embed, principal_components, query_dataset
from surplus.examples.active.files import pool_of, query_embeddings, query_source, read_labelled, write_queries
from surplus.examples.active.prob_cover import prob_cover, purity_radius
from surplus.examples.active.simulation import (
    LearningCurve,
    class_probabilities,
    dropout_probabilities,
    learn_actively,
    trained,
)
from surplus.examples.active.typiclust import clusters_of, nearness, typicality, typiclust
from surplus.examples.active.uncertainty import bald, dbal, entropy, least_confidence, margin

__all__ = [
    "LearningCurve",
    "Pool",
    "RandomStart",
    "badge",
    "bald",
    "class_probabilities",
    "clusters_of",
    "coreset",
    "dbal",
    "dropout_probabilities",
    "embed",
    "entropy",
    "learn_actively",
    "least_confidence",
    "margin",
    "nearness",
    "pool_of",
    "principal_components",
    "prob_cover",
    "purity_radius",
    "query",
    "query_dataset",
    "query_embeddings",
    "query_source",
    "random",
    "read_labelled",
    "starts_at_random",
    "trained",
    "typicality",
    "typiclust",
    "write_queries",
]
