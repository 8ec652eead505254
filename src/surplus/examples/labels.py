"""Which labels are wrong: out-of-sample predictions and training dynamics, joined into one calibrated probability.

Networks that never saw an example read it. From their mean log-probabilities, the label y that it carries gets

    s(x, y) = log p(y | x) + (log p(y | x) - max_{k != y} log p(k | x)) / 2       (self-confidence and half the margin)

What s looks like when a label is wrong is known without knowing any wrong label: put another label y' ~ T(. | y) on
the example and read s(x, y'); the networks never saw it, so nothing else would change. With f the density of what is
observed and f1 that of these planted errors, f = (1 - pi) f0 + pi f1 gives

    P(wrong | s) = pi f1(s) / f(s),        pi <= inf_s F(s) / F1(s)

(the mixture of Elkan & Noto 2008; the noise matrix T in the manner of confident learning, Northcutt et al. 2021, arXiv
1911.00068). Signs that training itself gives (AUM, EL2N, memorization, consistency) cannot be planted. They join the
ranking with up to a twentieth of the weight of s, each in proportion to the precision with which it finds the suspects
of s by itself, and the probability is re-fitted to the joined ranking. More weight would count one fact twice: networks
find the same clean examples hard in training that they misread when held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surplus.errors import InputError
from surplus.registry import method
from surplus.space import generator
from surplus.stats import Estimate

_BINS = 200
_JOINED = 0.05
"""Weight of training's own signs beside the held-out statistic."""


@dataclass(frozen=True)
class LabelCheck:
    """What the networks say of every label."""

    suspicion: Tensor
    """(n,) the joined statistic; ranks finer than the probability, which is a step function of it."""
    probability: Tensor
    """(n,) that the label is wrong."""
    stderr: Tensor
    """(n,) its spread over halves of the networks."""
    suggested: Tensor
    """(n,) the most likely other class."""
    transition: Tensor
    """(classes, classes) estimated P(given label | true class), rows sum to 1."""
    rate: Estimate
    """Share of wrong labels."""
    weights: dict[str, float]
    """What each signal counts in the joined statistic, per standard deviation; negative: low values are suspicious."""

    def ranking(self) -> Tensor:
        """Positions, most suspicious first."""
        return self.suspicion.argsort(descending=True, stable=True)

    def expected_precision(self, top: int) -> Estimate:
        """Expected share of wrong labels among the `top` most suspicious, with its standard error."""
        p = self.probability[self.ranking()[:top]]
        relative = float(self.rate.stderr / self.rate.mean.clamp(min=1e-9))
        sampling = (p * (1 - p)).sum().sqrt() / top
        return Estimate(
            p.mean(), (sampling.square() + (relative * p.mean() * (1 - p.mean())).square()).sqrt(), self.rate.repeats
        )


def held_out_log_probabilities(outputs: Tensor, trained_on: Tensor) -> Tensor:
    """Mean log-probabilities over the networks that did not train on an example: (runs, n, C), (runs, n) -> (n, C).

    NaN where no network held the example out.
    """
    held = (~trained_on).to(outputs.dtype).unsqueeze(-1)
    return (outputs.log_softmax(-1) * held).sum(0) / held.sum(0).where(held.sum(0) > 0, torch.nan)


def label_statistic(log_p: Tensor, labels: Tensor) -> Tensor:
    """s(x, y) = log p(y) + (log p(y) - max_{k != y} log p(k)) / 2, low = suspicious: (n, C), (n,) -> (n,)."""
    index = labels.unsqueeze(1)
    return 1.5 * log_p.gather(1, index).squeeze(1) - 0.5 * log_p.scatter(1, index, -torch.inf).amax(1)


@method("measure", paper="Northcutt, Jiang & Chuang 2021, arXiv 1911.00068; Elkan & Noto 2008; Pleiss et al. 2020")
def check_labels(
    outputs: Tensor, trained_on: Tensor, labels: Tensor, signals: Mapping[str, Tensor] | None = None, *, seed: int = 0
) -> LabelCheck:
    """The probability that each label is wrong.

    Args:
        outputs: (runs, n, classes) logits of networks on all examples.
        trained_on: (runs, n) whether a network had the example; each example must be held out by one at least.
        labels: (n,) as given.
        signals: more numbers per example (n,), in any direction and scale: AUM, EL2N, memorization, consistency.
        seed: of the planted labels.

    Returns:
        LabelCheck.

    Raises:
        InputError: an example was never held out.
    """
    never = trained_on.all(0).nonzero().squeeze(1)
    if len(never):
        raise InputError(
            f"{len(never)} examples were in every training set (the first is {int(never[0])});"
            " each must be held out by one network at least"
        )
    log_p = held_out_log_probabilities(outputs, trained_on)
    probability, rate, transition = _from_statistic(log_p, labels, seed)
    suspicion, probability, weights = _join(probability, label_statistic(log_p, labels), signals or {})
    pair = torch.arange(len(outputs)) // 2 % 2  # neighbours are complements: halve by pairs
    halves = [h for h in (pair == 0, pair == 1) if h.any() and not trained_on[h].all(0).any()]
    parts = [_from_statistic(held_out_log_probabilities(outputs[h], trained_on[h]), labels, seed) for h in halves]
    stderr = (parts[0][0] - parts[1][0]).abs() / 2 if len(parts) == 2 else torch.full_like(probability, torch.nan)
    between = (parts[0][1][0] - parts[1][1][0]).abs() / 2 if len(parts) == 2 else torch.tensor(0.0)
    rates = Estimate(rate[0], (rate[1].square() + between.square()).sqrt(), len(outputs))
    suggested = log_p.scatter(1, labels.unsqueeze(1), -torch.inf).argmax(1)
    return LabelCheck(suspicion, probability, stderr, suggested, transition, rates, weights)


def noise_matrix(log_p: Tensor, labels: Tensor, wrong: Tensor) -> Tensor:
    """P(given | true) from soft counts: a label is right with 1 - wrong, else the true class is p's among the others.

    (n, C), (n,), (n,) -> (C, C), rows = true class. A little of the even matrix is mixed in, so that no row is empty.
    """
    classes = log_p.shape[1]
    given = torch.nn.functional.one_hot(labels, classes).to(log_p.dtype)
    other = log_p.scatter(1, labels.unsqueeze(1), -torch.inf).softmax(1)
    true = (1 - wrong).unsqueeze(1) * given + wrong.unsqueeze(1) * other  # (n, C) posterior of the true class
    counts = true.T @ given + 1e-3
    return counts / counts.sum(1, keepdim=True)


def _from_statistic(log_p: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """P(wrong | s), the share pi with its standard error, and the noise matrix.

    Two rounds: the second plants labels by the noise matrix that the first found.
    """
    observed = label_statistic(log_p, labels)
    wrong = (log_p.argmax(1) != labels).to(log_p.dtype)
    pi = torch.zeros(2)
    for round_ in range(2):
        transition = noise_matrix(log_p, labels, wrong)
        planted = label_statistic(log_p, _plant(labels, transition, seed + round_))
        clean = wrong < 0.5
        wrong, pi = _mixture(observed, planted[clean] if clean.any() else planted)
    return wrong, pi, noise_matrix(log_p, labels, wrong)


def _plant(labels: Tensor, transition: Tensor, seed: int) -> Tensor:
    """A wrong label for every example, drawn from its class's row of the noise matrix, off the diagonal."""
    off = transition.clone().fill_diagonal_(0) + 1e-6
    rows = off[labels].scatter(1, labels.unsqueeze(1), 0)
    return (
        torch.multinomial(rows.cpu().double(), 1, generator=generator(seed, "planted labels"))
        .squeeze(1)
        .to(labels.device)
    )


def _mixture(observed: Tensor, planted: Tensor) -> tuple[Tensor, Tensor]:
    """P(planted kind | s) for each observed value; the share pi of that kind and its standard error.

    The ratio f1 / f is a monotone function of s (the lower the margin, the likelier wrong): a histogram ratio on pooled
    quantiles, made monotone by isotonic regression.
    """
    from sklearn.isotonic import IsotonicRegression

    pooled = torch.cat([observed, planted]).double()
    edges = torch.quantile(
        pooled[torch.linspace(0, len(pooled) - 1, min(len(pooled), 1_000_000)).long()],
        torch.linspace(0, 1, _BINS + 1, dtype=torch.float64),
    ).unique()
    f, f1 = (_shares(v.double(), edges) for v in (observed, planted))
    centre = np.arange(len(f))
    weight = (f + f1).numpy()
    share = IsotonicRegression(increasing=False, out_of_bounds="clip").fit(
        centre, (f1 / (f + f1).clamp(min=1e-12)).numpy(), weight
    )
    odds = torch.from_numpy(share.predict(centre))  # f1 / (f + f1), falling in s
    ratio = odds / (1 - odds).clamp(min=1e-9)  # f1 / f per bin
    below, below1 = f.cumsum(0) * len(observed), f1.cumsum(0)
    firm = below1 > 0.2  # pi from everything below a margin, F(s) / F1(s)
    pi, at = (
        ((below[firm] + 0.5) / (len(observed) * below1[firm])).clamp(max=1.0).min(0)
    )  # half an example: none seen is not none
    error = (below[firm][at] + 1).sqrt() / (len(observed) * below1[firm][at])
    middle = ((edges[1:] + edges[:-1]) / 2).numpy()
    smooth = np.interp(observed.double().numpy(), middle, ratio.log().clamp(min=-30).numpy())
    return (pi * torch.from_numpy(smooth).exp()).clamp(0, 1).to(observed.dtype), torch.stack([pi, error])


def _shares(values: Tensor, edges: Tensor) -> Tensor:
    bins = (torch.searchsorted(edges, values, right=True) - 1).clamp(0, len(edges) - 2)
    return torch.bincount(bins, minlength=len(edges) - 1).double() / len(values)


def _join(
    probability: Tensor, statistic: Tensor, signals: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Suspicion: the statistic and the signals on a normal scale; its probability: isotonic on the statistic's own."""
    from sklearn.isotonic import IsotonicRegression

    suspicion, found = -_scaled(statistic), max(1, round(float(probability.sum())))
    weights = {"held-out": -1.0}
    for name, values in signals.items():
        z = _scaled(values)
        sign = 1 if float((z * suspicion).mean()) >= 0 else -1
        alone = float(probability[(sign * z).argsort(descending=True)[:found]].mean())
        weights[name] = sign * alone * _JOINED / len(signals)
    for name, values in signals.items():
        suspicion = suspicion + weights[name] * _scaled(values)
    fitted = IsotonicRegression().fit_transform(suspicion.numpy(), probability.double().numpy())
    return suspicion, torch.from_numpy(fitted).to(probability.dtype), weights


def _scaled(values: Tensor) -> Tensor:
    """Ranks turned normal, so that no signal's scale or tail decides; missing values sit in the middle."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    v = values.double().numpy()
    v = np.where(np.isnan(v), np.nanmedian(v) if np.isfinite(v).any() else 0.0, v)
    return torch.from_numpy(ndtri((rankdata(v) - 0.5) / len(v)))
