from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from surplus.data.noise import NoisyLabels, symmetric
from surplus.networks import build
from surplus.space import generator
from surplus.studies import Bench
from surplus.studies import noise_and_outliers as study
from surplus.studies.data import splits
from surplus.studies.noise_and_outliers import ARMS, FITS, PROMISED, PROTOCOLS, SOONER, deviation, epochs_to, spoilt
from surplus.tasks import Duration
from surplus.training import Store


def bench(tmp_path, scale="smoke", **changes):
    return Bench(scale, PROTOCOLS[scale].model_copy(update=changes), Store(tmp_path))


def test_the_first_epoch_above_the_threshold_counts_and_never_is_one_past_the_last():
    curves = torch.tensor([[0.5, 0.99, 0.98, 1.0], [0.1, 0.2, 0.3, 0.98], [1.0, 1, 1, 1]])
    assert epochs_to(0.99, curves.double()).tolist() == [2, 5, 1]


def test_a_deviation_is_counted_in_binomial_standard_errors():
    labels = torch.zeros(100, dtype=torch.int64)
    noisy = labels.index_fill(0, torch.arange(30), 1)
    promised = torch.tensor([[0.8, 0.2], [0.0, 1.0]], dtype=torch.float64)
    record = NoisyLabels(noisy, noisy != labels, promised)
    assert deviation(labels, record, 2) == pytest.approx(0.1 / (0.8 * 0.2 / 100) ** 0.5)
    impossible = NoisyLabels(noisy, noisy != labels, torch.eye(2, dtype=torch.float64))
    assert deviation(labels, impossible, 2) == float("inf")
    assert deviation(labels, NoisyLabels(labels, labels < 0, torch.eye(2, dtype=torch.float64)), 2) == 0


def test_a_generator_that_flips_too_much_is_caught(tmp_path, monkeypatch):
    def greedy(labels, rate, classes, chance):
        noisy, promised = symmetric(labels, rate + 0.02, classes, chance), symmetric(labels, rate, classes, chance)
        return NoisyLabels(noisy.labels, noisy.changed, promised.transition)

    assert study.noise_and_outliers(PROMISED, bench(tmp_path)).verdict == "holds"
    monkeypatch.setattr(study, "_generators", lambda: [("greedy", greedy, 10)])
    assert study.noise_and_outliers(PROMISED, bench(tmp_path)).verdict == "fails"


def test_every_registered_generator_of_label_noise_is_in_the_third_claim():
    from surplus.registry import methods

    names = {name.split(",")[0] for name, _, _ in study._generators()}
    assert names == {m.name for m in methods("corruption") if m.traits.get("on") == "labels"}


def test_only_what_an_arm_says_changes():
    data = splits("digits", 0)
    pixels = lambda part: part.inputs.flatten(1).sort(1).values
    for how in ARMS:
        arm = spoilt(data, how, 0)
        assert torch.equal(arm.train.targets, data.train.targets) == (how != "random labels")
        assert torch.equal(arm.test.targets, data.test.targets)
        assert torch.equal(arm.train.inputs, data.train.inputs) == (how in ARMS[:2])
        if "pixels" in how and how != "gaussian pixels":
            assert torch.equal(pixels(arm.train), pixels(data.train)) and torch.equal(
                pixels(arm.test), pixels(data.test)
            )
    shuffled = spoilt(data, "shuffled pixels", 0)
    (order,) = torch.where(
        (shuffled.train.inputs.flatten(1).T[:, None] == data.train.inputs.flatten(1).T).all(-1).any(1)
    )
    assert len(order) == 64  # each new pixel is one old pixel, for all examples at once
    agreement = (spoilt(data, "random labels", 0).train.targets == data.train.targets).double().mean()
    assert abs(agreement - 0.1) < 4 * (0.09 / len(data.train)) ** 0.5


def test_gaussian_pictures_of_the_test_set_have_the_training_sets_moments():
    data = splits("digits", 0)
    test = spoilt(data, "gaussian pixels", 0).test.inputs
    pixels = data.train.inputs.float() / 255
    error = float(pixels.std()) / test.numel() ** 0.5
    assert abs(float(test.mean() - pixels.mean())) < 4 * error and abs(float(test.std() - pixels.std())) < 4 * error


def answers(monkeypatch, train, test):
    """Let the random-label networks of three seeds end with these accuracies."""

    task = SimpleNamespace(train=splits("digits", 0).train, space=SimpleNamespace(size=1))
    monkeypatch.setattr(study, "_trained", lambda bench, how, seed: SimpleNamespace(seed=seed, task=task))
    monkeypatch.setattr(Bench, "accuracy", lambda self, run: torch.tensor([test[run.seed]]))

    def outputs(self, run, data):
        y = run.task.train.targets
        wrong = torch.arange(len(y)) >= train[run.seed] * len(y)
        return torch.nn.functional.one_hot((y + wrong) % 10, 10)[None].float()

    monkeypatch.setattr(Bench, "outputs", outputs)


@pytest.mark.parametrize(
    ("train", "test", "verdict"),
    [
        ([1.0, 1.0, 1.0], [0.1, 0.101, 0.099], "holds"),
        ([0.8, 0.81, 0.79], [0.1, 0.101, 0.099], "fails"),
        ([1.0, 1.0, 1.0], [0.2, 0.201, 0.199], "fails"),
        ([1.0, 1.0, 1.0], [0.05, 0.1, 0.15], "undecided"),
    ],
)
def test_random_labels_must_be_fitted_and_the_test_answered_at_chance(tmp_path, monkeypatch, train, test, verdict):
    answers(monkeypatch, train, test)
    assert study.noise_and_outliers(FITS, bench(tmp_path, seeds=3)).verdict == verdict


@pytest.mark.parametrize(
    ("true", "drawn", "verdict"),
    [
        ([[0.5, 1.0, 1.0], [0.5, 1, 1]], [[0.1, 0.2, 0.3], [0.1, 0.1, 0.1]], "holds"),  # never is later than 2
        ([[0.5, 0.6, 1.0], [0.5, 1, 1]], [[0.1, 1.0, 1.0], [0.1, 0.9, 1.0]], "undecided"),
        ([[0.5, 0.6, 1.0], [0.5, 0.6, 1]], [[1.0, 1.0, 1.0], [1.0, 0.9, 1.0]], "fails"),
        ([[0.5, 0.6, 0.7], [0.5, 1, 1]], [[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]], "undecided"),  # too short
    ],
)
def test_random_labels_must_take_longer(tmp_path, monkeypatch, true, drawn, verdict):
    curve = lambda how, seed: torch.tensor((drawn if how == "random labels" else true)[seed]).double()
    monkeypatch.setattr(study, "_trained", lambda bench, how, seed: (how, seed))
    monkeypatch.setattr(study, "accuracy_by_epoch", lambda run: curve(*run))
    measured = study.noise_and_outliers(SOONER, bench(tmp_path))
    assert measured.verdict == verdict and measured.note.startswith("too short") == (true[0][2] < 0.99)


def test_the_arms_share_the_first_epochs_whatever_their_length(tmp_path):
    b = bench(tmp_path)
    longer = bench(tmp_path, sooner=Duration("12ep"))
    first, whole = (study.accuracy_by_epoch(study._trained(x, "true labels", 0)) for x in (b, longer))
    assert len(first) == 10 and len(whole) == 12 and torch.equal(first, whole[:10])


def test_the_protocol_for_a_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    recipe = PROTOCOLS["gpu"].recipe.model_copy(update={"batch_size": 16, "duration": Duration("2ep")})
    b = bench(tmp_path, "gpu", seeds=2, options={"width": 0.05}, recipe=recipe, sooner=Duration("1ep"), labels=5_000)
    for claim in (FITS, SOONER, PROMISED):
        measured = study.noise_and_outliers(claim, b)
        assert measured.rows and measured.claim is claim
    assert sum(w.numel() for w in build("speed-net", (3, 32, 32), 10).parameters()) > 1e6


def test_noise_by_input_is_held_against_the_mean_of_its_cut_law():
    labels = torch.zeros(50_000, dtype=torch.int64)
    noisy = study._by_input(labels, 0.2, 10, generator(0, "test"))
    assert study._mean_deviation(noisy, 0.2) < 4
    assert study._mean_deviation(noisy, 0.22) > 4  # 0.2055 is not the mean for that rate
