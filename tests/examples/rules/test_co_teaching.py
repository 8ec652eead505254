"""Co-teaching."""

import pytest
import torch

from surplus.data.noise import symmetric
from surplus.errors import InputError
from surplus.examples.rules.co_teaching import CoTeaching, exchange, forget_rate, label_precision
from surplus.space import generator
from surplus.tasks import load
from surplus.training import fit


@pytest.fixture(scope="module")
def task():
    return load("digits").with_recipe(optimiser="adam", lr=1e-3, batch_size=128, duration="12ep", schedule="constant")


def test_the_forget_rate_rises_as_in_the_authors_code():
    kept = [1 - forget_rate(t, 0.5) for t in range(12)]
    expected = [1, 0.9444, 0.8889, 0.8333, 0.7778, 0.7222, 0.6667, 0.6111, 0.5556, 0.5, 0.5, 0.5]
    assert kept == pytest.approx(expected, abs=1e-4)
    assert forget_rate(9, 0.5, exponent=2) == pytest.approx(0.25) and forget_rate(10, 0.5, exponent=2) == 0.5


def test_each_network_is_shown_what_the_other_finds_easy():
    losses = torch.tensor([[4.0, 1, 3, 2], [1, 4, 2, 3]])
    weights = exchange(losses, 2)
    assert torch.equal(weights, torch.tensor([[2.0, 0, 2, 0], [0, 2, 0, 2]]))
    mean = (weights[0] * losses[0]).mean()
    assert mean == (4 + 3) / 2  # the mean over what network 2 chose, not divided by its number again


def test_pairs_do_not_meet():
    losses = torch.rand(6, 20, generator=generator(0, "losses"))
    together = exchange(losses, 5)
    assert torch.equal(together, torch.cat([exchange(losses[i : i + 2], 5) for i in (0, 2, 4)]))


def test_a_step_is_that_of_two_plain_networks_that_exchange_their_small_losses(task):
    one = task.with_recipe(duration="1it", optimiser="sgd", lr=0.1, momentum=0.0, weight_decay=0.0)
    rule = CoTeaching(noise=0.5, ramp=1)  # half of the batch from the first step on
    run = fit(one, seeds=[3, 4], rule=rule)
    order = torch.randperm(len(task.train), generator=generator(3, "order", 0))
    size = len(torch.arange(len(task.train)).tensor_split(-(-len(task.train) // 128))[0])
    x, y = task.prepare(task.train.inputs[order[:size]]), task.train.targets[order[:size]]
    theta = task.space.init_many([3, 4]).requires_grad_()
    losses = torch.stack([task.loss(task.space.apply(t, x), y) for t in theta])
    kept = losses.detach().topk(int(0.5 * size), dim=1, largest=False).indices
    (losses[0, kept[1]].mean() + losses[1, kept[0]].mean()).backward()
    torch.testing.assert_close(run.theta, (theta - 0.1 * theta.grad).detach(), atol=1e-6, rtol=1e-5)


def test_without_noise_to_forget_it_is_ordinary_training_in_one_order(task):
    run = fit(task, seeds=[0, 1], rule=CoTeaching(noise=0.0))
    assert torch.allclose(run.theta[0], fit(task, seeds=[0]).theta[0], atol=1e-4)


def test_what_is_shown_gets_cleaner_than_the_data(task):
    flips = symmetric(task.train.targets, 0.4, 10, generator(0, "flips"), exact=True)
    noisy = task.with_recipe(duration="15ep")
    from dataclasses import replace

    noisy = replace(noisy, train=noisy.train.with_targets(flips.labels))
    run = fit(noisy, seeds=[0, 1], rule=CoTeaching(noise=0.4), record=True)
    precision = label_precision(run.record["loss"], flips.changed)
    assert precision.shape == (2, 15) and precision[:, 0].sub(0.6).abs().max() < 0.01
    assert (precision[:, 10:] > 0.8).all()


def test_pairs_train_alike_in_any_company(task):
    rule, short = CoTeaching(noise=0.3), task.with_recipe(duration="3ep")
    four = fit(short, seeds=[0, 1, 2, 3], rule=rule, execution="stacked").theta
    assert torch.allclose(four[2:], fit(short, seeds=[2, 3], rule=rule, execution="spread").theta, atol=1e-4)


@pytest.mark.parametrize("rule", [CoTeaching(noise=1.0), CoTeaching(ramp=0), CoTeaching(exponent=0.0)])
def test_settings_out_of_bounds_are_refused(task, rule):
    with pytest.raises(InputError, match=r"noise rate in \[0, 1\)"):
        fit(task, seeds=2, rule=rule)
    with pytest.raises(InputError, match="groups of 2"):
        fit(task, seeds=3, rule=CoTeaching())
