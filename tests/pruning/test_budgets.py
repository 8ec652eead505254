"""Layer densities and schedules against the numbers of the papers' formulas."""

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.pruning import allocate, density_schedule, random_mask, spread
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


@pytest.mark.parametrize("rule", ["uniform", "erk", "er", "smart", "epf", "epl"])
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


def test_equal_per_filter_gives_each_output_unit_the_same_number():
    shares = spread(LENET, 0.01, "epf")
    per_unit = [s * shape[1] for s, shape in zip(shares, LENET, strict=True)]
    assert per_unit == pytest.approx([0.01 * 266_200 / 410] * 3)


@pytest.mark.parametrize(
    ("density", "counts"),
    [
        (60 / 266_200, [20, 20, 20]),
        (62 / 266_200, [20, 20, 22]),  # the remainder goes to the last layer
        (0.01, [887, 887, 888]),
        (0.1, [12_810, 12_810, 1_000]),  # the last is full: the others share what is left
        (0.25, [35_550, 30_000, 1_000]),
    ],
)
def test_equal_per_layer_counts_whole_weights(density, counts):
    shares = spread(LENET, density, "epl")
    found = [s * a * b for s, (a, b) in zip(shares, LENET, strict=True)]
    assert found == pytest.approx(counts)


def test_equal_per_layer_hands_what_a_small_layer_cannot_take_to_the_last():
    found = [
        s * a * b
        for s, (a, b) in zip(
            spread([(4, 2), (30, 10), (20, 30)], 0.5, "epl"), [(4, 2), (30, 10), (20, 30)], strict=True
        )
    ]
    assert found == pytest.approx([8, 151, 295])  # 454 = 3 * 151 + 1, of which the first takes 8


def test_erk_cut_off_at_one_falls_short_of_the_density():
    shares = spread(LENET, 0.5, "erk-capped")
    scale = 0.5 * 266_200 / (1084 + 400 + 110)
    assert shares == pytest.approx([scale * 1084 / 235_200, 1, 1])  # 400 and 110 thousandths are cut off
    assert spread(LENET, 0.01, "erk-capped") == pytest.approx(spread(LENET, 0.01, "erk"))
    assert sum(s * a * b for s, (a, b) in zip(shares, LENET, strict=True)) < 0.5 * 266_200


def test_random_masks_count_exactly_under_equal_per_layer():
    space = WeightSpace(lambda: nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 256), nn.Linear(256, 10)))
    for each in (1, 20, 21, 500):
        mask = random_mask(space, 3 * each / 84_480, torch.Generator().manual_seed(0), "epl")
        assert [int(mask[b.slice].sum()) for b in space.blocks if b.prunable] == [each] * 3


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
