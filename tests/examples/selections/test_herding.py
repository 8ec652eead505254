import torch

from surplus.examples import herding, herding_order

POINTS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])


def test_four_points_are_picked_in_the_order_found_by_hand():
    assert herding_order(POINTS, 3).tolist() == [1, 2, 3]
    assert herding(torch.zeros(4), 2, embeddings=POINTS).tolist() == [False, True, True, False]


def test_each_pick_is_the_best_by_the_definition():
    h = torch.randn(25, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = herding_order(h, 25).tolist()
    assert sorted(order) == list(range(25))
    for t, pick in enumerate(order):
        goal = (t + 1) * h.mean(0) - h[order[:t]].sum(0)
        rest = [i for i in range(25) if i not in order[:t]]
        assert pick == min(rest, key=lambda i: (goal - h[i]).norm().item())


def test_the_mean_of_the_picks_is_far_nearer_than_that_of_random_ones():
    g = torch.Generator().manual_seed(0)
    h = torch.randn(500, 4, generator=g)
    herded = (h[herding_order(h, 50)].mean(0) - h.mean(0)).norm()
    drawn = torch.stack([(h[torch.randperm(500, generator=g)[:50]].mean(0) - h.mean(0)).norm() for _ in range(20)])
    assert herded < drawn.mean() / 10
