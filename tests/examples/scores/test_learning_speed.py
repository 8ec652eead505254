import math

import pytest
import torch

from surplus.errors import InputError
from surplus.examples import aum, cumulative_accuracy, cumulative_confidence, cumulative_loss
from surplus.examples.scores.learning_speed import speed_proxies

SPEEDS = [cumulative_confidence, cumulative_accuracy, cumulative_loss, aum]


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_score_is_the_mean_over_epochs_then_runs(speed):
    record = torch.tensor([[[1.0, 4.0], [3.0, 8.0]], [[5.0, 0.0], [7.0, 4.0]]])  # (2 runs, 2 epochs, 2 examples)
    estimate = speed(record)
    assert estimate.mean.tolist() == [4, 4]
    assert estimate.stderr.tolist() == [2, 2]  # runs: 2 and 6, 6 and 2
    assert estimate.repeats == 2


@pytest.mark.parametrize("speed", SPEEDS)
def test_only_the_epochs_asked_for_count(speed):
    record = torch.arange(24.0).view(2, 4, 3)
    torch.testing.assert_close(speed(record, epochs=2).mean, record[:, :2].mean((0, 1)))
    with pytest.raises(InputError, match="holds 4 epochs"):
        speed(record, epochs=5)


@pytest.mark.parametrize("speed", SPEEDS)
def test_each_run_weighs_the_same_however_often_it_visited(speed):
    nan = torch.nan
    record = torch.tensor([[[2.0], [4.0], [6.0]], [[8.0], [nan], [nan]], [[nan], [nan], [nan]]])
    estimate = speed(record)
    assert estimate.mean.item() == 6  # runs: 4, 8, none
    assert estimate.repeats.item() == 2


def test_the_earlier_learnt_the_faster():
    epochs = torch.arange(10)[:, None]
    correct = (epochs >= torch.tensor([0, 3, 9, 10])).float()[None]  # learnt at epoch 0, 3, 9, never
    torch.testing.assert_close(cumulative_accuracy(correct).mean, torch.tensor([1.0, 0.7, 0.1, 0.0]))


def test_every_proxy_of_two_epochs_by_hand():
    """Two classes; example 0 goes from p(label) = 1/2 to 3/4, example 1 from 3/4 to 1/4."""
    p = torch.tensor([[[0.5, 0.5], [0.75, 0.25]], [[0.75, 0.25], [0.25, 0.75]]], dtype=torch.float64)
    found = speed_proxies(p.log()[None], torch.tensor([0, 0]))
    half, quarter = 0.5 * math.log(0.5) * 2, 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    expected = {
        "label probability": [0.625, 0.5],
        "accuracy": [1.0, 0.5],
        "largest probability": [0.625, 0.75],
        "entropy": [(half + quarter) / 2, quarter],
        "loss": [(math.log(0.5) + math.log(0.75)) / 2, (math.log(0.75) + math.log(0.25)) / 2],
        "forgetting": [0.0, -1.0],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name].mean, torch.tensor(values, dtype=torch.float64))


def test_proxies_of_a_sure_network_stay_finite():
    found = speed_proxies(torch.tensor([[[[1e4, 0.0], [0.0, 1e4]]]]), torch.tensor([0, 1]))
    assert all(e.mean.isfinite().all() for e in found.values())
    assert found["entropy"].mean.tolist() == [0, 0]


def test_logits_that_do_not_match_the_labels_are_refused():
    with pytest.raises(InputError, match="as many labels"):
        speed_proxies(torch.zeros(1, 2, 3, 2), torch.tensor([0, 1]))
