"""Corrupted images: Zhang et al.'s inputs without structure, and the 19 corruptions of CIFAR-10-C at severities 1 to 5.

    x' = floor(255 clip(corrupt_s(x), 0, 1)) / 255        x (n, C, H, W) in [0, 1], or uint8, C = 1 or 3

Hendrycks & Dietterich 2019, arXiv 1903.12261, with the constants of their CIFAR-10 script, which differ from
ImageNet-C's; and Zhang et al. 2017, arXiv 1611.03530. Each of the 19 takes (images, severity, generator), also where it
draws nothing. Corrupt before normalisation. Lengths are in pixels of a 32 x 32 image; only `pixelate` and
`elastic_transform` scale with the side, so a smaller image suffers more from the others.

Images of one channel take every corruption: brightness adds to the grey value, saturate leaves them alone. Where a
corruption departs from the published one (no photographs of ice, no OpenCV), its file says so.
"""

from surplus.data.corruptions.benchmark import EXTRA, STANDARD, corrupt_images, mean_corruption_error
from surplus.data.corruptions.blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur, zoom_factors
from surplus.data.corruptions.digital import (
    brightness,
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
    saturate,
)
from surplus.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from surplus.data.corruptions.pixels import gaussian_pixels, random_pixels, shuffled_pixels, whitened
from surplus.data.corruptions.weather import fog, frost, snow, spatter

__all__ = [
    "EXTRA",
    "STANDARD",
    "brightness",
    "contrast",
    "corrupt_images",
    "defocus_blur",
    "elastic_transform",
    "fog",
    "frost",
    "gaussian_blur",
    "gaussian_noise",
    "gaussian_pixels",
    "glass_blur",
    "impulse_noise",
    "jpeg_compression",
    "mean_corruption_error",
    "motion_blur",
    "pixelate",
    "random_pixels",
    "saturate",
    "shot_noise",
    "shuffled_pixels",
    "snow",
    "spatter",
    "speckle_noise",
    "whitened",
    "zoom_blur",
    "zoom_factors",
]
