"""Label noise: the law that is promised, the mask that is exact, the errors that teach."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from surplus.data import noise
from surplus.errors import InputError

MATRIX_NOISE = {
    "symmetric": {},
    "pairflip": {},
    "trid": {},
    "asymmetric": {"flips": "cifar10"},
    "uniform-resample": {},
    "random-labels": {},
    "permute": {},
}


def gen(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def some_labels(n: int, classes: int = 10, seed: int = 1) -> Tensor:
    return torch.randint(classes, (n,), generator=gen(seed))


def within_four_errors(labels: Tensor, noisy: Tensor, expected: Tensor) -> bool:
    classes = len(expected)
    count = labels.bincount(minlength=classes).double().unsqueeze(1)
    error = (expected * (1 - expected) / count).sqrt()
    return bool(((noise.empirical_transition(labels, noisy, classes) - expected).abs() <= 4 * error + 1e-12).all())


@pytest.mark.parametrize("name", MATRIX_NOISE)
@pytest.mark.parametrize("rate", [0.1, 0.4, 1.0])
def test_observed_transitions_lie_within_four_binomial_errors_of_the_promised_ones(name, rate):
    labels = some_labels(40_000)
    noisy = noise.corrupt_labels(name, labels, rate, 10, gen(), **MATRIX_NOISE[name])
    assert torch.allclose(noisy.transition.sum(1), torch.ones(10, dtype=torch.float64))
    assert within_four_errors(labels, noisy.labels, noisy.transition)
    assert torch.equal(noisy.changed, noisy.labels != labels)


@pytest.mark.parametrize("name", [*MATRIX_NOISE, "instance-dependent"])
def test_same_seed_same_labels_and_another_seed_others_and_the_argument_is_left_alone(name):
    labels = some_labels(500)
    before = labels.clone()
    options = MATRIX_NOISE.get(name, {"inputs": torch.rand(500, 12, generator=gen(3))})
    one, same, other = (noise.corrupt_labels(name, labels, 0.4, 10, gen(s), **options) for s in (5, 5, 6))
    assert torch.equal(one.labels, same.labels) and not torch.equal(one.labels, other.labels)
    assert torch.equal(labels, before)
    assert one.labels.dtype == labels.dtype and one.changed.dtype == torch.bool


@pytest.mark.parametrize("name", [*MATRIX_NOISE, "instance-dependent"])
def test_rate_zero_changes_nothing(name):
    labels = some_labels(200)
    options = MATRIX_NOISE.get(name, {"inputs": torch.rand(200, 3, generator=gen())})
    noisy = noise.corrupt_labels(name, labels, 0.0, 10, gen(), **options)
    assert torch.equal(noisy.labels, labels) and not noisy.changed.any() and noisy.rate == 0


def test_resampling_four_in_ten_of_ten_classes_flips_36_percent():
    noisy = noise.uniform_resample(some_labels(50_000), 0.4, 10, gen())
    assert abs(noisy.rate - 0.36) < 4 * (0.36 * 0.64 / 50_000) ** 0.5
    assert torch.allclose(1 - noisy.transition.diagonal(), torch.full((10,), 0.36, dtype=torch.float64))


def test_exact_resampling_leaves_all_but_the_asked_number_alone():
    labels = torch.zeros(1000, dtype=torch.int64)
    flips = [noise.uniform_resample(labels, 0.29, 1000, gen(s), exact=True).changed.sum().item() for s in range(5)]
    assert max(flips) <= 290 and min(flips) >= 285  # a thousandth of 290 redraws returns the true label


@given(
    rate=st.floats(0, 1),
    classes=st.integers(2, 12),
    n=st.integers(0, 80),
    name=st.sampled_from(["symmetric", "pairflip", "trid"]),
)
def test_an_exact_count_is_exact_in_every_class(rate, classes, n, name):
    labels = some_labels(n, classes)
    noisy = noise.corrupt_labels(name, labels, rate, classes, gen(), exact=True)
    for k in range(classes):
        members = labels == k
        assert abs(noisy.changed[members].sum().item() - rate * members.sum().item()) <= 0.5 + 1e-6
    assert n == 0 or (noisy.labels.min() >= 0 and noisy.labels.max() < classes)


def test_symmetric_matrix_by_hand():
    noisy = noise.symmetric(some_labels(9, 3), 0.5, 3, gen())
    assert noisy.transition.tolist() == [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]


def test_pairflip_and_trid_matrices_by_hand():
    labels = some_labels(9, 3)
    pair = noise.pairflip(labels, 0.25, 3, gen()).transition
    assert pair.tolist() == [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]]
    trid = noise.trid(labels, 0.5, 3, gen()).transition
    assert trid.tolist() == [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]
    assert noise.trid(labels % 2, 0.5, 2, gen()).transition.tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    "flips, moves",
    [
        ("mnist", "2>7 3>8 5>6 6>5 7>1"),
        ("fashion", "0>6 2>4 5>7 7>5"),
        ("cifar10", "2>0 3>5 4>7 5>3 9>1"),
    ],
)
def test_asymmetric_noise_at_rate_one_moves_exactly_the_named_classes(flips, moves):
    labels = torch.arange(10)
    noisy = noise.asymmetric(labels, 1.0, 10, gen(), flips=flips)
    seen = [f"{a}>{b}" for a, b in zip(labels.tolist(), noisy.labels.tolist(), strict=True) if a != b]
    assert " ".join(seen) == moves


def test_asymmetric_cifar10_corrupts_half_the_rate_overall():
    labels = torch.arange(10).repeat(100)
    assert noise.asymmetric(labels, 0.4, 10, gen(), flips="cifar10", exact=True).rate == pytest.approx(0.2)


def test_cifar100_superclasses_are_a_partition_and_flips_stay_inside_them():
    groups = noise.CIFAR100_SUPERCLASSES
    assert sorted(k for group in groups for k in group) == list(range(100)) and {len(g) for g in groups} == {5}
    coarse = {k: i for i, group in enumerate(groups) for k in group}
    labels = torch.arange(100)
    moved = noise.asymmetric(labels, 1.0, 100, gen(), flips="cifar100").labels
    assert sorted(moved.tolist()) == list(range(100)) and (moved != labels).all()
    assert all(coarse[a] == coarse[b] for a, b in zip(labels.tolist(), moved.tolist(), strict=True))
    assert (
        coarse[0] == coarse[51] == 4 and coarse[4] == coarse[95] == 0 and coarse[99] == 13
    )  # apple, mushroom; beaver, whale; worm


def test_a_map_of_ones_own_serves_as_flips():
    labels = torch.tensor([0, 1, 2, 0])
    noisy = noise.asymmetric(labels, 1.0, 3, gen(), flips={0: 2})
    assert noisy.labels.tolist() == [2, 1, 2, 2] and noisy.changed.tolist() == [True, False, False, True]


@given(rate=st.floats(0, 1), n=st.integers(1, 60))
def test_permuting_keeps_class_counts_and_moves_at_most_the_share(rate, n):
    labels = some_labels(n, 4)
    noisy = noise.permute(labels, rate, 4, gen())
    assert torch.equal(noisy.labels.sort().values, labels.sort().values)
    assert noisy.changed.sum().item() <= rate * n + 1e-6


def test_permuting_all_of_two_examples_swaps_them_half_of_the_time():
    labels = torch.tensor([0, 1])
    assert noise.permute(labels, 1.0, 2, gen()).transition.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    swaps = sum(noise.permute(labels, 1.0, 2, gen(s)).changed.all().item() for s in range(400))
    assert abs(swaps - 200) < 4 * 10


@pytest.mark.parametrize("rate, mean", [(0.2, 0.2055), (0.4, 0.4000)])
def test_instance_dependent_noise_flips_at_the_mean_of_the_cut_normal_law(rate, mean):
    n = 20_000
    noisy = noise.instance_dependent(some_labels(n), rate, 10, gen(), inputs=torch.rand(n, 20, generator=gen(2)))
    assert abs(noisy.rate - mean) < 4 * (mean * (1 - mean) / n) ** 0.5
    assert noisy.transition is None


def test_chances_follow_the_cut_normal_law():
    from scipy.stats import kstest, truncnorm

    q = noise._chances(0.2, 0.1, 4000, gen())
    assert q.min() >= 0 and q.max() <= 1
    assert kstest(q.numpy(), truncnorm(-2, 8, loc=0.2, scale=0.1).cdf).pvalue > 1e-3


def test_like_inputs_of_one_class_are_taken_for_the_same_wrong_class():
    n = 2000
    labels, inputs = torch.zeros(n, dtype=torch.int64), torch.full((n, 400), 0.5)
    noisy = noise.instance_dependent(labels, 0.5, 10, gen(), inputs=inputs)
    wrong = noisy.labels[noisy.changed]
    assert wrong.bincount().max() > 0.9 * len(
        wrong
    )  # the softmax of a random projection of many pixels is nearly one-hot


def test_gumbel_draws_have_softmax_frequencies():
    p = torch.tensor([0.0, 0.1, 0.3, 0.6])
    drawn = noise._sample_rows(p.log().expand(20_000, 4), gen()).bincount(minlength=4) / 20_000
    assert ((drawn - p).abs() <= 4 * (p * (1 - p) / 20_000).sqrt()).all()


def test_human_labels_come_with_their_observed_transition():
    noisy = noise.human(torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 0]), 3)
    assert noisy.changed.tolist() == [False, False, False, True, False, True]
    assert noisy.transition[:2].tolist() == [[0.75, 0.25, 0], [0.5, 0.5, 0]] and noisy.transition[2].isnan().all()
    assert noisy.rate == pytest.approx(1 / 3)


def test_a_matrix_of_ones_own_is_followed():
    labels = some_labels(30_000, 3)
    P = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.05, 0.45, 0.5]], dtype=torch.float64)
    assert within_four_errors(labels, noise.from_transition(labels, P, gen()).labels, P)
    exact = noise.from_transition(labels, P, gen(), exact=True)
    for k, stays in enumerate((0.7, 1.0, 0.5)):
        members = labels == k
        assert exact.changed[members].sum().item() == round((1 - stays) * members.sum().item())


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(InputError, match=r"lies in \[0, 1\]"):
        noise.symmetric(some_labels(4), rate, 10, gen())


def test_labels_out_of_range_are_named():
    with pytest.raises(InputError, match="row 1: 7, row 3: -1"):
        noise.pairflip(torch.tensor([0, 7, 1, -1]), 0.1, 3, gen())


@pytest.mark.parametrize(
    "labels", [torch.zeros(4), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)]
)
def test_labels_of_another_type_or_shape_are_refused(labels):
    with pytest.raises(InputError, match="one integer per example"):
        noise.symmetric(labels, 0.1, 3, gen())


def test_other_misuses_are_refused():
    labels = some_labels(4, 3)
    with pytest.raises(InputError, match="at least 2"):
        noise.symmetric(labels, 0.1, 1, gen())
    with pytest.raises(InputError, match="mnist"):
        noise.asymmetric(labels, 0.1, 3, gen(), flips="mnits")
    with pytest.raises(InputError, match="run from 0 to 2"):
        noise.asymmetric(labels, 0.1, 3, gen(), flips={0: 5})
    with pytest.raises(InputError, match="one row of inputs"):
        noise.instance_dependent(labels, 0.1, 3, gen(), inputs=torch.rand(3, 2))
    with pytest.raises(InputError, match="standard deviation"):
        noise.instance_dependent(labels, 0.1, 3, gen(), inputs=torch.rand(4, 2), spread=0)
    with pytest.raises(InputError, match="sum to 1"):
        noise.from_transition(labels, torch.ones(3, 3), gen())
    with pytest.raises(InputError, match=r"\(K, K\)"):
        noise.from_transition(labels, torch.ones(3), gen())
    with pytest.raises(InputError, match="same examples"):
        noise.human(labels, labels[:2], 3)
    with pytest.raises(InputError, match="not labels"):
        noise.corrupt_labels("contrast", labels, 0.1, 3, gen())
