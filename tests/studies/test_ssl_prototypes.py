from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from surplus.studies import Bench, Untestable, data, run_study, ssl_prototypes
from surplus.studies.ssl_prototypes import LAW, METRIC, POOL, PROBE, PROTOCOLS, SCARCE, TURN
from surplus.tasks import Duration
from surplus.theory import perceptron_pruning
from surplus.training import Store


def bench(tmp_path, scale="smoke", **changes):
    return Bench(scale, PROTOCOLS[scale].model_copy(update=changes), Store(tmp_path))


@pytest.fixture
def students(monkeypatch):
    """Simulated errors that scatter a little around what theory says, times what a test asks for."""
    factors: dict[tuple, float] = {}

    def errors(bench, taught):
        scatter = 1 + 0.001 * torch.linspace(-1, 1, 20, dtype=torch.float64)
        return factors.get(taught, 1.0) * ssl_prototypes.theory(taught) * scatter

    monkeypatch.setattr(ssl_prototypes, "errors", errors)
    return factors


@pytest.fixture
def twins(students, monkeypatch):
    """As above, and the hardest half of much data is as good as all of it."""
    half, everything = ((10.0, f, 0.0, "hard") for f in (0.5, 1.0))
    students[half] = ssl_prototypes.theory(everything) / ssl_prototypes.theory(half)
    return students


@pytest.mark.parametrize("claim", [POOL, SCARCE, PROBE])
def test_students_as_in_theory_hold(tmp_path, students, claim):
    measured = ssl_prototypes.ssl_prototypes(claim, bench(tmp_path))
    assert measured.verdict == "holds", measured.rows
    assert any(row["row"].startswith("random") and row["quantity"] == "test error" for row in measured.rows)


def test_the_order_turns_in_theory(tmp_path, twins):
    assert ssl_prototypes.ssl_prototypes(TURN, bench(tmp_path)).verdict == "holds"


@pytest.mark.parametrize(
    ("claim", "taught", "factor"),
    [
        (TURN, (1.0, 0.5, 0.0, "easy"), 2.0),  # easy examples of little data as bad as hard ones
        (TURN, (10.0, 0.5, 0.0, "hard"), 1.01),  # hard examples of much data not as good as all
        (POOL, (25.0, 0.2, 0.0, "hard"), 1.01),  # off theory, in the right order
        (SCARCE, (5.0, 0.2, 0.0, "hard"), 0.5),
        (PROBE, (1, 0.5, 40, "easy"), 1.01),
    ],
)
def test_students_unlike_theory_fail(tmp_path, twins, claim, taught, factor):
    twins[taught] = factor
    assert ssl_prototypes.ssl_prototypes(claim, bench(tmp_path)).verdict == "fails"


def test_curves_are_those_of_theory(tmp_path, students):
    rows = ssl_prototypes.ssl_prototypes(POOL, bench(tmp_path)).rows
    curve = {r["alpha"]: r["value"] for r in rows if r["row"] == "hardest 1/5, theory"}
    assert list(curve) == pytest.approx([0.5, 20])
    assert curve[0.5] == perceptron_pruning(2.5, 0.2).error


def test_exponents_decide_the_law(tmp_path, monkeypatch):
    """A frontier that is a power law bends nowhere."""
    monkeypatch.setattr(ssl_prototypes, "best", lambda alpha, pool, degrees, shares: 0.2 / alpha)
    measured = ssl_prototypes.ssl_prototypes(LAW, bench(tmp_path))
    verdicts = {r["row"]: r["verdict"] for r in measured.rows if "verdict" in r}
    assert measured.verdict == "fails" and verdicts["perfect probe, 2 to 4 - 1 to 2"] == "fails"
    assert verdicts["random, 10 to 60"] == "holds" == verdicts["20 degrees, 32 to 128"]


@pytest.mark.parametrize(("easy", "hard", "verdict"), [(0.8, 0.6, "holds"), (0.6, 0.8, "fails")])
def test_the_metric_is_judged_at_the_smallest_share(tmp_path, monkeypatch, easy, hard, verdict):
    def accuracies(bench, task, distance, keep, seed):
        small = keep < 0.1
        return (
            {"easiest": easy + 0.01 * seed, "hardest": hard, "random": 0.7}
            if small
            else {"easiest": hard, "hardest": easy}
        )

    monkeypatch.setattr(ssl_prototypes, "_accuracies", accuracies)
    measured = ssl_prototypes.ssl_prototypes(METRIC, bench(tmp_path, keeps=(0.05, 0.5), data="digits", dims=5))
    assert measured.verdict == verdict and measured.note.startswith("Data: digits")
    assert {r["keep"] for r in measured.rows} == {0.05, 0.5}


def test_mnist_is_taken_where_it_is_and_nothing_else_gives_way(provided_files, no_files, monkeypatch, tmp_path):
    assert ssl_prototypes._source("mnist") == "digits"
    with pytest.raises(Untestable, match="cifar10"):
        ssl_prototypes._source("cifar10")
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv(data.FOLDER, str(tmp_path))
    assert ssl_prototypes._source("mnist") == "mnist" and ssl_prototypes._source("cifar10") == "cifar10"


def test_the_protocol_for_a_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    recipe = PROTOCOLS["gpu"].recipe.model_copy(update={"duration": Duration("3it"), "batch_size": 16})
    small = bench(
        tmp_path,
        "gpu",
        seeds=2,
        keeps=(0.3, 0.8),
        options={"width": 0.05},
        execution="stacked",
        embedding="resnet-cifar",
        recipe=recipe,
    )
    measured = ssl_prototypes.ssl_prototypes(METRIC, small)
    assert [r["row"] for r in measured.rows[:2]] == ["easiest - hardest", "hardest - random"]
    assert [r["keep"] for r in measured.rows[:2]] == [0.3, 0.8]


def test_every_claim_has_a_verdict_and_the_figure_its_lines(tmp_path, no_files, students, monkeypatch):
    monkeypatch.setattr(ssl_prototypes, "best", lambda alpha, pool, degrees, shares: 0.2 / alpha)
    result = run_study("ssl-prototypes", "smoke", Store(tmp_path / "store"), out=tmp_path)
    assert len(result.verdicts) == 6 and set(result.verdicts.values()) <= {"holds", "fails", "undecided"}
    for m in result.measured:
        assert any(row["row"].startswith("random") for row in m.rows), m.claim.slug
    sheet = ssl_prototypes.draw(result)
    legends = [[t.get_text() for t in axes.get_legend().get_texts()] for axes in sheet.axes if axes.get_legend()]
    assert len(legends) == 4 and all(any(text.startswith("random") for text in texts) for texts in legends)
    assert 1_000 < (tmp_path / "ssl-prototypes.svg").stat().st_size < 100_000


def test_three_standard_errors_are_three():
    interval = ssl_prototypes._stderrs(torch.tensor([1.0, 2.0, 3.0, 4.0]), 3)
    stderr = np.std([1, 2, 3, 4], ddof=1) / 2
    assert (interval.low, interval.high) == pytest.approx((2.5 - 3 * stderr, 2.5 + 3 * stderr))
    assert interval.level == pytest.approx(0.9423, abs=1e-3) and interval.repeats == 4
    assert ssl_prototypes._holding(ssl_prototypes._stderrs(torch.tensor([1.0]), 3), 1.0) == "undecided"
    assert not math.isnan(interval.value)
