from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from surplus.errors import InputError
from surplus.examples.active import (
    class_probabilities,
    dropout_probabilities,
    learn_actively,
    query,
    trained,
)
from surplus.space import generator


def groups(n=20, spread=0.2, seed=0):
    """Four groups around the axes of four dimensions."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(4).repeat_interleave(n)
    return torch.eye(4)[y] + spread * torch.randn(4 * n, 4, generator=g), y


def play(strategy, budgets=(4, 8, 12), seed=0, **options):
    return learn_actively(strategy, *groups(), *groups(seed=1), budgets, generator=generator(seed, "query"), **options)


@pytest.mark.parametrize(
    "strategy",
    ["typiclust", "prob-cover", "random", "coreset", "margin", "entropy", "least-confidence", "dbal", "bald", "badge"],
)
def test_every_strategy_plays_through(strategy):
    curve, again = play(strategy), play(strategy)
    assert curve.budgets == (4, 8, 12) and curve.accuracy.shape == (3,) and len(curve.picks.unique()) == 12
    assert torch.equal(curve.picks, again.picks) and torch.equal(curve.accuracy, again.accuracy)
    assert curve.accuracy[-1] > 0.6 and bool((curve.classes.diff() >= 0).all())
    assert curve.random_start == (strategy in ["margin", "entropy", "least-confidence", "dbal", "bald", "badge"])


def test_those_without_a_model_begin_as_random_choice_does():
    assert torch.equal(play("margin").picks[:4], play("random").picks[:4])
    assert not torch.equal(play("margin").picks, play("random").picks)


def test_separate_groups_are_learned_from_one_label_each():
    curve = play("typiclust", (4,))
    assert curve.classes.tolist() == [4] and curve.accuracy[0] > 0.95


def test_the_rounds_are_those_of_a_loop_of_ones_own():
    x, y = groups()
    chance, model = generator(0, "query"), LogisticRegression(C=10.0, max_iter=1000)
    known = query("random", x, 4, generator=chance)
    model.fit(x[known].numpy(), y[known].numpy())
    p = class_probabilities(model, x, 4)
    known = torch.cat([known, query("margin", x, 4, labelled=known, probabilities=p, generator=chance)])
    assert torch.equal(play("margin", (4, 8)).picks, known)
    x_test, y_test = groups(seed=1)
    model.fit(x[known].numpy(), y[known].numpy())
    right = (torch.from_numpy(model.predict(x_test.numpy())) == y_test).double().mean()
    assert play("margin", (4, 8)).accuracy[-1] == right


def test_labels_known_from_the_start_count_and_spare_the_random_start():
    curve = play("margin", (6, 8), labelled=torch.tensor([0, 20, 40, 60]))
    assert curve.picks[:4].tolist() == [0, 20, 40, 60] and not curve.random_start and len(curve.picks) == 8


def test_labels_of_the_unqueried_are_not_looked_at():
    x, y = groups()
    first = play("margin")
    lied = y.clone()
    rest = torch.ones(80, dtype=torch.bool).index_fill(0, first.picks, False)
    lied[rest] = 3 - lied[rest]
    again = learn_actively("margin", x, lied, *groups(seed=1), (4, 8, 12), generator=generator(0, "query"))
    assert torch.equal(again.picks, first.picks) and torch.equal(again.accuracy, first.accuracy)


def test_any_classifier_with_the_three_methods_will_do_and_stays_as_it_was():
    model = KNeighborsClassifier(1)
    assert play("margin", classifier=model).accuracy[-1] > 0.5
    assert not hasattr(model, "classes_")


def test_classes_not_seen_yet_have_no_probability():
    x, y = groups()
    p = class_probabilities(trained(None, x[20:60], y[20:60]), x, 4)
    assert p.shape == (80, 4) and not p[:, [0, 3]].any() and p.sum(1).allclose(torch.ones(80))


def test_one_class_alone_is_the_constant_answer():
    x, y = groups()
    p = class_probabilities(trained(None, x[20:30], y[20:30]), x, 4)
    assert torch.equal(p, torch.eye(4)[1].expand(80, 4))


def test_passes_with_dropout_differ_around_the_plain_prediction():
    x, y = groups()
    model = trained(None, x, y)
    passes = dropout_probabilities(model, x, 4, passes=30, rate=0.3, generator=generator(0))
    assert passes.shape == (30, 80, 4) and passes.std(0).mean() > 0.01
    faint = dropout_probabilities(model, x, 4, passes=3, rate=1e-9, generator=generator(0))
    torch.testing.assert_close(faint, class_probabilities(model, x, 4).expand(3, -1, -1))
    with pytest.raises(InputError, match="share in"):
        dropout_probabilities(model, x, 4, rate=1.0, generator=generator(0))


@pytest.mark.parametrize("budgets", [(), (8, 8), (8, 4), (4, 81)])
def test_budgets_must_rise_within_the_examples(budgets):
    with pytest.raises(InputError, match="rising numbers"):
        play("random", budgets)
