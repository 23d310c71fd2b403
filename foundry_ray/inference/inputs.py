"""The one input of a served file, as its graph states it, and the refusal of anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.errors import BadRecord
from foundry_ray.inference.rows import check_rows

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Name, dtype (as numpy calls it) and shape of one row."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, dtype: str, sizes: Sequence[int | str | None]) -> Input:
        """From a graph's own words; the first of `sizes` is the batch. Raises BadRecord where another one is free."""
        fixed = tuple(size for size in sizes[1:] if isinstance(size, int) and size > 0)
        if len(fixed) != len(sizes) - 1:
            raise BadRecord(f"input {name} has the shape {list(sizes)}, wanted no free size but the first.", hint="export it with fixed sizes.")
        return cls(name=name, dtype=dtype, shape=fixed)

    def check(self, inputs_N: np.ndarray) -> None:
        """Raises BadRecord that says what is wanted."""
        check_rows(inputs_N, shape=self.shape, dtype=self.dtype)
