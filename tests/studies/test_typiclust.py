from __future__ import annotations

import numpy as np
import pytest
import torch

from surplus.errors import InputError
from surplus.examples.active import LearningCurve
from surplus.studies import Bench, load_result, run_study, typiclust
from surplus.studies.base import draw_study
from surplus.studies.typiclust import CIFAR, COVERAGE, EMBEDDINGS, PROTOCOLS, TURN, TYPICAL
from surplus.training import Store


@pytest.fixture(autouse=True)
def fresh():
    typiclust.play.cache_clear()


def bench(tmp_path, scale="smoke", **changes):
    return Bench(scale, PROTOCOLS[scale].model_copy(update=changes), Store(tmp_path))


def told(monkeypatch, bench, table):
    """Courses as told: accuracy after each round by strategy, the same for every seed but for a little."""

    def play(protocol, device, strategy, seed):
        accuracy = torch.tensor(table[strategy]).double() + 0.001 * seed * (strategy == "typiclust")
        return LearningCurve(strategy, protocol.budgets, accuracy, torch.tensor([9, 10]), torch.arange(1), False)

    monkeypatch.setattr(typiclust, "play", play)
    play.cache_clear = lambda: None
    return bench


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typiclust")
    return folder, run_study("typiclust", "smoke", Store(folder / "store"), out=folder)


def test_every_claim_gets_a_verdict_with_random_choice_among_its_rows(smoke):
    result = smoke[1]
    assert [m.claim for m in result.measured] == [TYPICAL, COVERAGE, TURN, CIFAR]
    for m in result.measured[:3]:
        assert m.verdict in ("holds", "fails", "undecided") and any(r["row"] == "random" for r in m.rows)
    assert result.verdicts[CIFAR.slug] == "undecided" and "gpu" in result.measured[3].note


def test_the_figure_is_drawn_again_from_what_is_stored(smoke, tmp_path):
    folder, result = smoke
    stored = load_result(folder / "typiclust.json")
    assert stored.as_dict() == result.as_dict()
    assert draw_study(stored, tmp_path).read_bytes() == (folder / "typiclust.svg").read_bytes()
    assert 1_000 < (folder / "typiclust.svg").stat().st_size < 100_000


def test_the_gain_of_the_paper_is_there_on_a_few_digits(smoke):
    rows = smoke[1].measured[0].rows
    at_ten = {r["row"]: r["value"] for r in rows if r.get("labels") == 10}
    assert at_ten["typiclust"] > at_ten["random"] + 0.05 and at_ten["margin"] == at_ten["random"]
    few = {r["row"]: r["value"] for r in smoke[1].measured[1].rows}
    assert few["typiclust"] > few["random"]


BUDGETS = (10, 20, 40, 300, 500)
LOW = [0.7, 0.8, 0.85]


@pytest.mark.parametrize(
    ("late", "verdict"), [((0.97, 0.98), "holds"), ((0.93, 0.94), "fails"), ((0.951, 0.951), "undecided")]
)
def test_the_order_turns_only_if_margin_wins_in_the_end(tmp_path, monkeypatch, late, verdict):
    table = {"typiclust": [*LOW, 0.95, 0.95], "margin": [0.5, 0.7, 0.8, *late], "random": [0.5] * 5}
    b = told(monkeypatch, bench(tmp_path, budgets=BUDGETS, seeds=3), table)
    measured = typiclust.typiclust_study(TURN, b)
    assert measured.verdict == verdict
    gap = {r["labels"]: r["value"] for r in measured.rows if r["row"] == "margin - typiclust" and "needs" not in r}
    assert list(gap) == list(BUDGETS) and gap[20] == pytest.approx(-0.101)


def test_margin_must_lose_in_the_beginning(tmp_path, monkeypatch):
    table = {"typiclust": [*LOW, 0.95, 0.95], "margin": [0.5, 0.9, 0.95, 0.97, 0.97], "random": [0.5] * 5}
    b = told(monkeypatch, bench(tmp_path, budgets=BUDGETS, seeds=3), table)
    assert typiclust.typiclust_study(TURN, b).verdict == "fails"


def test_typical_examples_must_win_at_every_small_budget(tmp_path, monkeypatch):
    table = {"typiclust": LOW, "margin": [0.5] * 3, "random": [0.5, 0.6, 0.7]}
    b = told(monkeypatch, bench(tmp_path, budgets=BUDGETS[:3], seeds=3), table)
    assert typiclust.typiclust_study(TYPICAL, b).verdict == "holds"
    table["random"] = [0.5, 0.6, 0.9]
    assert typiclust.typiclust_study(TYPICAL, b).verdict == "fails"


@pytest.fixture
def embedding(provided_files):
    """An embedding of the sixty stand-in pictures, in which classes are easy."""
    chance, labels = torch.Generator().manual_seed(0), torch.arange(60) % 3
    h = {p: torch.eye(3)[labels] + 0.3 * torch.randn(60, 3, generator=chance) for p in ("train", "test")}
    (provided_files / "embeddings").mkdir()
    np.savez(provided_files / EMBEDDINGS, **{k: v.numpy() for k, v in h.items()})
    return provided_files


def test_the_protocol_for_cifar_10_runs_when_it_is_made_small(tmp_path, embedding):
    small = bench(tmp_path, "gpu", seeds=2, budgets=(10, 20, 50, 55), many=55)
    measured = typiclust.typiclust_study(CIFAR, small)
    assert [r["labels"] for r in measured.rows[:3]] == [10, 50, 55]
    assert {r["row"] for r in measured.rows} >= {"typiclust", "prob-cover", "random", "margin", "badge", "coreset"}
    assert all(0 <= r["value"] <= 1 for r in measured.rows if r["quantity"] == "test accuracy")


def test_an_embedding_of_other_pictures_is_refused(tmp_path, embedding):
    np.savez(embedding / EMBEDDINGS, train=np.zeros((59, 3)), test=np.zeros((60, 3)))
    with pytest.raises(InputError, match=r"not \(60, d\) and \(60, d\)"):
        typiclust.typiclust_study(CIFAR, bench(tmp_path, "gpu"))


def test_without_an_embedding_the_claim_says_what_it_needs(tmp_path, provided_files):
    result = run_study("typiclust", "gpu", Store(tmp_path / "store"), out=tmp_path)
    assert "embeddings/cifar10.npz" in result.measured[3].note
    assert result.verdicts[CIFAR.slug] == "undecided"
    assert (tmp_path / "typiclust.svg").exists()
