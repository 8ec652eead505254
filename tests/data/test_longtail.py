"""Long tails: exact counts, the right classes rare, and refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from surplus.data.longtail import exponential_imbalance, keep_counts, step_imbalance
from surplus.errors import InputError


def gen(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def balanced(per_class: int, classes: int = 10) -> Tensor:
    return torch.arange(classes).repeat(per_class)


def sizes(labels: Tensor, keep: Tensor, classes: int = 10) -> list[int]:
    return labels[keep].bincount(minlength=classes).tolist()


def test_cifar10_at_ratio_100_has_the_published_class_sizes():
    labels = balanced(5000)
    keep = exponential_imbalance(labels, 100, 10, gen())
    assert sizes(labels, keep) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert keep.sum() == 12_406


def test_step_imbalance_makes_the_last_half_rare():
    labels = balanced(100)
    assert sizes(labels, step_imbalance(labels, 10, 10, gen())) == [100] * 5 + [10] * 5
    odd = balanced(100, 5)
    assert sizes(odd, step_imbalance(odd, 4, 5, gen()), 5) == [100, 100, 100, 25, 25]


def test_ratio_one_keeps_a_balanced_set_whole():
    labels = balanced(7)
    assert exponential_imbalance(labels, 1, 10, gen()).all() and step_imbalance(labels, 1, 10, gen()).all()


def test_order_says_which_class_is_frequent():
    labels = balanced(100, 3)
    keep = exponential_imbalance(labels, 100, 3, gen(), order=torch.tensor([2, 0, 1]))
    assert sizes(labels, keep, 3) == [10, 1, 100]


def test_the_largest_class_shrinks_to_what_unequal_classes_can_meet():
    labels = torch.cat([torch.zeros(50), torch.ones(5), torch.full((50,), 2)]).long()
    keep = exponential_imbalance(labels, 4, 3, gen())  # shares 1, 1/2, 1/4: class 1 allows n_max = 10
    assert sizes(labels, keep, 3) == [10, 5, 2]


@given(ratio=st.floats(1, 50), per_class=st.integers(50, 120), classes=st.integers(2, 8), seed=st.integers(0, 99))
def test_sizes_never_rise_and_end_at_the_ratio(ratio, per_class, classes, seed):
    labels = balanced(per_class, classes)
    counts = sizes(labels, exponential_imbalance(labels, ratio, classes, gen(seed)), classes)
    assert counts == sorted(counts, reverse=True) and counts[0] == per_class
    assert per_class / ratio - 1 < counts[-1] <= per_class / ratio + 1e-5


def test_seeds_choose_other_examples_in_equal_numbers():
    labels = balanced(50)
    one, same, other = (exponential_imbalance(labels, 10, 10, gen(s)) for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert sizes(labels, one) == sizes(labels, other)


def test_misuses_are_refused():
    labels = balanced(10)
    for ratio in (0.5, float("inf"), float("nan")):
        with pytest.raises(InputError, match="at least 1"):
            exponential_imbalance(labels, ratio, 10, gen())
    with pytest.raises(InputError, match="would have none"):
        exponential_imbalance(labels, 100, 10, gen())
    with pytest.raises(InputError, match="there are 10"):
        step_imbalance(labels, 2, 10, gen(), largest=11)
    with pytest.raises(InputError, match="each of the 10 classes once"):
        step_imbalance(labels, 2, 10, gen(), order=torch.zeros(10, dtype=torch.int64))
    with pytest.raises(InputError, match="run from 0 to 4"):
        step_imbalance(labels, 2, 5, gen())
    with pytest.raises(InputError, match="at least 2"):
        step_imbalance(labels * 0, 2, 1, gen())
    with pytest.raises(InputError, match="there are 10"):
        keep_counts(labels, torch.tensor([11]), gen())
