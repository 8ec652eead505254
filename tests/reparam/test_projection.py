from __future__ import annotations

import pytest
import torch
from scipy.linalg import hadamard

from surplus.errors import InputError
from surplus.reparam import Dense, Fastfood, RandomSubspace, Sparse, fwht
from surplus.space import generator

LIKE = torch.zeros(1000, dtype=torch.float64)
DRAWS = {"dense": Dense.draw, "sparse": Sparse.draw, "fastfood": Fastfood.draw}


def matrix(projection) -> torch.Tensor:
    """P itself, (D, d)."""
    return projection.forward(torch.eye(projection.size, dtype=torch.float64)).T


def test_the_transform_of_the_textbook_example():
    x = torch.tensor([1.0, 0, 1, 0, 0, 1, 1, 0])
    assert fwht(x).tolist() == [4, 2, 0, -2, 0, 2, 0, 2]


@pytest.mark.parametrize("length", [1, 2, 8, 64, 128, 4096])
def test_the_transform_is_the_hadamard_matrix(length):
    x = torch.randn(3, length, generator=generator(0), dtype=torch.float64)
    expected = x @ torch.from_numpy(hadamard(length)).double()
    torch.testing.assert_close(fwht(x), expected)
    torch.testing.assert_close(fwht(fwht(x)), length * x)  # its own inverse, up to the normalisation


def test_the_transform_needs_a_power_of_two():
    with pytest.raises(InputError, match="power of two; got 12"):
        fwht(torch.zeros(12))


def test_fastfood_is_the_product_of_its_factors():
    rows, size = 13, 5
    food = Fastfood.draw(torch.zeros(rows, dtype=torch.float64), size, generator(0))
    h = torch.from_numpy(hadamard(16)).double()
    gather = torch.eye(16, dtype=torch.float64)[food.order]
    full = h @ food.gauss.diag() @ gather @ h @ food.signs.diag()
    expected = full[:rows, :size] / (food.gauss.norm() * rows**0.5)
    torch.testing.assert_close(matrix(food), expected)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_columns_have_unit_length_over_the_whole_vector(kind):
    p = matrix(DRAWS[kind](LIKE, 50, generator(0)))
    torch.testing.assert_close(p.norm(dim=0), torch.ones(50, dtype=torch.float64))


def test_fastfood_columns_have_unit_length_in_the_mean_and_are_nearly_orthogonal():
    p = matrix(Fastfood.draw(LIKE, 50, generator(0)))
    lengths = p.norm(dim=0)
    assert abs(lengths.mean() - 1) < 0.01
    assert lengths.std() < 0.01
    assert (p.T @ p - torch.diag(lengths**2)).abs().max() < 0.25


@pytest.mark.parametrize("kind", DRAWS)
def test_the_map_is_isotropic(kind):
    draws = torch.stack([matrix(DRAWS[kind](LIKE[:20], 2, generator(seed))) for seed in range(2000)])
    assert draws.mean(0).abs().max() < 5 * (20 * 2000) ** -0.5  # five standard errors of one entry
    assert (20 * draws.square().mean(0) - 1).abs().max() < 0.2


def test_a_sparse_column_holds_about_root_d_entries_of_one_size():
    sparse = Sparse.draw(LIKE, 300, generator(0))
    counts = sparse.columns.bincount()
    assert abs(counts.double().mean() - 1000**0.5) < 4 * (1000**0.5 / 300) ** 0.5
    torch.testing.assert_close(sparse.values.abs(), counts[sparse.columns].double() ** -0.5)
    assert len(torch.stack([sparse.rows, sparse.columns]).unique(dim=1).T) == len(sparse.values)  # no cell twice
    assert abs((sparse.values > 0).double().mean() - 0.5) < 0.03


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_sparse_column_of_zeros_is_redrawn(rows):
    p = matrix(Sparse.draw(LIKE[:rows], 200, generator(1)))
    torch.testing.assert_close(p.norm(dim=0), torch.ones(200, dtype=torch.float64))


@pytest.mark.parametrize("kind", DRAWS)
def test_one_seed_gives_one_map_in_every_precision(kind):
    low, high = (matrix_in(DRAWS[kind], dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(low.double(), high, atol=1e-6, rtol=1e-5)


def matrix_in(draw, dtype):
    projection = draw(LIKE.to(dtype), 5, generator(3))
    columns = projection.forward(torch.eye(5, dtype=dtype))
    assert columns.dtype == dtype
    return columns


def test_training_begins_at_theta0_and_a_unit_step_is_a_unit_step():
    theta0 = torch.randn(1000, generator=generator(0), dtype=torch.float64)
    subspace = RandomSubspace(theta0, 10, "dense", seed=4)
    z = subspace.start()
    assert torch.equal(subspace.to_theta(z), theta0)
    z[3] = 1
    assert (subspace.to_theta(z) - theta0).norm().item() == pytest.approx(1)


def test_the_seed_draws_the_map():
    theta0 = torch.zeros(100)
    z = torch.ones(4)
    one, same, other = (RandomSubspace(theta0, 4, seed=s).to_theta(z) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_what_a_random_subspace_refuses():
    with pytest.raises(InputError, match="from 1 to P = 10; got 11"):
        RandomSubspace(torch.zeros(10), 11)
    with pytest.raises(InputError, match="did you mean fastfood"):
        RandomSubspace(torch.zeros(10), 2, "fastfod")
    with pytest.raises(InputError, match=r"one point.*\(2, 10\)"):
        RandomSubspace(torch.zeros(2, 10), 2)
