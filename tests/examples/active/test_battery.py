"""Every query strategy alike: exact counts, no repeats, no labelled point, the same draws the same picks."""

from __future__ import annotations

import warnings

import pytest
import torch

from surplus.errors import InputError
from surplus.examples import active
from surplus.examples.active import RandomStart, query, starts_at_random
from surplus.registry import method, methods

ALL = [m for m in methods("query strategy") if m.fn.__module__.startswith("surplus.")]
every = pytest.mark.parametrize("name", [m.name for m in ALL])
ASKING = {"least-confidence", "margin", "entropy", "dbal", "bald", "badge"}
KNOWN = torch.tensor([3, 50, 7, 21])


def given(n=60, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=g), torch.randn(3, n, 5, generator=g).softmax(-1)


def ask(name, budget=12, seed=3, labelled=KNOWN, **changes):
    features, probabilities = given()
    told = {"features": features, "probabilities": probabilities} | changes
    return query(name, told.pop("features"), budget, labelled=labelled, generator=generator(seed), **told)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_the_strategies_are_those_of_the_paper():
    assert {m.name for m in ALL} == ASKING | {"typiclust", "prob-cover", "random", "coreset"}
    assert {m.name for m in ALL if starts_at_random(m.name)} == ASKING


@every
@pytest.mark.parametrize("budget", [1, 12, 56])
def test_it_gives_the_exact_number_without_repeats_and_none_that_is_labelled(name, budget):
    picks = ask(name, budget)
    assert picks.dtype == torch.int64 and picks.shape == (budget,)
    assert len(picks.unique()) == budget and not torch.isin(picks, KNOWN).any()
    assert picks.min() >= 0 and picks.max() < 60


@every
def test_the_same_draws_give_the_same_picks_and_leave_its_input_alone(name):
    features, probabilities = given()
    assert torch.equal(ask(name), ask(name, features=features, probabilities=probabilities))
    assert all(torch.equal(a, b) for a, b in zip((features, probabilities), given(), strict=True))


@every
def test_a_mask_of_the_labelled_says_the_same_as_positions(name):
    mask = torch.zeros(60, dtype=torch.bool).index_fill(0, KNOWN, True)
    assert torch.equal(ask(name), ask(name, labelled=mask))
    assert torch.equal(ask(name), ask(name, labelled=KNOWN.tolist()))


@every
def test_only_candidates_are_picked(name):
    picks = ask(name, 8, candidates=torch.arange(1, 21))  # three of these have labels
    assert len(picks.unique()) == 8 and picks.min() >= 1 and picks.max() <= 20 and not torch.isin(picks, KNOWN).any()


@every
@pytest.mark.parametrize("points", [torch.zeros(60, 4), torch.ones(60, 4)])
def test_equal_points_are_no_obstacle(name, points):
    picks = (
        ask(name, 20, features=points, probabilities=torch.full((2, 60, 5), 0.2))
        if name != "prob-cover"
        else (ask(name, 20, features=points, probabilities=None, delta=0.1))
    )
    assert len(picks.unique()) == 20


# Not those that draw among positions, nor ProbCover, whose counts are often equal and then go by position.
@pytest.mark.parametrize("name", sorted({m.name for m in ALL} - {"random", "badge", "prob-cover"}))
def test_the_order_of_the_examples_does_not_matter(name):
    features, probabilities = given()
    order = torch.randperm(60, generator=generator(1))
    place = order.argsort()  # where each example went
    clusters = torch.arange(60) % 6
    here, there = ({"clusters": c} if name == "typiclust" else {} for c in (clusters, clusters[order]))
    moved = {"features": features[order], "probabilities": probabilities[:, order], "labelled": place[KNOWN]}
    assert torch.equal(order[ask(name, **moved, **there)], ask(name, **here))


@every
def test_double_precision_asks_the_same(name):
    features, probabilities = given()
    if name in ("random", "coreset", "margin", "entropy", "least-confidence", "dbal", "bald"):
        assert torch.equal(ask(name), ask(name, features=features.double(), probabilities=probabilities.double()))
    else:
        assert len(ask(name, features=features.double()).unique()) == 12


@pytest.mark.parametrize("name", sorted(ASKING))
def test_without_labels_and_without_a_model_it_starts_at_random_and_says_so(name):
    features, probabilities = given()
    with pytest.warns(RandomStart, match="random start"):
        picks = query(name, features, 9, generator=generator(0))
    assert torch.equal(picks, query("random", features, 9, generator=generator(0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        query(name, features, 9, probabilities=probabilities, generator=generator(0))  # a model of one's own will do
    with pytest.raises(InputError, match="pass probabilities="):
        query(name, features, 9, labelled=KNOWN, generator=generator(0))


@pytest.mark.parametrize("name", ["typiclust", "prob-cover", "random", "coreset", "badge"])
def test_a_strategy_that_draws_asks_for_a_generator(name):
    features, probabilities = given()
    with pytest.raises(InputError, match="generator="):
        query(name, features, 9, probabilities=probabilities)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"budget": 0}, "1 to the 56 that are left"),
        ({"budget": 57}, "1 to the 56 that are left"),
        ({"features": torch.zeros(60)}, "float tensor"),
        ({"features": torch.zeros(60, 2, dtype=torch.long)}, "float tensor"),
        ({"features": torch.full((60, 2), torch.nan)}, "finite"),
        ({"labelled": torch.tensor([60])}, "0 to 59"),
        ({"labelled": torch.tensor([-1])}, "0 to 59"),
        ({"labelled": torch.tensor([0.5])}, "positions"),
        ({"labelled": torch.zeros(59, dtype=torch.bool)}, "positions"),
        ({"probabilities": torch.rand(60, 3)}, "sum to 1"),
        ({"probabilities": torch.ones(59, 1)}, "probabilities must be"),
        ({"squares": True}, "no setting 'squares'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(changes, says):
    with pytest.raises(InputError, match=says):
        ask("random", **changes)


def test_an_unknown_strategy_brings_the_nearest_names():
    with pytest.raises(InputError, match="typiclust"):
        ask("typiclus")


def test_a_strategy_of_ones_own_joins_by_its_name():
    @method("query strategy", name="last-first")
    def last_first(pool, budget, *, generator=None):
        return pool.open.nonzero().squeeze(1).flip(0)[:budget]

    try:
        assert ask("last-first", 3).tolist() == [59, 58, 57]
    finally:
        from surplus import registry

        del registry._METHODS["query strategy", "last-first"]


def test_what_the_package_exports_is_there():
    assert all(hasattr(active, name) for name in active.__all__)
