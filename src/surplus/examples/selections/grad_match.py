"""GradMatch: a weighted subset whose gradient matches that of all (Killamsetty et al. 2021, arXiv 2103.00123).

    min_{S, w >= 0}  || b - sum_{j in S} w_j G_j ||^2 + lam || w ||^2        b = sum over all examples of G

Orthogonal matching pursuit: pick argmax_i <G_i, r>, solve the ridge problem on the picks, r = b - sum_j w_j G_j, again;
the weights of the end result are those of the non-negative problem. G_i is the last-layer gradient (see `gradients`).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.examples.selections.base import Compat, check_keep, mask_of
from surplus.examples.selections.gradients import Products, Validation, check_chosen, last_layer_gradients
from surplus.registry import method


def grad_match_weights(
    chosen: Tensor,
    *,
    labels: Tensor,
    embeddings: Tensor,
    probabilities: Tensor,
    validation: Validation | None = None,
    lam: float = 1.0,
    by_class: bool = False,
    compat: Compat = None,
) -> Tensor:
    """The non-negative weights with which the chosen examples match the gradient of all.

    Args:
        chosen: (n,) bool, what `grad_match` kept.
        labels: (n,) integers.
        embeddings: (n, d) what enters the last layer.
        probabilities: (n, classes) of the same network.
        validation: held-out examples whose gradient is matched instead.
        lam: weight of the ridge.
        by_class: each class matches its own gradient, as when `grad_match` ran class by class.
        compat: "deepcore" solves the normal equations by least squares, which weighs their rows differently.

    Returns:
        (n,) weights, 0 where not chosen (and where the best weight is 0).

    Raises:
        InputError: something does not fit, or a class with examples has none that is chosen.
    """
    n = len(check_chosen(chosen, labels, by_class))
    g = last_layer_gradients("grad-match", n, embeddings, probabilities, labels, compat)
    weights = torch.zeros_like(g.left[:, 0])
    for c in labels.unique() if by_class else [None]:
        own = torch.ones_like(chosen) if c is None else labels == c
        part = validation if validation is None or c is None else validation.of_class(c)
        target, picks = _target(g[own], part, compat), (own & chosen).nonzero().squeeze(1)
        weights[picks] = non_negative(g[picks], target, _ridge(lam), compat)
    return weights


@method("selection", paper="Killamsetty et al. 2021, arXiv 2103.00123", weights=grad_match_weights)
def grad_match(
    scores: Tensor,
    keep: int,
    *,
    labels: Tensor | None = None,
    generator: Generator | None = None,
    embeddings: Tensor | None = None,
    probabilities: Tensor | None = None,
    validation: Validation | None = None,
    lam: float = 1.0,
    compat: Compat = None,
) -> Tensor:
    """Keep examples whose weighted gradients add up to the gradient of all.

    Args:
        scores: (n,) not used but for n.
        keep: how many examples stay.
        labels: (n,) integers.
        generator: not used.
        embeddings: (n, d) what enters the last layer.
        probabilities: (n, classes) of the same network.
        validation: held-out examples whose gradient is matched instead of that of the training examples.
        lam: weight of the ridge.
        compat: "deepcore": the mean in place of the sum, gradients through two softmaxes, no ridge at the first pick.

    Returns:
        (n,) bool; nested for growing `keep`. `grad_match_weights` gives the weights.

    Raises:
        InputError: what the rule needs is missing or does not fit, or lam is negative.
    """
    check_keep(scores, keep)
    g = last_layer_gradients("grad-match", len(scores), embeddings, probabilities, labels, compat)
    return mask_of(pursuit_order(g, _target(g, validation, compat), keep, _ridge(lam), compat), len(scores))


def pursuit_order(g: Products, target: Tensor, keep: int, lam: float, compat: Compat = None) -> Tensor:
    """Orthogonal matching pursuit of a target (classes, d + 1): the first `keep` picks, (keep,) indices.

    The ridge problems are solved by one Cholesky factor that grows by a row per pick.
    """
    wanted = g.onto(target)  # (n,) <G_i, b>
    free = torch.ones_like(wanted, dtype=torch.bool)
    factor = wanted.new_zeros(keep, keep)
    picks = torch.zeros(keep, dtype=torch.long, device=wanted.device)
    left = target
    for t in range(keep):
        pick = int(torch.where(free, g.onto(left), -torch.inf).argmax())
        free[pick], picks[t] = False, pick
        chosen = g[picks[: t + 1]]
        _grow(factor, chosen, t, lam)
        if t == 0 and compat == "deepcore":
            x = wanted[picks[:1]] / chosen.squares()
        else:
            x = torch.cholesky_solve(wanted[picks[: t + 1], None], factor[: t + 1, : t + 1])[:, 0]
        left = target - chosen.sum(x)
    return picks


def non_negative(g: Products, target: Tensor, lam: float, compat: Compat = None) -> Tensor:
    """argmin_{w >= 0} || b - sum_j w_j G_j ||^2 + lam || w ||^2 over the examples of g: (k,)."""
    from scipy.optimize import nnls

    gram = g.inner(g).double().cpu()
    gram.diagonal().add_(lam)
    wanted = g.onto(target).double().cpu()
    if compat == "deepcore":
        solved = nnls(gram.numpy(), wanted.numpy())[0] if len(g) > 1 else [1.0]
    else:  # K = V diag(u) V^T, so that w^T K w - 2 w^T b = || diag(u)^(1/2) V^T w - diag(u)^(-1/2) V^T b ||^2 + const
        values, vectors = torch.linalg.eigh(gram)
        root = values.clamp(min=1e-12 * float(values.max())).sqrt()
        solved = nnls((root[:, None] * vectors.T).numpy(), ((vectors.T @ wanted) / root).numpy())[0]
    return torch.as_tensor(solved).to(g.left)


def _grow(factor: Tensor, chosen: Products, t: int, lam: float) -> None:
    """Row t of the Cholesky factor of <G_i, G_j> + lam [i = j] over the picks."""
    new = chosen[-1:].inner(chosen)[0]
    row = torch.linalg.solve_triangular(factor[:t, :t], new[:t, None], upper=False)[:, 0]
    factor[t, :t] = row
    least = torch.finfo(row.dtype).eps * (new[-1] + lam)  # an example that the picks span has no length of its own
    factor[t, t] = (new[-1] + lam - row.square().sum()).clamp(min=least).clamp(min=torch.finfo(row.dtype).tiny).sqrt()


def _target(g: Products, validation: Validation | None, compat: Compat) -> Tensor:
    """What is to be matched, (classes, d + 1), at the size of a sum over the training examples."""
    matched = g
    if validation is not None:
        if not len(validation.labels):
            raise InputError("grad-match has no validation examples to match (of one of the classes, if by class)")
        own = (len(validation.labels), validation.embeddings, validation.probabilities, validation.labels)
        matched = last_layer_gradients("grad-match on validation", *own, compat)
    return matched.sum() * ((1 if compat == "deepcore" else len(g)) / len(matched))


def _ridge(lam: float) -> float:
    if not lam >= 0:
        raise InputError(f"lam is the weight of the ridge, 0 or more; got {lam}")
    return lam
