"""CDR: the score, both modes, and the optimiser for a loop of one's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surplus.errors import InputError
from surplus.examples.rules.cdr import CDR, CDROptimizer, critical_weights
from surplus.pruning import snip
from surplus.space import generator
from surplus.tasks import Duration, Recipe, load
from surplus.training import Store, fit
from surplus.training.loop import Loop

W, G = torch.tensor([1, -2, 0.5, 4], dtype=torch.float64), torch.tensor([0.3, 0.1, -2, 0.01], dtype=torch.float64)
RULES = {"code": CDR(0.4), "paper": CDR(0.4, mode="paper", l1=0.01), "sampled": CDR(0.4, sample=200)}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@pytest.fixture(scope="module")
def task():
    """300 digits in batches of 50; 6 steps an epoch."""
    recipe = Recipe(duration=Duration("2ep"), batch_size=50, lr=0.05, weight_decay=0.0)
    digits = load("digits", "mlp", recipe=recipe, widths=(16,))
    return replace(digits, train=digits.train[:300])


# ---- the score ------------------------------------------------------------------------------------------------------


def test_critical_weights_worked_by_hand():
    assert critical_weights([W], [G], 0.5)[0].tolist() == [True, False, True, False]  # |g w| = .3, .2, 1, .04
    assert [m.tolist() for m in critical_weights([W[:1], W[1:]], [G[:1], G[1:]], 0.5)] == [[True], [False, True, False]]


def test_ties_with_the_last_critical_weight_are_all_in():
    assert critical_weights([torch.ones(6)], [torch.tensor([3.0, 1, 1, 1, 0, 0])], 0.6)[0].sum() == 4


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4, 0.9, 0.999])
def test_the_share_is_exact_in_each_replica_and_pooled_over_tensors(noise):
    w, g = (torch.randn(3, 100, generator=generator(k)) for k in (0, 1))
    mask = torch.cat(critical_weights(w.split([30, 70], 1), g.split([30, 70], 1), noise), 1)
    assert (mask.sum(1) == max(1, int((1 - noise) * 100 + 1e-9))).all()
    scores = (w * g).abs()
    assert all(s[m].min() >= s[~m].max() for s, m in zip(scores, mask, strict=True) if not m.all())


def test_a_sampled_threshold_keeps_about_the_share():
    w, g = (torch.randn(100_000, generator=generator(k)) for k in (0, 1))
    share = critical_weights([w], [g], 0.4, sample=5000)[0].double().mean()
    assert abs(share - 0.6) < 4 * (0.24 / 5000) ** 0.5
    assert torch.equal(critical_weights([w], [g], 0.4, 10**6)[0], critical_weights([w], [g], 0.4)[0])


# ---- the rule -------------------------------------------------------------------------------------------------------


def test_the_papers_step_worked_by_hand():
    p = nn.Parameter(W.clone()[None])
    p.grad = G.clone()[None]
    CDROptimizer([p], lr=0.1, noise=0.5, mode="paper", l1=0.01).step()
    torch.testing.assert_close(p.detach()[0], torch.tensor([0.984, -1.999, 0.599, 3.999], dtype=torch.float64))


def test_the_step_of_the_code_worked_by_hand():
    p, bias = nn.Parameter(W.clone()[None]), nn.Parameter(W.clone())
    p.grad, bias.grad = G.clone()[None], G.clone()
    CDROptimizer([p, bias], lr=0.1, noise=0.5, weight_decay=0.01).step()
    masked = torch.tensor([0.15, 0, -1, 0], dtype=torch.float64)
    torch.testing.assert_close(p.detach()[0], W - 0.1 * (masked + 0.01 * W))
    torch.testing.assert_close(bias.detach(), W - 0.1 * (G + 0.01 * W))  # the whole gradient
    assert torch.equal(p.grad[0], G)


def test_decay_stops_at_zero():
    p = nn.Parameter(torch.tensor([[1.0, 0.0005, -0.0005, 0.0]]))
    p.grad = torch.tensor([[1.0, 0, 0, 0]])
    CDROptimizer([p], lr=0.1, noise=0.75, mode="paper", l1=0.01).step()
    torch.testing.assert_close(p.detach(), torch.tensor([[0.974, 0, 0, 0]]))


def test_momentum_moves_weights_that_are_critical_no_longer_in_code_mode_alone():
    moved = {}
    for mode in ("code", "paper"):
        p = nn.Parameter(torch.ones(1, 2))
        optimiser = CDROptimizer([p], lr=0.1, noise=0.5, mode=mode, l1=0.0, momentum=0.9)
        for grad in ([2.0, 1.0], [1.0, 2.0]):
            p.grad = torch.tensor([grad])
            optimiser.step()
        moved[mode] = p.detach()[0].tolist()
    assert moved["code"] == pytest.approx([0.9 - 0.09, 0.9])
    assert moved["paper"] == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize("seeds", [[0], [0, 1]], ids=["alone", "stacked"])
def test_without_noise_it_is_sgd_bit_for_bit(task, seeds):
    decayed = task.with_recipe(weight_decay=1e-3, nesterov=True)
    assert torch.equal(fit(decayed, seeds=seeds, rule=CDR(0.0)).theta, fit(decayed, seeds=seeds).theta)
    assert torch.equal(fit(task, seeds=seeds, rule=CDR(0.0, "paper", l1=0.0)).theta, fit(task, seeds=seeds).theta)


def test_the_first_step_moves_the_weights_of_highest_snip_score_and_all_biases(task):
    one = replace(task, train=task.train[:50]).with_recipe(duration="1it", schedule="constant", lr=0.01)
    start, x, y = one.space.init(0), one.prepare(one.train.inputs), one.train.targets
    moved = fit(one, seeds=[0], rule=CDR(0.7)).theta[0] != start
    weights = one.space.prunable
    score = snip(one.space, start, (x, y), train=True)[weights]
    top = torch.zeros_like(score, dtype=torch.bool)
    top[score.topk(int(0.3 * len(score))).indices] = True
    assert (moved[weights] == top).double().mean() > 0.99  # some critical weights have tiny gradients
    assert moved[~weights].double().mean() > 0.9


@each_rule
def test_a_replica_trains_alike_alone_and_in_company(task, rule):
    """A few steps: the last bit of a score decides over a weight, so that paths part in the end."""
    short = task.with_recipe(duration="4it")
    together = fit(short, seeds=[0, 1, 2], rule=rule, execution="stacked").theta
    alone = torch.cat([fit(short, seeds=[s], rule=rule).theta for s in (0, 1, 2)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(together, fit(short, seeds=[0, 1, 2]).theta, atol=1e-3)


class Stopped(Exception):
    pass


@each_rule
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, task, rule):
    options = {"seeds": [1, 2], "rule": rule, "execution": "stacked", "jobs": 1}
    update = Loop._update

    def stopping(self):
        if self.step == 5:
            self.entry.write_checkpoint(self._state())
            raise Stopped
        update(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Loop, "_update", stopping)
        fit(task, store=Store(tmp_path), **options)
    resumed, whole = fit(task, store=Store(tmp_path), **options), fit(task, **options)
    assert torch.equal(resumed.theta, whole.theta)


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_the_optimiser_takes_the_steps_of_the_rule(task, mode):
    """On one full batch, so that the order of examples does not matter."""
    decay = 1e-3 if mode == "code" else 0.0
    one = replace(task, train=task.train[:50]).with_recipe(duration="8it", schedule="constant", weight_decay=decay)
    run = fit(one, seeds=[0], rule=CDR(0.4, mode, l1=0.01), keep=range(9))
    module = one.space.write(one.space.init(0)).train()
    optimiser = CDROptimizer(
        module.parameters(), lr=0.05, noise=0.4, mode=mode, l1=0.01, momentum=0.9, weight_decay=decay
    )
    x, y = one.prepare(one.train.inputs), one.train.targets
    for step in range(8):
        optimiser.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimiser.step()
        torch.testing.assert_close(one.space.read(module), run.at(step + 1)[0], atol=1e-5, rtol=0)


def test_what_means_nothing_is_refused(task):
    with pytest.raises(InputError, match="noise=1"):
        fit(task, seeds=[0], rule=CDR(1.0))
    with pytest.raises(InputError, match="did you mean code or paper"):
        fit(task, seeds=[0], rule=CDR(0.4, mode="both"))
    with pytest.raises(InputError, match="set weight_decay=0"):
        fit(task.with_recipe(weight_decay=1e-3), seeds=[0], rule=CDR(0.4, mode="paper"))
    with pytest.raises(InputError, match="weight_decay"):
        CDROptimizer([nn.Parameter(torch.ones(1, 1))], lr=0.1, noise=0.4, mode="paper", weight_decay=1e-3)
    from surplus.reparam import RandomSubspace

    with pytest.raises(InputError, match="not other coordinates"):
        fit(task, seeds=[0], rule=CDR(0.4), coordinates=lambda theta, seed: RandomSubspace(theta, 20))
