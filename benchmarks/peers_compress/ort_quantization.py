"""onnxruntime's own quantization of the teacher's file.

python -m benchmarks.peers_compress.ort_quantization JOB.json      `point` is static or dynamic

static: QDQ after its own pre-processing, unsigned activations, signed weights with a scale per channel: of what its documentation offers the fastest
on this CPU, by three times. dynamic: as it is by default.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.peers_compress.job import Job, count


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Batches of calibration rows under the input's name."""

    def __init__(self, job: Job) -> None:
        self._batches: Iterator[np.ndarray] = iter(job.calibration())

    def get_next(self) -> dict[str, np.ndarray] | None:
        """See `CalibrationDataReader.get_next`."""
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def main(job: Job) -> None:
    """Quantize."""
    began_s = time.perf_counter()
    prepared, made = job.folder / "prepared.onnx", job.folder / "model.onnx"
    quant_pre_process(str(job.onnx), str(prepared))
    if job.point == "static":
        formats = {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(str(prepared), str(made), _Rows(job), per_channel=True, **formats)
    else:
        quantize_dynamic(str(prepared), str(made))
    prepared.unlink()
    job.done(num_params=count(job.network()), began_s=began_s, note=f"onnxruntime {onnxruntime.__version__}")


if __name__ == "__main__":
    main(Job.read(Path(sys.argv[1])))
