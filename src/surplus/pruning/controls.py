"""Controls: what a pruning result must beat at equal density before it says anything about single weights.

    shuffle       each layer's mask in a random order: the layers' densities without the choice of weights
    reinit        the same mask on another draw of the initial weights
    inversion     the lowest scores of each layer in place of the highest
    random-*      masks that know nothing: drawn globally, layer by layer, or by ERK

If shuffle and reinit do not hurt, the method chose layer densities, not weights (Frankle, Dziugaite, Roy & Carbin 2021,
arXiv 2009.08576, section 5).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from surplus.pruning.budgets import prunable_blocks
from surplus.pruning.masks import Ticket, density, keep_top, layer_densities, random_mask, shuffle
from surplus.space import WeightSpace, generator, seed_for


def inversion(space: WeightSpace, mask: Tensor, score: Tensor, exclude: Iterable[str] = ()) -> Tensor:
    """The mask (P,) that keeps, in each layer, as many weights as `mask` does, but those of the lowest score (P,)."""
    exclude = tuple(exclude)
    layers = layer_densities(space, mask)
    wanted = {b.name: layers[b.name] for b in prunable_blocks(space, exclude)}
    return keep_top(space, -score, layer_density=wanted, exclude=exclude)


def controls(
    space: WeightSpace,
    ticket: Ticket,
    seed: int,
    score: Tensor | None = None,
    exclude: Iterable[str] = (),
) -> dict[str, Ticket]:
    """All controls of a ticket, at its density.

    Args:
        space: the network.
        ticket: the mask, and the point it starts from.
        seed: of the draws; each control has a stream of its own.
        score: (P,) the score behind the mask; inversion is left out when None.
        exclude: layers that the pruning kept whole; the controls do too.

    Returns:
        A ticket per control, by name. Train each with the recipe of the ticket itself.
    """
    exclude = tuple(exclude)
    theta, mask = ticket.theta, ticket.mask
    d = density(space, mask, exclude)
    masks = {"shuffle": shuffle(space, mask, generator(seed, "control", "shuffle"), exclude=exclude)}
    if score is not None:
        masks["inversion"] = inversion(space, mask, score, exclude)
    for rule in ("global", "uniform", "erk"):
        draw = generator(seed, "control", "random", rule)
        masks[f"random-{rule}"] = random_mask(space, d, draw, rule, exclude).to(mask.device)
    tickets = {name: Ticket(theta, m) for name, m in masks.items()}
    return tickets | {"reinit": Ticket(space.init(seed_for(seed, "control", "reinit")).to(theta), mask)}
