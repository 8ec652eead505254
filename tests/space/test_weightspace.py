import pytest
import torch
from torch import nn
from torch.func import functional_call

from surplus.errors import InputError
from surplus.space import WeightSpace, angle, filter_normalised_direction, generator, interpolate, seed_for, seeded


def mlp():
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def convnet():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.embed(tokens))


def test_an_initial_point_is_what_the_module_itself_would_draw():
    space = WeightSpace(mlp)
    torch.manual_seed(3)
    expected = torch.cat([p.detach().flatten() for p in mlp().parameters()])
    assert torch.equal(space.init(3), expected)


def test_drawing_a_point_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    WeightSpace(mlp).init(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_split_gives_views_and_join_undoes_it():
    space = WeightSpace(convnet)
    theta = space.init_many([0, 1])
    parts = space.split(theta)
    parts["4.bias"][1].fill_(9)
    assert (theta[1, space["4.bias"].slice] == 9).all()
    assert torch.equal(space.join(parts), theta)


def test_blocks_know_their_kind_and_whether_they_may_be_pruned():
    blocks = {b.name: (b.kind, b.prunable) for b in WeightSpace(convnet).blocks}
    assert blocks == {
        "0.weight": ("weight", True), "0.bias": ("bias", False), "1.weight": ("norm", False), "1.bias": ("norm", False),
        "4.weight": ("weight", True), "4.bias": ("bias", False),
    }  # fmt: skip


def test_apply_equals_the_module_itself_alone_and_in_company():
    space = WeightSpace(mlp)
    theta, x = space.init_many([0, 1, 2]), torch.randn(6, 5)
    together = space.apply(theta, x)
    for t, out in zip(theta, together, strict=True):
        torch.testing.assert_close(out, space.write(t)(x))
        torch.testing.assert_close(space.apply(t, x), out)


def test_each_network_may_have_its_own_batch():
    space = WeightSpace(mlp)
    theta, x = space.init_many([0, 1]), torch.randn(2, 6, 5)
    out = space.apply_each(theta, x)
    torch.testing.assert_close(out[1], space.apply(theta[1], x[1]))


def test_a_shared_weight_is_one_block_and_its_gradient_the_sum_of_its_uses():
    space = WeightSpace(Tied)
    assert space.size == 66 and len(space.blocks) == 1
    theta = space.init(0).requires_grad_()
    tokens = torch.tensor([[1, 2, 3]])
    (grad,) = torch.autograd.grad(space.apply(theta, tokens).square().sum(), theta)
    module = space.write(theta.detach())
    assert module.head.weight is module.embed.weight
    module.train()(tokens).square().sum().backward()
    torch.testing.assert_close(grad.view(11, 6), module.embed.weight.grad)


def test_statistics_are_those_of_the_point_and_apply_stays_pure():
    space = WeightSpace(convnet)
    theta, x = space.init_many([0, 1]), torch.randn(32, 1, 8, 8)
    before = {n: b.clone() for n, b in space.module.named_buffers()}
    stats = space.statistics(theta, [x[:16], x[16:]])
    conv = functional_call(
        space.module[0], {n.removeprefix("0."): p[1] for n, p in space.split(theta).items() if n.startswith("0.")}, (x,)
    )
    halves = torch.stack([conv[:16].mean((0, 2, 3)), conv[16:].mean((0, 2, 3))]).mean(0)
    torch.testing.assert_close(stats["1.running_mean"][1], halves)
    space.apply(theta, x, stats)
    assert all(torch.equal(b, before[n]) for n, b in space.module.named_buffers())
    assert space.module[1].momentum == 0.1


def test_evaluation_with_statistics_of_one_whole_batch_equals_training_mode():
    space = WeightSpace(convnet)
    theta, x = space.init(0), torch.randn(64, 1, 8, 8, dtype=torch.float32)
    stats = space.statistics(theta, [x])
    train, evaluated = space.apply(theta, x, train=True), space.apply(theta, x, stats)
    torch.testing.assert_close(train, evaluated, rtol=1e-2, atol=1e-2)  # unbiased against biased variance


def test_writing_and_reading_a_module_is_the_identity():
    space = WeightSpace(convnet)
    theta = space.init(4)
    assert torch.equal(space.read(space.write(theta)), theta)


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(InputError, match=r"P = 66 weights; got a vector of shape \(5,\)"):
        WeightSpace(Tied).split(torch.zeros(5))


def test_a_module_without_weights_is_refused():
    with pytest.raises(InputError, match="no trainable parameter"):
        WeightSpace(nn.ReLU)


def test_mixed_dtypes_are_refused():
    with pytest.raises(InputError, match="several dtypes"):
        WeightSpace(lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()))


def test_purposes_never_share_their_draws():
    assert seed_for(0, "order", 1) != seed_for(0, "order", 2) != seed_for(1, "order", 1)
    first, again = (torch.rand(3, generator=generator(7, "order", 1)) for _ in range(2))
    assert torch.equal(first, again)


def test_seeded_restores_the_stream():
    torch.manual_seed(1)
    a = torch.rand(2)
    torch.manual_seed(1)
    with seeded(99):
        torch.rand(5)
    assert torch.equal(torch.rand(2), a)


def test_a_filter_normalised_direction_has_the_filters_lengths():
    space = WeightSpace(convnet)
    theta = space.init(0)
    d = filter_normalised_direction(space, theta, torch.Generator().manual_seed(0))
    parts, own = space.split(d), space.split(theta)
    torch.testing.assert_close(parts["0.weight"].flatten(1).norm(dim=1), own["0.weight"].flatten(1).norm(dim=1))
    assert (parts["0.bias"] == 0).all() and (parts["1.weight"] == 0).all()


def test_angles_are_exact_near_zero_and_pi():
    u = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert angle(u, u) == 0
    torch.testing.assert_close(angle(u, -u), torch.tensor(torch.pi, dtype=torch.float64))
    tilt = torch.tensor([1.0, 1e-9], dtype=torch.float64)
    torch.testing.assert_close(angle(u, tilt), torch.tensor(1e-9, dtype=torch.float64))


def test_interpolation_meets_both_ends():
    points = interpolate(torch.zeros(4), torch.ones(4), torch.tensor([0.0, 0.25, 1.0]))
    assert points[:, 0].tolist() == [0.0, 0.25, 1.0]
