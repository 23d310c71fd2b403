"""What a sampler answers, and the random state that each answer is drawn with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from foundry_ray.types import Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Parameters for a new trial, and what the sampler wants to see again with its result."""

    params: Mapping[str, Scalar]
    attrs: Mapping[str, Scalar] = field(default_factory=dict)


def ask_seed(seed: int, number: int, attempt: int = 0) -> int:
    """Random state of the proposal of trial `number`, 32 bits; another one for each time that it is drawn again."""
    return hashed(f"{seed}/ask/{number}/{attempt}" if attempt else f"{seed}/ask/{number}")


def hashed(text: str) -> int:
    """32 bits that depend on nothing but the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
