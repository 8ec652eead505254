"""What a network accepts: shape of one example, number of outputs, options; checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

from surplus.errors import InputError


def read_vector(network: str, input_shape: Sequence[int], outputs: int) -> int:
    """The number of inputs of a network that flattens them: (1, 28, 28) gives 784.

    Raises:
        InputError: the shape is empty, or a size or `outputs` is not a positive whole number.
    """
    _check_sizes(network, input_shape, outputs)
    if not input_shape:
        raise InputError(f"{network} needs the shape of one example, such as (64,) or (1, 28, 28); got ()")
    return math.prod(input_shape)


def read_image(network: str, input_shape: Sequence[int], outputs: int, least: int = 1) -> tuple[int, int, int]:
    """Channels, height and width of one image.

    Args:
        network: the name that messages use.
        input_shape: (channels, height, width).
        outputs: number of outputs.
        least: smallest height and width that this network can take.

    Raises:
        InputError: the shape is not that of an image, or the image is too small for the network.
    """
    _check_sizes(network, input_shape, outputs)
    if len(input_shape) != 3:
        raise InputError(
            f"{network} takes images: input_shape is (channels, height, width), as (3, 8, 8); got {tuple(input_shape)}"
        )
    channels, height, width = input_shape
    if min(height, width) < least:
        raise InputError(
            f"{network} needs images of at least {least}x{least} pixels; got {height}x{width}. "
            "Enlarge the images, or take another network (small-conv starts at 4x4)"
        )
    return channels, height, width


def read_text(network: str, input_shape: Sequence[int], outputs: int) -> tuple[int, int]:
    """Vocabulary size and context length of a network of tokens.

    Raises:
        InputError: the shape is not (vocabulary, context).
    """
    _check_sizes(network, input_shape, outputs)
    if len(input_shape) != 2:
        raise InputError(
            f"{network} takes token ids: input_shape is (vocabulary, context), as (97, 4); got {tuple(input_shape)}"
        )
    vocabulary, context = input_shape
    return vocabulary, context


def scaled(network: str, base: int, width: float, option: str = "width") -> int:
    """`base` units times the width factor (the value of `option`), rounded, never below one."""
    if not 0 < width < math.inf:
        raise InputError(f"{network}: {option} multiplies the number of channels, so it lies above 0; got {width}")
    return max(1, round(base * width))


def choose(network: str, option: str, given: str, known: Sequence[str]) -> str:
    """`given`, if it is one of the `known` values of an option.

    Raises:
        InputError: it is not; the message lists them.
    """
    if given not in known:
        raise InputError(f"{network}: {option} is one of {', '.join(map(repr, known))}; got {given!r}")
    return given


def check_positive(network: str, **sizes: int) -> None:
    """Refuse an option that counts something and is not a whole number from 1 up."""
    for option, size in sizes.items():
        if not _is_count(size):
            raise InputError(f"{network}: {option} is a whole number from 1 up; got {size!r}")


def _check_sizes(network: str, input_shape: Sequence[int], outputs: int) -> None:
    if not all(map(_is_count, input_shape)):
        raise InputError(f"{network}: every size in input_shape is a whole number from 1 up; got {tuple(input_shape)}")
    check_positive(network, outputs=outputs)


def _is_count(size: object) -> bool:
    return isinstance(size, Integral) and not isinstance(size, bool) and int(size) > 0
