"""Training what scores need, tables of scores, and selections beside random."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from surplus.errors import InputError
from surplus.examples import Comparing, Gathering, Selected, compare, gather, score, score_record, score_task, written
from surplus.examples.comparing import over_seeds_and_examples
from surplus.examples.gathering import of_record
from surplus.tasks import load
from surplus.training import ExampleRecord, Store, fit, read_record


@pytest.fixture(scope="module")
def task():
    digits = load("digits").with_recipe(duration="6ep")
    return replace(digits, train=digits.train[:300])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


FEW = Gathering(replicas=3, runs_per_share=6, shares=(0.5, 0.7))


def test_only_what_the_scores_ask_for_is_trained(task, tmp_path):
    store = Store(tmp_path)
    gather(task, ["same-class-density"], FEW, store=store)
    assert not list(store.entries())
    evidence = gather(task, ["el2n", "grand"], FEW, store=store)
    assert evidence["error"].shape == (3, 6, 300) and len(evidence["thetas"]) == 3 and "hits" not in evidence
    trained = len(list(store.entries()))
    evidence = gather(task, ["el2n", "memorization"], FEW, store=store)
    assert evidence["hits"].shape == (12, 300) and "thetas" not in evidence
    assert torch.equal(evidence["trained_on"].float().mean(1), evidence["share"])
    assert len(list(store.entries())) > trained


def test_scores_of_a_task_are_those_of_its_runs(task, store):
    table = score_task(task, ["el2n", "grand", "c-score"], FEW, store=store)
    evidence = gather(task, ["el2n", "grand", "c-score"], FEW, store=store)
    for name, estimate in table.scores.items():
        assert torch.equal(estimate.mean.nan_to_num(9), score(name, evidence).mean.nan_to_num(9))


def test_one_file_holds_every_score_by_id_with_its_companions(task, store, tmp_path):
    table = score_task(task, settings=FEW, store=store)
    assert list(table.scores) == of_record() and "el2n" in table.scores
    table.save(tmp_path)
    rows = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    assert rows["id"] == list(task.train.ids) and rows["label"] == [str(int(y)) for y in task.train.targets]
    np.testing.assert_allclose(rows["el2n"], table.scores["el2n"].mean, rtol=1e-6)
    assert np.isfinite(rows["el2n_stderr"]).all()
    matrix = np.genfromtxt(tmp_path / "correlation.csv", delimiter=",", skip_header=1)[:, 1:]
    assert np.allclose(matrix, matrix.T) and np.allclose(np.diag(matrix), 1)
    stored = json.loads((tmp_path / "scores.json").read_text())
    assert {row["name"] for row in stored["scores"]} == set(table.scores) and stored["settings"]["replicas"] == 3
    assert (tmp_path / "stability.csv").read_text().splitlines()[0] == "score,top,runs,overlap"


def test_a_record_of_anyones_loop_is_scored_as_the_run_itself(task, store, tmp_path):
    run = fit(task, seeds=[0, 1], record=True, store=store)
    with ExampleRecord(300, tmp_path / "record", replicas=2) as record:
        g = torch.Generator().manual_seed(0)
        for _ in range(3):
            index = torch.stack([torch.randperm(300, generator=g) for _ in range(2)])
            record.update(index, torch.randn(2, 300, 10, generator=g), task.train.targets[index])
            record.end_epoch()
    table = score_record(tmp_path / "record")
    assert set(table.scores) == set(of_record()) and len(table.ids) == 300 and table.labels is None
    assert torch.equal(table.scores["el2n"].mean, score("el2n", record.arrays()).mean)
    assert run.record.keys() == record.arrays().keys()
    with pytest.raises(InputError, match=r"was not given: .*thetas"):
        score_record(tmp_path / "record", ["grand"])
    with pytest.raises(InputError, match="holds no example record"):
        score_record(tmp_path)


def test_diverged_networks_are_no_evidence(task, tmp_path):
    with pytest.warns(UserWarning, match="diverged"), pytest.raises(InputError, match="lower the rate"):
        gather(task.with_recipe(lr=1e9), ["el2n"], FEW, store=Store(tmp_path))


def test_every_rule_stands_beside_random_with_the_same_seeds(task, store, tmp_path):
    settings = Comparing(seeds=3, replicas=2)
    found = compare(task, {"hardest": {}, "ccs": {"beta": 0.1}, "k-center": {}}, 0.2, settings, store=store)
    assert list(found.kept) == ["hardest", "ccs", "k-center", "random"]
    assert all(kept.shape == (3, 300) and (kept.sum(1) == 60).all() for kept in found.kept.values())
    assert not torch.equal(found.kept["random"][0], found.kept["random"][1])
    rows = {row["rule"]: row for row in found.table()}
    difference = (found.accuracy["hardest"] - found.accuracy["random"]).mean()
    assert rows["hardest"]["minus_random"] == pytest.approx(float(difference), abs=1e-6)
    assert "minus_random" not in rows["random"] and rows["all examples"]["kept"] == 300
    found.save(tmp_path)
    table = pq.read_table(tmp_path / "keep.parquet")
    assert table.column_names == ["id", "hardest", "ccs", "k-center", "random"]
    assert (tmp_path / "comparison.csv").read_text().count("\n") == 6
    assert json.loads((tmp_path / "selection.json").read_text())["rules"]["ccs"] == {"beta": 0.1}


def test_rules_that_weigh_are_trained_with_their_weights(task, store):
    settings = Comparing(seeds=2, replicas=2)
    found = compare(task, ["craig"], 0.1, settings, store=store)
    plain = fit(
        task.with_recipe(duration=f"{task.recipe.duration.steps(-(-300 // task.recipe.batch_size))}it"),
        seeds=found.provenance["training_seeds"],
        subsets=found.kept["craig"],
        store=store,
    )
    assert not torch.equal(found.accuracy["craig"], plain.evaluate("test").metric)


def test_intervals_hold_for_other_seeds_and_other_test_examples():
    same = torch.tensor([1.0, 0.0, 1.0, 1.0]).repeat(5, 25)  # five seeds that agree on every one of 100 examples
    mean, low, high = over_seeds_and_examples(same)
    sd = float(same[0].double().std())
    assert (
        mean == 0.75
        and high - mean == pytest.approx(1.96 * sd / 10, rel=1e-3)
        and mean - low == pytest.approx(high - mean)
    )
    apart = torch.tensor([[1.0] * 100, [0.0] * 100])  # two that agree nowhere: Student's t with one degree of freedom
    mean, low, high = over_seeds_and_examples(apart)
    assert high - mean == pytest.approx(12.706 * 0.5, rel=1e-3)


def test_the_score_decides_what_the_hardest_are(task, store):
    found = compare(task, ["hardest"], 0.1, Comparing(seeds=2, replicas=2, score="aum"), store=store)
    gathering = Gathering(replicas=2)
    margins = score("aum", gather(task, ["aum"], gathering, store=store)).mean
    assert margins[found.kept["hardest"][0]].max() <= margins[~found.kept["hardest"][0]].min()


def test_mistakes_are_told_before_anything_is_trained(task, tmp_path):
    store = Store(tmp_path)
    for bad, words in [
        (lambda: compare(task, ["hardst"], store=store), "did you mean hardest"),
        (lambda: compare(task, {"ccs": {"drop": 1}}, store=store), "it takes beta, strata"),
        (lambda: compare(task, ["ccs:beta=banana"], store=store), "beta of the rule 'ccs' is a number"),
        (lambda: compare(task, ["hardest"], 2, store=store), "less than or equal to 1"),
        (lambda: compare(task, ["hardest"], 0.0001, store=store), "leaves none"),
        (lambda: compare(task, ["hardest"], settings=Comparing(score="el3n"), store=store), "did you mean el2n"),
        (lambda: score_task(task, ["elan"], store=store), "example score is called"),
    ]:
        with pytest.raises(InputError, match=words):
            bad()
    assert not list(store.entries())


def test_a_rule_and_its_options_are_one_word():
    assert written("ccs:beta=0.1,strata=20") == ("ccs", {"beta": 0.1, "strata": 20}) and written("hardest") == (
        "hardest",
        {},
    )


def test_one_rule_may_stand_with_two_settings(task, store):
    settings = Comparing(seeds=2, replicas=2)
    found = compare(task, ["ccs:beta=0.1", "ccs:beta=0.4"], 0.2, settings, store=store)
    assert list(found.kept) == ["ccs:beta=0.1", "ccs:beta=0.4", "random"]
    assert not torch.equal(found.kept["ccs:beta=0.1"], found.kept["ccs:beta=0.4"])
    assert found.provenance["rules"]["ccs:beta=0.4"] == {"beta": 0.4}


def test_intervals_of_accuracies_stay_within_zero_and_one(task):
    found = Selected(task, Comparing(seeds=2), {}, {"random": torch.tensor([[0.0, 1.0], [1.0, 1.0]])})
    (row,) = found.table()
    assert (row["low"], row["high"]) == (0.0, 1.0)


@pytest.mark.parametrize("top", [0, 1, 2, float("nan"), -0.1])
def test_a_top_that_is_no_share_is_refused_before_training(task, tmp_path, top):
    with pytest.raises(InputError, match="in \\(0, 1\\)"):
        score_task(task, ["el2n"], FEW, top=top, store=Store(tmp_path))
    assert not list(Store(tmp_path).entries())


def test_what_is_no_record_is_told(tmp_path):
    whole = {"epoch": [0, 0], "replica": [0, 0], "example": [0, 1], "loss": [1.0, 2.0]}
    for name, columns, words in [
        ("foreign", {"a": [1]}, "no file of an example record"),
        ("text", whole | {"epoch": ["a", "b"]}, "whole numbers called epoch"),
        ("negative", whole | {"example": [-1, 1]}, "count from 0"),
        ("empty", {c: pa.array(v)[:0] for c, v in whole.items()}, "no visit"),
    ]:
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(columns), tmp_path / name / "epochs-00000.parquet")
        with pytest.raises(InputError, match=words):
            score_record(tmp_path / name)
    with pytest.raises(InputError, match="there is no record"):
        score_record(tmp_path / "absent")
    (tmp_path / "mixed").mkdir()
    pq.write_table(pa.table(whole), tmp_path / "mixed" / "epochs-00000.parquet")
    pq.write_table(pa.table(whole | {"margin": [1.0, 1.0]}), tmp_path / "mixed" / "epochs-00001.parquet")
    with pytest.raises(InputError, match="same columns"):
        score_record(tmp_path / "mixed")
    (tmp_path / "mixed" / "epochs-00001.parquet").unlink()
    with pytest.raises(InputError, match="of 2 examples"):
        read_record(tmp_path / "mixed", n=1)


def test_rules_joined_by_commas_are_told_apart():
    with pytest.raises(InputError, match="separated by spaces"):
        written("hardest,ccs")
