"""Weather: fog, frost, snow and spatter (CIFAR-10-C).

Departures: `frost` has no photographs, so it grows its own ice; `spatter` (severities 1 to 3) outlines drops in place
of an edge detector; mud on images of one channel is dark grey.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from surplus.data.corruptions.base import CIFAR_C, graded, normal, quantise, uniform
from surplus.data.corruptions.maps import blurred, magnified, streaked
from surplus.registry import method


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def fog(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Add a fractal cloud, then scale so that the brightest value stays about as bright."""
    density, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[level]
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + density * _cloud(x, decay, generator)) * brightest / (brightest + density)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
def frost(x: Tensor, level: int, generator: Generator) -> Tensor:
    """Darken the image and lay ice over it, c x + d ice, with the published c and d.

    A departure: the published ice is cropped from six photographs. Here it is grown: needles along three directions 60
    degrees apart, turned at random for each image, on a rough veil, tinted blue. Errors under it do not compare with
    published ones.
    """
    keep, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[level]
    n, channels, h, w = x.shape
    seeds = (uniform(x, (n, 1, h, w), generator) < 0.06).to(x)
    turn = 60 * uniform(x, (n,), generator)
    needles = torch.stack([streaked(seeds, 5, 3, turn + 60 * k) for k in range(6)]).sum(0)
    texture = (0.6 * _cloud(x, 1.5, generator) + needles).clamp(max=1)
    tint = torch.tensor([0.85, 0.95, 1.0], dtype=x.dtype, device=x.device)[-channels:].view(-1, 1, 1)
    return keep * x + ice * texture * tint


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
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
    flakes = magnified(loc + scale * normal(x, (n, 1, h, w), generator), zoom)
    flakes = quantise(flakes * (flakes >= threshold))
    flakes = streaked(flakes, radius, sigma, 90 * uniform(x, (n,), generator) - 135)
    whitened = torch.maximum(x, 1.5 * _grey(x) + 0.5)
    return keep * x + (1 - keep) * whitened + flakes + flakes.flip(2, 3)


@method("corruption", paper=CIFAR_C, on="images", graded=True)
@graded
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
    liquid = blurred(loc + scale * normal(x, (n, 1, h, w), generator), sigma)
    wet = liquid > threshold
    if level < 3:
        light = _relief(wet) * liquid * wet
        light = strength * light / light.amax((1, 2, 3), keepdim=True).clamp(min=1e-9)
        return x + light * _paint(x, (175, 238, 238))
    mud = blurred(wet.to(x), strength)
    mud = mud * (mud >= 0.8)
    return x * (1 - mud) + mud * _paint(x, (63, 42, 20))


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
        jitter = 2 * uniform(x, tuple(target.shape), generator) - 1
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
