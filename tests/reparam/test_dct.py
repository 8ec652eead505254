"""The cosine offset against scipy's transform and worked numbers; its coordinates against autograd, and trained."""

import numpy as np
import pytest
import torch
from scipy.fft import dct
from torch import nn

from surplus.errors import InputError
from surplus.pruning import random_mask
from surplus.reparam import stack
from surplus.reparam.dct import DctPlusSparse, cosine_matrix, cosine_weight
from surplus.space import WeightSpace, generator
from surplus.tasks import load
from surplus.training import Store, fit


def test_the_four_by_four_matrix_is_the_one_on_paper():
    rows = [
        [0.5, 0.653281, 0.5, 0.270598],
        [0.5, 0.270598, -0.5, -0.653281],
        [0.5, -0.270598, -0.5, 0.653281],
        [0.5, -0.653281, 0.5, -0.270598],
    ]
    torch.testing.assert_close(cosine_matrix(4, 4).T, torch.tensor(rows).double(), atol=1e-6, rtol=0)


def test_more_inputs_than_outputs_keep_the_first_coefficients():
    d = cosine_matrix(3, 2)
    expected = torch.tensor([[0.57735, 0.57735, 0.57735], [0.707107, 0, -0.707107]]).double()
    torch.testing.assert_close(d, expected, atol=1e-6, rtol=0)
    shown = torch.tensor([3.464102, -1.414214]).double()
    torch.testing.assert_close(d @ torch.tensor([1.0, 2, 3]).double(), shown, atol=1e-6, rtol=0)


def test_fewer_inputs_than_outputs_are_padded_with_zeros():
    d = cosine_matrix(2, 3)
    expected = torch.tensor([[0.57735, 0.57735], [0.707107, 0], [0.408248, -0.816497]]).double()
    torch.testing.assert_close(d, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(d.T @ d, torch.eye(2).double())


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 7), (20, 6), (6, 20), (64, 10)])
def test_the_matrix_is_the_transform_of_scipy_and_orthonormal(inputs, outputs):
    x = np.random.default_rng(0).standard_normal((5, inputs))
    padded = np.pad(x, ((0, 0), (0, max(outputs - inputs, 0))))
    d = cosine_matrix(inputs, outputs)
    np.testing.assert_allclose(x @ d.numpy().T, dct(padded, norm="ortho")[:, :outputs], atol=1e-12)
    small = d @ d.T if outputs <= inputs else d.T @ d
    torch.testing.assert_close(small, torch.eye(len(small)).double())


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "groups"),
    [(3, 8, (3, 3), 1), (4, 60, (3, 2), 1), (6, 4, (1, 1), 1), (4, 6, (3, 3), 2)],
)
def test_a_convolution_transforms_each_padded_patch_in_the_order_row_column_channel(channels, outputs, kernel, groups):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, 6, 5, generator=g, dtype=torch.float64)
    weight = cosine_weight((outputs, channels // groups, *kernel))
    found = nn.functional.conv2d(x, weight, groups=groups)
    per_group, length = outputs // groups, channels // groups * kernel[0] * kernel[1]
    c = channels // groups
    for out in range(outputs):
        part = slice((out // per_group) * c, (out // per_group + 1) * c)
        for row, column in [(0, 0), (2, 1)]:
            patch = x[1, part, row : row + kernel[0], column : column + kernel[1]].permute(1, 2, 0).flatten().numpy()
            padded = np.pad(patch, (0, max(outputs - length, 0)))
            assert found[1, out, row, column].item() == pytest.approx(dct(padded, norm="ortho")[out])


def net():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def coordinates(space, seed=0, density=0.2, **options):
    theta = space.init(seed).double()
    return DctPlusSparse(space, theta, random_mask(space, density, generator(seed, "support"), "epl"), **options)


@pytest.mark.parametrize("trainable", [True, False])
def test_training_starts_at_the_offset_with_no_sparse_weights(trainable):
    space = WeightSpace(lambda: net().double())
    r, theta = coordinates(space, trainable=trainable), space.init(0)
    parts = space.split(r.to_theta(r.start()))
    torch.testing.assert_close(parts["0.weight"], cosine_weight((4, 2, 3, 3)))
    torch.testing.assert_close(parts["4.weight"], cosine_matrix(16, 3))
    for name in ("0.bias", "1.weight", "1.bias", "4.bias"):
        assert torch.equal(parts[name], space.split(theta)[name])
    assert r.nonzeros == 24 and r.size == 2 * trainable + 24 + 4 + 8 + 3  # 0.2 of 72 + 48 weights


@pytest.mark.parametrize("trainable", [True, False])
def test_gradients_are_pulled_back_as_autograd_does(trainable):
    space = WeightSpace(lambda: net().double())
    parts = [coordinates(space, seed, trainable=trainable) for seed in range(3)]
    r, g = stack(parts), torch.Generator().manual_seed(0)
    z = torch.randn(3, r.size, generator=g, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, space.size, generator=g, dtype=torch.float64)
    (expected,) = torch.autograd.grad(r.to_theta(z), z, grad)
    torch.testing.assert_close(r.pullback(z, grad), expected)
    for part, row, theta, one, pulled in zip(parts, z, r.to_theta(z), grad, expected, strict=True):
        torch.testing.assert_close(part.to_theta(row), theta)
        torch.testing.assert_close(part.pullback(row, one), pulled)
    assert torch.equal(r.start(), torch.stack([p.start() for p in parts]))


def test_factors_scale_whole_layers_and_sparse_weights_stay_on_the_support():
    space = WeightSpace(lambda: net().double())
    r = coordinates(space)
    z = r.start()
    z[:2] = torch.tensor([2.0, -3.0])
    z[2 : 2 + r.nonzeros] = 1
    parts = space.split(r.to_theta(z))
    sparse = parts["0.weight"] - 2 * cosine_weight((4, 2, 3, 3)), parts["4.weight"] + 3 * cosine_matrix(16, 3)
    support = space.split(random_mask(space, 0.2, generator(0, "support"), "epl"))
    for s, name in zip(sparse, ("0.weight", "4.weight"), strict=True):
        torch.testing.assert_close(s, support[name].double(), atol=1e-12, rtol=0)


def test_named_layers_alone_are_built_of_cosines():
    space = WeightSpace(lambda: net().double())
    r = coordinates(space, layers=["0.weight"])
    parts = space.split(r.to_theta(r.start()))
    assert torch.equal(parts["4.weight"], space.split(space.init(0))["4.weight"])
    with pytest.raises(InputError, match=r"no prunable tensor is called '1\.weight'"):
        coordinates(space, layers=["1.weight"])


def test_what_does_not_fit_is_refused():
    space = WeightSpace(net)
    with pytest.raises(InputError, match="booleans; got"):
        DctPlusSparse(space, space.init(0), torch.ones(space.size))
    with pytest.raises(InputError, match="at least one input"):
        cosine_matrix(0, 3)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_replicas_train_alike_stacked_and_alone_and_only_on_the_support(tmp_path, optimiser):
    task = load("digits", "mlp", widths=(16,)).with_recipe(
        duration="12it", optimiser=optimiser, lr=0.01, weight_decay=1e-3, batch_size=32
    )
    make = lambda theta, seed: DctPlusSparse(task.space, theta, random_mask(task.space, 0.02, generator(seed), "epl"))
    runs = [
        fit(task, seeds=[3, 4], coordinates=make, execution=e, store=Store(tmp_path)) for e in ("stacked", "spread")
    ]
    torch.testing.assert_close(runs[0].theta, runs[1].theta, atol=2e-5, rtol=1e-4)
    for z, theta, seed in zip(runs[0].z, runs[0].theta, (3, 4), strict=True):
        support, parts = random_mask(task.space, 0.02, generator(seed), "epl"), task.space.split(theta)
        for i, block in enumerate(b for b in task.space.blocks if b.prunable):
            moved = (parts[block.name] - z[i] * cosine_weight(block.shape).float()).flatten().abs() > 1e-6
            assert moved.any() and not (moved & ~support[block.slice]).any()
            assert abs(float(z[i]) - 1) > 1e-4
