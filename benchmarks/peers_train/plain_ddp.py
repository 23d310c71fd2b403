"""torch's DistributedDataParallel alone, by hand: what is left where no library is.

RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m benchmarks.peers_train.plain_ddp JOB.json
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers_train import job as jobs
from benchmarks.peers_train.job import Job, Marks


def main(job: Job) -> None:
    """Train, and write the speed."""
    torch.distributed.init_process_group("gloo")
    network = DistributedDataParallel(jobs.Autocast(job.network()), broadcast_buffers=False)
    optimizer = jobs.optimizer(network)
    marks, losses = Marks(job), []
    for step, (images_BCHW, labels_B) in enumerate(jobs.batches(job, marks)):
        for group in optimizer.param_groups:
            group["lr"] = jobs.LR * jobs.factor_at(step, job.num_steps)
        loss = nn.functional.cross_entropy(network(images_BCHW), labels_B)
        losses.append(jobs.check(loss))
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), jobs.MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
    marks.finish(losses, f"torch {torch.__version__}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Job.read(Path(sys.argv[1])))
    jobs.leave()
