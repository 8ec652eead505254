"""CRAIG, GradMatch and GLISTER against their definitions, on gradients that are written out in full."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from surplus.errors import InputError
from surplus.examples import select
from surplus.examples.selections.craig import craig, craig_weights
from surplus.examples.selections.glister import glister
from surplus.examples.selections.grad_match import grad_match, grad_match_weights, non_negative, pursuit_order
from surplus.examples.selections.gradients import Validation, directions, last_layer_gradients


def material(n=24, classes=3, d=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    h = torch.randn(n, d, generator=g, dtype=torch.float64)
    p = torch.randn(n, classes, generator=g, dtype=torch.float64).softmax(1)
    return {"embeddings": h, "probabilities": p, "labels": torch.arange(n) % classes}


def written_out(embeddings, probabilities, labels):
    e = probabilities - torch.eye(probabilities.shape[1], dtype=torch.float64)[labels]
    return torch.cat([(e[:, :, None] * embeddings[:, None]), e[:, :, None]], 2).flatten(1)


# ---- CRAIG ----------------------------------------------------------------------------------------------------------


def test_craig_is_near_the_best_sum_of_distances():
    m = material(12)
    d = torch.cdist(written_out(**m), written_out(**m))
    best = min(float(d[:, list(picks)].amin(1).sum()) for picks in combinations(range(12), 3))
    kept = craig(torch.zeros(12), 3, **m)
    one_by_one = []
    for _ in range(3):
        totals = {i: float(d[:, [*one_by_one, i]].amin(1).sum()) for i in range(12) if i not in one_by_one}
        one_by_one.append(min(totals, key=totals.get))
    assert kept.nonzero().squeeze(1).tolist() == sorted(one_by_one)
    assert best <= totals[one_by_one[-1]] + 1e-9 < 1.2 * best


def test_weights_of_craig_count_the_examples_that_each_stands_for():
    m = material(30)
    d = torch.cdist(written_out(**m), written_out(**m))
    kept = craig(torch.zeros(30), 6, **m)
    weights = craig_weights(kept, **m)
    picks = kept.nonzero().squeeze(1)
    expected = d[:, picks].argmin(1).bincount(minlength=6).double()
    assert weights[picks].tolist() == expected.tolist() and weights.sum() == 30 and not weights[~kept].any()
    assert torch.equal(craig_weights(kept, **m, compat="deepcore")[picks], expected_of_deepcore(m, kept))


def expected_of_deepcore(m, kept):
    p, y = m["probabilities"], torch.eye(3, dtype=torch.float64)[m["labels"]]
    outputs = p.log().requires_grad_()
    torch.nn.functional.cross_entropy(outputs.softmax(1), m["labels"], reduction="sum").backward()
    e = outputs.grad
    assert not torch.allclose(e, p - y)
    g = torch.cat([e[:, :, None] * m["embeddings"][:, None], e[:, :, None]], 2).flatten(1)
    return 1 + torch.cdist(g, g[kept]).argmin(1).bincount(minlength=int(kept.sum())).double()


def test_the_weighted_gradient_of_craig_is_nearer_than_that_of_a_random_subset_of_equal_weights():
    m = material(200, seed=1)
    g = written_out(**m)
    kept = craig(torch.zeros(200), 40, **m)
    error = (craig_weights(kept, **m) @ g - g.sum(0)).norm()
    chance = torch.Generator().manual_seed(0)
    random = [(5 * g[torch.randperm(200, generator=chance)[:40]].sum(0) - g.sum(0)).norm() for _ in range(20)]
    assert error < torch.stack(random).mean()


def test_class_by_class_each_class_stands_for_itself():
    m = material(30)
    kept = select("craig", torch.zeros(30), 9, by_class=True, **m)
    weights = craig_weights(kept, **m, by_class=True)
    for c in range(3):
        assert weights[m["labels"] == c].sum() == 10
    with pytest.raises(InputError, match="nothing is chosen of class 1"):
        craig_weights(kept & (m["labels"] != 1), **m, by_class=True)
    with pytest.raises(InputError, match="bool and not empty"):
        craig_weights(torch.zeros(30, dtype=torch.bool), **m)


# ---- GradMatch ------------------------------------------------------------------------------------------------------


def test_matching_pursuit_picks_what_scikit_learn_picks():
    """Theirs takes the largest projection of either sign, so all must be made positive; and it has no ridge."""
    from sklearn.linear_model import OrthogonalMatchingPursuit

    for seed in range(5):
        x = torch.rand(30, 60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sub(0.5)
        x = x / x.norm(dim=1, keepdim=True)  # (atoms, d)
        target = x[:4].T @ torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
        signed = x * torch.where(x @ target < 0, -1.0, 1.0)[:, None]
        picks = pursuit_order(directions(signed), target[None], 4, lam=0.0)
        theirs = OrthogonalMatchingPursuit(n_nonzero_coefs=4, fit_intercept=False).fit(signed.T, target).coef_
        assert sorted(picks.tolist()) == np.flatnonzero(theirs).tolist()
        weights = non_negative(directions(signed)[picks], target[None], 0.0)
        np.testing.assert_allclose(weights.numpy(), theirs[picks.numpy()], atol=1e-8)


@pytest.mark.parametrize("lam", [0.1, 1.0, 20.0])
def test_each_pick_has_the_largest_projection_on_what_is_left(lam):
    m = material(25)
    g = written_out(**m)
    b, order = g.sum(0), pursuit_order(last_layer_gradients("test", 25, **m), target_of(m), 25, lam).tolist()
    assert sorted(order) == list(range(25))
    left = b
    for t, pick in enumerate(order):
        rest = [i for i in range(25) if i not in order[:t]]
        assert float(g[pick] @ left) == pytest.approx(float((g[rest] @ left).max()), rel=1e-6, abs=1e-9)
        own = g[order[: t + 1]]
        left = b - torch.linalg.solve(own @ own.T + lam * torch.eye(t + 1).double(), own @ b) @ own


def target_of(m):
    e = m["probabilities"] - torch.eye(3, dtype=torch.float64)[m["labels"]]
    return e.T @ torch.cat([m["embeddings"], torch.ones(len(e), 1).double()], 1)


def test_weights_of_grad_match_are_the_best_non_negative_ones():
    m = material(25, seed=3)
    g, lam = written_out(**m), 0.7
    kept = grad_match(torch.zeros(25), 7, **m, lam=lam)
    weights = grad_match_weights(kept, **m, lam=lam)
    assert not weights[~kept].any() and (weights >= 0).all()
    own, b = g[kept].numpy(), g.sum(0).numpy()
    loss = lambda w: float(((b - w @ own) ** 2).sum() + lam * (w**2).sum())
    best = minimize(loss, np.ones(7), bounds=[(0, None)] * 7, tol=1e-14)
    np.testing.assert_allclose(weights[kept].numpy(), best.x, atol=1e-3)
    assert loss(weights[kept].numpy()) <= best.fun + 1e-9


def test_all_examples_without_a_ridge_match_exactly():
    m = material(10, d=20)
    kept = grad_match(torch.zeros(10), 10, **m, lam=0.0)
    assert kept.all()
    torch.testing.assert_close(grad_match_weights(kept, **m, lam=0.0), torch.ones(10).double())


def test_a_validation_set_is_matched_in_place_of_the_training_set():
    m, other = material(40, seed=5), material(30, seed=6)
    held_out = Validation(other["embeddings"], other["probabilities"], other["labels"])
    itself = Validation(m["embeddings"], m["probabilities"], m["labels"])
    run = lambda v: grad_match(torch.zeros(40), 8, **m, validation=v)
    assert torch.equal(run(itself), run(None)) and not torch.equal(run(held_out), run(None))
    by_class = select("grad-match", torch.zeros(40), 9, by_class=True, validation=held_out, **m)
    weights = grad_match_weights(by_class, **m, validation=held_out, by_class=True)
    assert by_class.sum() == 9 and weights.sum() > 0
    none = Validation(*(part[other["labels"] > 0] for part in held_out))
    with pytest.raises(InputError, match="no validation examples"):
        select("grad-match", torch.zeros(40), 9, by_class=True, validation=none, **m)
    with pytest.raises(InputError, match="lam is the weight"):
        grad_match(torch.zeros(40), 8, **m, lam=-1.0)


# ---- GLISTER --------------------------------------------------------------------------------------------------------


def test_glister_takes_the_validation_gradient_again_after_every_pick():
    m, v, eta = material(20, seed=7), material(15, seed=8), 3.0
    g, z = written_out(**m), v["probabilities"].log()
    h = torch.cat([v["embeddings"], torch.ones(15, 1).double()], 1)
    order = []
    for _ in range(6):
        moved = z - eta * h @ g[order].mean(0).view(3, 5).T if order else z
        gain = g @ written_out(v["embeddings"], moved.softmax(1), v["labels"]).mean(0)
        order.append(max((i for i in range(20) if i not in order), key=lambda i: float(gain[i])))
    held_out = Validation(v["embeddings"], v["probabilities"], v["labels"])
    kept = [glister(torch.zeros(20), k, **m, validation=held_out, eta=eta) for k in (0 + 1, 6)]
    assert kept[0].nonzero().item() == order[0]
    assert kept[1].nonzero().squeeze(1).tolist() == sorted(order)
    once = glister(torch.zeros(20), 6, **m, validation=held_out, eta=0.0)
    first = g @ written_out(**v).mean(0)
    assert once.nonzero().squeeze(1).tolist() == sorted(first.argsort(descending=True)[:6].tolist())
    assert not torch.equal(once, kept[1])


def test_a_step_on_what_glister_picks_lowers_the_validation_loss_more_than_on_random_picks():
    m, v, eta = material(200, seed=9), material(60, seed=10), 0.5
    g, z = written_out(**m), v["probabilities"].log()
    h = torch.cat([v["embeddings"], torch.ones(60, 1).double()], 1)

    def loss(rows):
        moved = z - eta * h @ g[rows].mean(0).view(3, 5).T
        return float(torch.nn.functional.cross_entropy(moved, v["labels"]))

    held_out = Validation(v["embeddings"], v["probabilities"], v["labels"])
    chance = torch.Generator().manual_seed(0)
    random = min(loss(torch.randperm(200, generator=chance)[:20]) for _ in range(50))
    assert loss(glister(torch.zeros(200), 20, **m, validation=held_out, eta=eta)) < random


def test_without_a_validation_set_glister_helps_the_training_set():
    m = material(20, seed=11)
    itself = Validation(m["embeddings"], m["probabilities"], m["labels"])
    assert torch.equal(glister(torch.zeros(20), 5, **m), glister(torch.zeros(20), 5, **m, validation=itself))
    with pytest.raises(InputError, match="eta is the size"):
        glister(torch.zeros(20), 5, **m, eta=-1.0)
