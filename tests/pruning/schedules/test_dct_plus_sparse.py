"""The schedule trains as many weights as it says, on a support of its own for each seed, around one offset."""

import pytest
import torch

from surplus.errors import InputError
from surplus.pruning.schedules.dct_plus_sparse import dct_plus_sparse
from surplus.pruning.scoring import score_batch
from surplus.registry import find
from surplus.reparam.dct import cosine_weight
from surplus.tasks import load
from surplus.training import Store


@pytest.fixture
def task():
    return load("digits", "mlp", widths=(32, 32)).with_recipe(duration="20it", optimiser="adam", lr=0.01)


@pytest.mark.parametrize("rule", ["epl", "epf", "uniform", "erk"])
def test_the_level_has_the_density_and_each_seed_its_own_support(task, tmp_path, rule):
    (level,) = dct_plus_sparse(task, density=0.05, seeds=2, rule=rule, store=Store(tmp_path))
    inside = task.space.prunable
    assert level.density == pytest.approx(0.05, abs=0.5 / int(inside.sum()))
    counts = level.masks[:, inside].sum(1)
    assert counts.tolist() == [round(0.05 * int(inside.sum()))] * 2 and level.masks[:, ~inside].all()
    assert not torch.equal(level.masks[0], level.masks[1])
    assert level.run.theta[:, inside].ne(0).double().mean() > 0.9  # dense: the offset is there
    assert level.run.z.shape == (2, 3 + int(counts[0]) + int((~inside).sum()))


def test_saliency_takes_the_places_where_the_offset_times_the_gradient_is_largest(task, tmp_path):
    (level,) = dct_plus_sparse(task, density=0.05, seeds=[2], rule="saliency", exclude=("head",), store=Store(tmp_path))
    x, y = score_batch(task, 2)
    theta = level.start[0].clone().requires_grad_()
    (grad,) = torch.autograd.grad(torch.nn.functional.cross_entropy(task.space.apply(theta, x), y), theta)
    inside = task.space.prunable.clone()
    inside[task.space["head.weight"].slice] = False
    worth = (theta * grad).abs().detach()[inside]
    kept = level.masks[0][inside]
    assert int(kept.sum()) == round(0.05 * len(kept)) and worth[kept].min() >= worth[~kept].max()


def test_training_starts_at_the_offset_and_excluded_layers_at_their_own_weights(task, tmp_path):
    (level,) = dct_plus_sparse(task, density=0.05, seeds=[4], exclude=("head",), store=Store(tmp_path))
    parts, own = task.space.split(level.start[0]), task.space.split(task.space.init(4))
    torch.testing.assert_close(parts["linear1.weight"], cosine_weight((32, 64)).float())
    assert torch.equal(parts["head.weight"], own["head.weight"])
    assert task.space.split(level.masks[0])["head.weight"].all()
    moved = (level.run.theta - level.start)[0]
    assert task.space.split(moved)["head.weight"].ne(0).double().mean() > 0.9


def test_fixed_factors_leave_everything_but_the_support_where_it_was(task, tmp_path):
    (level,) = dct_plus_sparse(task, density=0.05, seeds=[1], trainable=False, store=Store(tmp_path))
    inside = task.space.prunable
    moved = level.run.theta[0].ne(level.start[0]) & inside
    assert moved.any() and not (moved & ~level.masks[0]).any()


def test_it_learns_where_few_weights_are_trained(task, tmp_path):
    longer = task.with_recipe(duration="200it")
    (level,) = dct_plus_sparse(longer, density=0.05, seeds=2, store=Store(tmp_path))
    assert level.accuracy.min() > 0.5


def test_it_is_in_the_catalogue_and_refuses_what_is_no_density(task):
    assert find("pruning schedule", "dct-plus-sparse").fn is dct_plus_sparse
    with pytest.raises(InputError, match=r"lies in \(0, 1\]"):
        dct_plus_sparse(task, density=0)
