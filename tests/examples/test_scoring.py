import pytest
import torch

from surplus.errors import InputError
from surplus.examples import el2n, hardness, reliability, score, score_all
from surplus.registry import _METHODS, method
from surplus.stats import Estimate

OWN = {
    "aum": "margin",
    "c-score": "hits trained_on share",
    "cumulative-accuracy": "correct",
    "cumulative-confidence": "confidence",
    "cumulative-loss": "loss",
    "density": "inputs",
    "el2n": "error",
    "forgetting": "correct",
    "local-outlier-factor": "inputs",
    "memorization": "hits trained_on share",
    "same-class-density": "inputs labels",
    "signed-density": "inputs labels",
}
EXAMPLE_AXIS = {"labels": 0, "inputs": 0, "hits": 1, "trained_on": 1} | dict.fromkeys(
    ["error", "correct", "confidence", "margin", "loss"], 2
)


@pytest.fixture
def evidence():
    g = torch.Generator().manual_seed(0)
    n, runs, epochs = 24, 6, 7
    record = {k: torch.rand(runs, epochs, n, generator=g) for k in ("error", "confidence", "loss")}
    for values in record.values():
        values[torch.rand(values.shape, generator=g) < 0.1] = torch.nan
    return {
        **record,
        "correct": torch.rand(runs, epochs, n, generator=g).round(),
        "margin": torch.randn(runs, epochs, n, generator=g),
        "labels": torch.randint(3, (n,), generator=g),
        "inputs": torch.randn(n, 5, generator=g),
        "hits": torch.rand(runs, n, generator=g).round(),
        "trained_on": torch.rand(runs, n, generator=g) < 0.5,
        "share": torch.tensor([0.3, 0.3, 0.3, 0.6, 0.6, 0.6]),
    }


@pytest.mark.parametrize(("name", "needs"), OWN.items())
def test_a_score_is_computed_from_just_what_it_needs(name, needs, evidence):
    estimate = score(name, {k: evidence[k] for k in needs.split()})
    assert estimate.mean.shape == estimate.stderr.shape == (24,)


@pytest.mark.parametrize("name", OWN)
def test_a_score_ignores_the_order_of_examples(name, evidence):
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    moved = {k: v.index_select(EXAMPLE_AXIS[k], order) if k in EXAMPLE_AXIS else v for k, v in evidence.items()}
    before, after = score(name, evidence), score(name, moved)
    torch.testing.assert_close(after.mean, before.mean[order], equal_nan=True)
    torch.testing.assert_close(after.stderr, before.stderr[order], equal_nan=True)


@pytest.mark.parametrize("name", OWN)
def test_a_score_keeps_double_precision(name, evidence):
    doubled = {k: v.double() if v.is_floating_point() else v for k, v in evidence.items()}
    assert score(name, doubled).mean.dtype == torch.float64
    torch.testing.assert_close(score(name, doubled).mean.float(), score(name, evidence).mean, equal_nan=True)


def test_all_scores_that_the_evidence_serves_are_computed(evidence):
    assert set(OWN) <= set(score_all(evidence))
    only = score_all({"error": evidence["error"], "labels": None})
    assert "el2n" in only
    assert not set(only) & (set(OWN) - {"el2n"})
    torch.testing.assert_close(only["el2n"].mean, el2n(evidence["error"]).mean)


def test_named_scores_only(evidence):
    assert list(score_all(evidence, names=["forgetting", "c_score"])) == ["forgetting", "c-score"]
    assert score_all({}, names=["forgetting"]) == {}


def test_a_score_of_your_own_joins_by_its_arguments(evidence):
    @method("example score", high="noisy")
    def my_score(loss, labels=7):
        return Estimate.over(loss.nanmean(1) + labels)

    try:
        with_labels, without = evidence, {**evidence, "labels": None}
        speed = evidence["loss"].nanmean(1).mean(0)
        torch.testing.assert_close(score_all(with_labels, ["my-score"])["my-score"].mean, speed + evidence["labels"])
        torch.testing.assert_close(score_all(without, ["my-score"])["my-score"].mean, speed + 7)
    finally:
        del _METHODS["example score", "my-score"]


def test_missing_evidence_is_named_with_its_source(evidence):
    with pytest.raises(InputError, match=r"'c-score' needs .*trained_on .*share .*random subsets"):
        score("c-score", {"hits": evidence["hits"]})


def test_options_reach_the_score_and_unknown_ones_are_refused(evidence):
    torch.testing.assert_close(score("el2n", evidence, epoch=2).mean, el2n(evidence["error"], epoch=2).mean)
    with pytest.raises(InputError, match="no setting 'epochs'; it takes error, epoch"):
        score("el2n", evidence, epochs=2)


def test_an_unknown_score_gets_the_nearest_name(evidence):
    with pytest.raises(InputError, match=r"did you mean .*el2n"):
        score("el2", evidence)


def test_hardness_turns_scores_whose_high_end_is_easy():
    values = torch.tensor([1.0, 2.0])
    assert hardness("el2n", values).tolist() == [1, 2]
    assert hardness("aum", values).tolist() == [-1, -2]


def test_reliability_finds_the_share_of_variance_that_is_signal():
    g = torch.Generator().manual_seed(0)
    runs, n = 8, 4000
    error = torch.randn(1, 1, n, generator=g) + 2 * torch.randn(runs, 1, n, generator=g)  # signal 1, noise 4 / runs
    assert reliability("el2n", {"error": error}) == pytest.approx(1 / (1 + 4 / runs), abs=0.03)


def test_reliability_of_a_difference_of_runs(evidence):
    g = torch.Generator().manual_seed(0)
    trained_on = torch.rand(40, 300, generator=g) < 0.5
    memorised = torch.arange(300) < 150
    hits = trained_on | ~memorised
    evidence = {"hits": hits, "trained_on": trained_on, "share": torch.full((40,), 0.5)}
    assert reliability("memorization", evidence, splits=3) == pytest.approx(1)


def test_reliability_halves_whatever_belongs_to_runs():
    @method("example score", high="hard")
    def gapped(thetas, buffers):
        assert len(thetas) == len(buffers["shift"])
        return Estimate.over(thetas + buffers["shift"])

    try:
        noise, signal = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)), torch.arange(50.0)
        shared = {"thetas": noise, "buffers": {"shift": signal - noise}}
        assert reliability("gapped", shared, splits=3) == pytest.approx(1)  # only if both follow the same runs
    finally:
        del _METHODS["example score", "gapped"]


def test_reliability_needs_runs(evidence):
    assert reliability("el2n", {"error": evidence["error"][:1]}) != reliability("el2n", evidence)
    with pytest.raises(InputError, match="no independent runs"):
        reliability("density", evidence)
    with pytest.raises(InputError, match="needs evidence"):
        reliability("el2n", {})
