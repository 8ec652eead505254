import json

import pytest

from surplus.cli import app, run, sentences


def test_help_teaches_by_example(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert "surplus audit" in text and "Examples" in text


@pytest.mark.parametrize("command", ["audit", "list", "runs", "study"])
def test_every_command_explains_itself(command, capsys):
    assert run([command, "--help"]) == 0
    assert len(capsys.readouterr().out) > 100


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tasks", "digits"),
        ("networks", "lenet-5"),
        ("example-scores", "el2n"),
        ("studies", "imp"),
        ("measures", "barrier"),
    ],
)
def test_the_catalogue_lists_each_kind(kind, name, capsys):
    assert run(["list", kind]) == 0
    assert name in capsys.readouterr().out


def test_runs_are_listed_shown_and_cleaned(capsys):
    from surplus.tasks import load
    from surplus.training import Store, fit

    key = fit(load("xor-clusters").with_recipe(duration="1ep"), seeds=1).keys[0]
    assert run(["runs", "list"]) == 0 and key[:12] in capsys.readouterr().out
    assert run(["runs", "show", key[:12]]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["kind"] == "fit"
    assert run(["runs", "clean", "--all"]) == 0
    assert not Store().entries()


def test_an_audit_leaves_every_file_and_a_summary(tmp_path, monkeypatch, capsys):
    from tests.audit.test_audit import TINY

    monkeypatch.setattr("surplus.audit.auditing.plan_for", lambda task: TINY)
    code = run(["audit", "xor-clusters", "--out", str(tmp_path / "out"), "--recipe", "duration=3ep"])
    out = capsys.readouterr().out
    assert code == 0 and "Labels" in out and "Weights" in out
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "index.html",
        "audit.json",
        "scores.parquet",
        "suspects.csv",
        "keep.parquet",
        "ticket.safetensors",
        "smaller-model",
    }


def test_an_unexpected_error_is_one_line_and_code_one(monkeypatch, capsys):
    monkeypatch.setattr("surplus.training.Store.entries", lambda self: 1 / 0)
    assert run(["runs", "list"]) == 1
    assert "unexpected ZeroDivisionError" in capsys.readouterr().err


def test_the_summary_copes_with_parts_that_were_left_out():
    empty = {"status": "left out", "note": ""}
    result = {"data": {"train": 5}, "labels": empty, "examples": empty, "weights": empty, "directions": empty}
    assert sentences({**result, "left_out": [{"part": "weights", "what": "all", "why": "no time"}]}) == [
        ("Left out: weights", "all: no time")
    ]


def test_the_command_is_an_app():
    assert app.name == ("surplus",)
