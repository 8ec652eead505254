from __future__ import annotations

import math

import pytest
import torch

from surplus.errors import InputError
from surplus.stats import holm


def test_holms_own_arithmetic():
    torch.testing.assert_close(holm([0.01, 0.04, 0.03, 0.005]), torch.tensor([0.03, 0.06, 0.06, 0.02]).double())


def test_one_test_is_left_alone_and_none_stay_none():
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).tolist() == []


def test_a_missing_test_stays_missing_and_does_not_count():
    got = holm(torch.tensor([0.01, math.nan, 0.02], dtype=torch.float64))
    assert got[1].isnan()
    assert got[[0, 2]].tolist() == [0.02, 0.02]


def test_false_alarms_are_as_rare_as_named():
    p = torch.rand(2000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alarms = torch.stack([(holm(row) <= 0.1).any() for row in p]).double().mean()
    assert abs(alarms - (1 - 0.98**5)) < 4 * (0.1 * 0.9 / 2000) ** 0.5


def test_what_is_no_probability_is_refused():
    with pytest.raises(InputError, match=r"1\.2"):
        holm([0.1, 1.2])
