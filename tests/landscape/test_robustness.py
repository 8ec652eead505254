from __future__ import annotations

import sys
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from surplus.data.corruptions import corrupt_images
from surplus.errors import InputError
from surplus.landscape.geometry import feature_geometry
from surplus.landscape.robustness import (
    METRICS,
    Condition,
    Variant,
    corrupted,
    distances,
    embed,
    occlusion,
    redundant,
    robustness,
    spanning_tree,
    variants_of,
)
from surplus.pruning.schedules.imp import imp
from surplus.space import generator
from surplus.tasks import load
from surplus.training import fit


@pytest.fixture(scope="module")
def levels():
    task = load("digits", widths=(32,)).with_recipe(duration="4ep")
    return imp(task, levels=2, rate=0.8, seeds=2, execution="stacked")


@pytest.fixture(scope="module")
def task(levels):
    return levels[0].run.task


@pytest.fixture(scope="module")
def found(task, levels):
    kinds = ("gaussian-blur", "defocus-blur", "contrast")
    return robustness(task, variants_of({"imp": levels}), corruptions=kinds, severities=(1, 5))


def test_variants_carry_method_and_density_and_dense_networks_come_once(levels):
    found = variants_of({"imp": levels, "other": levels}, replica=1)
    assert list(found) == ["dense", "imp 20%", "imp 4.01%", "other 20%", "other 4.01%"]
    assert [v.method for v in found.values()] == ["dense", "imp", "imp", "other", "other"]
    assert torch.equal(found["imp 4.01%"].theta, levels[2].run.theta[1])
    assert found["imp 4.01%"].density == pytest.approx(0.04, abs=1e-3)


def test_each_network_sees_the_same_corrupted_examples_and_answers_as_it_would_alone(task, found):
    assert found.conditions[0] == Condition() and str(found.conditions[2]) == "gaussian-blur 5"
    data = corrupted(task, task.test, found.conditions[2])
    chance = generator(0, "robustness", "gaussian-blur", 5)
    assert torch.equal(data.inputs, corrupt_images("gaussian-blur", task.test.inputs, 5, chance))
    for v, variant in enumerate(found.variants.values()):
        alone = feature_geometry(task, variant.theta, data)
        assert torch.equal(found.prediction[v, 2], alone.prediction)
        for metric in (*METRICS, "angles"):
            torch.testing.assert_close(getattr(found, metric)[v, 2], getattr(alone, metric))
    assert torch.equal((found.inputs[2] * 255).round().to(torch.uint8), data.inputs)


def test_the_table_has_the_accuracies_of_fit_and_their_means(task, levels, found):
    rows = found.table()
    assert [r["network"] for r in rows] == list(found.variants)
    for row, level in zip(rows, levels, strict=True):
        assert row["clean"] == pytest.approx(float(level.run.evaluate("test").metric[0]))
        assert row["robust"] == pytest.approx(np.mean([row[k] for k in ("gaussian-blur", "defocus-blur", "contrast")]))
    kind = (found.prediction[1, 1:3] == task.test.targets).double().mean()
    assert rows[1]["gaussian-blur"] == pytest.approx(float(kind))


def test_fragility_counts_the_conditions_that_change_the_answer(found):
    some = replace(found, prediction=torch.zeros_like(found.prediction))
    assert not some.fragility.any()
    some.prediction[0, 2:4, 5] = 1
    assert replace(some).fragility[0, 5] == pytest.approx(2 / 6)
    clean = replace(found, conditions=found.conditions[:1], prediction=found.prediction[:, :1])
    assert not clean.fragility.any()


def test_vectors_hold_each_metric_z_scored_over_all_networks_and_conditions(found):
    vectors = found.vectors()
    n = len(found.data)
    assert vectors.shape == (3 * 7, 3 * n)
    for i, metric in enumerate(METRICS):
        part, values = vectors[:, i * n : (i + 1) * n], getattr(found, metric).double()
        assert part.mean() == pytest.approx(0, abs=1e-9) and part.std() == pytest.approx(1)
        expected = (values[1, 3] - values.mean()) / values.std(correction=0)
        np.testing.assert_allclose(part[7 + 3], expected.numpy())


def test_infinite_margins_do_not_spoil_the_vectors(found):
    margin = found.margin.clone()
    margin[0, 0, :2] = torch.tensor([torch.inf, -torch.inf])
    vectors = replace(found, margin=margin).vectors()
    n = len(found.data)
    assert np.isfinite(vectors).all()
    assert vectors[0, 2 * n] == vectors[:, 2 * n :].max() and vectors[0, 2 * n + 1] == vectors[:, 2 * n :].min()


def test_centring_and_relative_rows_change_angles_and_never_margins(task, found):
    options = {"corruptions": ("contrast",), "severities": (5,)}
    plain, centred, relative = (
        robustness(task, found.variants, **options, **how) for how in ({}, {"centred": True}, {"relative": True})
    )
    assert torch.equal(plain.margin, centred.margin) and torch.equal(plain.margin, relative.margin)
    assert not torch.allclose(plain.angle, centred.angle) and not torch.allclose(plain.angle, relative.angle)
    assert not torch.allclose(plain.norm, centred.norm) and torch.equal(plain.norm, relative.norm)
    assert plain.angle.max() <= 180 and centred.angle.mean() > plain.angle.mean()  # out of the orthant


def test_distances_and_the_spanning_tree_are_those_of_every_tree_tried():
    points = np.random.default_rng(0).normal(size=(5, 3))
    d = distances(points)
    assert d[1, 4] == pytest.approx(np.linalg.norm(points[1] - points[4]))
    edges = list(combinations(range(5), 2))
    lengths = [sum(d[e] for e in tree) for tree in combinations(edges, 4) if _connected(tree)]
    tree = spanning_tree(d)
    assert _connected(tree) and sum(d[e] for e in tree) == pytest.approx(min(lengths))


def _connected(tree):
    reached = {0}
    for _ in tree:
        reached |= {v for e in tree if reached & set(e) for v in e}
    return len(reached) == 5


def test_equal_points_are_still_in_the_tree():
    tree = spanning_tree(distances(np.array([[0.0], [0.0], [3.0], [3.0]])))
    assert len(tree) == 3 and {(0, 1), (2, 3)} < set(tree)


def test_points_of_a_plane_keep_their_distances_under_classical_scaling(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    flat = (
        np.random.default_rng(0).normal(size=(6, 2)) @ np.linalg.qr(np.random.default_rng(1).normal(size=(9, 2)))[0].T
    )
    places, name = embed(flat)
    np.testing.assert_allclose(distances(places), distances(flat), atol=1e-9)
    assert "principal components" in name
    assert embed(flat[:1])[0].tolist() == [[0, 0]] and embed(flat[:2])[0].shape == (2, 2)


def test_umap_is_used_where_it_is_installed(monkeypatch):
    asked = {}

    class UMAP:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, vectors):
            return vectors[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    assert embed(np.eye(8), seed=3)[1] == "UMAP"
    assert asked == {"n_neighbors": 7, "random_state": 3}


def test_two_blurs_are_nearer_to_each_other_than_to_a_change_of_contrast(found):
    rows = redundant(found)
    assert len(rows) == 3 and {rows[0]["first"], rows[0]["second"]} == {"gaussian-blur", "defocus-blur"}
    same = replace(found, **{m: getattr(found, m)[:, [0, 1, 2, 1, 2, 5, 6]] for m in METRICS})
    twin = redundant(same)[0]
    assert twin["ratio"] == pytest.approx(0, abs=1e-9) and twin["redundant"]


def test_occlusion_is_the_change_under_a_patch_of_the_mean(task, levels):
    theta, data = levels[0].run.theta[0], task.test[:3]
    maps = occlusion(task, theta, data, 2)
    assert maps["margin"].shape == (3, 4, 4)
    x = task.prepare(data.inputs)
    x[:, :, 2:4, 4:6] = 0  # the mean, after normalisation
    whole, covered = task.space.apply(theta, task.prepare(data.inputs)), task.space.apply(theta, x)
    assert whole.shape == covered.shape
    images = data.inputs.clone()
    images[:, :, 2:4, 4:6] = (255 * task.moments[0]).round().byte() if images.dtype == torch.uint8 else task.moments[0]
    for metric in METRICS:
        after, before = (
            getattr(feature_geometry(task, theta, d), metric) for d in (replace(data, inputs=images), data)
        )
        torch.testing.assert_close(maps[metric][:, 1, 2], after - before, rtol=1e-4, atol=1e-4)


def test_a_patch_that_does_not_divide_the_image_still_covers_all_of_it(task, levels):
    maps = occlusion(task, levels[0].run.theta[0], task.test[:2], 3)
    assert maps["angle"].shape == (2, 3, 3)
    assert occlusion(task, levels[0].run.theta[0], task.test[:2])["norm"].shape == (2, 8, 8)
    with pytest.raises(InputError, match="side of 1 to 8 pixels; got 9"):
        occlusion(task, levels[0].run.theta[0], task.test[:2], 9)


def test_where_the_image_is_the_mean_already_covering_changes_nothing(task, levels):
    flat = task.moments[0].expand(1, 1, 8, 8)
    data = replace(task.test[:1], inputs=flat.clone())
    assert all(not m.any() for m in occlusion(task, levels[0].run.theta[0], data, 4).values())


def test_tables_take_noise_in_units_of_their_columns():
    task = load("xor-clusters", widths=(8,)).with_recipe(duration="2ep")
    theta = fit(task, seeds=1).theta[0]
    found = robustness(task, {"dense": Variant(theta)}, severities=(1, 5))
    assert [str(c) for c in found.conditions] == ["clean", "gaussian-noise 1", "gaussian-noise 5"]
    noise = (found.inputs[2] - found.inputs[0]).std(0)
    torch.testing.assert_close(noise, 0.5 * task.moments[1], rtol=0.15, atol=0)
    with pytest.raises(InputError, match="corruption of a table"):
        corrupted(task, task.test, Condition("fog", 1))
    with pytest.raises(InputError, match="severity"):
        corrupted(task, task.test, Condition("gaussian-noise", 9))
    with pytest.raises(InputError, match="patches are of images"):
        occlusion(task, theta, task.test)


def test_what_cannot_be_compared_is_refused(task, levels):
    with pytest.raises(InputError, match="nothing to compare"):
        robustness(task, {})
    with pytest.raises(InputError, match=r"'other' has weights of shape \(5,\)"):
        robustness(task, {"other": Variant(torch.zeros(5))})
    with pytest.raises(InputError, match="'mist'"):
        robustness(task, {"dense": Variant(levels[0].run.theta[0])}, corruptions=("mist",))
