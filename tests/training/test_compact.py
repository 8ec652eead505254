import pytest
import torch

from surplus.data import Dataset, Splits
from surplus.pruning import random_mask
from surplus.reparam import Identity, Mask
from surplus.space import generator
from surplus.tasks import Recipe, task_from
from surplus.training import Store, fit, loop
from surplus.training.compact import compact

NETWORKS = {
    "mlp": ("mlp", {"widths": (24, 12)}, (40,)),
    "lenet-5": ("lenet-5", {}, (1, 16, 16)),
    "resnet-20": ("resnet-20", {"width": 0.25}, (3, 8, 8)),
    "vgg-11": ("vgg-11", {"width": 0.0625}, (3, 32, 32)),
}
RECIPES = {
    "sgd": {"lr": 0.05, "momentum": 0.9},
    "sgd with decay": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.05, "schedule": "cosine"},
    "adam": {"optimiser": "adam", "lr": 0.01},
    "adam with decay": {"optimiser": "adam", "lr": 0.01, "weight_decay": 0.05},
    "adamw": {"optimiser": "adamw", "lr": 0.01, "weight_decay": 0.5, "clip": 0.1},
}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def task(network="mlp", **recipe):
    name, options, shape = NETWORKS[network]
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(96, *shape, generator=g), torch.arange(96) % 4
    data = Dataset.of(x, y, kind="image" if len(shape) == 3 else "table")
    settings = {"lr": 0.05, "batch_size": 16, "duration": "2ep", "schedule": "constant", **recipe}
    return task_from(Splits("random", data, data), name, recipe=Recipe(**settings), **options)


def masks_of(t, density, replicas=2):
    return torch.stack([random_mask(t.space, density, generator(s, "test")) for s in range(replicas)])


def both(monkeypatch, t, masks, **options):
    """The same training in fewer coordinates and in all of them."""
    small = fit(t, seeds=len(masks), masks=masks, **options)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "compact", lambda *_: None)
        elsewhere = Store(options.pop("store").folder / "whole")
        whole = fit(t, seeds=len(masks), masks=masks, store=elsewhere, **options)
    return small, whole


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("execution", ["stacked", "spread"])
def test_training_in_fewer_coordinates_ends_at_the_same_weights(recipe, execution, monkeypatch, store):
    t = task(**RECIPES[recipe])
    masks = masks_of(t, 0.03, 3)
    assert compact(t.space, [Mask(t.space.init(s), m) for s, m in enumerate(masks)]).space.size < 0.6 * t.space.size
    small, whole = both(
        monkeypatch, t, masks, store=store, execution=execution, jobs=1, keep=(5,), curve=4, record=True
    )
    torch.testing.assert_close(small.theta, whole.theta, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(small.at(5), whole.at(5), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(small.record["margin"], whole.record["margin"], atol=1e-3, rtol=1e-3)
    assert small.curve["metric"] == pytest.approx(whole.curve["metric"], abs=0.03)
    assert (small.theta[~masks] == 0).all()


@pytest.mark.parametrize("network", ["lenet-5", "resnet-20", "vgg-11"])
def test_channels_and_their_norms_go_too(network, monkeypatch, store):
    t = task(network, lr=0.01, weight_decay=0.1)
    masks = masks_of(t, 0.01, 1)
    small, whole = both(monkeypatch, t, masks, store=store, jobs=1)
    torch.testing.assert_close(small.theta, whole.theta, atol=1e-4, rtol=1e-3)
    assert compact(t.space, [Mask(t.space.init(0), masks[0])]).space.size < 0.9 * t.space.size


def test_what_is_heard_is_what_a_path_of_surviving_weights_leads_from():
    t = task()
    whole = torch.ones(t.space.size, dtype=torch.bool)
    parts = t.space.split(whole)
    names = [b.name for b in t.space.blocks if b.prunable]  # 40 -> 24 -> 12 -> 4
    parts[names[2]][:, 5:] = False  # units 0-4 of the second layer are read
    parts[names[1]][:5, 7:] = False  # and read units 0-6 of the first
    parts[names[0]][:7, 30:] = False  # which read inputs 0-29
    found = compact(t.space, [Mask(t.space.init(0), whole)])
    assert [tuple(b.shape) for b in found.space.blocks if b.prunable] == [(7, 30), (5, 7), (4, 5)]
    assert found.columns.tolist() == [list(range(30))]
    theta = t.space.init(1)[None]
    assert torch.equal(found.scatter(found.gather(theta), torch.zeros_like(theta))[~found.rest & whole], theta[0][
        (~found.rest & whole)[0]])  # fmt: skip
    x = torch.randn(1, 6, 40)
    expected = t.space.apply(theta[0].masked_fill(~whole, 0), x[0])
    masked = found.gather(theta).masked_fill(~found.mask, 0)
    torch.testing.assert_close(found.space.apply(masked[0], found.inputs(x)[0]), expected)


def test_a_layer_that_is_wholly_cut_keeps_one_unit(monkeypatch, store):
    t = task()
    masks = masks_of(t, 0.2, 2)
    second = [b for b in t.space.blocks if b.prunable][1]
    masks[:, second.slice] = False
    small, whole = both(monkeypatch, t, masks, store=store, execution="stacked", jobs=1)
    torch.testing.assert_close(small.theta, whole.theta, atol=2e-5, rtol=1e-4)


def test_dense_networks_muon_and_other_coordinates_are_left_as_they_are():
    t = task()
    theta, mask = t.space.init(0), masks_of(t, 0.03, 1)[0]
    assert compact(t.space, [Mask(theta, mask)], "adam") is not None
    assert compact(t.space, [Mask(theta, mask)], "muon") is None
    assert compact(t.space, [Identity(theta)]) is None
    assert compact(t.space, [Mask(theta, torch.ones_like(mask))]) is None
    assert compact(t.space, [Mask(theta, masks_of(t, 0.9, 1)[0])]) is None  # nothing much would go


def test_an_interrupted_compact_run_ends_as_an_uninterrupted_one(monkeypatch, store):
    t = task(weight_decay=0.05)
    masks = masks_of(t, 0.03)
    expected = fit(t, seeds=2, masks=masks, store=store, execution="stacked", jobs=1).theta
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    store = Store(store.folder / "again")
    update, calls = loop.Loop._update, []

    def fails(self):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        update(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_update", fails)
        with pytest.raises(KeyboardInterrupt):
            fit(t, seeds=2, masks=masks, store=store, execution="stacked", jobs=1)
    assert torch.equal(fit(t, seeds=2, masks=masks, store=store, execution="stacked", jobs=1).theta, expected)


class Own(torch.nn.Module):
    """A network that does something beside its layers."""

    def __init__(self, how):
        super().__init__()
        self.how, self.a, self.b = how, torch.nn.Linear(40, 24), torch.nn.Linear(24, 4)
        if how == "hook":
            self.a.register_forward_hook(lambda _, __, o: o / o.norm(dim=1, keepdim=True) * o.shape[1])

    def forward(self, x):
        h = torch.relu(self.a(x))
        if self.how == "weight":
            h = h / self.a.weight.norm(dim=1).mean()
        elif self.how == "training" and self.training:
            h = h - h.mean(1, keepdim=True)
        elif self.how == "size":
            h = h / self.a.out_features**0.5
        elif self.how == "tied":
            h = torch.nn.functional.linear(h, self.a.weight.t())[:, :24]
        return self.b(h)


@pytest.mark.parametrize("how", ["hook", "weight", "training", "size", "tied", "plain"])
def test_a_network_that_does_something_beside_its_layers_is_left_whole(how):
    from functools import partial

    t = task()
    t = task_from(Splits("random", t.train, t.test), partial(Own, how), recipe=t.recipe)
    mask = torch.ones(t.space.size, dtype=torch.bool)
    t.space.split(mask)["b.weight"][:, 12:] = False  # half of the units are not read
    plan = loop.Plan(t, t.recipe, (0,), None, (Mask(t.space.init(0), mask),))
    assert (plan.compact() is not None) == (how == "plain")


def test_linear_layers_on_maps_and_means_before_the_first_layer_are_left_whole(monkeypatch, store):
    from torch import nn

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean([2, 3])

    makes = [
        lambda: nn.Sequential(Mean(), nn.Linear(3, 30), nn.ReLU(), nn.Linear(30, 4)),
        lambda: nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 8 * 30, 4)),
    ]
    for i, make in enumerate(makes):
        t = task("resnet-20")
        t = task_from(Splits("random", t.train, t.test), make, recipe=t.recipe)
        small, whole = both(monkeypatch, t, masks_of(t, 0.1), store=Store(store.folder / str(i)), jobs=1)
        torch.testing.assert_close(small.theta, whole.theta, atol=2e-5, rtol=1e-4)
