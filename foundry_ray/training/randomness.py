"""What a model draws while it trains (dropout and the like) as a function of (seed, step, micro-batch, rank), so that no generator's state is saved.

The process's own generators, torch's, Python's and numpy's, are put back when training leaves off. Seeding torch's generator itself takes a
microsecond; `torch.manual_seed` asks every backend first and takes 77.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from foundry_ray.data.hashing import mix

_WORD_32 = (1 << 32) - 1


@contextmanager
def own_randomness(device: str) -> Iterator[None]:
    """Give the generators back as they were."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)


def reseed(device: str, *words: int) -> None:
    """Seed everything that a forward pass may draw from with one hash of some integers."""
    seed = mix(*words) >> 1
    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        torch.cuda.default_generators[torch.device(device).index or 0].manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & _WORD_32)
