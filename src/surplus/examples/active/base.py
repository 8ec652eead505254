"""Query strategies: which examples to have labelled next. Here the look-up, the pool and the checks, and random choice.

    picks = query("typiclust", features, 20, labelled=known, generator=generator(seed, "query"))

Every strategy is `strategy(pool, budget, *, generator=None, ...)` and returns (budget,) positions in the order in which
they should be labelled, none of them labelled already. Equal points go to the lowest position.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from surplus.errors import InputError
from surplus.examples.selections.base import shuffled
from surplus.registry import Method, find, method

SUMS_TO_ONE = 1e-3  # largest distance of a row of probabilities from 1: half precision rounds by less


class RandomStart(UserWarning):
    """A strategy had no model to ask yet, so the picks were drawn at random."""


@dataclass(frozen=True)
class Pool:
    """What a strategy sees.

    `features`: (n, d) float. `labelled`: (n,) bool. `open`: (n,) bool, which may be queried; never a labelled one.
    `probabilities`: (T, n, C) class probabilities of T stochastic passes of a model, or None where there is no model.
    """

    features: Tensor
    labelled: Tensor
    open: Tensor
    probabilities: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def passes(self) -> Tensor:
        """(T, n, C), of a pool that has them."""
        if self.probabilities is None:
            raise InputError("this strategy asks a model; pass probabilities=, shape (n, classes) or (T, n, classes)")
        return self.probabilities

    @property
    def prediction(self) -> Tensor:
        """(n, C) probabilities, averaged over the passes."""
        return self.passes.mean(0)

    @classmethod
    def of(cls, features: Tensor, *, labelled: Any = None, candidates: Any = None, probabilities: Any = None) -> Pool:
        """Check what a user gave.

        Args:
            features: (n, ...) floats.
            labelled: positions (m,) or a mask (n,) of the examples with a label; none when None.
            candidates: positions or a mask of the examples that may be queried; all unlabelled ones when None.
            probabilities: (n, C), or (T, n, C) for several stochastic passes.

        Raises:
            InputError: features or probabilities that do not fit, positions outside the examples.
        """
        if not isinstance(features, Tensor) or features.ndim < 2 or not features.is_floating_point():
            raise InputError(f"features must be a float tensor (n, d), one row per example; got {_words(features)}")
        if not bool(features.isfinite().all()):
            raise InputError("features must be finite; some are NaN or infinite")
        known = _mask(labelled, features, "labelled")
        free = ~known if candidates is None else _mask(candidates, features, "candidates") & ~known
        return cls(features.flatten(1), known, free, _passes(probabilities, features))


def query(
    strategy: str,
    features: Tensor,
    budget: int,
    *,
    labelled: Any = None,
    candidates: Any = None,
    probabilities: Any = None,
    generator: Generator | None = None,
    **options: Any,
) -> Tensor:
    """Ask a registered strategy which examples to label next; one call for all of them.

    A strategy that asks a model (margin, BADGE...) has none before the first label. Called with neither labels nor
    probabilities it draws at random and warns with `RandomStart`; `starts_at_random` tells beforehand.

    Args:
        strategy: its name ("typiclust", "margin"); `surplus list` shows all.
        features: (n, d) floats of all examples, labelled and not: a self-supervised or penultimate embedding, say.
        budget: how many labels can be had now.
        labelled: positions (m,), or a mask (n,), of the examples that have a label; none when None.
        candidates: positions or a mask of those that may be queried; all without a label when None.
        probabilities: (n, C) predictions of the present model, or (T, n, C) of T passes with dropout on.
        generator: for the strategies that draw (all that cluster do).
        options: the strategy's own settings (`squared=True`).

    Returns:
        (budget,) int64 positions, the first to be labelled first.

    Raises:
        InputError: no such strategy or setting, too large a budget, or what the strategy needs is missing.
    """
    found = find("query strategy", strategy)
    _check_options(found, options)
    pool = Pool.of(features, labelled=labelled, candidates=candidates, probabilities=probabilities)
    left = int(pool.open.sum())
    if isinstance(budget, bool) or not isinstance(budget, int) or not 1 <= budget <= left:
        raise InputError(
            f"budget is a whole number of examples to label, 1 to the {left} that are left; got {budget!r}"
        )
    if starts_at_random(strategy, labelled=pool.labelled, probabilities=probabilities):
        warnings.warn(
            f"{found.name} asks a model and there are no labels yet: these {budget} are a random start",
            RandomStart,
            stacklevel=2,
        )
        return random(pool, budget, generator=generator)
    picks: Tensor = found.fn(pool, budget, generator=generator, **options)
    return picks


def starts_at_random(strategy: str, *, labelled: Any = None, probabilities: Any = None) -> bool:
    """Whether `query` would fall back on a random start: the strategy asks a model, and nothing is known yet."""
    known = labelled is not None and _any(torch.as_tensor(labelled))
    return asks_a_model(strategy) and probabilities is None and not known


def asks_a_model(strategy: str) -> bool:
    """Whether the strategy needs predicted probabilities."""
    return find("query strategy", strategy).traits.get("needs") is not None


def asks_passes(strategy: str) -> bool:
    """Whether the strategy needs the probabilities of several stochastic passes."""
    return find("query strategy", strategy).traits.get("needs") == "passes"


@method("query strategy")
def random(pool: Pool, budget: int, *, generator: Generator | None = None) -> Tensor:
    """Uniform choice among the unlabelled, which every strategy must beat; nested for growing budgets.

    Args:
        pool: only `open` matters.
        budget: how many.
        generator: draws the order.

    Returns:
        (budget,) positions.
    """
    order = shuffled(len(pool), generator, pool.features.device)
    return order[pool.open[order]][:budget]


def largest_first(values: Tensor, pool: Pool, budget: int) -> Tensor:
    """The open positions of the largest values (n,), largest first; equal values by rising position."""
    return values.masked_fill(~pool.open, -torch.inf).argsort(descending=True, stable=True)[:budget]


def draw(generator: Generator | None, weights: Tensor) -> Tensor:
    """One position (), with chances in proportion to weights (n,)."""
    if generator is None:
        raise InputError("this strategy draws at random; pass generator=surplus.space.generator(seed, 'query')")
    return torch.multinomial(weights.to(generator.device), 1, generator=generator)[0].to(weights.device)


def draw_seed(generator: Generator | None) -> int:
    """A seed for a library that draws in its own way."""
    if generator is None:
        raise InputError("this strategy clusters, which draws; pass generator=surplus.space.generator(seed, 'query')")
    return int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))


def _any(labelled: Tensor) -> bool:
    """Whether a mask or a list of positions names anything."""
    return bool(labelled.any()) if labelled.dtype == torch.bool else labelled.numel() > 0


def _check_options(found: Method, options: dict[str, Any]) -> None:
    accepted = [name for name in inspect.signature(found.fn).parameters if name not in ("pool", "budget", "generator")]
    surplus = [option for option in options if option not in accepted]
    if surplus:
        takes = ", ".join(accepted) or "none"
        raise InputError(f"the strategy {found.name!r} has no setting {surplus[0]!r}; its settings: {takes}")


def _mask(given: Any, features: Tensor, what: str) -> Tensor:
    """Positions or a mask -> a mask (n,)."""
    n = len(features)
    if given is None:
        return torch.zeros(n, dtype=torch.bool, device=features.device)
    rows = torch.as_tensor(given, device=features.device)
    if rows.dtype == torch.bool and rows.shape == (n,):
        return rows
    if rows.numel() == 0:
        return torch.zeros(n, dtype=torch.bool, device=features.device)
    if rows.ndim != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise InputError(f"{what} are positions (m,) of examples or a mask ({n},); got {_words(rows)}")
    if int(rows.min()) < 0 or int(rows.max()) >= n:
        raise InputError(f"{what} are positions from 0 to {n - 1}; got {int(rows.min())} to {int(rows.max())}")
    return torch.zeros(n, dtype=torch.bool, device=features.device).index_fill(0, rows.long(), True)


def _passes(given: Any, features: Tensor) -> Tensor | None:
    """(n, C) or (T, n, C) -> (T, n, C), rows that sum to 1."""
    if given is None:
        return None
    p = torch.as_tensor(given, device=features.device)
    if p.ndim not in (2, 3) or p.shape[-2] != len(features) or not p.is_floating_point():
        raise InputError(f"probabilities must be floats ({len(features)}, classes) or (T, n, classes); got {_words(p)}")
    if not bool(((p >= 0).all()) & ((p.sum(-1) - 1).abs() < SUMS_TO_ONE).all()):
        raise InputError("probabilities must be at least 0 and sum to 1 over the classes; pass logits.softmax(-1)")
    return p if p.ndim == 3 else p[None]


def _words(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
