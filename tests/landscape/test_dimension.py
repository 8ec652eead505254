from __future__ import annotations

import math

import pytest
import torch

from surplus.errors import InputError
from surplus.landscape import intrinsic_dimension
from surplus.registry import find
from surplus.reparam import RandomSubspace

SEEDS = range(1, 6)  # not 0: its sparse map sums to small integers that happen to form a singular 10 x 10 matrix


def ramp(d: int) -> list[float]:
    """Three seeds around d / 100."""
    return [d / 100 - 0.05, d / 100, d / 100 + 0.05]


def toy(d: int, seed: int, kind: str = "dense") -> float:
    """The least loss of ten sums of 100 weights that should be 1 to 10, over theta = P z with z (d,)."""
    subspace = RandomSubspace(torch.zeros(1000, dtype=torch.float64), d, kind, seed=seed)
    columns = subspace.to_theta(torch.eye(d, dtype=torch.float64))  # (d, 1000)
    sums = columns.unflatten(1, (10, 100)).sum(-1).T  # (10, d)
    target = torch.arange(1.0, 11, dtype=torch.float64)
    z = torch.linalg.lstsq(sums, target[:, None], driver="gelsd").solution
    return float((sums @ z - target[:, None]).square().sum())


@pytest.mark.parametrize("kind", ["dense", "sparse", "fastfood"])
def test_ten_constraints_have_intrinsic_dimension_ten(kind):
    losses = {d: [toy(d, seed, kind) for seed in SEEDS] for d in (*range(1, 12), 20)}
    found = intrinsic_dimension(lambda d: [math.exp(-loss) for loss in losses[d]], list(losses), baseline=1.0)
    assert found.dimension == 10
    assert found.per_seed == (10,) * 5
    assert max(max(losses[d]) for d in (10, 11, 20)) < 1e-12


def test_below_ten_dimensions_the_dense_toy_stays_above_one():
    assert min(toy(d, seed) for d in range(1, 10) for seed in range(5)) > 1


def test_the_answer_is_the_first_dimension_that_reaches_the_threshold():
    found = intrinsic_dimension(ramp, [10, 50, 90, 120], baseline=0.8, share=0.9)
    assert found.threshold == pytest.approx(0.72)
    assert found.dimension == 90
    assert found.per_seed == (90, 90, 90)
    assert found.points[50].mean.item() == pytest.approx(0.5)
    assert found.points[50].stderr.item() == pytest.approx(0.05 / 3**0.5)
    assert found.points[50].repeats == 3


def test_each_seed_has_its_own_answer():
    found = intrinsic_dimension(ramp, [66, 71, 75, 78], baseline=1.0, share=0.7)
    assert found.dimension == 71
    assert found.per_seed == (75, 71, 66)
    assert intrinsic_dimension(ramp, [66], baseline=1.0, share=0.7).per_seed == (None, None, 66)


def test_no_dimension_may_be_enough():
    for search in ("grid", "bisect"):
        assert intrinsic_dimension(ramp, [1, 2, 3], baseline=1.0, search=search).dimension is None


def test_the_grid_is_tried_in_the_order_given_and_once_each():
    order = []
    found = intrinsic_dimension(lambda d: order.append(d) or ramp(d), [50, 10, 90, 50], baseline=1.0, share=0.5)
    assert order == [50, 10, 90]
    assert found.dimension == 50
    assert found.grid == tuple(found.points) == (10, 50, 90)


@pytest.mark.parametrize("share", [0.005, 0.3, 0.31, 0.9, 1.0])
def test_bisection_finds_the_same_with_fewer_runs(share):
    grid = range(1, 101)
    tried = []
    found = intrinsic_dimension(lambda d: tried.append(d) or ramp(d), grid, baseline=1.0, share=share, search="bisect")
    assert found.dimension == intrinsic_dimension(ramp, grid, baseline=1.0, share=share).dimension
    assert len(tried) == len(set(tried)) <= 7
    assert list(found.points) == sorted(tried)


def test_a_missing_run_does_not_count_and_none_at_all_is_a_failure():
    runs = {1: [math.nan, 1.0], 2: [math.nan, math.nan]}
    found = intrinsic_dimension(runs.__getitem__, [2, 1], baseline=1.0)
    assert found.dimension == 1
    assert found.per_seed == (None, 1)


def test_what_is_refused():
    with pytest.raises(InputError, match=r"at least 1; got \[0, 5\]"):
        intrinsic_dimension(ramp, [0, 5], baseline=1.0)
    with pytest.raises(InputError, match="at least 1"):
        intrinsic_dimension(ramp, [], baseline=1.0)
    with pytest.raises(InputError, match=r"positive baseline.*exp\(-loss\)"):
        intrinsic_dimension(ramp, [5], baseline=-3.0)
    with pytest.raises(InputError, match="did you mean bisect"):
        intrinsic_dimension(ramp, [5], baseline=1.0, search="bisection")
    with pytest.raises(InputError, match="d = 6 brought 2 of 1"):
        intrinsic_dimension(lambda d: [1.0] * (d - 4), [5, 6], baseline=1.0)


MEASURES = """barrier hessian-norm hessian-trace intrinsic-dimension sam-sharpness spectral-density top-eigenvalue
weight-matching"""


@pytest.mark.parametrize("name", MEASURES.split())
def test_the_catalogue_has_it(name):
    assert find("measure", name).paper
