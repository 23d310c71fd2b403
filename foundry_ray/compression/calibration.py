"""Which range of an activation is stored: from training rows, by extremes, by entropy or by a percentile (arXiv 2004.09602, section 3.4).

A range that leaves out the rarest numbers stores all others finer. All but the extremes are found in a histogram of |x| with 2048 bins, by
a threshold T; the range is then [max(low, -T), min(high, T)].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import Given

if TYPE_CHECKING:
    import numpy as np
    import onnx

Method = Literal["minmax", "entropy", "percentile"]
NUM_BINS = 2048
_BATCH_ROWS = 64
_CANDIDATE_STEP = 8
_EMPTY = 1e-9
_NUMPY = {"float": "float32", "double": "float64"}
"""onnxruntime's names of those dtypes that numpy calls otherwise."""


def calibration_rows(rows_N: np.ndarray, seed: int | None, given: Given | None) -> np.ndarray:
    """The rows that set ranges: those that were given, or as many drawn from the whole training split.

    Raises:
        RecipeInfeasible: There are none, or rows are to be drawn and nobody gives the training split.
    """
    if len(rows_N) == 0:
        raise RecipeInfeasible("got 0 calibration rows, wanted 1 or more.", hint="raise `student.calibration_rows`.", reason="no calibration rows")
    if seed is None:
        return rows_N
    if given is None or given.inputs_N is None:
        message = f"quantize: calibration_seed is {seed}, but no training rows are given to draw from."
        raise RecipeInfeasible(message, hint="leave `calibration_seed` out.", reason="no training rows")
    rows: np.ndarray = given.inputs_N[drawn_rows(len(given.inputs_N), len(rows_N), seed)]
    return rows


def drawn_rows(num_rows: int, num_wanted: int, seed: int | None) -> np.ndarray:
    """Positions of the calibration rows in the training split, in order: the first ones, or some that the seed draws."""
    import numpy as np

    num_wanted = min(num_wanted, num_rows)
    return np.arange(num_wanted) if seed is None else np.sort(np.random.default_rng(seed).choice(num_rows, num_wanted, replace=False))


def ranges(
    model: onnx.ModelProto, names: Sequence[str], rows_N: np.ndarray, *, method: Method = "minmax", percentile: float = 100.0
) -> Mapping[str, tuple[float, float]]:
    """The range of each tensor over the rows.

    Args:
        model: Of fp32.
        names: Tensors of its graph.
        rows_N: What the model takes.
        method: See the module's docstring.
        percentile: Share of the numbers in percent that lies within T, for that method.
    """
    extremes = _extremes(model, names, rows_N)
    if method == "minmax":
        return extremes
    histograms = _histograms(model, {name: max(-low, high) for name, (low, high) in extremes.items()}, rows_N)
    found = {}
    for name, (low, high) in extremes.items():
        largest = max(-low, high)
        num_bins = entropy_bins(histograms[name], is_signed=low < 0) if method == "entropy" else percentile_bins(histograms[name], percentile)
        threshold = largest * num_bins / NUM_BINS
        found[name] = (max(low, -threshold), min(high, threshold))
    return found


def percentile_bins(counts: np.ndarray, percentile: float) -> int:
    """How many of the first bins hold at least this share of the numbers, in percent."""
    import numpy as np

    cumulative = np.cumsum(counts)
    return int(np.searchsorted(cumulative, cumulative[-1] * percentile / 100)) + 1


def entropy_bins(counts: np.ndarray, *, is_signed: bool) -> int:
    """How many of the first bins are kept so that the stored numbers tell most of the real ones: the least KL divergence.

    P: the counts of the first i bins, the last one taking all that lies beyond. Q: the same bins in as many groups as a grid has levels on one
    side (128 where numbers have both signs, 256 where they have one), each group's count shared by its bins that are not empty. Zero is exact
    on every grid, so the first bin counts as much as the second. i goes up in steps of 8.
    """
    import numpy as np

    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    num_levels = 128 if is_signed else 256
    if counts.sum() == 0:
        return len(counts)
    candidates = range(num_levels, len(counts) + 1, _CANDIDATE_STEP)
    return candidates[int(np.argmin([_divergence(counts, kept, num_levels) for kept in candidates]))]


def _divergence(counts: np.ndarray, kept: int, num_levels: int) -> float:
    """KL(P || Q) of the first `kept` bins."""
    import numpy as np

    inside = counts[:kept]
    real = inside.copy()
    real[-1] += counts[kept:].sum()
    starts = np.arange(num_levels) * kept // num_levels
    sizes = np.diff(np.append(starts, kept))
    occupied = (inside > 0).astype(np.float64)
    share = np.add.reduceat(inside, starts) / np.maximum(np.add.reduceat(occupied, starts), 1)
    stored = np.repeat(share, sizes) * occupied
    if stored.sum() == 0:
        return float("inf")
    real, stored = real / real.sum(), np.maximum(stored / stored.sum(), _EMPTY)
    there = real > 0
    return float((real[there] * np.log(real[there] / stored[there])).sum())


def _extremes(model: onnx.ModelProto, names: Sequence[str], rows_N: np.ndarray) -> Mapping[str, tuple[float, float]]:
    """Smallest and largest value of each tensor, found inside the runtime so that no activation is copied out."""
    import numpy as np

    observed = _Observed(model)
    for name in names:
        for reduction in ("ReduceMin", "ReduceMax"):
            observed.add(reduction, name)
    batches = list(observed.run(rows_N))
    extremes = np.asarray(batches, dtype=np.float64).reshape(len(batches), len(names), 2)
    lows, highs = extremes[:, :, 0].min(axis=0), extremes[:, :, 1].max(axis=0)
    return {name: (float(low), float(high)) for name, low, high in zip(names, lows, highs, strict=True)}


def _histograms(model: onnx.ModelProto, largest: Mapping[str, float], rows_N: np.ndarray) -> Mapping[str, np.ndarray]:
    """Counts of |x| in equal bins up to the largest, for each tensor."""
    import numpy as np

    observed = _Observed(model)
    for name in largest:
        observed.add("Abs", name)
    counts = {name: np.zeros(NUM_BINS, dtype=np.int64) for name in largest}
    for batch in observed.run(rows_N):
        for (name, top), values in zip(largest.items(), batch, strict=True):
            counts[name] += np.histogram(values, bins=NUM_BINS, range=(0.0, top or 1.0))[0]
    return counts


class _Observed:
    """A graph with further outputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._outputs: list[str] = []

    def add(self, op_type: str, name: str) -> None:
        """Let the runtime give `op_type` of a tensor."""
        from onnx import TensorProto, helper

        output = f"observed.{len(self._outputs)}"
        attributes = {"keepdims": 0} if op_type.startswith("Reduce") else {}
        self._outputs.append(output)
        self._model.graph.node.append(helper.make_node(op_type, [name], [output], **attributes))
        self._model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [] if attributes else None))

    def run(self, rows_N: np.ndarray) -> Iterator[list[Any]]:
        """The outputs of each batch of rows."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(self._model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        [feed] = session.get_inputs()
        dtype = feed.type.removeprefix("tensor(").removesuffix(")")
        rows_N = rows_N.astype(_NUMPY.get(dtype, dtype), copy=False)
        for start in range(0, len(rows_N), _BATCH_ROWS):
            yield session.run(self._outputs, {feed.name: rows_N[start : start + _BATCH_ROWS]})
