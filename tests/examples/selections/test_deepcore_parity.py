"""compat="deepcore": the deviations of that code, written out again in plain numpy, on ten stored points."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from surplus.examples import score, select
from surplus.examples.selections.craig import craig_weights
from surplus.examples.selections.grad_match import grad_match_weights
from surplus.examples.selections.herding import herding_order

H = np.array(
    [
        [1.84, 0.52, -1.71],
        [-1.7, 2.02, -0.27],
        [-0.13, -1.44, 0.39],
        [-0.02, -1.35, -0.73],
        [0.99, -0.42, -0.56],
        [0.78, -0.26, -0.73],
        [1.7, -0.18, 1.92],
        [0.29, 0.23, -0.06],
        [-0.15, 0.9, 0.55],
        [-1.64, -1.82, -0.21],
    ]
)
P = np.array(
    [
        [0.3, 0.16, 0.54],
        [0.26, 0.22, 0.52],
        [0.48, 0.48, 0.04],
        [0.1, 0.06, 0.84],
        [0.71, 0.07, 0.22],
        [0.75, 0.17, 0.08],
        [0.17, 0.26, 0.57],
        [0.03, 0.03, 0.94],
        [0.43, 0.45, 0.12],
        [0.35, 0.34, 0.31],
    ]
)
Y = np.arange(10) % 3
KEEPS = range(1, 11)
MATERIAL = {"embeddings": torch.tensor(H), "probabilities": torch.tensor(P), "labels": torch.tensor(Y)}


def kept(rule, keep, **options):
    return select(rule, torch.zeros(10), keep, compat="deepcore", **MATERIAL, **options).nonzero().squeeze(1).tolist()


def twice_softmaxed():
    """Gradients of cross_entropy(softmax(z), y) in the last layer, by autograd, in full."""
    z = torch.tensor(P).log().requires_grad_()
    torch.nn.functional.cross_entropy(z.softmax(1), torch.tensor(Y), reduction="sum").backward()
    e = z.grad.numpy()
    return np.concatenate([e, (e[:, :, None] * H[:, None]).reshape(10, -1)], 1)


def greedily(gain, keep):
    picks = []
    while len(picks) < keep:
        gains = [-np.inf if x in picks else gain(picks, x) for x in range(10)]
        picks.append(int(np.argmax(gains)))
    return picks


def test_herding_takes_the_farthest():
    mu = H.mean(0)
    farthest = greedily(lambda s, x: np.linalg.norm((len(s) + 1) * mu - H[s].sum(0) - H[x]), 10)
    assert herding_order(torch.tensor(H), 10, farthest=True).tolist() == farthest
    assert all(kept("herding", keep) == sorted(farthest[:keep]) for keep in KEEPS)
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])
    assert herding_order(points, 3, farthest=True).tolist() == [3, 1, 2]


@pytest.mark.parametrize("name", ["entropy", "prediction-margin"])
def test_uncertainty_keeps_the_surest(name):
    falling = -np.sort(-P, 1)
    ranking = (P * np.log(P + 1e-6)).sum(1) if name == "entropy" else falling[:, 0] - falling[:, 1]
    theirs = score(name, {"probabilities": torch.tensor(P)[None]}, compat="deepcore").mean
    np.testing.assert_allclose(theirs.numpy(), ranking)
    for keep in (1, 3, 5):
        picks = select("hardest", theirs, keep).nonzero().squeeze(1).tolist()
        assert picks == sorted(np.argsort(-ranking, kind="stable")[:keep].tolist())
    published = score(name, {"probabilities": torch.tensor(P)[None]}).mean
    assert published.argmax() == theirs.argmin()


def test_cal_keeps_the_smallest():
    neighbours = np.argsort(np.linalg.norm(H[:, None] - H, axis=2), 1)[:, 1:4]
    kl = lambda a, b: (0.5 * a * np.log(a / b) + 0.5 * b * np.log(b / a)).sum()
    s = np.array([np.mean([kl(P[i], P[j]) for j in neighbours[i]]) for i in range(10)])
    evidence = {"inputs": torch.tensor(H), "probabilities": torch.tensor(P)[None]}
    np.testing.assert_allclose(score("cal", evidence, neighbours=3).mean.numpy(), s)
    theirs = score("cal", evidence, neighbours=3, compat="deepcore").mean
    for keep in (1, 3, 5):
        assert select("hardest", theirs, keep).nonzero().squeeze(1).tolist() == sorted(np.argsort(s)[:keep].tolist())


def test_glister_never_takes_its_gradient_again():
    g = twice_softmaxed()
    ranking = np.argsort(-(g @ g.mean(0)))
    assert all(kept("glister", keep) == sorted(ranking[:keep].tolist()) for keep in KEEPS)


def test_craig_counts_one_too_many():
    g = twice_softmaxed()
    matrix = -np.sqrt(np.clip(((g[:, None] - g) ** 2).sum(2), 1e-12, None))
    matrix -= matrix.min() - 1e-3
    nearest = lambda s: matrix[:, s].max(1) if s else np.zeros(10)
    picks = greedily(lambda s, x: np.maximum(0, matrix[:, x] - nearest(s)).sum(), 6)
    for keep in range(1, 7):
        assert kept("craig", keep) == sorted(picks[:keep])
        chosen = np.isin(np.arange(10), picks[:keep])
        weights = np.ones(keep)
        for i in matrix[chosen].argmax(0):
            weights[i] += 1
        ours = craig_weights(torch.tensor(chosen), **MATERIAL, compat="deepcore")
        np.testing.assert_allclose(ours.numpy()[chosen], weights)
        assert ours.sum() == 10 + keep


@pytest.mark.parametrize("lam", [1.0, 0.05])
def test_grad_match_matches_the_mean_and_solves_the_normal_equations_by_least_squares(lam):
    g = twice_softmaxed()
    b = left = g.mean(0)
    order = []
    for _ in range(6):
        projections = g @ left
        projections[order] = -np.inf
        order.append(int(projections.argmax()))
        own = g[order]
        if len(order) == 1:
            x = projections[order] / (own[0] @ own[0])
        else:
            x = np.linalg.solve(own @ own.T + lam * np.eye(len(order)), own @ b)
        left = b - own.T @ x
    for keep in range(1, 7):
        assert kept("grad-match", keep, lam=lam) == sorted(order[:keep])
        chosen = np.isin(np.arange(10), order[:keep])
        own = g[chosen]
        weights = nnls(own @ own.T + lam * np.eye(keep), own @ b)[0] if keep > 1 else np.ones(1)
        ours = grad_match_weights(torch.tensor(chosen), **MATERIAL, lam=lam, compat="deepcore")
        np.testing.assert_allclose(ours.numpy()[chosen], weights, atol=1e-9)


def test_graph_cut_leaves_out_a_constant_and_the_log_determinant_turns_its_sign():
    g = twice_softmaxed()
    u = g / np.linalg.norm(g, axis=1, keepdims=True)
    s = 0.5 + 0.5 * u @ u.T
    cut = greedily(lambda S, x: s[:, x].sum() - 2 * s[S, x].sum(), 6)
    assert all(kept("graph-cut", keep) == sorted(cut[:keep]) for keep in range(1, 7))
    explained = greedily(lambda S, x: s[x, S] @ np.linalg.pinv(s[np.ix_(S, S)]) @ s[S, x] if S else 0.0, 4)
    assert all(kept("log-determinant", keep) == sorted(explained[:keep]) for keep in range(1, 5))
    facility = greedily(lambda S, x: np.maximum(0, s[:, x] - (s[:, S].max(1) if S else 0)).sum(), 5)
    assert all(kept("facility-location", keep) == sorted(facility[:keep]) for keep in range(1, 6))


def test_the_published_rules_pick_otherwise():
    plain = lambda rule, keep: select(rule, torch.zeros(10), keep, **MATERIAL).nonzero().squeeze(1).tolist()
    for rule in ("herding", "glister", "grad-match", "log-determinant"):
        assert any(plain(rule, keep) != kept(rule, keep) for keep in range(1, 10)), rule
