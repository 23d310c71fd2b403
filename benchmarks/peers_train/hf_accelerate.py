"""Hugging Face Accelerate, over its DeepSpeed plugin or over torch's DistributedDataParallel.

    RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m benchmarks.peers_train.hf_accelerate JOB.json deepspeed

The plugin's own bf16 casts the weights; at equal precision the model enters autocast itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.peers_train import job as jobs
from benchmarks.peers_train.job import Job, Marks


def main(job: Job, backend: str) -> None:
    """Train, and write the speed."""
    import accelerate  # type: ignore[import-not-found,unused-ignore]

    accelerator = _over_deepspeed(job) if backend == "deepspeed" else _over_ddp()
    network = jobs.Autocast(job.network()) if backend == "deepspeed" else job.network()
    optimizer = jobs.optimizer(network)
    schedule = LambdaLR(optimizer, lambda step: jobs.factor_at(step, job.num_steps))
    network, optimizer, schedule = accelerator.prepare(network, optimizer, schedule)
    marks, losses = Marks(job), []
    for images_BCHW, labels_B in jobs.batches(job, marks):
        loss = nn.functional.cross_entropy(network(images_BCHW), labels_B)
        losses.append(jobs.check(loss))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), jobs.MAX_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    marks.finish(losses, f"accelerate {accelerate.__version__}, {accelerator.distributed_type}")


def _over_deepspeed(job: Job) -> accelerate.Accelerator:  # type: ignore[name-defined]  # noqa: F821
    """The plugin takes a GPU for granted in one place: the backend must be named."""
    import deepspeed.ops
    from accelerate import Accelerator  # type: ignore[import-not-found,unused-ignore]
    from accelerate.utils import DataLoaderConfiguration, DeepSpeedPlugin, InitProcessGroupKwargs  # type: ignore[import-not-found,unused-ignore]

    from benchmarks.peers_train.bare_deepspeed import config

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    plugin = DeepSpeedPlugin(hf_ds_config=config(job, job.network()))
    return Accelerator(
        deepspeed_plugin=plugin,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")],
    )


def _over_ddp() -> accelerate.Accelerator:  # type: ignore[name-defined]  # noqa: F821
    from accelerate import Accelerator  # type: ignore[import-not-found,unused-ignore]
    from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs  # type: ignore[import-not-found,unused-ignore]

    return Accelerator(
        cpu=True,
        mixed_precision="bf16",
        dataloader_config=DataLoaderConfiguration(split_batches=True),  # else the schedule takes one step per process
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Job.read(Path(sys.argv[1])), sys.argv[2])
    jobs.leave()
