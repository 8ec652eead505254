from __future__ import annotations

import pytest
import torch
from torch import nn

from surplus.pruning.schedules.earlycrop import after_pruning, until_settled
from surplus.space import WeightSpace, generator
from surplus.studies import Bench
from surplus.studies import earlycrop as module
from surplus.studies.earlycrop import EARLY, MARGIN, ORDER, PREDICTS, PROTOCOLS, REMOVED
from surplus.tasks import Augment, Duration, Recipe, load
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("early")))


def test_change_of_flow_is_that_of_removing_each_weight_alone():
    space = WeightSpace(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double())
    theta, g = space.init(0), generator(0)
    batch = (torch.randn(6, 3, generator=g, dtype=torch.float64), torch.arange(6) % 2)

    def flow(point):
        point = point.clone().requires_grad_()
        nn.functional.cross_entropy(space.apply(point, batch[0]), batch[1]).backward()
        return float(point.grad.square().sum())

    expected = []
    for q in space.prunable.nonzero().squeeze(1):
        without = theta.clone()
        without[q] = 0
        expected.append(abs(flow(without) - flow(theta)))
    assert module.change_of_flow(space, theta, batch, chunk=7).tolist() == pytest.approx(expected, abs=1e-12)


def test_arms_have_one_density_and_those_cut_at_the_start_train_as_long_in_all(bench):
    p = bench.protocol
    task = load("digits", p.network, recipe=p.recipe, **p.options)
    early = module._settled(bench, task, p.density, p.prune_to)
    arms = module._arms(bench, task, early)
    assert len({level.density for level in arms.values()}) == 1
    assert set(arms) == {
        "EarlyCroP", "EarlyCroP, shuffled", "magnitude at its moment", "CroPit", "CroP", "SNIP", "random"
    }  # fmt: skip
    for name, level in arms.items():
        at_its_moment = name.startswith("EarlyCroP") or name.endswith("moment")
        epochs = p.epochs + (0 if at_its_moment else max(early.epochs))
        assert level.run.task.recipe == after_pruning(p.recipe, epochs)
        assert torch.equal(level.start, early.theta if at_its_moment else task.space.init_many(bench.seeds))
        assert not level.run.theta[~level.masks].any()


@pytest.mark.parametrize(("gap", "verdict"), [(0.0, "holds"), (-0.002, "holds"), (-0.01, "fails"), (0.05, "holds")])
def test_no_worse_means_within_the_margin(gap, verdict):
    reference = torch.tensor([0.90, 0.92, 0.91, 0.93])
    candidate = reference + gap + torch.tensor([0.001, -0.001, 0.002, -0.002])
    assert module._no_worse("a", "b", candidate, reference).verdict == verdict


def test_the_comparison_shows_what_is_better_and_says_how_its_margin_came_about(bench):
    measured = module.earlycrop_study(ORDER, bench)
    rows = {row["row"]: row for row in measured.rows if row["quantity"] == module.ACCURACY}
    beside = rows["EarlyCroP - magnitude at its moment"]
    gap = rows["EarlyCroP"]["value"] - rows["magnitude at its moment"]["value"]
    assert beside["value"] == pytest.approx(gap) and "verdict" not in beside
    assert MARGIN == 0.005 and "a margin of 0.005 " in ORDER.criterion
    assert "margin was 0.02" in measured.note and "holds" in measured.note


@pytest.mark.parametrize("claim", [EARLY, PREDICTS, REMOVED], ids=lambda claim: claim.slug)
def test_at_every_scale_the_digits_are_learnt_as_on_a_laptop(claim, tmp_path):
    smaller = {"seeds": 1, "hidden": (8, 8), "small": (4, 4), "dense_epochs": 3, "examples": 20, "keep": 0.5}
    bench = Bench("gpu", PROTOCOLS["gpu"].model_copy(update=smaller), Store(tmp_path))
    module.earlycrop_study(claim, bench)
    laptop = PROTOCOLS["laptop"].recipe
    for entry in bench.runs.values():
        recipe = Recipe(**entry.spec["recipe"])
        assert recipe == laptop.model_copy(update={"duration": Duration("3ep" if claim == EARLY else "100ep")})


def test_a_candidate_that_scatters_about_the_margin_is_undecided():
    reference = torch.full((4,), 0.9)
    assert (
        module._no_worse("a", "b", reference + torch.tensor([0.1, -0.1, -0.2, 0.1]), reference).verdict == "undecided"
    )


def test_the_rule_is_compared_with_the_dense_runs_best_epoch(bench):
    measured = module.earlycrop_study(EARLY, bench)
    rows = {(row["row"], row.get("density")): row for row in measured.rows}
    share, order = rows["pruning / dense", 0.1], rows["denser is not later", None]
    assert 0 < share["value"] <= 1 and order["value"] == 1.0 and order["verdict"] == "holds"
    assert rows["pruning", 0.5]["value"] <= rows["pruning", 0.2]["value"] <= rows["pruning", 0.1]["value"]


def test_a_rule_that_does_not_fire_leaves_the_claim_undecided(bench):
    short = bench.protocol.model_copy(update={"dense_epochs": 2})
    measured = module.earlycrop_study(EARLY, Bench("smoke", short, bench.store))
    assert measured.verdict == "undecided" and "did not fire in 2 epochs" in measured.note


def test_scores_stand_beside_magnitude_snip_and_chance(bench):
    measured = module.earlycrop_study(PREDICTS, bench)
    found = {row["row"]: row["value"] for row in measured.rows}
    assert {n.split(",")[0] for n in found} == {"score", "score - SNIP", "SNIP", "magnitude", "random"}
    for when in ("at the start", "where training settled"):
        gap = found[f"score, {when}"] - found[f"SNIP, {when}"]
        assert found[f"score - SNIP, {when}"] == pytest.approx(gap, abs=1e-6)
    assert abs(found["random, at the start"]) < 0.3 < found["score, where training settled"]


def test_removal_is_exact_and_makes_networks_smaller(bench):
    measured = module.earlycrop_study(REMOVED, bench)
    assert measured.verdict == "holds"
    assert all(0 < r["value"] < 0.5 for r in measured.rows if r["quantity"].startswith("share"))


def test_the_weights_of_the_single_removals_number_a_thousand():
    p = PROTOCOLS["laptop"]
    assert 64 * p.small[0] + p.small[0] * p.small[1] + p.small[1] * 10 == 1032


def test_the_comparison_on_pictures_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    short = {"batch_size": 20, "augment": Augment(shift=1), "duration": Duration("2ep"), "precision": "float32"}
    changes = {
        "seeds": 2,
        "network": "resnet-cifar",
        "options": {"depth": 8, "width": 0.25},
        "density": 0.3,
        "prune_to": 2,
        "epochs": 2,
        "steps": 2,
        "execution": "stacked",
        "recipe": gpu.recipe.model_copy(update=short),
    }
    bench = Bench("gpu", gpu.model_copy(update=changes), Store(tmp_path))
    measured = module.earlycrop_study(ORDER, bench)
    assert [row["row"] for row in measured.rows if "verdict" in row] == ["EarlyCroP - CroP", "SNIP - CroP"]
    epochs = next(row for row in measured.rows if row["quantity"] == "epoch of pruning")
    assert epochs["value"] == 2
    early = until_settled(load("digits"), density=0.5, seeds=[0], prune_to=1, store=bench.store)
    assert early.epochs == (1,)
