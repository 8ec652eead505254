import torch
from hypothesis import given
from hypothesis import strategies as st

from surplus.examples import class_balanced_hardest, class_balanced_random, hardest, herding, within_classes
from surplus.examples.selections.balanced import largest_remainder
from surplus.space import generator


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8), share=st.floats(0, 1))
def test_budgets_sum_to_the_total_and_stay_within_one_of_their_share(sizes, share):
    total = round(share * sum(sizes))
    budgets = largest_remainder(total, sizes)
    assert sum(budgets) == total
    for budget, size in zip(budgets, sizes, strict=True):
        assert abs(budget - total * size / sum(sizes)) < 1
        assert 0 <= budget <= size


def test_rounding_each_class_by_itself_would_lose_examples():
    assert largest_remainder(5, [5, 5]) == [3, 2]  # round(2.5) twice is 4
    assert largest_remainder(10, [7, 5, 3]) == [5, 3, 2]  # 4.67, 3.33, 2


def test_each_class_gives_its_hardest():
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 4.0, 3.0, 2.0])
    labels = torch.tensor([0, 0, 0, 0, 5, 5, 5, 5])
    kept = class_balanced_hardest(scores, 4, labels=labels)
    assert kept.nonzero().squeeze(1).tolist() == [0, 1, 5, 6]


def test_one_class_is_the_plain_rule():
    scores = torch.randn(20, generator=torch.Generator().manual_seed(0))
    kept = class_balanced_hardest(scores, 7, labels=torch.zeros(20, dtype=torch.long))
    assert torch.equal(kept, hardest(scores, 7))


def test_balanced_random_keeps_the_same_share_of_each_class():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    kept = class_balanced_random(torch.zeros(100), 40, labels=labels, generator=generator(0))
    assert labels[kept].bincount().tolist() == [20, 12, 8]


def test_a_class_too_small_for_a_budget_is_left_out():
    labels = torch.tensor([0] * 9 + [1])
    kept = class_balanced_hardest(torch.arange(10.0), 1, labels=labels)
    assert kept.nonzero().squeeze(1).tolist() == [8]


def test_herding_within_classes_follows_each_class_mean():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    embeddings = torch.randn(40, 3, generator=g) + 10 * labels[:, None]
    kept = within_classes(herding, torch.zeros(40), 10, labels, embeddings=embeddings)
    assert labels[kept].bincount().tolist() == [5, 5]
    for c in (0, 1):
        own = herding(torch.zeros(20), 5, embeddings=embeddings[labels == c])
        assert torch.equal(kept[labels == c], own)
