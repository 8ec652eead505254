"""Tasks: every way to one, the recipe's grammar, the objectives' formulas, what a network may be given."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from surplus.data import Dataset, Splits, split
from surplus.errors import InputError
from surplus.registry import methods
from surplus.tasks import (
    CLASSIFICATION,
    LANGUAGE,
    REGRESSION,
    Augment,
    Duration,
    Recipe,
    Task,
    classification_record,
    custom,
    load,
    parse_network,
    parse_recipe,
    task_from,
)
from surplus.training import fit


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def splits(inputs: Tensor, targets: Tensor, **options: object) -> Splits:
    return Splits("mine", *split(Dataset.of(inputs, targets, **options), 0.2), carved=True)


def some(n: int = 40, *shape: int, classes: int = 2) -> Splits:
    return splits(torch.rand(n, *shape, generator=gen()), torch.arange(n) % classes)


def sequences(n: int = 20, length: int = 6, vocabulary: int = 9) -> Tensor:
    return torch.randint(vocabulary, (n, length), generator=gen())


def quick(task: Task) -> Task:
    return task.with_recipe(duration="2it", batch_size=8)


# ---- ways to a task -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "objective", "kind"), [
    ("digits", CLASSIFICATION, "image"), ("xor-clusters", CLASSIFICATION, "table"), ("sinusoid", REGRESSION, "table"),
    ("markov-text", LANGUAGE, "text"), ("xor_clusters", CLASSIFICATION, "table"),
])  # fmt: skip
def test_named_tasks_build_try_and_train(name: str, objective: object, kind: str):
    task = load(name)
    assert task.objective is objective and task.train.kind == kind and task.carved
    assert task.name == name.replace("_", "-")
    run = fit(quick(task), seeds=1)
    assert bool(run.theta.isfinite().all()) and math.isfinite(float(run.evaluate("test").metric))


def test_every_task_of_the_catalogue_is_found_and_generated_the_same_each_time():
    for row in methods("task"):
        assert load(row.name).train.fingerprint == load(row.name).train.fingerprint


def test_a_path_is_read_and_its_network_follows_a_colon(tmp_path: Path):
    np.savez(tmp_path / "mine.npz", x=np.random.default_rng(0).random((30, 3)), kind=np.arange(30) % 2)
    task = load(tmp_path / "mine.npz", "mlp:widths=5-4,activation=tanh", labels="kind")
    assert (task.name, task.network.name) == ("mine", "mlp")
    assert [tuple(b.shape) for b in task.space.blocks if b.kind == "weight"] == [(5, 3), (4, 5), (2, 4)]
    assert load(str(tmp_path / "mine.npz"), "mlp", labels="kind", widths=(5,)).space.size == 5 * 4 + 2 * 6
    with pytest.raises(InputError, match="no column called label"):
        load(tmp_path / "mine.npz")


def test_splits_in_memory_and_ones_own_module():
    data = some(40, 3)
    task = load(data, lambda: nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)))
    assert task.space.size == 3 * 7 + 7 + 7 * 2 + 2 and task.name == "mine" and task.train is data.train
    assert task.recipe == load(data).recipe and fit(quick(task), seeds=2, execution="stacked").theta.shape == (
        2,
        task.space.size,
    )


def test_a_validation_split_lets_training_stop_early():
    data = some(40, 3)
    with_validation = Splits("mine", data.train, data.test, data.test)
    assert load(with_validation).validation is data.test
    fit(quick(load(with_validation)).with_recipe(patience=1, duration="3ep"))
    with pytest.raises(InputError, match="needs a validation set"):
        fit(quick(load(data)).with_recipe(patience=1))


def test_what_can_be_named_but_not_used_is_refused():
    data = some(40, 3)
    with pytest.raises(InputError, match=r"cannot take inputs of shape \(3,\).*another --network"):
        load(data, lambda: nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"outputs of shape \(1,\) for 2 classes; one logit per class"):
        load(data, lambda: nn.Linear(3, 1))
    with pytest.raises(InputError, match="no trainable parameter"):
        load(data, nn.Identity)
    with pytest.raises(InputError, match=r"widths=3.*are for named networks"):
        load(data, lambda: nn.Linear(3, 2), widths=3)
    with pytest.raises(InputError, match=r"outputs of shape \(2,\) for targets of shape \(\)"):
        load(splits(torch.rand(20, 3), torch.rand(20)), lambda: nn.Linear(3, 2))
    with pytest.raises(InputError, match="has no columns"):
        load("digits", labels="digit")
    with pytest.raises(InputError, match="did you mean digits"):
        load("digitz")


def test_ones_own_factory_may_fail_in_its_own_words():
    def broken() -> nn.Module:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        load(some(40, 3), broken)


def test_a_plain_number_fails_as_a_width_with_the_usual_ones_shown():
    with pytest.raises(InputError, match=r"small-conv cannot be built with width='wide'.*Usual values: width=1\.0"):
        load("digits", "small-conv:width=wide")


# ---- default networks and recipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(5,), (1, 8, 8), (3, 8, 8), (1, 16, 16), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 20, 50), (2, 24, 24)]
)
def test_a_default_network_fits_every_shape_of_input(shape: tuple[int, ...]):
    task = load(some(20, *shape, classes=3))
    out = task.space.apply(task.space.init(0), task.prepare(task.train.inputs[:4]))
    assert out.shape == (4, 3) and bool(out.isfinite().all()) and task.objective is CLASSIFICATION
    assert (task.network.name == "mlp") == (len(shape) == 1 or min(shape[1:]) < 16)


def test_regression_gets_as_many_outputs_as_targets():
    one, many = (splits(torch.rand(30, 2), torch.rand(30, *s)) for s in ((), (4, 2)))
    assert load(one).network.outputs == 1 and load(many).network.outputs == 8
    assert load(many).objective is REGRESSION and load(one).recipe.optimiser == "adam"
    run = fit(quick(load(many)), seeds=2, execution="stacked")
    assert run.evaluate("test").metric.shape == (2,)


def test_language_gets_the_vocabulary_of_all_splits():
    tokens = sequences()
    data = splits(tokens, tokens.roll(-1, 1))
    rare = Dataset.of(torch.tensor([[1, 2, 3, 4, 5, 11]] * 2), torch.tensor([[2, 3, 4, 5, 11, 1]] * 2))
    task = load(Splits("mine", data.train, rare), "causal-transformer", width=8, depth=1, heads=2)
    assert task.objective is LANGUAGE and task.network.outputs == 12 and task.network.input_shape == (12, 6)
    assert fit(quick(task)).predict("test").shape == (1, 2, 6, 12)


def test_texts_with_a_class_take_a_network_that_looks_at_the_end():
    data = splits(sequences(), torch.arange(20) % 2, kind="text")
    task = load(data, "causal-transformer:predict=last,width=8,depth=1,heads=2")
    assert task.objective is CLASSIFICATION and task.network.outputs == 2
    assert load(data).network.options == {"predict": "last"}
    assert fit(quick(task)).predict("test").shape[-1] == 2


# ---- normalisation --------------------------------------------------------------------------------------------------


def test_prepared_tables_have_mean_0_and_deviation_1_in_each_column():
    x = torch.randn(60, 3, generator=gen()) * torch.tensor([1e-3, 1.0, 1e4]) + torch.tensor([5.0, 0.0, -1e5])
    task = load(splits(x, torch.arange(60) % 2))
    z = task.prepare(task.train.inputs).double()
    assert z.mean(0).abs().max() < 1e-3 and (z.std(0, correction=0) - 1).abs().max() < 1e-3
    again = (task.test.inputs - task.moments[0]) / task.moments[1]  # by the training split's moments
    torch.testing.assert_close(task.prepare(task.test.inputs), again)


@pytest.mark.parametrize("pixels", ["bytes", "floats"])
def test_prepared_images_have_mean_0_and_deviation_1_in_each_channel(pixels: str):
    x = torch.randint(0, 256, (30, 3, 9, 8), generator=gen()).mul(torch.tensor([1.0, 0.5, 0.1]).view(3, 1, 1)).byte()
    x[0, :, 0, 0] = 255
    task = load(splits(x if pixels == "bytes" else x / 255, torch.arange(30) % 2))
    z = task.prepare(task.train.inputs)
    assert z.dtype == torch.float32 and z.mean((0, 2, 3)).abs().max() < 1e-5
    assert (z.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    assert torch.equal(z, task.prepare(task.train.inputs))


def test_a_constant_column_stays_constant_and_tokens_pass_as_they_are():
    x = torch.cat([torch.full((20, 1), 7.0), torch.rand(20, 1)], 1)
    assert torch.equal(load(splits(x, torch.arange(20) % 2)).prepare(x)[:, 0], torch.zeros(20))
    task, tokens = load("markov-text"), sequences()
    assert task.prepare(tokens) is tokens


# ---- objectives -----------------------------------------------------------------------------------------------------


def test_the_record_of_a_worked_example():
    p = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    record = classification_record(p.log(), torch.tensor([0]))
    assert record["error"].item() == pytest.approx(0.3741657, abs=1e-7)  # sqrt(0.3^2 + 0.2^2 + 0.1^2)
    assert record["confidence"].item() == pytest.approx(0.7) and record["loss"].item() == pytest.approx(-math.log(0.7))
    assert record["margin"].item() == pytest.approx(math.log(3.5)) and record["correct"].item() == 1
    wrong = classification_record(p.log(), torch.tensor([2]))
    assert wrong["margin"].item() == pytest.approx(-math.log(7)) and wrong["correct"].item() == 0
    assert wrong["error"].item() == pytest.approx(math.sqrt(0.49 + 0.04 + 0.81))


@given(st.integers(0, 10_000), st.integers(2, 6), st.floats(0.1, 50))
def test_the_record_agrees_with_torch(seed: int, classes: int, scale: float):
    z = scale * torch.randn(7, classes, generator=gen(seed), dtype=torch.float64)
    y = torch.randint(classes, (7,), generator=gen(seed + 1))
    record = classification_record(z, y)
    p, own = z.softmax(1), F.one_hot(y, classes).bool()
    torch.testing.assert_close(record["loss"], F.cross_entropy(z, y, reduction="none"))
    torch.testing.assert_close(record["error"], (p - own.double()).norm(dim=1), atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(record["confidence"], p[own])
    torch.testing.assert_close(record["margin"], z[own] - z.masked_fill(own, -torch.inf).amax(1))
    assert torch.equal(record["correct"].bool(), z.argmax(1) == y)


def test_a_sure_network_has_finite_records_without_error_or_with_root_2():
    z = 1e4 * torch.eye(3)
    right, wrong = (classification_record(z, y) for y in (torch.arange(3), torch.tensor([1, 2, 0])))
    assert right["error"].abs().max() == 0 and torch.allclose(wrong["error"], torch.full((3,), 2**0.5))
    assert all(bool(v.isfinite().all()) for r in (right, wrong) for v in r.values())
    small = classification_record(torch.tensor([[12.0, 0.0, 0.0]]), torch.tensor([0]))["error"]  # float32
    assert small.item() == pytest.approx(6**0.5 * math.exp(-12), rel=1e-2)


def test_losses_are_one_number_per_example():
    z, y = torch.randn(5, 3, generator=gen()), torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(CLASSIFICATION.loss(z, y, 0.0), F.cross_entropy(z, y, reduction="none"))
    smooth = 0.9 * F.cross_entropy(z, y, reduction="none") - 0.1 * z.log_softmax(1).mean(1)
    torch.testing.assert_close(CLASSIFICATION.loss(z, y, 0.1), smooth)
    assert CLASSIFICATION.metric(z, y).tolist() == (z.argmax(1) == y).float().tolist()
    out, target = torch.randn(5, 2, generator=gen(1)), torch.randn(5, 2, generator=gen(2))
    torch.testing.assert_close(REGRESSION.loss(out, target, 0.0), F.mse_loss(out, target, reduction="none").mean(1))
    assert REGRESSION.loss(out[:, :1], target[:, 0], 0.0).shape == (5,) and not REGRESSION.higher_is_better
    assert torch.equal(REGRESSION.record(out, target)["error"], REGRESSION.loss(out, target, 0.0).sqrt())
    tokens, logits = sequences(4, 6, 9), torch.randn(4, 6, 9, generator=gen(3))
    by_hand = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view(4, 6).mean(1)
    torch.testing.assert_close(LANGUAGE.loss(logits, tokens, 0.0), by_hand)
    torch.testing.assert_close(LANGUAGE.record(logits, tokens)["loss"], by_hand)
    assert torch.equal(LANGUAGE.metric(logits, tokens), (logits.argmax(2) == tokens).float().mean(1))


def test_ones_own_loss_and_metric_train_and_report():
    def absolute(out: Tensor, y: Tensor) -> Tensor:
        return (out.squeeze(1) - y).abs()

    def within(out: Tensor, y: Tensor) -> Tensor:
        return (absolute(out, y) < 0.5).float()

    data = splits(torch.rand(60, 1, generator=gen()), torch.rand(60, generator=gen(1)))
    task = quick(load(data, objective=custom(absolute, within, higher_is_better=True)))
    run = fit(task, seeds=1, record=True)
    assert (
        task.objective.name == "absolute" and task.objective.metric_name == "within" and task.objective.higher_is_better
    )
    by_hand = within(run.predict("test")[0], data.test.targets).mean()
    assert torch.isclose(run.evaluate("test").metric[0], by_hand) and set(run.record) == {"loss"}
    plain = custom(absolute)
    assert plain.metric_name == "absolute" and not plain.higher_is_better


def test_a_loss_that_does_not_give_one_number_per_example_is_refused():
    data = splits(torch.rand(20, 2), torch.rand(20))
    for loss in (lambda out, y: (out - y) ** 2, lambda out, y: F.mse_loss(out.squeeze(1), y)):  # (B, B), (), not (B,)
        with pytest.raises(InputError, match=r"gives shape .* for 2 examples; one number per example"):
            load(data, objective=custom(loss))


def test_losses_of_one_name_are_other_tasks():
    def scaled(by: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda out, y: by * (out.squeeze(1) - y) ** 2

    data = splits(torch.rand(20, 2), torch.rand(20))
    names = [load(data, objective=custom(loss)).identity["objective"] for loss in (
        scaled(1.0), scaled(1.0), scaled(2.0), lambda out, y: (out.squeeze(1) - y) ** 2,
        lambda out, y: (out.squeeze(1) - y) ** 4, lambda out, y: (out.squeeze(1) - y).abs(),
    )]  # fmt: skip
    assert names[0] == names[1] and len(set(names)) == 5
    assert load(data).identity["objective"] == "regression"


# ---- identity -------------------------------------------------------------------------------------------------------


def test_identity_rests_on_data_network_and_objective_and_not_on_the_recipe():
    data, other = some(40, 3), some(44, 3)
    task = load(data, widths=(5,))
    assert task.identity == load(data, "mlp", widths=(5,)).identity == task.with_recipe(lr=0.3).identity
    factory = lambda: nn.Linear(3, 2)
    wide = lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    others = [load(other, widths=(5,)), load(data, widths=(6,)), load(data, factory), load(data, wide)]
    assert len({str(t.identity) for t in (task, *others)}) == 5


# ---- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps"),
    [("20ep", 240), ("0.5ep", 6), ("1.25ep", 15), ("500it", 500), ("0it", 0), ("0ep", 0), ("0.001ep", 1)],
)
def test_durations_count_epochs_or_steps(text: str, steps: int):
    assert Duration(text).steps(12) == steps


@pytest.mark.parametrize("text", ["20", "ep", "-1ep", "1.5it", "20 ep", "20epochs", "1e3it", "", "nan ep"])
def test_durations_without_a_unit_are_refused(text: str):
    with pytest.raises(InputError, match=r"20ep \(epochs\) or 500it \(steps\)"):
        Duration(text)


def test_a_recipe_survives_json_and_its_durations_stay_durations():
    recipe = Recipe(schedule="step", milestones=("2ep", "30it"), warmup="0.5ep", augment=Augment(shift=2))
    back = Recipe.model_validate_json(recipe.model_dump_json())
    assert back == recipe and back.milestones[1].steps(4) == 30 and isinstance(back.duration, Duration)
    assert Recipe.model_json_schema()["properties"]["duration"]["type"] == "string"


@pytest.mark.parametrize(("change", "words"), [
    ({"lr": -1}, "lr: .*greater than 0, got -1"), ({"lr": float("inf")}, "lr: .*finite"),
    ({"lr": "fast"}, "lr: .*number, got 'fast'"),
    ({"batch_size": 0}, "batch_size"), ({"batch_size": 2.5}, "batch_size"),
    ({"duration": 5}, r"duration: a duration is written like 20ep \(epochs\) or 500it \(steps\); got '5'$"),
    ({"duration": "0it"}, "at least one step"), ({"warmup": "long"}, "warmup: a duration"),
    ({"precision": "float8"}, "'float32' or 'bfloat16'"), ({"label_smoothing": 1}, "less than 1"),
    ({"momentum": 1}, "less than 1"), ({"clip": 0}, "clip"), ({"augment": {"shift": -1}}, "augment.shift"),
    ({"augment": {"turn": 3}}, "augment.turn"),
    ({"learning_rate": 1}, "no setting of the recipe is called 'learning_rate'; did you mean"), ({"self": 1}, "'self'"),
])  # fmt: skip
def test_a_recipe_refuses_what_it_cannot_use(change: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        load("digits").with_recipe(**change)


def test_with_recipe_changes_what_is_named_and_leaves_the_rest():
    task = load("digits")
    changed = task.with_recipe(lr=0.5, augment=Augment(flip=True))
    assert changed.recipe.lr == 0.5 and changed.recipe.augment.flip and task.recipe.lr != 0.5
    assert changed.recipe.model_dump(exclude={"lr", "augment"}) == task.recipe.model_dump(exclude={"lr", "augment"})
    assert changed.with_recipe().recipe == changed.recipe and changed.train is task.train


def test_words_of_the_command_line_are_parsed():
    assert parse_network(None) == (None, {}) and parse_network("mlp") == ("mlp", {})
    assert parse_network("vgg-16:width=0.25,norm=group") == ("vgg-16", {"width": 0.25, "norm": "group"})
    assert parse_network("mlp:widths=64-32-16,bias=False") == ("mlp", {"widths": (64, 32, 16), "bias": False})
    assert parse_recipe("lr=1e-2, batch-size=64,duration=20ep,nesterov=true") == {
        "lr": 0.01, "batch_size": 64, "duration": "20ep", "nesterov": True,
    }  # fmt: skip
    for text in ("lr", "lr=", "lr= ", "=3", "lr=1,momentum", "lr 1"):
        with pytest.raises(InputError, match="name=value"):
            parse_recipe(text)


def test_task_from_takes_a_name_and_an_objective_of_its_own():
    data = some(40, 3)
    task = task_from(data, name="other", recipe=Recipe(lr=0.7))
    assert task.name == "other" and task.recipe.lr == 0.7 and task.classes == 2
