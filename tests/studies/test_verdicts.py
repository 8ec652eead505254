from __future__ import annotations

import math

import pytest
import torch

from surplus.stats import Interval
from surplus.studies import above, beats, exactly, exceeds, joint, not_above, over_seeds, smaller_by_sign, two_stderr
from surplus.studies.verdicts import within


def interval(low, high):
    return Interval((low + high) / 2, low, high, 0.95, 5)


def test_a_claim_of_more_holds_fails_or_stays_open_by_where_the_whole_interval_lies():
    assert above(interval(0.1, 0.3)) == "holds"
    assert above(interval(-0.3, -0.1)) == "fails"
    assert above(interval(-0.1, 0.3)) == "undecided"
    assert above(interval(0.1, 0.3), 0.5) == "fails"
    assert above(interval(math.nan, math.nan)) == "undecided"


def test_arms_that_never_differ_do_not_beat_each_other():
    assert beats("a", "b", "accuracy", [0.5, 0.6], [0.5, 0.6]).verdict == "fails"


def test_a_claim_of_nearness_fails_only_when_the_interval_lies_outside():
    assert within(interval(0.45, 0.55), 0.4, 0.6) == "holds"
    assert within(interval(0.35, 0.55), 0.4, 0.6) == "undecided"
    assert within(interval(0.65, 0.75), 0.4, 0.6) == "fails"
    assert within(interval(0.1, 0.2), 0.4, 0.6) == "fails"
    assert within(exactly(0.6951), 0.685, 0.705) == "holds"
    assert within(exactly(0.68), 0.685, 0.705) == "fails"


def test_no_gain_is_contradicted_only_by_a_gain():
    assert not_above(interval(-0.2, 0.1)) == "holds"
    assert not_above(interval(-0.2, -0.1)) == "holds"
    assert not_above(interval(0.1, 0.2)) == "fails"
    assert not_above(two_stderr([0.5], [0.4])) == "undecided"


def test_two_standard_errors_of_a_paired_difference():
    i = two_stderr([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])  # differences 1, 2, 3
    assert i.value == 2 and i.repeats == 3
    assert i.high - i.value == pytest.approx(2 / 3**0.5)
    assert i.level == pytest.approx(1 - 2 * 0.0917517, abs=1e-6)  # Student's t with 2 degrees of freedom


def test_a_noisy_difference_of_two_standard_errors_is_the_line_between_holding_and_not():
    a = torch.tensor([1.0, 2.0, 3.0])
    stderr = 1 / 3**0.5
    assert beats("a", "b", "x", a, 2 - 2.01 * stderr * torch.ones(3)).verdict == "holds"
    assert beats("a", "b", "x", a, 2 - 1.99 * stderr * torch.ones(3)).verdict == "undecided"
    assert beats("a", "b", "x", a, 2 + 2.01 * stderr * torch.ones(3)).verdict == "fails"


def test_the_pairing_matters():
    spread = torch.tensor([0.0, 10.0, 20.0])
    check = beats("a", "b", "x", spread + torch.tensor([1.0, 1.1, 0.9]), spread)
    assert check.verdict == "holds" and check.notes["student_low"] > 0


def test_one_seed_decides_nothing():
    assert beats("a", "b", "accuracy", [0.9], [0.1]).verdict == "undecided"
    assert exceeds("a", "area", [0.99], 0.5).verdict == "undecided"


def test_the_mean_over_seeds_has_a_student_interval():
    i = over_seeds([1.0, 2.0, 3.0])
    assert i.value == 2 and i.high - 2 == pytest.approx(4.30265 / 3**0.5, abs=1e-4)
    assert exceeds("a", "area", [0.98, 0.99, 0.985], 0.95).verdict == "holds"
    assert exceeds("a", "area", [0.90, 0.99, 0.94], 0.95).verdict == "undecided"
    assert exceeds("a", "area", [0.90, 0.91, 0.905], 0.95).verdict == "fails"


def test_a_sign_test_needs_five_seeds_of_five():
    later = torch.full((5,), 400)
    share, verdict = smaller_by_sign(torch.tensor([100, 200, 300, 100, 100]), later)
    assert verdict == "holds" and share.value == 1
    assert smaller_by_sign(torch.tensor([100, 200, 300, 100, 500]), later)[1] == "undecided"
    assert smaller_by_sign(torch.tensor([500, 500, 600, 700, 800]), later)[1] == "fails"
    assert smaller_by_sign(later[:4], later[:4] + 1)[1] == "undecided"  # 1/16 with four


def test_ties_tell_a_sign_test_nothing():
    assert smaller_by_sign([1, 1, 1], [1, 1, 1])[1] == "undecided"
    assert smaller_by_sign([1, 1, 1, 1, 1, 3], [2, 2, 2, 2, 2, 3])[1] == "holds"


def test_all_conditions_must_hold_and_one_suffices_to_fail():
    assert joint(["holds", "holds"]) == "holds"
    assert joint(["holds", "undecided"]) == "undecided"
    assert joint(["undecided", "fails", "holds"]) == "fails"
    assert joint([]) == "undecided"
