from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surplus.errors import InputError
from surplus.examples import easiest, hardest, offset_window, random_subset, select
from surplus.space import generator

RULES = [
    "hardest",
    "easiest",
    "random",
    "offset-window",
    "class-balanced-hardest",
    "class-balanced-random",
    "ccs",
    "moderate",
    "herding",
    "k-center",
    "contextual-diversity",
    "facility-location",
    "graph-cut",
    "log-determinant",
    "craig",
    "grad-match",
    "glister",
]
DRAWS = {"random", "class-balanced-random", "ccs", "k-center", "contextual-diversity"}
GRADIENTS = {"facility-location", "graph-cut", "log-determinant", "craig", "grad-match", "glister"}
NESTED = {"hardest", "easiest", "random", "moderate", "herding", "k-center", "contextual-diversity"} | GRADIENTS


def material(n, seed):
    g = torch.Generator().manual_seed(seed)
    extra = {"labels": torch.randint(3, (n,), generator=g), "embeddings": torch.randn(n, 4, generator=g)}
    extra["probabilities"] = torch.randn(n, 3, generator=g).softmax(1)
    return torch.randn(n, generator=g), extra


@pytest.mark.parametrize("rule", RULES)
@given(n=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 100))
def test_a_rule_keeps_exactly_as_many_as_asked(rule, n, share, seed):
    keep = max(1, round(share * n))
    scores, extra = material(n, seed)
    kept = select(rule, scores, keep, generator=generator(seed), **extra)
    assert kept.dtype == torch.bool
    assert kept.shape == (n,)
    assert kept.sum() == keep


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_keeps_exactly_as_many_when_all_scores_are_equal(rule):
    _, extra = material(30, 0)
    extra["embeddings"], extra["probabilities"] = torch.ones(30, 2), torch.full((30, 3), 1 / 3)
    assert select(rule, torch.zeros(30), 11, generator=generator(0), **extra).sum() == 11


@pytest.mark.parametrize("rule", sorted(NESTED))
def test_more_contains_less(rule):
    scores, extra = material(40, 1)
    kept = [select(rule, scores, keep, generator=generator(0), **extra) for keep in range(1, 41)]
    for less, more in pairwise(kept):
        assert not (less & ~more).any()


@pytest.mark.parametrize("rule", sorted(set(RULES) - DRAWS))
def test_a_rule_without_chance_follows_the_examples(rule):
    scores, extra = material(40, 2)
    order = torch.randperm(39, generator=torch.Generator().manual_seed(0)) + 1
    order = torch.cat(
        [torch.tensor([0]), order]
    )  # to the log-determinant all are level at first: the lowest index wins
    keep = 6 if rule in GRADIENTS else 13  # with many picks, two neighbours gain the same from each other: a tie
    kept = select(rule, scores, keep, **extra)
    moved = select(rule, scores[order], keep, **{k: v[order] for k, v in extra.items()})
    assert torch.equal(moved, kept[order])


@pytest.mark.parametrize("rule", sorted(DRAWS))
def test_a_rule_with_chance_repeats_from_its_generator_and_asks_for_one(rule):
    scores, extra = material(40, 2)
    draws = [select(rule, scores, 13, generator=generator(seed), **extra) for seed in (0, 0, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not (torch.equal(draws[0], draws[2]) and torch.equal(draws[0], draws[3]))
    with pytest.raises(InputError, match="pass generator="):
        select(rule, scores, 13, **extra)


def test_hardest_and_easiest_take_the_ends_and_break_ties_by_index():
    scores = torch.tensor([1.0, 3.0, 2.0, 3.0, 1.0, 3.0])
    assert hardest(scores, 2).nonzero().squeeze(1).tolist() == [1, 3]
    assert hardest(scores, 4).nonzero().squeeze(1).tolist() == [1, 2, 3, 5]
    assert easiest(scores, 1).nonzero().squeeze(1).tolist() == [0]
    assert easiest(torch.tensor([torch.inf, -torch.inf, 0.0]), 2).tolist() == [False, True, True]


def test_many_ties_go_to_the_lowest_index():
    first = torch.arange(5000) < 1234
    assert torch.equal(hardest(torch.zeros(5000), 1234), first)
    assert torch.equal(easiest(torch.zeros(5000), 1234), first)


def test_random_is_uniform():
    counts = sum(random_subset(torch.zeros(10), 3, generator=generator(seed)).double() for seed in range(2000))
    assert (counts / 2000 - 0.3).abs().max() < 4 * (0.3 * 0.7 / 2000) ** 0.5


def test_the_window_lies_where_it_is_put():
    scores = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 0.0])
    assert scores[offset_window(scores, 2, offset=0)].tolist() == [1, 0]
    assert scores[offset_window(scores, 2, offset=3)].tolist() == [4, 3]
    assert torch.equal(offset_window(scores, 2, offset=4), hardest(scores, 2))
    assert torch.equal(offset_window(scores, 2, drop=0), hardest(scores, 2))


def test_the_window_drops_the_noisiest_share_as_far_as_there_is_room():
    scores = torch.arange(20.0)
    assert scores[offset_window(scores, 5, drop=0.1)].tolist() == [13, 14, 15, 16, 17]
    assert torch.equal(offset_window(scores, 19, drop=0.3), easiest(scores, 19))


@pytest.mark.parametrize(("option", "message"), [({"offset": 5}, "offset of 0 to 4"), ({"drop": 1.0}, r"in \[0, 1\)")])
def test_a_window_outside_the_examples_is_refused(option, message):
    with pytest.raises(InputError, match=message):
        offset_window(torch.arange(6.0), 2, **option)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("keep", [0, -1, 7, 2.5])
def test_a_count_outside_the_examples_is_refused(rule, keep):
    scores, extra = material(6, 0)
    with pytest.raises(InputError, match="from 1 to 6"):
        select(rule, scores, keep, generator=generator(0), **extra)


@pytest.mark.parametrize("rule", ["hardest", "easiest", "offset-window", "class-balanced-hardest", "ccs"])
def test_scores_that_cannot_be_ordered_are_refused(rule):
    scores, extra = material(6, 0)
    scores[2] = torch.nan
    with pytest.raises(InputError, match=r"1 scores are NaN \(rows 2\)"):
        select(rule, scores, 3, generator=generator(0), **extra)
    with pytest.raises(InputError, match="one number per example"):
        select(rule, torch.ones(6, 2), 3, generator=generator(0), **extra)


@pytest.mark.parametrize("rule", ["class-balanced-hardest", "class-balanced-random", "moderate", *sorted(GRADIENTS)])
def test_rules_about_classes_ask_for_labels(rule):
    scores, extra = material(6, 0)
    labels = extra.pop("labels")
    with pytest.raises(InputError, match=r"pass labels=, shape \(6,\)"):
        select(rule, scores, 3, generator=generator(0), **extra)
    with pytest.raises(InputError, match="one per score"):
        select(rule, scores, 3, labels=labels[:4], generator=generator(0), **extra)


@pytest.mark.parametrize("rule", ["moderate", "herding", "k-center", *sorted(GRADIENTS)])
def test_rules_about_positions_ask_for_embeddings(rule):
    scores, extra = material(6, 0)
    kwargs = {k: v for k, v in extra.items() if k != "embeddings"} | {"generator": generator(0)}
    with pytest.raises(InputError, match="pass embeddings="):
        select(rule, scores, 3, **kwargs)
    with pytest.raises(InputError, match="one row per score"):
        select(rule, scores, 3, embeddings=extra["embeddings"][:4], **kwargs)
    with pytest.raises(InputError, match="must be finite"):
        select(rule, scores, 3, embeddings=extra["embeddings"] / 0, **kwargs)


@pytest.mark.parametrize("rule", ["contextual-diversity", "craig", "grad-match", "glister"])
def test_rules_about_predictions_ask_for_probabilities(rule):
    scores, extra = material(6, 0)
    p = extra.pop("probabilities")
    with pytest.raises(InputError, match=r"pass probabilities=, shape \(6, classes\)"):
        select(rule, scores, 3, generator=generator(0), **extra)
    with pytest.raises(InputError, match=r"floats of shape \(6, classes\)"):
        select(rule, scores, 3, probabilities=p[:4], generator=generator(0), **extra)
    with pytest.raises(InputError, match="take the softmax"):
        select(rule, scores, 3, probabilities=p.log(), generator=generator(0), **extra)


def test_probabilities_of_several_runs_are_averaged():
    scores, extra = material(40, 3)
    runs = torch.randn(5, 40, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for by_class in (False, True):
        kept = [
            select("graph-cut", scores, 9, by_class=by_class, **{**extra, "probabilities": p})
            for p in (runs, runs.mean(0))
        ]
        assert torch.equal(*kept)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"class-balanced-hardest", "class-balanced-random"}))
def test_any_rule_works_class_by_class(rule):
    scores, extra = material(50, 4)
    kept = select(rule, scores, 20, by_class=True, generator=generator(0), **extra)
    assert kept.sum() == 20
    assert ((extra["labels"][kept].bincount() - 0.4 * extra["labels"].bincount()).abs() < 1).all()
    own = extra["labels"] == 1
    if rule not in DRAWS:
        alone = select(rule, scores[own], int(kept[own].sum()), **{k: v[own] for k, v in extra.items()})
        assert torch.equal(kept[own], alone)


def test_a_rule_of_ones_own_gets_what_it_asks_for_or_the_error_names_it(monkeypatch):
    from surplus.registry import _METHODS, method

    monkeypatch.setattr("surplus.registry._METHODS", dict(_METHODS))

    @method("selection", name="brightest")
    def brightest(scores, keep, *, pixels, labels=None, generator=None):
        return hardest(pixels.mean(1), keep)

    scores, pixels = torch.zeros(4), torch.tensor([[0.0], [3.0], [1.0], [2.0]])
    assert select("brightest", scores, 2, pixels=pixels).tolist() == [False, True, False, True]
    with pytest.raises(InputError, match="'brightest' needs more: pass pixels="):
        select("brightest", scores, 2)


def test_settings_reach_the_rule_and_unknown_ones_are_refused():
    scores = torch.arange(6.0)
    assert torch.equal(select("offset_window", scores, 2, offset=0), easiest(scores, 2))
    with pytest.raises(InputError, match="no setting 'offset'"):
        select("hardest", scores, 2, offset=0)
    with pytest.raises(InputError, match="did you mean hardest"):
        select("hardes", scores, 2)
