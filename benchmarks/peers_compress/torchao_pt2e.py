"""torchao's int8 for x86: torch.export, observers, calibration, conversion. Its `quantize_` leaves convolutions alone, of which this model is made.

python -m benchmarks.peers_compress.torchao_pt2e JOB.json      `point` is static

Leaves the converted program (`model.pt2`), which the inductor compiles where it runs, and the ONNX file that torch makes of it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torchao  # type: ignore[import-not-found,unused-ignore]
from torchao.quantization.pt2e import move_exported_model_to_eval  # type: ignore[import-not-found,unused-ignore]
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e  # type: ignore[import-not-found,unused-ignore]
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86  # type: ignore[import-not-found,unused-ignore]

from benchmarks.peers_compress.job import FromPixels, Job, count

_MAX_BATCH = 512


def main(job: Job) -> None:
    """Quantize, and keep it in both forms."""
    began_s = time.perf_counter()
    network, batches = job.network(), [torch.from_numpy(batch) for batch in job.calibration()]
    example = (batches[0][:2],)
    free = ({0: torch.export.Dim("batch", min=1, max=_MAX_BATCH)},)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(FromPixels(network), example, dynamic_shapes=free).module(), quantizer)
    with torch.no_grad():
        for batch in batches:
            prepared(batch)
    converted = move_exported_model_to_eval(convert_pt2e(prepared))
    program = torch.onnx.export(converted, example, dynamo=True, dynamic_shapes=free, verbose=False)
    assert program is not None
    program.save(str(job.folder / "model.onnx"), external_data=False)
    torch.export.save(torch.export.export(converted, (batches[0][:1],)), job.folder / "model.pt2")
    job.done(num_params=count(network), began_s=began_s, note=f"torchao {torchao.__version__}")


if __name__ == "__main__":
    main(Job.read(Path(sys.argv[1])))
