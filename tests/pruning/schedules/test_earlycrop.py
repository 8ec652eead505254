"""EarlyCroP: when it prunes, how far each cut goes, and what trains on."""

import math
import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

from surplus.errors import InputError
from surplus.pruning import keep_top, prunable_blocks, remove_dead_units
from surplus.pruning.schedules.earlycrop import (
    UntilSettled,
    cropit,
    cropit_densities,
    cropit_mask,
    earlycrop,
    fires,
    flow_batch,
    pruning_epoch,
    threshold,
    until_settled,
)
from surplus.pruning.scores.crop import crop, readers, unit_mask, unit_scores
from surplus.pruning.structured.earlycrop_structured import (
    best_units,
    chain,
    earlycrop_structured,
    kept_units,
    without_units,
)
from surplus.registry import find
from surplus.tasks import Duration, Recipe, load
from surplus.training import Store, fit
from surplus.training.loop import Loop

RECIPE = Recipe(lr=0.05, batch_size=128, duration="3ep", schedule="constant")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def digits():
    return load("digits", "mlp", widths=(24, 16), recipe=RECIPE)


# ---- when -----------------------------------------------------------------------------------------------------------

DISTANCES = [0, 0.05, 0.08, 0.095, 0.103, 0.1075, 0.110]


def test_the_rule_fires_at_the_sixth_epoch_of_the_worked_case():
    assert threshold(0.05, 0.1) == pytest.approx(0.005)
    assert fires(DISTANCES, 0.1) == 6
    assert [fires(DISTANCES[:t], 0.1) for t in range(1, 6)] == [None] * 5
    assert fires(DISTANCES, 0.06) == 7 and fires(DISTANCES, 0.02) is None
    assert fires(DISTANCES, 0.5) == 4 and fires(DISTANCES, 1.0) == 3


def test_weights_at_the_distances_of_the_worked_case_fire_with_it():
    first = torch.tensor([3.0, 4.0], dtype=torch.float64)
    direction = torch.tensor([0.6, -0.8], dtype=torch.float64)
    thetas = [first + 5 * r * direction for r in DISTANCES]
    assert pruning_epoch(thetas, 0.1) == 6
    assert pruning_epoch([100 * t for t in thetas], 0.1) == 6  # relative
    with pytest.raises(InputError, match="density"):
        pruning_epoch(thetas, 0.0)


def test_the_threshold_for_units_is_a_tenth_lower_and_never_zero():
    assert threshold(2.0, 0.5, units=True) == pytest.approx(0.8)
    assert threshold(2.0, 1.0, units=True) == pytest.approx(1.8)
    assert threshold(2.0, 0.1, units=True) == pytest.approx(0.02)  # the published rule has 0 here, and never fires
    assert threshold(2.0, 0.12, units=True) == pytest.approx(0.04)


@pytest.mark.parametrize("units", [False, True])
def test_more_is_pruned_later(units):
    shares = [k / 200 for k in range(1, 201)]
    taus = [threshold(0.3, d, units) for d in shares]
    assert all(a < b or (units and b == 0.99 * 0.3) for a, b in pairwise(taus))
    slowing = [0.3 * (1 - 0.9**t) for t in range(400)]
    epochs = [fires(slowing, d, units) for d in shares]
    assert all(a >= b for a, b in pairwise(epochs)) and epochs[0] > epochs[-1]


def test_weights_that_never_move_or_are_lost_have_an_answer():
    assert fires([0.0, 0.0], 0.1) == 2
    assert pruning_epoch([torch.zeros(3)] * 4, 0.1) == 2
    assert fires([0.0, math.nan, math.nan], 0.1) is None
    assert fires([], 0.5) is fires([0.0], 0.5) is None


def test_training_ends_at_the_epoch_of_the_rule_and_each_replicas_own_is_found_among_others(digits, store):
    alone = until_settled(digits, density=0.1, seeds=[0, 1, 2], prune_to=30, store=store)
    ends = [12 * t for t in range(1, 31)]
    run = fit(
        digits.with_recipe(duration="30ep"), seeds=3, rule=UntilSettled(0.1), keep=ends, execution="stacked", jobs=1,
        store=store,
    )  # fmt: skip
    thetas = torch.stack([run.at(step) for step in run.kept])  # (epochs, K, P)
    own = [pruning_epoch(list(thetas[:, k]), 0.1) for k in range(3)]
    assert tuple(own) == alone.epochs and len(run.kept) == max(own) < 30 and len(set(own)) > 1
    for k, t in enumerate(own):
        torch.testing.assert_close(run.at(12 * t)[k], alone.theta[k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", [5, 30])
def test_an_interrupted_early_phase_ends_at_the_same_weights(digits, store, tmp_path, monkeypatch, stop):
    whole = until_settled(digits, density=0.1, seeds=[0], store=store)
    update, resumed = Loop._update, []

    def interrupted(self):
        if self.step == stop and not resumed:
            raise KeyboardInterrupt
        update(self)
        self.entry.write_checkpoint(self._state())

    monkeypatch.setattr(Loop, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        until_settled(digits, density=0.1, seeds=[0], store=Store(tmp_path))
    resumed.append(True)
    steps = []
    monkeypatch.setattr(Loop, "_update", lambda self: (steps.append(self.step), update(self)))
    again = until_settled(digits, density=0.1, seeds=[0], store=Store(tmp_path))
    assert steps[0] == stop
    assert torch.equal(again.theta, whole.theta) and again.epochs == whole.epochs


def test_the_cap_ends_what_does_not_settle(digits, store):
    early = until_settled(digits, density=1e-6, seeds=[0], prune_to=4, store=store)
    assert early.epochs == (4,)


def test_an_impossible_density_is_refused_before_training(digits, store):
    with pytest.raises(InputError, match="density"):
        fit(digits, rule=UntilSettled(0.0), store=store)
    for schedule in (earlycrop, cropit):
        with pytest.raises(InputError, match="density"):
            schedule(digits, density=2.0, store=store)
    with pytest.raises(InputError, match="density"):
        earlycrop_structured(digits, keep=0.0, store=store)


# ---- how much -------------------------------------------------------------------------------------------------------


def test_cropits_cuts_halve_what_is_left_to_do():
    removed = [1 - d for d in cropit_densities(0.02)]
    assert removed == pytest.approx([0.5, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98])
    assert [1 - d for d in cropit_densities(0.6, 3)] == pytest.approx([0.25, 0.325, 0.3625, 0.4])


@pytest.mark.parametrize("density", [1.0, 0.9, 0.8, 0.75, 0.6, 0.5, 0.49, 0.3, 0.02, 1e-4])
def test_cropits_cuts_fall_to_the_density_and_never_below(density):
    shares = cropit_densities(density, 100)
    assert shares[-1] == density and all(a >= b for a, b in pairwise(shares))
    assert cropit_densities(density, 0) == (density,)


def test_one_cut_of_cropit_is_crops_own(digits):
    theta = digits.space.init(0)
    score = crop(digits.space, theta, flow_batch(digits, 0), loss=digits.loss)
    once = keep_top(digits.space, score, density=0.2, min_per_layer=1)
    assert torch.equal(cropit_mask(digits, theta, 0.2, steps=0), once)
    assert not torch.equal(cropit_mask(digits, theta, 0.2), once)


def test_cuts_that_would_remove_nothing_are_not_scored(digits, monkeypatch):
    module = sys.modules[cropit_mask.__module__]  # the package may hold a function of the same name
    sizes, real = [], module.crop

    def counted(space, theta, batch, **options):
        sizes.append(int(options["mask"][space.prunable].sum()))
        assert not theta[~options["mask"]].any()
        return real(space, theta, batch, **options)

    monkeypatch.setattr(module, "crop", counted)
    mask = cropit_mask(digits, digits.space.init(0), 0.1, steps=100)
    total = sum(b.size for b in prunable_blocks(digits.space))
    assert sizes[0] == total and sizes == sorted(set(sizes), reverse=True) and len(sizes) < 15
    assert int(mask[digits.space.prunable].sum()) == round(0.1 * total) < sizes[-1]


def test_trained_points_are_scored_with_statistics_of_their_own_and_initial_ones_are_not(store, monkeypatch):
    module, seen = sys.modules[cropit_mask.__module__], []
    real, task = module.crop, load("digits", vgg_like, recipe=RECIPE)

    def watched(space, theta, batch, **options):
        seen.append((theta, options["buffers"]))
        return real(space, theta, batch, **options)

    monkeypatch.setattr(module, "crop", watched)
    cropit(
        task, density=0.4, steps=1, seeds=1, store=store, recipe=RECIPE.model_copy(update={"duration": Duration("1it")})
    )
    assert [buffers for _, buffers in seen] == [None, None]
    seen.clear()
    earlycrop(task, density=0.4, steps=1, prune_to=1, epochs=1, seeds=1, store=store)
    assert len(seen) == 2
    for theta, buffers in seen:
        for name, value in task.statistics(theta).items():
            assert torch.equal(buffers[name], value)
    assert not torch.equal(seen[0][1]["1.running_var"], task.space.fresh_buffers()["1.running_var"])


def test_the_batch_is_five_batches_of_training_examples(digits):
    x, y = flow_batch(digits, 0)
    assert x.shape == (640, 1, 8, 8) and len(y) == 640
    assert torch.equal(x, flow_batch(digits, 0)[0]) and not torch.equal(x, flow_batch(digits, 1)[0])
    assert len(flow_batch(digits.with_recipe(batch_size=1000), 0)[1]) == len(digits.train)


# ---- schedules ------------------------------------------------------------------------------------------------------


def test_earlycrop_prunes_where_training_settled_and_trains_on_from_there(digits, store):
    (level,) = earlycrop(
        digits, density=0.1, epochs=4, seeds=[3, 5], exclude=("head",), store=store, execution="stacked"
    )
    early = until_settled(digits, density=0.1, seeds=[3, 5], store=store)
    total = sum(b.size for b in prunable_blocks(digits.space, ("head",)))
    whole = digits.space["head.weight"]
    for mask in level.masks:
        assert int((mask & digits.space.prunable).sum()) == round(0.1 * total) + whole.size
        assert mask[whole.slice].all() and mask[~digits.space.prunable].all()
    assert torch.equal(level.start, early.theta) and level.run.seeds == (3, 5)
    assert not level.run.theta[~level.masks].any()
    assert level.run.task.recipe.schedule == "onecycle" and level.run.task.recipe.duration == "4ep"
    assert sum(1 for e in level.run.history["epoch"] if e == 3) == 2 and max(level.run.history["epoch"]) == 3
    assert level.accuracy.mean() > 0.8


def test_patience_does_not_send_the_early_phase_back(digits, store):
    early = until_settled(digits, density=0.2, seeds=[0], store=store, recipe=RECIPE)
    waiting = RECIPE.model_copy(update={"patience": 1})
    again = until_settled(digits, density=0.2, seeds=[0], store=store, recipe=waiting)
    assert torch.equal(early.theta, again.theta)


def test_cropit_prunes_initial_networks_to_the_density(digits, store):
    (level,) = cropit(digits, density=0.2, seeds=2, store=store, execution="stacked")
    assert torch.equal(level.start, digits.space.init_many([0, 1]))
    assert level.density == pytest.approx(0.2, abs=1e-3)
    assert not torch.equal(level.masks[0], level.masks[1])


def test_they_are_in_the_catalogue():
    assert find("pruning schedule", "earlycrop").fn is earlycrop
    assert find("pruning schedule", "cropit").fn is cropit
    assert find("structured pruning", "earlycrop-structured").fn is earlycrop_structured
    assert find("weight score", "crop").fn is crop


# ---- units ----------------------------------------------------------------------------------------------------------


def test_units_are_ranked_together_and_each_layer_keeps_its_best():
    alive = {"a": torch.tensor([True, True, True]), "b": torch.tensor([True, False, True, True])}
    scores = {"a": torch.tensor([0.1, 0.3, 0.2]), "b": torch.tensor([5.0, 9.0, 4.0, 6.0])}
    kept = best_units(scores, alive, 3)
    assert kept["a"].tolist() == [False, True, False]
    assert kept["b"].tolist() == [True, False, False, True]
    least = best_units(scores, alive, 2)
    assert least["a"].tolist() == [False, True, False] and least["b"].tolist() == [False, False, False, True]
    equal = best_units({n: torch.zeros(len(t)) for n, t in alive.items()}, alive, 4)
    assert sum(int(t.sum()) for t in equal.values()) == 4 and not equal["b"][1]


def test_cuts_of_units_leave_the_exact_number_and_the_best_of_one_cut(digits):
    theta = digits.space.init(0)
    kept = kept_units(digits, theta, 0.4)
    assert sum(int(t.sum()) for t in kept.values()) == round(0.4 * (24 + 16))
    once = kept_units(digits, theta, 0.4, steps=0)
    scores = unit_scores(digits.space, theta, flow_batch(digits, 0), loss=digits.loss)
    everything = torch.cat(list(scores.values()))
    assert torch.equal(torch.cat(list(once.values())), everything >= everything.topk(16).values[-1])
    few = kept_units(digits, theta, 0.01)
    assert [int(t.sum()) for t in few.values()] == [1, 1]


def vgg_like():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(),
        nn.Linear(12 * 16, 10), nn.ReLU(), nn.Linear(10, 10),
    )  # fmt: skip


@pytest.mark.parametrize("network", ["mlp", vgg_like], ids=["mlp", "convolutions"])
def test_the_smaller_network_has_the_logits_of_the_masked_one(network, store):
    task = load("digits", network, recipe=RECIPE)
    theta = until_settled(task, density=0.5, seeds=[0], units=True, prune_to=3, store=store).theta[0]
    assert chain(task.space)
    kept = kept_units(task, theta, 0.3, steps=6)
    mask = unit_mask(task.space, kept)
    module = task.space.write(theta, task.statistics(theta))
    small = without_units(task, theta, 0.3, steps=6)
    masked = task.space.write(theta * mask, task.statistics(theta))
    x = task.prepare(task.test.inputs)
    with torch.no_grad():
        torch.testing.assert_close(small(x), masked(x), rtol=0, atol=1e-5)
        assert not torch.allclose(small(x), module(x), atol=1e-2)
    assert [len(small.get_submodule(n).weight) for n in readers(task.space)] == [int(t.sum()) for t in kept.values()]
    assert sum(p.numel() for p in small.parameters()) < 0.5 * task.space.size
    assert [type(m) for m in small.modules()] == [type(m) for m in module.modules()]
    again = remove_dead_units(module, mask, inputs=False)
    assert all(map(torch.equal, again.state_dict().values(), small.state_dict().values()))


def test_structured_earlycrop_trains_a_smaller_network_for_each_seed(digits, store):
    runs = earlycrop_structured(digits, keep=0.5, epochs=8, seeds=[0, 4], store=store)
    assert [r.seeds for r in runs] == [(0,), (4,)]
    for run in runs:
        widths = [b.shape[0] for b in prunable_blocks(run.task.space)]
        assert sum(widths[:-1]) == round(0.5 * 40) and widths[-1] == 10
        assert run.task.recipe.schedule == "onecycle" and run.task.recipe.duration == "8ep"
        assert run.evaluate("test").metric > 0.5


class Branching(nn.Module):
    """What the tracer cannot follow: a path that depends on the numbers."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 20), nn.Linear(20, 10)

    def forward(self, x):
        h = self.one(x.flatten(1)).relu()
        return self.two(h if h.sum() > 0 else h + 1)


def test_networks_that_cannot_be_traced_are_followed_along_the_gradient(store):
    pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
    task = load("digits", Branching, recipe=RECIPE)
    assert not chain(task.space)
    small = without_units(task, task.space.init(0), 0.5)
    assert small.one.out_features == 10 and small(task.prepare(task.test.inputs)).shape == (359, 10)


def test_residual_networks_lose_channels_that_are_tied_together(store):
    pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
    task = load(
        "digits", "resnet-cifar", depth=8, width=0.25, recipe=RECIPE.model_copy(update={"duration": Duration("1ep")})
    )
    assert not chain(task.space)
    small = without_units(task, task.space.init(0), 0.5)
    assert sum(p.numel() for p in small.parameters()) < 0.5 * task.space.size
    (run,) = earlycrop_structured(task, keep=0.5, prune_to=1, epochs=1, seeds=1, store=store)
    assert run.task.space.size < 0.5 * task.space.size and run.evaluate("test").metric.isfinite().all()
