from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from surplus.networks import build
from surplus.studies import Bench
from surplus.studies import cdr as study
from surplus.studies.cdr import EARLY, LATE, OVERLAP, PLAIN, PROTOCOLS, RandomWeights, cdr_study
from surplus.tasks import Duration
from surplus.training import Store, fit


def bench(tmp_path, scale="smoke", **changes):
    return Bench(scale, PROTOCOLS[scale].model_copy(update=changes), Store(tmp_path))


def test_a_tenth_of_the_noisy_data_is_held_out_with_its_wrong_labels(tmp_path):
    b = bench(tmp_path)
    task, wrong = study.noisy(b, 0)
    assert len(task.validation) == 126 and len(task.train) == len(wrong) == 1132
    assert abs(float(wrong.double().mean()) - 0.4) < 0.03
    truth = study.splits("digits", 0).train
    by_id = dict(zip(truth.ids.tolist(), truth.targets.tolist(), strict=True))
    held = [by_id[i] != int(t) for i, t in zip(task.validation.ids.tolist(), task.validation.targets, strict=True)]
    kept = [by_id[i] != int(t) for i, t in zip(task.train.ids.tolist(), task.train.targets, strict=True)]
    assert kept == wrong.tolist() and 0.25 < sum(held) / len(held) < 0.55


def test_the_control_moves_the_same_share_at_random_the_same_each_time(tmp_path):
    b = bench(tmp_path)
    task, _ = study.noisy(b, 0)
    one = task.with_recipe(duration="1it", momentum=0.0, weight_decay=0.0, batch_size=2000)
    runs = [fit(one, seeds=[0, 1], rule=RandomWeights(0.4), execution=e, jobs=1).theta for e in ("stacked", "spread")]
    torch.testing.assert_close(runs[0], runs[1])
    plain = fit(one, seeds=[0, 1], execution="stacked", jobs=1).theta
    start, weights = task.space.init_many([0, 1]), task.space.prunable
    steps, full = (runs[0] - start)[:, weights], (plain - start)[:, weights]
    live = full.abs() > 1e-6
    assert abs((steps[live] != 0).double().mean() - 0.6) < 0.05
    moved = live & (steps != 0)
    torch.testing.assert_close(steps[moved] / full[moved], torch.full((int(moved.sum()),), 0.6), rtol=0.2, atol=0.0)


def test_the_best_epoch_is_that_of_the_noisy_validation_set(tmp_path, monkeypatch):
    b = bench(tmp_path)
    task, _ = study.noisy(b, 0)
    steps = study.ends(task)
    assert list(steps) == [18 * k for k in range(1, 7)]
    valid = dict(zip(steps, [0.1, 0.4, 0.5, 0.5, 0.3, 0.2], strict=True))
    test = dict(zip(steps, [0.9, 0.9, 0.7, 0.8, 0.9, 0.9], strict=True))
    run = SimpleNamespace(task=task, at=lambda step: torch.tensor([float(step)]))
    scores = lambda task, point, data: (valid if data is task.validation else test)[int(point)]
    monkeypatch.setattr(study, "evaluate", lambda *a: SimpleNamespace(metric=torch.tensor([scores(*a)])))
    epoch, accuracy = study.stopped(b, run)
    assert epoch == 3 and accuracy == pytest.approx(0.7)


def test_steps_follow_each_other_and_the_last_look_is_the_end(tmp_path):
    task, _ = study.noisy(bench(tmp_path), 0)
    assert [study.consecutive(task, look) for look in (0.0, 1.0, 6.0)] == [(0, 1), (18, 19), (107, 108)]


def answers(monkeypatch, accuracy, memory=None):
    """Let training end so: arm -> a number per seed."""
    noisy = study.noisy
    run = lambda bench, task, name, seed: SimpleNamespace(name=name, seed=seed, task=task)
    monkeypatch.setattr(study, "trained", run)
    monkeypatch.setattr(study, "stopped", lambda bench, run: (1, accuracy[run.name][run.seed]))
    monkeypatch.setattr(Bench, "accuracy", lambda self, run: torch.tensor([accuracy[run.name][run.seed]]))

    def outputs(self, run, data):
        _, wrong = noisy(self, run.seed)
        few = wrong.nonzero().squeeze(1)[: round(memory[run.name][run.seed] * int(wrong.sum()))]
        right = (~wrong).index_fill(0, few, True)
        given = torch.where(right, run.task.train.targets, (run.task.train.targets + 1) % 10)
        return torch.nn.functional.one_hot(given, 10).double()[None]

    monkeypatch.setattr(Bench, "outputs", outputs)


ARMS = ("plain", "CDR")


@pytest.mark.parametrize(
    ("memory", "verdict"), [([0.2, 0.3, 0.25], "holds"), ([0.9, 0.95, 1.0], "fails"), ([0.2, 0.9, 0.7], "undecided")]
)
def test_cdr_must_test_better_and_memorize_less(tmp_path, monkeypatch, memory, verdict):
    answers(
        monkeypatch,
        {"plain": [0.7, 0.72, 0.71], "CDR": [0.8, 0.83, 0.8]},
        {"plain": [0.7, 0.71, 0.7], "CDR": memory},
    )
    assert cdr_study(LATE, bench(tmp_path, seeds=3, arms=ARMS)).verdict == verdict


@pytest.mark.parametrize(("cdr", "verdict"), [([0.89, 0.92, 0.9], "holds"), ([0.85, 0.86, 0.85], "fails")])
def test_at_the_best_epoch_cdr_may_be_one_standard_error_worse(tmp_path, monkeypatch, cdr, verdict):
    answers(monkeypatch, {"plain": [0.9, 0.91, 0.9], "CDR": cdr})
    measured = cdr_study(EARLY, bench(tmp_path, seeds=3, arms=ARMS))
    assert measured.verdict == verdict and {r["row"] for r in measured.rows} >= {*ARMS, "plain - CDR"}


def test_equal_sets_agree_wholly_and_random_ones_by_chance(tmp_path, monkeypatch):
    b = bench(tmp_path)
    task, _ = study.noisy(b, 0)
    run = SimpleNamespace(task=task, at=lambda step: torch.full((1, 3), float(step)))
    draw = torch.Generator().manual_seed(0)
    monkeypatch.setattr(study, "critical_set", lambda task, theta, rows, p: torch.rand(200_000, generator=draw) < 0.6)
    assert study.agreement(b, run, 1.0, 0) == pytest.approx((0.6 / 1.4, 0.6), abs=0.01)
    monkeypatch.setattr(study, "critical_set", lambda *_: torch.arange(10) < 4)
    assert study.agreement(b, run, 1.0, 0) == pytest.approx((1.0, 0.4))


def test_the_protocol_for_a_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    p = PROTOCOLS["gpu"]
    recipe = p.recipe.model_copy(update={"duration": Duration("2ep"), "batch_size": 18, "precision": "float32"})
    b = bench(tmp_path, "gpu", seeds=2, options={"width": 0.05}, recipe=recipe, sample=100, looks=(0.0, 2.0))
    for claim in (LATE, EARLY, OVERLAP):
        measured = cdr_study(claim, b)
        assert measured.rows and measured.seeds == 2


def test_the_claim_without_noise_fails_where_one_weight_differs(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "CDR", lambda noise, mode, l1: RandomWeights(0.01))
    assert cdr_study(PLAIN, bench(tmp_path)).verdict == "fails"


def test_the_network_of_the_gpu_protocol_is_there():
    p = PROTOCOLS["gpu"]
    assert sum(w.numel() for w in build(p.network, (3, 32, 32), 10, **p.options).parameters()) > 1e7
