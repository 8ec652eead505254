from __future__ import annotations

import itertools
import math

import pytest
import torch

from surplus.errors import InputError
from surplus.registry import find
from surplus.theory import draw_frequencies, long_tail, simulate_long_tail, singleton_floor, zipf
from surplus.theory.long_tail import excess_error


def test_two_frequencies_by_hand():
    want = torch.tensor([0.07280962, 0.11899943, 0.17027486], dtype=torch.float64)
    torch.testing.assert_close(long_tail([0.2, 0.05], 10, counts=3).tau, want, atol=1e-8, rtol=0)
    want = torch.tensor([0.0035922, 0.0082291], dtype=torch.float64)
    torch.testing.assert_close(long_tail([0.01, 0.001], 100, counts=2).tau, want, atol=1e-7, rtol=0)


def test_a_thousand_kinds_by_zipf():
    tail = long_tail(zipf(1000), 1000)
    assert (1000 * tail.tau).tolist() == pytest.approx([0.3138, 0.5588, 1.1334, 2.0157, 3.0010, 4.0000], abs=1e-4)
    assert tail.kinds[1].item() / 1000 == pytest.approx(0.2091818, abs=1e-7)
    assert tail.cost[1].item() == pytest.approx(0.1168928, abs=1e-7)


def test_fifty_thousand_kinds_by_zipf():
    tail = long_tail(zipf(50000), 50000, counts=4)
    assert (50000 * tail.tau).tolist() == pytest.approx([0.2285, 0.4717, 1.0877, 2.007], abs=1e-3)
    assert tail.kinds[1].item() / 50000 == pytest.approx(0.1704, abs=1e-4)
    assert tail.cost[1].item() == pytest.approx(0.0804, abs=1e-4)


def test_without_a_tail_counts_tell_nothing():
    tail = long_tail(torch.full((1000,), 1e-3), 1000)
    torch.testing.assert_close(tail.tau, torch.full((6,), 1e-3).double())
    assert tail.kinds[1].item() / 1000 == pytest.approx(0.3680635, abs=1e-7)
    assert tail.cost[0].item() == pytest.approx(0.3676954, abs=1e-7)


def test_memorising_matters_under_a_long_tail_and_not_without_rare_kinds():
    n = 50000
    no_tail = long_tail(torch.full((n // 20,), 20 / n), n)
    assert n * no_tail.tau[1].item() == pytest.approx(20)
    assert long_tail(zipf(n), n).cost[1] > 10 * no_tail.cost[1]


def test_the_kinds_of_all_counts_are_all_kinds_and_their_mass_is_one():
    tail = long_tail(zipf(7), 12, counts=13)
    assert tail.kinds.sum().item() == pytest.approx(7)
    assert (torch.arange(13) * tail.kinds).sum().item() == pytest.approx(12)
    assert tail.cost.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("redraw", [True, False])
def test_the_formula_is_what_sampling_finds(redraw):
    chance = torch.Generator().manual_seed(0)
    alpha = draw_frequencies(zipf(1000), 300, chance) if redraw else zipf(1000)
    tail, seen = long_tail(alpha, 1000), simulate_long_tail(zipf(1000), 1000, redraw=redraw)
    assert ((seen.tau.mean - tail.tau).abs() < 4 * seen.tau.stderr + 0.01 * tail.tau).all()
    assert ((seen.kinds.mean - tail.kinds).abs() < 4 * seen.kinds.stderr + 0.01 * tail.kinds).all()
    assert abs(seen.cost.mean - tail.cost[1]) < 3 * seen.cost.stderr + 0.01 * tail.cost[1]


def test_zipf_drawn_anew_has_the_price_of_singletons_found_by_monte_carlo():
    alpha = draw_frequencies(zipf(1000), 1000, torch.Generator().manual_seed(1))
    tail = long_tail(alpha, 1000, counts=2)
    assert 1000 * tail.tau[1].item() == pytest.approx(0.568, abs=0.006)
    assert tail.kinds[1].item() == pytest.approx(210.6, rel=0.02)
    assert tail.cost[1].item() == pytest.approx(0.1195, rel=0.02)


@pytest.mark.parametrize("labels", [None, 2, 10])
def test_a_learner_that_guesses_on_singletons_pays_tau_1_for_each_that_it_gets_wrong(labels):
    tail = long_tail(zipf(1000), 1000, counts=2)
    seen = simulate_long_tail(zipf(1000), 1000, counts=2, samples=300, seed=1, redraw=False, labels=labels)
    wrong = 1 - 1 / labels if labels else 1.0
    assert abs(seen.price.mean - tail.tau[1]) < 3 * seen.price.stderr
    assert abs(seen.unfitted.mean - wrong * tail.kinds[1]) < 4 * seen.unfitted.stderr
    assert abs(seen.cost.mean - excess_error(tail, [0, wrong * tail.kinds[1]])) < 3 * seen.cost.stderr
    assert seen.price.stderr < 0.03 * seen.price.mean


def test_the_bound_is_reached_by_every_sample_of_a_small_domain_taken_together():
    """All orders of three frequencies and all samples of four; the learner errs on kinds seen once and on kind 0."""
    prior, n = [0.5, 0.3, 0.2], 4
    excess, errors = 0.0, [0.0] * (n + 1)
    for order in itertools.permutations(prior):
        for sample in itertools.product(range(3), repeat=n):
            chance = math.prod(order[kind] for kind in sample) / 6
            for kind in range(3):
                count = sample.count(kind)
                if count and (count == 1 or kind == 0):  # kind 0 is any kind: its frequency is a random one
                    excess += chance * order[kind]
                    errors[count] += chance
    tail = long_tail(prior, n, counts=n + 1)
    assert excess_error(tail, errors).item() == pytest.approx(excess, abs=1e-12)


def test_clusters_pay_as_far_as_fresh_members_follow_the_seen_ones():
    tail = long_tail(zipf(1000), 1000, counts=3)
    errors = torch.tensor([500.0, 200.0, 30.0])
    one, two = tail.tau[1:] * errors[1:]
    assert excess_error(tail, errors).item() == pytest.approx((one + two).item())
    assert excess_error(tail, errors, [1, 0.5, 0.25]).item() == pytest.approx((0.5 * one + 0.25 * two).item())
    assert excess_error(tail, errors, 0.0) == 0
    assert excess_error(tail, torch.stack([errors, 2 * errors])).shape == (2,)


def test_a_random_sum_matters_when_a_few_kinds_dominate():
    weights = torch.tensor([0.09] * 10 + [1e-4] * 1000)
    listed = long_tail(weights / weights.sum(), 1000)
    drawn = long_tail(draw_frequencies(weights, 400, torch.Generator().manual_seed(0)), 1000)
    assert (1000 * listed.tau[:2]).tolist() == pytest.approx([0.1, 0.1], abs=1e-4)
    assert (1000 * drawn.tau[:2]).tolist() == pytest.approx([0.109, 0.121], rel=0.06)


def test_draws_are_the_list_in_proportion():
    alpha = draw_frequencies([1.0, 3.0], 50, torch.Generator().manual_seed(0), size=400)
    assert alpha.shape == (50, 400)
    torch.testing.assert_close(alpha.sum(1), torch.ones(50).double())
    torch.testing.assert_close(alpha.amax(1) / alpha.amin(1), torch.full((50,), 3.0).double())


def test_the_lower_bound_lies_below():
    for size, n in ((1000, 1000), (1000, 300), (5000, 2000)):
        assert 0 < singleton_floor(zipf(size), n) <= long_tail(zipf(size), n).tau[1]


def test_the_lower_bound_is_a_fifth_of_the_mass_of_middling_frequencies():
    """n = 10: the middle is [1/30, 1/5], which holds .05 and .2 but neither .02 nor .5."""
    assert singleton_floor([0.5, 0.2, 0.05, 0.02], 10) == pytest.approx(0.25 / 50)
    alpha = torch.linspace(1 / 300, 2 / 100, 50, dtype=torch.float64)
    assert (alpha * (-100 * alpha).exp()).min() >= 0.238 / 100  # what the bound rests on


def test_impossible_counts_have_no_frequency_and_cost_nothing():
    tail = long_tail([1.0, 0.0], 3, counts=4)
    assert tail.tau[1].isnan()
    assert tail.kinds.tolist() == pytest.approx([1, 0, 0, 1])
    assert tail.cost.tolist() == pytest.approx([0, 0, 0, 1])
    assert not math.isnan(simulate_long_tail([1.0, 1.0], 1, counts=1, samples=5).cost.mean)


def test_a_bad_input_is_refused_with_the_rule():
    with pytest.raises(InputError, match="divide the weights by their sum"):
        long_tail([3.0, 1.0], 10)
    with pytest.raises(InputError, match=r"\[1, 4\]"):
        long_tail([0.5, 0.5], 3, counts=6)
    with pytest.raises(InputError, match="positive"):
        draw_frequencies([0.0, 1.0], 2, torch.Generator())
    tail = long_tail([0.5, 0.5], 3, counts=3)
    with pytest.raises(InputError, match="each of the 3 counts"):
        excess_error(tail, [1.0, 2.0])
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        excess_error(tail, [0.0, 1.0, 1.0], 1.5)


def test_it_is_in_the_catalogue():
    assert find("prediction", "long-tail").fn is long_tail
