"""Cut-off units leave, and the function stays."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surplus.errors import InputError
from surplus.pruning import SelectLinear, count, random_mask, remove_dead_units
from surplus.space import WeightSpace, generator


def mlp():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 25), nn.Tanh(), nn.Dropout(0.3), nn.Linear(25, 5)
    ).double()


class ConvNet(nn.Module):
    """Convolutions with normalisation: one consumer pads with zeros, one does not, one is linear after a flattening."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 12, 3, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 14, 3, bias=False), nn.BatchNorm2d(14)
        self.conv3 = nn.Conv2d(14, 10, 3, padding=1)
        self.pool, self.fc, self.bn4 = nn.MaxPool2d(2), nn.Linear(40, 12), nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 3)
        self.double()

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = torch.sigmoid(self.bn2(self.conv2(x)))
        x = self.pool(self.conv3(x).relu())
        return self.head(self.bn4(self.fc(torch.flatten(x, 1))).relu())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.bn, self.b = (
            nn.Conv2d(1, 6, 3, padding=1),
            nn.Conv2d(6, 9, 3, padding=1),
            nn.BatchNorm2d(9),
            nn.Conv2d(9, 6, 1),
        )
        self.head = nn.Linear(6, 4)
        self.double()

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.b(self.bn(self.a(x)).relu())
        return self.head(x.mean((2, 3)))


def moved(make, seed=0):
    """A module whose statistics and affine weights are not the fresh ones."""
    module, g = make().eval(), generator(seed)
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for t in (m.weight.data, m.bias.data, m.running_mean):
                t.copy_(torch.randn(t.shape, generator=g))
            m.running_var.copy_(torch.rand(m.num_features, generator=g) + 0.5)
    return module


def masked(module, mask):
    space = WeightSpace(lambda: module)
    return space.write(space.read(module) * mask, dict(module.named_buffers()))


@pytest.mark.parametrize(("make", "shape"), [(mlp, (20,)), (ConvNet, (2, 8, 8)), (Residual, (1, 6, 6))])
@pytest.mark.parametrize("density", [0.02, 0.05, 0.15])
def test_the_smaller_network_computes_the_same(make, shape, density):
    module = moved(make)
    mask = random_mask(WeightSpace(lambda: module), density, generator(1))
    x = torch.randn(16, *shape, generator=generator(2), dtype=torch.float64)
    before = masked(module, mask)(x)
    small = remove_dead_units(module, mask)
    torch.testing.assert_close(small(x), before, rtol=1e-10, atol=1e-10)
    assert count(small, shape).macs < count(module, shape).macs
    assert count(small, shape).parameters < count(module, shape).parameters


def test_the_given_module_is_left_as_it_is():
    module = moved(mlp)
    theta = WeightSpace(lambda: module).read(module)
    remove_dead_units(module, random_mask(WeightSpace(mlp), 0.05, generator(0)))
    assert torch.equal(WeightSpace(lambda: module).read(module), theta)
    assert module[1].weight.shape == (30, 20)


def test_a_constant_unit_moves_into_the_next_bias():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    for p, v in zip(net.parameters(), ([[1.0, 1.0], [0, 0]], [0.5, 3.0], [[2.0, 7.0]]), strict=True):
        p.data = torch.tensor(v)
    small = remove_dead_units(net)
    assert small[0].weight.tolist() == [[1, 1]]
    assert small[2].weight.tolist() == [[2]] and small[2].bias.tolist() == [21]  # 7 * relu(3)


def test_a_cut_path_takes_all_its_units_with_it():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        net[4].weight[:, 1:] = 0  # unit 0 of the second layer is heard, which hears unit 2 of the first
        net[2].weight[0] = 0
        net[2].weight[0, 2] = 1
    small = remove_dead_units(net)
    assert [small[i].weight.shape for i in (0, 2, 4)] == [(1, 3), (1, 1), (2, 1)]
    x = torch.randn(7, 3)
    torch.testing.assert_close(small(x), net(x))


def test_under_zero_padding_only_silent_constants_leave():
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1))
    with torch.no_grad():
        net[0].weight[1:] = 0
        net[0].bias.copy_(torch.tensor([0.0, -1.0, 1.0]))  # unit 1 is silent after relu, unit 2 sends 1
    small = remove_dead_units(net)
    x = torch.randn(2, 1, 5, 5)
    torch.testing.assert_close(small(x), net(x))
    assert small[0].out_channels == 2
    net[2].padding_mode = "replicate"
    net[2]._reversed_padding_repeated_twice = [1, 1, 1, 1]
    assert remove_dead_units(net)[0].out_channels == 1
    torch.testing.assert_close(remove_dead_units(net)(x), net(x))


def test_units_of_a_residual_stream_stay_and_those_inside_the_block_leave():
    module = moved(Residual)
    with torch.no_grad():
        module.stem.weight[0] = 0
        module.a.weight[0] = 0
        module.b.weight[:, 3] = 0
    small = remove_dead_units(module)
    assert small.stem.out_channels == 6
    assert small.a.out_channels == 7 and small.bn.num_features == 7 and small.b.in_channels == 7


def test_a_network_without_any_weight_keeps_a_unit_per_layer():
    module = mlp()
    nothing = torch.zeros(WeightSpace(mlp).size, dtype=torch.bool) | ~WeightSpace(mlp).prunable
    small = remove_dead_units(module, nothing)
    x = torch.randn(3, 20, dtype=torch.float64)
    torch.testing.assert_close(small(x), masked(module, nothing)(x))
    assert [m.weight.shape for m in small if isinstance(m, nn.Linear)] == [(1, 1), (1, 1), (5, 1)]


def test_unread_inputs_leave_on_request():
    module = mlp()
    with torch.no_grad():
        module[1].weight[:, 5:] = 0
    x = torch.randn(3, 20, dtype=torch.float64)
    small = remove_dead_units(module)
    assert isinstance(small[1], SelectLinear) and small[1].weight.shape == (30, 5)
    torch.testing.assert_close(small(x), module.eval()(x))
    assert type(remove_dead_units(module, inputs=False)[1]) is nn.Linear
    with torch.no_grad():
        small[3].weight[:, :10] = 0
    again = remove_dead_units(small)
    assert again[1].weight.shape == (20, 5) and torch.equal(again[1].index, small[1].index)
    torch.testing.assert_close(again(x), small(x))


def test_a_normalisation_of_ones_own_is_followed():
    class Shift(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels, affine=False)
            self.shift = nn.Parameter(torch.randn(channels))

        def forward(self, x):
            return super().forward(x) + self.shift[:, None, None]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(1, 6, 3), Shift(6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.norm(self.conv(x)).relu().amax((-2, -1)))

    net, x = Net().eval(), torch.randn(3, 1, 5, 5)
    with torch.no_grad():
        net.conv.weight[:2] = 0
        net.head.weight[:, 4] = 0
    small = remove_dead_units(net)
    assert len(small.norm.shift) == small.conv.out_channels == small.head.in_features == 3
    torch.testing.assert_close(small(x), net(x))


def test_shared_layers_and_grouped_convolutions_are_left_whole():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(self.a(x).relu()).relu())

    net = Twice()
    with torch.no_grad():
        net.b.weight[:, 0] = 0
    x = torch.randn(3, 4)
    torch.testing.assert_close(remove_dead_units(net, inputs=False)(x), net(x))
    grouped = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2))
    with torch.no_grad():
        grouped[0].weight[0] = 0
    x = torch.randn(2, 2, 7, 7)
    torch.testing.assert_close(remove_dead_units(grouped)(x), grouped(x))


def test_what_cannot_be_followed_is_refused():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else x

    with pytest.raises(InputError, match="cannot be followed"):
        remove_dead_units(Branching())
    pruned = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    nn.utils.prune.random_unstructured(pruned[0], "weight", amount=1)
    with pytest.raises(InputError, match="from_torch_prune"):
        remove_dead_units(pruned)
