"""Foundry's loop as in `foundry.py`, in workers of Ray Train: what Ray costs while training runs.

FOUNDRY_HOME=FOLDER PYTHONPATH=. python -m benchmarks.peers_train.in_ray JOB.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peers_train.job import Job
from foundry_ray.context import open_context

_NUM_WORKERS = 2


def _work(config: dict[str, str]) -> None:
    import torch

    from benchmarks.peers_train.foundry import main

    torch.set_num_threads(1)
    main(Job.read(Path(config["job"])))


def main(path: Path) -> None:
    """Train, and write the speed."""
    with open_context("file://" + str(path.parent / "store")) as context, context.session:
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer

        TorchTrainer(
            _work,
            train_loop_config={"job": str(path)},
            scaling_config=ray.train.ScalingConfig(num_workers=_NUM_WORKERS),
            torch_config=TorchConfig(backend="gloo"),
            run_config=ray.train.RunConfig(name=path.stem, storage_path=str(path.parent / "ray")),
        ).fit()


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
