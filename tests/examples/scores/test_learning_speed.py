import pytest
import torch

from surplus.errors import InputError
from surplus.examples import aum, cumulative_accuracy, cumulative_confidence, cumulative_loss

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
