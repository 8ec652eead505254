from itertools import combinations

import torch

from surplus.examples import accuracy_profile, c_score
from surplus.examples.scores.c_score import lacking_a_class

POINTS, CLASSES = [0, 1, 2, 10, 11], [0, 0, 1, 1, 1]


def nearest_neighbour_on_a_line():
    """All training sets of 1 to 4 of the five points: hits, trained_on (runs, 5), share (runs,)."""
    hits, trained_on, share = [], [], []
    for size in range(1, 5):
        for members in combinations(range(5), size):
            nearest = [min(members, key=lambda m: abs(POINTS[m] - x)) for x in POINTS]
            hits.append([CLASSES[m] == y for m, y in zip(nearest, CLASSES, strict=True)])
            trained_on.append([i in members for i in range(5)])
            share.append(size / 5)
    return torch.tensor(hits), torch.tensor(trained_on), torch.tensor(share, dtype=torch.float64)


def test_nearest_neighbour_on_a_line_has_the_profile_found_by_hand():
    hits, trained_on, share = nearest_neighbour_on_a_line()
    profile = accuracy_profile(hits.double(), ~trained_on, share)
    expected = [
        [1 / 4, 1 / 4, 1 / 2, 1 / 2, 1 / 2],
        [1 / 2, 1 / 2, 1 / 6, 5 / 6, 5 / 6],
        [3 / 4, 3 / 4, 0, 1, 1],
        [1, 1, 0, 1, 1],
    ]
    torch.testing.assert_close(profile.mean, torch.tensor(expected, dtype=torch.float64))
    assert profile.repeats.tolist() == [[4] * 5, [6] * 5, [4] * 5, [1] * 5]


def test_the_score_is_the_plain_mean_of_the_profile():
    hits, trained_on, share = nearest_neighbour_on_a_line()
    estimate = c_score(hits.double(), trained_on, share)
    expected = torch.tensor([5 / 8, 5 / 8, 1 / 6, 5 / 6, 5 / 6], dtype=torch.float64)
    torch.testing.assert_close(estimate.mean, expected)  # the mean over all held-out runs would be 8/15 for the first
    assert estimate.repeats.tolist() == [15] * 5


def test_the_estimator_matrices_give_their_held_out_means():
    trained_on = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 0]])
    hits = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]])
    assert c_score(hits, trained_on, torch.full((4,), 0.6)).mean.tolist() == [0, 0.5, 0]


def test_an_example_never_held_out_has_no_score():
    trained_on = torch.tensor([[1, 0], [1, 1], [1, 0]])
    estimate = c_score(torch.ones(3, 2), trained_on, torch.tensor([0.5, 0.5, 0.8]))
    assert estimate.mean[0].isnan()
    assert estimate.mean[1] == 1
    assert estimate.repeats.tolist() == [0, 2]


def test_a_share_at_which_the_example_was_never_held_out_is_left_out():
    trained_on = torch.tensor([[0], [0], [1]])
    hits = torch.tensor([[1.0], [0.0], [1.0]])
    estimate = c_score(hits, trained_on, torch.tensor([0.5, 0.5, 0.9]))
    assert estimate.mean.item() == 0.5
    assert estimate.stderr.item() == 0.5


def test_the_truth_lies_within_four_standard_errors():
    g = torch.Generator().manual_seed(0)
    share = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64).repeat_interleave(200)
    truth = torch.rand(3, 30, generator=g, dtype=torch.float64)  # accuracy by share
    hits = (torch.rand(600, 30, generator=g) < truth.repeat_interleave(200, 0)).double()
    trained_on = torch.rand(600, 30, generator=g) < share[:, None]
    estimate = c_score(hits, trained_on, share)
    z = (estimate.mean - truth.mean(0)) / estimate.stderr
    assert z.abs().max() < 4
    assert 0.6 < z.square().mean().sqrt() < 1.5


def test_a_run_without_an_example_of_some_class_is_noticed():
    trained_on = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]])
    assert lacking_a_class(trained_on, torch.tensor([0, 0, 3, 3])).tolist() == [False, True, True]
