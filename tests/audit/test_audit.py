import csv
import json
import time
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from surplus.audit import AuditSettings, audit, seconds
from surplus.audit.bench import Bench, accuracy_summary, within_budget
from surplus.audit.settings import LARGE, SMALL, DirectionsPlan, ExamplesPlan, Plan, WeightsPlan, plan_for
from surplus.data import Dataset, Splits, generated
from surplus.errors import InputError
from surplus.pruning import load_module, load_ticket
from surplus.report import write_report
from surplus.tasks import Recipe, load, task_from
from surplus.training import Store

TINY = Plan(
    stacked=True,
    shares=(0.5, 0.8),
    runs_per_share=5,
    grand_runs=2,
    examples=ExamplesPlan(3, ("class-balanced-hardest", "ccs"), (0.8, 0.3)),
    weights=WeightsPlan(2, 0.6, 2, (1, 2)),
    directions=DirectionsPlan(2, (2, 8), (0.3, 0.6), 60, 4),
)
PRUNING = WeightsPlan(2, 0.5, 5, (5,))


def planted(n=400, noise=0.06):
    g = torch.Generator().manual_seed(0)
    x, y = generated.gaussian_blobs(n, g)
    classes = int(y.max()) + 1
    wrong = torch.rand(n, generator=g) < noise
    labels = torch.where(wrong, (y + 1) % classes, y)
    train = Dataset.of(x[: n * 3 // 4], labels[: n * 3 // 4], ids=[f"row-{i}" for i in range(n * 3 // 4)])
    return Splits("planted", train, Dataset.of(x[n * 3 // 4 :], y[n * 3 // 4 :])), wrong[: n * 3 // 4]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr("surplus.audit.auditing.plan_for", lambda task: TINY)
    splits, wrong = planted()
    task = task_from(splits, "mlp", recipe=Recipe(duration="8ep", lr=0.05, batch_size=32), widths=(16, 8))
    found = audit(task)
    folder = found.save(tmp_path_factory.mktemp("audit") / "out")
    patch.undo()
    return found, folder, wrong, task


def test_every_part_is_done_and_every_number_is_json(audited):
    found, folder, _, _ = audited
    result = json.loads((folder / "audit.json").read_text())
    assert result == found.result and result["status"] == "complete"
    assert all(result[p]["status"] == "done" for p in ("labels", "examples", "weights", "directions"))


def test_planted_errors_lead_the_suspects(audited):
    _, folder, wrong, _ = audited
    rows = list(csv.DictReader((folder / "suspects.csv").open()))
    assert list(rows[0]) == ["id", "label", "suggested", "mislabel_probability"]
    n = int(wrong.sum())
    hits = sum(bool(wrong[int(r["id"].removeprefix("row-"))]) for r in rows[:n])
    assert hits / n > 0.8
    p = [float(r["mislabel_probability"]) for r in rows]
    assert p == sorted(p, reverse=True) and len(rows) == len(wrong)


def test_the_score_table_has_a_row_per_training_example_and_a_spread_per_score(audited):
    _, folder, wrong, task = audited
    table = pq.read_table(folder / "scores.parquet")
    assert table.column("id").to_pylist() == list(task.train.ids)
    for name in ("c_score", "el2n", "grand", "forgetting", "memorization", "aum", "mislabel_probability"):
        assert {name, f"{name}_stderr"} <= set(table.column_names)
        values = torch.tensor(table.column(name).to_numpy())
        assert values.isfinite().all() and values.std() > 0
    p = torch.tensor(table.column("mislabel_probability").to_numpy())
    assert p[wrong].mean() > 0.5 > p[~wrong].mean()


def test_the_kept_ids_are_the_recommended_fraction(audited):
    found, folder, wrong, _ = audited
    table = pq.read_table(folder / "keep.parquet")
    kept = sum(table.column("keep").to_pylist())
    recommendation = found.result["examples"]["recommendation"]
    assert kept == recommendation["kept"] == round(recommendation["fraction"] * len(wrong))


def test_the_ticket_and_the_smaller_model_load_again(audited):
    found, folder, _, task = audited
    ticket = load_ticket(folder / "ticket.safetensors", task.space)
    assert (ticket.theta[~ticket.mask] == 0).all()
    x = task.prepare(task.test.inputs)
    small = load_module(folder / "smaller-model")
    assert torch.equal(small(x), found.smaller.module(x))
    assert sum(p.numel() for p in small.parameters()) < task.space.size


def test_every_curve_has_random_choice_beside_it_at_paired_seeds(audited):
    found, _, _, _ = audited
    curves = {c["rule"]: c for c in found.result["examples"]["curves"]}
    assert set(curves) == {"class-balanced-hardest", "ccs", "random"}
    assert all(len(p["values"]) == 3 for c in curves.values() for p in c["points"])
    assert {c["method"] for c in found.result["weights"]["curves"]} == {"imp", "one-shot", "snip", "random"}


def test_too_few_levels_leave_the_law_a_sentence(audited):
    law = audited[0].result["weights"]["law"]
    assert law["predicted"]["mean"] is None and law["points"] == []
    assert law["sentence"] == (
        "No pruning law could be fitted: a law needs at least 3 pruned levels to be fitted to, and there are 2."
    )


def test_the_law_speaks_before_the_last_levels_are_trained(audited, monkeypatch, tmp_path):
    monkeypatch.setattr("surplus.audit.auditing.plan_for", lambda task: replace(TINY, weights=PRUNING))
    said = []
    result = audit(audited[3], progress=said.append).result
    law = result["weights"]["law"]
    assert law["levels"] == 3 and [row["fitted"] for row in law["checked"]] == [True, True, True, False, False]
    at = next(i for i, text in enumerate(said) if "pruning law" in text)
    assert sum(text.startswith("weights:") for text in said[at:]) > 2  # levels and rivals still to come
    assert 0 < law["predicted"]["mean"] <= 1 or "tell" in law["sentence"]
    page = write_report(result, tmp_path).read_text(encoding="utf-8")
    assert "law fitted to the first 3 levels" in page


def test_every_number_links_to_its_runs(audited):
    found, _, _, _ = audited
    keys = {e.key for e in Store().entries()}
    runs = found.result["provenance"]["runs"]
    assert runs and all(r["key"] in keys for r in runs)
    assert {r["part"] for r in runs} == {"labels", "examples", "weights", "directions"}


def test_a_second_audit_trains_nothing_and_says_the_same(audited, monkeypatch):
    found, _, _, task = audited
    monkeypatch.setattr("surplus.audit.auditing.plan_for", lambda task: TINY)
    monkeypatch.setattr("surplus.training.fitting.Loop", None)
    again = audit(task).result
    assert {k: v for k, v in again.items() if k != "timing"} == {k: v for k, v in found.result.items() if k != "timing"}


def test_an_interrupted_audit_returns_what_is_done(audited, monkeypatch):
    _, _, _, task = audited
    monkeypatch.setattr("surplus.audit.auditing.plan_for", lambda task: TINY)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("surplus.audit.auditing.weights_part", stop)
    result = audit(task).result
    assert result["status"] == "interrupted" and result["examples"]["status"] == "done"
    assert result["weights"]["status"] == "left out" and "interrupted" in result["weights"]["note"]


def test_a_budget_that_leaves_no_room_leaves_parts_out_and_says_so():
    splits, _ = planted()
    task = task_from(splits, "mlp", recipe=Recipe(duration="3ep", lr=0.05, batch_size=32), widths=(16, 8))
    bench = Bench(task, AuditSettings(budget=20), LARGE, Store(), time.monotonic())
    bench.measure_cost = lambda: 100.0
    plan = within_budget(bench)
    assert (plan.examples, plan.weights, plan.directions) == (None, None, None)
    assert {row["part"] for row in bench.left_out} == {"examples", "weights", "directions"}
    assert 15 < plan.ensemble_seconds < 20


def test_a_generous_budget_changes_nothing_but_the_ensembles_time():
    splits, _ = planted()
    task = task_from(splits, "mlp", recipe=Recipe(duration="3ep", lr=0.05, batch_size=32), widths=(16, 8))
    bench = Bench(task, AuditSettings(budget=1e6), SMALL, Store(), time.monotonic())
    plan = within_budget(bench)
    assert (plan.examples, plan.weights, plan.directions) == (SMALL.examples, SMALL.weights, SMALL.directions)


def test_small_dense_networks_get_the_small_plan_and_images_the_large_one():
    assert plan_for(load("digits")) is SMALL
    assert plan_for(load("digits", "small-conv")) is LARGE


def test_accuracy_counts_the_chance_of_seeds_and_of_examples():
    g = torch.Generator().manual_seed(0)
    truth = 0.9
    inside = 0
    for _ in range(300):
        skill = truth + 0.02 * torch.randn(4, 1, generator=g)  # seeds differ
        correct = (torch.rand(4, 200, generator=g) < skill).float()
        s = accuracy_summary(correct)
        inside += s["low"] <= truth <= s["high"]
    assert inside / 300 > 0.9


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200)])
def test_budgets_are_times(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0", "-5m", "ten", "5 days", "1e3"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(InputError, match="a budget is a time"):
        seconds(text)


def test_tasks_without_classes_are_refused():
    with pytest.raises(InputError, match="needs class labels"):
        audit(load("sinusoid"))
