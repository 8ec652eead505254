import math

import pytest
import torch

from surplus.errors import InputError
from surplus.tasks import Recipe
from surplus.training.optim import Muon, clip_per_replica, learning_rate, matrix_sign


def rates(total=100, **recipe):
    return [learning_rate(Recipe(lr=2.0, **recipe), s, total, 10) for s in range(total)]


def test_cosine_falls_from_the_peak_to_nearly_nothing():
    r = rates(schedule="cosine")
    assert r[0] == 2.0 and r[50] == pytest.approx(1.0) and 0 < r[-1] < 1e-3


def test_warm_up_rises_linearly_to_the_peak():
    r = rates(schedule="constant", warmup="1ep")
    assert r[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)]) and set(r[10:]) == {2.0}


def test_one_cycle_peaks_at_thirty_percent_and_is_never_zero():
    r = rates(schedule="onecycle")
    assert max(r) == pytest.approx(2.0, rel=0.02) and r.index(max(r)) in (29, 30) and min(r) > 0


def test_steps_multiply_by_gamma_at_each_milestone():
    r = rates(schedule="step", milestones=("5ep", "80it"), gamma=0.5)
    assert (r[49], r[50], r[79], r[80]) == (2.0, 1.0, 1.0, 0.5)


def test_clipping_is_per_replica_and_leaves_short_gradients_alone():
    g = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    torch.testing.assert_close(clip_per_replica(g, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 4, 16), (3, 16, 4)])
def test_the_matrix_sign_keeps_directions_and_levels_sizes(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    inner = (u.mT @ matrix_sign(g) @ v.mT).diagonal(dim1=-2, dim2=-1)  # near 1 for every singular direction
    assert ((inner > 0.5) & (inner < 1.3)).all()


def test_muon_needs_weight_matrices():
    with pytest.raises(InputError, match="needs weight matrices"):
        Muon(Recipe(optimiser="muon"), torch.zeros(1, 3), None)


def test_a_duration_counts_epochs_or_steps():
    recipe = Recipe(duration="1.5ep")
    assert recipe.duration.steps(10) == 15 and math.isclose(Recipe(duration="7it").duration.steps(10), 7)


def test_the_linear_schedule_falls_to_zero_from_its_milestone_on():
    r = rates(schedule="linear", milestones=("4it",))
    torch.testing.assert_close(torch.tensor(r[:5]), torch.full((5,), r[0]))
    falls = torch.tensor(r[4:]).diff()
    torch.testing.assert_close(falls, falls[:1].expand_as(falls))
    assert r[-1] == pytest.approx(-float(falls[0]), rel=1e-4)
