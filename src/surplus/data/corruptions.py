"""Corrupted images: Zhang et al.'s inputs without structure, and the 19 corruptions of CIFAR-10-C at severities 1 to 5.

    x' = floor(255 clip(corrupt_s(x), 0, 1)) / 255        x (n, C, H, W) in [0, 1], or uint8, C = 1 or 3
    mCE = mean over corruptions c of  sum_s error[c, s] / sum_s error_reference[c, s]

Hendrycks & Dietterich 2019, arXiv 1903.12261, with the constants of their CIFAR-10 script, which differ from
ImageNet-C's; and Zhang et al. 2017, arXiv 1611.03530. Each of the 19 takes (images, severity, generator), also where it
draws nothing. Corrupt before normalisation. Lengths are in pixels of a 32 x 32 image; only `pixelate` and
`elastic_transform` scale with the side, so a smaller image suffers more from the others.

Departures. OpenCV, scikit-image and ImageMagick are not needed: blurs and zooms are the same linear maps, written as
matrices. `frost` has no photographs, so it grows its own ice; `spatter` (severities 1 to 3) outlines drops in place of
an edge detector. Images of one channel take every corruption: brightness adds to the grey value, saturate leaves them
alone, mud is dark grey.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from surplus.errors import InputError
from surplus.registry import find, method

CIFAR_C = "Hendrycks & Dietterich 2019, arXiv 1903.12261"
ZHANG = "Zhang et al. 2017, arXiv 1611.03530"
STANDARD = (
    "gaussian-noise", "shot-noise", "impulse-noise", "defocus-blur", "glass-blur", "motion-blur", "zoom-blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic-transform", "pixelate", "jpeg-compression",
)  # fmt: skip
"""The 15 corruptions that a mean corruption error averages over."""
EXTRA = ("speckle-noise", "gaussian-blur", "spatter", "saturate")
"""Four more, meant for tuning so that the 15 stay unseen."""
CHUNK = 2048
"""Images worked on at once, to bound the memory; draws go chunk by chunk, so another size is another sample."""

Core = Callable[[Tensor, int, Generator], Tensor]
Corruption = Callable[..., Tensor]


def _graded(core: Core) -> Corruption:
    """Checks before, quantisation after; severity 1..5 arrives as an index 0..4, images as floating point in [0, 1]."""

    @wraps(core, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def corrupt(images: Tensor, severity: int, generator: Generator) -> Tensor:
        _check_images(images)
        if isinstance(severity, bool) or severity not in (1, 2, 3, 4, 5):
            raise InputError(f"severity is one of 1, 2, 3, 4, 5; got {severity!r}")
        if not len(images):
            return images.clone()
        work = images if images.dtype == torch.float64 else _unit(images).float()
        parts = [_quantise(core(part, int(severity) - 1, generator)) for part in work.split(CHUNK)]
        x = torch.cat(parts)
        return x.to(images.dtype) if images.is_floating_point() else (255 * x).round().to(images.dtype)

    del corrupt.__wrapped__  # so that the signature shown is the one to call
    return corrupt


# --- inputs without structure (Zhang et al.) ------------------------------------------------------


@method("corruption", paper=ZHANG, on="images", graded=False)
def shuffled_pixels(images: Tensor, generator: Generator) -> Tensor:
    """ONE permutation of pixel positions for all images and channels.

    Training and test images must share it: call with generators of the same seed, or once on both together.
    """
    _check_images(images)
    n, c, h, w = images.shape
    order = torch.randperm(h * w, generator=generator, device=generator.device).to(images.device)
    return images.flatten(2)[..., order].view(n, c, h, w)


@method("corruption", paper=ZHANG, on="images", graded=False)
def random_pixels(images: Tensor, generator: Generator) -> Tensor:
    """Another permutation of pixel positions for each image, shared by its channels."""
    _check_images(images)
    n, c, h, w = images.shape
    order = torch.rand(n, 1, h * w, generator=generator, device=generator.device).argsort(-1).to(images.device)
    return images.flatten(2).gather(2, order.expand(n, c, h * w)).view(n, c, h, w)


@method("corruption", paper=ZHANG, on="images", graded=False)
def gaussian_pixels(
    images: Tensor, generator: Generator, mean: Tensor | None = None, std: Tensor | None = None
) -> Tensor:
    """Every pixel from a normal law with the data's mean and deviation per channel; not clipped, which shifts both.

    Bytes come back as floats on the scale [0, 1], since a normal law does not end at 0 and 255.

    Args:
        images: (n, C, H, W); only the shape counts where mean and std are given.
        generator: source of the draws.
        mean: (C,) of the training images; of these images if None.
        std: (C,) likewise.
    """
    _check_images(images)
    images = _unit(images)
    mean = images.mean((0, 2, 3)) if mean is None else mean.to(images)
    std = images.std((0, 2, 3)) if std is None else std.to(images)
    return mean.view(-1, 1, 1) + std.view(-1, 1, 1) * _normal(images, images.shape, generator)


# --- noise ----------------------------------------------------------------------------------------


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def gaussian_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Normal noise on every value: a sensor in low light."""
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[level] * _normal(x, x.shape, generator)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def shot_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Photon counts: Poisson(c x) / c, with c photons for white."""
    photons = (500, 250, 100, 75, 50)[level]
    return torch.poisson(photons * x.to(generator.device), generator).to(x) / photons


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def impulse_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Salt and pepper: a small share of values becomes 0 or 1, with even odds."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[level]
    u = _uniform(x, x.shape, generator)
    return torch.where(u < share, (u < share / 2).to(x), x)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def speckle_noise(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Normal noise in proportion to the value."""
    return x + x * (0.06, 0.1, 0.12, 0.16, 0.2)[level] * _normal(x, x.shape, generator)


# --- blur -----------------------------------------------------------------------------------------


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def gaussian_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """A normal kernel of 0.4 to 1 pixel; draws nothing."""
    return _blur(x, (0.4, 0.6, 0.7, 0.8, 1)[level])


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def defocus_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """A disc for a kernel, its rim softened by a 3 x 3 normal kernel; draws nothing."""
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[level]
    at = torch.arange(-2, 3, dtype=x.dtype, device=x.device)
    disc = (at**2 + at[:, None] ** 2 <= radius**2).to(x)
    rim = torch.exp(-(at[1:4] ** 2) / (2 * soft**2))
    rim = rim / rim.sum()
    kernel = F.conv2d((disc / disc.sum())[None, None], (rim * rim[:, None])[None, None], padding=1)
    return F.conv2d(F.pad(x.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="reflect"), kernel).view_as(x)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def glass_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Blur, replace each pixel by itself or a neighbour above or to the left, blur again.

    The published loop means to swap two pixels but, through NumPy views, copies one over the other; and as it runs from
    the last row and column backwards it always copies a pixel not yet overwritten. Hence one gather, which has the same
    law.
    """
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[level]
    n, _, h, w = x.shape
    x = _quantise(_blur(x, sigma))
    row, column = torch.arange(h, device=x.device)[:, None], torch.arange(w, device=x.device)
    inner = (row >= 2) & (column >= 2)  # the loop leaves the first two rows and columns alone
    for _ in range(rounds):
        up, left = ((_uniform(x, (n, h, w), generator) < 0.5) & inner for _ in range(2))
        x = _take(x, row - up.long(), column - left.long())
    return _blur(x, sigma)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def motion_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """A one-sided normal streak, at an angle that each image draws from (-45, 45) degrees."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[level]
    return _streak(x, radius, sigma, 90 * _uniform(x, (len(x),), generator) - 45)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def zoom_blur(x: Tensor, level: int, generator: Generator) -> Tensor:
    """The mean of the image and of its magnifications by `zoom_factors`; draws nothing."""
    total = x.clone()
    factors = zoom_factors(level + 1)
    for factor in factors:
        total += _zoom(x, factor)
    return total / (len(factors) + 1)


def zoom_factors(severity: int) -> list[float]:
    """1.00, 1.01, ...: 7, 12, 16, 21 or 26 of them; only by rounding does the first range reach its end, 1.06."""
    values: list[float] = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01).tolist()
    return values


# --- colour and light -----------------------------------------------------------------------------


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def contrast(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Pull every value towards its channel's mean over the image; draws nothing."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[level] + mean


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def brightness(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Raise V, the largest channel, in hue-saturation-value coordinates, and the others with it; draws nothing."""
    value = x.amax(1, keepdim=True)
    lifted = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[level]).clamp(max=1)
    return torch.where(value > 0, x * lifted / value.clamp(min=1e-9), lifted)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def saturate(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Saturation S to a S + b in hue-saturation-value coordinates; draws nothing.

    Grey has hue 0, red, by convention, so b > 0 tints the grey pixels of a colour image; an image of one channel stays
    as it is.
    """
    if x.shape[1] == 1:
        return x
    scale, shift = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[level]
    value = x.amax(1, keepdim=True)
    depth = value - x  # = V S k with k in [0, 1] set by the hue
    saturation = depth.amax(1, keepdim=True) / value.clamp(min=1e-9)
    wanted = (scale * saturation + shift).clamp(0, 1)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype, device=x.device).view(3, 1, 1)
    return value - torch.where(saturation > 0, depth * wanted / saturation.clamp(min=1e-9), value * wanted * red)


# --- digital --------------------------------------------------------------------------------------


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def jpeg_compression(x: Tensor, level: int, generator: Generator) -> Tensor:
    """To JPEG and back at quality 80 to 40; draws nothing."""
    from PIL import Image

    def there_and_back(picture: Any) -> Any:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=(80, 65, 58, 50, 40)[level])
        return Image.open(file)

    return _through_pillow(x, there_and_back)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def pixelate(x: Tensor, level: int, generator: Generator) -> Tensor:
    """To int(c side) pixels and back, each pixel the mean over its box; draws nothing."""
    from PIL.Image import Resampling

    h, w = x.shape[-2:]
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[level]
    small = (int(w * share), int(h * share))
    return _through_pillow(x, lambda picture: picture.resize(small, Resampling.BOX).resize((w, h), Resampling.BOX))


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def elastic_transform(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Move three points at random, the image affinely with them, then each pixel by a smooth random field."""
    reach, sigma, jump = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[
        level
    ]
    n, _, h, w = x.shape
    size = torch.tensor([w, h], dtype=x.dtype, device=x.device)
    unit = torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=x.dtype, device=x.device)
    points = size // 2 + unit * (min(h, w) // 3)  # (3, 2) as (column, row)
    moved = points + jump * size * (2 * _uniform(x, (n, 3, 2), generator) - 1)
    back = torch.linalg.solve(F.pad(moved, (0, 1), value=1), points.expand(n, 3, 2))  # (n, 3, 2) from output to input
    at = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), -1).to(x)  # (h, w, 2)
    x = _sample(x, F.pad(at, (0, 1), value=1).view(1, h * w, 3).matmul(back).view(n, h, w, 2), about_centres=True)
    drift = 2 * _uniform(x, (n, 2, h, w), generator) - 1
    drift = reach * size.view(2, 1, 1) * _blur(drift, sigma * min(h, w), mode="reflect", truncate=3)
    return _sample(x, at + drift.movedim(1, -1), about_centres=False)


# --- weather --------------------------------------------------------------------------------------


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def fog(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Add a fractal cloud, then scale so that the brightest value stays about as bright."""
    density, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[level]
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + density * _cloud(x, decay, generator)) * brightest / (brightest + density)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def frost(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Darken the image and lay ice over it, c x + d ice, with the published c and d.

    A departure: the published ice is cropped from six photographs. Here it is grown: needles along three directions 60
    degrees apart, turned at random for each image, on a rough veil, tinted blue. Errors under it do not compare with
    published ones.
    """
    keep, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[level]
    n, channels, h, w = x.shape
    seeds = (_uniform(x, (n, 1, h, w), generator) < 0.06).to(x)
    turn = 60 * _uniform(x, (n,), generator)
    needles = torch.stack([_streak(seeds, 5, 3, turn + 60 * k) for k in range(6)]).sum(0)
    texture = (0.6 * _cloud(x, 1.5, generator) + needles).clamp(max=1)
    tint = torch.tensor([0.85, 0.95, 1.0], dtype=x.dtype, device=x.device)[-channels:].view(-1, 1, 1)
    return keep * x + ice * texture * tint


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def snow(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Flakes from thresholded noise, magnified and streaked by the wind, over a whitened image."""
    loc, scale, zoom, threshold, radius, sigma, keep = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[level]
    n, _, h, w = x.shape
    flakes = _zoom(loc + scale * _normal(x, (n, 1, h, w), generator), zoom)
    flakes = _quantise(flakes * (flakes >= threshold))
    flakes = _streak(flakes, radius, sigma, 90 * _uniform(x, (n,), generator) - 135)
    whitened = torch.maximum(x, 1.5 * _grey(x) + 0.5)
    return keep * x + (1 - keep) * whitened + flakes + flakes.flip(2, 3)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@_graded
def spatter(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Drops of water that catch the light (severities 1 to 3), then splashes of mud (4 and 5)."""
    loc, scale, sigma, threshold, strength = (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    )[level]
    n, _, h, w = x.shape
    liquid = _blur(loc + scale * _normal(x, (n, 1, h, w), generator), sigma)
    wet = liquid > threshold
    if level < 3:
        light = _relief(wet) * liquid * wet
        light = strength * light / light.amax((1, 2, 3), keepdim=True).clamp(min=1e-9)
        return x + light * _paint(x, (175, 238, 238))
    mud = _blur(wet.to(x), strength)
    mud = mud * (mud >= 0.8)
    return x * (1 - mud) + mud * _paint(x, (63, 42, 20))


# --- by name, and the summary ---------------------------------------------------------------------


def corrupt_images(name: str, images: Tensor, severity: int, generator: Generator) -> Tensor:
    """A corruption with severities by its name in the catalogue ("fog", "jpeg-compression", ...).

    Raises:
        InputError: no corruption has this name, or the one that has does not take images and a severity.
    """
    row = find("corruption", name)
    if row.traits.get("on") != "images" or not row.traits.get("graded"):
        raise InputError(f"{name!r} has no severities on images; try one of {', '.join(STANDARD + EXTRA)}")
    corrupted: Tensor = row.fn(images, severity, generator)
    return corrupted


def mean_corruption_error(errors: Tensor, reference: Tensor) -> Tensor:
    """mCE: errors relative to a reference network, summed over severities, averaged over corruptions.

    Args:
        errors: (..., corruptions, severities) error rates, leading axes for networks or seeds.
        reference: (corruptions, severities) of the reference network.

    Returns:
        (...); 1 where the network is as frail as the reference.
    """
    if errors.shape[-2:] != reference.shape[-2:]:
        raise InputError(
            f"errors and reference must end in the same (corruptions, severities); "
            f"got {tuple(errors.shape)} and {tuple(reference.shape)}"
        )
    total = reference.sum(-1)
    if not (total > 0).all():
        raise InputError(
            "the reference network makes no error under some corruption, so no ratio to it exists; take a weaker one"
        )
    return (errors.sum(-1) / total).mean(-1)


# --- shared pieces --------------------------------------------------------------------------------


def _check_images(images: Tensor) -> None:
    pixels = images.is_floating_point() or images.dtype == torch.uint8
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not pixels:
        raise InputError(
            f"images are floating point or uint8 of shape (n, 1 or 3, height, width); "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    if min(images.shape[-2:]) < 8:
        raise InputError(
            f"images must be at least 8 x 8 for a corruption to mean anything; got {tuple(images.shape[-2:])}"
        )
    rows = (~((images >= 0) & (_unit(images) <= 1)).flatten(1).all(1)).nonzero().squeeze(1).tolist()
    if rows:
        raise InputError(
            f"pixels lie in [0, 1], corruption comes before normalisation; {len(rows)} images do not or hold NaN, "
            f"the first in rows {rows[:5]}"
        )


def _unit(images: Tensor) -> Tensor:
    """Bytes 0..255 as floats in [0, 1]; floats as they came."""
    return images if images.is_floating_point() else images.float() / 255


def _quantise(x: Tensor) -> Tensor:
    """Clip, and cut down to a multiple of 1/255 as a cast to bytes does; the margin keeps k/255 where it is."""
    return (x.clamp(0, 1) * 255 + 1e-3).floor() / 255


def _normal(like: Tensor, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)


def _uniform(like: Tensor, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)


def _separable(x: Tensor, operator: Callable[[int], np.ndarray]) -> Tensor:
    """Apply to rows and columns a linear map given as a matrix for each side's length."""
    rows, columns = (torch.from_numpy(operator(size)).to(x) for size in x.shape[-2:])
    return rows @ x @ columns.T


def _blur(x: Tensor, sigma: float, mode: str = "nearest", truncate: float = 4) -> Tensor:
    """A normal kernel, cut off at `truncate` deviations, over the last two axes; sigma 0 does nothing."""
    from scipy.ndimage import gaussian_filter1d

    return (
        _separable(x, lambda side: gaussian_filter1d(np.eye(side), sigma, axis=0, mode=mode, truncate=truncate))
        if sigma
        else x
    )


def _zoom(x: Tensor, factor: float) -> Tensor:
    """Magnify the middle linearly, keeping the size."""
    from scipy.ndimage import zoom

    def operator(side: int) -> np.ndarray:
        crop = math.ceil(side / factor)
        enlarged = zoom(np.eye(crop), (factor, 1), order=1)  # (about side, crop)
        first, trim = (side - crop) // 2, (len(enlarged) - side) // 2
        matrix = np.zeros((side, side))
        matrix[:, first : first + crop] = enlarged[trim : trim + side]
        return matrix

    return _separable(x, operator)


def _take(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of x (n, C, H, W) at indices that broadcast to (n, H, W); outside, the edge repeats."""
    n, c, h, w = x.shape
    index = rows.clamp(0, h - 1) * w + columns.clamp(0, w - 1)
    return x.flatten(2).gather(2, index.expand(n, h, w).reshape(n, 1, h * w).expand(n, c, h * w)).view_as(x)


def _streak(x: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
    """Motion blur as ImageMagick does it: half a normal kernel of 2 radius + 1 pixels, at angles (n,) in degrees.

    Weights below a ten-thousandth of a grey level are left out; the result is cut down to whole grey levels.
    """
    h, w = x.shape[-2:]
    kernel = torch.exp(-(torch.arange(2 * radius + 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    row, column = torch.arange(h, device=x.device)[:, None], torch.arange(w, device=x.device)
    angles = torch.deg2rad(angles).view(-1, 1, 1)
    total = torch.zeros_like(x)
    for step, weight in enumerate(kernel[kernel > 4e-7].tolist()):
        down, right = ((step * along - 0.5).ceil().long() for along in (angles.sin(), angles.cos()))
        total += weight * _take(x, row + down, column + right)
    return _quantise(total)


def _sample(x: Tensor, at: Tensor, about_centres: bool) -> Tensor:
    """The image between pixels, at (n, H, W, 2) as (column, row); reflected about the edge pixels' centres or rims."""
    size = torch.tensor([x.shape[-1], x.shape[-2]], dtype=x.dtype, device=x.device)
    grid = 2 * at / (size - 1) - 1 if about_centres else (2 * at + 1) / size - 1
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=about_centres)


def _cloud(x: Tensor, decay: float, generator: Generator) -> Tensor:
    """Plasma fractals in [0, 1], (n, 1, H, W), by the diamond-square rule on a torus.

    Each level halves the step and divides the amplitude by decay^2: the published code scales its noise by the
    amplitude twice.
    """
    n, _, h, w = x.shape
    side = 2 ** math.ceil(math.log2(max(h, w)))
    heights = torch.zeros(n, side, side, dtype=x.dtype, device=x.device)
    step, amplitude = side, 1.0

    def settle(target: Tensor, *four: Tensor) -> None:
        jitter = 2 * _uniform(x, tuple(target.shape), generator) - 1
        target.copy_(sum(four) / 4 + amplitude * jitter)

    while step > 1:
        half = step // 2
        corner, centre = heights[:, ::step, ::step], heights[:, half::step, half::step]
        settle(centre, corner, corner.roll(-1, 1), corner.roll(-1, 2), corner.roll((-1, -1), (1, 2)))
        settle(heights[:, ::step, half::step], corner, corner.roll(-1, 2), centre, centre.roll(1, 1))
        settle(heights[:, half::step, ::step], corner, corner.roll(-1, 1), centre, centre.roll(1, 2))
        step, amplitude = half, amplitude / decay**2
    low, high = heights.amin((1, 2), keepdim=True), heights.amax((1, 2), keepdim=True)
    return ((heights - low) / (high - low))[:, None, :h, :w]


def _relief(wet: Tensor) -> Tensor:
    """How drops (n, 1, H, W) bool catch the light: depth from their outline, equalised, lit from one side."""
    from scipy.ndimage import distance_transform_edt

    outline = wet & (F.max_pool2d((~wet).float(), 3, 1, 1) > 0)
    off = F.pad(
        (~outline[:, 0]).cpu(), (0, 0, 0, 0, 0, 1), value=False
    ).numpy()  # a last, far image: some outline always exists
    depth = torch.from_numpy(distance_transform_edt(off, sampling=(1e3, 1, 1))[:-1, None]).to(wet.device, torch.float32)
    depth = _box(depth.clamp(max=20)).floor()
    ranks = (
        (depth.flatten(1)[:, None, :] <= torch.arange(21, device=depth.device).view(1, 21, 1)).float().sum(2)
    )  # (n, 21)
    lowest = ranks.gather(1, depth.flatten(1).amin(1, keepdim=True).long())
    levels = (255 * (ranks - lowest) / (depth[0].numel() - lowest).clamp(min=1)).round().clamp(min=0)
    depth = levels.gather(1, depth.flatten(1).long()).view_as(depth)
    lamp = torch.tensor([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]], device=depth.device)[None, None]
    return _box(F.conv2d(F.pad(depth, (1, 1, 1, 1), mode="reflect"), lamp).clamp(0, 255))


def _box(x: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels, reflected at the edge."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)


def _grey(x: Tensor) -> Tensor:
    """Luma (n, 1, H, W) of a batch of images."""
    if x.shape[1] == 1:
        return x
    return torch.einsum("nchw,c->nhw", x, torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype, device=x.device))[:, None]


def _paint(x: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """A colour of 0..255 per channel as (1, C, 1, 1), its luma for images of one channel."""
    rgb = torch.tensor(colour, dtype=x.dtype, device=x.device).view(1, 3, 1, 1) / 255
    return rgb if x.shape[1] == 3 else _grey(rgb)


def _through_pillow(x: Tensor, change: Callable[[Any], Any]) -> Tensor:
    """Hand every image to Pillow as bytes and read back what `change` makes of it."""
    from PIL import Image

    pixels = (x * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    pixels = pixels[..., 0] if x.shape[1] == 1 else pixels
    changed = torch.from_numpy(np.stack([np.asarray(change(Image.fromarray(picture))) for picture in pixels]))
    return changed.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2).to(x) / 255
