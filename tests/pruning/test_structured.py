"""Shrunk networks are smaller, run, keep what matters, and agree with Torch-Pruning's own ranking."""

import copy

import pytest
import torch
from torch import nn

from surplus.errors import InputError, MissingExtra
from surplus.pruning import count, shrink
from surplus.space import WeightSpace, generator

pytest.importorskip("torch_pruning")


class Block(nn.Module):
    def __init__(self, width, out, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(width, out, 1, stride, bias=False)

    def forward(self, x):
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.short(x)).relu()


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Block(16, 16), Block(16, 32, 2), Block(32, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.blocks(self.bn(self.stem(x)).relu()).mean((2, 3)))


def mlp():
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5))


def conv():
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 4)),
    )


NETS = [(mlp, (20,)), (conv, (1, 8, 8)), (ResNet, (3, 8, 8))]


def seeded(make):
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize(("make", "shape"), NETS)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_shrunk_network_is_really_smaller_and_trains(make, shape, scope):
    module = seeded(make)
    before = copy.deepcopy(module.state_dict())
    small = shrink(module, shape, keep=0.5, scope=scope)
    assert count(small, shape).parameters < 0.5 * count(module, shape).parameters
    assert count(small, shape).macs < 0.5 * count(module, shape).macs
    small.train()(torch.randn(4, *shape)).square().sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())


def test_each_layer_keeps_its_share_and_the_output_stays():
    small = shrink(seeded(mlp), (20,), keep=0.5, scope="layer")
    assert [m.out_features for m in small if isinstance(m, nn.Linear)] == [20, 15, 5]
    small = shrink(seeded(mlp), (20,), keep=0.5, scope="layer", exclude=("0",))
    assert [m.out_features for m in small if isinstance(m, nn.Linear)] == [40, 15, 5]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_counts_are_rounded_and_never_reach_zero(scope):
    small = shrink(seeded(ResNet), (3, 8, 8), keep=0.4, round_to=8, scope=scope)
    assert all(m.out_channels % 8 == 0 for m in small.modules() if isinstance(m, nn.Conv2d))
    least = shrink(seeded(ResNet), (3, 8, 8), keep=1e-6, scope=scope)
    assert {m.out_channels for m in least.modules() if isinstance(m, nn.Conv2d)} == {1}


def test_the_density_of_parameters_is_met_from_below():
    module = seeded(ResNet)
    whole = count(module, (3, 8, 8)).parameters
    for density in (0.7, 0.3, 0.1):
        share = count(shrink(module, (3, 8, 8), density=density), (3, 8, 8)).parameters / whole
        assert 0.75 * density < share <= density
    with pytest.raises(InputError, match=r"more than 1e-05 of the parameters stay"):
        shrink(module, (3, 8, 8), density=1e-5)


@pytest.mark.parametrize(("make", "shape"), NETS)
def test_leaving_out_channels_that_say_nothing_changes_nothing(make, shape):
    module, g = seeded(make).eval(), generator(0)
    x = torch.randn(5, *shape, generator=g)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in norms:
        m.running_mean.copy_(torch.randn(m.num_features, generator=g))
    silence = {(nn.Conv2d, "weight"), (nn.Conv2d, "bias"), (nn.BatchNorm2d, "weight"), (nn.BatchNorm2d, "bias")}
    quarter = lambda n: torch.arange(n) % 4 == 0
    with torch.no_grad():
        for m in module.modules():
            last = isinstance(m, nn.Linear) and m.out_features in (4, 5, 10)
            for leaf in ("weight", "bias"):
                linear = isinstance(m, nn.Linear) and not last
                if ((type(m), leaf) in silence or linear) and getattr(m, leaf) is not None:
                    getattr(m, leaf)[quarter(len(getattr(m, leaf)))] = 0
    small = shrink(module, shape, keep=0.75, scope="layer")
    assert count(small, shape).parameters < 0.8 * count(module, shape).parameters
    torch.testing.assert_close(small(x), module(x), rtol=1e-5, atol=1e-5)


def test_the_importance_is_that_of_torch_pruning_up_to_its_scale():
    import torch_pruning as tp

    from surplus.pruning.structured import _importance, _values

    module, x = seeded(ResNet).eval(), torch.zeros(1, 3, 8, 8)
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=x)
    values, reference = _values(module, None), tp.importance.GroupMagnitudeImportance(p=2)
    groups = list(graph.get_all_groups(ignored_layers=[module.head]))
    assert len(groups) == 5  # two residual streams and the inside of three blocks
    for group in groups:
        ours = _importance(group, values, graph)
        torch.testing.assert_close((ours / ours.mean()).float(), reference(group))


def test_a_weight_score_decides_what_goes():
    module, space = seeded(mlp), WeightSpace(mlp)
    score = torch.zeros(space.size)
    for name, dim in (("0.weight", 0), ("2.weight", 0)):
        space.split(score)[name].select(dim, 3).fill_(1)
    small = shrink(module, (20,), keep=0.03, importance=score)
    assert torch.equal(small[0].weight, module[0].weight[3:4])
    assert torch.equal(small[2].weight, module[2].weight[3:4, 3:4])
    with pytest.raises(InputError, match=r"score\.abs\(\)"):
        shrink(module, (20,), keep=0.5, importance=-score)


def test_frozen_parameters_stay_frozen():
    module = seeded(conv)
    module[0].weight.requires_grad_(False)
    small = shrink(module, (1, 8, 8), keep=0.5)
    assert not small[0].weight.requires_grad and small[3].weight.requires_grad


def test_grouped_convolutions_lose_the_same_channels_in_each_group():
    grouped = nn.Conv2d(8, 8, 3, groups=4)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), grouped, nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1))
    small = shrink(net, (3, 8, 8), keep=0.5, scope="layer")
    assert small[2].out_channels == 4 and small[2].groups == 4
    assert small(torch.zeros(2, 3, 8, 8)).shape == (2, 2, 4, 4)


class Shift(nn.BatchNorm2d):
    """Normalisation with a value per channel of its own."""

    def __init__(self, channels):
        super().__init__(channels, affine=False)
        self.shift = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        return super().forward(x) + self.shift[:, None, None]


def test_subclasses_of_batch_normalisation_lose_their_own_values_too():
    net = nn.Sequential(nn.Conv2d(1, 8, 3), Shift(8), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    with torch.no_grad():
        net[0].weight[::2] = 0
        net[0].bias[::2] = 0
        net[1].shift[::2] = 0
    x = torch.randn(3, 1, 5, 5)
    small = shrink(net, (1, 5, 5), keep=0.5)
    assert isinstance(small[1], Shift) and small[1].shift.tolist() == net[1].shift[1::2].tolist()
    torch.testing.assert_close(small(x), net(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).transpose(-4, -2).unbind(-3)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2))


class Tokens(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention, self.up, self.down = attention, nn.Linear(8, 20), nn.Linear(20, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        mixed = self.attention(x, x, x)[0] if isinstance(self.attention, nn.MultiheadAttention) else self.attention(x)
        x = x + mixed
        return self.head((x + self.down(self.up(x).relu())).mean(1))


@pytest.mark.parametrize("attention", [Attention, lambda: nn.MultiheadAttention(8, 2, batch_first=True)])
def test_attention_keeps_its_width_while_dense_layers_shrink(attention):
    small = shrink(Tokens(attention()), (5, 8), keep=0.5)
    assert (small.up.out_features, small.down.in_features, small.down.out_features) == (10, 10, 8)
    assert small(torch.zeros(2, 5, 8)).shape == (2, 3)
    with pytest.raises(InputError, match="no channels that may go"):
        shrink(Attention(), (5, 8), keep=0.5)


def test_what_cannot_be_shrunk_is_refused(monkeypatch):
    module = mlp()
    with pytest.raises(InputError, match="by one of keep="):
        shrink(module, (20,))
    with pytest.raises(InputError, match=r"^no layer is called 'heads'"):
        shrink(module, (20,), keep=0.5, exclude=("heads",))
    with pytest.raises(InputError, match="runs no linear or convolution layer"):
        shrink(nn.BatchNorm1d(3), (3,), keep=0.5)

    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(3, 2)

        def forward(self, x):
            return self.b(self.a(x).reshape(-1, 2, 3).sum(1))

    with pytest.raises(InputError, match=r"^the channels of Sized cannot be followed"):
        shrink(Sized(), (4,), keep=0.5)
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(MissingExtra, match=r"surplus\[structured\]"):
        shrink(module, (20,), keep=0.5)
