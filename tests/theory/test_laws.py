from __future__ import annotations

import inspect

import pytest
import torch

from surplus.errors import InputError
from surplus.registry import find
from surplus.theory import FORMS, broken_power, compute_optimal, find_form
from surplus.theory.laws import broken_power_law, chinchilla_law, kaplan_law, power_offset_law, rosenfeld_law

CHINCHILLA = {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}


def rows(*pairs: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(pairs, dtype=torch.float64)


def test_chinchillas_own_network_has_the_loss_of_its_published_constants():
    assert chinchilla_law(rows((70e9, 1.4e12)), **CHINCHILLA).item() == pytest.approx(1.93665, abs=1e-5)


def test_the_published_constants_would_have_made_it_smaller():
    best = compute_optimal(5.76e23, 406.4, 0.34, 410.7, 0.28)
    assert best.parameters == pytest.approx(3.219e10, rel=1e-3)
    assert best.examples == pytest.approx(2.982e12, rel=1e-3)
    assert 6 * best.parameters * best.examples == pytest.approx(5.76e23)


def test_the_optimal_split_beats_its_neighbours():
    best = compute_optimal(1e20, 406.4, 0.34, 410.7, 0.28)
    near = [(best.parameters * factor, best.examples / factor) for factor in (0.9, 1.0, 1.1)]
    less, at, more = chinchilla_law(rows(*near), **CHINCHILLA)
    assert at < min(less, more)
    with pytest.raises(InputError, match="positive"):
        compute_optimal(-1.0, 1.0, 1.0, 1.0, 1.0)


def test_rosenfelds_law_at_a_worked_point():
    value = rosenfeld_law(rows((1e5, 1e4)), 10.0, 0.5, 5.0, 0.3, 0.05, 2.0, 0.9)
    assert value.item() == pytest.approx(0.1370346, abs=1e-7)


def test_rosenfelds_error_is_that_of_guessing_when_nothing_is_there_to_learn_from():
    assert rosenfeld_law(rows((1e-9, 1e-9)), 10.0, 0.5, 5.0, 0.3, 0.05, 2.0, 0.9).item() == pytest.approx(0.9, abs=1e-6)


def test_only_ratios_to_eta_matter_in_rosenfelds_law():
    x = rows((1e3, 1e2), (1e5, 1e4))
    once, twice = (rosenfeld_law(x, 5.0 * k, 0.5, 2.0 * k, 0.3, 0.02 * k, k, 0.9) for k in (1.0, 2.0))
    torch.testing.assert_close(once, twice)


def test_the_broken_law_at_worked_points():
    x = torch.tensor([10, 1e3, 1e5], dtype=torch.float64)
    want = torch.tensor([1.3619146, 0.5527678, 0.1200000], dtype=torch.float64)
    torch.testing.assert_close(broken_power_law(x, 0.1, 2.0, 0.2, 0.5, 1e3, 0.3), want, atol=1e-6, rtol=0)


def test_without_breaks_it_is_the_power_law_and_sharp_breaks_do_not_overflow():
    x = torch.tensor([1.0, 10, 1e6], dtype=torch.float64)
    torch.testing.assert_close(broken_power_law(x, 0.1, 2.0, 0.3), power_offset_law(x, 0.1, 2.0, 0.3))
    sharp = broken_power_law(x, 0.0, 1.0, 0.0, 0.5, 100.0, 1e-4)
    torch.testing.assert_close(sharp, torch.tensor([1, 1, 0.01], dtype=torch.float64))


def test_kaplans_law_has_a_power_law_at_each_end():
    many_examples, many_parameters = kaplan_law(rows((1e6, 1e40), (1e40, 1e8)), 8.8e13, 0.076, 5.4e13, 0.095)
    assert many_examples.item() == pytest.approx((8.8e13 / 1e6) ** 0.076)
    assert many_parameters.item() == pytest.approx((5.4e13 / 1e8) ** 0.095)


@pytest.mark.parametrize(
    "form", [*FORMS.values(), broken_power(3)], ids=lambda form: f"{form.name}-{len(form.parameters)}"
)
def test_every_form_starts_from_finite_errors_of_the_datas_size_in_any_units(form):
    generator = torch.Generator().manual_seed(0)
    for x_unit, y_unit in ((1.0, 1.0), (1e9, 1e-3), (1e-6, 1e3)):
        x = x_unit * torch.logspace(1, 4, 12, dtype=torch.float64)
        y = y_unit * torch.linspace(2, 1, 12, dtype=torch.float64)
        if form.inputs == 2:
            x = torch.stack([x, x[torch.randperm(12, generator=generator)]], 1)
        starts = form.starts(x, y)
        assert starts.shape[1] == len(form.parameters)
        values = torch.stack([form.law(x, *row) for row in starts])
        near = ((values / y).log().abs() < 2).all(1)
        assert near.any()


def test_every_form_is_in_the_catalogue_with_its_equation():
    for form in FORMS.values():
        entry = find("prediction", f"{form.name}-law")
        assert entry.fn is form.law
        assert "=" in inspect.getdoc(entry.fn) or "|" in inspect.getdoc(entry.fn)
    assert find("prediction", "compute-optimal").fn is compute_optimal


def test_a_form_answers_to_its_names():
    assert (
        find_form("power_offset") is find_form("power-offset-law") is find_form("power+offset") is FORMS["power-offset"]
    )
    assert find_form(broken_power(2)).parameters[3:] == ("c1", "d1", "f1", "c2", "d2", "f2")
    with pytest.raises(InputError, match="chinchilla"):
        find_form("chinchila")
    with pytest.raises(InputError, match="at least one break"):
        broken_power(0)
