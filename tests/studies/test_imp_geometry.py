from __future__ import annotations

import pytest
import torch

from surplus.landscape.imp_geometry import ChainBarriers
from surplus.pruning import density
from surplus.studies import Bench, imp_geometry
from surplus.studies.imp_geometry import CONNECTED, IFF, ONE_CUT, PROTOCOLS, REFILLED
from surplus.tasks import Augment, Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("imp-geometry")))


@pytest.fixture(scope="module")
def levels(bench):
    return imp_geometry._levels(bench)


def stand_in(monkeypatch, errors, barriers):
    """Let the chain have these test errors (levels, seeds) and these barriers to the level before."""
    monkeypatch.setattr(imp_geometry, "_errors", lambda bench, levels: errors)
    found = [ChainBarriers(row, row) for row in barriers.T]
    monkeypatch.setattr(imp_geometry, "_barriers", lambda bench, levels, mode="error": found)


DENSE = torch.tensor([0.030, 0.034], dtype=torch.float64)  # epsilon = 0.0028
EXCESS = torch.tensor([0.0, 0.001, 0.01, 0.05], dtype=torch.float64)


def errors():
    return torch.cat([DENSE[None], DENSE + EXCESS[:, None]])


@pytest.mark.parametrize(
    ("barriers", "verdict"),
    [
        ([0.0005, 0.001, 0.02, 0.04], "holds"),  # small while it matches, and rising
        ([0.02, 0.01, 0.001, 0.0], "fails"),  # the other way round
        ([0.0, 0.01, 0.02, 0.04], "fails"),  # one of the two matching levels is cut off
    ],
)
def test_small_barriers_of_matching_levels_that_rise_with_the_error_hold(bench, levels, monkeypatch, barriers, verdict):
    stand_in(monkeypatch, errors(), torch.tensor(barriers, dtype=torch.float64)[:, None].repeat(1, 2))
    measured = imp_geometry.imp_geometry_study(CONNECTED, bench)
    assert measured.verdict == verdict
    every = next(r for r in measured.rows if r["row"].endswith("all seeds"))
    joined = sum(b <= 0.0028 for b in barriers[:2])  # two levels match, for two seeds alike
    assert (every["connected"], every["matching"], every["value"]) == (2 * joined, 4, joined / 2)


def test_without_a_matching_level_there_is_no_verdict(bench, levels, monkeypatch):
    stand_in(monkeypatch, torch.cat([DENSE[None], DENSE + 0.3 + EXCESS[:, None]]), torch.zeros(4, 2))
    measured = imp_geometry.imp_geometry_study(CONNECTED, bench)
    assert measured.verdict == "undecided" and "no level matches" in measured.note and measured.rows


def test_the_refilled_share_is_zero_before_retraining_and_counted_after_it(bench, levels):
    before, after = levels[1], levels[2]
    for k in range(2):
        assert imp_geometry._gap(before, after, k, before.run.theta[k], ()) == 0
        mask = after.masks[k] & before.run.task.space.prunable
        threshold = before.run.theta[k][mask].abs().min()
        share = (after.run.theta[k][mask].abs() < threshold).double().mean()
        assert imp_geometry._gap(before, after, k, after.run.theta[k], ()) == pytest.approx(float(share))


@pytest.fixture(scope="module")
def whole_head(bench):
    return Bench("smoke", bench.protocol.model_copy(update={"levels": 2, "exclude": ("head",)}), bench.store)


def test_the_threshold_of_a_cut_is_not_that_of_a_layer_it_left_whole(whole_head, monkeypatch):
    before, after = imp_geometry._levels(whole_head)[-2:]
    space = before.run.task.space
    free = space.prunable.clone()
    free[space["head.weight"].slice] = False
    shares = []
    for k in range(2):
        old, new, kept = before.run.theta[k], after.run.theta[k], after.masks[k] & free
        threshold = old[kept].abs().min()
        assert old[space["head.weight"].slice].abs().min() < threshold / 5  # which would have been in its place
        shares.append(float((new[kept].abs() < threshold).double().mean()))
    rows = imp_geometry.imp_geometry_study(REFILLED, whole_head).rows
    last = [r for r in rows if r["row"] == "after retraining"][-1]
    assert last["value"] == pytest.approx(sum(shares) / 2) and last["value"] > 0.02
    assert last["density"] == pytest.approx(0.8**2, abs=1e-3)
    right = next(r for r in rows if r["row"].startswith("right after"))
    assert right["value"] == 0


def test_random_masks_are_as_dense_as_the_level_where_cuts_may_touch_it(whole_head):
    level = imp_geometry._levels(whole_head)[2]
    rows = imp_geometry._random_rows(whole_head, imp_geometry._levels(whole_head))
    kept = density(level.run.task.space, level.masks[0], ["head"])
    assert rows[0]["density"] == kept < level.density - 1e-3
    drawn = imp_geometry._random(whole_head, level, kept)
    assert density(level.run.task.space, drawn.masks[0]) == level.density  # in all, too


def test_a_chain_whose_small_weights_never_return_fails(bench, levels, monkeypatch):
    monkeypatch.setattr(imp_geometry, "_gap", lambda before, after, k, theta, exclude: 0.0)
    assert imp_geometry.imp_geometry_study(REFILLED, bench).verdict == "fails"


def test_one_cut_four_cuts_and_chance_end_at_one_density(bench, levels):
    measured = imp_geometry.imp_geometry_study(ONE_CUT, bench)
    names = [r["row"] for r in measured.rows if r["quantity"] == imp_geometry.BACK and " - " not in r["row"]]
    assert names == ["one cut", "4 cuts", "random mask"]
    space, once, slowly = levels[0].run.task.space, *(imp_geometry._in_cuts(bench, n) for n in (1, 4))
    assert (len(once), len(slowly)) == (2, 5)
    assert slowly[1].density == pytest.approx(0.2**0.25, abs=1e-3)
    for level in (once[-1], slowly[-1], imp_geometry._random(bench, levels[0], 0.2)):
        assert density(space, level.masks[0]) == pytest.approx(0.2, abs=1e-3)


def test_the_chain_rows_stand_beside_projection_chance_and_moved_starts(bench, levels):
    rows = imp_geometry.imp_geometry_study(CONNECTED, bench).rows
    names = {r["row"] for r in rows}
    assert {"iterative pruning", "cut, not retrained", "random mask", "start moved by 1 x the first cut's"} <= names
    projected = {r["density"]: r["value"] for r in rows if r["row"] == "cut, not retrained"}
    assert len(projected) == 4 and max(projected.values()) > 0


def test_agreement_counts_both_ways(bench, levels, monkeypatch):
    monkeypatch.setattr(imp_geometry, "_random_rows", lambda bench, levels: [])
    stand_in(monkeypatch, errors(), torch.tensor([0.0, 0.02, 0.02, 0.0]).double()[:, None].repeat(1, 2))
    measured = imp_geometry.imp_geometry_study(IFF, bench)
    assert measured.value == pytest.approx(0.5)  # agree: matching and connected, neither; two of four levels
    assert measured.verdict == "fails"


def test_the_protocol_of_the_deep_network_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    recipe = gpu.recipe.model_copy(
        update={"duration": Duration("1ep"), "batch_size": 20, "augment": Augment(shift=1), "precision": "float32"}
    )
    changes = {"seeds": 2, "levels": 1, "rewind_steps": (0, 2), "options": {"width": 0.25}, "random_at": (1,)}
    small = gpu.model_copy(update={**changes, "points": 3, "recipe": recipe})
    measured = imp_geometry.imp_geometry_study(IFF, Bench("gpu", small, Store(tmp_path)))
    assert [r["row"] for r in measured.rows if "verdict" in r] == ["rewound to step 0", "rewound to step 2"]
    assert measured.seeds == 2
