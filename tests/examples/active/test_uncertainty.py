from __future__ import annotations

import pytest
import torch

from surplus.errors import InputError
from surplus.examples.active import query

# least confidence .5, .6, .55, .1, .3; margin .2, 0, .1, .8, .4; entropy 1.030, 1.055, 1.049, .325, .611 nats
P = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.45, 0.35, 0.2], [0.9, 0.1, 0.0], [0.7, 0.3, 0.0]])
X = torch.zeros(5, 2)


def order(name, p=P, **options):
    return query(name, X, len(X), probabilities=p, **options).tolist()


def test_least_confidence_by_hand():
    assert order("least-confidence") == [1, 2, 0, 4, 3]


def test_margin_by_hand():
    assert order("margin") == [1, 2, 0, 4, 3]
    assert order("margin", torch.tensor([[0.6, 0.4, 0.0], [0.4, 0.3, 0.3]])[[0, 1, 0, 1, 0]]) == [1, 3, 0, 2, 4]


def test_entropy_by_hand():
    assert order("entropy") == [1, 2, 0, 4, 3]
    assert order("entropy", torch.tensor([[0.5, 0.5, 0], [0.6, 0.2, 0.2]])[[0, 1, 0, 1, 0]])[:2] == [1, 3]
    assert order("margin", torch.tensor([[0.5, 0.5, 0], [0.6, 0.2, 0.2]])[[0, 1, 0, 1, 0]])[:3] == [0, 2, 4]


def test_several_passes_are_averaged():
    passes = torch.stack([P, P.flip(0)])
    for name in ("least-confidence", "margin", "entropy"):
        assert order(name, passes) == order(name, passes.mean(0))
    assert order("dbal", passes) == order("entropy", passes.mean(0))


def test_bald_wants_disagreement_and_not_doubt():
    sure, doubt, split = [[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]]
    passes = torch.tensor([sure, doubt, split, sure, [[0.8, 0.2], [0.2, 0.8]]]).transpose(0, 1)  # (2, 5, 2)
    assert order("bald", passes) == [2, 4, 0, 1, 3]  # ln 2, .193, and nothing
    assert order("dbal", passes)[:3] == [1, 2, 4]


def test_bald_is_the_mutual_information_of_answer_and_pass():
    passes = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    joint = passes / 6  # pass and answer
    information = (joint * (joint / (joint.sum(0) / 6)).log()).sum((0, 2))
    assert order("bald", passes) == information.argsort(descending=True).tolist()


@pytest.mark.parametrize("name", ["dbal", "bald"])
def test_one_pass_is_not_enough_for_those_that_compare_passes(name):
    with pytest.raises(InputError, match=r"\(T, n, classes\)"):
        order(name)
