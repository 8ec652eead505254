"""Every control has the ticket's density and breaks exactly one thing."""

import torch
from torch import nn

from surplus.pruning import Ticket, controls, density, inversion, keep_top, layer_densities
from surplus.space import WeightSpace


def make():
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10), nn.ReLU(), nn.Linear(10, 4))


def a_ticket(exclude=()):
    space = WeightSpace(make)
    theta = space.init(0)
    return space, Ticket(theta, keep_top(space, theta.abs(), density=0.3, exclude=exclude)), theta.abs()


def test_inversion_keeps_the_lowest_of_each_layer():
    space = WeightSpace(lambda: nn.Linear(5, 1, bias=False))
    score = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    mask = keep_top(space, score, count=2)
    assert inversion(space, mask, score).tolist() == [False, True, False, True, False]


def test_controls_share_density_and_break_one_thing_each():
    space, ticket, score = a_ticket()
    found = controls(space, ticket, seed=0, score=score)
    assert set(found) == {"shuffle", "inversion", "reinit", "random-global", "random-uniform", "random-erk"}
    assert {round(density(space, t.mask), 6) for t in found.values()} == {round(density(space, ticket.mask), 6)}
    layers = layer_densities(space, ticket.mask)
    assert layer_densities(space, found["shuffle"].mask) == layers == layer_densities(space, found["inversion"].mask)
    for name, control in found.items():
        assert torch.equal(control.theta, ticket.theta) == (name != "reinit")
        assert torch.equal(control.mask, ticket.mask) == (name == "reinit")


def test_controls_repeat_under_their_seed_and_spare_what_the_ticket_spared():
    space, ticket, score = a_ticket(exclude=("4",))
    one, same, other = (controls(space, ticket, seed, score, exclude=("4",)) for seed in (0, 0, 1))
    assert all(torch.equal(one[n].mask, same[n].mask) and torch.equal(one[n].theta, same[n].theta) for n in one)
    assert not torch.equal(one["shuffle"].mask, other["shuffle"].mask)
    assert not torch.equal(one["reinit"].theta, other["reinit"].theta)
    assert all(layer_densities(space, t.mask)["4.weight"] == 1 for t in one.values())
    assert "inversion" not in controls(space, ticket, 0)


def test_a_ticket_starts_from_the_kept_weights_alone():
    _, ticket, _ = a_ticket()
    assert torch.equal(ticket.start, torch.where(ticket.mask, ticket.theta, 0))
