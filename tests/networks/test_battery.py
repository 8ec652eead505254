"""What holds of every network: shapes, replicas, derivatives, seeds."""

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from surplus.networks import build
from surplus.registry import find, methods
from surplus.space import WeightSpace, generator

# Every network of the room in a small size: name -> (input_shape, outputs, options).
CASES = {
    "mlp": ((1, 6, 6), 3, {"widths": (7, 5)}),
    "gated-mlp": ((1, 6, 6), 3, {"width": 6, "blocks": 3}),
    "gated-resnet": ((3, 8, 8), 3, {"depth": 14, "width": 0.5}),
    "sized-resnet": ((3, 7, 5), 3, {"widths": (4, 6, 5, 3, 8), "depths": (1, 1)}),
    "lenet-300-100": ((10,), 3, {}),
    "lenet-5": ((1, 16, 16), 3, {"width": 0.5}),
    "conv-2": ((3, 6, 6), 3, {"width": 1 / 16}),
    "conv-4": ((3, 6, 6), 3, {"width": 1 / 16}),
    "conv-6": ((3, 9, 8), 3, {"width": 1 / 16}),
    "conv-net": ((3, 8, 8), 3, {"width": 4, "depth": 2}),
    "vgg-11": ((3, 16, 16), 3, {"width": 1 / 16}),
    "vgg-16": ((3, 16, 16), 3, {"width": 1 / 16, "norm": "group", "groups": 4}),
    "vgg-19": ((3, 16, 16), 3, {"width": 1 / 32, "norm": "none"}),
    "resnet-cifar": ((3, 8, 8), 3, {"depth": 8, "width": 0.5}),
    "resnet-20": ((3, 8, 8), 3, {"width": 0.25, "shortcut": "project"}),
    "resnet-32": ((3, 7, 5), 3, {"width": 0.25}),
    "resnet-56": ((1, 4, 4), 3, {"width": 0.25, "norm": "group", "groups": 2}),
    "resnet-18": ((3, 8, 8), 3, {"width": 1 / 16}),
    "wide-resnet": ((3, 8, 8), 3, {"depth": 10, "widen": 0.5}),
    "cnn-9": ((1, 28, 28), 3, {"width": 1 / 32, "dropout": 0.0}),
    "speed-net": ((3, 9, 9), 3, {"width": 1 / 16}),
    "small-conv": ((1, 8, 8), 3, {"norm": "batch"}),
    "vit-small": ((3, 8, 8), 3, {"width": 16, "depth": 2, "heads": 2, "pool": "class"}),
    "causal-transformer": ((11, 6), 11, {"width": 16, "depth": 2, "heads": 2}),
}
NAMES = sorted(CASES)


def space(name: str, dtype: torch.dtype = torch.float32) -> WeightSpace:
    shape, outputs, options = CASES[name]
    return WeightSpace(lambda: build(name, shape, outputs, **options).to(dtype))


def inputs(name: str, *lead: int, dtype: torch.dtype = torch.float32) -> Tensor:
    shape, _, _ = CASES[name]
    g = generator(0, "inputs")
    if name == "causal-transformer":
        vocabulary, context = shape
        return torch.randint(vocabulary, (*lead, context), generator=g)
    return torch.randn(*lead, *shape, generator=g, dtype=dtype)


def points(s: WeightSpace, replicas: int = 3) -> Tensor:
    return torch.stack([s.init(seed) for seed in range(replicas)])


def one(buffers: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    return {n: b[k] for n, b in buffers.items()}


def test_the_cases_cover_every_network_that_this_room_registers():
    ours = {m.name for m in methods("network") if m.fn.__module__.startswith("surplus.networks")}
    assert ours == set(CASES)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_come_one_row_per_example(name):
    _, outputs, _ = CASES[name]
    s, x = space(name), inputs(name, 4)
    positions = x.shape[1:] if name == "causal-transformer" else ()
    y = s.apply(s.init(0), x)
    assert y.shape == (4, *positions, outputs)
    assert y.isfinite().all()


@pytest.mark.filterwarnings("error")  # torch warns where a stacked operation falls back to a loop
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_stacked_replicas_answer_as_each_does_alone(name, train):
    s, x = space(name), inputs(name, 4)
    theta = points(s)
    stacked = s.fresh_buffers(replicas=len(theta))
    alone = [s.fresh_buffers() for _ in theta]
    together = s.apply(theta, x, stacked, train=train)
    apart = torch.stack([s.apply(t, x, b, train=train) for t, b in zip(theta, alone, strict=True)])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    for k, buffers in enumerate(alone):  # running statistics moved alike
        torch.testing.assert_close(one(stacked, k), buffers, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
def test_stacked_gradients_on_a_batch_each_equal_the_loop(name):
    s, x = space(name, torch.double), inputs(name, 3, 4, dtype=torch.double)
    theta, buffers = points(s), s.fresh_buffers(replicas=3)

    def loss(t: Tensor, b: Any, i: Tensor) -> Tensor:
        return s.apply(t, i, b, train=True).square().mean()

    together = vmap(grad(loss))(theta, buffers, x)
    for k in range(3):
        alone = grad(loss)(theta[k], s.fresh_buffers(), x[k])
        torch.testing.assert_close(together[k], alone)
        assert alone.norm() > 0


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_reverse_mode_agree_on_a_hessian_vector_product(name):
    s, x = space(name, torch.double), inputs(name, 3, dtype=torch.double)
    theta = s.init(0)
    v = torch.randn(s.size, generator=generator(0, "direction"), dtype=theta.dtype)

    def loss(t: Tensor) -> Tensor:
        return s.apply(t, x).logsumexp(-1).mean()

    forward = jvp(grad(loss), (theta,), (v,))[1]
    reverse = grad(lambda t: grad(loss)(t) @ v)(theta)
    torch.testing.assert_close(forward, reverse)
    assert reverse.norm() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_fixes_the_start_and_another_seed_moves_it(name):
    s = space(name)
    assert torch.equal(s.init(3), s.init(3))
    assert not torch.equal(s.init(3), s.init(4))


@pytest.mark.parametrize("name", NAMES)
def test_the_last_layer_is_called_head(name):
    _, outputs, _ = CASES[name]
    module = space(name).module
    assert isinstance(module.head, nn.Linear)
    assert module.head.out_features == outputs


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_keyword_only_with_a_default_and_a_line_of_help(name):
    row = find("network", name)
    first, second, *options = inspect.signature(row.fn).parameters.values()
    assert (first.name, second.name) == ("input_shape", "outputs")
    for option in options:
        assert option.kind is option.KEYWORD_ONLY
        assert option.default is not option.empty
        assert f"{option.name}: " in row.fn.__doc__


@pytest.mark.parametrize("name", [n for n in NAMES if "width" in inspect.signature(find("network", n).fn).parameters])
def test_a_double_width_doubles_the_features_that_enter_the_head(name):
    shape, outputs, options = CASES[name]
    wide = options | {"width": 2 * options.get("width", 1)}
    head, wider = (build(name, shape, outputs, **o).head.in_features for o in (options, wide))
    assert wider == 2 * head


def test_small_conv_learns_the_digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=generator(0, "split"))
    train, test = order[:1200], order[1200:]
    s = WeightSpace(lambda: build("small-conv", (1, 8, 8), 10))
    model = s.write(s.init(0))
    step = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(6):
        shuffled = train[torch.randperm(len(train), generator=generator(0, "order", epoch))]
        for batch in shuffled.split(32):
            step.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            step.step()
    with torch.no_grad():
        assert (model(x[test]).argmax(1) == y[test]).double().mean() > 0.95
