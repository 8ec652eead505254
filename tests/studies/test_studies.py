"""All studies alike: at smoke scale each claim gets a verdict, and what is stored in the docs agrees with itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from surplus.registry import find
from surplus.studies import joint, load_result, run_study, studies
from surplus.studies.base import draw_study
from surplus.training import Store, fit

SLUGS = tuple(study.name for study in studies())
BESIDE_RANDOM = ("c-score", "el2n-grand", "imp")
"""Studies all of whose claims are about a choice, which has a random one to stand beside."""
TRAINS_NOTHING = ("ssl-prototypes", "typiclust")
"""Studies that, at smoke scale, rest on theory, simulation and scikit-learn's models alone."""
STORED = sorted((Path(__file__).resolve().parents[2] / "docs" / "results").glob("*.json"))


@pytest.fixture(scope="module", params=SLUGS)
def smoke(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SURPLUS_DATA", raising=False)
        return folder, run_study(request.param, "smoke", Store(folder / "store"), out=folder)


def test_every_claim_gets_a_verdict(smoke):
    _, result = smoke
    assert [m.claim for m in result.measured] == list(find("study", result.slug).traits["claims"])
    for m in result.measured:
        assert m.verdict in ("holds", "fails", "undecided")
        assert m.rows or m.note, "a claim without numbers says why"


def test_random_choice_is_always_a_row_where_something_is_chosen(smoke):
    for m in smoke[1].measured if smoke[1].slug in BESIDE_RANDOM else ():
        assert not m.rows or any(row["row"].startswith("random") for row in m.rows), m.claim.slug


def test_every_row_says_what_it_rests_on(smoke):
    for row in (row for m in smoke[1].measured for row in m.rows):
        assert {"row", "quantity", "value", "low", "high", "level", "seeds"} <= row.keys()


def test_a_second_run_repeats_no_training(smoke, monkeypatch, no_files):
    def refuse(*_):
        raise AssertionError("trained again")

    folder, result = smoke
    monkeypatch.setattr(sys.modules[fit.__module__], "train_part", refuse)
    again = run_study(result.slug, "smoke", Store(folder / "store"))
    assert again.as_dict()["claims"] == result.as_dict()["claims"]
    assert again.manifest["runs"] == result.manifest["runs"]
    assert result.manifest["runs"] or result.slug in TRAINS_NOTHING


def test_the_files_of_a_result_are_small_and_read_back(smoke):
    folder, result = smoke
    assert load_result(folder / f"{result.slug}.json").as_dict() == result.as_dict()
    assert 1_000 < (folder / f"{result.slug}.svg").stat().st_size < 150_000


def test_claims_are_whole_sentences_with_numbers_in_their_criteria():
    for row in studies():
        slugs = [claim.slug for claim in row.traits["claims"]]
        assert len(set(slugs)) == len(slugs) and set(row.traits["protocols"]) == {"smoke", "laptop", "gpu"}
        for claim in row.traits["claims"]:
            assert claim.statement.endswith(".") and claim.source
            assert re.search(r"\d", claim.criterion) and claim.criterion.endswith(".")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_verdict_follows_from_the_stored_conditions_and_the_claims_of_today(path, tmp_path):
    result = load_result(path)
    row = next(m for m in studies() if m.name == result.slug)
    assert tuple(m.claim for m in result.measured) == row.traits["claims"]
    assert result.manifest["protocol"] == row.traits["protocols"][result.scale].model_dump(mode="json")
    for m in result.measured:
        checks = [r["verdict"] for r in m.rows if "verdict" in r]
        assert m.verdict == joint(checks)  # without a condition, undecided
        assert checks or m.note
    assert draw_study(result, tmp_path).stat().st_size < 150_000
    assert path.with_suffix(".svg").stat().st_size < 150_000


def test_the_results_of_all_studies_are_stored():
    assert {path.stem for path in STORED} == set(SLUGS)
