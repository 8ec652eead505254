from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from surplus.data import Dataset, Splits, read
from surplus.errors import InputError
from surplus.examples.condensation import condensing, idc
from surplus.examples.condensation.class_gradients import image_gradient
from surplus.examples.condensation.condensed import Condensed
from surplus.examples.condensation.condensing import condense
from surplus.examples.condensation.dc import DcSettings
from surplus.examples.condensation.dcc import DccSettings
from surplus.examples.condensation.dsa import DsaSettings
from surplus.examples.condensation.evaluation import (
    EvaluationSettings,
    evaluate_condensed,
    random_real,
    usual_evaluation,
)
from surplus.examples.condensation.idc import IdcSettings
from surplus.examples.condensation.scene import Scene, task_of
from surplus.networks.convnet import conv_net
from surplus.registry import methods
from surplus.tasks import load, task_from
from surplus.training import Store

TINY = "conv-net:width=4,depth=2"
SMALL = {
    "idc": {"network": TINY, "outer": 3, "inner": 2, "net_examples": 16, "image_lr": 1.0},
    "dc": {"network": TINY, "outer": 3, "inner": 2, "epochs": 1, "real_batch": 8},
    "dsa": {"network": TINY, "outer": 3, "real_batch": 8},
    "dcc": {"network": TINY, "outer": 3, "inner": 2, "epochs": 1, "real_batch": 8, "outer_warmup": 1},
}


def pictures(n=30, classes=3, channels=1, side=8):
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    level = 0.2 * labels[:, None, None, None]
    pixels = (torch.rand(n, channels, side, side, generator=g) * 0.4 + level).clamp(0, 1)
    return Dataset.of((pixels * 255).byte(), labels, classes=[f"kind {c}" for c in range(classes)])


def splits(**sizes):
    data = pictures(**sizes)
    return Splits("pictures", data, data[:9])


def scene(settings, source, per_class=2):
    return Scene(task_of(source, settings.network), settings, per_class, 0, torch.device("cpu"))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_the_four_methods_are_in_the_catalogue():
    assert {m.name for m in methods("condensation")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_images_move_from_where_they_start_and_a_seed_fixes_them(name, store):
    made = condense(splits(), name, 2, store=store, **SMALL[name])
    again = condense(splits(), name, 2, store=Store(store.folder / "b"), **SMALL[name])
    other = condense(splits(), name, 2, store=store, seed=1, **SMALL[name])
    assert made.images.shape == (6, 1, 8, 8) and made.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(made.images, again.images) and not torch.equal(made.images, other.images)
    settings = made.facts["settings"]
    still = condense(splits(), name, 2, store=store, **{**SMALL[name], "image_lr": 0})
    assert float((made.images - still.images).abs().max()) > 1e-3
    assert all(len(values) == 3 for values in made.history.values()) and settings["outer"] == 3


@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_run_ends_with_the_images_of_an_uninterrupted_one(name, store, monkeypatch):
    monkeypatch.setattr(condensing, "CHECKPOINT_SECONDS", 0.0)
    whole = condense(splits(), name, 1, store=Store(store.folder / "whole"), **SMALL[name])
    seen = []

    def stop(done, total, matched):
        seen.append(done)
        if done == 2 and len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        condense(splits(), name, 1, store=store, progress=stop, **SMALL[name])
    resumed = condense(splits(), name, 1, store=store, progress=stop, **SMALL[name])
    assert seen == [1, 2, 3]  # the third only
    assert torch.equal(resumed.images, whole.images) and resumed.history == whole.history


def test_dc_starts_from_noise_that_is_never_clamped(store):
    made = condense(splits(), "dc", 2, store=store, **{**SMALL["dc"], "image_lr": 0})
    sc = scene(DcSettings(network=TINY), splits())
    torch.testing.assert_close(sc.normalise(made.images), sc.noise_start())
    assert float(made.images.min()) < 0 and float(made.images.max()) > 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize("name", SMALL)
def test_a_gpu_makes_the_images_that_a_cpu_makes(name, store):
    here, there = (condense(splits(), name, 2, store=store, device=d, **SMALL[name]) for d in ("cpu", "cuda"))
    torch.testing.assert_close(here.images, there.images, atol=2e-2, rtol=2e-2)


def test_a_finished_run_is_read_back(store):
    seen = []
    for _ in range(2):
        condense(splits(), "dc", 1, store=store, progress=lambda *told: seen.append(told), **SMALL["dc"])
    assert [told[:2] for told in seen] == [(1, 3), (2, 3), (3, 3)] and set(seen[0][2]) == {"distance", "together"}


# ---- the steps themselves, against the plain way ---------------------------------------------------------------------


def plain_gradient(module, x, y, weights, graph=False):
    return torch.autograd.grad(F.cross_entropy(module(x), y), weights, create_graph=graph)


def cosine(a, b):
    return sum(
        (1 - (u.flatten(1) * v.flatten(1)).sum(1) / (u.flatten(1).norm(dim=1) * v.flatten(1).norm(dim=1) + 1e-6)).sum()
        for u, v in zip(a, b, strict=True)
    )


def test_idc_steps_after_each_class_with_one_momentum_for_all_images(store):
    made = {"factor": 1, "augment": "", "net_examples": 0, "outer": 1, "inner": 3, "metric": "mse", "image_lr": 3.0}
    s = IdcSettings(network=TINY, **made)
    sc = scene(s, pictures())  # ten real images per class: every batch holds all of them
    images = sc.real_start().requires_grad_()
    step = torch.optim.SGD([images], lr=3.0 * 2 / 10, momentum=0.5)  # times per_class / 10
    module = sc.network(0)
    weights = [p for p in module.parameters() if p.dim() == 4]
    real = sc.task.prepare(sc.task.train.inputs)
    for _ in range(3):
        for c in range(3):
            target = plain_gradient(module, real[c::3], torch.full((10,), c), weights)
            ours = plain_gradient(module, sc.normalise(images[2 * c : 2 * c + 2]), torch.tensor([c, c]), weights, True)
            step.zero_grad()
            sum((a - b).square().sum() for a, b in zip(target, ours, strict=True)).backward()
            step.step()
    got = condense(pictures(), "idc", 2, s, store=store)
    torch.testing.assert_close(got.images, images.detach().clamp(0, 1), atol=1e-5, rtol=1e-4)
    assert float((images.detach() - sc.real_start()).abs().max()) > 0.01


def test_idc_clamps_when_an_outer_iteration_starts(store):
    changes = {**SMALL["idc"], "image_lr": 1e3, "outer": 1}
    row = next(m for m in methods("condensation") if m.name == "idc")
    sc = scene(IdcSettings(**{**changes, "image_lr": 0}), pictures())
    state = condensing.State(sc.real_start(2) * 5 - 2, torch.zeros(6, 1, 8, 8))
    row.fn(sc, state, 0)
    assert (float(state.images.min()), float(state.images.max())) == (0, 1)
    made = condense(splits(), "idc", 2, store=store, **changes)
    assert float(made.images.min()) >= 0 and float(made.images.max()) <= 1  # and at the end


@pytest.mark.parametrize("together", [False, True])
def test_dc_and_dcc_step_once_after_all_classes_and_then_train_the_network_on_the_images(store, together):
    made = {"start": "real", "outer": 1, "inner": 3, "epochs": 2, "image_lr": 0.3, "net_lr": 0.1}
    s = DccSettings(network=TINY, outer_warmup=0 if together else 1, inner_warmup=3, **made)
    sc = scene(s, pictures())
    images = sc.normalise(sc.real_start()).requires_grad_()
    step, module = torch.optim.SGD([images], lr=0.3, momentum=0.5), sc.network(0)
    weights = [p for p in module.parameters() if p.dim() > 1]
    net_step, real = torch.optim.SGD(module.parameters(), lr=0.1), sc.task.prepare(sc.task.train.inputs)
    for il in range(3):
        targets = [plain_gradient(module, real[c::3], torch.full((10,), c), weights) for c in range(3)]
        if together:
            mean = [sum(parts) / 3 for parts in zip(*targets, strict=True)]
            loss = cosine(mean, plain_gradient(module, images, sc.targets, weights, True))
        else:
            parts = [
                plain_gradient(module, images[2 * c : 2 * c + 2], torch.tensor([c, c]), weights, True) for c in range(3)
            ]
            loss = sum(cosine(t, p) for t, p in zip(targets, parts, strict=True))
        step.zero_grad()
        loss.backward()
        step.step()
        for _ in range(2 if il < 2 else 0):
            net_step.zero_grad()
            F.cross_entropy(module(images.detach()), sc.targets).backward()
            net_step.step()
    got = condense(pictures(), "dcc", 2, s, store=store)
    torch.testing.assert_close(sc.normalise(got.images), images.detach(), atol=1e-4, rtol=1e-3)
    if together:
        assert got.history["distance"] == got.history["together"]


@pytest.mark.parametrize("seed", range(4))
def test_real_and_synthetic_images_undergo_one_and_the_same_change(seed):
    """Synthetic images that are all the real ones have the same gradient under any change, if it is the same."""
    g = torch.Generator().manual_seed(seed)
    sc = scene(DsaSettings(network=TINY), pictures(channels=3), per_class=10)
    images, module = sc.task.prepare(torch.cat([sc.task.train.inputs[rows] for rows in sc.members])), sc.network(0)
    for together in (False, True):
        assert float(image_gradient(sc, module, images, together, g)[1].max()) < 1e-3
    raw = scene(IdcSettings(network=TINY, factor=1, metric="cos"), pictures(channels=3), per_class=10)
    weights = [p for p in module.parameters() if p.dim() == 4]
    distance, _ = idc.image_gradient(raw, module, weights, raw.pixels(images[raw.rows(1)]), 1, g)
    assert float(distance) < 1e-3


def test_decoded_images_are_sub_sampled_to_so_many_per_class():
    stored, g = torch.rand(5, 1, 8, 8), torch.Generator().manual_seed(0)
    assert len(idc.decoded(IdcSettings(factor=2), stored, g)) == 20
    assert len(idc.decoded(IdcSettings(factor=2, most=7), stored, g)) == 7


def test_with_one_class_dcc_is_dc():
    data = pictures(classes=2)
    one = Dataset(data.inputs[::2], torch.zeros(15).long(), data.ids[::2], ("only",), "image")
    task = task_from(Splits("one", one, one), lambda: conv_net((1, 8, 8), 3, width=4, depth=2))
    sc = Scene(task, DccSettings(network=None), 4, 0, torch.device("cpu"))
    images, module = sc.normalise(sc.real_start()), sc.network(0)
    alone, a = image_gradient(sc, module, images, False, sc.draws("x"))
    together, b = image_gradient(sc, module, images, True, sc.draws("x"))
    torch.testing.assert_close(alone, together)
    torch.testing.assert_close(a, b)
    assert float(alone.norm()) > 0


def test_the_warm_up_matches_class_by_class_until_it_is_over(store, monkeypatch):
    from surplus.examples.condensation import class_gradients

    seen, real = [], image_gradient

    def note(scene, module, images, together, generator):
        seen.append(together)
        return real(scene, module, images, together, generator)

    monkeypatch.setattr(class_gradients, "image_gradient", note)
    changes = {**SMALL["dcc"], "inner": 3, "outer_warmup": 2, "inner_warmup": 2}
    condense(splits(), "dcc", 1, store=store, **changes)
    assert seen == [False, False, True] * 2 + [True] * 3


def test_rounds_come_from_the_papers_tables_and_may_be_set():
    assert [DcSettings().rounds(n) for n in (1, 10, 50)] == [(1, 1), (10, 50), (50, 10)]
    assert [DccSettings().rounds(n) for n in (1, 20, 40)] == [(10, 5), (20, 25), (40, 15)]
    assert DcSettings().rounds(7) == (10, 50) and DcSettings().rounds(100) == (50, 10)
    assert DcSettings(inner=4, epochs=0).rounds(10) == (4, 0)


def test_a_batch_norm_network_and_the_task_s_own_network_can_be_matched(store):
    task = load(splits(channels=3), "conv-net", width=4, depth=2, norm="batch")
    made = condense(task, "dsa", 1, store=store, network=None, outer=2, real_batch=8)
    assert made.images.isfinite().all() and made.images.shape == (3, 3, 8, 8)


def test_grey_and_small_images_get_their_own_defaults():
    grey, colour = pictures(side=16), pictures(channels=3, side=16)
    assert IdcSettings.usual(grey) == {"metric": "l1", "image_lr": 1e-4} and IdcSettings.usual(colour) == {}
    assert DcSettings.usual(pictures(side=8)) == {"network": "conv-net:depth=2"}
    assert "flip" not in DsaSettings.usual(grey)["augment"] and "flip" in DsaSettings.usual(colour)["augment"]


def test_bad_requests_say_what_is_wrong(store):
    for changes, words in (
        ({"method": "idcs"}, "idc"),
        ({"per_class": 0}, "from 1 up"),
        ({"outers": 3}, "outer"),
        ({"outer": 0}, "greater than or equal to 1"),
        ({"network": "conv-net:depth=5"}, "at least 32x32"),
        ({"network": None}, "give a task"),
        ({"factor": 9}, r"1\.\.8"),
        ({"settings": DcSettings()}, "takes IdcSettings"),
        ({"device": "gpu"}, "none that torch knows"),
    ):
        with pytest.raises(InputError, match=words):
            condense(splits(), store=store, **changes)
    shifted = Dataset.of(pictures().inputs.float() / 100 - 1, pictures().targets)
    with pytest.raises(InputError, match=r"keeps pixels in \[0, 1\]"):
        condense(shifted, "idc", store=store, **SMALL["idc"])
    table = Dataset.of(torch.rand(20, 4), torch.arange(20) % 2)
    with pytest.raises(InputError, match="pictures"):
        condense(table, store=store)


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_the_files_are_data_for_any_network_and_read_back(store, tmp_path):
    made = condense(splits(), "idc", 2, store=store, **SMALL["idc"])
    folder = made.save(tmp_path / "out")
    back = read(folder)
    assert len(back.train) == 3 * 2 * 4 and back.train.shape == (1, 8, 8) and len(back.test) == 9
    assert back.train.classes == made.classes == ("kind 0", "kind 1", "kind 2")
    assert torch.equal(back.train.inputs, made.decode().inputs)
    assert torch.equal(back.train.targets, made.decode().targets)
    assert load(back, "mlp").space.size
    kept = Condensed.load(folder)
    assert torch.equal(kept.images, made.images) and kept.facts == made.facts and kept.history == made.history
    facts = json.loads((folder / "condensed.json").read_text())
    assert facts["method"] == "idc" and facts["seed"] == 0 and facts["source"]["fingerprint"] and facts["versions"]
    assert [f.name for f in sorted((folder / "pictures").iterdir())] == [f"{c:03d}-kind-{c}.png" for c in range(3)]
    with pytest.raises(InputError, match="no condensed set"):
        Condensed.load(tmp_path)


def test_random_real_images_are_always_measured_too(store):
    source = splits(n=60)
    made = condense(source, "idc", 2, store=store, **SMALL["idc"])
    result = evaluate_condensed(made, source, EvaluationSettings(epochs=20, batch=8), store=store)
    assert result.condensed.shape == result.random.shape == (3,)
    assert result.gain.difference == pytest.approx(float((result.condensed - result.random).mean()))
    assert "random real images at equal storage" in str(result) and "3 seeds" in str(result)
    again = evaluate_condensed(made, source, EvaluationSettings(epochs=20, batch=8), store=store)
    assert torch.equal(again.condensed, result.condensed)


def test_training_on_easy_pictures_answers_rightly(store):
    source = splits(n=60)
    made = condense(source, "dc", 2, store=store, **{**SMALL["dc"], "start": "real", "image_lr": 0})
    result = evaluate_condensed(made, source, EvaluationSettings(epochs=60, lr=0.05), store=store)
    assert float(result.condensed.mean()) > 0.6 and float(result.random.mean()) > 0.6


def test_random_real_images_are_as_many_per_class():
    data = pictures()
    few = random_real(data, 4, 0)
    assert few.targets.bincount().tolist() == [4, 4, 4]
    assert set(random_real(data, 1, 1).ids) != set(random_real(data, 1, 2).ids)


def test_each_method_is_evaluated_as_in_its_paper(store):
    def of(name):
        return usual_evaluation(condense(splits(), name, 1, store=store, **SMALL[name]))

    assert (of("dc").epochs, of("dc").augment) == (300, "")
    assert of("dsa").epochs == 1000 and of("dsa").augment == "color-crop-cutout-scale-rotate"
    idc = of("idc")
    assert (idc.epochs, idc.batch, idc.cutmix) == (1000, 64, 0.5)
    assert [round(idc.rate(e), 6) for e in (0, 666, 667, 834)] == [0.01, 0.01, 0.002, 0.0004]


def test_data_of_another_shape_are_refused(store):
    made = condense(splits(), "dc", 1, store=store, **SMALL["dc"])
    with pytest.raises(InputError, match="learned from"):
        evaluate_condensed(made, splits(side=16), store=store)
    with pytest.raises(InputError, match="no test examples"):
        data = pictures()
        evaluate_condensed(made, Splits("p", data, data[:0]), store=store)


def test_more_images_than_a_class_has_are_refused(store):
    with pytest.raises(InputError, match="smallest class has"):
        condense(read("digits"), "dsa", 100_000, store=store)
