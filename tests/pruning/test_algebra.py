"""Every weight score under every scope and schedule: exact counts, nested masks, what is spared stays whole."""

import inspect

import pytest
import torch
from torch import nn

from surplus.pruning import allocate, density_schedule, iterate_score, keep_top, prunable_blocks
from surplus.registry import methods
from surplus.space import WeightSpace, generator

SCORES = methods("weight score")
SCOPES = ("global", "layer", "erk", "neuron", "2:4")
SCHEDULES = ("one-shot", "exponential", "linear")
CUTS = [(scope, schedule) for scope in SCOPES for schedule in SCHEDULES if scope != "2:4" or schedule == "one-shot"]
"""A pattern N:M is one cut."""
DENSITY, ROUNDS = 0.5, 3

each_score = pytest.mark.parametrize("m", SCORES, ids=[m.name for m in SCORES])


def small():
    """Convolution, normalisation, two linear layers; rows of 9, 72 and 10 weights, so that patterns leave a rest."""
    conv = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten())
    return nn.Sequential(*conv, nn.Linear(72, 10), nn.ReLU(), nn.Linear(10, 3)).double()


SPACE = WeightSpace(small)
THETA, START = SPACE.init(1), SPACE.init(0)
BATCH = (torch.randn(12, 1, 8, 8, generator=generator(0), dtype=torch.float64), torch.arange(12) % 3)


def scored(m, space, theta, start, batch):
    """A score with all that it asks for."""
    takes = inspect.signature(m.fn).parameters
    given = {"generator": generator(5), "start": start}
    return m.fn(space, theta, batch, **{k: v for k, v in given.items() if k in takes})


def levels(schedule):
    return (DENSITY,) if schedule == "one-shot" else density_schedule(DENSITY, ROUNDS, schedule)


def kept(score, scope, level, alive, exclude=()):
    if scope == "erk":
        return keep_top(
            SPACE, score, layer_density=allocate(SPACE, level, "erk", exclude), alive=alive, exclude=exclude
        )
    return keep_top(SPACE, score, density=level, scope=scope, alive=alive, exclude=exclude)


def masks(m, scope, schedule, exclude=()):
    """The masks (P,) of all rounds, the score computed anew on what is left."""
    mask, found = torch.ones(SPACE.size, dtype=torch.bool), []
    for level in levels(schedule):
        score = scored(m, SPACE, THETA.masked_fill(~mask, 0), START, BATCH)
        mask = kept(score, scope, level, mask, exclude)
        found.append(mask)
    return found


def check_counts(mask, scope, level, exclude=()):
    """Exactly as many weights as the table of scopes says."""
    blocks = prunable_blocks(SPACE, exclude)
    counts = [int(mask[b.slice].sum()) for b in blocks]
    if scope in ("global", "layer", "erk"):
        assert sum(counts) == round(level * sum(b.size for b in blocks))
    if scope in ("layer", "erk"):
        shares = allocate(SPACE, level, "uniform" if scope == "layer" else "erk", exclude)
        assert all(abs(n - shares[b.name] * b.size) < 1 for n, b in zip(counts, blocks, strict=True))
    for b in blocks:
        rows = mask[b.slice].view(b.shape[0], -1)
        if scope == "neuron":
            last = b.name == SPACE.blocks[-2].name
            assert int(rows.any(1).sum()) == (b.shape[0] if last else max(1, round(level * b.shape[0])))
            assert torch.equal(rows.any(1), rows.all(1))
        if scope == "2:4":
            whole = rows.shape[1] // 4 * 4
            assert (rows[:, :whole].reshape(-1, 4).sum(1) == 2).all() and rows[:, whole:].all()


@pytest.mark.parametrize(("scope", "schedule"), CUTS)
@each_score
def test_counts_are_exact_and_masks_nest_in_every_round(m, scope, schedule):
    before = torch.ones(SPACE.size, dtype=torch.bool)
    for level, mask in zip(levels(schedule), masks(m, scope, schedule), strict=True):
        check_counts(mask, scope, level)
        assert not (mask & ~before).any()
        assert mask[~SPACE.prunable].all(), "biases and normalisation are never pruned"
        before = mask


@pytest.mark.parametrize("scope", SCOPES)
@each_score
def test_an_excluded_layer_stays_whole_and_the_density_is_that_of_the_others(m, scope):
    schedule = "one-shot" if scope == "2:4" else "linear"
    found = masks(m, scope, schedule, exclude=("5",))[-1]
    assert found[SPACE["5.weight"].slice].all()
    check_counts(found, scope, DENSITY, ("5",))
    again = masks(m, scope, schedule, exclude=("5",))[-1]
    assert torch.equal(found, again)


@pytest.mark.parametrize("schedule", ("exponential", "linear"))
@pytest.mark.parametrize("scope", ("global", "layer", "neuron"))
@each_score
def test_iterating_is_the_same_as_cutting_round_by_round(m, scope, schedule):
    takes = inspect.signature(m.fn).parameters
    options = {"start": START} if "start" in takes else {}

    def score(space, theta, batch):
        return m.fn(space, theta, batch, **options, **({"generator": generator(5)} if "generator" in takes else {}))

    how = {"density": DENSITY, "rounds": ROUNDS, "schedule": schedule, "scope": scope}
    assert torch.equal(iterate_score(score, SPACE, THETA, BATCH, **how), masks(m, scope, schedule)[-1])


@each_score
def test_a_score_leaves_what_it_reads_as_it_was_and_is_a_plain_tensor(m):
    theta, start = THETA.clone(), START.clone()
    batch = tuple(t.clone() for t in BATCH)
    score = scored(m, SPACE, theta, start, batch)
    assert torch.equal(theta, THETA) and torch.equal(start, START) and all(map(torch.equal, batch, BATCH))
    assert score.shape == theta.shape and not score.requires_grad and score.isfinite().all()
    assert score.data_ptr() != theta.data_ptr()


# ---- symmetries -----------------------------------------------------------------------------------------------------

DENSE = WeightSpace(
    lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
)


def permuted(values, first, second):
    """A point, or a score, of the network above with its hidden units in another order."""
    p = {n: t.clone() for n, t in DENSE.split(values).items()}
    p["0.weight"], p["0.bias"] = p["0.weight"][first], p["0.bias"][first]
    p["2.weight"], p["2.bias"] = p["2.weight"][second][:, first], p["2.bias"][second]
    p["4.weight"] = p["4.weight"][:, second]
    return DENSE.join(p)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("m", [m for m in SCORES if "generator" not in m.traits.get("needs", ())], ids=lambda m: m.name)
def test_a_score_follows_the_order_of_hidden_units(m, seed):
    g = generator(seed, "order")
    first, second = torch.randperm(5, generator=g), torch.randperm(4, generator=g)
    theta, start = DENSE.init(seed + 10), DENSE.init(seed)
    batch = (torch.randn(9, 6, generator=g, dtype=torch.float64), torch.arange(9) % 3)
    moved = scored(m, DENSE, permuted(theta, first, second), permuted(start, first, second), batch)
    expected = permuted(scored(m, DENSE, theta, start, batch), first, second)
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-12)
    assert not torch.equal(permuted(theta, first, second), theta)


@pytest.mark.parametrize("m", [m for m in SCORES if "batch" in m.traits.get("needs", ())], ids=lambda m: m.name)
def test_a_score_ignores_the_order_of_examples(m):
    order = torch.randperm(12, generator=generator(3))
    moved = scored(m, SPACE, THETA, START, (BATCH[0][order], BATCH[1][order]))
    torch.testing.assert_close(moved, scored(m, SPACE, THETA, START, BATCH), rtol=1e-9, atol=1e-12)


def test_the_battery_holds_the_scores_that_it_is_about():
    assert {"snip", "grasp", "synflow", "crop", "magnitude", "random"} <= {m.name for m in SCORES}
    assert sum(b.size for b in prunable_blocks(SPACE)) == 72 + 720 + 30
