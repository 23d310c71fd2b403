"""NNCF's int8, after training and in it.

python -m benchmarks.peers_compress.nncf_quantization JOB.json      `point` is static or qat

static: the teacher's file, with NNCF's correction of biases. qat: the network is given NNCF's quantizers, fine-tuned, and stripped to torch's own.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nncf  # type: ignore[import-not-found,unused-ignore]
import onnx
import torch
from torch import nn

from benchmarks.peers_compress.job import NUM_CALIBRATION, FromPixels, Job, count, fine_tune


def main(job: Job) -> None:
    """Quantize, with or without training."""
    began_s = time.perf_counter()
    network = job.network()
    num_params = count(network)
    (job.folder / "model.onnx").write_bytes(_trained(network, job) if job.point == "qat" else _static(job))
    job.done(num_params=num_params, began_s=began_s, note=f"nncf {nncf.__version__}")


def _static(job: Job) -> bytes:
    rows = nncf.Dataset([row[None] for batch in job.calibration() for row in batch], lambda row: {"pixels": row})
    content: bytes = nncf.quantize(onnx.load(str(job.onnx)), rows, subset_size=NUM_CALIBRATION).SerializeToString()
    return content


def _trained(network: nn.Module, job: Job) -> bytes:
    batches = [torch.from_numpy(batch) for batch in job.calibration()]
    quantized = nncf.quantize(FromPixels(network).eval(), nncf.Dataset(batches), subset_size=len(batches))
    fine_tune(quantized, job)
    example = batches[0][:2]
    stripped = nncf.strip(quantized, strip_format=nncf.StripFormat.NATIVE, example_input=example)
    path = job.folder / "exported.onnx"
    names = {"input_names": ["pixels"], "output_names": ["logits"], "dynamic_axes": {"pixels": {0: "batch"}, "logits": {0: "batch"}}}
    torch.onnx.export(stripped, (example,), str(path), dynamo=False, opset_version=18, **names)  # type: ignore[arg-type]
    content = path.read_bytes()
    path.unlink()
    return content


if __name__ == "__main__":
    main(Job.read(Path(sys.argv[1])))
