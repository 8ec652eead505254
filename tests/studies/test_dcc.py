from __future__ import annotations

import pytest

from surplus.examples.condensation import condensing
from surplus.studies import Bench, load_result, run_study
from surplus.studies import dcc as module
from surplus.studies.dcc import ALIKE, ONE_CLASS, PROTOCOLS, WARM_UP, dcc
from surplus.training import Store


def bench(folder, scale="smoke", **changes):
    return Bench(scale, PROTOCOLS[scale].model_copy(update=changes), Store(folder))


def test_every_claim_gets_numbers_and_nothing_is_learned_twice(tmp_path, no_files, monkeypatch):
    result = run_study("dcc", "smoke", Store(tmp_path / "store"), out=tmp_path)
    for m in result.measured:
        assert m.rows and any(row["row"].startswith("random") for row in m.rows)
    assert load_result(tmp_path / "dcc.json").as_dict() == result.as_dict()
    assert 1_000 < (tmp_path / "dcc.svg").stat().st_size < 100_000

    def refuse(*_):
        raise AssertionError("learned again")

    monkeypatch.setattr(condensing, "_run", refuse)
    again = run_study("dcc", "smoke", Store(tmp_path / "store"))
    assert again.as_dict()["claims"] == result.as_dict()["claims"] and result.manifest["runs"]


@pytest.mark.parametrize(
    ("dc", "strictly", "verdict"),
    [
        ([0.8, 0.81, 0.79], False, "holds"),
        ([0.81, 0.80, 0.80], False, "holds"),  # a little better, within one standard error
        ([0.9, 0.91, 0.89], False, "fails"),
        ([0.8, 0.80, 0.81], True, "undecided"),
        ([0.7, 0.70, 0.71], True, "holds"),
    ],
)
def test_dcc_may_not_fall_behind_and_both_must_beat_chance(tmp_path, monkeypatch, no_files, dc, strictly, verdict):
    given = {"DCC": [0.8, 0.81, 0.79], "DC": dc, "random real": [0.6, 0.61, 0.59]}
    calls = iter([given[name][seed] for seed in range(3) for name in ("DCC", "DC", "random real")])
    monkeypatch.setattr(module, "_worth", lambda *_: next(calls))
    one_step = {"outer": 1, "inner": 1, "epochs": 0, "real_batch": 4}
    b = bench(tmp_path, seeds=3, nets=1, strictly=strictly, condensation=one_step)
    assert dcc(ALIKE, b).verdict == verdict


def test_only_the_classes_that_look_alike_are_there_under_new_numbers(tmp_path, no_files):
    data = module._data(bench(tmp_path), 0)
    assert data.train.classes == ("3", "5", "8", "9")
    assert sorted(data.train.targets.unique().tolist()) == [0, 1, 2, 3] and len(data.test) > 100


def test_one_class_alone_makes_the_losses_equal(tmp_path, no_files):
    measured = dcc(ONE_CLASS, bench(tmp_path))
    assert measured.verdict == "holds"
    four = [row["value"] for row in measured.rows if row["row"].endswith("K = 4")]
    assert min(four) > 0.01  # so the comparison could have failed


def test_the_warm_up_claim_follows_from_the_losses(tmp_path, monkeypatch, no_files):
    class Made:
        def __init__(self, step):
            self.history = {"together": [1.0, 1 + step, 1.0, 1 + step]}

    def learned(bench, data, method, seed, **changes):
        return Made((2.0 + seed / 10) if changes.get("outer_warmup") == 0 else 1.0)

    monkeypatch.setattr(module, "_learned", learned)
    measured = dcc(WARM_UP, bench(tmp_path, seeds=3))
    assert measured.verdict == "holds" and measured.rows[1]["value"] == pytest.approx(1 / 3)


def test_both_methods_differ_in_nothing_but_the_loss(tmp_path, no_files):
    b = bench(tmp_path)
    data = module._data(b, 0)
    one, other = (module._learned(b, data, m, 0).facts["settings"] for m in ("dcc", "dc"))
    assert {k for k in one if one[k] != other.get(k)} <= {"outer_warmup", "inner_warmup", "loops"}
    assert one["inner"] == other["inner"] and one["start"] == "real"


def test_the_protocol_for_a_gpu_runs_when_it_is_made_small(tmp_path, provided_files):
    small = {"network": "conv-net:width=4,depth=2", "alike": (0, 2), "per_class": 2, "epochs": 3, "nets": 2, "seeds": 2}
    settings = {**PROTOCOLS["gpu"].condensation, "outer": 4, "inner": 2, "epochs": 1}
    b = bench(tmp_path, "gpu", condensation=settings, warm_up=2, first=3, **small)
    for claim in (ALIKE, ONE_CLASS, WARM_UP):
        assert dcc(claim, b).seeds == 2
