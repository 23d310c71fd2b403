"""Our joint recipe in one call: prune, distil from the unpruned teacher, int8.

python -m benchmarks.peers_compress.ours JOB.json      `point` is the share of channels that goes
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import foundry_ray
from benchmarks.peers_compress.job import AUGMENT, BATCH_SIZE, LABEL_SMOOTHING, LR, MAX_NORM, NUM_CALIBRATION, WARMUP_SHARE, WEIGHT_DECAY, Job
from foundry_ray.artifacts import manifests
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.compression import Options, compress
from foundry_ray.config import TrainConfig

_ALPHA, _TEMPERATURE = 0.7, 4.0
_HELD_BACK_RATIO = 0.01
"""Of the rows that the others train on, because `compress` judges its steps on rows of its own."""


def main(job: Job) -> None:
    """Compress, and take the served file out of the store."""
    began_s = time.perf_counter()
    train = TrainConfig(
        epochs=job.epochs,
        batch_size=BATCH_SIZE,
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        label_smoothing=LABEL_SMOOTHING,
        grad_clip=MAX_NORM,
        warmup_ratio=WARMUP_SHARE,
    )
    options = Options(
        augment=AUGMENT, views=job.epochs, held_back_ratio=_HELD_BACK_RATIO, calibration_rows=NUM_CALIBRATION, seed=job.seed, device="cpu"
    )
    recipe = {"prune_ratio": float(job.point), "distil_alpha": _ALPHA, "distil_temperature": _TEMPERATURE, "weight_bits": 8}
    store = LocalStore(job.folder / "store")
    artifact = compress(job.network(), recipe, job.split(), train=train, options=options, store=store)
    (job.folder / "model.onnx").write_bytes(manifests.read_file(store, artifact.artifact.key, "model.onnx"))
    job.done(num_params=artifact.num_params, began_s=began_s, note=f"foundry_ray {foundry_ray.__version__}; {'; '.join(artifact.notes)}")


if __name__ == "__main__":
    main(Job.read(Path(sys.argv[1])))
