"""Corrupted images: published constants, slow references, determinism, and what grey images get."""

from __future__ import annotations

import colorsys
import inspect
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator, Tensor

from surplus.data import corruptions as C
from surplus.data.corruptions import maps, weather
from surplus.errors import InputError
from surplus.registry import find

NAMES = C.STANDARD + C.EXTRA
GROWING = (
    "gaussian-noise", "shot-noise", "impulse-noise", "speckle-noise", "gaussian-blur", "defocus-blur", "motion-blur",
    "zoom-blur", "snow", "fog", "brightness", "contrast", "pixelate", "jpeg-compression",
)  # fmt: skip

DRAWS_NOTHING = {
    "gaussian-blur", "defocus-blur", "zoom-blur", "brightness", "contrast", "saturate", "pixelate", "jpeg-compression",
}  # fmt: skip


def gen(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def pictures(n: int = 24, channels: int = 3, side: int = 32, seed: int = 0) -> Tensor:
    """Smooth random images with edges, on whole grey levels."""
    noise = torch.randn(n, channels, side, side, generator=gen(seed)).numpy()
    smooth = torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0.3, side / 12, side / 12)))
    smooth = smooth / smooth.flatten(1).std(1).view(-1, 1, 1, 1) / 5 + 0.4 + 0.2 * (smooth > 0)
    return (smooth.clamp(0, 1) * 255).round() / 255


def grey_levels(x: Tensor) -> Tensor:
    return x * 255


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 20, 36)])
def test_any_batch_keeps_shape_range_and_whole_grey_levels(name, shape):
    x = torch.rand(3, *shape, generator=gen())
    before = x.clone()
    for severity in (1, 3, 5):
        y = C.corrupt_images(name, x, severity, gen())
        assert y.shape == x.shape and y.dtype == x.dtype and y.min() >= 0 and y.max() <= 1
        assert (grey_levels(y) - grey_levels(y).round()).abs().max() < 1e-4
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_images(name):
    x = pictures(4)
    one, same, other = (C.corrupt_images(name, x, 5, gen(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert torch.equal(one, other) == (name in DRAWS_NOTHING)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_come_back_as_the_same_bytes_that_floats_give(name):
    x = pictures(3)
    as_bytes = C.corrupt_images(name, grey_levels(x).round().byte(), 3, gen())
    assert as_bytes.dtype == torch.uint8
    assert torch.equal(as_bytes, grey_levels(C.corrupt_images(name, x, 3, gen())).round().byte())


@pytest.mark.parametrize("name", GROWING)
def test_distance_to_the_original_grows_with_severity(name):
    x = pictures(64)
    away = [(C.corrupt_images(name, x, s, gen(s)) - x).abs().mean().item() for s in range(1, 6)]
    # Motion blur 3 and 4 differ only in weights beyond four deviations; JPEG 4 and 5 are close on smooth images.
    assert all(a < b * 1.02 for a, b in pairwise(away)) and away[0] < 0.8 * away[4]
    assert away[0] > 0


def test_there_are_fifteen_standard_ones_and_four_more_all_registered():
    assert len(C.STANDARD) == 15 and len(C.EXTRA) == 4 and len({*NAMES}) == 19
    for name in NAMES:
        row = find("corruption", name)
        assert row.traits == {"on": "images", "graded": True} and "1903.12261" in row.paper and row.summary
        assert list(inspect.signature(row.fn).parameters) == ["images", "severity", "generator"]


# --- numbers on paper ---


def test_contrast_at_severity_one_pulls_0_and_1_to_an_eighth_and_seven_eighths():
    x = torch.zeros(1, 1, 8, 8)
    x[..., ::2] = 1
    y = grey_levels(C.contrast(x, 1, gen()))
    assert y[0, 0, 0, :2].round().tolist() == [int(0.875 * 255), int(0.125 * 255)]
    assert grey_levels(C.contrast(x, 5, gen()))[0, 0, 0, 0].round() == int(0.575 * 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_lifts_grey_one_half_to_055(channels):
    x = torch.full((1, channels, 8, 8), 0.5)
    assert (grey_levels(C.brightness(x, 1, gen())).round() == int(0.55 * 255)).all()
    assert (grey_levels(C.brightness(0 * x, 5, gen())).round() == int(0.3 * 255)).all()
    assert (C.brightness(x * 2, 5, gen()) == 1).all()


def test_zoom_factors_number_7_12_16_21_26_because_of_rounding():
    assert [len(C.zoom_factors(s)) for s in range(1, 6)] == [7, 12, 16, 21, 26]
    assert C.zoom_factors(1)[0] == 1 and C.zoom_factors(1)[-1] == pytest.approx(1.06)


def test_zoom_blur_counts_the_original_once_more_than_the_factor_one_does():
    x = pictures(2)
    slow = (x + sum(maps.magnified(x, f) for f in np.arange(1, 1.06, 0.01))) / 8
    assert (grey_levels(C.zoom_blur(x, 1, gen())) - grey_levels(slow)).abs().max() < 1.01


def test_a_constant_image_stays_constant_under_blur_and_contrast_and_pixels():
    x = torch.full((2, 3, 32, 32), 77 / 255)
    for name in (
        "gaussian-blur",
        "defocus-blur",
        "glass-blur",
        "motion-blur",
        "zoom-blur",
        "contrast",
        "pixelate",
        "elastic-transform",
    ):
        for severity in (1, 5):
            off = (grey_levels(C.corrupt_images(name, x, severity, gen())) - 77).abs().max()
            assert off < 1.01, name  # a truncation may take one level


def test_impulse_noise_hits_the_share_of_values_with_even_odds():
    x = torch.full((40, 3, 32, 32), 0.5)
    y = C.impulse_noise(x, 5, gen())
    for value in (0.0, 1.0):
        assert abs((y == value).double().mean().item() - 0.035) < 4 * (0.035 / y.numel()) ** 0.5


def test_gaussian_speckle_and_shot_noise_have_the_published_deviation():
    x = torch.full((20, 3, 32, 32), 0.5)
    for s, (gauss, photons, speckle) in enumerate(
        zip((0.04, 0.06, 0.08, 0.09, 0.10), (500, 250, 100, 75, 50), (0.06, 0.1, 0.12, 0.16, 0.2), strict=True), start=1
    ):
        assert C.gaussian_noise(x, s, gen()).std().item() == pytest.approx(gauss, rel=0.02)
        assert C.shot_noise(x, s, gen()).std().item() == pytest.approx((0.5 / photons) ** 0.5, rel=0.02)
        assert C.speckle_noise(x, s, gen()).std().item() == pytest.approx(speckle / 2, rel=0.02)


# --- slow references ---


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_saturation_and_brightness_agree_with_colorsys_pixel_by_pixel(severity):
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=gen())
    x[0, :, 0, 0], x[0, :, 0, 1] = 0.4, 0.0  # a grey and a black pixel
    scale, shift = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    lift = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    saturated, brightened = C.saturate(x, severity, gen()), C.brightness(x, severity, gen())
    for i in range(8):
        for j in range(8):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
            expected = torch.tensor(colorsys.hsv_to_rgb(h, min(max(scale * s + shift, 0), 1), v), dtype=torch.float64)
            assert (grey_levels(expected) - grey_levels(saturated[0, :, i, j])).abs().max() < 1.001
            expected = torch.tensor(colorsys.hsv_to_rgb(h, s, min(v + lift, 1)), dtype=torch.float64)
            assert (grey_levels(expected) - grey_levels(brightened[0, :, i, j])).abs().max() < 1.001


def test_blur_is_scipys_gaussian_filter():
    x = pictures(2)
    slow = ndimage.gaussian_filter(x.numpy(), (0, 0, 0.8, 0.8), mode="nearest", truncate=4)
    assert (grey_levels(C.gaussian_blur(x, 4, gen())) - grey_levels(torch.from_numpy(slow))).abs().max() < 1.01
    torch.testing.assert_close(maps.blurred(x, 0.8), torch.from_numpy(slow))


@pytest.mark.parametrize("factor", [1.0, 1.06, 1.25, 1.75, 2.25])
def test_zoom_is_scipys_zoom_of_the_cropped_middle(factor):
    x = pictures(2)
    crop = int(np.ceil(32 / factor))
    top = (32 - crop) // 2
    slow = ndimage.zoom(x.numpy()[..., top : top + crop, top : top + crop], (1, 1, factor, factor), order=1)
    trim = (slow.shape[-1] - 32) // 2
    torch.testing.assert_close(
        maps.magnified(x, factor), torch.from_numpy(slow[..., trim : trim + 32, trim : trim + 32])
    )


def test_defocus_is_a_mean_over_the_disc_where_the_rim_is_sharp():
    x = pictures(2)
    slow = ndimage.uniform_filter(x.numpy(), (0, 0, 3, 3), mode="mirror")  # radius 1.5 covers the 3 x 3 square
    assert (grey_levels(C.defocus_blur(x, 5, gen())) - grey_levels(torch.from_numpy(slow))).abs().max() < 1.01


def test_a_horizontal_streak_is_a_one_sided_normal_kernel():
    x = torch.zeros(1, 1, 16, 16)
    x[0, 0, 8, 10] = 1
    y = maps.streaked(x, 6, 1.0, torch.zeros(1))
    weight = torch.exp(-(torch.arange(13.0) ** 2) / 2)
    weight = weight / weight.sum()
    assert (
        grey_levels(y[0, 0, 8, :11].flip(0)) - grey_levels(weight[:11])
    ).abs().max() < 1.001  # pixels left of the dot see it
    assert y[0, 0, 8, 11:].abs().sum() == 0 and y[0, 0, :8].sum() == 0 and y[0, 0, 9:].sum() == 0


def test_glass_moves_pixels_down_and_right_by_at_most_one_per_round_and_spares_the_first_two_rows():
    at = torch.arange(32 * 32, dtype=torch.float32).view(1, 1, 32, 32) / 1023
    x = (at * 255).round() / 255
    y = C.glass_blur(x, 1, gen())  # its blur, 0.05 pixels, is no blur
    assert torch.equal(y[..., :2, :], x[..., :2, :]) and torch.equal(y[..., :2], x[..., :2])
    neighbours = torch.stack([x.roll((i, j), (2, 3)) for i in (0, 1) for j in (0, 1)])
    assert (grey_levels(neighbours - y).abs().amin(0) < 0.01).all() and not torch.equal(y, x)


def test_pixelate_and_jpeg_are_pillows(tmp_path):
    from PIL import Image

    x = pictures(1)
    picture = Image.fromarray(grey_levels(x[0]).round().byte().permute(1, 2, 0).numpy())
    picture.save(tmp_path / "a.jpg", quality=50)
    slow = torch.from_numpy(np.array(Image.open(tmp_path / "a.jpg"))).permute(2, 0, 1)
    assert torch.equal(grey_levels(C.jpeg_compression(x, 4, gen())[0]).round().byte(), slow)
    box = Image.Resampling.BOX
    slow = torch.from_numpy(np.array(picture.resize((20, 20), box).resize((32, 32), box))).permute(2, 0, 1)
    assert torch.equal(grey_levels(C.pixelate(x, 5, gen())[0]).round().byte(), slow)


def test_sampling_at_the_pixels_returns_them_and_reflects_as_scipy_does():
    x = pictures(1, 1, 16).double()
    grid = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="xy"), -1).double()[None]
    at = grid + 6 * torch.rand(grid.shape, generator=gen(), dtype=torch.float64) - 3
    for about_centres, mode in ((True, "mirror"), (False, "reflect")):
        torch.testing.assert_close(maps.sampled(x, grid, about_centres), x)
        slow = ndimage.map_coordinates(x[0, 0].numpy(), at[0].flip(-1).movedim(-1, 0).numpy(), order=1, mode=mode)
        torch.testing.assert_close(maps.sampled(x, at, about_centres)[0, 0], torch.from_numpy(slow))


def test_clouds_span_zero_to_one_and_grow_smoother_with_decay():
    x = torch.zeros(50, 1, 32, 32)
    rough, smooth = weather._cloud(x, 1.5, gen()), weather._cloud(x, 3.0, gen())
    for cloud in (rough, smooth):
        assert (cloud.amin((1, 2, 3)) == 0).all() and (cloud.amax((1, 2, 3)) == 1).all()
    assert smooth.diff(dim=-1).abs().mean() < 0.5 * rough.diff(dim=-1).abs().mean()


def test_fog_never_exceeds_the_brightest_value_and_flattens():
    x = pictures(20)
    y = C.fog(x, 5, gen())
    assert (y.amax((1, 2, 3)) <= x.amax((1, 2, 3)) + 1e-6).all()
    assert y.std() < x.std()


# --- grey images ---


def test_saturate_leaves_one_channel_alone_and_tints_grey_of_three_red():
    x = pictures(2, 1)
    assert torch.equal(C.saturate(x, 5, gen()), x)
    y = C.saturate(torch.full((1, 3, 8, 8), 0.5), 5, gen())
    assert grey_levels(y[0, :, 0, 0]).round().tolist() == [127, 102, 102]


def test_mud_on_one_channel_is_the_luma_of_brown():
    y = C.spatter(torch.ones(30, 1, 32, 32), 5, gen())
    luma = 0.299 * 63 + 0.587 * 42 + 0.114 * 20
    assert luma - 1 <= grey_levels(y).min() < luma + 60 and (y == 1).double().mean() > 0.5


# --- inputs without structure ---


def test_shuffled_pixels_share_one_permutation_across_images_channels_and_calls():
    x = torch.arange(64.0).view(1, 1, 8, 8).expand(4, 3, 8, 8) / 63
    train, test = C.shuffled_pixels(x, gen(7)), C.shuffled_pixels(x[:2], gen(7))
    assert torch.equal(train[:2], test) and (train == train[:1, :1]).all()
    assert torch.equal(train.flatten(2).sort(-1).values, x.flatten(2)) and not torch.equal(train, x)


def test_random_pixels_permute_each_image_on_its_own_with_channels_together():
    x = torch.arange(64.0).view(1, 1, 8, 8).expand(4, 3, 8, 8) / 63
    y = C.random_pixels(x, gen())
    assert torch.equal(y.flatten(2).sort(-1).values, x.flatten(2))
    assert (y == y[:, :1]).all() and not torch.equal(y[0], y[1])


def test_gaussian_pixels_match_mean_and_deviation_per_channel():
    scale = torch.tensor([0.5, 0.7, 1.0]).view(1, 3, 1, 1)
    x = pictures(100) * scale
    y = C.gaussian_pixels(x, gen())
    error = x.std((0, 2, 3)) / (100 * 1024) ** 0.5
    assert ((y.mean((0, 2, 3)) - x.mean((0, 2, 3))).abs() < 4 * error).all()
    assert ((y.std((0, 2, 3)) - x.std((0, 2, 3))).abs() < 4 * error).all()
    given = C.gaussian_pixels(x, gen(), mean=torch.zeros(3), std=torch.ones(3))
    assert abs(given.mean()) < 0.02 and abs(given.std() - 1) < 0.02
    assert C.gaussian_pixels((x * 255).byte(), gen()).max() < 3


def test_whitened_images_have_mean_zero_and_deviation_one_each_and_a_flat_one_is_not_blown_up():
    x = torch.cat([pictures(3), torch.full((1, 3, 32, 32), 0.3)])
    y = C.whitened(x)
    assert y.mean((1, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(y.std((1, 2, 3), correction=0), torch.tensor([1.0, 1, 1, 0]), atol=1e-4, rtol=1e-4)
    two = torch.zeros(1, 1, 8, 8)
    two[..., 0] = 0.01  # deviation 0.0033, below 1/8
    torch.testing.assert_close(C.whitened(two), 8 * (two - two.mean()))


# --- mean corruption error ---


def test_mce_by_hand():
    errors = torch.tensor([[0.1, 0.3], [0.2, 0.2]])
    reference = torch.tensor([[0.4, 0.4], [0.1, 0.1]])
    assert C.mean_corruption_error(errors, reference).item() == pytest.approx((0.5 + 2.0) / 2)
    assert C.mean_corruption_error(reference, reference).item() == pytest.approx(1)
    assert C.mean_corruption_error(torch.stack([errors, reference]), reference).tolist() == pytest.approx([1.25, 1.0])


def test_mce_refuses_other_shapes_and_a_perfect_reference():
    with pytest.raises(InputError, match="same"):
        C.mean_corruption_error(torch.ones(15, 5), torch.ones(15, 4))
    with pytest.raises(InputError, match="weaker"):
        C.mean_corruption_error(torch.ones(2, 5), torch.tensor([[0.0] * 5, [0.1] * 5]))


# --- errors ---


@pytest.mark.parametrize("severity", [0, 6, 2.5, True, "3", None])
def test_a_severity_other_than_1_to_5_is_refused(severity):
    with pytest.raises(InputError, match="severity is one of 1, 2, 3, 4, 5"):
        C.fog(pictures(1), severity, gen())


def test_wrong_images_are_refused_with_their_rows():
    x = pictures(4)
    x[2, 0, 0, 0] = 1.5
    x[3, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"2 images .* rows \[2, 3\]"):
        C.contrast(x, 1, gen())
    for bad in (x[0], x[:, :2], x[..., :4], x.long()):
        with pytest.raises(InputError, match="images"):
            C.contrast(bad, 1, gen())


def test_names_without_severities_are_refused():
    for name in ("symmetric", "shuffled-pixels"):
        with pytest.raises(InputError, match="no severities"):
            C.corrupt_images(name, pictures(1), 1, gen())


def test_an_empty_batch_comes_back_empty():
    assert C.fog(torch.empty(0, 3, 32, 32), 1, gen()).shape == (0, 3, 32, 32)
