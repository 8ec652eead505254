"""Training rules: hooks of the one loop."""

import importlib
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from surplus.data import Dataset, Splits
from surplus.errors import InputError
from surplus.tasks import Network, load, task_from
from surplus.training import Batch, Choice, Moment, Rule, Store, features, fit, predict


@pytest.fixture(scope="module")
def task():
    digits = load("digits").with_recipe(duration="2ep", batch_size=100, lr=0.05, weight_decay=0.0)
    return replace(digits, train=digits.train[:1200])


def same(a, b):
    return torch.allclose(a, b, atol=1e-5)


@dataclass(frozen=True)
class Half(Rule):
    """Trains on the examples of largest loss, half of each batch."""

    def choose(self, now: Moment, batch: Batch) -> Choice:
        outputs = batch.outputs()
        losses = now.task.loss(outputs.flatten(0, 1), batch.targets.flatten()).view(batch.index.shape)
        return Choice(losses.topk(losses.shape[1] // 2, dim=1).indices)


@dataclass(frozen=True)
class Drop(Rule):
    """Weighs some examples with zero, by position in the data; the mean runs over the others."""

    dropped: Tensor

    def weigh(self, now: Moment, batch: Batch, losses: Tensor) -> Tensor:
        kept = (~self.dropped[batch.index]).float()
        return kept / kept.mean(1, keepdim=True).clamp(min=1e-9)


@dataclass(frozen=True)
class Parts(Rule):
    count: int

    def parts(self, batch_size: int) -> int:
        return self.count or batch_size


@dataclass(frozen=True)
class Counting(Rule):
    """Remembers the steps, and moves the weights by nothing."""

    stop: int = 10**9

    def start(self, now: Moment) -> dict[str, Tensor]:
        return {"steps": torch.zeros(len(now.seeds)), "epochs": torch.zeros(len(now.seeds))}

    def gradient(self, now: Moment, z: Tensor, grad: Tensor) -> Tensor:
        return grad * (now.state["steps"] < self.stop).unsqueeze(1)

    def after_step(self, now: Moment, z: Tensor) -> None:
        now.state["steps"] += 1

    def end_epoch(self, now: Moment) -> None:
        now.state["epochs"] = now.state["epochs"] + 1


@dataclass(frozen=True)
class Swapped(Rule):
    """Each network of a pair trains on the other's half of small losses."""

    together: ClassVar[int] = 2

    def weigh(self, now: Moment, batch: Batch, losses: Tensor) -> Tensor:
        kept = torch.zeros_like(losses).scatter(1, losses.topk(losses.shape[1] // 2, largest=False).indices, 2.0)
        return kept.view(-1, 2, kept.shape[1]).flip(1).flatten(0, 1)


@dataclass(frozen=True)
class PerReplica(Rule):
    per_replica: ClassVar[tuple[str, ...]] = ("scale",)
    scale: Tensor

    def gradient(self, now: Moment, z: Tensor, grad: Tensor) -> Tensor:
        assert len(self.scale) == len(z)
        return grad * self.scale


def test_the_empty_rule_trains_as_no_rule_does(task):
    @dataclass(frozen=True)
    class Nothing(Rule):
        pass

    for seeds in ([3], [3, 4]):
        assert torch.equal(fit(task, seeds=seeds, rule=Nothing()).theta, fit(task, seeds=seeds).theta)


@pytest.mark.parametrize(
    "rule", [Half(), Parts(3), Counting(5), Drop(torch.arange(1200) % 3 == 0)], ids=["half", "parts", "count", "drop"]
)
def test_a_replica_trains_alike_alone_and_in_company(task, rule):
    together = fit(task, seeds=[0, 1, 2], rule=rule, execution="stacked").theta
    alone = torch.cat([fit(task, seeds=[s], rule=rule).theta for s in (0, 1, 2)])
    assert same(together, alone)
    assert isinstance(rule, Parts) or not same(together, fit(task, seeds=[0, 1, 2]).theta)


def test_chosen_examples_alone_are_trained_on_and_recorded(task):
    run = fit(task, seeds=[0, 1], rule=Half(), record=True)
    visits = (~run.record["loss"].isnan()).sum(2)
    assert (visits == 600).all()


def test_weight_zero_is_the_same_as_not_being_there(task):
    steps = task.with_recipe(duration="1it", batch_size=len(task.train))
    dropped = torch.arange(len(task.train)) % 3 == 0
    by_weight = fit(steps, seeds=[0], rule=Drop(dropped), record=True)
    by_subset = fit(steps, seeds=[0], subsets=[~dropped])
    assert same(by_weight.theta, by_subset.theta)
    assert torch.equal(by_weight.record["loss"][0, 0].isnan(), dropped)


def test_the_mean_of_equal_microbatches_is_the_ordinary_gradient(task):
    short = task.with_recipe(duration="4it")
    for seeds, count in (([0], 4), ([0, 1], 5), ([0, 1], 0)):
        assert same(fit(short, seeds=seeds, rule=Parts(count)).theta, fit(short, seeds=seeds).theta)


def test_what_a_rule_remembers_moves_training_and_stops_it(task):
    short, five = task.with_recipe(duration="5it", schedule="constant", momentum=0.0), Counting(5)
    longer = short.with_recipe(duration="20it")
    assert torch.equal(fit(longer, seeds=[0], rule=five).theta, fit(short, seeds=[0]).theta)


def test_pairs_see_the_same_examples_and_train_alike_in_any_company(task):
    pair = fit(task, seeds=[5, 6], rule=Swapped(), record=True)
    four = fit(task, seeds=[5, 6, 7, 8], rule=Swapped(), execution="stacked")
    apart = fit(task, seeds=[5, 6, 7, 8], rule=Swapped(), execution="spread")
    assert same(four.theta[:2], pair.theta) and same(apart.theta, four.theta)
    assert [len(p.manifest["spec"]["seeds"]) for p in apart.parts] == [2, 2]
    assert (pair.record["loss"].isnan().sum(2) == 600).all()


def test_settings_with_a_row_per_replica_go_with_their_replicas(task):
    scale = torch.tensor([[0.0], [1.0], [0.0]])
    run = fit(task, seeds=[0, 1, 2], rule=PerReplica(scale), execution="spread")
    start = task.space.init_many([0, 1, 2])
    assert torch.equal(run.theta[0], start[0]) and torch.equal(run.theta[2], start[2])
    assert not torch.equal(run.theta[1], start[1])


def test_a_rule_with_another_setting_is_another_run(task, tmp_path):
    store = Store(tmp_path)
    keys = {tuple(fit(task, seeds=[0], rule=r, store=store).keys) for r in (None, Counting(), Counting(4), Counting(5))}
    assert len(keys) == 4


def test_an_interrupted_run_goes_on_with_what_its_rule_remembered(task, tmp_path, monkeypatch):
    from surplus.training import loop

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    store, rule = Store(tmp_path), Counting(12)
    update = loop.Loop._update

    def interrupted(self):
        if self.step == 9:
            raise KeyboardInterrupt
        update(self)

    monkeypatch.setattr(loop.Loop, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(task, seeds=[0, 1], rule=rule, store=store, execution="stacked", record=True)
    monkeypatch.setattr(loop.Loop, "_update", update)
    resumed = fit(task, seeds=[0, 1], rule=rule, store=store, execution="stacked", record=True)
    whole = fit(task, seeds=[0, 1], rule=rule, store=Store(tmp_path / "other"), execution="stacked", record=True)
    assert torch.equal(resumed.theta, whole.theta)


def test_pairs_that_are_not_whole_are_refused(task):
    with pytest.raises(InputError, match="groups of 2; got 3"):
        fit(task, seeds=3, rule=Swapped())
    with pytest.raises(InputError, match="subsets differ"):
        fit(task, seeds=2, rule=Swapped(), subsets=[torch.arange(10), torch.arange(5, 15)])


def test_gradients_of_single_examples_are_refused_where_a_batch_makes_them(task):
    normed = replace(task, network=Network("normed", factory=_normed))
    with pytest.raises(InputError, match="batch norm and dropout do not"):
        fit(normed, seeds=[0], rule=Parts(0))
    fit(normed.with_recipe(duration="1it"), seeds=[0], rule=Parts(2))


def _normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


def test_outputs_without_training_mode_leave_dropout_out(task):
    seen = {}

    @dataclass(frozen=True)
    class Look(Rule):
        def choose(self, now: Moment, batch: Batch) -> None:
            seen["twice"] = batch.outputs(train=False), batch.outputs(train=False)
            seen["train"] = batch.outputs()
            seen["again"], seen["other"] = batch.outputs(), batch.outputs(draw=1)

    networks = {"mlp": True, "dropout": False}
    for name, alike in networks.items():
        module = lambda name=name: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5 if name == "dropout" else 0.0), nn.Linear(32, 10)
        )
        fit(replace(task, network=Network(name, factory=module)).with_recipe(duration="1it"), seeds=[0], rule=Look())
        assert torch.equal(*seen["twice"]) and same(seen["twice"][0], seen["train"]) is alike
        assert torch.equal(seen["train"], seen["again"]) and same(seen["train"], seen["other"]) is alike


def test_features_are_what_enters_the_last_layer():
    g = torch.Generator().manual_seed(0)
    data = Dataset.of(torch.rand(24, 3, 16, 16, generator=g), torch.arange(24) % 3)
    made = task_from(Splits("noise", data[:16], data[16:]), "speed-net:width=0.125")  # it scales what its head gives
    task = made.with_recipe(precision="float32", channels_last=False)
    theta = task.space.init(0)
    h, head = features(task, theta, data), task.space.write(theta).get_submodule("head")
    ratio = predict(task, theta, data) / head(h)
    assert len(h) == 24 and torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)


@dataclass(frozen=True)
class Given(Rule):
    """Gives back what it was given."""

    columns: Tensor | None = None
    weights: Tensor | None = None

    def choose(self, now: Moment, batch: Batch) -> Choice | None:
        return None if self.columns is None else Choice(self.columns)

    def weigh(self, now: Moment, batch: Batch, losses: Tensor) -> Tensor | None:
        return self.weights


class Undecorated(Rule):
    pass


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("co-teaching", "an instance of a subclass"),
        (Half, "got Half"),
        (Undecorated(), "frozen dataclass"),
        (PerReplica(lambda grad: grad), "PerReplica.scale"),
        (PerReplica(float("nan")), "finite numbers"),
        (Parts(99), "99 parts"),
        (Given(torch.zeros(1, 0, dtype=torch.int64)), "at least 1"),
        (Given(torch.zeros(1, 3)), "whole numbers"),
        (Given(weights=torch.ones(3)), "one per replica and example"),
    ],
    ids=["name", "class", "undecorated", "function", "nan", "parts", "nothing", "floats", "weights"],
)
def test_rules_that_cannot_be_followed_are_refused_in_words(task, rule, words, tmp_path):
    with pytest.raises(InputError, match=words):
        fit(task.with_recipe(batch_size=98), rule=rule, store=Store(tmp_path))


def test_a_single_chosen_example_and_batch_norm_do_not_go_together(task, tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    normed = replace(task, network=Network("normed", factory=lambda: module))
    with pytest.raises(InputError, match="batch normalisation"):
        fit(normed, rule=Given(torch.zeros(1, 1, dtype=torch.int64)), store=Store(tmp_path))


def test_a_rule_typed_at_a_prompt_is_told_from_another_of_its_name():
    def typed(factor):
        names = {"__name__": "__typed__"}
        lines = f"class Typed(Rule):\n    def gradient(self, now, z, grad):\n        return grad * {factor}"
        exec(lines, globals() | names, names)
        return dataclass(frozen=True)(names["Typed"])()

    assert typed(2).spec() == typed(2).spec() and typed(2).spec() != typed(3).spec()


def test_a_rule_changes_with_the_file_of_the_rule_that_it_derives_from(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "below.py").write_text(
        "from dataclasses import dataclass\nfrom above import Above\n\n\n"
        "@dataclass(frozen=True)\nclass Below(Above):\n    pass\n"
    )

    def spec(factor):
        (tmp_path / "above.py").write_text(f"from surplus.training import Rule\nclass Above(Rule):\n    f = {factor}\n")
        for name in ("above", "below"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("below").Below().spec()

    assert spec(2) == spec(2) != spec(300)
