"""Lightning's Fabric, the thin one, over torch's DistributedDataParallel.

    RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 TORCHELASTIC_RUN_ID=x \
        python -m benchmarks.peers_train.lightning_fabric JOB.json
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import lightning  # type: ignore[import-not-found,unused-ignore]
import torch
from lightning.fabric.strategies import DDPStrategy  # type: ignore[import-not-found,unused-ignore]
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.peers_train import job as jobs
from benchmarks.peers_train.job import Job, Marks


def main(job: Job) -> None:
    """Train, and write the speed."""
    warnings.filterwarnings("ignore")
    strategy = DDPStrategy(process_group_backend="gloo", broadcast_buffers=False)
    fabric = lightning.Fabric(accelerator="cpu", devices=jobs.world_size(), strategy=strategy, precision="bf16-mixed")
    fabric.launch()
    bare = job.network()
    network, optimizer = fabric.setup(bare, jobs.optimizer(bare))
    schedule = LambdaLR(optimizer.optimizer, lambda step: jobs.factor_at(step, job.num_steps))
    marks, losses = Marks(job), []
    for images_BCHW, labels_B in jobs.batches(job, marks):
        loss = nn.functional.cross_entropy(network(images_BCHW).float(), labels_B)
        losses.append(jobs.check(loss))
        fabric.backward(loss)
        fabric.clip_gradients(network, optimizer, max_norm=jobs.MAX_NORM, error_if_nonfinite=False)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    marks.finish(losses, f"lightning {lightning.__version__}, Fabric, DDP")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Job.read(Path(sys.argv[1])))
    jobs.leave()
