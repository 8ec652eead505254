import math

import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from surplus.errors import InputError
from surplus.examples import score
from surplus.examples.scores.uncertainty import entropy, least_confidence, prediction_margin

SCORES = [least_confidence, entropy, prediction_margin]


def test_known_predictions_have_known_scores():
    p = torch.tensor([[[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]]])
    torch.testing.assert_close(least_confidence(p).mean, torch.tensor([0.3, 0.6]))
    torch.testing.assert_close(prediction_margin(p).mean, torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(entropy(p).mean, torch.as_tensor(scipy_entropy(p[0].numpy(), axis=1)))


def test_the_ends_are_a_sure_and_an_even_prediction():
    p = torch.stack([torch.eye(4)[0], torch.full((4,), 0.25)])[None]
    assert least_confidence(p).mean.tolist() == [0.0, 0.75]
    assert prediction_margin(p).mean.tolist() == [0.0, 1.0]
    torch.testing.assert_close(entropy(p).mean, torch.tensor([0.0, math.log(4)]))


@pytest.mark.parametrize("fn", SCORES)
def test_the_score_is_the_mean_of_the_runs_not_of_their_predictions(fn):
    p = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # two sure networks that disagree
    estimate = fn(p)
    assert estimate.mean.item() == 0.0 and estimate.repeats == 2


def test_two_classes_rank_alike_by_all_three():
    p = torch.rand(1, 50, 1, generator=torch.Generator().manual_seed(0))
    p = torch.cat([p, 1 - p], -1)
    orders = [fn(p).mean.argsort().tolist() for fn in SCORES]
    assert orders[0] == orders[1] == orders[2]


def test_they_are_found_by_name_and_high_is_hard():
    p = torch.tensor([[[0.9, 0.1], [0.6, 0.4]]])
    for name in ("least-confidence", "entropy", "prediction-margin"):
        values = score(name, {"probabilities": p}).mean
        assert values[1] > values[0]


def test_what_cannot_be_used_is_refused():
    with pytest.raises(InputError, match="one column"):
        prediction_margin(torch.ones(1, 3, 1))
    with pytest.raises(InputError, match="probabilities must have shape"):
        entropy(torch.ones(3, 2))
    with pytest.raises(InputError, match="did you mean deepcore"):
        entropy(torch.full((1, 3, 2), 0.5), compat="deep-core")
