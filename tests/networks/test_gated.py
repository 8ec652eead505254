"""Gated networks: gates with a straight-through gradient, logits and gates together, and the network without them."""

import pytest
import torch

from surplus.errors import InputError
from surplus.networks import build
from surplus.networks.gated import Gate
from surplus.space import generator, seeded

MLP = ("gated-mlp", (12,), {"width": 10, "blocks": 4})
RESNET = ("gated-resnet", (3, 8, 8), {"depth": 14, "width": 0.5})
KINDS = [(*MLP, gated) for gated in ("blocks", "channels")] + [(*RESNET, gated) for gated in ("blocks", "channels")]


def network(name, shape, options, gated, **more):
    with seeded(0):
        return build(name, shape, 5, **options, gated=gated, **more)


def inputs(shape, n=6):
    return torch.randn(n, *shape, generator=generator(0, "inputs"))


def hold(module, gates):
    """Give every gate a constant answer: gates (units,) of 0 and 1."""
    parts = iter(gates.split([u for u in module.units if u]))
    for block in module.blocks:
        if block.units:
            torch.nn.init.zeros_(block.gate.last.weight)
            block.gate.last.bias.data = next(parts).float() - 0.5
    return module


def test_a_gate_answers_one_above_zero_and_passes_the_gradient_of_the_sigmoid():
    gate = Gate(3, 2, 4, start=0.7, clip=0.0)
    torch.nn.init.zeros_(gate.last.weight)
    with torch.no_grad():
        gate.last.bias[1] = -2.0
    x = torch.randn(5, 3)
    out = gate(x)
    assert torch.equal(out, torch.tensor([1.0, 0.0]).expand(5, 2))
    (grad,) = torch.autograd.grad(out.sum(), gate.last.bias)
    s = torch.tensor([0.7, -2.0]).sigmoid()
    torch.testing.assert_close(grad, 5 * s * (1 - s))


def test_a_clipped_gate_passes_no_gradient_where_it_is_sure():
    gate = Gate(3, 2, 4, start=0.7, clip=1.0)
    torch.nn.init.zeros_(gate.last.weight)
    with torch.no_grad():
        gate.last.bias[1] = -2.0
    (grad,) = torch.autograd.grad(gate(torch.randn(5, 3)).sum(), gate.last.bias)
    assert grad[0] > 0 and grad[1] == 0


def test_a_gate_sees_the_mean_over_places():
    with seeded(0):
        gate = Gate(3, 4, 8, start=0.0, clip=0.0).eval()
    x = torch.randn(7, 3, 5, 5)
    assert torch.equal(gate(x), gate(x.mean((2, 3))))
    assert len(gate(x).unique()) == 2  # at start 0 both answers occur


@pytest.mark.parametrize(("name", "shape", "options", "gated"), KINDS)
@pytest.mark.parametrize("shared", [False, True])
def test_training_gives_logits_and_open_gates_and_evaluation_logits_alone(name, shape, options, gated, shared):
    module, x = network(name, shape, options, gated, shared=shared), inputs(shape)
    units = sum(module.units)
    both = module.train()(x)
    assert both.shape == (6, 5 + units)
    assert set(both[:, 5:].unique().tolist()) <= {0.0, 1.0}
    assert both[:, 5:].mean() > 0.99  # all begin open
    logits, gates = module.eval().run(x)
    assert torch.equal(module(x), logits) and gates.shape == (6, units)


def test_what_is_gated():
    assert network(*MLP, "blocks").units == [1] * 4
    assert network(*MLP, "channels").units == [10] * 4
    assert network(*RESNET, "blocks").units == [1, 1, 0, 1, 0, 1]  # a block that halves the image always runs
    assert network(*RESNET, "channels").units == [8, 8, 16, 16, 32, 32]


@pytest.mark.parametrize(("name", "shape", "options", "gated"), [k for k in KINDS if k[3] == "blocks"])
def test_blocks_with_a_closed_gate_are_removed_bit_for_bit(name, shape, options, gated):
    module, x = network(name, shape, options, gated), inputs(shape)
    for pattern in ([0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]):
        gates = torch.tensor(pattern)
        hold(module, gates).eval()
        small = module.static(gates.bool())
        assert torch.equal(small(x), module(x))
        assert len(small.blocks) == len(module.blocks) - (4 - sum(pattern))
        assert torch.equal(small.train()(x)[:, :5], module.train()(x)[:, :5])  # in training too


@pytest.mark.parametrize(("name", "shape", "options", "gated"), [k for k in KINDS if k[3] == "channels"])
def test_closed_channels_are_removed_without_a_change(name, shape, options, gated):
    module, x = network(name, shape, options, gated).double(), inputs(shape).double()
    gates = torch.rand(sum(module.units), generator=generator(0, "gates")) < 0.5
    gates[: module.units[0]] = False  # a block of which nothing stays
    hold(module, gates.double()).eval()
    for block in module.blocks:
        block.gate.double()
    small = module.static(gates)
    torch.testing.assert_close(small(x), module(x))
    weights = sum(p.numel() for p in small.parameters()), sum(p.numel() for p in module.parameters())
    assert weights[0] < 0.7 * weights[1]
    torch.testing.assert_close(small.train()(x), module.train()(x)[:, :5])
    assert sum(small.units) == 0


def test_the_gated_resnet_with_open_gates_is_the_resnet():
    gated = network("gated-resnet", (3, 8, 8), {"depth": 14, "width": 0.5}, "blocks").eval()
    small = gated.static(torch.ones(4, dtype=torch.bool))
    plain = build("resnet-cifar", (3, 8, 8), 5, depth=14, width=0.5).eval()
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in plain.parameters())
    values = list(small.state_dict().values())
    plain.load_state_dict(dict(zip(plain.state_dict(), values, strict=True)))
    x = inputs((3, 8, 8))
    torch.testing.assert_close(small(x), plain(x))


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("gated-mlp", (4,), {"gated": "units"}, r"gated is one of 'blocks', 'channels'; got 'units'"),
        ("gated-mlp", (4,), {"blocks": 0}, r"blocks is a whole number from 1 up; got 0"),
        ("gated-resnet", (3, 8, 8), {"depth": 21}, r"6n \+ 2.*got 21"),
        ("gated-resnet", (3, 8, 8), {"gated": "channels", "norm": "group"}, "group norm ties channels"),
        ("gated-resnet", (3, 3, 3), {}, "at least 4x4"),
    ],
)
def test_a_bad_option_is_refused(name, shape, options, message):
    with pytest.raises(InputError, match=message):
        build(name, shape, 10, **options)
