from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from surplus.errors import InputError
from surplus.examples.condensation.decode import copies, decode, mix


def images(n=2, side=32, channels=3):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0))


def test_a_factor_of_one_changes_nothing():
    x = images()
    assert torch.equal(decode(x, 1), x) and torch.equal(decode(x, 1, "multi"), x)


def test_a_side_of_32_by_3_is_padded_to_33_and_cut_into_nine_cells_of_11():
    x = images(2)
    padded = F.pad(x, (0, 1, 0, 1), value=0.5)
    made = decode(x, 3)
    assert made.shape == (18, 3, 32, 32)
    for place, (i, j) in enumerate([(i, j) for i in range(3) for j in range(3)]):  # row by row over the grid
        cell = padded[:, :, 11 * i : 11 * i + 11, 11 * j : 11 * j + 11]
        expected = F.interpolate(cell, size=(32, 32), mode="bilinear", align_corners=False)
        torch.testing.assert_close(made[2 * place : 2 * place + 2], expected)  # all images of one cell together


def test_a_constant_image_stays_constant_but_for_the_padding():
    x = torch.full((1, 1, 8, 8), 0.2)
    assert torch.allclose(decode(x, 2), torch.tensor(0.2))
    made = decode(x, 3)  # sides 8 -> 9
    assert torch.allclose(made[0], torch.tensor(0.2)) and float(made[8].max()) == pytest.approx(0.5)


def test_multi_holds_every_factor_in_turn():
    x = images(2, 8)
    assert copies(3, "multi") == 14 and copies(3) == 9
    assert torch.equal(decode(x, 3, "multi"), torch.cat([x, decode(x, 2), decode(x, 3)]))


def test_gradients_reach_every_stored_pixel_of_images_that_are_no_squares():
    x = images(1, 8, 1)[..., :6].clone().requires_grad_()
    decode(x, 4).sum().backward()
    assert bool((x.grad > 0).all())


def test_mixing_puts_shrunk_images_where_decoding_looks_for_them():
    levels = torch.arange(1.0, 10.0) / 10
    stored = mix(levels.view(9, 1, 1, 1).expand(9, 1, 32, 32), 3)
    assert stored.shape == (1, 1, 32, 32)
    made = decode(stored, 3)
    assert torch.allclose(made[:, 0, 8, 8], levels)
    assert torch.equal(mix(images(), 1), images())


def test_a_factor_that_no_image_has_room_for_is_refused():
    with pytest.raises(InputError, match=r"1\.\.8; got 9"):
        decode(images(1, 8), 9)
