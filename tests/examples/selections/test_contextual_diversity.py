import pytest
import torch

from surplus.examples.selections.contextual_diversity import contextual_diversity, contextual_diversity_order


def test_a_prediction_is_picked_that_differs_most_from_those_before():
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])
    assert contextual_diversity_order(p, 3, first=0).tolist() == [0, 3, 2]
    assert contextual_diversity(torch.zeros(4), 2, probabilities=p, first=0).tolist() == [True, False, False, True]


def test_each_pick_has_the_largest_divergence_from_its_nearest_pick():
    p = torch.randn(25, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(1)
    kl = lambda a, b: float((a * (a / b).log()).sum())
    gap = [[0.5 * kl(a, b) + 0.5 * kl(b, a) for b in p] for a in p]
    order = contextual_diversity_order(p, 25, first=4).tolist()
    assert sorted(order) == list(range(25))
    for t in range(1, 25):
        nearest = [min(gap[i][j] for j in order[:t]) for i in range(25)]
        assert nearest[order[t]] == pytest.approx(max(nearest))


def test_a_probability_of_zero_is_far_but_not_infinitely():
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert contextual_diversity_order(p, 3, first=2).isfinite().all()
    assert contextual_diversity_order(p, 2, first=0).tolist() == [0, 1]
