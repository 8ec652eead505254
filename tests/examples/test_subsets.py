import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surplus.errors import InputError
from surplus.examples.subsets import balanced_subsets, mixed_subsets, stratified_subsets


@given(n=st.integers(10, 200), tenths=st.integers(1, 9), rounds=st.integers(1, 3))
def test_every_subset_has_its_size_and_every_example_its_share(n, tenths, rounds):
    share, runs = tenths / 10, 10 * rounds
    masks = balanced_subsets(n, share, runs)
    assert (masks.sum(1) == int(share * n)).all()
    expected = masks.sum(0).double()
    assert (expected.max() - expected.min()) <= 2 * rounds


def test_the_two_runs_of_a_round_at_one_half_are_complements():
    for n in (100, 101, 103, 1439):
        masks = balanced_subsets(n, 0.5, 4)
        assert not (masks[0] & masks[1]).any() and int((masks[0] | masks[1]).sum()) >= n - 1
        assert not torch.equal(masks[0], masks[2])


@given(n=st.integers(11, 200), tenths=st.integers(1, 9))
def test_a_whole_round_holds_every_example_out(n, tenths):
    assert not balanced_subsets(n, tenths / 10, 10).all(0).any()


def test_more_runs_begin_with_the_same_ones():
    assert torch.equal(balanced_subsets(50, 0.3, 4), balanced_subsets(50, 0.3, 9)[:4])


def test_mixed_subsets_say_their_share():
    masks, share = mixed_subsets(40, (0.25, 0.75), 3)
    assert masks.sum(1).tolist() == [10] * 3 + [30] * 3 and share.tolist() == [0.25] * 3 + [0.75] * 3


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, -0.1, 0.001])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(InputError, match="share is the fraction"):
        balanced_subsets(100, share, 2)


def test_stratified_subsets_hold_the_share_of_every_class_and_hold_out_evenly():
    labels = torch.tensor([0] * 20 + [1] * 50 + [2] * 10)
    masks = stratified_subsets(labels, 0.3, 10)
    for c, size in enumerate((20, 50, 10)):
        assert (masks[:, labels == c].sum(1) == int(0.3 * size)).all()
    assert (masks.sum(0) == 3).all()
    with pytest.raises(InputError, match="leaving some on both sides"):
        stratified_subsets(torch.tensor([0, 0, 1]), 0.5, 2)
