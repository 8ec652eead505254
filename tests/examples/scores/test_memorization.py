import pytest
import torch

from surplus.errors import InputError
from surplus.examples import c_score, influence, influential_pairs, memorization
from surplus.examples.scores.memorization import influence_blocks

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


def test_the_standard_error_by_hand_and_within_the_bound_of_the_paper():
    """With: 3 of 4 right; without: 1 of 4. q (1 - q) / (4 - 1) = 1/16 on each side."""
    hits = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0]).double()[:, None]
    estimate = memorization(hits, torch.arange(8)[:, None] < 4, torch.full((8,), 0.5))
    assert estimate.mean.item() == 0.5 and estimate.repeats.item() == 8
    assert estimate.stderr.item() == pytest.approx((1 / 8) ** 0.5)
    hits, trained_on = random_runs(50, 8, 8)
    share = torch.full((50,), 0.7)
    bound = 1 / trained_on.sum(0) + 1 / (~trained_on).sum(0)  # 1 / (p t) + 1 / ((1 - p) t)
    assert (memorization(hits, trained_on, share).stderr.square() < bound).all()


def test_the_truth_lies_within_four_standard_errors():
    g = torch.Generator().manual_seed(0)
    inside, outside = torch.rand(2, 40, generator=g, dtype=torch.float64)
    trained_on = torch.rand(400, 40, generator=g) < 0.7
    hits = (torch.rand(400, 40, generator=g) < torch.where(trained_on, inside, outside)).double()
    estimate = memorization(hits, trained_on, torch.full((400,), 0.7))
    z = (estimate.mean - (inside - outside)) / estimate.stderr
    assert z.abs().max() < 4 and 0.6 < z.square().mean().sqrt() < 1.5


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


@pytest.mark.parametrize("block", [1, 3, 100])
def test_blocks_are_the_rows_of_the_whole_matrix(block):
    hits, trained_on = random_runs(20, 7, 4, seed=1)
    parts = list(influence_blocks(hits, trained_on, block))
    assert max(len(values) for _, values in parts) <= block
    assert [row for rows, _ in parts for row in range(rows.start, rows.stop)] == list(range(7))
    torch.testing.assert_close(torch.cat([values for _, values in parts]), influence(hits, trained_on))


def test_pairs_touch_fewer_examples_than_there_are_pairs():
    """Example 0 alone decides whether examples 0 and 1 are right; example 2 changes nothing."""
    trained_on = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 1], [0, 1, 0]])
    hits = torch.tensor([[1, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0, 1]])
    pairs = influential_pairs(hits, trained_on, torch.tensor([1.0, 0.0, 0.9]))
    assert pairs.evaluated.tolist() == [0, 1] and pairs.trained.tolist() == [0, 0]
    assert pairs.distinct == (2, 1)


def test_a_block_holds_at_least_one_example():
    with pytest.raises(InputError, match="at least 1"):
        next(influence_blocks(torch.ones(2, 2), torch.eye(2), 0))


def test_runs_that_do_not_match_are_refused():
    with pytest.raises(InputError, match="same runs"):
        influence(torch.ones(3, 2), torch.ones(4, 2))
