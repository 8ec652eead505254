from __future__ import annotations

import pytest
import torch

from surplus.pruning.structured.random_search import search as _search
from surplus.studies import Bench, random_search, run_study
from surplus.studies.random_search import PROTOCOLS
from surplus.tasks import Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("search")))


def test_it_runs_and_tells_of_every_claim(bench):
    result = run_study("random-search", "smoke", bench.store)
    assert result.verdicts["search-gains-nothing-on-images"] == "undecided"
    assert result.verdicts["search-finds-lower-loss"] == "holds"
    rows = {r["row"] for r in result.measured[0].rows}
    assert {"best of search", "random", "fresh weights", "dense parent"} <= rows


def test_an_arm_per_share_with_its_own_number_of_seeds(bench):
    half, tenth = random_search._all_arms(bench)
    assert (len(half.gain), len(tenth.gain)) == (3, 4)
    assert all(len(v) == 4 for v in (*tenth.accuracy.values(), *tenth.steps.values()))
    assert (half.gain > 0).all()


def test_the_note_tells_what_the_search_gains_and_over_how_many_seeds(bench):
    measured = random_search.gains_nothing(bench)
    gains = [r["value"] for r in measured.rows if r["row"] == "best of search - random" and "point" not in r["needs"]]
    assert "no better by a point" in measured.claim.statement
    assert f"{100 * gains[0]:+.2f} at 50% (3 seeds), {100 * gains[2]:+.2f} at 10% (4 seeds)" in measured.note


def test_a_search_is_done_again_when_the_code_that_it_rests_on_changes(bench, monkeypatch):
    task, asked = random_search._task(bench), []
    for changed in ("", "tasks", "training", "pruning"):
        monkeypatch.setattr(random_search, "code_version", lambda *rooms, c=changed: f"{c in rooms}-{c}"[:9])
        found = random_search._searched(bench, task, 0.1, [0])
        monkeypatch.setattr(random_search, "search", lambda *a, **k: asked.append(1) or _search(*a, **k))
        assert found[0].shape[0] == 1
    assert len(asked) == 3


def test_random_networks_are_drawn_anew_and_come_from_the_parent_of_their_seed(bench):
    task = random_search._task(bench)
    (small, first), (_, second) = (random_search._chance(task, 0.1, [0, 1], i) for i in range(2))
    assert not torch.equal(first, second) and first.shape == (2, small.space.size)
    for row, theta in zip(first, task.space.init_many([0, 1]), strict=True):
        assert set(row.tolist()) <= set(theta.tolist())


def test_fast_is_the_first_look_at_95_percent_of_the_end():
    class Told:
        seeds = (4, 2)
        curve = {  # noqa: RUF012
            "seed": [2, 4, 2, 4, 2, 4],
            "step": [10, 10, 20, 20, 30, 30],
            "metric": [0.5, 0.96, 0.949, 0.2, 1.0, 1.0],
        }

    assert random_search._steps(Told()).tolist() == [10, 30]


def arms(gain, steps, seeds=30):
    noise = torch.linspace(-0.002, 0.002, seeds).double()
    accuracy = {"best of search": 0.9 + gain + noise, "random": torch.full((seeds,), 0.9).double()}
    speed = {"best of search": 50.0 + steps + 1000 * noise, "random": torch.full((seeds,), 50.0).double()}
    return random_search._Arms(0.5, accuracy, speed, torch.ones(seeds))


@pytest.mark.parametrize(
    ("gain", "steps", "verdicts"),
    [(0.0, 0.0, ("holds", "holds")), (0.02, 0.0, ("fails", "holds")), (0.0, -5.0, ("holds", "fails"))],
)
def test_a_gain_of_two_points_or_of_five_steps_contradicts(gain, steps, verdicts):
    found = arms(gain, steps)
    assert (random_search._equivalent(found).verdict, random_search._as_fast(found).verdict) == verdicts


def test_a_gain_at_the_margin_is_undecided():
    assert random_search._equivalent(arms(0.01, 0.0)).verdict == "undecided"


def test_the_protocol_of_the_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    recipe = gpu.recipe.model_copy(update={"duration": Duration("2ep"), "batch_size": 20})
    changes = {"seeds": 2, "widths": (20, 20), "repeats": (2, 2, 2), "budget": 3, "every": 2, "recipe": recipe}
    measured = random_search.gains_nothing_on_images(Bench("gpu", gpu.model_copy(update=changes), Store(tmp_path)))
    assert measured.claim.slug == "search-gains-nothing-on-images" and len(measured.rows) == 3 * (2 + 6) + 1
