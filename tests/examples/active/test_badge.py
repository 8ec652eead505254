from __future__ import annotations

import torch
from torch.nn.functional import one_hot

from surplus.examples.active import query
from surplus.space import generator


def case(n=8):
    g = torch.Generator().manual_seed(0)
    h = 1 + 0.5 * torch.randn(n, 3, generator=g, dtype=torch.float64)  # alike, so that inner products matter
    return h, torch.randn(n, 4, generator=g, dtype=torch.float64).mul(0.7).add(torch.tensor([1, 0, 0, 0])).softmax(-1)


def gradients(h, p):
    """The dense g of the definition, (n, classes * d)."""
    return ((p - one_hot(p.argmax(1), p.shape[1]))[:, :, None] * h[:, None]).flatten(1)


def test_the_gradient_is_that_of_the_cross_entropy_at_the_answer():
    h, p = case()
    weight = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy((h[:1] @ weight.T + p[:1].log()), p[:1].argmax(1))
    (g,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(g.flatten(), gradients(h, p)[0])


def test_the_first_pick_has_the_longest_gradient():
    h, p = case()
    longest = int(gradients(h, p).norm(dim=1).argmax())
    assert query("badge", h, 1, probabilities=p).tolist() == [longest]
    rest = [i for i in range(8) if i != longest]
    second = rest[int(gradients(h, p)[rest].norm(dim=1).argmax())]
    assert query("badge", h, 1, labelled=[longest], probabilities=p).tolist() == [second]


def test_the_second_is_drawn_by_squared_distance():
    h, p = case()
    g = gradients(h, p)
    first = int(g.norm(dim=1).argmax())
    chance = (g - g[first]).square().sum(1)
    chance = chance / chance.sum()
    draws = 1000
    hits = torch.bincount(
        torch.tensor([int(query("badge", h, 2, probabilities=p, generator=generator(s))[1]) for s in range(draws)]),
        minlength=8,
    )
    assert hits[first] == 0
    assert ((hits / draws - chance).abs() < 4 * (chance * (1 - chance) / draws).sqrt() + 1e-12).all()


def test_the_third_is_drawn_by_the_distance_to_the_nearest_pick():
    h, p = case(4)
    g, thirds = gradients(h, p), {}
    for s in range(1200):
        picks = query("badge", h, 3, probabilities=p, generator=generator(s)).tolist()
        thirds.setdefault(picks[1], []).append(picks[2])
    second, seen = max(thirds.items(), key=lambda item: len(item[1]))
    chance = torch.cdist(g, g[[int(g.norm(dim=1).argmax()), second]]).amin(1).square()
    chance = chance / chance.sum()
    share = torch.bincount(torch.tensor(seen), minlength=4) / len(seen)
    assert ((share - chance).abs() < 4 * (chance * (1 - chance) / len(seen)).sqrt() + 1e-6).all()


def test_copies_of_one_gradient_are_drawn_last():
    h, p = torch.ones(5, 2), torch.tensor([[0.6, 0.4]]).repeat(5, 1)
    h[3] = 2
    for s in range(5):
        picks = query("badge", h, 5, probabilities=p, generator=generator(s)).tolist()
        assert picks[0] == 3 and sorted(picks) == [0, 1, 2, 3, 4]
