import pytest
import torch
from torch.nn.functional import cross_entropy

from surplus.errors import InputError
from surplus.examples import el2n, el2n_from_logits
from surplus.examples.scores.el2n import early_epoch, error_l1, probability_gap


def test_a_sure_network_scores_zero_when_right_and_root_two_when_wrong():
    sure = 1e3 * torch.eye(3).expand(4, 3, 3)  # 4 runs, 3 examples, 3 classes
    assert torch.allclose(el2n_from_logits(sure, torch.tensor([0, 1, 2])).mean, torch.zeros(3))
    assert torch.allclose(el2n_from_logits(sure, torch.tensor([1, 2, 0])).mean, torch.full((3,), 2**0.5))


def test_known_probabilities_give_known_lengths():
    logits = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log().expand(2, 2, 3)
    lengths = el2n_from_logits(logits, torch.tensor([0, 2])).mean
    torch.testing.assert_close(lengths, torch.tensor([0.3741657, 1.1575837], dtype=torch.float64), atol=1e-7, rtol=0)
    uniform = el2n_from_logits(torch.zeros(2, 1, 10), torch.tensor([3])).mean
    torch.testing.assert_close(uniform, torch.tensor([0.9486833]))


def test_it_is_the_length_of_the_gradient_with_respect_to_the_logits():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 6, 4, generator=g, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (6,), generator=g)
    (gradient,) = torch.autograd.grad(cross_entropy(logits[0], labels, reduction="sum"), logits)
    torch.testing.assert_close(el2n_from_logits(logits, labels).mean, gradient[0].norm(dim=-1))


def test_runs_are_averaged_after_taking_lengths():
    logits = 1e3 * torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # the two runs disagree
    estimate = el2n_from_logits(logits, torch.tensor([0]))
    torch.testing.assert_close(estimate.mean, torch.tensor([2**0.5 / 2]))  # the mean vector would have length 0.71 / 2
    torch.testing.assert_close(estimate.stderr, torch.tensor([2**0.5 / 2]))


def test_the_record_is_read_at_the_epoch_asked_for():
    error = torch.arange(60.0).view(2, 10, 3)
    torch.testing.assert_close(el2n(error, epoch=1).mean, error[:, 0].mean(0))
    torch.testing.assert_close(el2n(error, epoch=10).mean, error[:, 9].mean(0))
    torch.testing.assert_close(el2n(error).mean, error[:, 4].mean(0))


@pytest.mark.parametrize(("epochs", "early"), [(1, 1), (3, 3), (30, 5), (100, 10), (200, 20)])
def test_the_default_epoch_is_a_tenth_but_not_before_the_fifth(epochs, early):
    assert early_epoch(epochs) == early


def test_a_run_that_skipped_the_example_does_not_count():
    error = torch.tensor([[[0.2, 0.4]], [[torch.nan, 0.6]], [[torch.nan, 0.8]]])
    estimate = el2n(error)
    torch.testing.assert_close(estimate.mean, torch.tensor([0.2, 0.6]))
    assert estimate.repeats.tolist() == [1, 3]


@pytest.mark.parametrize("epoch", [0, 4, -1])
def test_an_epoch_outside_the_record_is_refused(epoch):
    with pytest.raises(InputError, match="epochs 1 to 3"):
        el2n(torch.zeros(2, 3, 4), epoch=epoch)


def test_logits_and_labels_of_different_length_are_refused():
    with pytest.raises(InputError, match="n = 5"):
        el2n_from_logits(torch.zeros(2, 4, 3), torch.zeros(5, dtype=torch.long))


def test_the_codes_other_scores_in_closed_form():
    p = torch.tensor([[[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]])
    labels = torch.tensor([0, 2])
    torch.testing.assert_close(error_l1(p, labels).mean, torch.tensor([0.6, 1.8]))
    torch.testing.assert_close(probability_gap(p, labels).mean, torch.tensor([-0.5, 0.6]))
    torch.testing.assert_close(probability_gap(p, labels, over="all").mean, torch.tensor([1 - 3 * 0.7, 1 - 3 * 0.1]))
    with pytest.raises(InputError, match="choice of classes"):
        probability_gap(p, labels, over="some")
