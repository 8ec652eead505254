"""Names, options and the errors that teach them."""

import pytest
import torch

from surplus.errors import InputError
from surplus.networks import build, small_conv

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


def test_build_takes_names_with_hyphens_or_underscores_and_lists_for_shapes():
    one, two = build("resnet-20", [3, 32, 32], 10), build("resnet_20", torch.Size(CIFAR), 10)
    assert [p.shape for p in one.parameters()] == [p.shape for p in two.parameters()]


def test_an_unknown_name_is_answered_with_its_neighbours():
    with pytest.raises(InputError, match=r"'resnet-21'.*resnet-20"):
        build("resnet-21", CIFAR, 10)


def test_an_unknown_option_is_answered_with_the_ones_there_are():
    with pytest.raises(
        InputError, match=r"mlp has no option 'width'; its options: widths=\(256, 256\), activation='relu'"
    ):
        build("mlp", MNIST, 10, width=3)


REFUSED = [
    ("mlp", (), {}, r"shape of one example.*got \(\)"),
    ("mlp", (0, 3), {}, r"whole number from 1 up; got \(0, 3\)"),
    ("mlp", (4,), {"widths": (8, -1)}, r"widths is a whole number from 1 up; got -1"),
    ("mlp", (4,), {"activation": "rleu"}, r"activation is one of 'relu', .*; got 'rleu'"),
    ("lenet-5", (1, 8, 8), {}, r"at least 16x16 pixels; got 8x8"),
    ("lenet-5", (1, 28, 28), {"padding": -1}, r"padding.*got -1"),
    ("lenet-5", (1, 28, 28), {"pool": "min"}, r"pool is one of 'max', 'average'; got 'min'"),
    ("conv-6", (3, 7, 32), {}, r"at least 8x8 pixels; got 7x32"),
    ("conv-2", (784,), {}, r"\(channels, height, width\).*got \(784,\)"),
    ("vgg-16", (1, 8, 8), {}, r"at least 16x16 pixels; got 8x8"),
    ("vgg-16", CIFAR, {"norm": "layer"}, r"norm is one of 'batch', 'group', 'none'; got 'layer'"),
    ("resnet-20", CIFAR, {"norm": "none"}, r"norm is one of 'batch', 'group'; got 'none'"),
    ("resnet-20", CIFAR, {"norm": "group", "width": 0.25}, r"4 channels do not fall into groups=8"),
    ("resnet-20", CIFAR, {"norm": "group", "groups": 0}, r"groups is a whole number from 1 up; got 0"),
    ("resnet-20", CIFAR, {"shortcut": "C"}, r"shortcut is one of 'pad', 'project'; got 'C'"),
    ("resnet-20", CIFAR, {"width": 0}, r"width .* above 0; got 0"),
    ("resnet-18", CIFAR, {"width": float("nan")}, r"width .* above 0; got nan"),
    ("resnet-cifar", CIFAR, {"depth": 21}, r"6n \+ 2.*got 21"),
    ("wide-resnet", CIFAR, {"depth": 20}, r"6n \+ 4.*got 20"),
    ("wide-resnet", CIFAR, {"widen": -1}, r"widen .* above 0; got -1"),
    ("speed-net", (1, 8, 8), {}, r"at least 9x9 pixels; got 8x8"),
    ("speed-net", CIFAR, {"stem": "white"}, r"stem is one of 'whiten', 'plain'; got 'white'"),
    ("small-conv", (1, 3, 9), {}, r"at least 4x4 pixels; got 3x9"),
    ("small-conv", MNIST, {"channels": ()}, r"at least one convolution.*got \(\)"),
    ("vit-small", MNIST, {"patch": 5}, r"patch=5 does not divide 28x28 pixels; pick 1, 2, 4, 7, 14, 28"),
    ("vit-small", MNIST, {"heads": 3}, r"width=128 does not fall into heads=3"),
    ("vit-small", MNIST, {"pool": "max"}, r"pool is one of 'mean', 'class'; got 'max'"),
    ("causal-transformer", (11, 4), {"heads": 3}, r"width=128 does not fall into heads=3"),
    ("causal-transformer", (11, 4), {"tied": True}, r"got 10 outputs and a vocabulary of 11. Pass tied=False"),
    ("causal-transformer", (11,), {}, r"\(vocabulary, context\).*got \(11,\)"),
    ("causal-transformer", (11, 4), {"predict": "first"}, r"predict is one of 'all', 'last'; got 'first'"),
]


@pytest.mark.parametrize(("name", "shape", "options", "message"), REFUSED)
def test_a_bad_option_is_named_with_what_came_and_what_was_expected(name, shape, options, message):
    with pytest.raises(InputError, match=message) as error:
        build(name, shape, 10, **options)
    assert name in str(error.value)


@pytest.mark.parametrize("outputs", [0, -1, 2.5, True])
def test_outputs_are_counted_from_one(outputs):
    with pytest.raises(InputError, match="outputs is a whole number from 1 up"):
        build("mlp", (4,), outputs)


@pytest.mark.parametrize("side", [4, 5, 8, 15, 16, 28, 32, 65])
def test_small_conv_takes_any_image_from_4x4_up_and_keeps_its_head_small(side):
    module = small_conv((2, side, side + 3), 5)
    assert module(torch.zeros(2, 2, side, side + 3)).shape == (2, 5)
    assert module.head.in_features <= 64 * 16


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("lenet-5", 16),
        ("conv-6", 8),
        ("vgg-11", 16),
        ("resnet-20", 4),
        ("resnet-18", 8),
        ("wide-resnet", 4),
        ("speed-net", 9),
    ],
)
def test_the_smallest_image_that_is_let_in_also_goes_through(name, side):
    module = build(name, (1, side, side), 2).eval()
    assert module(torch.zeros(2, 1, side, side)).shape == (2, 2)
