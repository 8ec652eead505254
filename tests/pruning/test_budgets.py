"""Layer densities and schedules against the numbers of the papers' formulas."""

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.pruning import allocate, density_schedule, spread
from surplus.space import WeightSpace

LENET = [(300, 784), (100, 300), (10, 100)]
CONVS = [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (10, 128)]


@pytest.mark.parametrize(
    ("shapes", "density", "expected"),
    [
        (LENET, 0.1, [0.07957, 0.23019, 1]),
        (LENET, 0.02, [0.01539, 0.04453, 0.36740]),
        (LENET, 0.5, [0.4341, 1, 1]),
        (CONVS, 0.5, [1, 0.58895, 0.43512, 1]),
        (CONVS, 0.1, [1, 0.09144, 0.06756, 1]),
    ],
)
def test_erk_fills_small_layers_and_solves_the_rest_again(shapes, density, expected):
    assert spread(shapes, density, "erk") == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize("rule", ["uniform", "erk", "er", "smart"])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.99, 1.0])
def test_every_rule_spends_exactly_the_density(rule, density):
    sizes = [torch.Size(s).numel() for s in CONVS]
    shares = spread(CONVS, density, rule)
    assert sum(s * n for s, n in zip(shares, sizes, strict=True)) == pytest.approx(density * sum(sizes))
    assert all(0 <= s <= 1 + 1e-12 for s in shares)


def test_er_ignores_the_kernel():
    wide, narrow = spread([(8, 4, 3, 3), (8, 16, 3, 3)], 0.1, "er")
    assert wide / narrow == pytest.approx((12 / 32) / (24 / 128))


def test_the_smart_ratio_falls_as_twelve_six_and_keeps_three_tenths_of_the_last_layer():
    shares = spread([(100, 100), (100, 100), (10, 100)], 0.1, "smart")
    assert shares[0] / shares[1] == pytest.approx(12 / 6)
    assert shares[2] == 0.3
    with pytest.raises(InputError, match=r"at least 0\.01429"):
        spread([(100, 100), (100, 100), (10, 100)], 0.005, "smart")


def test_allocate_names_the_tensors_and_leaves_excluded_ones_out():
    space = WeightSpace(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2)))
    assert list(allocate(space, 0.3, "uniform", exclude=("3",))) == ["0.weight", "2.weight"]
    with pytest.raises(InputError, match="no prunable layer is called 'heat'"):
        allocate(space, 0.3, exclude=("heat",))
    with pytest.raises(InputError, match="every prunable layer is excluded"):
        allocate(space, 0.3, exclude=("0", "2", "3"))


def test_schedules_end_at_the_density():
    assert density_schedule(0.01, 4) == pytest.approx((0.01**0.25, 0.1, 0.01**0.75, 0.01))
    assert density_schedule(0.2, 4, "linear") == pytest.approx((0.8, 0.6, 0.4, 0.2))
    with pytest.raises(InputError, match="at least one round"):
        density_schedule(0.2, 0)
    with pytest.raises(InputError, match="no density schedule is called 'cubic'"):
        density_schedule(0.2, 3, "cubic")


@pytest.mark.parametrize("density", [0, -0.1, 1.1, float("nan")])
def test_a_density_outside_its_range_is_refused(density):
    with pytest.raises(InputError, match=r"lies in \(0, 1\]"):
        spread(LENET, density)
