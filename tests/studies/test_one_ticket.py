from __future__ import annotations

import pytest
import torch

from surplus.networks import build
from surplus.studies import Bench, one_ticket
from surplus.studies.base import Untestable
from surplus.studies.one_ticket import ACROSS, BIGGER, OPTIMISERS, PROTOCOLS, WITHIN
from surplus.tasks import Duration
from surplus.training import Store


@pytest.fixture
def bench(tmp_path):
    return Bench("smoke", PROTOCOLS["smoke"], Store(tmp_path))


def around(mean, seeds=5):
    """Accuracies that scatter by a tenth of a point, each arm otherwise."""
    return mean + 1e-3 * torch.rand(seeds, generator=torch.Generator().manual_seed(round(1e6 * mean)))


def found(monkeypatch, transferred, chance=0.7, own=0.9):
    """Let all arms reach these accuracies."""

    def arms(bench, tasks, pairs):
        lines = {(t, t, "dense"): around(0.95) for _, t in pairs}
        for s, t in pairs:
            lines[s, t, "own" if s == t else "transferred"] = around(own if s == t else transferred)
            lines[s, t, "random-layer"] = lines[s, t, "shuffled"] = around(chance)
        return lines

    monkeypatch.setattr(one_ticket, "trained", arms)


@pytest.mark.parametrize(
    ("transferred", "verdict"), [(0.899, "holds"), (0.85, "fails"), (0.89, "undecided"), (0.65, "fails")]
)
def test_within_a_distribution_a_ticket_beats_chance_and_loses_less_than_a_point(
    bench, monkeypatch, transferred, verdict
):
    found(monkeypatch, transferred)
    measured = one_ticket.one_ticket(WITHIN, bench)
    assert measured.verdict == verdict
    share = next(r["value"] for r in measured.rows if r["quantity"] == "recovered fraction")
    assert share == pytest.approx((transferred - 0.7) / 0.2, abs=0.02)


@pytest.mark.parametrize("claim", [ACROSS, OPTIMISERS])
def test_elsewhere_a_ticket_has_to_beat_its_own_layer_densities(bench, monkeypatch, claim):
    for transferred, verdict in ((0.75, "holds"), (0.65, "fails")):
        found(monkeypatch, transferred)
        assert one_ticket.one_ticket(claim, bench).verdict == verdict


def test_classes_are_chosen_and_numbered_from_0_and_images_get_one_shape(bench):
    high = one_ticket.pictures(bench, "digits 5-9")
    assert high.train.classes == ("5", "6", "7", "8", "9") and high.train.targets.unique().tolist() == [0, 1, 2, 3, 4]
    wide = bench.protocol.model_copy(update={"channels": 3, "size": 12, "examples": 100})
    few = one_ticket.pictures(Bench("smoke", wide, bench.store), "digits")
    assert few.train.shape == few.test.shape == (3, 12, 12) and 95 <= len(few.train) <= 105


def test_the_claim_on_bigger_sources_runs_when_it_is_made_small(tmp_path, provided_files):
    recipe = PROTOCOLS["smoke"].recipe.model_copy(update={"batch_size": 20, "duration": Duration("8it")})
    changes = {"seeds": 2, "wider": ("cifar10", "digits"), "part": 0.5, "size": 12, "rewind_step": 3, "recipe": recipe}
    changes |= {"network": "mlp", "options": {"widths": (16,)}, "rate": 0.8, "execution": "stacked"}
    b = Bench("gpu", PROTOCOLS["gpu"].model_copy(update=changes), Store(tmp_path / "store"))
    measured = one_ticket.one_ticket(BIGGER, b)
    arms = [r["row"] for r in measured.rows if " - " not in r["row"]]
    assert "transferred, all of cifar10 to digits" in arms and "transferred, 50% of cifar10 to digits" in arms
    assert "dense, digits" in arms and measured.seeds == 2
    with pytest.raises(Untestable, match="cifar100"):
        one_ticket.one_ticket(BIGGER, Bench("gpu", PROTOCOLS["gpu"], b.store))


def test_the_network_of_the_gpu_protocol_is_there():
    p = PROTOCOLS["gpu"]
    assert build(p.network, (p.channels, p.size, p.size), 10, **p.options) is not None
