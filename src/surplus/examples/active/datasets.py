"""Which examples of a data set to label next: `query_dataset`, the whole task in one call.

Tables and images are embedded plainly: standardised, projected on their first principal components, scaled to length 1.
A self-supervised embedding of your own makes the strategies far better on natural images.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from surplus.data import Dataset
from surplus.errors import InputError
from surplus.examples.active.base import RandomStart, asks_a_model, asks_passes, query, starts_at_random
from surplus.examples.active.simulation import class_probabilities, dropout_probabilities, trained
from surplus.examples.embeddings import Embeddings
from surplus.space import generator

if TYPE_CHECKING:
    import pyarrow as pa


def query_dataset(
    dataset: Dataset,
    strategy: str = "typiclust",
    budget: int = 20,
    *,
    labelled: Sequence[Any] | np.ndarray = (),
    embeddings: Any = None,
    probabilities: Any = None,
    dims: int = 50,
    seed: int = 0,
    **options: Any,
) -> pa.Table:
    """The ids of the examples to label next, in order.

    Strategies that ask a model are given `probabilities`, or else a logistic regression on the embedding, trained on
    the labelled examples (with dropout on the embedding where several passes are compared). With nothing labelled and
    no probabilities they start at random, and the table says so. No label but those of `labelled` is looked at.

    Args:
        dataset: all examples, labelled or not; the targets of the unlabelled may be anything valid.
        strategy: a registered query strategy.
        budget: how many to label.
        labelled: ids of the examples whose targets are known.
        embeddings: (n, d) tensor or array, `Embeddings` or their Parquet files, rows as in the data set;
            `embed(dataset, dims)` when None.
        probabilities: (n, C) predictions of your own model, or (T, n, C) with dropout on.
        dims: principal components of the plain embedding.
        seed: for all draws.
        options: the strategy's own settings.

    Returns:
        Table of `order` (1, 2, ...), `id` and `strategy`, which is "random" for a random start.

    Raises:
        InputError: ids that are not in the data set, text without embeddings, or what `query` refuses.
    """
    import pyarrow as pa

    known, chance = _positions(dataset, labelled), generator(seed, "query", strategy)
    h = embed(dataset, dims, seed) if embeddings is None else _embeddings(embeddings, len(dataset))
    if probabilities is None and len(known) and asks_a_model(strategy):
        if not dataset.classes or dataset.targets.dim() != 1:
            raise InputError(f"the strategy {strategy!r} asks a classifier, and the targets are not classes")
        model, count = trained(None, h[known], dataset.targets[known]), len(dataset.classes)
        probabilities = (
            dropout_probabilities(model, h, count, generator=chance)
            if asks_passes(strategy)
            else class_probabilities(model, h, count)
        )
    name = "random" if starts_at_random(strategy, labelled=known, probabilities=probabilities) else strategy
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomStart)  # the table says so
        picks = query(strategy, h, budget, labelled=known, probabilities=probabilities, generator=chance, **options)
    ids = dataset.ids[picks.cpu().numpy()]
    return pa.table({"order": np.arange(1, len(ids) + 1), "id": ids, "strategy": [name] * len(ids)})


def embed(dataset: Dataset, dims: int = 50, seed: int = 0) -> Tensor:
    """A plain embedding (n, at most dims): columns standardised, first principal components, rows of length 1.

    Args:
        dataset: a table or images.
        dims: principal components.
        seed: for the randomised decomposition of large data.

    Raises:
        InputError: text, or fewer than one component asked for.
    """
    if dataset.kind == "text":
        raise InputError("text has no plain embedding here; pass embeddings=, one row per text")
    if dims < 1:
        raise InputError(f"dims is a number of principal components, at least 1; got {dims}")
    x = dataset.inputs.flatten(1).float()
    spread = x.std(0, correction=0)
    x = (x - x.mean(0)) / torch.where(spread > 0, spread, 1)
    return normalize(principal_components(x, dims, seed=seed))


def principal_components(x: Tensor, dims: int, *others: Tensor, seed: int = 0) -> Any:
    """First principal components of x (n, d): (n, at most dims); with others, also theirs in the same axes."""
    from sklearn.decomposition import PCA

    model = PCA(min(dims, *x.shape), random_state=seed).fit(x.cpu().numpy())
    parts = [torch.from_numpy(model.transform(part.cpu().numpy())).to(x) for part in (x, *others)]
    return parts if others else parts[0]


def _positions(dataset: Dataset, ids: Sequence[Any] | np.ndarray) -> Tensor:
    """Positions (m,) of ids, which may come as text (from a file) where the data set numbers its examples."""
    at = {str(name): row for row, name in enumerate(dataset.ids.tolist())}
    wanted = [str(name) for name in (ids.tolist() if isinstance(ids, np.ndarray) else ids)]
    strange = [name for name in wanted if name not in at]
    if strange:
        shown = ", ".join(strange[:5])
        raise InputError(
            f"{len(strange)} labelled ids are not in the data set: {shown}; its ids are like {next(iter(at))}"
        )
    return torch.tensor([at[name] for name in wanted], dtype=torch.long)


def _embeddings(given: Any, n: int) -> Tensor:
    h = Embeddings.of(torch.from_numpy(given) if isinstance(given, np.ndarray) else given).all()
    if len(h) != n:
        raise InputError(f"embeddings must be ({n}, d), one row per example; got {tuple(h.shape)}")
    return h
