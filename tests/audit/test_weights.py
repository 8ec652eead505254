from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from surplus.audit.weights import _FITTED, _law
from surplus.theory.pruning_curve import pruning_law
from surplus.theory.pruning_law import predict_matching

DENSITIES = 0.64 ** torch.arange(9, dtype=torch.float64)


def chain(errors):
    """Levels of three seeds with these mean errors."""
    spread = torch.tensor([-0.001, 0.0, 0.001], dtype=torch.float64)
    rows = zip(DENSITIES.tolist(), errors, strict=False)
    return [SimpleNamespace(density=d, accuracy=1 - e - spread) for d, e in rows]


def told(errors, fitted):
    levels = chain(errors)
    prediction = predict_matching(DENSITIES[1 : fitted + 1], errors[1 : fitted + 1], errors[:1], 0.01, 10)
    return _law(levels, fitted, prediction)


@pytest.fixture(scope="module")
def found():
    errors = pruning_law(DENSITIES, 0.03, 0.9, 0.7, 1e-3)
    errors[0] = 0.03
    return told(errors, 5)


def test_the_law_is_told_before_what_was_measured_and_judged_on_the_levels_held_out(found):
    assert found["levels"] == 5
    assert found["predicted"]["low"] <= found["predicted"]["mean"] <= found["predicted"]["high"]
    assert found["found"] == pytest.approx(found["predicted"]["mean"], rel=0.1)  # the levels are 36% apart
    assert found["held_out_error"] < 0.1
    assert found["sentence"].index("expects") < found["sentence"].index("Measured")
    assert "RMS" in found["sentence"]


def test_its_curve_goes_from_the_first_level_to_the_last_and_every_level_is_beside_it(found):
    ends = [found["points"][i]["density"] for i in (0, -1)]
    assert ends == pytest.approx([0.64, float(DENSITIES[-1])])
    assert [row["fitted"] for row in found["checked"]] == [True] * 5 + [False] * 3
    for row in found["checked"]:
        assert row["accuracy"]["low"] <= row["accuracy"]["mean"] + 1e-9
        assert row["accuracy"]["mean"] == pytest.approx(row["measured"], abs=0.01)


def test_it_is_plain_json_with_the_plateau_at_chance(found):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["plateau"] == "held" and found["parameters"]["eps_up"]["value"] == 0.9


def test_levels_without_a_rise_give_a_bound_and_no_crossing():
    errors = torch.tensor([0.03, 0.029, 0.031, 0.029, 0.03, 0.0305, 0.03, 0.0295, 0.031], dtype=torch.float64)
    found = told(errors, 5)
    assert found["found"] is None and ("(at most " in found["sentence"] or "or less" in found["sentence"])
    assert found["predicted"]["low"] < 0.005 < found["predicted"]["high"] < 0.2
    assert "stays within 1 point down to 2.8%" in found["sentence"]


@pytest.mark.parametrize(("count", "why"), [(2, "at least 3 pruned levels"), (8, "make no error")])
def test_where_there_is_no_law_a_sentence_says_why(count, why):
    errors = torch.full((count + 1,), 0.03 if count < 3 else 0.0, dtype=torch.float64)
    found = told(errors, min(count, 5))
    assert found["predicted"] == {"mean": None, "low": None, "high": None}
    assert found["points"] == [] and found["sentence"].startswith("No pruning law could be fitted")
    assert why in found["sentence"]


def test_most_levels_are_fitted_and_some_are_held_out():
    assert 0.5 < _FITTED < 0.75
