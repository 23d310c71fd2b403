"""Foundry's own loop over its DeepSpeed engine, under the same launcher as the peers.

RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m benchmarks.peers_train.foundry JOB.json
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed

from benchmarks.peers_train import job as jobs
from benchmarks.peers_train.job import Job, Marks
from foundry_ray import tasks
from foundry_ray.clock import SystemClock
from foundry_ray.config import DeepSpeedConfig, TeacherConfig, TrainConfig
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.deepspeed import DeepSpeedEngine
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.training.shape import shape_of

_NUM_VAL_ROWS = 64


def config(job: Job) -> TeacherConfig:
    """One epoch whose steps are the job's."""
    train = TrainConfig(
        epochs=1,
        batch_size=job.batch_size,
        optimizer="adamw",
        lr=jobs.LR,
        weight_decay=jobs.WEIGHT_DECAY,
        betas=jobs.BETAS,
        schedule="one_cycle",
        precision="bf16",
        grad_clip=jobs.MAX_NORM,
    )
    return TeacherConfig(train=train, workers=jobs.world_size(), deepspeed=DeepSpeedConfig(zero_stage=job.zero_stage))


def main(job: Job) -> None:
    """Train, and write the speed."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    teacher, reporter = config(job), RecordingReporter()
    engine = DeepSpeedEngine(job.network(), teacher, shape_of(teacher, jobs.world_size()), device="cpu", reporter=reporter)
    images_NCHW, labels_N = job.split()
    split_train = TensorSplit(inputs_N=images_NCHW, labels_N=labels_N)
    split_val = TensorSplit(inputs_N=images_NCHW[:_NUM_VAL_ROWS], labels_N=labels_N[:_NUM_VAL_ROWS])
    task = tasks.get("image_classification")
    work = FitJob(train=teacher.train, task=task, split_train=split_train, split_val=split_val, augment=("flip",))
    marks = Marks(job)
    loop = Loop(work, engine, reporter=reporter, clock=SystemClock(), between_steps=marks.mark)
    metrics = loop.run_epoch()
    marks.finish([metrics["loss"]], f"foundry, ZeRO {job.zero_stage}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Job.read(Path(sys.argv[1])))
    jobs.leave()
