"""Run a served file on stored rows in a process of its own: the proof that nothing but the bytes decides the answer.

python -m foundry_ray.inference.replay model.onnx rows.npy logits.npy onnxruntime 1 fp32
"""

from __future__ import annotations

import sys
from pathlib import Path

from foundry_ray.inference.runtimes import Precision, open_runtime


def main(model: str, rows: str, logits: str, runtime: str, threads: str, precision: Precision) -> None:
    """Load, run, write. Imports no torch."""
    import numpy as np

    opened = open_runtime(Path(model).read_bytes(), runtime=runtime, threads=int(threads), precision=precision)
    np.save(logits, opened.run(np.load(rows)))


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
