"""A small fast network for CIFAR-10, after the speed records of Page 2018 and Jordan 2024 (airbench, arXiv 2404.00498).

    whitening conv 2x2 -> gelu -> 3 x [conv -> pool -> norm -> gelu -> conv -> norm -> gelu] -> max -> linear / 9

What makes it fast: the first layer sees decorrelated patches, pooling comes before normalisation and nonlinearity,
normalisation learns a shift and no scale, each convolution starts as the identity on the channels that it receives,
and small logits keep the softmax soft. Departures: without training images the first layer is a cosine basis, which
nearly decorrelates natural patches; it trains like any other layer; and the last pool takes the maximum of whatever map
is left (3x3 at 32x32 pixels, as there).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from surplus.errors import InputError
from surplus.networks.layers import chain
from surplus.networks.shapes import choose, read_image, scaled
from surplus.registry import method

_PATCH = 2


@method("network", paper="Jordan 2024, arXiv 2404.00498 (airbench); Page 2018, How to train your ResNet")
def speed_net(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: float = 1.0,
    stem: str = "whiten",
    identity: bool = True,
    logit_scale: float = 1 / 9,
) -> nn.Module:
    """Fast convolutional network with 64, 256 and 256 channels.

    1,971,640 trained parameters on CIFAR-10 (the paper's 1.97M). Call `whiten(images)` on the result to fit the
    first layer to training images.

    Args:
        input_shape: (channels, height, width), at least 9x9 with stem="whiten", 8x8 with "plain".
        outputs: number of outputs.
        width: multiplies the channels of the three blocks; 0.25 suits a CPU.
        stem: "whiten" (2x2, unpadded) or "plain" (3x3, ordinary start).
        identity: start each 3x3 convolution of the blocks with the identity on its first channels.
        logit_scale: multiplies the outputs.

    Raises:
        InputError: an image too small, an unknown stem, a width that is not above 0.
    """
    choose("speed-net", "stem", stem, ("whiten", "plain"))
    channels, _, _ = read_image("speed-net", input_shape, outputs, least=9 if stem == "whiten" else 8)
    maps = [scaled("speed-net", base, width) for base in (64, 256, 256)]
    return SpeedNet(channels, outputs, maps, stem, identity, logit_scale)


class SpeedNet(nn.Module):
    """Stem, three blocks that halve the image, maximum over what is left, scaled linear head."""

    def __init__(
        self, channels: int, outputs: int, maps: list[int], stem: str, identity: bool, logit_scale: float
    ) -> None:
        super().__init__()
        before = 2 * channels * _PATCH**2
        whitening = stem == "whiten"
        self.stem = nn.Conv2d(channels, before, _PATCH) if whitening else nn.Conv2d(channels, before, 3, padding=1)
        self.act = nn.GELU()
        self.blocks = nn.Sequential()
        for after in maps:
            self.blocks.append(_block(before, after, identity))
            before = after
        self.head = nn.Linear(before, outputs, bias=False)
        self.logit_scale = logit_scale
        if whitening:
            self._set_stem(cosine_basis(channels, _PATCH))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, outputs)."""
        x = self.blocks(self.act(self.stem(x)))
        return self.head(x.amax((-2, -1))) * self.logit_scale

    def whiten(self, images: Tensor, floor: float = 5e-4) -> SpeedNet:
        """Fit the first layer to training images (n, C, H, W), normalised as the network will see them.

        Args:
            images: a few thousand are enough.
            floor: added to the variances, so that flat directions are not blown up.

        Returns:
            This network.

        Raises:
            InputError: the stem is "plain", or the images have another number of channels.
        """
        if self.stem.kernel_size != (_PATCH, _PATCH):
            raise InputError("speed-net with stem='plain' has no whitening layer; build it with stem='whiten'")
        if images.dim() != 4 or images.shape[1] != self.stem.in_channels:
            raise InputError(f"speed-net whitens images (n, {self.stem.in_channels}, H, W); got {tuple(images.shape)}")
        self._set_stem(whitening_basis(images, _PATCH, floor))
        return self

    def _set_stem(self, basis: Tensor) -> None:
        with torch.no_grad():
            self.stem.weight.copy_(torch.cat([basis, -basis]))  # both signs, since gelu keeps one


class ShiftNorm(nn.BatchNorm2d):
    """Batch normalisation with a learned shift and no learned scale."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False)
        # Not as `bias`: torch's forward-mode derivative of batch normalisation wants scale and shift, or neither.
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return super().forward(x) + self.shift[:, None, None]


def whitening_basis(images: Tensor, size: int, floor: float = 5e-4) -> Tensor:
    """Filters whose responses to the images' patches are uncorrelated and of variance 1: E^T / sqrt(variance + floor).

    Args:
        images: (n, C, H, W).
        size: side of a patch.
        floor: added to the variances.

    Returns:
        (C * size**2, C, size, size), largest variance first.
    """
    channels = images.shape[1]
    patches = images.unfold(2, size, 1).unfold(3, size, 1)  # (n, C, H', W', size, size)
    rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * size**2)
    variances, vectors = torch.linalg.eigh(rows.T.cov(correction=0))
    filters = (vectors / (variances.clamp(min=0) + floor).sqrt()).T.flip(0)
    return filters.reshape(-1, channels, size, size)


def cosine_basis(channels: int, size: int) -> Tensor:
    """The orthonormal discrete cosine basis of patches, (channels * size**2, channels, size, size)."""
    across, along = _cosines(channels), _cosines(size)
    basis = torch.einsum("ac,bi,dj->abdcij", across, along, along)
    return basis.reshape(-1, channels, size, size)


def _cosines(n: int) -> Tensor:
    """(n, n) orthonormal rows cos(pi (j + 1/2) k / n)."""
    k, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    rows = torch.cos(math.pi * (j + 0.5) * k / n)
    return rows / rows.norm(dim=1, keepdim=True)


def _block(before: int, after: int, identity: bool) -> nn.Sequential:
    conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
    conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
    if identity:
        for conv in (conv1, conv2):
            nn.init.dirac_(conv.weight[: conv.in_channels].detach())  # a view: writes into the weight
    return chain(
        conv1=conv1,
        pool=nn.MaxPool2d(2),
        norm1=ShiftNorm(after),
        act1=nn.GELU(),
        conv2=conv2,
        norm2=ShiftNorm(after),
        act2=nn.GELU(),
    )
