"""The rows that a served file takes: raw pixels, uint8 (N, C, H, W), or token ids, int64 (N, T). What they must be, and some to measure with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_ray.errors import BadRecord

if TYPE_CHECKING:
    import numpy as np

    from foundry_ray.inference.runtimes import Runtime

PIXELS = "uint8"
TOKENS = "int64"
_HINTS = {
    PIXELS: "send raw pixels 0..255 as (rows, channels, height, width), without normalising them.",
    TOKENS: "send token ids as (rows, tokens), padded as the data set is.",
}


def check_rows(rows_N: np.ndarray, *, shape: tuple[int, ...], dtype: str) -> None:
    """Raises BadRecord where rows are of another dtype than a file takes, or one of them is of another shape."""
    if rows_N.dtype == dtype and rows_N.ndim == len(shape) + 1 and rows_N.shape[1:] == shape:
        return
    wanted = ", ".join(str(size) for size in shape)
    raise BadRecord(
        f"the input is {rows_N.dtype} of shape {rows_N.shape}, wanted {dtype} of shape (N, {wanted}).",
        hint=_HINTS.get(dtype, "send what the model's signature names."),
        source="pixels" if dtype == PIXELS else "tokens",
    )


def noise(runtime: Runtime, num_rows: int, generator: np.random.Generator) -> np.ndarray:
    """Rows that a runtime takes, to time or to try it with; token ids are 0 and 1, which every vocabulary has."""
    import numpy as np

    high = 256 if runtime.input_dtype == PIXELS else 2
    return generator.integers(0, high, (num_rows, *runtime.input_shape), dtype=np.dtype(runtime.input_dtype))
