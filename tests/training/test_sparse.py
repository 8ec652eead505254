import pytest
import torch

from surplus.data import Dataset, Splits
from surplus.pruning import random_mask
from surplus.reparam import Identity, Mask
from surplus.space import generator
from surplus.tasks import CLASSIFICATION, Recipe, task_from
from surplus.tasks.objective import REGRESSION
from surplus.training import Store, fit, loop, sparse
from surplus.training.chain import Chain
from surplus.training.sparse import Kept, SparseChain, kept_only

RECIPES = {
    "sgd with decay": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.05},
    "adam": {"optimiser": "adam", "lr": 0.01},
    "adamw, clipped": {"optimiser": "adamw", "lr": 0.01, "weight_decay": 0.5, "clip": 0.1},
}


def task(**recipe):
    g = torch.Generator().manual_seed(0)
    data = Dataset.of(torch.randn(96, 20, generator=g), torch.arange(96) % 4, kind="table")
    settings = {"lr": 0.05, "batch_size": 16, "duration": "2ep", "schedule": "constant", **recipe}
    return task_from(Splits("random", data, data), "mlp", recipe=Recipe(**settings), widths=(30, 12))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(sparse, "SMALLEST", 100)
    monkeypatch.setattr(sparse, "DENSEST", 0.5)


def mask_of(t, density, seed=0):
    return random_mask(t.space, density, generator(seed, "sparse test"))


@pytest.mark.parametrize("density", [0.05, 0.3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sparse_products_give_the_outputs_and_the_kept_part_of_the_gradient(density, smoothing):
    t = task()
    mask, recipe = mask_of(t, density), Recipe(label_smoothing=smoothing)
    theta = t.space.init(0).masked_fill(~mask, 0)[None]
    x, y = torch.randn(1, 7, 20), torch.arange(7)[None] % 4
    kept = kept_only(t.space, [Mask(theta[0], mask)], CLASSIFICATION, recipe)
    a = SparseChain(kept, CLASSIFICATION, recipe)(kept.gather(theta), x, y, 0)
    b = Chain.of(t.space, CLASSIFICATION, recipe)(theta, x, y, 0)
    torch.testing.assert_close(a[0], b[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(a[1], b[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(a[2][0], b[2][0][mask], atol=1e-6, rtol=1e-5)


def test_weights_of_examples_losses_of_a_rule_and_other_objectives_enter():
    t = task()
    mask = mask_of(t, 0.2)
    theta = t.space.init(0).masked_fill(~mask, 0)[None]
    x, y = torch.randn(1, 7, 20), torch.arange(7)[None] % 4
    weights = torch.rand(1, 7)
    for objective, target, weigh, loss in (
        (CLASSIFICATION, y, lambda _: weights, None),
        (CLASSIFICATION, y, None, lambda o: o.square().sum(-1)),
        (REGRESSION, torch.randn(1, 7, 4), None, None),
    ):
        kept = Kept(t.space, mask.nonzero().view(1, -1))
        a = SparseChain(kept, objective, Recipe())(kept.gather(theta), x, target, 0, weigh, loss)
        b = Chain.of(t.space, objective, Recipe())(theta, x, target, 0, weigh, loss)
        torch.testing.assert_close(a[2][0], b[2][0][mask], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_ends_at_the_same_weights(recipe, monkeypatch, tmp_path):
    t = task(**RECIPES[recipe])
    masks = torch.stack([mask_of(t, 0.1, s) for s in range(2)])
    options = {"seeds": 2, "masks": masks, "execution": "spread", "jobs": 1, "keep": (5,), "record": True}
    few = fit(t, store=Store(tmp_path / "few"), **options)
    monkeypatch.setattr(loop, "kept_only", lambda *_: None)
    monkeypatch.setattr(loop, "compact", lambda *_: None)
    whole = fit(t, store=Store(tmp_path / "whole"), **options)
    torch.testing.assert_close(few.theta, whole.theta, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(few.at(5), whole.at(5), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(few.record["margin"], whole.record["margin"], atol=1e-3, rtol=1e-3)
    assert (few.theta[~masks] == 0).all()


def test_an_interrupted_run_goes_on_where_it_stopped(monkeypatch, tmp_path):
    t, options = task(), {"seeds": 1, "execution": "spread", "jobs": 1}
    masks = mask_of(t, 0.1)[None]
    expected = fit(t, masks=masks, store=Store(tmp_path / "a"), **options).theta
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    update, calls = loop.Loop._update, []

    def fails(self):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        update(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_update", fails)
        with pytest.raises(KeyboardInterrupt):
            fit(t, masks=masks, store=Store(tmp_path / "b"), **options)
    assert torch.equal(fit(t, masks=masks, store=Store(tmp_path / "b"), **options).theta, expected)


def test_whatever_is_not_one_large_very_sparse_chain_is_trained_otherwise(monkeypatch):
    t = task()
    theta, mask = t.space.init(0), mask_of(t, 0.1)

    def found(coordinates, recipe=t.recipe):
        return kept_only(t.space, coordinates, CLASSIFICATION, recipe)

    assert found([Mask(theta, mask)]) is not None
    assert found([Mask(theta, mask)] * 2) is None and found([Identity(theta)]) is None
    assert found([Mask(theta, mask_of(t, 0.9))]) is None
    assert found([Mask(theta, mask)], Recipe(optimiser="muon", lr=0.1)) is None
    assert found([Mask(theta, mask)], Recipe(precision="bfloat16")) is None
    bias = next(b for b in t.space.blocks if b.kind == "bias")
    masked = mask.clone()
    masked[bias.start] = False
    assert found([Mask(theta, masked)]) is None
    monkeypatch.setattr(sparse, "SMALLEST", 10**6)
    assert found([Mask(theta, mask)]) is None
