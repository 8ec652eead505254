"""The study of RHO-LOSS at smoke scale."""

from surplus.studies import run_study
from surplus.studies.rho_loss import Outcome


def test_it_runs_and_tells_of_every_claim(monkeypatch, tmp_path):
    monkeypatch.delenv("SURPLUS_DATA", raising=False)
    result = run_study("rho-loss", "smoke")
    assert set(result.verdicts) == {
        "fewer-steps-without-noise", "noise-is-left-out", "fewer-steps-on-noisy-images", "fewer-steps-on-web-like-data",
    }  # fmt: skip
    noise = next(m for m in result.measured if m.claim.slug == "noise-is-left-out")
    shares = {(r["row"], r["noise"]): r["value"] for r in noise.rows if r["quantity"].startswith("share")}
    assert shares["loss", 0.3] > shares["rho", 0.3]
    assert all(0 <= value <= 1 for key, value in shares.items() if " - " not in key[0])


def test_steps_to_a_target_count_to_the_first_probe_that_reaches_it():
    outcome = Outcome([(1, 0.2), (2, 0.6), (3, 0.5), (4, 0.9)], 0.0)
    assert [outcome.steps_to(t) for t in (0.1, 0.55, 0.9, 0.95)] == [1, 2, 4, 4]
