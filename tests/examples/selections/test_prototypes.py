import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surplus.errors import InputError
from surplus.examples.selections.base import easiest, hardest
from surplus.examples.selections.prototypes import prototypes, rank_in_class

SCORES = torch.tensor([9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0])
LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])


def kept(*args, **options):
    return prototypes(*args, **options).nonzero().squeeze(1).tolist()


def test_six_of_ten_are_kept_as_found_by_hand():
    # floor = int(0.5 * 6 / 2) = 1 each: examples 0 and 6; then 1, 2, 3, 4 of the others
    assert kept(SCORES, 6, labels=LABELS) == [0, 1, 2, 3, 4, 6]
    # easiest first: 5 and 9 are sure, then 8, 7, 6, and 4
    assert kept(SCORES, 6, labels=LABELS, prefer="easiest") == [4, 5, 6, 7, 8, 9]
    assert kept(SCORES, 6, labels=LABELS, balance=1.0) == [0, 1, 2, 6, 7, 8]


def test_without_balance_the_ranking_decides_alone():
    assert torch.equal(prototypes(SCORES, 4, labels=LABELS, balance=0.0), hardest(SCORES, 4))
    assert torch.equal(prototypes(SCORES, 4, labels=LABELS, balance=0.0, prefer="easiest"), easiest(SCORES, 4))


def test_a_class_smaller_than_its_share_is_kept_whole():
    labels = torch.tensor([0] * 9 + [1])
    assert kept(SCORES, 6, labels=labels, balance=1.0) == [0, 1, 2, 3, 4, 9]


@given(
    labels=st.lists(st.integers(-2, 3), min_size=1, max_size=40),
    share=st.floats(0.01, 1),
    balance=st.floats(0, 1),
    prefer=st.sampled_from(["hardest", "easiest"]),
)
def test_every_class_keeps_its_floor_and_nobody_better_is_left(labels, share, balance, prefer):
    labels = torch.tensor(labels)
    n, classes = len(labels), labels.unique()
    scores = torch.randn(n, generator=torch.Generator().manual_seed(n))
    keep = max(1, round(share * n))
    chosen = prototypes(scores, keep, labels=labels, balance=balance, prefer=prefer)
    goodness = scores if prefer == "hardest" else -scores
    assert int(chosen.sum()) == keep
    floor = int(balance * keep / len(classes))
    for c in classes:
        own = labels == c
        assert int((chosen & own).sum()) >= min(floor, int(own.sum()))
        if (chosen & own).any() and (~chosen & own).any():  # inside a class the ranking decides
            assert goodness[chosen & own].min() > goodness[~chosen & own].max()
    above = [c for c in classes if int((chosen & (labels == c)).sum()) > floor]
    if above and not chosen.all():  # a place beyond the floor went to the best of all
        last = min(float(goodness[chosen & (labels == c)].min()) for c in above)
        assert last > float(goodness[~chosen].max())


def test_ranks_in_a_class_count_those_before():
    assert rank_in_class(torch.tensor([1, 0, 1, 1, 0])).tolist() == [0, 0, 1, 2, 1]


@pytest.mark.parametrize("given", [{"balance": -0.1}, {"balance": 1.1}, {"prefer": "middle"}, {"labels": None}])
def test_settings_out_of_range_are_refused(given):
    with pytest.raises(InputError):
        prototypes(SCORES, 4, **{"labels": LABELS, **given})
