from __future__ import annotations

import pytest
import torch

from surplus.examples.condensation import condensing
from surplus.examples.condensation.evaluation import random_real
from surplus.studies import Bench, load_result, run_study
from surplus.studies import condensing as shared
from surplus.studies import idc as module
from surplus.studies.idc import FORMATION, MIX, NORMS, PROTOCOLS, idc
from surplus.training import Store


def bench(folder, scale="smoke", **changes):
    return Bench(scale, PROTOCOLS[scale].model_copy(update=changes), Store(folder))


def test_every_claim_gets_numbers_and_nothing_is_learned_twice(tmp_path, no_files, monkeypatch):
    result = run_study("idc", "smoke", Store(tmp_path / "store"), out=tmp_path)
    for m in result.measured:
        assert m.rows and any(row["row"].startswith("random") for row in m.rows)
    assert load_result(tmp_path / "idc.json").as_dict() == result.as_dict()
    assert 1_000 < (tmp_path / "idc.svg").stat().st_size < 100_000
    assert (tmp_path / "idc.json").stat().st_size < 60_000

    def refuse(*_):
        raise AssertionError("learned again")

    monkeypatch.setattr(condensing, "_run", refuse)
    again = run_study("idc", "smoke", Store(tmp_path / "store"))
    assert again.as_dict()["claims"] == result.as_dict()["claims"] and result.manifest["runs"]


@pytest.mark.parametrize(
    ("one", "verdict"), [([0.7, 0.71, 0.69], "holds"), ([0.95, 0.96, 0.95], "fails"), ([0.5, 0.9, 0.7], "undecided")]
)
def test_idc_must_beat_idc_i_and_that_chance(tmp_path, monkeypatch, no_files, one, verdict):
    values = {"IDC, f = 2": [0.9, 0.91, 0.9], "IDC-I, f = 1": one, "random real": [0.6, 0.61, 0.59]}
    monkeypatch.setattr(module, "_accuracies", lambda bench, sets: {name: values[name] for name in sets})
    assert idc(FORMATION, bench(tmp_path, seeds=3)).verdict == verdict


def test_a_gain_of_less_than_five_points_is_none(tmp_path, monkeypatch, no_files):
    values = {"IDC, f = 2": [0.64, 0.65, 0.63], "IDC-I, f = 1": [0.62, 0.63, 0.61], "random real": [0.6, 0.61, 0.59]}
    monkeypatch.setattr(module, "_accuracies", lambda bench, sets: {name: values[name] for name in sets})
    assert idc(FORMATION, bench(tmp_path, seeds=3)).verdict == "fails"
    assert idc(FORMATION, bench(tmp_path, seeds=3, least_gain=0.0)).verdict == "holds"


def test_shrunk_images_are_nothing_but_real_ones(tmp_path, monkeypatch, no_files):
    b = bench(tmp_path)
    made = module._condensed(b, module._data(b, 0), 0, 2, image_lr=0.0, outer=1, inner=1)
    data = module._data(b, 0).train
    known = {tuple(v) for v in (data.inputs[data.targets == 4][:, 0, ::2, ::2].flatten(1).float() / 255).tolist()}
    cells = [made.images[4, 0, i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)]
    rounded = {tuple(round(v, 4) for v in row) for row in known}
    assert all(tuple(round(v, 4) for v in cell.flatten().tolist()) in rounded for cell in cells)


def test_both_networks_of_the_third_claim_take_as_many_steps_from_one_start(tmp_path, no_files):
    b = bench(tmp_path)
    scene = module._scene(b, 0)
    few = random_real(scene.task.train, 1, 0)
    x, y = module._again(scene, few, scene.draws("x"))
    assert len(x) == scene.settings.net_examples == len(scene.anything(64, scene.draws("x"))[0])
    assert int(y.bincount().max() - y.bincount().min()) <= 1
    start, real, made = (module._trained(scene, e, n) for e, n in ((None, 0), (None, 3), (few, 3)))
    assert torch.equal(start.conv1.weight, scene.network(0).conv1.weight)
    assert not torch.equal(real.conv1.weight, made.conv1.weight)


def test_a_network_that_knows_a_set_by_heart_has_no_gradient_on_it(tmp_path, no_files):
    fast = {**PROTOCOLS["smoke"].condensation, "net_lr": 0.1, "cutmix": 0.0}
    scene = module._scene(bench(tmp_path, condensation=fast), 0)
    few = random_real(scene.task.train, 1, 0)
    before, after = (module._norm(scene, module._trained(scene, few, steps), few) for steps in (0, 60))
    assert after < 0.5 * before


def test_the_protocol_for_a_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    small = {"network": "conv-net:width=4,depth=2", "per_class": 2, "epochs": 3, "steps": 2, "seeds": 2}
    settings = {**PROTOCOLS["gpu"].condensation, "outer": 1, "inner": 1, "net_examples": 20}
    b = bench(tmp_path, "gpu", condensation=settings, **small)
    for claim in (FORMATION, MIX, NORMS):
        assert idc(claim, b).seeds == 2


def test_pictures_survive_the_way_through_a_stored_result():
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = shared._image(shared.picture(images))
    assert pixels.shape == (8, 3 * 9 - 1)
    assert abs(pixels[:, :8] / 255 - images[0, 0].numpy()).max() <= 0.5 / 255 + 1e-6


def test_a_part_of_the_data_is_a_seed_s_own(tmp_path, no_files):
    b = bench(tmp_path, train=50, test=20)
    first, second = module._data(b, 0), module._data(b, 1)
    assert len(first.train) == 50 and len(first.test) == 20
    assert not torch.equal(first.train.inputs, second.train.inputs)
