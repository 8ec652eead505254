import math
from itertools import combinations

import pytest
import torch

from surplus.errors import InputError
from surplus.examples.selections import submodular
from surplus.examples.selections.gradients import directions
from surplus.examples.selections.greedy import greedy_order
from surplus.examples.selections.submodular import (
    FacilityLocation,
    GraphCut,
    LogDeterminant,
    Pairs,
    Similarity,
    facility_location,
    graph_cut,
    log_determinant,
)
from surplus.space import generator

RULES = [facility_location, graph_cut, log_determinant]


class Given(Pairs):
    """Similarities from a table."""

    def __init__(self, table):
        super().__init__(table.diagonal())
        self.table = table

    def block(self, rows):
        return self.table[rows].clone()


def cosines(n, seed, d=3):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u = x / x.norm(dim=1, keepdim=True)
    return x, 0.5 + 0.5 * u @ u.T


def covered(s, picks):
    return float(s[:, list(picks)].amax(1).sum()) if len(picks) else 0.0


def cut(s, picks, lam):
    picks = list(picks)
    return float(lam * s[:, picks].sum() - s[picks][:, picks].sum())


def volume(s, picks):
    picks = list(picks)
    return float(s[picks][:, picks].logdet()) if picks else 0.0


def test_four_points_are_picked_with_the_gains_found_by_hand():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [4.0, 4.0]], dtype=torch.float64)
    f = FacilityLocation(Given(torch.cdist(x, x).square().neg().exp()))
    everything = torch.arange(4)
    torch.testing.assert_close(f.first_gains(), torch.tensor([1.7358, 1.5032, 1.5032, 1.0]).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(f.gains(everything), f.first_gains())
    f.add(0)
    torch.testing.assert_close(f.gains(everything)[1:], torch.tensor([0.6321, 0.6321, 1.0]).double(), atol=1e-4, rtol=0)
    for greedy in ("naive", "lazy"):
        f = FacilityLocation(Given(torch.cdist(x, x).square().neg().exp()))
        assert greedy_order(f, 2, greedy).tolist() == [0, 3]


@pytest.mark.parametrize("seed", range(5))
def test_gains_are_differences_of_the_functions(seed):
    x, s = cosines(12, seed, d=20)
    functions = [
        (FacilityLocation(Similarity(directions(x))), lambda picks: covered(s, picks), lambda g: g),
        (GraphCut(Similarity(directions(x)), 1.5), lambda picks: cut(s, picks, 1.5), lambda g: g),
        (LogDeterminant(Similarity(directions(x)), 12), lambda picks: volume(s, picks), torch.log),
    ]
    for f, value, scale in functions:
        picks = []
        for pick in (3, 7, 0, 11):
            rest = torch.tensor([i for i in range(12) if i not in picks])
            expected = torch.tensor([value([*picks, int(i)]) - value(picks) for i in rest]).double()
            torch.testing.assert_close(scale(f.gains(rest)), expected)
            f.add(pick)
            picks.append(pick)


@pytest.mark.parametrize("seed", range(6))
def test_facility_location_reaches_the_guaranteed_share_of_the_best(seed):
    x, s = cosines(11, seed)
    for keep in (1, 2, 4):
        best = max(covered(s, picks) for picks in combinations(range(11), keep))
        picks = facility_location(torch.zeros(11), keep, embeddings=x).nonzero().squeeze(1).tolist()
        assert (1 - 1 / math.e) * best <= covered(s, picks) <= best + 1e-9


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_lazy_and_naive_pick_the_same(rule, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(300, 6, generator=g)
    x[200:250] = x[:50]  # fifty examples twice: ties
    p, labels = torch.randn(300, 4, generator=g).softmax(1), torch.randint(4, (300,), generator=g)
    for keep in (1, 7, 60, 300):
        for extra in ({}, {"probabilities": p, "labels": labels}):
            naive, lazy = (
                rule(torch.zeros(300), keep, embeddings=x, greedy=greedy, **extra) for greedy in ("naive", "lazy")
            )
            assert torch.equal(naive, lazy)


def test_blocks_and_a_stored_table_pick_the_same(monkeypatch):
    x = torch.randn(150, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stored = facility_location(torch.zeros(150), 20, embeddings=x)
    monkeypatch.setattr(submodular, "STORED", 0)
    monkeypatch.setattr(submodular, "ENTRIES", 500)
    assert torch.equal(facility_location(torch.zeros(150), 20, embeddings=x), stored)


def test_no_table_of_all_pairs_is_made_where_it_would_not_fit(monkeypatch):
    monkeypatch.setattr(submodular, "STORED", 100**2 - 1)
    s = Similarity(directions(torch.randn(100, 5, generator=torch.Generator().manual_seed(0))))
    greedy_order(FacilityLocation(s), 10)
    assert s._table is None


def test_stochastic_greedy_is_nearly_as_good_and_repeats_from_its_generator():
    x, s = cosines(400, 0, d=5)
    run = lambda seed: facility_location(
        torch.zeros(400), 20, embeddings=x, greedy="stochastic", generator=generator(seed)
    )
    lazy = covered(s, facility_location(torch.zeros(400), 20, embeddings=x).nonzero().squeeze(1).tolist())
    values = [covered(s, run(seed).nonzero().squeeze(1).tolist()) for seed in range(10)]
    assert sum(values) / 10 > (1 - 1 / math.e - 0.01) * lazy and max(values) < 1.01 * lazy
    assert min(values) > 0.95 * lazy
    assert torch.equal(run(3), run(3)) and not torch.equal(run(3), run(4))
    with pytest.raises(InputError, match="pass generator="):
        facility_location(torch.zeros(400), 20, embeddings=x, greedy="stochastic")


def test_similarities_of_gradients_are_those_of_the_materialised_ones():
    from surplus.examples.selections.gradients import last_layer_gradients

    g = torch.Generator().manual_seed(1)
    h, p = torch.randn(9, 4, generator=g).double(), torch.randn(9, 3, generator=g).softmax(1).double()
    labels = torch.arange(9) % 3
    e = p - torch.eye(3, dtype=torch.float64)[labels]
    whole = torch.cat([e, (e[:, :, None] * h[:, None]).flatten(1)], 1)  # (9, classes (d + 1))
    factors = last_layer_gradients("test", 9, h, p, labels)
    torch.testing.assert_close(factors.inner(factors), whole @ whole.T)
    torch.testing.assert_close(factors.squares(), whole.square().sum(1))
    unit = whole / whole.norm(dim=1, keepdim=True)
    s = Similarity(factors)
    torch.testing.assert_close(s.columns(torch.arange(9)), 0.5 + 0.5 * unit @ unit.T)
    torch.testing.assert_close(s.sums(), (0.5 + 0.5 * unit @ unit.T).sum(0))


def test_an_example_that_is_predicted_surely_and_rightly_has_similarity_one_half():
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    assert Similarity(directions(x)).columns(torch.tensor([1]))[0].tolist() == [0.5, 0.5, 0.5]


def test_apricot_picks_the_same():
    """Stored picks of apricot-select 0.6.1, optimizer="naive", on these points; its alpha is lam."""
    i, j = torch.arange(1, 61, dtype=torch.float64)[:, None], torch.arange(1, 5, dtype=torch.float64)
    s = Similarity(directions((i * j**2).sin()))
    facility = [51, 22, 50, 23, 47, 52, 11, 59, 14, 56, 13, 48]
    assert greedy_order(FacilityLocation(s), 12).tolist() == facility
    assert greedy_order(GraphCut(s, 2.0), 12).tolist() == [51, 14, 26, 41, 45, 30, 12, 55, 31, 11, 56, 22]


def test_picks_of_what_is_spanned_already_add_nothing_and_go_by_index():
    x = torch.eye(2).repeat(4, 1)  # two directions, four times each
    kept = log_determinant(torch.zeros(8), 4, embeddings=x)
    assert kept.nonzero().squeeze(1).tolist() == [0, 1, 2, 3]


def test_settings_out_of_range_are_refused():
    x = torch.randn(5, 2)
    with pytest.raises(InputError, match="lam weighs"):
        graph_cut(torch.zeros(5), 2, embeddings=x, lam=-1.0)
    with pytest.raises(InputError, match="did you mean lazy"):
        facility_location(torch.zeros(5), 2, embeddings=x, greedy="lasy")
    with pytest.raises(InputError, match="did you mean deepcore"):
        facility_location(torch.zeros(5), 2, embeddings=x, compat="depcore")
    with pytest.raises(InputError, match="labels must be their column numbers"):
        labels, p = torch.tensor([0, 1, 2, 3, 4]), torch.full((5, 3), 1 / 3)
        facility_location(torch.zeros(5), 2, embeddings=x, probabilities=p, labels=labels)
