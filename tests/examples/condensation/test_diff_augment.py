from __future__ import annotations

import pytest
import torch

from surplus.errors import InputError
from surplus.examples.condensation.diff_augment import (
    CHANGES,
    EVERYTHING,
    DiffAugment,
    Draw,
    color,
    crop,
    cutout,
    flip,
    rotate,
    scale,
    without_flip,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=4, channels=3, side=8, dtype=torch.double):
    return torch.rand(n, channels, side, side, generator=generator(1), dtype=dtype)


def numbers(*u):
    return torch.tensor([[*u, *[0.5] * (3 - len(u))]], dtype=torch.double)


@pytest.mark.parametrize("order", ["one", "stacked"])
def test_a_shared_draw_changes_real_and_synthetic_images_alike(order):
    augment, x = DiffAugment(EVERYTHING, order), images()
    for seed in range(12):
        draw = augment.draw(generator(seed))
        apart = torch.cat([augment(x[:3], draw), augment(x[3:], draw)])
        assert torch.equal(augment(x, draw), apart)
        same = augment(x[:1].expand(3, -1, -1, -1), draw)
        assert torch.equal(same[0], same[2])


def test_draws_of_their_own_change_equal_images_differently():
    augment = DiffAugment("crop-cutout", "stacked")
    made = augment(images(1).expand(16, -1, -1, -1), augment.draw(generator(), 16))
    assert len({tuple(row.flatten().tolist()) for row in made}) > 8


@pytest.mark.parametrize("name", CHANGES)
def test_own_draws_equal_shared_ones_image_by_image(name):
    x, u = images(), torch.rand(4, 3, generator=generator(3), dtype=torch.double)
    one_by_one = torch.cat([CHANGES[name](x[i : i + 1], u[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(CHANGES[name](x, u), one_by_one)


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_has_the_right_derivative(name):
    u = torch.rand(1, 3, generator=generator(5), dtype=torch.double)
    x = images(2, 2, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: CHANGES[name](v, u), (x,))


def test_the_middle_of_every_range_changes_nothing():
    x = images()
    torch.testing.assert_close(color(x, numbers(0.5, 0.5, 0.5)), x)
    torch.testing.assert_close(crop(x, numbers(0.5, 0.5)), x)
    torch.testing.assert_close(rotate(x, numbers(0.5)), x)
    torch.testing.assert_close(flip(x, numbers(0.9)), x)
    even = (1 - 1 / 1.2) / (1.2 - 1 / 1.2)
    torch.testing.assert_close(scale(x, numbers(even, even)), x)


def test_the_ends_of_the_ranges():
    x = images(2, 3, 8)
    torch.testing.assert_close(color(x, numbers(1, 0.5, 0.5)) - x, torch.full_like(x, 0.5))  # brightness
    grey = color(x, numbers(0.5, 0, 0.5))
    torch.testing.assert_close(grey[:, 0], grey[:, 2])  # no saturation
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(color(x, numbers(0.5, 0.5, 1)) - mean, 1.5 * (x - mean))  # contrast
    torch.testing.assert_close(flip(x, numbers(0.4)), x.flip(3))
    shifted = crop(x, numbers(0, 0.999))  # an eighth of 8 pixels is one: down and to the left
    torch.testing.assert_close(shifted[:, :, 1:, :-1], x[:, :, :-1, 1:])
    assert bool((shifted[:, :, 0] == 0).all())
    assert bool((crop(torch.ones_like(x), numbers(0, 0))[:, :, :, 0] == 0).all())


def test_cutout_clears_half_the_sides_around_its_centre():
    x = torch.ones(1, 1, 8, 8)
    hole = cutout(x, numbers(0.5, 0.5).float())  # centre at 4 of 0..8
    assert int((hole == 0).sum()) == 16 and bool((hole[0, 0, 2:6, 2:6] == 0).all())
    assert int((cutout(x, numbers(0, 0).float()) == 0).sum()) == 4  # only a corner of it lies inside


def test_one_change_at_a_time_or_stacked_in_order():
    one = DiffAugment(EVERYTHING)
    drawn = {one.draw(generator(seed)).changes for seed in range(60)}
    assert drawn == {(name,) for name in CHANGES}
    stacked = DiffAugment(EVERYTHING, "stacked")
    drawn = {stacked.draw(generator(seed)).changes for seed in range(30)}
    assert drawn == {("flip", "color", name, "cutout") for name in ("crop", "scale", "rotate")}
    assert DiffAugment("color-crop-cutout", "stacked").draw(generator()).changes == ("color", "crop", "cutout")


def test_no_strategy_changes_nothing():
    x = images()
    assert DiffAugment("").draw(generator()) == Draw((), ()) and DiffAugment("")(x, Draw((), ())) is x


def test_digits_are_not_mirrored():
    assert without_flip(EVERYTHING, 1) == "color-crop-cutout-scale-rotate" and without_flip(EVERYTHING, 3) == EVERYTHING


def test_an_unknown_change_is_refused():
    with pytest.raises(InputError, match="crop"):
        DiffAugment("crops")
