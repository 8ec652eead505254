from itertools import pairwise

import pytest
import torch

from surplus.errors import InputError
from surplus.examples import forgetting
from surplus.examples.scores.forgetting import forgetting_events

NAN = float("nan")


def test_known_sequences_have_known_counts():
    correct = torch.tensor([[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).float().T[None]
    assert forgetting(correct, never="inf").mean.tolist() == [2, torch.inf, 0]
    assert forgetting(correct).mean.tolist() == [2, 3, 0]  # never learnt: one more than the largest count


def test_it_agrees_with_the_count_one_visit_at_a_time():
    g = torch.Generator().manual_seed(0)
    correct = torch.randint(2, (3, 12, 20), generator=g).float()
    correct[torch.rand(correct.shape, generator=g) < 0.3] = NAN
    for run in range(3):
        for i in range(20):
            visits = [v for v in correct[run, :, i].tolist() if v == v]
            expected = sum(a == 1 and b == 0 for a, b in pairwise(visits))
            assert forgetting_events(correct)[run, i] == expected


def test_an_epoch_without_a_visit_changes_nothing():
    correct = torch.tensor([1.0, NAN, 0.0, NAN, NAN, 1.0, 0.0])[None, :, None]
    assert forgetting(correct).mean.item() == 2


def test_never_learnt_in_one_of_two_runs_stays_finite_or_is_infinite_as_asked():
    correct = torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])  # (2 runs, 2 epochs, 2 examples)
    last, inf = forgetting(correct), forgetting(correct, never="inf")
    assert last.mean.tolist() == [1.5, 1]
    assert last.stderr.tolist() == [0.5, 0]
    assert inf.mean.tolist() == [torch.inf, 1]
    assert inf.stderr.tolist() == [torch.inf, 0]


def test_never_learnt_is_harder_than_every_other_in_every_run():
    correct = torch.randint(2, (4, 20, 10), generator=torch.Generator().manual_seed(1)).float()
    correct[:, :, 3] = 0
    mean = forgetting(correct).mean
    assert mean.argmax() == 3
    assert mean.isfinite().all()


def test_a_run_that_never_visits_does_not_count():
    correct = torch.tensor([[[1.0, NAN], [0.0, NAN]], [[1.0, NAN], [1.0, NAN]]])
    estimate = forgetting(correct)
    assert estimate.mean[0] == 0.5
    assert estimate.mean[1].isnan()
    assert estimate.repeats.tolist() == [2, 0]


def test_an_unknown_rule_for_the_never_learnt_is_refused():
    with pytest.raises(InputError, match="did you mean"):
        forgetting(torch.ones(1, 2, 3), never="first")


def test_ranks_let_never_learnt_examples_count_once_per_run():
    visits = torch.tensor([[[1, 1, 0], [1, 0, 0], [1, 1, 0]], [[1, 1, 1], [1, 1, 1], [1, 1, 1]]]).float()
    ranked = forgetting(visits, never="rank").mean
    assert ranked.tolist() == pytest.approx([(0 + 0.5) / 2, (0.5 + 0.5) / 2, (1 + 0.5) / 2])
