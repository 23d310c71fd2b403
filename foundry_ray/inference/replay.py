"""Run a served file on stored rows in a process of its own: the proof that nothing but the bytes decides the answer.

python -m foundry_ray.inference.replay model.onnx rows.npy logits.npy
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(model: str, rows: str, logits: str) -> None:
    """Load, run, write. Imports no torch."""
    import numpy as np

    from foundry_ray.inference.runtimes import open_runtime

    np.save(logits, open_runtime(Path(model).read_bytes()).run(np.load(rows)))


if __name__ == "__main__":
    main(*sys.argv[1:])
