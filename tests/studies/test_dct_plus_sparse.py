from __future__ import annotations

import pytest
import torch
from torch import nn

from surplus.studies import Bench, dct_plus_sparse, run_study
from surplus.studies.dct_plus_sparse import PROTOCOLS, RULE
from surplus.tasks import Duration
from surplus.training import Store


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path_factory.mktemp("dct")))


def test_it_runs_and_tells_of_every_claim(bench):
    result = run_study("dct-plus-sparse", "smoke", bench.store)
    assert result.verdicts["equal-per-layer-beats-uniform"] == "undecided"
    better, shrinks, scale, _ = result.measured
    assert {"offset alone", "DCT + sparse", "random sparse", "random sparse, rescaled"} <= {
        r["row"] for r in better.rows
    }
    assert len([r for r in shrinks.rows if r["row"] == "random sparse"]) == 3
    assert [r["row"] for r in scale.rows] == ["offset", "random sparse", "dense, usual start"]


def test_the_densities_are_whole_numbers_of_weights_in_each_layer(bench):
    laptop = Bench("laptop", PROTOCOLS["laptop"], bench.store)
    space = dct_plus_sparse._task(laptop).space
    for density, each in zip(dct_plus_sparse._densities(laptop), laptop.protocol.counts, strict=False):
        mask = dct_plus_sparse.random_mask(space, density, torch.Generator().manual_seed(0), "epl")
        assert [int(mask[b.slice].sum()) for b in space.blocks if b.prunable] == [each] * 3


def test_all_arms_train_the_same_places_and_rescaled_ones_start_at_the_dense_variance(bench):
    ours, plain = (f(bench, 0.02) for f in (dct_plus_sparse._ours, dct_plus_sparse._plain))
    larger = dct_plus_sparse._plain(bench, 0.02, rescale=True)
    assert torch.equal(ours.masks, plain.masks) and torch.equal(ours.masks, larger.masks)
    space = plain.run.task.space
    assert torch.equal(plain.start, space.init_many([0, 1]))
    block = space["linear2.weight"]
    density = plain.masks[0, block.slice].double().mean()
    torch.testing.assert_close(larger.start[0, block.slice], plain.start[0, block.slice] / density.sqrt().float())
    assert torch.equal(larger.start[:, ~space.prunable], plain.start[:, ~space.prunable])


def test_the_spread_of_two_layers_is_the_ratio_of_their_variances():
    first, second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(first.weight, 3.0)
    nn.init.constant_(second.weight, 0.5)
    x = torch.tensor([[1.0], [2.0], [4.0]])
    assert dct_plus_sparse._spread(nn.Sequential(first, second), x) == pytest.approx(4)
    nn.init.zeros_(second.weight)
    assert dct_plus_sparse._spread(nn.Sequential(first, second), x) == pytest.approx(1e12)


def test_a_spread_of_four_decides(bench, monkeypatch):
    for offset, thin, verdict in ((3.0, 1e6, "holds"), (5.0, 1e6, "fails"), (3.0, 50.0, "fails")):
        monkeypatch.setattr(
            dct_plus_sparse, "_spreads", lambda _, seed, o=offset, t=thin: (o + 0.001 * seed, t + seed / 100, 10.0)
        )
        assert dct_plus_sparse.keeps_scale(bench).verdict == verdict


def test_the_protocol_of_the_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    gpu = PROTOCOLS["gpu"]
    recipe = gpu.recipe.model_copy(
        update={"duration": Duration("1ep"), "batch_size": 20, "augment": type(gpu.recipe.augment)(), "milestones": ()}
    )
    small = gpu.model_copy(
        update={
            "seeds": 2,
            "network": "small-conv",
            "execution": "stacked",
            "recipe": recipe.model_copy(update={"schedule": "constant"}),
        }
    )
    measured = dct_plus_sparse.equal_per_layer(Bench("gpu", small, Store(tmp_path)))
    assert measured.claim is RULE and len(measured.rows) == 5
