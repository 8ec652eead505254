"""Active learning played through on data whose labels are all known: query, train, test, again.

    curve = learn_actively("typiclust", x, y, x_test, y_test, (10, 20, 40), generator=generator(0, "query"))
    curve.accuracy                    # after 10, 20 and 40 labels

The labels of an example are used only once it has been queried.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.examples.active.base import RandomStart, asks_a_model, asks_passes, query, starts_at_random


@dataclass(frozen=True)
class LearningCurve:
    """What a strategy reached with how many labels.

    `budgets`: labels after each round. `accuracy`, `classes` (rounds,): on the test set; distinct classes among the
    labels. `picks` (budgets[-1],): positions in the order of query, what was known from the start first.
    `random_start`: whether the first round was drawn at random because the strategy had no model to ask.
    """

    strategy: str
    budgets: tuple[int, ...]
    accuracy: Tensor
    classes: Tensor
    picks: Tensor
    random_start: bool


def learn_actively(
    strategy: str,
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    budgets: Sequence[int],
    *,
    classifier: Any = None,
    labelled: Tensor | None = None,
    generator: Generator | None = None,
    passes: int = 20,
    dropout: float = 0.5,
    **options: Any,
) -> LearningCurve:
    """Let a strategy choose the labels of a classifier, round by round, and test it after each.

    Strategies that ask a model are told the predictions of the classifier of the round before; in the first round,
    without labels, they start at random. DBAL and BALD are told `passes` predictions with dropout on the features.

    Args:
        strategy: a registered query strategy.
        features: (n, d) floats that both the strategy and the classifier see.
        labels: (n,) classes 0, 1, ...
        test_features: (m, d).
        test_labels: (m,).
        budgets: how many labels there are after each round, rising.
        classifier: an unfitted object with scikit-learn's fit, predict and predict_proba, copied for each round;
            logistic regression with C = 10 when None.
        labelled: positions known from the start.
        generator: draws for the strategy.
        passes: predictions with dropout, for the strategies that compare them.
        dropout: share of the features that each of them leaves out.
        options: the strategy's own settings.

    Returns:
        LearningCurve.

    Raises:
        InputError: budgets that do not rise or exceed the examples, or what `query` refuses.
    """
    known = torch.empty(0, dtype=torch.long) if labelled is None else torch.as_tensor(labelled).long().cpu()
    _check_budgets(budgets, len(known), len(features))
    count, model, accuracy, seen = int(labels.max()) + 1, None, [], []
    at_random = starts_at_random(strategy, labelled=known)
    if len(known):
        model = trained(classifier, features[known], labels[known])
    for goal in budgets:
        told = None
        if model is not None and asks_passes(strategy):
            told = dropout_probabilities(model, features, count, passes=passes, rate=dropout, generator=generator)
        elif model is not None and asks_a_model(strategy):
            told = class_probabilities(model, features, count)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RandomStart)  # the curve says so
            new = query(
                strategy,
                features,
                goal - len(known),
                labelled=known,
                probabilities=told,
                generator=generator,
                **options,
            )
        known = torch.cat([known, new.cpu()])
        model = trained(classifier, features[known], labels[known])
        answers = class_probabilities(model, test_features, count).argmax(1)
        accuracy.append((answers == test_labels.to(answers.device)).double().mean())
        seen.append(len(labels[known].unique()))
    return LearningCurve(
        strategy, tuple(budgets), torch.stack(accuracy).cpu(), torch.tensor(seen), known, random_start=at_random
    )


def trained(classifier: Any, features: Tensor, labels: Tensor) -> Any:
    """A fitted copy of a scikit-learn-like classifier; of one class alone, the constant answer."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    if len(labels.unique()) == 1:
        model: Any = DummyClassifier(strategy="most_frequent")  # most classifiers refuse a single class
    else:
        model = LogisticRegression(C=10.0, max_iter=1000) if classifier is None else deepcopy(classifier)
    model.fit(features.cpu().numpy(), labels.cpu().numpy())
    return model


def class_probabilities(model: Any, features: Tensor, classes: int) -> Tensor:
    """(n, classes) predictions of a fitted classifier; 0 for classes it has not seen."""
    seen = torch.as_tensor(model.predict_proba(features.cpu().numpy())).to(features)
    columns = torch.as_tensor(model.classes_).long().to(features.device)
    return torch.zeros_like(seen[:, :1]).repeat(1, classes).index_copy(1, columns, seen)


def dropout_probabilities(
    model: Any, features: Tensor, classes: int, *, passes: int = 20, rate: float = 0.5, generator: Generator | None
) -> Tensor:
    """(passes, n, classes) predictions with dropout on the features, as DBAL and BALD ask for.

    The classifier itself was trained without dropout; a network with dropout layers gives its own passes instead.

    Raises:
        InputError: a rate outside (0, 1), or no generator.
    """
    if not 0 < rate < 1:
        raise InputError(f"the dropout rate is a share in (0, 1); got {rate}")
    if generator is None:
        raise InputError("dropout draws at random; pass generator=surplus.space.generator(seed, 'query')")
    told = []
    for _ in range(passes):
        keep = torch.rand(features.shape, generator=generator, device=generator.device) >= rate
        told.append(class_probabilities(model, features * keep.to(features) / (1 - rate), classes))
    return torch.stack(told)


def _check_budgets(budgets: Sequence[int], known: int, n: int) -> None:
    rising = [known, *budgets]
    if not budgets or any(b <= a for a, b in zip(rising, budgets, strict=False)) or budgets[-1] > n:
        raise InputError(f"budgets are rising numbers of labels above {known} and up to {n}; got {tuple(budgets)}")
