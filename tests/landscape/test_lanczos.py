from __future__ import annotations

import math

import pytest
import torch

from surplus.errors import InputError
from surplus.landscape import lanczos, spectral_density, top_eigenvalue
from surplus.space import generator

F64 = {"dtype": torch.float64}
ONE_TO_FIVE = torch.arange(1.0, 6, **F64)


def diagonal(values):
    return lambda v: values * v


def wishart(dim: int, samples: int) -> torch.Tensor:
    a = torch.randn(samples, dim, generator=generator(0), **F64)
    return a.T @ a / samples


def test_lanczos_on_one_to_five_is_the_worked_example():
    krylov = lanczos(diagonal(ONE_TO_FIVE), torch.ones(5, **F64), 5)
    torch.testing.assert_close(krylov.alpha, torch.full((5,), 3.0, **F64))
    torch.testing.assert_close(krylov.beta[:2], torch.tensor([2**0.5, 1.18322], **F64), atol=1e-5, rtol=0)
    assert krylov.beta[-1] == 0  # nothing is left over
    nodes, vectors = krylov.ritz()
    torch.testing.assert_close(nodes, ONE_TO_FIVE)
    torch.testing.assert_close(vectors[0].square(), torch.full((5,), 0.2, **F64))


def test_the_lanczos_relation_holds_and_the_basis_is_orthonormal():
    a = wishart(80, 40)
    krylov = lanczos(lambda v: a @ v, torch.randn(80, generator=generator(1), **F64), 35)  # past the first 32 rows
    q, t = krylov.basis, krylov.matrix
    torch.testing.assert_close(q @ q.T, torch.eye(35, **F64))
    rest = a @ q.T - q.T @ t
    torch.testing.assert_close(rest[:, :-1], torch.zeros(80, 34, **F64), atol=1e-10, rtol=0)
    torch.testing.assert_close(rest[:, -1].norm(), krylov.beta[-1])


def test_lanczos_stops_when_its_invariant_subspace_is_used_up():
    values = torch.tensor([2.0] * 10 + [5.0] * 10, **F64)
    krylov = lanczos(diagonal(values), torch.ones(20, **F64), 15)
    torch.testing.assert_close(krylov.ritz()[0], torch.tensor([2.0, 5.0], **F64))


def test_the_top_eigenvalues_are_those_of_the_dense_matrix():
    a = wishart(60, 90)
    top = top_eigenvalue(lambda v: a @ v, 60, generator(2), tol=1e-9, k=4, **F64)
    values, vectors = torch.linalg.eigh(a)
    torch.testing.assert_close(top.values, values[-4:].flip(0))
    overlap = (top.vectors @ vectors[:, -4:].flip(1)).abs()
    torch.testing.assert_close(overlap, torch.eye(4, **F64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [6, 10, 20])
def test_the_error_bar_is_the_residual_and_covers_the_truth(steps):
    a = wishart(200, 100)
    top = top_eigenvalue(lambda v: a @ v, 200, generator(3), tol=0, k=2, steps=steps, **F64)
    assert top.steps == steps
    residual = (top.vectors @ a - top.values[:, None] * top.vectors).norm(dim=1)
    torch.testing.assert_close(top.errors, residual, atol=1e-12, rtol=1e-6)
    nearest = (torch.linalg.eigvalsh(a)[:, None] - top.values).abs().amin(0)
    assert (nearest <= top.errors + 1e-12).all()


def test_a_loose_tolerance_takes_fewer_products():
    values = torch.linspace(0, 1, 500, **F64).square()
    steps = [top_eigenvalue(diagonal(values), 500, generator(4), tol=t, **F64).steps for t in (1e-1, 1e-3, 1e-6)]
    assert steps[0] < steps[1] < steps[2] < 200


def test_largest_means_most_positive():
    values = torch.tensor([-10.0, 1, 2, 3], **F64)
    assert top_eigenvalue(diagonal(values), 4, generator(5), **F64).values.item() == pytest.approx(3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_copies_of_one_eigenvalue_are_found(value):
    top = top_eigenvalue(lambda v: value * v, 7, generator(6), k=3, **F64)
    torch.testing.assert_close(top.values, torch.full((3,), value, **F64))
    torch.testing.assert_close(top.vectors @ top.vectors.T, torch.eye(3, **F64))


def test_float32_agrees_with_float64():
    a = wishart(300, 100)
    low = top_eigenvalue(lambda v: a.float() @ v, 300, generator(7), tol=1e-4, k=2)
    assert low.values.dtype == torch.float32
    torch.testing.assert_close(low.values.double(), torch.linalg.eigvalsh(a)[-2:].flip(0), rtol=1e-4, atol=0)


def test_k_is_refused_outside_the_matrix():
    for k in (0, 6):
        with pytest.raises(InputError, match=f"1..5; got {k}"):
            top_eigenvalue(diagonal(ONE_TO_FIVE), 5, generator(0), k=k)


def test_a_density_integrates_to_one_and_its_moments_are_traces():
    a = wishart(100, 200)
    density = spectral_density(lambda v: a @ v, 100, 40, 30, generator(8), **F64)
    area = torch.trapezoid(density.density.mean, density.grid)
    assert area.item() == pytest.approx(1, abs=1e-3)
    for power, exact in ((0, 1.0), (1, a.trace() / 100), (2, a.square().sum() / 100)):
        moment = density.moment(power)
        assert abs(moment.mean - exact) <= 4 * moment.stderr + 1e-12
    assert density.moment(1).stderr > 0


def test_a_wide_density_is_the_smoothed_spectrum():
    values = torch.cat([torch.zeros(900, **F64), torch.ones(100, **F64)])
    grid = torch.tensor([0.0, 0.5, 1.0], **F64)
    density = spectral_density(diagonal(values), 1000, 50, 10, generator(9), grid, width=0.1, **F64)
    peak = 1 / (0.1 * math.sqrt(2 * math.pi))
    assert density.density.mean.shape == (3,)
    assert (
        density.density.mean - torch.tensor([0.9, 0, 0.1]) * peak
    ).abs().max() < 4 * density.density.stderr.max() + 1e-4
    assert density.nodes.isnan().any()  # two eigenvalues: every probe stops early


def test_a_single_eigenvalue_has_a_density():
    density = spectral_density(lambda v: 3 * v, 10, 2, 5, generator(10), **F64)
    assert density.grid[density.density.mean.argmax()].item() == pytest.approx(3, rel=1e-3)
    assert density.density.mean.isfinite().all()


def test_a_density_needs_a_probe_and_a_step():
    with pytest.raises(InputError, match="probes=0"):
        spectral_density(diagonal(ONE_TO_FIVE), 5, 0, 3, generator(0))
