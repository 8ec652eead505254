"""RHO-LOSS and the batch choices beside it."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from surplus.data.noise import symmetric
from surplus.errors import InputError
from surplus.examples.rules.batch_choice import (
    BaldChoice,
    ChosenBatches,
    ConditionalEntropyChoice,
    GradientNorm,
    GradientNormSampling,
    HighestLoss,
    LossMinusEntropyChoice,
    PredictiveEntropyChoice,
    UniformChoice,
    cross_entropies,
    entropy_of_mean,
    highest,
    mean_entropy,
)  # fmt: skip
from surplus.examples.rules.rho_loss import (
    LowestIrreducibleLoss,
    RhoLoss,
    double_irreducible_losses,
    held_apart,
    irreducible_losses,
    reducible_losses,
)  # fmt: skip
from surplus.space import generator
from surplus.tasks import Network, load
from surplus.training import Batch, Moment, Store, fit


@pytest.fixture(scope="module")
def task():
    digits = load("digits").with_recipe(
        optimiser="adamw", lr=1e-3, weight_decay=0.01, batch_size=160, duration="3ep", schedule="constant"
    )
    return replace(digits, train=digits.train[:960])


def dropping():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))


def a_batch(outputs, targets):
    index = torch.arange(outputs.shape[1]).expand(len(outputs), -1)
    return Batch(index, index.float(), targets, lambda x, train, draw: outputs)


def now(task, k=1):
    theta = task.space.init_many(range(k))
    return Moment(task, task.recipe, tuple(range(k)), 0, 10, 0, 5, 1e-3, theta, {})


def test_the_worked_example():
    rho = reducible_losses(torch.tensor([2.3, 0.1, 3.0, 0.5]), torch.tensor([0.2, 0.05, 2.9, 0.6]))
    torch.testing.assert_close(rho, torch.tensor([2.1, 0.05, 0.1, -0.1]))
    assert set(highest(rho[None], 0.5)[0].tolist()) == {0, 2}
    assert highest(rho[None], 0.01).shape == (1, 1)


def test_it_trains_on_the_largest_reducible_losses_of_each_batch(task):
    irreducible = torch.rand(960, generator=generator(0, "il"))
    seen = []

    @dataclass(frozen=True)
    class Seen(RhoLoss):
        def choose(self, now, batch):
            choice = super().choose(now, batch)
            losses = cross_entropies(batch.outputs(), batch.targets)
            seen.append((losses - irreducible[batch.index]).gather(1, choice.columns).min(1).values)
            rest = (losses - irreducible[batch.index]).scatter(1, choice.columns, -torch.inf).max(1).values
            assert (seen[-1] >= rest).all() and choice.columns.shape[1] == 16
            return choice

    run = fit(task, seeds=[0, 1], rule=Seen(irreducible=irreducible), record=True, execution="stacked")
    assert len(seen) == 18 and ((~run.record["loss"].isnan()).sum(2) == 96).all()


def test_each_replica_may_have_losses_and_references_of_its_own(task):
    losses, theta = torch.rand(2, 960, generator=generator(0, "il")), task.space.init_many([8, 9])
    for rules in (
        [RhoLoss(irreducible=v) for v in (losses, losses[1])],
        [RhoLoss(reference=v) for v in (theta, theta[1])],
    ):
        both = fit(task, seeds=[0, 1], rule=rules[0], execution="spread")
        assert torch.equal(both.theta[1], fit(task, seeds=[1], rule=rules[1]).theta[0])


def test_with_equal_irreducible_losses_it_is_the_highest_loss(task):
    flat = fit(task, seeds=[0], rule=RhoLoss(irreducible=torch.zeros(960)))
    assert torch.equal(flat.theta, fit(task, seeds=[0], rule=HighestLoss()).theta)


def test_a_reference_gives_the_losses_that_it_has(task):
    theta = fit(task, seeds=[7]).theta[0]
    outputs = task.space.apply(theta, task.prepare(task.train.inputs))
    irreducible = F.cross_entropy(outputs, task.train.targets, reduction="none")
    by_losses = fit(task, seeds=[0], rule=RhoLoss(irreducible=irreducible))
    by_reference = fit(task, seeds=[0], rule=RhoLoss(reference=theta))
    assert torch.allclose(by_losses.theta, by_reference.theta, atol=1e-5)


def test_an_updated_reference_learns_from_what_is_chosen(task):
    theta = fit(task, seeds=[7]).theta[0]
    taught = fit(task, seeds=[0, 1], rule=RhoLoss(reference=theta, update=True), execution="stacked")
    alone = fit(task, seeds=[1], rule=RhoLoss(reference=theta, update=True))
    fixed = fit(task, seeds=[0, 1], rule=RhoLoss(reference=theta), execution="stacked")
    assert torch.allclose(taught.theta[1], alone.theta[0], atol=1e-5)
    assert not torch.allclose(taught.theta, fixed.theta, atol=1e-5)


def test_it_ranks_wrong_labels_last_as_the_gain_in_evidence_does():
    """Bayesian logistic regression on a grid: log p(holdout | D, i) - log p(holdout | D) for every candidate i."""
    g = torch.Generator().manual_seed(0)
    w_true, grid = torch.tensor([3.0, -2.0]), torch.cartesian_prod(*[torch.linspace(-6, 6, 121)] * 2).double()

    def draw(n):
        x = torch.randn(n, 2, generator=g)
        return x.double(), (torch.rand(n, generator=g) < (x @ w_true).sigmoid()).double()

    def log_likelihood(x, y):  # (grid, n)
        return F.logsigmoid((2 * y - 1) * (grid @ x.T))

    prior = -grid.square().sum(1) / 18
    (x_t, y_t), (x_h, y_h), (x, y) = draw(4), draw(300), draw(60)
    flipped = torch.arange(60) < 12
    y = torch.where(flipped, 1 - (x @ w_true.double() > 0).double(), (x @ w_true.double() > 0).double())
    log_d = prior + log_likelihood(x_t, y_t).sum(1)
    holdout, each = log_likelihood(x_h, y_h).sum(1), log_likelihood(x, y)

    def evidence(of, given):
        return (of + given).logsumexp(0) - given.logsumexp(0)

    gain = torch.stack([evidence(holdout, log_d + e) for e in each.T]) - evidence(holdout, log_d)
    loss_now = -torch.stack([evidence(e, log_d) for e in each.T])
    irreducible_exact = -torch.stack([evidence(e, log_d + holdout) for e in each.T])
    irreducible = -torch.stack([evidence(e, prior + holdout) for e in each.T])
    torch.testing.assert_close(loss_now - irreducible_exact, gain)  # the identity behind the method
    rho = reducible_losses(loss_now, irreducible)
    assert torch.corrcoef(torch.stack([rho, gain]))[0, 1] > 0.99
    assert rho[flipped].mean() < rho[~flipped].mean() and loss_now[flipped].mean() > loss_now[~flipped].mean()


def test_irreducible_losses_come_from_networks_that_never_saw_the_examples(task):
    part, holdout = held_apart(task, 0.5, seed=3)
    assert len(part.train) + len(holdout) == 960 and not set(part.train.ids) & set(holdout.ids)
    flips = symmetric(part.train.targets, 0.1, 10, generator(0, "flips"), exact=True)
    noisy = replace(part, train=part.train.with_targets(flips.labels)).with_recipe(duration="30ep", batch_size=32)
    losses = irreducible_losses(noisy, holdout, seeds=[0, 1])
    assert losses.shape == (2, 480)
    assert losses[:, flips.changed].mean() > 5 * losses[:, ~flips.changed].mean()
    assert torch.equal(irreducible_losses(noisy, holdout, seeds=[1])[0], losses[1])


def test_the_checkpoint_is_the_one_of_lowest_loss_on_the_training_examples(task):
    part, holdout = held_apart(task, 0.5)
    long = part.with_recipe(duration="40ep", lr=0.01, batch_size=32)  # overfits
    teacher = replace(long, train=holdout)
    last = fit(teacher, seeds=[0]).theta
    outputs = task.space.apply(last[0], task.prepare(part.train.inputs))
    at_the_end = F.cross_entropy(outputs, part.train.targets)
    assert irreducible_losses(long, holdout).mean() <= at_the_end


def test_halves_judge_each_other(task):
    full = replace(task, train=task.train[:600], validation=task.train[600:]).with_recipe(duration="5ep", batch_size=32)
    losses = double_irreducible_losses(full, seeds=2)
    assert losses.shape == (2, 600) and losses.isfinite().all()
    with pytest.raises(InputError, match="validation set"):
        double_irreducible_losses(task)


def test_baselines_rank_by_their_formulas(task):
    logits, labels = torch.randn(2, 50, 10, generator=generator(0, "z")), torch.arange(100).view(2, 50) % 10
    batch, here = a_batch(logits, labels), now(task, 2)
    flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(2, 50)
    torch.testing.assert_close(HighestLoss().rank(here, batch), flat)
    z = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(z.flatten(0, 1), labels.flatten(), reduction="sum"), z)
    torch.testing.assert_close(GradientNorm().rank(here, batch), gradient.norm(dim=-1))
    il = torch.rand(50, generator=generator(0, "il"))
    torch.testing.assert_close(LowestIrreducibleLoss(irreducible=il).rank(here, batch), -il.expand(2, -1))
    draws = UniformChoice().rank(here, batch)
    assert draws.shape == (2, 50) and not torch.equal(draws[0], draws[1])


def test_importance_sampling_is_unbiased(task):
    logits, labels = torch.randn(1, 40, 10, generator=generator(1, "z")), torch.arange(40)[None] % 10
    rule, values, total = GradientNormSampling(share=0.5), torch.rand(40, generator=generator(2, "v")), []
    batch = a_batch(logits, labels)
    for step in range(500):
        choice = rule.choose(replace(now(task), step=step), batch)
        total.append((choice.weights * values[choice.columns]).mean())
    total = torch.stack(total)
    assert abs(total.mean() - values.mean()) < 4 * total.std() / 500**0.5


def test_entropies_of_passes_with_dropout():
    agree = torch.tensor([0.5, 0.5]).log().expand(4, 3, 2)
    split = torch.tensor([[1 - 1e-9, 1e-9], [1e-9, 1 - 1e-9]]).log().repeat(2, 1)[:, None, :].expand(4, 3, 2)
    two = torch.tensor(2.0).log()
    torch.testing.assert_close(entropy_of_mean(agree), two.expand(3))
    torch.testing.assert_close(entropy_of_mean(split), two.expand(3), atol=1e-6, rtol=0)
    assert (mean_entropy(split) < 1e-6).all() and (mean_entropy(agree) > 0.69).all()


@pytest.mark.parametrize(
    "rule", [BaldChoice, PredictiveEntropyChoice, ConditionalEntropyChoice, LossMinusEntropyChoice]
)
def test_choices_by_dropout_train_and_want_dropout(task, rule):
    with pytest.raises(InputError, match="has none"):
        fit(task, seeds=[0], rule=rule())
    drops = replace(task, network=Network("drops", factory=dropping)).with_recipe(duration="1ep")
    run = fit(drops, seeds=[0], rule=rule(passes=3), record=True)
    assert int((~run.record["loss"].isnan()).sum()) == 96


@pytest.mark.parametrize(
    "rule",
    [
        RhoLoss(irreducible=torch.rand(960, generator=generator(0, "il"))), HighestLoss(), UniformChoice(),
        GradientNormSampling(), RhoLoss(irreducible=torch.rand(960, generator=generator(0, "il")), temperature=0.25),
    ],
    ids=["rho", "loss", "uniform", "sampling", "boltzmann"],
)  # fmt: skip
def test_a_replica_chooses_alike_alone_and_in_company(task, rule):
    stacked = fit(task, seeds=[0, 1], rule=rule, execution="stacked").theta
    assert torch.allclose(stacked[1], fit(task, seeds=[1], rule=rule).theta[0], atol=1e-5)


def test_without_noise_it_learns_faster_than_uniform_choice(task):
    part, holdout = held_apart(load("digits"), 0.5)
    part = part.with_recipe(
        optimiser="adamw", lr=1e-3, weight_decay=0.01, batch_size=160, duration="40it", schedule="constant"
    )
    irreducible = irreducible_losses(part.with_recipe(duration="200it", batch_size=32), holdout).mean(0)
    accuracy = {
        rule: fit(part, seeds=3, rule=made).evaluate("test").metric.mean()
        for rule, made in {"rho": RhoLoss(irreducible=irreducible), "uniform": UniformChoice()}.items()
    }
    assert accuracy["rho"] > accuracy["uniform"] + 0.03


def test_batches_for_a_loop_of_ones_own():
    data = TensorDataset(torch.arange(100.0), torch.arange(100))
    batches = ChosenBatches(100, lambda i: i.float(), large=20, share=0.25, seed=1)
    seen = [index for index, _ in DataLoader(data, batch_sampler=batches)]
    assert len(seen) == len(batches) == 5 and all(len(b) == 5 for b in seen)
    order = torch.randperm(100, generator=generator(1, "order", 0)).view(5, 20)
    assert [set(b.tolist()) for b in seen] == [set(o.topk(5).values.tolist()) for o in order]
    assert [b.tolist() for b in seen] != [b.tolist() for b, _ in DataLoader(data, batch_sampler=batches)]
    with pytest.raises(InputError, match="one number each"):
        next(iter(ChosenBatches(100, lambda i: torch.zeros(3), large=20)))
    with pytest.raises(InputError, match="share is in"):
        ChosenBatches(100, lambda i: i, share=0.0)


def test_what_does_not_fit_is_refused(task, tmp_path):
    store = Store(tmp_path)
    for rule, words in [
        (RhoLoss(), "one of irreducible= .* and reference="),
        (RhoLoss(irreducible=torch.zeros(959)), "960 training examples need"),
        (RhoLoss(irreducible=torch.full((960,), torch.nan)), "finite"),
        (RhoLoss(irreducible=torch.zeros(960), share=0.0), "in \\(0, 1\\]; got 0"),
        (RhoLoss(irreducible=torch.zeros(960), temperature=0.0), "above 0"),
        (RhoLoss(irreducible=torch.zeros(960), update=True), "give reference="),
        (RhoLoss(reference=torch.zeros(3)), "reference has shape"),
        (LowestIrreducibleLoss(), "give the irreducible losses"),
    ]:
        with pytest.raises(InputError, match=words):
            fit(task, seeds=[0], rule=rule, store=store)
    with pytest.raises(InputError, match="to hold out"):
        held_apart(task, 1.0)
    assert not list(store.entries())


def test_a_reference_with_dropout_learns_alike_each_time(task, tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 10))
    dropping = replace(task, network=Network("dropping", factory=lambda: module)).with_recipe(duration="1ep")
    rule = RhoLoss(reference=dropping.space.init(7), update=True, share=0.3)
    first, second = (fit(dropping, rule=rule, store=Store(tmp_path / str(i))).theta for i in range(2))
    assert torch.equal(first, second)


def test_drawing_from_a_network_that_diverged_warns_as_training_does(task, tmp_path):
    rule = RhoLoss(irreducible=torch.rand(960), temperature=0.5)
    with pytest.warns(UserWarning, match="diverged"):
        fit(task.with_recipe(optimiser="sgd", lr=1e9), rule=rule, store=Store(tmp_path))
