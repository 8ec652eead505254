from __future__ import annotations

import pytest
import torch

from surplus.studies import Bench
from surplus.studies import activating_while_pruning as study
from surplus.studies.activating_while_pruning import CHOICE, FALLS, GAINS, PROTOCOLS, WAKES
from surplus.tasks import Augment, Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("activating")))


def test_all_arms_have_the_same_densities_and_as_many_trainings(bench):
    arms = [study.chain(bench, name) for name in ("magnitude", "negative", "positive", "random")]
    assert len({tuple(level.density for level in levels) for levels in arms}) == 1
    assert len({levels[0].run.keys[0] for levels in arms}) == 1  # one dense network for all
    last = [levels[-1].masks for levels in arms]
    assert not any(torch.equal(a, b) for i, a in enumerate(last) for b in last[:i])
    assert arms[0][-1].density == pytest.approx(0.125, abs=1e-3)


def rates(monkeypatch, of):
    """Let the dead-neuron rates (K,) be what a function of the level's density and masks says."""
    monkeypatch.setattr(study, "dead", lambda bench, level: (of(level), of(level) / 2))


def test_dead_neurons_that_fall_with_density_in_one_seed_alone_fail(bench, monkeypatch):
    for sign, verdict in ((1, "holds"), (-1, "fails")):
        rates(monkeypatch, lambda level, sign=sign: torch.tensor([level.density, sign * level.density]))
        assert study.activating_study(FALLS, bench).verdict == verdict


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "holds"), (-0.1, "fails")])
def test_the_rate_at_the_last_level_decides(bench, monkeypatch, gain, verdict):
    arms = {name: study.chain(bench, name)[-1].masks for name in ("magnitude", "negative", "positive", "random")}

    def of(level):
        name = next((n for n, masks in arms.items() if torch.equal(masks, level.masks)), "other")
        return torch.tensor([0.5, 0.52]) - (gain if name == "negative" else 0) * torch.tensor([1, 1.01])

    rates(monkeypatch, of)
    assert study.activating_study(WAKES, bench).verdict == verdict
    assert study.activating_study(CHOICE, bench).verdict == verdict


def test_dynamic_rates_are_shares_and_no_smaller_than_static_ones(bench):
    dynamic, static = study.dead(bench, study.chain(bench, "magnitude")[-1])
    assert dynamic.shape == (2,) and (static <= dynamic).all() and (dynamic > 0).all() and (dynamic < 1).all()


def test_the_protocol_of_accuracy_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    changes = {"duration": Duration("2ep"), "milestones": (Duration("1ep"),), "warmup": Duration("2it")}
    recipe = gpu.recipe.model_copy(update={**changes, "batch_size": 20, "augment": Augment(shift=1)})
    small = {"seeds": 2, "options": {"width": 0.25}, "recipe": recipe, "densities": (0.8, 0.5), "rate": 0.4}
    small["execution"] = "stacked"
    b = Bench("gpu", gpu.model_copy(update=small), Store(tmp_path / "store"))
    measured = study.activating_study(GAINS, b)
    assert [r["density"] for r in measured.rows[:2]] == pytest.approx([0.8, 0.5], abs=1e-3)
    assert {r["row"] for r in measured.rows} == {"AP - magnitude", "AP", "magnitude", "random mask"}
