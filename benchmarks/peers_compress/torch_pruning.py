"""Torch-Pruning as its documentation has it: group magnitudes, one threshold for all groups, multiples of 8, then plain fine-tuning.

python -m benchmarks.peers_compress.torch_pruning JOB.json      `point` is the share of channels that goes
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch_pruning

from benchmarks.peers_compress.job import Job, count, fine_tune, schema
from foundry_ray.compression import to_onnx

_ROUND_TO = 8


def main(job: Job) -> None:
    """Prune, fine-tune, export."""
    began_s = time.perf_counter()
    network = job.network()
    pruner = torch_pruning.pruner.BasePruner(
        network,
        torch.zeros(1, 1, 28, 28),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=float(job.point),
        ignored_layers=[network.head],
        round_to=_ROUND_TO,
    )
    pruner.step()
    fine_tune(network, job)
    (job.folder / "model.onnx").write_bytes(to_onnx(network, schema()))
    job.done(num_params=count(network), began_s=began_s, note=f"torch-pruning {torch_pruning.__version__}")


if __name__ == "__main__":
    main(Job.read(Path(sys.argv[1])))
