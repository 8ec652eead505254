"""The study of nested dropout and co-teaching at smoke scale."""

from surplus.studies import run_study


def test_it_runs_and_tells_of_every_claim():
    result = run_study("nested-dropout", "smoke")
    assert set(result.verdicts) == {
        "co-teaching-beats-plain", "what-is-kept-is-cleaner", "few-features-are-enough", "ten-points-on-images",
    }  # fmt: skip
    assert result.verdicts["ten-points-on-images"] == "undecided"
    shown = next(m for m in result.measured if m.claim.slug == "what-is-kept-is-cleaner")
    assert all(row["value"] > 0.55 for row in shown.rows)
    prefix = next(m for m in result.measured if m.claim.slug == "few-features-are-enough")
    assert {"nested, best prefix", "plain", "nested + co-teaching"} <= {row["row"] for row in prefix.rows}
