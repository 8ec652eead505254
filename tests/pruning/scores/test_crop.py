"""CroP: numbers on paper, dense Hessians, gates by plain autodiff, and units that are really removed."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian

from surplus.errors import InputError
from surplus.networks import build
from surplus.pruning import count, grasp, remove_dead_units
from surplus.pruning.scores.crop import crop, readers, unit_mask, unit_scores
from surplus.pruning.scores.grasp import gradient_and_product
from surplus.space import WeightSpace, generator


@pytest.fixture
def tiny():
    """f(x) = W2 relu(W1 x) at a point of which the scores are known."""
    space = WeightSpace(
        lambda: nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    )
    theta = torch.tensor([1, -2, 0.5, 1, 1, 1, -1, 2], dtype=torch.float64)
    return space, theta, (torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([0]))


def mlp(activation=nn.Tanh, sizes=(5, 7, 6, 3)):
    a, b, c, d = sizes
    return nn.Sequential(nn.Linear(a, b), activation(), nn.Linear(b, c), activation(), nn.Linear(c, d)).double()


def examples(n=11, shape=(5,), classes=3):
    return torch.randn(n, *shape, generator=generator(1), dtype=torch.float64), torch.arange(n) % classes


def mean_loss(space, batch):
    return lambda theta: nn.functional.cross_entropy(space.apply(theta, batch[0]), batch[1])


def test_crop_of_the_small_case(tiny):
    expected = [0, 0, 2.70197, 10.80788, 0, 7.10457, 0, 14.20913]
    assert crop(*tiny).tolist() == pytest.approx(expected, abs=1e-5)


def test_without_holding_the_gradient_fixed_the_small_case_doubles(tiny):
    space, theta, batch = tiny
    flow = grad(lambda t: grad(mean_loss(space, batch))(t).square().sum())(theta)
    assert (theta * flow).abs().tolist() == pytest.approx([0, 0, 5.40394, 21.61576, 0, 14.20914, 0, 28.41827], abs=1e-5)


def test_crop_is_grasp_without_sign_and_temperature():
    space = WeightSpace(mlp)
    batch, theta = examples(), space.init(0)
    torch.testing.assert_close(crop(space, theta, batch), grasp(space, theta, batch, temperature=1, signed=False))


@pytest.mark.parametrize("parts", [1, 2, 4, 11, 100])
def test_crop_is_the_dense_hessians_product_however_the_examples_are_cut(parts):
    space = WeightSpace(mlp)
    batch, theta = examples(), space.init(0)
    loss = mean_loss(space, batch)
    expected = (theta * (hessian(loss)(theta) @ grad(loss)(theta))).abs()
    torch.testing.assert_close(crop(space, theta, batch, parts=parts), expected)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_flow_of_a_pruned_network_is_that_of_the_weights_it_has(parts):
    space = WeightSpace(mlp)
    batch = examples()
    mask = (torch.rand(space.size, generator=generator(2)) < 0.5) | ~space.prunable
    theta = space.init(0) * mask
    loss = mean_loss(space, batch)
    flow = mask * grad(loss)(theta)
    expected = (theta * (hessian(loss)(theta) @ flow)).abs()
    for score in (crop(space, theta, batch, parts=parts), crop(space, theta, batch, mask=mask, parts=parts)):
        torch.testing.assert_close(score, expected)
    assert not torch.allclose(crop(space, theta, batch, mask=torch.ones_like(mask)), expected)
    g, _ = gradient_and_product(space, theta, batch, parts=parts)
    torch.testing.assert_close(g, flow)


def test_a_score_through_attention_is_finite():
    space = WeightSpace(lambda: build("vit-small", (3, 8, 8), 3, patch=4, width=16, depth=1, heads=2, fused=True))
    score = crop(space, space.init(0), (torch.randn(4, 3, 8, 8, generator=generator(0)), torch.arange(4) % 3))
    assert score.isfinite().all() and score[space.prunable].max() > 0


def test_crop_without_a_batch_says_so(tiny):
    for parts in (1, 2):
        with pytest.raises(InputError, match="give it a batch"):
            crop(tiny[0], tiny[1], None, parts=parts)


# ---- units ----------------------------------------------------------------------------------------------------------


def gated(net, layers, parameters, gates, x):
    """The network's output with each activation after a layer multiplied by its gates."""
    h = x
    for name, layer in net.named_children():
        own = {n.partition(".")[2]: p for n, p in parameters.items() if n.startswith(f"{name}.")}
        if name in layers:
            gate = gates[layers[name]]
            h = h * gate.view(1, -1, *([1] * (h.dim() - 2)))
        h = functional_call(layer, own, (h,))
    return h


def autodiff_gates(space, theta, batch, mask, before):
    """|d (v . grad L) / dc| by differentiating twice through a network with gates."""
    x, y = batch
    parameters = {n: t.clone().requires_grad_() for n, t in space.split(theta).items()}
    sizes = {layer: space[f"{layer}.weight"].shape[0] for layer in before.values()}
    gates = {layer: torch.ones(n, dtype=theta.dtype, requires_grad=True) for layer, n in sizes.items()}
    space.module.eval()
    loss = nn.functional.cross_entropy(gated(space.module, before, parameters, gates, x), y)
    g = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    v = [mask_part * t.detach() for mask_part, t in zip(space.split(mask).values(), g, strict=True)]
    z = sum((a * b).sum() for a, b in zip(v, g, strict=True))
    found = torch.autograd.grad(z, list(gates.values()))
    return {layer: t.abs() for layer, t in zip(gates, found, strict=True)}


def conv_chain():
    """Two normalised convolutions, pooling, flattening and two linear layers, with statistics of its own."""
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(),
        nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3),
    ).double()  # fmt: skip
    for i, norm in enumerate(m for m in net if isinstance(m, nn.BatchNorm2d)):
        g = generator(i, "norm")
        with torch.no_grad():
            norm.running_mean.copy_(torch.randn(len(norm.running_mean), generator=g) * 0.3)
            norm.running_var.copy_(torch.rand(len(norm.running_var), generator=g) + 0.5)
            norm.bias.copy_(torch.randn(len(norm.bias), generator=g) * 0.3)
    return net


def test_gates_of_dense_layers_are_what_autodiff_says():
    space = WeightSpace(mlp)
    batch, theta = examples(), space.init(0)
    ones = torch.ones(space.size, dtype=torch.bool)
    expected = autodiff_gates(space, theta, batch, ones, {"2": "0", "4": "2"})
    found = unit_scores(space, theta, batch, parts=3)
    assert list(found) == ["0", "2"]
    for layer in found:
        torch.testing.assert_close(found[layer], expected[layer])


def test_gates_of_convolutions_are_what_autodiff_says_and_removed_weights_do_not_count():
    space, batch = WeightSpace(conv_chain), examples(7, (1, 8, 8))
    mask = unit_mask(space, {"0": torch.arange(6) != 1})
    theta = space.init(0) * mask
    before = {"4": "0", "10": "8"}  # the gates of layer 4 act before flattening, on channels
    expected = autodiff_gates(space, theta, batch, mask, before)
    found = unit_scores(space, theta, batch, mask=mask)
    assert readers(space) == {"0": "4", "4": "8", "8": "10"}
    for layer in expected:
        torch.testing.assert_close(found[layer], expected[layer])
    assert found["0"][1] == 0 and (found["0"][torch.arange(6) != 1] > 0).all()
    listening = theta + space.init(0) * (torch.arange(space.size) < 6 * 9)  # removed on the way out alone
    assert unit_scores(space, listening, batch, mask=torch.ones_like(mask))["0"][1] > 0


def test_behind_a_relu_a_gate_is_worth_as_much_on_the_way_in_as_on_the_way_out():
    space = WeightSpace(lambda: mlp(nn.ReLU))
    batch, theta = examples(), space.init(3)
    g, hg = gradient_and_product(space, theta, batch)
    each = space.split(theta * hg + g.square())
    scores = unit_scores(space, theta, batch)
    torch.testing.assert_close((each["0.weight"].sum(1) + each["0.bias"]).abs(), scores["0"])
    torch.testing.assert_close((each["2.weight"].sum(1) + each["2.bias"]).abs(), scores["2"])


@pytest.mark.parametrize(("activation", "twice"), [(nn.ReLU, True), (nn.Tanh, False)])
def test_one_gate_on_a_units_output_and_where_it_is_read_counts_twice_behind_a_relu(activation, twice):
    space = WeightSpace(lambda: mlp(activation))
    batch, theta = examples(), space.init(3)
    ones = torch.ones(space.size, dtype=torch.bool)
    shared = autodiff_gates(space, theta, batch, ones, {"1": "0", "2": "0", "3": "2", "4": "2"})
    for layer, score in unit_scores(space, theta, batch).items():
        assert torch.allclose(shared[layer], 2 * score) == twice


def test_flow_through_biases_and_normalisation_counts():
    space, batch = WeightSpace(conv_chain), examples(7, (1, 8, 8))
    theta = space.init(0)
    score = crop(space, theta, batch)
    assert not torch.allclose(score, crop(space, theta, batch, mask=space.prunable))


@pytest.mark.parametrize(("make", "shape"), [(lambda: mlp(nn.ReLU), (5,)), (conv_chain, (1, 8, 8))])
def test_the_network_without_its_masked_units_is_the_same_function_and_smaller(make, shape):
    space = WeightSpace(make)
    module, x = space.write(space.init(0)), examples(9, shape)[0]
    kept = {
        layer: torch.rand(space[f"{layer}.weight"].shape[0], generator=generator(4, layer)) < 0.6
        for layer in readers(space)
    }
    mask = unit_mask(space, kept)
    small = remove_dead_units(module, mask, inputs=False)
    masked = space.write(space.read(module) * mask, dict(module.named_buffers()))
    with torch.no_grad():
        torch.testing.assert_close(small(x), masked(x), rtol=0, atol=1e-12)
    for layer, units in kept.items():
        assert len(small.get_submodule(layer).weight) == int(units.sum())
    assert count(small, shape).parameters < count(module, shape).parameters


def test_units_that_several_layers_read_have_no_single_reader():
    space = WeightSpace(lambda: build("resnet-cifar", (3, 8, 8), 4, depth=8, width=0.25))
    inner = readers(space)
    assert inner and all(before.endswith("conv1") and after.endswith("conv2") for before, after in inner.items())
