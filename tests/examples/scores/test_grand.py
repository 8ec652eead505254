"""GraNd against the numbers on paper, and against one backward pass per example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surplus.errors import InputError
from surplus.examples.scores.grand import grand, grand_last
from surplus.registry import find
from surplus.space import WeightSpace, generator
from surplus.space.per_example import per_example_grads

N, CLASSES = 9, 3


def linear() -> nn.Module:
    """Logits log(.7), log(.2), log(.1) at x = (1, 2)."""
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([0.7, 0.2, 0.1]).log())
    return layer


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, CLASSES)).double()


def examples() -> tuple[Tensor, Tensor]:
    g = generator(0, "examples")
    return torch.randn(N, 4, generator=g, dtype=torch.float64), torch.randint(CLASSES, (N,), generator=g)


def points(space: WeightSpace, runs: int) -> Tensor:
    return torch.stack([space.init(seed) for seed in range(runs)])


@pytest.mark.parametrize("score", [grand, grand_last])
@pytest.mark.parametrize(("label", "error"), [(0, 0.3741657), (2, 1.1575837)])
def test_a_linear_network_has_the_length_on_paper(score, label, error):
    space = WeightSpace(linear)
    found = score(space, space.init(0).unsqueeze(0), torch.tensor([[1.0, 2.0]]), torch.tensor([label])).mean
    torch.testing.assert_close(found, torch.tensor([error * 6**0.5]))  # .3741657 * sqrt(1 + 4 + 1) = .9165151
    if label == 0:
        torch.testing.assert_close(found, torch.tensor([0.9165151]))


def test_uniform_answers_over_ten_classes_have_the_length_on_paper():
    space = WeightSpace(lambda: nn.Linear(2, 10))
    found = grand(space, torch.zeros(1, space.size), torch.zeros(1, 2), torch.tensor([3]))
    torch.testing.assert_close(found.mean, torch.tensor([0.9486833]))  # features 0: only the bias has a gradient


def test_runs_are_averaged_after_the_length_is_taken():
    space, (x, y) = WeightSpace(mlp), examples()
    thetas = points(space, 4)
    each = torch.stack([per_example_grads(space, t, x, y) for t in thetas])  # (runs, n, P)
    found = grand(space, thetas, x, y)
    torch.testing.assert_close(found.mean, each.norm(dim=2).mean(0))
    torch.testing.assert_close(found.stderr, each.norm(dim=2).std(0) / 2)
    assert found.repeats == 4
    assert (found.mean > each.mean(0).norm(dim=1)).all()


def test_the_last_layer_is_the_end_of_the_gradient():
    space, (x, y) = WeightSpace(mlp), examples()
    last = per_example_grads(space, space.init(0), x, y)[:, space["2.weight"].start :]
    torch.testing.assert_close(grand_last(space, points(space, 1), x, y).mean, last.norm(dim=1))


@pytest.mark.parametrize("score", [grand, grand_last])
def test_the_batch_size_changes_nothing(score):
    space, (x, y) = WeightSpace(mlp), examples()
    whole = score(space, points(space, 2), x, y)
    torch.testing.assert_close(score(space, points(space, 2), x, y, batch=4).mean, whole.mean)


@pytest.mark.parametrize("score", [grand, grand_last])
def test_scores_follow_their_examples(score):
    space, (x, y) = WeightSpace(normed), examples()
    order = torch.randperm(N, generator=generator(1, "order"))
    whole = score(space, points(space, 2), x, y)
    torch.testing.assert_close(score(space, points(space, 2), x[order], y[order]).mean, whole.mean[order])


def test_batch_norm_stands_at_each_runs_own_statistics():
    space, (x, y) = WeightSpace(normed), examples()
    thetas = points(space, 3)
    buffers = space.statistics(thetas, [x[:6]])
    found = grand(space, thetas, x, y, buffers)
    for run in range(3):
        module = space.write(thetas[run], {n: b[run] for n, b in buffers.items()})
        F.cross_entropy(module(x[:1]), y[:1]).backward()
        length = sum(p.grad.square().sum() for p in module.parameters()).sqrt()
        alone = grand(space, thetas[[run]], x, y, {n: b[[run]] for n, b in buffers.items()})
        torch.testing.assert_close(alone.mean[0], length)
    assert not torch.allclose(found.mean, grand(space, thetas, x, y).mean)  # None: statistics of all inputs


def test_wrong_labels_score_high_after_some_training():
    g = generator(0, "clusters")
    truth = torch.arange(120) % 3
    x = 4 * F.one_hot(truth, 4).double() + torch.randn(120, 4, generator=g, dtype=torch.float64)
    wrong = torch.arange(120) < 12
    y = torch.where(wrong, (truth + 1) % 3, truth)
    space, thetas = WeightSpace(mlp), []
    for seed in range(3):
        theta = space.init(seed).requires_grad_()
        for _ in range(60):
            (step,) = torch.autograd.grad(F.cross_entropy(space.apply(theta, x), y), theta)
            theta = (theta - 0.5 * step).detach().requires_grad_()
        thetas.append(theta.detach())
    for score in (grand, grand_last):
        found = score(space, torch.stack(thetas), x, y).mean
        assert (found[wrong].unsqueeze(1) > found[~wrong]).double().mean() > 0.95  # area under the ROC curve


def test_both_scores_are_in_the_catalogue():
    for name in ("grand", "grand-last"):
        assert find("example score", name).traits["high"] == "hard"


@pytest.mark.parametrize("score", [grand, grand_last])
def test_evidence_that_does_not_fit_is_refused(score):
    space, (x, y) = WeightSpace(normed), examples()
    thetas = points(space, 2)
    with pytest.raises(InputError, match="labels"):
        score(space, thetas, x, y[1:])
    with pytest.raises(InputError, match="thetas"):
        score(space, thetas[0], x, y)
    with pytest.raises(InputError, match="batch"):
        score(space, thetas, x, y, batch=0)
    with pytest.raises(InputError, match="2 runs"):
        score(space, thetas, x, y, space.statistics(thetas[0], [x]))


@pytest.mark.parametrize("end", [nn.LogSoftmax(-1), nn.Linear(CLASSES, CLASSES, bias=False), nn.Tanh()])
def test_the_last_layer_score_refuses_networks_that_end_otherwise(end):
    space, (x, y) = WeightSpace(lambda: nn.Sequential(nn.Linear(4, CLASSES), end).double()), examples()
    with pytest.raises(InputError, match="linear layer with a bias"):
        grand_last(space, points(space, 1), x, y)
