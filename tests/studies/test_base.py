from __future__ import annotations

import json
import math
import sys

import pytest

from surplus import registry
from surplus.errors import InputError, MissingExtra
from surplus.studies import (
    Bench,
    Claim,
    Protocol,
    StudyResult,
    Untestable,
    decide,
    exceeds,
    load_result,
    run_study,
    studies,
    study,
    undecided,
)
from surplus.studies.base import draw_study
from surplus.tasks import load
from surplus.training import Store
from surplus.training import fit as fit_function

fit_module = sys.modules[fit_function.__module__]
ONE = Claim("one", "Training helps.", "nobody", "accuracy > 0.3", ("smoke", "laptop"))
TWO = Claim("two", "More files help.", "nobody", "as above", ("smoke",))


@pytest.fixture
def toy(monkeypatch):
    """A study of two claims, one of which needs files; it leaves the catalogue again."""
    registry.load_all()  # into the catalogue itself, not into the copy that is thrown away
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    protocols = {scale: Protocol(seeds=seeds) for scale, seeds in (("smoke", 3), ("laptop", 3), ("gpu", 1))}

    @study(slug="toy", paper="Nobody 2020", title="A toy", claims=(ONE, TWO), protocols=protocols)
    def toy_study(claim: Claim, bench: Bench[Protocol]):
        """A toy."""
        if claim is TWO:
            raise Untestable("needs the files")
        arms = []
        for steps in (2, 100):
            task = load("digits", "mlp", widths=(8,)).with_recipe(duration=f"{steps}it")
            arms.append(bench.accuracy(bench.fit(task, seeds=bench.seeds, execution="spread", jobs=1)))
        return decide(
            ONE, [exceeds("trained", "accuracy", arms[1], 0.3), exceeds("gain", "accuracy", arms[1] - arms[0], 0)]
        )

    return toy_study


def count_training(monkeypatch, stop_after=None):
    """How many runs are trained; as many as `stop_after`, then the process dies."""
    trained, original = [], fit_module.train_part

    def counted(plan, entry):
        if stop_after is not None and len(trained) == stop_after:
            raise KeyboardInterrupt
        trained.append(entry.key)
        return original(plan, entry)

    monkeypatch.setattr(fit_module, "train_part", counted)
    return trained


def test_a_study_joins_the_catalogue_with_its_claims(toy):
    row = next(m for m in studies() if m.name == "toy")
    assert row.paper == "Nobody 2020" and row.traits["title"] == "A toy" and row.traits["claims"] == (ONE, TWO)
    assert row.summary == "A toy."


def test_the_studies_of_the_library_are_there():
    assert {"el2n-grand", "imp", "c-score"} <= {m.name for m in studies()}


def test_every_claim_gets_a_verdict_and_the_untestable_a_reason(toy, tmp_path):
    result = run_study("toy", "smoke", Store(tmp_path))
    assert result.verdicts == {"one": "holds", "two": "undecided"}
    assert result.measured[1].note == "needs the files" and math.isnan(result.measured[1].value)
    other = run_study("toy", "laptop", Store(tmp_path))
    assert "run it at smoke" in other.measured[1].note
    assert set(run_study("toy", "gpu", Store(tmp_path)).verdicts.values()) == {"undecided"}


def test_a_finished_study_trains_nothing_again(toy, tmp_path, monkeypatch):
    trained = count_training(monkeypatch)
    first = run_study("toy", "smoke", Store(tmp_path))
    assert len(trained) == 6 and sorted(first.manifest["runs"]) == sorted(trained)
    again = run_study("toy", "smoke", Store(tmp_path))
    assert len(trained) == 6 and again.as_dict()["claims"] == first.as_dict()["claims"]


def test_an_interrupted_study_goes_on_where_it_stopped(toy, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        count_training(patch, stop_after=4)
        with pytest.raises(KeyboardInterrupt):
            run_study("toy", "smoke", Store(tmp_path))
    trained = count_training(monkeypatch)
    assert run_study("toy", "smoke", Store(tmp_path)).verdicts["one"] == "holds"
    assert len(trained) == 2


def test_a_result_and_its_figure_come_out_and_read_back(toy, tmp_path):
    result = run_study("toy", "smoke", Store(tmp_path / "store"), out=tmp_path / "out")
    stored = load_result(tmp_path / "out" / "toy.json")
    assert stored.as_dict() == result.as_dict()
    assert stored.measured[0].claim == ONE and stored.verdicts == result.verdicts
    drawn = (tmp_path / "out" / "toy.svg").read_bytes()
    assert drawn.startswith(b"<?xml") and draw_study(stored, tmp_path / "again").read_bytes() == drawn
    keys = {"slug", "statement", "source", "criterion", "verdict", "measured", "rows", "note"}
    claims = json.loads((tmp_path / "out" / "toy.json").read_text())["claims"]
    assert all(keys <= claim.keys() for claim in claims)
    assert claims[1]["measured"] == {"value": None, "low": None, "high": None, "seeds": 0}
    assert {"versions", "machine", "seeds", "runs", "seconds"} <= stored.manifest.keys()


def test_the_condition_that_decides_is_the_one_that_is_shown():
    good, bad = exceeds("good", "x", [1.0, 1.1], 0), exceeds("bad", "x", [-1.0, -1.1], 0)
    measured = decide(ONE, [good, bad])
    assert measured.verdict == "fails" and measured.value == pytest.approx(-1.05)
    assert [r["row"] for r in measured.rows] == ["good", "bad"] and measured.rows[0]["verdict"] == "holds"


def test_a_missing_library_for_the_figure_is_named_before_anything_is_trained(toy, tmp_path, monkeypatch):
    trained = count_training(monkeypatch)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match="report"):
        run_study("toy", "smoke", Store(tmp_path), out=tmp_path)
    assert not trained
    run_study("toy", "smoke", Store(tmp_path))  # and without a figure all is well


def test_wrong_names_are_answered_with_the_right_ones(toy):
    with pytest.raises(InputError, match="el2n-grand"):
        run_study("el2n-gran")
    with pytest.raises(InputError, match="did you mean laptop"):
        run_study("toy", "labtop")


def test_a_file_that_is_no_result_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"slug": "a"}')
    with pytest.raises(InputError, match="not a study's result"):
        load_result(tmp_path / "a.json")
    with pytest.raises(InputError, match="not a readable result"):
        load_result(tmp_path / "b.json")


def test_numbers_without_a_value_become_null_and_come_back():
    result = StudyResult("a", "A", "", "smoke", (undecided(ONE, "why not", [{"row": "r", "low": -math.inf}]),), {})
    stored = result.as_dict()
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored
    assert stored["claims"][0]["rows"] == [{"row": "r", "low": None}]
    assert math.isnan(StudyResult.from_dict(stored).measured[0].value)
