"""How many runs make a score's top stable."""

import pytest
import torch

from surplus.errors import InputError
from surplus.examples.stability import normal_overlap, stability


def errors(n=4000, runs=16, noise=1.0, seed=0):
    """A record in which every run is the example's own number plus noise."""
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, generator=g) + noise * torch.randn(runs, 1, n, generator=g)).double()


def test_the_overlap_of_normal_scores_has_its_known_ends():
    assert normal_overlap(0.0, 0.1) == pytest.approx(0.1)
    assert normal_overlap(1.0, 0.1) == 1
    assert normal_overlap(0.5, 0.5) == pytest.approx(2 / 3)  # 1/4 + asin(1/2) / (2 pi), over 1/2


def test_the_measured_overlap_is_that_of_the_normal_law():
    found = stability("el2n", {"error": errors()}, splits=40)
    assert found.runs == (1, 2, 4, 8)
    for r, overlap in zip(found.runs, found.overlap, strict=True):
        assert overlap == pytest.approx(
            normal_overlap(r / (r + 1), 0.1), abs=0.02
        )  # correlation r rho / (1 + (r-1) rho)


def test_extrapolation_foretells_what_more_runs_show():
    few = stability("el2n", {"error": errors(runs=8)}, level=0.8, splits=40)
    many = stability("el2n", {"error": errors(runs=64)}, level=0.8, splits=40)
    assert few.extrapolated and not many.extrapolated
    assert many.needed / 2 < few.needed <= many.needed * 1.3  # measured in powers of two


def test_a_score_without_noise_is_stable_at_once_and_pure_noise_never():
    assert stability("el2n", {"error": errors(noise=0.0)}).needed == 1
    noise = torch.randn(8, 1, 500, generator=torch.Generator().manual_seed(0))
    found = stability("el2n", {"error": noise})
    assert found.needed is None or found.needed > 50


def test_ties_do_not_agree_by_their_place_in_the_data():
    found = stability("el2n", {"error": torch.ones(4, 1, 2000)}, splits=40)
    assert found.overlap[0] == pytest.approx(0.1, abs=0.03)


def test_examples_that_a_half_has_never_held_out_do_not_count_as_agreement():
    g = torch.Generator().manual_seed(0)
    evidence = {
        "hits": torch.rand(40, 300, generator=g).round(),
        "trained_on": torch.rand(40, 300, generator=g) < 0.5,
        "share": torch.full((40,), 0.5),
    }
    runs = stability("memorization", evidence).runs
    assert 1 not in runs and 16 in runs


def test_what_cannot_be_halved_is_refused():
    with pytest.raises(InputError, match="has one; train at least two"):
        stability("el2n", {"error": errors(runs=1)})
    with pytest.raises(InputError, match="between 0 and 1"):
        stability("el2n", {"error": errors()}, top=1.0)
