"""Parameter counts: each against the published number, and against its closed form."""

from itertools import pairwise

import pytest
import torch

from surplus.networks import build

MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)


def count(name, shape, outputs=10, **options):
    with torch.device("meta"):  # shapes only: nothing is allocated
        return sum(p.numel() for p in build(name, shape, outputs, **options).parameters())


def conv(a, b, side, bias=True):
    return a * b * side**2 + bias * b


def dense(*widths):
    return sum(a * b + b for a, b in pairwise(widths))


def norm(channels):
    return 2 * channels


def lenet5(channels, flat):
    return conv(channels, 6, 5) + conv(6, 16, 5) + dense(flat, 120, 84, 10)


def frankle(stages, flat):
    first = sum(conv(a, b, 3) for a, b in pairwise((3, *stages)))
    second = sum(conv(b, b, 3) for b in stages)
    return first + second + dense(flat, 256, 256, 10)


def vgg(*channels):
    return sum(conv(a, b, 3) + norm(b) for a, b in pairwise((3, *channels))) + dense(512, 10)


def residual(maps, blocks, project):
    total, before = conv(3, maps[0], 3, False) + norm(maps[0]), maps[0]
    for after in maps:
        shortcut = conv(before, after, 1, False) + norm(after) if project and after != before else 0
        total += conv(before, after, 3, False) + (2 * blocks - 1) * conv(after, after, 3, False)
        total += 2 * blocks * norm(after) + shortcut
        before = after
    return total + dense(before, 10)


def wide(depth, k):
    blocks, total, before = (depth - 4) // 6, conv(3, 16, 3, False), 16
    for after in (16 * k, 32 * k, 64 * k):
        total += conv(before, after, 3, False) + (2 * blocks - 1) * conv(after, after, 3, False)
        total += norm(before) + (2 * blocks - 1) * norm(after) + conv(before, after, 1, False)
        before = after
    return total + norm(before) + dense(before, 10)


def blocks(width, depth, ratio=4):
    return depth * (
        2 * norm(width) + dense(width, 3 * width) + dense(width, width) + dense(width, ratio * width, width)
    )


def vit(width, depth, tokens, patch, outputs):
    return conv(3, width, patch) + (tokens + 2) * width + blocks(width, depth) + norm(width) + dense(width, outputs)


A, D, E = (
    [c for c, times in zip((64, 128, 256, 512, 512), repeats, strict=True) for _ in range(times)]
    for repeats in ((1, 1, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4))
)
IMAGENET = (3, 224, 224)
PUBLISHED = [
    ("mlp", MNIST, {"widths": (200, 200)}, dense(784, 200, 200, 10), 199_210),
    ("mlp", CIFAR, {"widths": (200, 200)}, dense(3072, 200, 200, 10), 656_810),
    ("lenet-300-100", MNIST, {}, dense(784, 300, 100, 10), 266_200 + 410),
    ("lenet-5", MNIST, {}, lenet5(1, 16 * 4 * 4), 44_426),
    ("lenet-5", MNIST, {"padding": 2}, lenet5(1, 16 * 5 * 5), 61_706),
    ("lenet-5", CIFAR, {}, lenet5(3, 16 * 5 * 5), 62_006),
    ("conv-2", CIFAR, {}, frankle([64], 64 * 16**2), 4_301_642),
    ("conv-4", CIFAR, {}, frankle([64, 128], 128 * 8**2), 2_425_930),
    ("conv-6", CIFAR, {}, frankle([64, 128, 256], 256 * 4**2), 2_262_602),
    ("vgg-11", CIFAR, {}, vgg(*A), 9_231_114),
    ("vgg-16", CIFAR, {}, vgg(*D), 14_728_266),
    ("vgg-19", CIFAR, {}, vgg(*E), 20_040_522),
    ("resnet-20", CIFAR, {}, residual((16, 32, 64), 3, False), 269_722),
    ("resnet-20", CIFAR, {"shortcut": "project"}, residual((16, 32, 64), 3, True), 272_474),
    ("resnet-cifar", CIFAR, {"depth": 20}, residual((16, 32, 64), 3, False), 269_722),
    ("resnet-32", CIFAR, {}, residual((16, 32, 64), 5, False), 464_154),
    ("resnet-56", CIFAR, {}, residual((16, 32, 64), 9, False), 853_018),
    ("resnet-56", CIFAR, {"norm": "group"}, residual((16, 32, 64), 9, False), 853_018),
    ("resnet-18", CIFAR, {}, residual((64, 128, 256, 512), 2, True), 11_173_962),
    ("wide-resnet", CIFAR, {"depth": 28, "widen": 10}, wide(28, 10), 36_479_194),
    ("wide-resnet", CIFAR, {"depth": 16, "widen": 4}, wide(16, 4), 2_748_890),
]


@pytest.mark.parametrize(("name", "shape", "options", "closed", "published"), PUBLISHED)
def test_the_count_is_the_published_one_and_its_closed_form(name, shape, options, closed, published):
    assert count(name, shape, **options) == closed == published


@pytest.mark.parametrize(("width", "heads", "published"), [(384, 6, 22_050_664), (768, 12, 86_567_656)])
def test_vit_small_grows_into_the_published_vits(width, heads, published):
    options = {"patch": 16, "width": width, "depth": 12, "heads": heads, "pool": "class"}
    # 14 x 14 patches, the class token and its position
    assert count("vit-small", IMAGENET, 1000, **options) == vit(width, 12, 196, 16, 1000) == published


def test_the_causal_transformer_grows_into_gpt_2():
    gpt2 = count("causal-transformer", (50257, 1024), 50257, width=768, depth=12, heads=12)
    assert gpt2 == (50257 + 1024) * 768 + blocks(768, 12) + norm(768) == 124_439_808


def test_speed_net_has_the_papers_two_million():
    maps = [(24, 64), (64, 64), (64, 256), (256, 256), (256, 256), (256, 256)]
    closed = conv(3, 24, 2) + sum(conv(a, b, 3) for a, b in maps) + 256 * 10  # normalisation has a shift only
    assert count("speed-net", CIFAR) == closed == 1_971_640


def test_small_conv_has_the_counts_of_its_docstring():
    maps = conv(1, 16, 3) + conv(16, 32, 3) + conv(32, 64, 3)
    assert count("small-conv", DIGITS) == maps + dense(64 * 2 * 2, 10) == 25_866
    assert count("small-conv", MNIST) == maps + dense(64 * 3 * 3, 10) == 29_066


def test_widths_multiply_channels():
    assert count("resnet-20", CIFAR, width=2) == residual((32, 64, 128), 3, False)
    assert count("resnet-18", CIFAR, width=0.25) == residual((16, 32, 64, 128), 2, True)
    assert count("conv-2", CIFAR, width=0.5) == conv(3, 32, 3) + conv(32, 32, 3) + dense(32 * 16**2, 128, 128, 10)
    assert count("lenet-5", MNIST, width=2) == conv(1, 12, 5) + conv(12, 32, 5) + dense(32 * 16, 240, 168, 10)
    assert count("vgg-11", CIFAR, width=1e-9) == conv(3, 1, 3) + 7 * conv(1, 1, 3) + 8 * norm(1) + dense(1, 10)


def test_cnn_9_has_the_layers_of_co_teachings_code():
    channels = (3, 128, 128, 128, 256, 256, 256, 512, 256, 128)
    layers = sum(conv(a, b, 3) + norm(b) for a, b in pairwise(channels))
    assert count("cnn-9", CIFAR) == layers + dense(128, 10) == 4_434_570
