"""Randomness comes only from generators derived from (seed, purpose)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator


def seed_for(seed: int, *purpose: object) -> int:
    """A 63-bit seed that depends on `seed` and on every word of the purpose: ("order", epoch), say."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *purpose: object, device: torch.device | str = "cpu") -> Generator:
    """A fresh generator for one purpose; two purposes of one seed never share their draws."""
    return Generator(device).manual_seed(seed_for(seed, *purpose))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run code that draws from torch's global generator under `seed`, and leave that generator as it was.

    For code that is not ours: a module's own initialisation, dropout inside a user's network.
    """
    devices = (
        list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    )
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
