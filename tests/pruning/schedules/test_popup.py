"""Subnetworks of random networks: how weights are drawn, exact densities, and what is evaluated."""

from __future__ import annotations

import pytest
import torch

from surplus.errors import InputError
from surplus.networks import build
from surplus.pruning import layer_densities
from surplus.pruning.schedules.popup import edge_popup, expected, random_point, rescaled, supermask, untrained
from surplus.reparam import Supermask
from surplus.space import WeightSpace, generator
from surplus.tasks import load
from surplus.training import evaluate

STACKED = {"seeds": 2, "execution": "stacked"}


def task(duration="5ep", **options):
    return load("digits", widths=(64,), **options).with_recipe(duration=duration, optimiser="sgd", lr=0.1)


@pytest.mark.parametrize("family", ["glorot", "kaiming"])
def test_random_weights_have_their_variance_and_signed_ones_their_signs(family):
    space = WeightSpace(lambda: build("conv-2", (3, 8, 8), 10, width=0.5))
    plain = random_point(space, 0, f"{family}-normal")
    signed = random_point(space, 0, f"signed-{family}", variance=4.0)
    assert torch.equal(plain.sign()[space.prunable], signed.sign()[space.prunable])
    assert not plain[~space.prunable].any()  # biases
    w = space.split(plain)["conv2.weight"]  # (32, 32, 3, 3)
    fans = 2 * 32 * 9 if family == "glorot" else 32 * 9
    assert w.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.03)
    torch.testing.assert_close(space.split(signed)["conv2.weight"].abs(), torch.full_like(w, 2 * (2 / fans) ** 0.5))
    assert not torch.equal(plain, random_point(space, 1, f"{family}-normal"))


def test_normalisation_stays_as_it_starts():
    space = WeightSpace(lambda: torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3)))
    parts = space.split(random_point(space, 0, "kaiming-normal"))
    assert (parts["1.weight"] == 1).all() and not parts["1.bias"].any() and not parts["0.bias"].any()


def test_an_unknown_distribution_is_refused():
    with pytest.raises(InputError, match="distribution of weights"):
        random_point(task().space, 0, "uniform")


@pytest.mark.parametrize("density", [0.3, 0.5, 0.97])
def test_edge_popup_uses_the_share_of_each_layer_and_never_moves_a_weight(density):
    t = task("10it")
    (level,) = edge_popup(t, density=density, **STACKED)
    start = torch.stack([random_point(t.space, s, "signed-kaiming") for s in (0, 1)])
    assert torch.equal(level.start, start)
    assert torch.equal(level.run.theta, start.masked_fill(~level.masks, 0))
    sizes = {b.name: b.size for b in t.space.blocks if b.prunable}
    for mask in level.masks:
        assert int(mask[t.space.prunable].sum()) == round(density * sum(sizes.values()))
        for name, share in layer_densities(t.space, mask).items():
            assert abs(share - density) * sizes[name] <= 1
    assert level.density == pytest.approx(density, abs=1e-4)


def test_a_tenth_less_than_all_of_ten_weights_is_nine_of_them():
    t = load("xor-clusters", widths=()).with_recipe(duration="1it")
    (level,) = edge_popup(t, density=0.75, seeds=1)  # 2 inputs, 2 outputs
    assert int(level.masks[0][t.space.prunable].sum()) == 3


def test_scaled_weights_keep_the_variance_of_what_is_used_and_binary_ones_one_size_a_layer():
    t = task("3it")
    (plain,), (scaled,) = (edge_popup(t, density=0.25, scaled=s, **STACKED) for s in (False, True))
    w = t.space.prunable
    torch.testing.assert_close(scaled.start[:, w], 2 * plain.start[:, w])
    (binary,) = edge_popup(t, density=0.25, weights="kaiming-normal", binary=True, **STACKED)
    for block in (b for b in t.space.blocks if b.prunable):
        used = binary.run.theta[0, block.slice]
        kept = binary.masks[0, block.slice]
        mean = binary.start[0, block.slice][kept].abs().mean()
        torch.testing.assert_close(used[kept].abs(), mean.expand(int(kept.sum())))
        assert not used[~kept].any()


def test_excluded_layers_are_used_whole():
    t = task("3it")
    (level,) = edge_popup(t, density=0.5, exclude=("head",), **STACKED)
    head = next(b for b in t.space.blocks if b.name == "head.weight")
    assert level.masks[:, head.slice].all() and level.density == 0.5
    assert torch.equal(level.run.theta[:, head.slice], level.start[:, head.slice])


def test_learnt_masks_beat_random_ones_of_the_same_random_weights():
    t = task()
    (level,) = edge_popup(t, density=0.5, **STACKED)
    chance = generator(0)
    masks = ~t.space.prunable | (torch.rand(2, t.space.size, generator=chance) < 0.5)
    assert (level.accuracy > untrained(t, masks, level.start, [0, 1], execution="stacked").accuracy + 0.5).all()


def test_a_scale_of_the_weights_changes_no_answer_without_biases():
    t = task("3it", bias=False)
    (level,) = edge_popup(t, density=0.5, **STACKED)
    theta = level.run.theta.clone()
    for k, block in enumerate(t.space.blocks):
        theta[:, block.slice] *= 3.0**k
    before, after = (evaluate(t, p, t.test).metric for p in (level.run.theta, theta))
    assert torch.equal(before, after)


@pytest.mark.parametrize("rescale", [True, False])
def test_a_supermask_is_cut_to_the_exact_density_and_then_trains_no_more(rescale):
    t = task()
    learnt, cut = supermask(t, density=0.3, rescale=rescale, **STACKED)
    total = int(t.space.prunable.sum())
    assert (cut.masks[:, t.space.prunable].sum(1) == round(0.3 * total)).all()
    base = torch.stack([random_point(t.space, s, "signed-glorot") for s in (0, 1)])
    assert torch.equal(learnt.start, base)
    assert torch.equal(cut.start, rescaled(t.space, base, cut.masks) if rescale else base)
    assert torch.equal(cut.run.theta, cut.start.masked_fill(~cut.masks, 0))
    assert torch.equal(learnt.run.theta != 0, learnt.masks & (base != 0))
    assert (cut.accuracy > 0.6).all() and learnt.density == pytest.approx(
        learnt.masks[:, t.space.prunable].float().mean().item()
    )
    assert learnt.run.task.recipe.lr == 100 and cut.density == pytest.approx(0.3, abs=1e-4)


def test_rescaling_multiplies_a_layer_by_size_over_kept():
    space = WeightSpace(lambda: torch.nn.Linear(4, 2))
    mask = torch.tensor([[True, False, False, True, True, False, False, False, True, True]])
    theta = torch.ones(1, 10)
    out = rescaled(space, theta, mask)
    torch.testing.assert_close(out, torch.cat([torch.full((1, 8), 8 / 3), torch.ones(1, 2)], 1))


def test_the_expected_accuracy_is_the_mean_over_drawn_masks():
    t = task()
    learnt, _ = supermask(t, density=0.5, seeds=1)
    part = Supermask(learnt.start[0], [(b.start, b.stop) for b in t.space.blocks if b.prunable], rescale=True)
    found = expected(learnt, draws=4)
    each = []
    for r in range(4):
        drawn = part.draw([generator(0, "supermask", r)])[0]
        each.append(evaluate(t, part.to_theta(learnt.run.z[0], drawn)[None], t.test).metric[0])
    assert found.repeats == 4 and found.stderr.shape == (1,) and found.stderr > 0
    torch.testing.assert_close(found.mean[0], torch.stack(each).mean())
    assert found.mean > 0.5


def test_masks_are_recorded_and_evaluated_with_options_of_fit():
    learnt, cut = supermask(task("2ep"), density=0.5, seeds=1, record=True, curve=10)
    assert learnt.run.record["loss"].shape[1] == 2 and len(learnt.run.curve["step"]) > 1
    assert cut.run.theta.shape == learnt.run.theta.shape
