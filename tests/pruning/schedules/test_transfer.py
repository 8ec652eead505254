from __future__ import annotations

import math
from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from surplus.data import Dataset, split
from surplus.errors import InputError
from surplus.pruning import density, layer_densities
from surplus.pruning.schedules.imp import from_masks, imp
from surplus.pruning.schedules.transfer import (
    carried,
    recovered_fraction,
    redrawn,
    ticket_transfer,
    tickets,
    transfer_gap,
    transfers,
    unify,
)
from surplus.tasks import load

QUICK = {"seeds": 2, "execution": "stacked"}


def quick(widths=(24, 12), classes=10):
    task = load("digits", "mlp", widths=widths).with_recipe(
        optimiser="adam", duration="30it", batch_size=50, lr=5e-3, schedule="constant"
    )
    if classes == 10:
        return task
    train, test = (replace(d[d.targets < classes], classes=d.classes[:classes]) for d in (task.train, task.test))
    return replace(task, train=train, test=test, network=replace(task.network, outputs=classes))


def halves():
    task = quick()
    first, second = split(task.train, 0.5, seed=0)
    return {"a": replace(task, train=first), "b": replace(task, train=second)}


# ---- the protocol ---------------------------------------------------------------------------------------------------


def test_a_transfer_to_the_task_itself_is_the_own_ticket_bit_for_bit():
    task = quick()
    found = {t.arm: t for t in transfers({"digits": task}, densities=[0.3], rate=0.5, **QUICK)}
    own = imp(task, density=0.3, rate=0.5, **QUICK)[-1]
    assert found["own"].level.run.keys == own.run.keys and "transferred" not in found
    assert torch.equal(found["own"].level.run.theta, own.run.theta)
    assert torch.equal(found["own"].level.start, own.start)


def test_rewound_tickets_take_the_whole_recipe_of_the_target_from_step_0():
    tasks = halves()
    found = {(t.source, t.arm): t for t in transfers(tasks, densities=[0.3], rate=0.5, rewind_step=5, **QUICK)}
    level = imp(tasks["a"], density=0.3, rate=0.5, rewind_step=5, **QUICK)[-1]
    for target, arm in (("a", "own"), ("b", "transferred")):
        expected = from_masks(tasks[target], level.masks, level.start, [0, 1], execution="stacked")
        assert torch.equal(found["a", arm].level.run.theta, expected.run.theta)
    assert not torch.equal(level.start, tasks["a"].space.init_many([0, 1]))


def test_the_table_has_a_line_for_each_source_target_density_arm_and_seed():
    tasks = halves()
    rows = ticket_transfer(tasks, densities=[0.5, 0.3], rate=0.5, **QUICK)
    table = pa.Table.from_pylist(rows)
    assert table.column_names == ["source", "target", "density", "arm", "seed", "metric"]
    assert len(rows) == 2 * 2 + 4 * 2 * 4 * 2  # dense; and pairs, densities, arms, seeds
    assert len({tuple(r.values())[:5] for r in rows}) == len(rows)
    assert all((r["source"] == r["target"]) == (r["arm"] == "own") for r in rows if r["arm"] in ("own", "transferred"))
    level = imp(tasks["b"], density=0.5, rate=0.5, **QUICK)[-1]
    chosen = [r["metric"] for r in rows if (r["arm"], r["target"], r["density"]) == ("own", "b", 0.5)]
    assert chosen == level.accuracy.tolist()


def test_random_tickets_keep_the_layer_densities_or_only_the_total_on_fresh_weights():
    tasks, pairs = halves(), [("a", "b")]
    found = {t.arm: t.level for t in transfers(tasks, densities=[0.2], pairs=pairs, rate=0.9, **QUICK)}
    space, ticket = tasks["b"].space, found["transferred"]
    for k in range(2):
        layers = layer_densities(space, ticket.masks[k])
        assert layer_densities(space, found["random-layer"].masks[k]) == layers
        assert layer_densities(space, found["random-global"].masks[k]) != layers
        assert density(space, found["random-global"].masks[k]) == density(space, ticket.masks[k])
    assert not torch.equal(found["random-layer"].masks, ticket.masks)
    assert torch.equal(found["shuffled"].masks, found["random-layer"].masks)
    assert torch.equal(found["shuffled"].start, ticket.start)
    assert torch.equal(found["random-layer"].start, found["random-global"].start)
    assert not torch.isclose(found["random-layer"].start, ticket.start)[:, space.prunable].any()


def test_tickets_pass_between_optimisers():
    task = quick()
    tasks = {"adam": task, "sgd": task.with_recipe(optimiser="sgd", lr=0.05)}
    found = {
        (t.source, t.arm): t for t in transfers(tasks, densities=[0.3], pairs=[("adam", "sgd")], rate=0.9, **QUICK)
    }
    ticket = found["adam", "transferred"].level
    assert torch.equal(ticket.masks, imp(task, density=0.3, rate=0.9, **QUICK)[-1].masks)
    assert ticket.run.task.recipe.optimiser == "sgd"
    assert found["sgd", "dense"].density == 1.0


def test_tickets_pass_through_every_density_exactly():
    task = quick()
    found = tickets(task, [0.2, 0.5], rate=0.4, **QUICK)
    prunable = task.space.prunable
    for d, level in found.items():
        assert (level.masks[:, prunable].sum(1) == round(d * int(prunable.sum()))).all()
    assert list(found) == [0.5, 0.2] and (found[0.2].masks <= found[0.5].masks).all()
    alone = imp(task, density=0.5, rate=0.4, **QUICK)
    assert tickets(task, [0.5], rate=0.4, **QUICK)[0.5].run.keys == alone[-1].run.keys
    assert tickets(task, [1.0], **QUICK)[1.0].run.keys == alone[0].run.keys


# ---- other classes --------------------------------------------------------------------------------------------------


def test_where_classes_differ_the_head_is_drawn_anew_stays_whole_and_counts_in_no_density():
    tasks = {"ten": quick(), "five": quick(classes=5)}
    pairs = [("ten", "five"), ("five", "five")]
    found = list(transfers(tasks, densities=[0.3], pairs=pairs, rate=0.6, rewind_step=5, **QUICK))
    space, source = tasks["five"].space, tasks["ten"].space
    for t in (t for t in found if t.arm != "dense"):
        assert t.level.masks[:, space["head.weight"].slice].all()
        assert all(density(space, m, ["head"]) == pytest.approx(0.3, abs=1e-3) for m in t.level.masks)
    ticket = next(t.level for t in found if t.arm == "transferred")
    origin = tickets(tasks["ten"], [0.3], rate=0.6, rewind_step=5, exclude=["head"], **QUICK)[0.3]
    body = [b.name for b in space.blocks if b.layer != "head"]
    for ours, theirs in ((ticket.start, origin.start), (ticket.masks, origin.masks)):
        a, b = space.split(ours), source.split(theirs)
        assert all(torch.equal(a[name], b[name]) for name in body)
    heads = space.split(ticket.start)["head.weight"]
    random = next(t.level for t in found if t.arm == "random-layer" and t.source == "ten")
    assert torch.equal(heads, space.split(random.start)["head.weight"]) and not torch.equal(heads[0], heads[1])


def test_carrying_between_equal_networks_changes_no_bit():
    space = quick().space
    theta, mask = space.init_many([0, 1]), space.init_many([2, 3]) > 0
    moved, kept = carried(space, space, theta, mask, torch.zeros_like(theta))
    assert torch.equal(moved, theta) and torch.equal(kept, mask) and not redrawn(space, space)


def test_networks_that_differ_before_the_output_are_refused():
    with pytest.raises(InputError, match=r"linear1.*unify"):
        ticket_transfer({"a": quick(), "b": quick(widths=(20, 12))}, densities=[0.5], **QUICK)
    with pytest.raises(InputError, match="no task c"):
        ticket_transfer({"a": quick()}, densities=[0.5], pairs=[("a", "c")], **QUICK)
    with pytest.raises(InputError, match="density"):
        ticket_transfer({"a": quick()}, densities=[0.0], **QUICK)


# ---- what it amounts to ---------------------------------------------------------------------------------------------


def test_the_recovered_fraction_of_the_worked_example():
    assert recovered_fraction(90, 88, 80) == pytest.approx(0.8)
    assert recovered_fraction(torch.tensor([89.0, 91.0]), [87.0, 89.0], [80.0, 80.0]) == pytest.approx(0.8)
    assert recovered_fraction(90, 90, 80) == 1 and recovered_fraction(90, 80, 80) == 0
    assert math.isnan(recovered_fraction(80, 85, 80))


def test_the_gap_is_paired_by_seed():
    gap = transfer_gap([0.9, 0.8, 0.7], [0.89, 0.79, 0.69])
    assert gap.difference == pytest.approx(0.01) and gap.seeds == 3 and gap.wins == 3


# ---- one shape for all images ---------------------------------------------------------------------------------------


def images(channels, side, dtype=torch.uint8):
    x = torch.randint(0, 256, (4, channels, side, side), generator=torch.Generator().manual_seed(0))
    return Dataset.of(x.to(dtype) if dtype == torch.uint8 else x / 255, torch.tensor([0, 1, 0, 1]), kind="image")


def test_grey_is_repeated_and_small_images_lie_in_the_middle_of_zeros():
    grey = images(1, 28)
    out = unify(grey)
    assert out.shape == (3, 32, 32) and out.inputs.dtype == torch.uint8
    assert all(torch.equal(out.inputs[:, c, 2:30, 2:30], grey.inputs[:, 0]) for c in range(3))
    assert out.inputs.sum() == 3 * grey.inputs.sum()  # nothing but zeros around
    assert torch.equal(out.targets, grey.targets) and (out.ids == grey.ids).all()
    assert unify(images(1, 5), 1, 8).inputs[:, :, 1:6, 1:6].sum() == images(1, 5).inputs.sum()


def test_colours_mix_to_the_luma_that_pillow_computes():
    import numpy as np
    from PIL import Image

    colour = images(3, 6)
    ours = unify(colour, 1, 6).inputs[:, 0]
    theirs = [np.asarray(Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")) for x in colour.inputs]
    assert (ours.int() - torch.tensor(np.stack(theirs)).int()).abs().max() <= 1
    white = Dataset.of(torch.ones(2, 3, 4, 4), torch.tensor([0, 1]), kind="image")
    torch.testing.assert_close(unify(white, 1, 4).inputs, torch.ones(2, 1, 4, 4))


def test_images_in_the_wanted_shape_stay_as_they_are():
    for dtype in (torch.uint8, torch.float32):
        data = images(3, 8, dtype)
        assert torch.equal(unify(data, 3, 8).inputs, data.inputs)


def test_what_cannot_be_unified_is_refused():
    with pytest.raises(InputError, match="do not fit into 8x8"):
        unify(images(1, 9), 1, 8)
    with pytest.raises(InputError, match="1 or 3 channels"):
        unify(images(1, 8), 2, 8)
    with pytest.raises(InputError, match="got table"):
        unify(Dataset.of(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])))
