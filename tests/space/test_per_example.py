"""Per-example gradient norms against paper and pencil, and against one backward pass per example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from surplus.errors import InputError
from surplus.space.per_example import last_layer_grad_norms, per_example_grad_norms, per_example_grads
from surplus.space.weightspace import WeightSpace

N, CLASSES = 6, 4


class Pool(nn.Module):
    """Means over all positions, (n, positions, width) -> (n, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Twice(nn.Module):
    """A layer called twice, and a second layer that shares the first one's bias."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.other, self.last = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)
        self.other.bias = self.inner.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.other(self.inner(self.inner(x).tanh()).tanh()).tanh())


class TiedDecoder(nn.Module):
    """Token embedding whose table is the last layer's weight, too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix, self.out = nn.Embedding(CLASSES, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)
        self.out.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.mix(self.table(tokens)).tanh().mean(1))


class FunctionalDecoder(TiedDecoder):
    """The same table, used by a functional call that no layer sees."""

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.mix(self.table(tokens)).tanh().mean(1), self.table.weight, self.out.bias)


class Positions(nn.Module):
    """A position embedding: with as many positions as examples, its rows look like examples and are none."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(CLASSES, 5), nn.Embedding(positions, 5)
        self.out = nn.Linear(5, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        where = torch.arange(tokens.shape[1], device=tokens.device)
        return self.out((self.tokens(tokens) + self.positions(where)).tanh().mean(1))


class PositionsFirst(nn.Module):
    """Works on (positions, examples, width) inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x.transpose(0, 1)).tanh().mean(0))


class BareParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale, self.out = nn.Linear(5, 5), nn.Parameter(torch.ones(5)), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x).tanh() * self.scale)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(5, 8), nn.Linear(8, CLASSES)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return self.out(self.attention(h, h, h, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(5, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])


class Branching(BareParameter):
    """Looks at a value on its way."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.abs().max() > 0 else super().forward(-x)


class SpoiledInput(nn.Module):
    """Overwrites what its first layer was given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(5, 5, bias=False), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        h = F.linear(x, self.inner.weight.detach()) + self.inner(x.detach())
        x.zero_()
        return self.out(h.tanh())


class Residual(nn.Module):
    """Batch norm, in-place activations and a shortcut, as in a residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.out = nn.ReLU(inplace=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.norm1(self.conv1(x)))
        h = self.relu(self.norm2(self.conv2(h)).add_(h))
        return self.out(h.mean((2, 3)))


def after_conv(conv: nn.Module, *shape: int) -> tuple[nn.Module, Tensor]:
    x = torch.randn(N, *shape)
    body = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten())
    return nn.Sequential(body, nn.Linear(body(x).shape[1], CLASSES)), x


def on_sequence(layer: nn.Module, positions: int, width: int = 5) -> tuple[nn.Module, Tensor]:
    x = torch.randn(N, positions, width)
    return nn.Sequential(layer, nn.Tanh(), Pool(), nn.Linear(layer(x).shape[-1], CLASSES)), x


def tokens(positions: int) -> Tensor:
    return torch.randint(CLASSES, (N, positions))


COVERED = {
    "mlp": lambda: (nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, CLASSES)), torch.randn(N, 5)),
    "linear on few positions": lambda: on_sequence(nn.Linear(5, 9), 2),
    "linear on many positions": lambda: on_sequence(nn.Linear(5, 9), 20),
    "linear on one position": lambda: on_sequence(nn.Linear(5, 9), 1),
    "linear on a grid": lambda: after_conv(nn.Linear(5, 3), 3, 4, 5),
    "conv, one channel": lambda: after_conv(nn.Conv2d(1, 6, 3), 1, 7, 7),
    "conv, stride and padding": lambda: after_conv(nn.Conv2d(3, 5, 3, stride=2, padding=(1, 2)), 3, 8, 7),
    "conv, dilation": lambda: after_conv(nn.Conv2d(2, 5, (3, 2), dilation=(2, 1)), 2, 9, 8),
    "conv, groups": lambda: after_conv(nn.Conv2d(4, 6, 3, groups=2, bias=False), 4, 6, 6),
    "conv, depthwise": lambda: after_conv(nn.Conv2d(4, 4, 3, groups=4, padding=1), 4, 6, 6),
    "conv, 8 channels": lambda: after_conv(nn.Conv2d(8, 5, 3, stride=2, padding=1), 8, 9, 9),
    "conv, 8 channels in groups": lambda: after_conv(nn.Conv2d(16, 4, 3, dilation=2, groups=2), 16, 9, 9),
    "conv, 8 channels, same": lambda: after_conv(nn.Conv2d(8, 4, (2, 4), padding="same"), 8, 7, 7),
    "conv, 8 channels, circular": lambda: after_conv(nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"), 8, 7, 7),
    "conv, reflected": lambda: after_conv(nn.Conv2d(2, 4, 3, padding=(2, 1), padding_mode="reflect"), 2, 7, 7),
    "conv, same": lambda: after_conv(nn.Conv2d(2, 4, (2, 5), padding="same", dilation=(3, 1)), 2, 7, 7),
    "conv, valid": lambda: after_conv(nn.Conv2d(2, 4, 3, padding="valid"), 2, 7, 7),
    "conv, few positions": lambda: after_conv(nn.Conv2d(6, 12, 3, groups=2), 6, 4, 4),
    "conv, one position": lambda: after_conv(nn.Conv2d(3, 4, 5), 3, 5, 5),
    "conv 1x1 with stride": lambda: after_conv(nn.Conv2d(8, 4, 1, stride=2), 8, 7, 7),
    "conv1d": lambda: after_conv(nn.Conv1d(3, 4, 3, padding=1), 3, 9),
    "conv1d, 8 channels": lambda: after_conv(nn.Conv1d(8, 4, 3, stride=2), 8, 19),
    "conv3d": lambda: after_conv(nn.Conv3d(2, 3, 2, padding=1), 2, 3, 4, 3),
    "residual": lambda: (Residual(), torch.randn(N, 3, 5, 5)),
    "batch norm on a table": lambda: (
        nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, CLASSES)),
        torch.randn(N, 5),
    ),
    "group norm": lambda: after_conv(nn.Sequential(nn.Conv2d(2, 6, 3), nn.GroupNorm(3, 6)), 2, 5, 5),
    "layer norm": lambda: on_sequence(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8)), 3),
    "layer norm over two axes": lambda: (
        nn.Sequential(nn.LayerNorm((3, 5)), nn.Flatten(), nn.Linear(15, CLASSES)),
        torch.randn(N, 3, 5),
    ),
    "rms norm": lambda: on_sequence(nn.Sequential(nn.Linear(5, 8), nn.RMSNorm(8)), 3),
    "embedding": lambda: (nn.Sequential(nn.Embedding(CLASSES, 5), nn.Tanh(), Pool(), nn.Linear(5, CLASSES)), tokens(7)),
    "embedding with padding": lambda: (
        nn.Sequential(nn.Embedding(CLASSES, 5, padding_idx=1), nn.Tanh(), Pool(), nn.Linear(5, CLASSES)),
        tokens(7),
    ),
    "shared layers": lambda: (Twice(), torch.randn(N, 5)),
    "tied decoder": lambda: (TiedDecoder(), tokens(7)),
}
FALLING_BACK = {
    "functional use of a layer's weight": lambda: (FunctionalDecoder(), tokens(7)),
    "position embedding": lambda: (Positions(7), tokens(7)),
    "position embedding, as many as examples": lambda: (Positions(N), tokens(N)),
    "positions first": lambda: (PositionsFirst(), torch.randn(N, 7, 5)),
    "positions first, as many as examples": lambda: (PositionsFirst(), torch.randn(N, N, 5)),
    "bare parameter": lambda: (BareParameter(), torch.randn(N, 5)),
    "recurrent": lambda: (Recurrent(), torch.randn(N, 3, 5)),
    "attention": lambda: (Attention(), torch.randn(N, 3, 5)),
    "weight norm": lambda: after_conv(nn.utils.parametrizations.weight_norm(nn.Linear(5, 7)), 5),
    "embedding scaled by frequency": lambda: (
        nn.Sequential(nn.Embedding(CLASSES, 5, scale_grad_by_freq=True), Pool(), nn.Linear(5, CLASSES)),
        tokens(3),
    ),
    "transposed conv": lambda: after_conv(nn.ConvTranspose2d(2, 3, 3), 2, 4, 4),
}


def case(make) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in eval mode and double precision, every weight and statistic at random; inputs; labels."""
    torch.manual_seed(0)
    network, x = make()
    network = network.double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))
        for name, b in network.named_buffers():
            if "running" in name:
                b.add_(torch.rand_like(b))
    return network, x.double() if x.is_floating_point() else x, torch.randint(CLASSES, (N,))


def one_by_one(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The definition, with nothing of ours in it."""
    norms = []
    for i in range(len(x)):
        network.zero_grad()
        F.cross_entropy(network(x[i : i + 1]), y[i : i + 1]).backward()
        norms.append(sum(p.grad.square().sum() for p in network.parameters() if p.grad is not None).sqrt())
    return torch.stack(norms)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", COVERED)
def test_ghost_rules_give_the_lengths_of_one_backward_pass_per_example(name):
    network, x, y = case(COVERED[name])
    torch.testing.assert_close(per_example_grad_norms(network, None, x, y, method="ghost"), one_by_one(network, x, y))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", FALLING_BACK)
def test_weights_without_a_rule_are_found_and_done_another_way(name):
    network, x, y = case(FALLING_BACK[name])
    if name == "embedding scaled by frequency":
        expected = per_example_grad_norms(network, None, x, y, method="loop")
    else:
        expected = one_by_one(network, x, y)
    torch.testing.assert_close(per_example_grad_norms(network, None, x, y), expected)
    with pytest.raises(InputError, match="no ghost rule"):
        per_example_grad_norms(network, None, x, y, method="ghost")


def test_an_input_overwritten_after_the_call_is_not_trusted():
    network, x, y = case(lambda: (SpoiledInput(), torch.randn(N, 5)))
    with pytest.raises(InputError, match=r"inner\.weight"):
        per_example_grad_norms(network, None, x, y, method="ghost")


def test_a_network_that_vmap_cannot_trace_goes_one_by_one():
    network, x, y = case(lambda: (Branching(), torch.randn(N, 5)))
    torch.testing.assert_close(per_example_grad_norms(network, None, x, y), one_by_one(network, x, y))
    with pytest.raises(RuntimeError, match="control flow"):
        per_example_grad_norms(network, None, x, y, method="vmap")


@pytest.mark.parametrize("name", ["mlp", "residual", "tied decoder", "conv, groups"])
@pytest.mark.parametrize("method", ["vmap", "loop", "auto"])
@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_every_method_and_chunk_agrees(name, method, chunk):
    network, x, y = case(COVERED[name])
    torch.testing.assert_close(
        per_example_grad_norms(network, None, x, y, method=method, chunk=chunk), one_by_one(network, x, y)
    )


def test_a_linear_layer_has_the_length_on_paper():
    layer = nn.Linear(2, 2).double()  # a = (1, 2), delta = (3, 4): 25 * (5 + 1) = 150
    x, delta = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, 4.0]]).double()
    squared = per_example_grad_norms(layer, None, x, delta, loss=lambda out, d: (out * d).sum(1)) ** 2
    torch.testing.assert_close(squared, torch.tensor([150.0]).double())


def test_frozen_weights_do_not_count():
    network, x, y = case(COVERED["residual"])
    for p in [*network.conv1.parameters(), network.norm2.bias]:
        p.requires_grad_(False)
    torch.testing.assert_close(per_example_grad_norms(network, None, x, y, method="ghost"), one_by_one(network, x, y))


def test_weights_that_do_not_reach_the_loss_count_zero():
    network, x, y = case(COVERED["mlp"])
    alone = per_example_grad_norms(network, None, x, y)
    network.idle = nn.Linear(3, 3)
    network.forward = lambda x: (network.idle(x.new_zeros(len(x), 3).float()), network[2](network[1](network[0](x))))[1]
    torch.testing.assert_close(per_example_grad_norms(network, None, x, y), alone)


def test_a_users_hook_that_changes_the_output_is_obeyed():
    network, x, y = case(COVERED["mlp"])
    network[0].register_forward_hook(lambda layer, args, out: 3 * out)
    network[2].register_forward_pre_hook(lambda layer, args: (2 * args[0],))
    torch.testing.assert_close(per_example_grad_norms(network, None, x, y, method="ghost"), one_by_one(network, x, y))


def test_hooks_gradients_and_mode_are_left_as_they_were():
    network, x, y = case(COVERED["residual"])
    per_example_grad_norms(network, None, x, y)
    assert not any(m._forward_hooks for m in network.modules())
    assert all(p.grad is None for p in network.parameters())


def test_a_sequence_of_losses_is_summed_per_example():
    network, _, _ = case(COVERED["mlp"])
    x = torch.randn(N, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.randint(CLASSES, (N, 3), generator=torch.Generator().manual_seed(1))

    def token_loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs.mT, labels, reduction="none")

    ghost = per_example_grad_norms(network, None, x, y, loss=token_loss, method="ghost")
    torch.testing.assert_close(ghost, per_example_grad_norms(network, None, x, y, loss=token_loss, method="loop"))


def test_examples_of_a_mapped_gradient_add_up_to_the_batch_gradient():
    network, x, y = case(COVERED["residual"])
    each = per_example_grads(network, None, x, y, chunk=4)
    F.cross_entropy(network(x), y, reduction="sum").backward()
    torch.testing.assert_close(each.sum(0), torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(each.norm(dim=1), per_example_grad_norms(network, None, x, y))


def test_a_weight_space_is_read_at_theta_with_the_statistics_given():
    space = WeightSpace(lambda: Residual().double())
    theta = space.init(1) + 0.1
    network, x, y = case(COVERED["residual"])
    buffers = {n: b.clone() for n, b in network.named_buffers()}
    for m, b in space.write(theta, buffers).named_parameters():
        network.get_parameter(m).data.copy_(b)
    expected = one_by_one(network, x, y)
    torch.testing.assert_close(per_example_grad_norms(space, theta, x, y, buffers=buffers, method="ghost"), expected)
    torch.testing.assert_close(per_example_grad_norms(network, theta, x, y), expected)
    assert not torch.allclose(per_example_grad_norms(space, theta, x, y), expected)


def test_a_tied_weight_space_agrees_with_its_full_gradients():
    space = WeightSpace(lambda: TiedDecoder().double())
    x, y = case(COVERED["tied decoder"])[1:]
    grads = per_example_grads(space, space.init(0), x, y)
    assert grads.shape == (N, space.size)
    torch.testing.assert_close(per_example_grad_norms(space, space.init(0), x, y, method="ghost"), grads.norm(dim=1))


def test_single_precision_stays_within_one_part_in_a_hundred_thousand():
    network, x, y = case(COVERED["residual"])
    exact = one_by_one(network, x, y)
    rough = per_example_grad_norms(network.float(), None, x.float(), y, method="ghost")
    torch.testing.assert_close(rough.double(), exact, rtol=1e-5, atol=0)


def test_norms_work_where_gradients_are_off_and_for_no_examples():
    network, x, y = case(COVERED["mlp"])
    with torch.no_grad():
        norms = per_example_grad_norms(network, None, x, y)
    torch.testing.assert_close(norms, one_by_one(network, x, y))
    assert per_example_grad_norms(network, None, x[:0], y[:0]).shape == (0,)
    assert per_example_grads(network, None, x[:0], y[:0]).shape == (0, 5 * 7 + 7 + 7 * 4 + 4)


def test_last_layer_norms_match_autograd_on_that_layer():
    g = torch.Generator().manual_seed(0)
    features, y = torch.randn(N, 5, generator=g), torch.randint(CLASSES, (N,), generator=g)
    layer = nn.Linear(5, CLASSES)
    closed = last_layer_grad_norms(layer(features), features, y)
    torch.testing.assert_close(closed, per_example_grad_norms(layer, None, features, y, method="loop"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.train(), r"module\.eval"),
        (lambda n: n.append(nn.BatchNorm1d(CLASSES, track_running_stats=False)), "track_running_stats"),
        (lambda n: n.append(nn.Dropout(0.5).train()), "dropout"),
        (lambda n: n.requires_grad_(False), "no trainable"),
    ],
)
def test_networks_without_per_example_gradients_are_refused(change, message):
    network = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, CLASSES)).eval()
    change(network)
    with pytest.raises(InputError, match=message):
        per_example_grad_norms(network, None, torch.randn(N, 5), torch.zeros(N, dtype=torch.long))


def test_a_mean_loss_a_missing_target_and_an_unknown_method_are_refused():
    layer, x, y = nn.Linear(5, CLASSES), torch.randn(N, 5), torch.zeros(N, dtype=torch.long)
    with pytest.raises(InputError, match="reduction='none'"):
        per_example_grad_norms(layer, None, x, y, loss=F.cross_entropy)
    with pytest.raises(InputError, match="one target per example"):
        per_example_grad_norms(layer, None, x, y[1:])
    with pytest.raises(InputError, match="ghost"):
        per_example_grad_norms(layer, None, x, y, method="gost")
    with pytest.raises(InputError, match="chunk"):
        per_example_grad_norms(layer, None, x, y, chunk=0)
    with pytest.raises(InputError, match="theta"):
        per_example_grad_norms(WeightSpace(lambda: nn.Linear(5, CLASSES)), None, x, y)


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_reentrant_checkpoints_are_refused():
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.out = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            h = checkpoint(self.inner, self.first(x), use_reentrant=True)
            return self.out(h)

    with pytest.raises(InputError, match="use_reentrant=False"):
        per_example_grad_norms(Checkpointed(), None, torch.randn(N, 5), torch.zeros(N, dtype=torch.long))
