from dataclasses import replace

import pytest
import torch
from torch import nn

from surplus.data import Dataset, Splits, generated
from surplus.errors import InputError
from surplus.space import generator
from surplus.tasks import Network, Recipe, Task, load, task_from
from surplus.training import Diverged, Probe, Store, evaluate, fit


def blobs(n=120, dtype=torch.float32):
    x, y = generated.gaussian_blobs(n, torch.Generator().manual_seed(0))
    data = Dataset.of(x, y)
    return Splits("blobs", data[: n * 3 // 4], data[n * 3 // 4 :])


def images(n=96):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 1, 8, 8), generator=g, dtype=torch.uint8)
    y = (x.float().mean((1, 2, 3)) > 127.5).long()
    data = Dataset.of(x, y, classes=("dark", "light"), kind="image")
    return Splits("images", data[: n * 3 // 4], data[n * 3 // 4 :])


class NormNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class DoubleTask(Task):
    """The same task in double precision, where rounding cannot hide a difference."""

    def prepare(self, inputs):
        return super().prepare(inputs).double()


def double_task(**recipe):
    base = task_from(blobs(), "mlp", recipe=Recipe(duration="3ep", batch_size=16, **recipe), widths=(8,))
    classes = base.classes
    make = lambda: nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, classes)).double()
    return DoubleTask("blobs", base.train, base.test, Network("double", factory=make), base.objective, base.recipe)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw", "muon"])
def test_a_replica_trains_to_the_same_weights_alone_and_in_company(optimiser):
    task = double_task(optimiser=optimiser, lr=0.01, weight_decay=1e-2, clip=1.0, label_smoothing=0.1)
    subsets = [torch.randperm(len(task.train), generator=torch.Generator().manual_seed(s))[:60] for s in range(3)]
    together = fit(task, seeds=[5, 6, 7], subsets=subsets, execution="stacked")
    for k, seed in enumerate([5, 6, 7]):
        alone = fit(task, seeds=[seed], subsets=[subsets[k]])
        torch.testing.assert_close(alone.theta[0], together.theta[k], rtol=1e-9, atol=1e-11)


def test_replicas_with_batch_norm_and_augmentation_agree_too():
    recipe = Recipe(duration="2ep", batch_size=16, lr=0.05, augment={"shift": 1, "flip": True, "cutout": 2})
    task = task_from(images(), NormNet, recipe=recipe)
    together, apart = (fit(task, seeds=[1, 2], execution=e, jobs=1) for e in ("stacked", "spread"))
    torch.testing.assert_close(together.theta, apart.theta, rtol=1e-3, atol=1e-4)
    assert not torch.equal(together.theta[0], together.theta[1])


@pytest.mark.parametrize(
    ("recipe", "make"),
    [
        (
            {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.01),
        ),
        ({"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01)),
        ({"lr": 0.1, "momentum": 0.0}, lambda p: torch.optim.SGD(p, 0.1)),
        ({"optimiser": "adam", "lr": 0.01, "weight_decay": 0.1}, lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1)),
        (
            {"optimiser": "adamw", "lr": 0.01, "weight_decay": 0.1},
            lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
        ),
    ],
)
def test_training_equals_a_plain_loop_with_torchs_optimiser(recipe, make):
    task = double_task(schedule="constant", **recipe)
    run = fit(task, seeds=[0])
    module = task.space.write(task.space.init(0)).train()
    optimiser = make(module.parameters())
    x, y = task.prepare(task.train.inputs), task.train.targets
    for epoch in range(3):
        order = torch.randperm(len(y), generator=generator(0, "order", epoch))
        for rows in order.tensor_split(-(-len(y) // 16)):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimiser.step()
    torch.testing.assert_close(run.theta[0], task.space.read(module), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw", "muon"])
def test_removed_weights_are_exactly_zero_after_training(optimiser):
    task = double_task(optimiser=optimiser, lr=0.02, weight_decay=0.1)
    mask = torch.rand(task.space.size, generator=torch.Generator().manual_seed(1)) > 0.5
    run = fit(task, seeds=2, masks=mask, execution="stacked")
    assert (run.theta[:, ~mask] == 0).all() and (run.theta[:, mask] != 0).any()


def test_a_finished_run_is_found_and_not_trained_again(monkeypatch):
    task = double_task(lr=0.03)
    first = fit(task, seeds=2, execution="stacked")
    monkeypatch.setattr("surplus.training.fitting.Loop", None)  # training again would fail
    assert torch.equal(fit(task, seeds=2, execution="stacked").theta, first.theta)


def test_another_seed_recipe_or_label_is_another_run():
    task = double_task(lr=0.04)
    relabelled = replace(task, train=task.train.with_targets(task.train.targets.roll(1)))
    keys = {
        tuple(fit(t, seeds=[s]).keys)
        for t, s in [(task, 0), (task, 1), (task.with_recipe(lr=0.05), 0), (relabelled, 0)]
    }
    assert len(keys) == 4


def test_weights_of_asked_steps_are_kept_and_rewinding_goes_on_from_there():
    task = double_task(lr=0.05, schedule="cosine", momentum=0.0)
    whole = fit(task, seeds=[3], keep=(0, 4))
    assert torch.equal(whole.at(0), task.space.init_many([3]))
    rest = fit(task, seeds=[3], start=whole.at(4), start_step=4)
    torch.testing.assert_close(
        rest.theta, whole.theta, rtol=1e-10, atol=1e-12
    )  # no momentum: nothing else carries over
    with pytest.raises(InputError, match="step 9 were not kept"):
        whole.at(9)


def test_the_record_holds_what_training_saw():
    task = double_task(lr=0.05)
    subsets = torch.zeros(2, len(task.train), dtype=torch.bool)
    subsets[0, :40], subsets[1, 20:60] = True, True
    run = fit(task, seeds=2, subsets=subsets, record=True, execution="stacked")
    record = run.record
    assert set(record) == {"loss", "correct", "margin", "confidence", "error"}
    assert record["loss"].shape == (2, 3, len(task.train))
    assert torch.equal(~record["loss"].isnan(), subsets[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(record["confidence"], (-record["loss"]).exp(), equal_nan=True)
    assert torch.equal(run.trained_on, subsets)


def test_recording_changes_no_weight():
    task = double_task(lr=0.07)
    assert torch.equal(fit(task, seeds=[0], record=True).theta, fit(task, seeds=[0]).theta)


def test_early_stopping_returns_the_best_point():
    data = blobs(160)
    task = task_from(
        Splits("b", data.train, data.test, data.test),
        "mlp",
        recipe=Recipe(duration="30ep", lr=0.5, batch_size=16, patience=2, schedule="constant"),
    )
    run = fit(task, seeds=2, execution="stacked")
    losses = torch.tensor(run.history["validation_loss"]).view(-1, 2)
    torch.testing.assert_close(
        run.evaluate("validation").loss, losses.nan_to_num(torch.inf).amin(0), rtol=1e-4, atol=1e-5
    )


def test_divergence_is_reported_by_seed():
    task = task_from(blobs(), "mlp", recipe=Recipe(duration="20ep", lr=1e30, schedule="constant"), widths=(8,))
    with pytest.warns(Diverged, match=r"seeds \[0\]"):
        run = fit(task, seeds=[0])
    assert run.diverged == [0] and max(run.history["epoch"]) < 19  # it stopped early


def test_observers_see_every_step_and_change_nothing():
    task = double_task(lr=0.06)
    probe = Probe(lambda theta: theta.norm(dim=1), every=5)
    watched = fit(task, seeds=[0], observers=[probe])
    assert torch.equal(watched.theta, fit(task, seeds=[0]).theta)
    steps = [s for s, _ in probe.rows]
    assert steps[0] == 5 and steps[-1] == max(watched.history["step"])


def test_processes_give_what_this_process_gives():
    task = task_from(blobs(), "mlp", recipe=Recipe(duration="2ep", lr=0.05), widths=(8,))
    spread = fit(task, seeds=2, execution="spread", jobs=2)
    here = fit(task, seeds=2, execution="spread", jobs=1, store=Store(Store().folder / "other"))
    assert torch.equal(spread.theta, here.theta)


def test_auto_chooses_by_measurement_and_remembers():
    task = task_from(blobs(), "mlp", recipe=Recipe(duration="1ep", lr=0.05), widths=(8,))
    assert fit(task, seeds=4).keys == fit(task, seeds=4).keys


def test_dropout_is_never_stacked_and_repeats_itself():
    make = lambda: nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    task = task_from(blobs(), make, recipe=Recipe(duration="1ep", lr=0.05))
    with pytest.raises(InputError, match="dropout cannot be stacked"):
        fit(task, seeds=2, execution="stacked")
    a = fit(task, seeds=[0]).theta
    assert torch.equal(a, fit(task, seeds=[0], store=Store(Store().folder / "fresh")).theta)


def test_digits_reach_the_accuracy_that_others_report():
    run = fit(load("digits"), seeds=3, execution="stacked")
    assert run.evaluate("test").metric.mean() > 0.965


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "no seeds"),
        ({"seeds": 2, "subsets": torch.ones(3, 90, dtype=torch.bool)}, "2 seeds and 3 subsets"),
        ({"seeds": 1, "subsets": torch.zeros(1, 90, dtype=torch.bool)}, "subset 0 is empty"),
        ({"seeds": 1, "subsets": [torch.tensor([1000])]}, "names example 1000"),
        ({"seeds": 1, "masks": torch.ones(7)}, "booleans of shape"),
        ({"seeds": 1, "start": torch.zeros(1, 3)}, "start has shape"),
        ({"seeds": 1, "device": "banana"}, "none that torch knows"),
        ({"seeds": 2, "execution": "sideways"}, "execution must be"),
        ({"seeds": 1, "recipe": Recipe(patience=1)}, "needs a validation set"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_training(options, message):
    task = task_from(blobs(), "mlp", widths=(8,))
    with pytest.raises(InputError, match=message):
        fit(task, **options)


def test_a_device_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(InputError, match="torch sees no CUDA device"):
        fit(task_from(blobs(), "mlp", widths=(8,)), seeds=1, device="cuda")


def test_the_test_metric_is_noted_as_training_goes(tmp_path):
    task = load("digits").with_recipe(duration="25it")
    run = fit(task, seeds=[3, 4], curve=10, keep=(10, 20), store=Store(tmp_path))
    noted = dict(zip(zip(run.curve["seed"], run.curve["step"], strict=True), run.curve["metric"], strict=True))
    assert set(noted) == {(seed, step) for seed in (3, 4) for step in (10, 20, 25)}
    for step, theta in ((10, run.at(10)), (20, run.at(20)), (25, run.theta)):
        metric = evaluate(task, theta, task.test).metric
        assert [noted[3, step], noted[4, step]] == pytest.approx(metric.tolist())
    with pytest.raises(InputError, match="train with curve="):
        _ = fit(task, seeds=[3], store=Store(tmp_path)).curve
    with pytest.raises(InputError, match="at least 1; got 0"):
        fit(task, seeds=[3], curve=0)
