"""Generated tasks: what each promises of its law."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

from surplus.data import generated as G
from surplus.errors import InputError


def gen(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


TASKS = {
    "blobs": lambda n, g: G.gaussian_blobs(n, g),
    "perceptron": lambda n, g: G.teacher_perceptron(n, g, features=5),
    "moons": lambda n, g: G.two_moons(n, g),
    "xor": lambda n, g: G.xor_clusters(n, g),
    "zipf": lambda n, g: G.zipf_table(G.zipf_populations(n, g), g),
    "sinusoid": lambda n, g: G.sinusoid(n, g),
    "markov": lambda n, g: G.markov_text(n, g, length=6),
}


@pytest.mark.parametrize("name", TASKS)
def test_each_task_repeats_under_its_seed_and_has_as_many_rows_as_asked(name):
    x, y = TASKS[name](50, gen(1))
    again, other = TASKS[name](50, gen(1)), TASKS[name](50, gen(2))
    assert len(x) == len(y) == 50 and x.isfinite().all()
    assert torch.equal(x, again[0]) and torch.equal(y, again[1]) and not torch.equal(x, other[0])


def test_blobs_have_their_centres_and_unit_variance():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, -10.0]])
    x, y = G.gaussian_blobs(6000, gen(), centres=centres)
    for k in range(3):
        members = x[y == k]
        assert ((members.mean(0) - centres[k]).abs() < 4 / len(members) ** 0.5).all()
        assert ((members.std(0) - 1).abs() < 4 / len(members) ** 0.5).all()
    assert ((y.bincount() - 2000).abs() < 4 * (6000 * 2 / 9) ** 0.5).all()


def test_random_centres_lie_about_the_separation_apart():
    g = gen()
    apart = []
    for _ in range(200):
        x, y = G.gaussian_blobs(400, g, classes=2, features=8, separation=20.0)
        apart.append((x[y == 0].mean(0) - x[y == 1].mean(0)).square().sum())
    assert torch.stack(apart).mean().sqrt().item() == pytest.approx(20, rel=0.1)


def test_a_perceptrons_labels_are_its_teachers_and_flips_come_at_their_rate():
    teacher = torch.tensor([1.0, -2.0, 0.5])
    x, y = G.teacher_perceptron(4000, gen(), teacher=teacher)
    assert torch.equal(y, (x @ teacher > 0).long())
    x, y = G.teacher_perceptron(4000, gen(), teacher=teacher, flip=0.1)
    wrong = (y != (x @ teacher > 0).long()).double().mean().item()
    assert abs(wrong - 0.1) < 4 * (0.09 / 4000) ** 0.5


def test_moons_without_noise_are_half_circles():
    x, y = G.two_moons(500, gen(), noise=0.0)
    upper, lower = x[y == 0], x[y == 1]
    assert torch.allclose(upper.norm(dim=1), torch.ones(len(upper)), atol=1e-5) and (upper[:, 1] >= -1e-6).all()
    lower = lower - torch.tensor([1.0, 0.5])
    assert torch.allclose(lower.norm(dim=1), torch.ones(len(lower)), atol=1e-5) and (lower[:, 1] <= 1e-6).all()


def test_xor_labels_follow_the_product_of_signs_and_no_feature_alone():
    x, y = G.xor_clusters(4000, gen(), features=5, spread=0.1)
    assert torch.equal(y, (x[:, 0] * x[:, 1] < 0).long())
    correlation = torch.corrcoef(torch.cat([x.T, y[None].float()]))[-1, :-1]
    assert (correlation.abs() < 4 / 4000**0.5).all()


def test_zipf_frequencies_by_hand_and_draws_that_follow_them():
    p = G.zipf_frequencies(3)
    assert torch.allclose(p, torch.tensor([6.0, 3.0, 2.0], dtype=torch.float64) / 11)
    drawn = G.zipf_populations(20_000, gen(), populations=3).bincount() / 20_000
    assert ((drawn - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt()).all()
    assert torch.allclose(G.zipf_frequencies(5, 0.0), torch.full((5,), 0.2, dtype=torch.float64))


def test_a_subpopulation_shares_its_label_and_its_centre():
    population = G.zipf_populations(500, gen(), populations=50)
    x, y = G.zipf_table(population, gen(), spread=0.0, classes=4)
    for k in population.unique():
        members = population == k
        assert len(y[members].unique()) == 1 and (x[members] == x[members][0]).all()
    assert len(y.unique()) == 4
    singles = (population.bincount() == 1).sum()
    assert singles > 0  # a tail of populations seen once is the point


def test_sinusoids_lie_on_their_curve():
    x, y = G.sinusoid(100, gen(), amplitude=2.0, phase=0.5, reach=5.0, noise=0.0)
    torch.testing.assert_close(y, 2 * torch.sin(x + 0.5))
    assert x.shape == y.shape == (100, 1) and x.abs().max() <= 5 and x.abs().max() > 4
    x, y = G.sinusoid(4000, gen(), noise=0.1)
    assert (y - x.sin()).std().item() == pytest.approx(0.1, rel=0.05)


def test_markov_targets_are_the_next_tokens_and_follow_the_chain():
    chain = G.markov_chain(4, gen())
    x, y = G.markov_text(2000, gen(), length=10, chain=chain)
    assert x.shape == y.shape == (2000, 10) and x.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1])
    pairs = (x * 4 + y).flatten().bincount(minlength=16).view(4, 4).double()
    count = pairs.sum(1, keepdim=True)
    assert ((pairs / count - chain).abs() < 4 * (chain * (1 - chain) / count).sqrt()).all()
    p = G.stationary(chain)  # the first token has the stationary law, so the last one has it too
    for tokens in (x[:, 0], y[:, -1]):
        assert ((tokens.bincount(minlength=4) / 2000 - p).abs() < 4 * (p * (1 - p) / 2000).sqrt()).all()


def test_entropy_rate_and_stationary_law_by_hand():
    two = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(G.stationary(two), torch.tensor([0.75, 0.25], dtype=torch.float64))
    h = lambda q: -q * math.log(q) - (1 - q) * math.log(1 - q)
    assert G.entropy_rate(two).item() == pytest.approx(0.75 * h(0.1) + 0.25 * h(0.3))
    assert G.entropy_rate(torch.eye(2).roll(1, 0)).item() == pytest.approx(0, abs=1e-6)
    assert G.entropy_rate(G.markov_chain(8, gen(), sharpness=0.0)).item() == pytest.approx(math.log(8))


def test_misuses_are_refused():
    for call in (
        lambda: G.gaussian_blobs(0, gen()),
        lambda: G.xor_clusters(5, gen(), features=1),
        lambda: G.markov_text(5, gen(), length=0),
        lambda: G.markov_chain(1, gen()),
        lambda: G.zipf_table(torch.empty(0, dtype=torch.int64), gen()),
    ):
        with pytest.raises(InputError, match="at least"):
            call()
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        G.teacher_perceptron(5, gen(), flip=1.5)
    with pytest.raises(InputError, match="sum to 1"):
        G.markov_text(5, gen(), chain=torch.ones(3, 3))
