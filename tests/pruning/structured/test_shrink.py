"""Shrunk networks are smaller, run, keep what matters, and agree with Torch-Pruning's own ranking."""

import copy

import pytest
import torch
from torch import nn

from surplus.errors import InputError, MissingExtra
from surplus.networks import build
from surplus.pruning import count, shrink
from surplus.pruning.structured.heads import without_heads
from surplus.pruning.structured.shrink import saving
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


@pytest.mark.parametrize(
    ("width", "keep", "round_to", "expected"),
    [(22, 1.0, 8, 16), (22, 0.5, 8, 8), (22, 0.95, 8, 16), (24, 1.0, 8, 24), (5, 0.5, 8, 5), (22, 1.0, 1, 22)],
)
def test_rounded_counts_are_multiples_even_where_all_would_stay(width, keep, round_to, expected):
    net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
    assert shrink(net, (4,), keep=keep, round_to=round_to, scope="layer")[0].out_features == expected


def test_rounding_counts_the_channels_of_all_parts():
    for groups, width, round_to, expected in ((6, 36, 8, 24), (6, 36, 9, 36), (4, 24, 8, 24), (4, 20, 8, 16)):
        grouped = nn.Conv2d(width, width, 1, groups=groups)
        net = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU(), grouped, nn.ReLU(), nn.Conv2d(width, 2, 1))
        small = shrink(net, (3, 4, 4), keep=0.99, round_to=round_to, scope="layer")
        assert small[2].out_channels == expected and expected % round_to == 0


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

    from surplus.pruning.structured.groups import channel_importance, weight_values

    module, x = seeded(ResNet).eval(), torch.zeros(1, 3, 8, 8)
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=x)
    values, reference = weight_values(module, None), tp.importance.GroupMagnitudeImportance(p=2)
    groups = list(graph.get_all_groups(ignored_layers=[module.head]))
    assert len(groups) == 5  # two residual streams and the inside of three blocks
    for group in groups:
        ours = channel_importance(group, values, graph)
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


class Padded(nn.Module):
    """Two branches, of which the narrow one is padded with channels of zeros on both sides."""

    def __init__(self, narrow_first):
        super().__init__()
        narrow, wide = nn.Conv2d(2, 5, 3), nn.Conv2d(2, 8, 3)
        self.first, self.second = (narrow, wide) if narrow_first else (wide, narrow)
        self.head, self.narrow_first = nn.Conv2d(8, 3, 1), narrow_first

    def forward(self, x):
        pad = lambda y: nn.functional.pad(y, (0, 0, 0, 0, 2, 1))
        a, b = self.first(x), self.second(x)
        return self.head((pad(a) + b if self.narrow_first else a + pad(b)).relu())


@pytest.mark.parametrize("narrow_first", [True, False])
def test_channels_keep_their_partners_across_a_padding_with_zeros(narrow_first):
    torch.manual_seed(0)
    net, x = Padded(narrow_first).eval(), torch.randn(2, 2, 6, 6)
    with torch.no_grad():
        for m in (net.first, net.second):
            for silent in (1, 3):
                at = silent + 2 * (m.out_channels == 8)  # two channels of zeros come before the narrow one's first
                m.weight[at], m.bias[at] = 0, 0
    small = shrink(net, (2, 6, 6), keep=0.6)
    assert {small.first.out_channels, small.second.out_channels} == {3, 6}
    torch.testing.assert_close(small(x), net(x))
    least = shrink(net, (2, 6, 6), keep=1e-6)
    assert {least.first.out_channels, least.second.out_channels} == {1, 4}  # the three added ones stay


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


def silent_channels(module, g):
    """Every fourth output of each convolution and hidden linear layer sends zeros, also after normalisation."""
    layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))]
    with torch.no_grad():
        for m in layers[:-1]:
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.copy_(torch.randn(m.num_features, generator=g))
                m.bias.copy_(torch.randn(m.num_features, generator=g))
            for value in (m.weight, m.bias):
                if value is not None:
                    value[::4] = 0


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("vgg-11", {"width": 0.125}, (3, 16, 16)),
        ("resnet-cifar", {"depth": 14, "width": 0.5}, (3, 16, 16)),
        ("resnet-cifar", {"depth": 8, "width": 0.5, "shortcut": "project"}, (3, 16, 16)),
        ("resnet-18", {"width": 0.125}, (3, 16, 16)),
        ("conv-4", {"width": 0.125}, (3, 8, 8)),
    ],
)
def test_published_networks_without_their_silent_channels_compute_the_same(name, options, shape):
    module, g = build(name, shape, 10, **options).eval(), generator(0)
    silent_channels(module, g)
    x = torch.randn(4, *shape, generator=g)
    small = shrink(module, shape, keep=0.75, scope="layer", importance=loud(module))
    before, after = count(module, shape), count(small, shape)
    assert after.parameters < 0.7 * before.parameters and after.macs < 0.75 * before.macs
    torch.testing.assert_close(small(x), module(x), rtol=1e-5, atol=1e-5)


def loud(module):
    """One for each weight of a unit that says something, zero for those of silent ones."""
    rows = {n: p.flatten(1).any(1) if p.dim() > 1 else p != 0 for n, p in module.named_parameters()}
    parts = {n: rows[n].view(-1, *[1] * (p.dim() - 1)).expand_as(p).float() for n, p in module.named_parameters()}
    return WeightSpace(lambda: module).join(parts)


def vit(heads=4):
    return build("vit-small", (1, 8, 8), 5, patch=4, width=16, depth=2, heads=heads).eval()


def silence_heads(module, quiet):
    """Heads of these numbers, of four of width 4, read nothing and send nothing."""
    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, nn.MultiheadAttention):
                joint, bias = m.in_proj_weight, m.in_proj_bias
            elif hasattr(m, "qkv"):
                joint, bias = m.qkv.weight, m.qkv.bias
            else:
                continue
            for head in quiet:
                for part in range(3):
                    rows = slice(16 * part + 4 * head, 16 * part + 4 * head + 4)
                    joint[rows], bias[rows] = 0, 0


class Encoder(nn.Module):
    """A user's network around torch's own attention."""

    def __init__(self, batch_first=True):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 20, 0.0, batch_first=batch_first)
        self.body, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x).mean(1))


@pytest.mark.parametrize("make", [vit, Encoder, lambda: Encoder(batch_first=False)])
def test_leaving_out_silent_heads_changes_nothing(make):
    torch.manual_seed(0)
    module, g = make().eval(), generator(0)
    shape = (1, 8, 8) if hasattr(module, "embed") else (5, 16)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))  # biases and normalisation, too
    silence_heads(module, (0, 2))
    x = torch.randn(3, *shape, generator=g)
    small = shrink(module, shape, keep=0.5, scope="layer", heads=True, exclude=dense_layers(module))
    layers = [m for m in small.modules() if hasattr(m, "qkv") or isinstance(m, nn.MultiheadAttention)]
    widths = [m.qkv.out_features if hasattr(m, "qkv") else len(m.in_proj_weight) for m in layers]
    assert widths == [3 * 8, 3 * 8]
    before, after = count(module, shape), count(small, shape)
    assert before.parameters - after.parameters == 2 * (3 * 8 * 16 + 3 * 8 + 8 * 16)
    tokens = 4 if shape == (1, 8, 8) else 5
    assert before.macs - after.macs == 2 * tokens * (3 * 8 * 16 + 8 * 16)
    torch.testing.assert_close(small(x), module(x), rtol=1e-5, atol=1e-5)
    small.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def dense_layers(module):
    return [n for n, m in module.named_modules() if n.rpartition(".")[2] in ("linear1", "linear2", "embed")]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_heads_and_dense_units_go_together_and_one_head_stays(scope):
    small = shrink(vit(), (1, 8, 8), keep=0.3, heads=True, scope=scope)
    assert all(1 <= b.attention.heads < 4 for b in small.blocks) and small(torch.zeros(2, 1, 8, 8)).shape == (2, 5)
    least = shrink(vit(), (1, 8, 8), keep=1e-6, heads=True, scope=scope, round_to=8)
    assert [b.attention.heads for b in least.blocks] == [1, 1] and least.blocks[0].linear1.out_features == 8
    apart = shrink(vit(), (1, 8, 8), keep=0.3, heads=True, exclude=("blocks.0",))
    assert apart.blocks[0].attention.heads == 4


def test_the_heads_of_the_highest_score_stay_with_their_own_weights():
    module = vit()
    space = WeightSpace(lambda: module)
    score = torch.zeros(space.size)
    space.split(score)["blocks.0.attention.out.weight"][:, 8:12] = 1  # the third head
    space.split(score)["blocks.1.attention.qkv.weight"][16 + 4 : 16 + 8] = 1  # keys of the second
    small = shrink(module, (1, 8, 8), keep=0.25, heads=True, scope="layer", importance=score)
    rows = torch.cat([torch.arange(16 * p + 8, 16 * p + 12) for p in range(3)])
    assert torch.equal(small.blocks[0].attention.qkv.weight, module.blocks[0].attention.qkv.weight[rows])
    assert torch.equal(small.blocks[0].attention.out.weight, module.blocks[0].attention.out.weight[:, 8:12])
    assert torch.equal(small.blocks[1].attention.qkv.bias, module.blocks[1].attention.qkv.bias[rows - 4])


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_attention_with_fewer_heads_takes_the_same_masks_and_gives_the_same_weights(batch_first):
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
    nn.init.normal_(whole.in_proj_bias)
    silence_heads(whole, (1, 2))
    small = without_heads(whole, [1, 2])
    g = generator(1)
    q, kv = torch.randn(3, 5, 16, generator=g), torch.randn(3, 6, 16, generator=g)
    hidden = torch.rand(3, 6, generator=g) < 0.3
    hidden[:, 0] = False
    added = torch.zeros(3, 6).masked_fill(hidden, -torch.inf)
    per_head = torch.randn(3 * 4, 5, 6, generator=g)
    flip = (lambda t: t) if batch_first else (lambda t: t.transpose(0, 1))
    for options in (
        {},
        {"key_padding_mask": hidden},
        {"attn_mask": torch.ones(5, 6).triu(2).bool()},
        {"attn_mask": per_head},
        {
            "attn_mask": torch.randn(5, 6, generator=g),
            "key_padding_mask": added,
        },
    ):
        expected = whole(flip(q), flip(kv), flip(kv), average_attn_weights=False, **options)
        found = small(flip(q), flip(kv), flip(kv), average_attn_weights=False, **options)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[1], expected[1][:, [0, 3]], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(small(flip(q), flip(kv), flip(kv), **options)[1], expected[1][:, [0, 3]].mean(1))
    one = q[0], kv[0], kv[0]
    torch.testing.assert_close(small(*one)[0], whole(*one)[0], rtol=1e-5, atol=1e-6)
    assert small(*one, need_weights=False)[1] is None


def test_leaving_out_thirty_percent_of_the_channels_leaves_half_of_the_weights():
    module = build("vgg-11", (3, 16, 16), 10, width=0.5)
    small = shrink(module, (3, 16, 16), keep=0.7, scope="layer")
    assert count(small, (3, 16, 16)).parameters / count(module, (3, 16, 16)).parameters == pytest.approx(0.49, abs=0.01)


def test_what_is_saved_is_counted_and_timed():
    module = vit()
    small = shrink(module, (1, 8, 8), keep=0.5, heads=True, scope="layer")
    told = saving(module, small, (1, 8, 8))
    assert told.before == count(module, (1, 8, 8)) and told.after == count(small, (1, 8, 8))
    assert told.parameters == told.before.parameters / told.after.parameters > 1.5
    assert told.macs == told.before.macs / told.after.macs > 1.5
    assert told.speedup == pytest.approx(float(told.seconds_before.mean / told.seconds_after.mean)) and told.speedup > 0


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
