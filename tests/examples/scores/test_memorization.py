import pytest
import torch

from surplus.errors import InputError
from surplus.examples import c_score, influence, influential_pairs, memorization

TRAINED_ON = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 0]])
HITS = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]])
SHARE = torch.full((4,), 0.6)


def random_runs(runs, m, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(runs, m, generator=g).round().double(), torch.rand(runs, n, generator=g) < 0.7


def test_the_estimator_matrices_give_what_membership_gains():
    assert memorization(HITS, TRAINED_ON, SHARE).mean.tolist() == [1, 0.5, 1]


def test_memorization_is_training_accuracy_minus_c_score():
    hits, trained_on = random_runs(50, 8, 8)
    share = torch.full((50,), 0.7)
    gain = memorization(hits, trained_on, share)
    inside = torch.where(trained_on, hits, torch.nan).nanmean(0)
    torch.testing.assert_close(gain.mean, inside - c_score(hits, trained_on, share).mean)


def test_the_standard_error_is_that_of_two_accuracies():
    hits, trained_on = random_runs(50, 8, 8)
    expected = torch.zeros(8, dtype=torch.float64)
    for side in (trained_on, ~trained_on):
        q = torch.where(side, hits, torch.nan).nanmean(0)
        expected += q * (1 - q) / (side.sum(0) - 1)
    torch.testing.assert_close(memorization(hits, trained_on, torch.full((50,), 0.7)).stderr, expected.sqrt())


def test_an_example_on_one_side_only_has_no_score():
    trained_on = torch.tensor([[1, 1, 0], [1, 0, 0]])
    estimate = memorization(torch.ones(2, 3), trained_on, torch.full((2,), 0.5))
    assert estimate.mean.isnan().tolist() == [True, False, True]
    assert estimate.repeats.tolist() == [0, 2, 0]


def test_runs_of_different_shares_are_compared_among_themselves():
    """Larger shares are more accurate on every example; membership itself gains nothing."""
    share = torch.tensor([0.2] * 10 + [0.8] * 10)
    trained_on = torch.zeros(20, 1, dtype=torch.bool)
    trained_on[:2] = trained_on[10:18] = True
    hits = (share[:, None] > 0.5).float()
    assert memorization(hits, trained_on, share).mean.item() == 0
    assert memorization(hits, trained_on, torch.full((20,), 0.5)).mean.item() == pytest.approx(0.6)


def test_influence_is_the_difference_of_two_means():
    hits, trained_on = random_runs(20, 5, 4)
    expected = torch.tensor(
        [[hits[trained_on[:, i], j].mean() - hits[~trained_on[:, i], j].mean() for i in range(4)] for j in range(5)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(influence(hits, trained_on), expected)


def test_influence_on_itself_is_memorization():
    hits, trained_on = random_runs(40, 6, 6)
    own = influence(hits, trained_on).diagonal()
    torch.testing.assert_close(own, memorization(hits, trained_on, torch.full((40,), 0.7)).mean)


def test_influence_is_undefined_where_one_side_is_empty():
    trained_on = torch.tensor([[1, 0, 1], [1, 0, 0]])
    assert influence(torch.ones(2, 1), trained_on).isnan().tolist() == [[True, True, False]]


@pytest.mark.parametrize("block", [1, 2, 100])
def test_pairs_are_those_of_the_whole_matrix(block):
    hits, trained_on = random_runs(30, 7, 9, seed=3)
    memorised = torch.linspace(0, 1, 9)
    memorised[4] = torch.nan
    pairs = influential_pairs(hits, trained_on, memorised, least_memorization=0.5, least_influence=0.1, block=block)
    matrix = influence(hits, trained_on)
    found = {(j, i) for j, i in (matrix >= 0.1).nonzero().tolist() if memorised[i] >= 0.5}
    assert found
    assert set(zip(pairs.evaluated.tolist(), pairs.trained.tolist(), strict=True)) == found
    torch.testing.assert_close(pairs.influence, matrix[pairs.evaluated, pairs.trained])


def test_runs_that_do_not_match_are_refused():
    with pytest.raises(InputError, match="same runs"):
        influence(torch.ones(3, 2), torch.ones(4, 2))
