"""The report on pruning: its numbers agree with counting and statistics, and its words with its numbers."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy.stats import nct, t

from surplus.errors import InputError
from surplus.pruning import count, shrink
from surplus.pruning.evidence.controls import train_controls, train_scratch
from surplus.pruning.evidence.reporting import repeats_needed, report, report_structured
from surplus.pruning.evidence.training_cost import in_use, training_macs
from surplus.pruning.schedules.actions import imp_with_actions
from surplus.pruning.schedules.dct_plus_sparse import dct_plus_sparse
from surplus.pruning.schedules.imp import from_masks, imp
from surplus.pruning.structured.smaller import smaller_task
from surplus.stats import non_inferior_over_both, paired
from surplus.tasks import load
from surplus.training import Store, fit

NAMES = ("shuffle", "reinit", "random-erk", "small-parameters")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("evidence"))


@pytest.fixture(scope="module")
def task():
    return load("digits", widths=(24, 12)).with_recipe(duration="60it")


@pytest.fixture(scope="module")
def levels(task, store):
    return imp(task, levels=2, rate=0.7, seeds=[0, 1, 2], store=store, execution="stacked")


@pytest.fixture(scope="module")
def controls(task, levels, store):
    return train_controls(task, levels[-1], names=NAMES, store=store, execution="stacked")


@pytest.fixture(scope="module")
def found(task, levels, controls):
    return report(task, levels[0], levels, controls, margin=0.02)


def row(table, name, key="name"):
    return next(r for r in table if r[key] == name)


def test_sizes_are_those_that_counting_gives_and_compression_is_relative_to_dense(task, levels, found):
    dense, ticket, small = (row(found["networks"], n) for n in ("dense", "pruned to 9%", "small-parameters"))
    size = count(task.space.module, (1, 8, 8), levels[-1].masks[0])
    assert (dense["density"], dense["compression"], dense["speedup"]) == (1, 1, 1)
    assert (ticket["nonzero"], ticket["macs_nonzero"]) == (size.nonzero, size.macs_nonzero)
    assert ticket["compression"] == pytest.approx(size.compression)
    assert ticket["speedup"] == pytest.approx(size.speedup)
    assert ticket["density"] == pytest.approx(levels[-1].density)
    assert small["compression"] == dense["parameters"] / small["parameters"] > ticket["compression"]
    assert small["nonzero"] == small["parameters"] <= ticket["nonzero"]


def test_accuracies_come_with_seeds_spread_and_interval(levels, found):
    ticket, values = row(found["networks"], "pruned to 9%"), levels[-1].accuracy.double()
    assert ticket["values"] == pytest.approx(values.tolist())
    assert ticket["mean"] == pytest.approx(float(values.mean())) and ticket["sd"] == pytest.approx(float(values.std()))
    half = t.ppf(0.975, 2) * values.std() / 3**0.5
    assert ticket["high"] - ticket["low"] == pytest.approx(2 * float(half))


def test_training_and_search_are_costed_level_by_level(levels, found):
    costs = [training_macs(x) for x in levels]
    rows = found["networks"][1:3]
    assert [r["training_macs"] for r in rows] == pytest.approx(costs[1:])
    assert [r["search_macs"] for r in rows] == pytest.approx([sum(costs[:2]), sum(costs)])


def test_dense_is_compared_over_seeds_and_examples_and_controls_over_paired_seeds(levels, controls, found):
    a, b = (x.run.evaluate("test").per_example for x in (levels[-1], levels[0]))
    test, said = non_inferior_over_both(a, b, 0.02), row(found["against_dense"], "pruned to 9%")
    assert (said["low"], said["p_value"]) == pytest.approx((test.low, test.p_value)) and said["verdict"] == test.verdict
    for name in NAMES[:3]:
        c, r = paired(levels[-1].accuracy, controls[name].accuracy), row(found["against_controls"], name, "control")
        assert (r["difference"], r["low"], r["high"]) == pytest.approx((c.difference, c.low, c.high), abs=1e-6)
        assert r["p_adjusted"] >= r["p_value"] and r["seeds"] == 3
        told = r["p_adjusted"] <= 0.05
        assert r["verdict"] == (("better" if c.difference > 0 else "worse") if told else "undecided")


def test_layers_add_up_to_the_ticket_and_latencies_stand_for_what_has_a_size_of_its_own(task, levels, found):
    kept = levels[-1].masks[:, task.space.prunable].sum(1).double().mean()
    assert sum(r["kept"] for r in found["layers"]) == pytest.approx(float(kept))
    assert [(r["name"], r["batch"]) for r in found["latency"]] == [
        (n, b) for n in ("dense", "pruned to 9%", "small-parameters") for b in (1, 64)
    ]
    assert all(0 < r["low"] <= r["seconds"] <= r["high"] and r["repeats"] >= 30 for r in found["latency"])
    assert "multiply-add" in found["convention"]


def test_a_report_is_plain_json_and_its_tables_are_flat(found):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for table in ("networks", "against_dense", "against_controls", "layers", "latency"):
        assert len({tuple(r) for r in found[table] if "search_macs" not in r}) == 1  # the same columns in each row


@pytest.fixture(scope="module")
def offset(task, store):
    """Few trained weights on top of a fixed offset, which is in use everywhere."""
    return dct_plus_sparse(task, density=0.05, seeds=[0, 1, 2], store=store, execution="stacked")[-1]


@pytest.fixture(scope="module")
def frozen(task, store):
    return imp_with_actions(
        task, density=0.2, rate=0.8, removed="freeze", seeds=[0, 1, 2], store=store, execution="stacked"
    )


def test_weights_in_use_outside_the_mask_count_as_sizes_and_the_trained_ones_have_a_share_of_their_own(
    task, levels, offset
):
    found = report(task, levels[0], [offset], measure=False)
    dense, arm = found["networks"]
    assert arm["name"] == "4.99% trained"
    assert arm["trainable"] == pytest.approx(offset.density) == pytest.approx(0.05, abs=1e-3)
    assert arm["density"] > 0.95 and arm["compression"] < 1.05 and arm["speedup"] < 1.05
    assert arm["macs_nonzero"] > 0.95 * dense["macs"] and arm["training_macs"] > 0.95 * dense["training_macs"]
    assert all(r["density"] > 0.9 > 0.5 > r["trainable"] for r in found["layers"] if r["tensor"] != "head.weight")
    assert any("controls that train masks are left out" in s for s in found["sentences"])
    assert dense["trainable"] == dense["density"] == 1


def test_frozen_weights_are_in_use_and_removed_ones_are_not(task, levels, frozen, found):
    arm = row(report(task, levels[0], frozen, measure=False)["networks"], "20% trained")
    assert (arm["density"], arm["speedup"]) == (1, 1) and arm["trainable"] == pytest.approx(0.2, abs=1e-3)
    assert arm["search_macs"] == pytest.approx(
        2 * training_macs(levels[0])
    )  # a frozen weight is multiplied all the same
    assert row(found["networks"], "pruned to 9%")["trainable"] == row(found["networks"], "pruned to 9%")["density"]
    assert not any("left out" in s for s in found["sentences"])


@pytest.mark.filterwarnings("ignore:training diverged")
def test_where_training_diverged_the_mask_says_what_is_in_use(task, levels, store):
    hot = task.with_recipe(lr=1e4)
    level = from_masks(hot, levels[-1].masks, levels[-1].start, [0, 1, 2], store=store, execution="stacked")
    assert level.run.theta[~level.masks].isnan().any() and torch.equal(in_use(level), level.masks)


@pytest.mark.parametrize("which", ["offset", "frozen"])
def test_masked_controls_of_weights_in_use_outside_the_mask_are_left_out_and_dense_ones_stay(
    task, store, which, offset, frozen
):
    level = offset if which == "offset" else frozen[-1]
    names = ("shuffle", "reinit", "random-erk", "magnitude-at-init", "small-parameters", "small-macs")
    made = train_controls(task, level, names=names, store=store, execution="stacked")
    assert list(made) == ["small-parameters", "small-macs"]
    trained = int(level.masks[0].sum())
    assert count(made["small-parameters"].task.space.module, (1, 8, 8)).parameters <= trained
    whole = count(task.space.module, (1, 8, 8)).macs
    assert 0.8 * whole < count(made["small-macs"].task.space.module, (1, 8, 8)).macs <= whole


def test_words_follow_the_verdicts(task, levels, controls, found):
    shuffle = row(found["against_controls"], "shuffle", "control")
    said = next(s for s in found["sentences"] if s.startswith("shuffle"))
    assert ("the choice of weights matters" in said) == (shuffle["verdict"] == "better")
    dense = row(found["against_dense"], "pruned to 9%")
    said = "is excluded" if dense["verdict"] else "is shown" if dense["loss_shown"] else "cannot be excluded"
    assert said in found["sentences"][0]
    assert dense["low"] <= dense["difference"] <= dense["high"]
    shown = [r for r in found["against_dense"] if r["loss_shown"]]
    assert all(r["high"] < -r["margin"] and not r["verdict"] for r in shown)
    itself = report(task, levels[0], levels[:1], {"dense": levels[0]}, measure=False)
    assert itself["against_dense"][0]["difference"] == 0 and itself["latency"] == []
    assert itself["against_controls"][0]["verdict"] == "undecided"


@pytest.mark.parametrize(("sd", "margin"), [(0.005, 0.005), (0.01, 0.005), (0.02, 0.003), (0.4, 0.005)])
def test_as_many_repeats_as_are_needed_give_the_power_that_the_exact_law_of_the_t_test_gives(sd, margin):
    def power(n):
        return 1 - nct.cdf(t.ppf(0.95, n - 1), n - 1, margin * n**0.5 / sd)

    n = repeats_needed(sd, margin)
    assert 0.79 < power(n) < 0.88 and power(n - 2) < 0.8  # within one of the exact number
    assert repeats_needed(0.0, margin) == 2
    assert repeats_needed(sd, margin, power=0.9) > n and repeats_needed(sd, margin, level=0.975) > n


def test_three_seeds_are_too_few_for_half_a_point_when_seeds_scatter_by_half_a_point():
    assert repeats_needed(0.005, 0.005) == 8  # (1.895 + 0.896) / sqrt(8) = 0.987 <= 1
    assert repeats_needed(math.nan, 0.005) is None and repeats_needed(0.005, 0.0) is None


def test_one_seed_is_judged_by_its_examples_and_shows_no_spread(task, store):
    levels = imp(task, levels=1, seeds=[5], store=store)
    found = report(task, levels[0], levels, {"reinit": levels[0]}, measure=False)
    said = found["against_dense"][0]
    assert said["basis"] == "examples" and said["sd"] is None and said["seeds_needed"] is None
    assert said["examples_needed"] > 359 and found["against_controls"][0]["verdict"] == "undecided"
    assert json.dumps(found, allow_nan=False)


def test_a_regression_is_better_when_its_error_is_smaller(store):
    task = load("sinusoid", widths=(16,)).with_recipe(duration="30it")
    levels = imp(task, levels=1, rate=0.9, seeds=2, store=store)
    found = report(task, levels[0], levels, measure=False)
    dense, pruned = found["networks"]
    assert pruned["mean"] > dense["mean"] > 0
    assert found["against_dense"][0]["difference"] == pytest.approx(dense["mean"] - pruned["mean"], rel=1e-4)


def test_smaller_networks_are_reported_seed_by_seed(task, levels, store):
    pytest.importorskip("torch_pruning")
    runs = []
    for seed, theta in zip((0, 1, 2), levels[0].run.theta, strict=True):
        small, start = smaller_task(task, shrink(task.space.write(theta), (1, 8, 8), keep=0.5, scope="layer"))
        runs.append(fit(small.with_recipe(duration="20it"), seeds=[seed], start=start[None], store=store))
    scratch = train_scratch(task, runs, ["scratch-E"], store=store)
    found = report_structured(task, levels[0], runs, scratch)
    pruned, again = (row(found["networks"], n) for n in ("pruned", "scratch-E"))
    macs = 64 * 12 + 12 * 6 + 6 * 10
    assert pruned["macs"] == macs and pruned["speedup"] == pytest.approx((64 * 24 + 24 * 12 + 12 * 10) / macs)
    assert pruned["compression"] == found["networks"][0]["parameters"] / pruned["parameters"]
    assert pruned["values"] == pytest.approx([float(r.evaluate("test").metric[0]) for r in runs])
    assert again["training_macs"] == pytest.approx(3 * pruned["training_macs"])
    assert row(found["against_controls"], "scratch-E", "control")["seeds"] == 3
    assert len(found["latency"]) == 6 and "layers" not in found
    assert "search_macs" not in pruned and not any("another one" in s for s in found["sentences"])


def test_the_search_before_structured_pruning_s_own_training_is_costed(task, levels, store):
    runs = [fit(load("digits", widths=(6, 3)).with_recipe(duration="60it"), seeds=[s], store=store) for s in (0, 1, 2)]
    for macs, mean in ((1e6, 1e6), ([1e6, 2e6, 6e6], 3e6)):
        arm = report_structured(task, levels[0], runs, search_macs=macs, measure=False)["networks"][1]
        assert arm["search_macs"] == pytest.approx(mean + arm["training_macs"])
    with pytest.raises(InputError, match="got 2 for 3"):
        report_structured(task, levels[0], runs, search_macs=[1e6, 2e6], measure=False)


def test_a_network_larger_than_the_dense_one_is_said_to_be_another(task, levels, store):
    wide = load("digits", widths=(48, 24)).with_recipe(duration="20it")
    runs = [fit(wide, seeds=[s], store=store) for s in (0, 1, 2)]
    found = report_structured(task, levels[0], runs, measure=False)
    share = (64 * 48 + 48 * 24 + 240) / (64 * 24 + 24 * 12 + 120)
    assert found["networks"][1]["density"] == pytest.approx(share)
    assert any(f"another one: {share:.3g} times" in s for s in found["sentences"])


def test_arms_of_other_seeds_are_refused(task, levels, store):
    other = fit(task, seeds=[0, 1, 7], store=store, execution="stacked")
    with pytest.raises(InputError, match="paired by seed"):
        report(task, other, levels)
    with pytest.raises(InputError, match="at least one pruned level"):
        report(task, other, [])
    with pytest.raises(InputError, match="at least one smaller network"):
        report_structured(task, other, [])


def test_more_than_five_of_eleven_classes_count_for_top_five(store):
    from surplus.data import Dataset, Splits
    from surplus.tasks import task_from

    inputs = torch.eye(11).repeat(4, 1)
    data = Dataset.of(inputs, torch.arange(11).repeat(4))
    task = task_from(Splits("eleven", data, data), "mlp", widths=(16,))
    levels = imp(task.with_recipe(duration="5it"), levels=1, seeds=2, store=store)
    found = report(task, levels[0], levels, measure=False)
    assert all(r["mean"] <= r["top5"] <= 1 for r in found["networks"])
