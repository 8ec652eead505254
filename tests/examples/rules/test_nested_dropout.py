"""Nested dropout and its second stage."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.examples.rules.nested_dropout import (
    NestedCoTeaching,
    PrefixMask,
    best_epoch,
    best_prefix,
    compressed,
    freeze_norms,
    predict_prefix,
    prefix_accuracies,
    prefix_law,
)  # fmt: skip
from surplus.space import generator, seeded
from surplus.tasks import Network, load
from surplus.training import features, fit, predict


@pytest.fixture(scope="module")
def task():
    digits = load("digits", "mlp:widths=32-24").with_recipe(duration="4ep", lr=0.05)
    return replace(digits, train=digits.train[:500], validation=digits.train[500:800])


def test_the_law_of_the_prefix_is_the_authors():
    torch.testing.assert_close(
        prefix_law(4, 2.0), torch.tensor([0.613038, 0.289579, 0.082966, 0.014417]).double(), atol=1e-6, rtol=0
    )
    n = torch.arange(1, 513).double()
    narrow, wide = prefix_law(512, 10.0), prefix_law(512, 100.0)
    assert float((narrow * n).sum()) == pytest.approx(5.969, abs=1e-3)
    assert float(narrow[:5].sum()) == pytest.approx(0.538, abs=1e-3)
    assert float(narrow[:10].sum()) == pytest.approx(0.855, abs=1e-3)
    assert float((wide * n).sum()) == pytest.approx(56.74, abs=1e-2)


def test_one_prefix_per_batch_without_rescaling():
    mask, seen = PrefixMask(4, 2.0).train(), torch.zeros(4)
    with seeded(0):
        for _ in range(4000):
            out = mask(torch.ones(3, 4))
            assert torch.equal(out, out[:1].expand(3, -1)) and set(out.unique().tolist()) <= {0.0, 1.0}
            length = int(out[0].sum())
            assert out[0, :length].all()
            seen[length - 1] += 1
    torch.testing.assert_close(seen / 4000, prefix_law(4, 2.0).float(), atol=0.03, rtol=0)
    assert torch.equal(mask.eval()(torch.ones(2, 4)), torch.ones(2, 4))


def test_a_linear_autoencoder_with_it_finds_the_principal_axes_in_order():
    x = torch.randn(2000, 3, generator=generator(0, "x")) * torch.tensor([3.0, 1.5, 0.5])
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator(1, "q"))).Q
    x = x @ rotation.T
    with seeded(0):
        encoder, mask, decoder = nn.Linear(3, 3, bias=False), PrefixMask(3, 2.0).train(), nn.Linear(3, 3, bias=False)
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 0.01)
        for step in range(3000):
            optimiser.param_groups[0]["lr"] = 0.01 * (1 - step / 3000)
            loss = (decoder(mask(encoder(x))) - x).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    axes = torch.linalg.eigh(x.T @ x).eigenvectors.flip(1)  # principal axes, first to last
    found = nn.functional.normalize(decoder.weight.detach(), dim=0)
    overlap = (axes.T @ found).abs()
    assert (overlap.diag() > 0.99).all(), overlap


def test_prefix_accuracies_are_those_of_the_truncated_layer():
    h, w = torch.randn(60, 7, generator=generator(0, "h")), torch.randn(4, 7, generator=generator(0, "w"))
    labels = torch.arange(60) % 4
    expected = [((h[:, :k] @ w[:, :k].T).argmax(1) == labels).float().mean() for k in range(1, 8)]
    torch.testing.assert_close(prefix_accuracies(h, w, labels), torch.stack(expected))


def test_the_best_prefix_is_that_of_the_network_itself(task):
    nested = compressed(task, sigma=5.0)
    assert nested.space.blocks[-1].name == "head.1.weight" and nested.space.has_dropout
    run = fit(nested, seeds=[0, 1])
    found = best_prefix(nested, run.theta)
    assert found.curve.shape == (2, 24)
    outputs = predict_prefix(nested, run.theta, task.validation, found.length)
    accuracy = (outputs.argmax(-1) == task.validation.targets).float().mean(1)
    torch.testing.assert_close(accuracy, found.accuracy)
    everything = predict_prefix(nested, run.theta, task.validation, torch.tensor([24, 24]))
    torch.testing.assert_close(everything, predict(nested, run.theta, task.validation))
    best = found.curve.max(1).values
    assert (found.accuracy >= best - 1e-5 * 24).all()


def test_the_best_epoch_is_each_networks_own(task):
    nested = compressed(task, sigma=5.0).with_recipe(duration="6ep", optimiser="adam", lr=0.01)
    ends = [8 * epoch for epoch in range(1, 7)]
    run = fit(nested, seeds=[0, 1, 2], keep=ends)
    theta, found = best_epoch(nested, run, ends)
    every = torch.stack([best_prefix(nested, run.at(step)).accuracy for step in ends])  # (epochs, K)
    assert torch.equal(found.accuracy, every.max(0).values)
    assert torch.equal(best_prefix(nested, theta).accuracy, found.accuracy)


def test_training_orders_the_features(task):
    long = task.with_recipe(duration="30ep", optimiser="adam", lr=0.01)
    curves = {}
    for name, made in {"nested": compressed(long, sigma=5.0), "plain": compressed(long, dropout=0.0)}.items():
        theta = fit(made, seeds=[0]).theta[0]
        weight = theta[-240:].view(10, 24)
        curves[name] = prefix_accuracies(features(made, theta, task.validation), weight, task.validation.targets)
    assert curves["nested"][:8].mean() > curves["plain"][:8].mean() + 0.1
    assert curves["nested"][12:].std() < 0.02  # what comes late adds nothing


def normed():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 10)),
    )


def test_frozen_norms_are_the_same_function(task):
    plain = replace(task, network=Network("normed", factory=normed))
    run = fit(plain, seeds=[0, 1])
    frozen, thetas = freeze_norms(plain, run.theta)
    assert not frozen.space.batch_norms and thetas.shape == run.theta.shape
    torch.testing.assert_close(
        predict(frozen, thetas, task.test), predict(plain, run.theta, task.test), atol=1e-4, rtol=1e-4
    )
    same, untouched = freeze_norms(task, run.theta)
    assert same is task and untouched is run.theta


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU())
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        return self.head(self.body(x))


def test_stage_two_teaches_each_network_the_half_that_the_other_filtered(task):
    nested = compressed(replace(task, network=Network("nested", factory=Nested)), sigma=5.0)
    first = fit(nested, seeds=[0, 1])
    frozen, thetas = freeze_norms(nested, first.theta)
    short = frozen.with_recipe(duration="1it", lr=1e-3, batch_size=100, weight_decay=5e-4)
    run = fit(short, seeds=[0, 1], start=thetas, rule=NestedCoTeaching(forget=0.2), record=True)
    shown = ~run.record["loss"][:, 0].isnan()
    order = torch.randperm(500, generator=generator(0, "order", 0))[:100]
    halves = order[:50], order[50:]
    assert shown.sum(1).tolist() == [40, 40]
    assert not shown[0, halves[0]].any() and not shown[1, halves[1]].any()
    lengths = best_prefix(frozen, thetas).length
    ranked = predict_prefix(frozen, thetas, task.train, lengths)
    loss = nn.functional.cross_entropy(ranked[1], task.train.targets, reduction="none")
    assert set(shown[0].nonzero()[:, 0].tolist()) == set(halves[1][loss[halves[1]].argsort()[:40]].tolist())
    norms = torch.zeros(frozen.space.size, dtype=torch.bool)
    for block in frozen.space.blocks:
        norms[block.slice] = block.layer == "body.2"
    assert torch.equal(run.theta[:, norms], thetas[:, norms]) and not torch.equal(
        run.theta[:, ~norms], thetas[:, ~norms]
    )


def test_both_networks_of_a_pair_draw_one_prefix(task):
    nested = compressed(task, sigma=5.0)
    start = nested.space.init_many([0, 0])
    one = nested.with_recipe(duration="1it", momentum=0.0, weight_decay=0.0, batch_size=500)
    run = fit(one, seeds=[0, 1], start=start, rule=NestedCoTeaching(forget=0.0))
    moved = (run.theta - start)[:, -240:].view(2, 10, 24)
    used = (moved != 0).any(1)
    assert torch.equal(used[0], used[1]) and 0 < used[0].sum() < 24


def test_what_does_not_fit_is_refused(task):
    with pytest.raises(InputError, match="give one of sigma="):
        compressed(task)
    with pytest.raises(InputError, match="sigma is above 0"):
        compressed(task, sigma=-1.0)
    with pytest.raises(InputError, match="no linear last layer called head"):
        compressed(replace(task, network=Network("normed", factory=normed)), sigma=1.0)
    with pytest.raises(InputError, match="has no prefix mask"):
        best_prefix(task, task.space.init_many([0]))
    with pytest.raises(InputError, match="frozen batch norms"):
        fit(replace(task, network=Network("normed", factory=normed)), seeds=2, rule=NestedCoTeaching())
    nested = replace(compressed(task, sigma=5.0), validation=None)
    with pytest.raises(InputError, match="validation data"):
        fit(nested, seeds=2, rule=NestedCoTeaching())


def test_a_width_that_is_no_number_is_refused(task):
    with pytest.raises(InputError, match="sigma is above 0"):
        compressed(task, sigma=float("nan"))
