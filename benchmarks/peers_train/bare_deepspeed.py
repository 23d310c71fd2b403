"""DeepSpeed alone, by hand.

RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m benchmarks.peers_train.bare_deepspeed JOB.json
"""

from __future__ import annotations

import sys
from pathlib import Path

import deepspeed
import deepspeed.ops
import torch
from torch import nn

from benchmarks.peers_train import job as jobs
from benchmarks.peers_train.job import Job, Marks


def config(job: Job, network: nn.Module) -> dict[str, object]:
    """Buckets no larger than the model; everything else as DeepSpeed has it."""
    num_params = sum(param.numel() for param in network.parameters())
    return {
        "train_micro_batch_size_per_gpu": job.batch_size // jobs.world_size(),
        "gradient_accumulation_steps": 1,
        "gradient_clipping": jobs.MAX_NORM,
        "zero_optimization": {"stage": job.zero_stage, "reduce_bucket_size": num_params},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def main(job: Job) -> None:
    """Train, and write the speed."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # of inference alone; building it takes minutes
    deepspeed.init_distributed("gloo")
    network = jobs.Autocast(job.network())
    engine, optimizer, *_ = deepspeed.initialize(model=network, optimizer=jobs.optimizer(network), config=config(job, network))
    marks, losses = Marks(job), []
    for step, (images_BCHW, labels_B) in enumerate(jobs.batches(job, marks)):
        for group in optimizer.param_groups:
            group["lr"] = jobs.LR * jobs.factor_at(step, job.num_steps)
        loss = nn.functional.cross_entropy(engine(images_BCHW), labels_B)
        losses.append(jobs.check(loss))
        engine.backward(loss)
        engine.step()
    marks.finish(losses, f"deepspeed {deepspeed.__version__}, ZeRO {job.zero_stage}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Job.read(Path(sys.argv[1])))
    jobs.leave()
