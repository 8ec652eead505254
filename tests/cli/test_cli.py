import json

import pytest

from surplus.cli import app, run, sentences


def test_help_teaches_by_example(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert "surplus audit" in text and "Examples" in text


@pytest.mark.parametrize("command", ["audit", "score", "select", "query", "condense", "prune", "list", "runs", "study"])
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
        ("query-strategies", "typiclust"),
        ("condensations", "idc"),
        ("pruning-schedules", "imp"),
        ("structured-prunings", "random-search"),
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


def test_scores_are_written_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ["--recipe", "duration=3ep", "--replicas", "2"]
    assert run(["score", "xor-clusters", "--scores", "el2n, aum", *short]) == 0
    out = capsys.readouterr().out
    assert "el2n" in out and "aum" in out and "scores.parquet" in out
    assert (tmp_path / "surplus-scores" / "xor-clusters" / "correlation.csv").exists()


def test_selections_are_told_beside_random(tmp_path, capsys):
    short = ["--recipe", "duration=3ep", "--replicas", "2", "--seeds", "2", "--keep", "0.2"]
    assert run(["select", "xor-clusters", "--rules", "hardest", "ccs:beta=0.1", *short, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("hardest", "ccs", "random", "all examples"))
    assert (tmp_path / "keep.parquet").exists()


def test_queries_are_written_and_told(tmp_path, capsys):
    assert run(["query", "--budget", "3", "--out", str(tmp_path / "ask.csv")]) == 0
    assert "3 examples to label" in capsys.readouterr().out
    assert len((tmp_path / "ask.csv").read_text().splitlines()) == 4


def test_condensed_data_are_data_like_any_other(tmp_path, capsys):
    tiny = "outer=1,inner=1,network=conv-net:depth=1"
    assert (
        run(["condense", "--method", "dsa", "--settings", tiny, "--seeds", "2", "--out", str(tmp_path / "made")]) == 0
    )
    out = capsys.readouterr().out
    assert "random real" in out and "gain" in out
    from surplus.data import read

    assert len(read(tmp_path / "made").train) == 10
