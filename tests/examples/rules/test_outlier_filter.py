from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from surplus.data import Dataset, Splits
from surplus.errors import InputError
from surplus.examples.rules.outlier_filter import OutlierFilter, detection, label_probability, lowest, removed
from surplus.registry import find
from surplus.tasks import Duration, Recipe, task_from
from surplus.training import Store, fit
from surplus.training.loop import Loop


def blobs(n=120, wrong=0.1, seed=0, **recipe):
    """Three separate clouds in the plane; the first examples have the label of another cloud."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    centres = torch.tensor([[0.0, 3.0], [3.0, -2.0], [-3.0, -2.0]])
    flipped = torch.arange(n) < round(wrong * n)
    train = Dataset.of(
        centres[labels] + 0.3 * torch.randn(n, 2, generator=g), torch.where(flipped, (labels + 1) % 3, labels)
    )
    test = Dataset.of(centres[labels] + 0.3 * torch.randn(n, 2, generator=g), labels)
    settings = {"lr": 0.05, "batch_size": 16, "duration": Duration("6ep"), "schedule": "constant", **recipe}
    return task_from(Splits("blobs", train, test), "mlp", recipe=Recipe(**settings), widths=(16,)), flipped


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    task, wrong = blobs()
    rule = OutlierFilter(epoch=2, share=0.1)
    run = fit(task, seeds=3, rule=rule, record=True, keep=(8, 16), store=Store(tmp_path_factory.mktemp("runs")))
    return task, wrong, run


def test_the_share_is_removed_after_the_epoch_and_stays_away(filtered):
    run = filtered[2]
    visited = ~run.record["loss"].isnan()  # (K, epochs, n)
    assert visited[:, :2].all()
    assert visited[:, 2:].sum(2).tolist() == [[108] * 4] * 3
    assert torch.equal(removed(run, 2), ~visited[:, 3])


def test_the_removed_have_the_lowest_mean_probability_of_the_label_at_the_ends_of_the_epochs(filtered):
    task, _, run = filtered
    speed = (label_probability(task, run.at(8)) + label_probability(task, run.at(16))) / 2
    for values, gone in zip(speed, removed(run, 2), strict=True):
        assert values[gone].max() <= values[~gone].min()


def test_wrong_labels_in_separate_clouds_are_what_is_removed(filtered):
    _, wrong, run = filtered
    found = detection(removed(run, 2), wrong)
    assert found.precision.tolist() == found.recall.tolist() == [1, 1, 1]


def test_training_goes_on_as_on_the_kept_examples_alone(tmp_path):
    """One full batch per epoch: after the cut, a step is one of plain training on the kept examples."""
    task, _ = blobs(batch_size=120, duration="2ep")
    run = fit(task, seeds=1, rule=OutlierFilter(epoch=1, share=0.1), record=True, keep=(1,), store=Store(tmp_path))
    kept = ~removed(run, 1)[0]
    theta = run.at(1)[0].clone().requires_grad_()
    momentum = (task.space.init(0) - run.at(1)[0]) / 0.05  # after one step, its gradient
    losses = task.loss(task.space.apply(theta, task.prepare(task.train.inputs)), task.train.targets)
    (gradient,) = torch.autograd.grad(losses[kept].mean(), theta)
    expected = theta.detach() - 0.05 * (0.9 * momentum + gradient)
    torch.testing.assert_close(run.theta[0], expected, rtol=1e-4, atol=1e-5)


def test_a_share_of_zero_trains_as_usual(tmp_path):
    task, _ = blobs()
    plain = fit(task, seeds=2, store=Store(tmp_path))
    none = fit(task, seeds=2, rule=OutlierFilter(epoch=2, share=0.0), store=Store(tmp_path))
    torch.testing.assert_close(none.theta, plain.theta, rtol=1e-5, atol=1e-6)


def test_the_share_is_one_of_each_replicas_own_examples(tmp_path):
    task, _ = blobs()
    subsets = torch.zeros(2, 120, dtype=torch.bool)
    subsets[0, :60] = subsets[1, 60:] = True
    run = fit(task, seeds=2, subsets=subsets, rule=OutlierFilter(2, 0.2), record=True, store=Store(tmp_path))
    gone = removed(run, 2)
    assert gone.sum(1).tolist() == [12, 12] and not (gone & ~subsets).any()


def test_a_replica_is_filtered_alike_alone_and_in_company(tmp_path, filtered):
    task, _, together = filtered
    alone = fit(task, seeds=[2], rule=OutlierFilter(2, 0.1), record=True, store=Store(tmp_path))
    assert torch.equal(removed(alone, 2)[0], removed(together, 2)[2])
    torch.testing.assert_close(alone.theta[0], together.theta[2], rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_remembers_what_it_removed(tmp_path, monkeypatch):
    task, _ = blobs()
    rule = OutlierFilter(2, 0.1)
    whole = fit(task, seeds=2, rule=rule, record=True, store=Store(tmp_path / "whole"))
    update = Loop._update

    def die(self):
        if self.step == 21:  # in the third epoch, after the cut
            self.entry.write_checkpoint(self._state())
            raise KeyboardInterrupt
        update(self)

    monkeypatch.setattr(Loop, "_update", die)
    with pytest.raises(KeyboardInterrupt):
        fit(task, seeds=2, rule=rule, record=True, execution="stacked", store=Store(tmp_path / "halves"))
    monkeypatch.setattr(Loop, "_update", update)
    halves = fit(task, seeds=2, rule=rule, record=True, execution="stacked", store=Store(tmp_path / "halves"))
    torch.testing.assert_close(halves.theta, whole.theta, rtol=1e-4, atol=1e-5)
    assert torch.equal(removed(halves, 2), removed(whole, 2))


def test_the_lowest_are_an_exact_count_of_those_that_take_part():
    values = torch.tensor([[0.1, 0.1, 0.5, 0.0], [0.4, 0.3, 0.2, 0.1]])
    among = torch.tensor([[True, True, True, False], [True] * 4])
    assert lowest(values, among, 0.5).tolist() == [[True, True, False, False], [False, False, True, True]]
    assert lowest(values, among, 0.3).tolist() == [[True, False, False, False], [False, False, False, True]]
    assert not lowest(values, among, 0.0).any()


def test_precision_and_recall_by_hand():
    gone = torch.tensor([[True, True, False, False], [False] * 4])
    found = detection(gone, torch.tensor([True, False, True, True]))
    assert found.precision[0] == 1 / 2 and found.recall[0] == pytest.approx(1 / 3)
    assert found.precision[1].isnan() and found.recall[1] == 0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (OutlierFilter(2, 1.0), "part of the training examples"),
        (OutlierFilter(2, -0.1), "part of the training examples"),
        (OutlierFilter(0, 0.1), "at least 1"),
        (OutlierFilter(6, 0.1), "6ep ends before the cut after epoch 6"),
    ],
)
def test_a_cut_that_cannot_be_made_is_refused(rule, message, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(blobs()[0], rule=rule, store=Store(tmp_path))


def test_numbers_instead_of_classes_are_refused(tmp_path):
    task, _ = blobs()
    without = replace(task.train, classes=())
    with pytest.raises(InputError, match="no classes"):
        OutlierFilter(2, 0.1).check(replace(task, train=without), task.recipe, 1)


def test_a_removal_is_seen_only_between_epochs_of_the_record(filtered):
    with pytest.raises(InputError, match="both sides"):
        removed(filtered[2], 6)


def test_it_is_in_the_catalogue():
    assert find("training rule", "outlier-filter").fn is OutlierFilter


def test_a_threshold_removes_what_is_learnt_more_slowly_than_that(tmp_path):
    task, _ = blobs()
    run = fit(task, seeds=2, rule=OutlierFilter(2, threshold=0.5), record=True, keep=(8, 16), store=Store(tmp_path))
    speed = (label_probability(task, run.at(8)) + label_probability(task, run.at(16))) / 2
    assert torch.equal(removed(run, 2), speed < 0.5) and removed(run, 2).any()
    with pytest.raises(InputError, match="from 0 to 1; got 2"):
        fit(task, seeds=1, rule=OutlierFilter(2, threshold=2.0), store=Store(tmp_path))
