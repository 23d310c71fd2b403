"""One rank of a DeepSpeed job without Ray: trains a model without batch norm and prints the loss of each epoch as JSON.

    RANK=0 WORLD_SIZE=2 python tests/integration/_deepspeed_rank.py FOLDER STAGE...

In a world of one, it goes on from what a world of two left in FOLDER/../two.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

from foundry_ray import tasks
from foundry_ray.clock import SystemClock
from foundry_ray.config import TrainConfig
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.loop import FitJob, Loop, TensorSplit

TRAIN = TrainConfig(epochs=3, batch_size=16, lr=1e-2, precision="fp32", grad_clip=0.5)


def make_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))


def make_job(optimizer: str = "adamw") -> FitJob:
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(64) % 3
    images_NCHW = (torch.randint(0, 90, (64, 1, 6, 6), generator=generator) + 50 * labels_N[:, None, None, None]).to(torch.uint8)
    split = TensorSplit(images_NCHW=images_NCHW, labels_N=labels_N)
    train = TRAIN.model_copy(update={"optimizer": optimizer, "lr": 1e-2 if optimizer == "adamw" else 1e-1})
    return FitJob(train=train, task=tasks.get("image_classification"), split_train=split, split_val=split, seed=1)


def reference(optimizer: str) -> list[float]:
    """Losses of the same job in one process."""
    job = make_job(optimizer)
    loop = Loop(job, TorchEngine(make_model(), job.train), reporter=RecordingReporter(), clock=SystemClock())
    return [value for _ in range(3) for value in _losses(loop)]


def _losses(loop: Loop) -> tuple[float, float]:
    metrics = loop.run_epoch()
    return metrics["loss"], metrics["val_loss"]


def _run(folder: Path, stage: int, optimizer: str) -> dict[str, object]:
    from foundry_ray.training.deepspeed import DeepSpeedEngine

    job, reporter = make_job(optimizer), RecordingReporter()

    def start() -> Loop:
        engine = DeepSpeedEngine(make_model(), job.train, zero_stage=stage, device="cpu", reporter=reporter)
        return Loop(job, engine, reporter=reporter, clock=SystemClock())

    loop = start()
    losses = [*_losses(loop)]
    mine = folder / f"zero{stage}-{optimizer}"
    mine.mkdir()
    loop.save(mine)
    saved = _sums(loop)
    losses += [value for _ in range(2) for value in _losses(loop)]
    resumed = start()
    resumed.load(_merged(folder, mine.name))
    again = [value for _ in range(2) for value in _losses(resumed)]
    return {"losses": losses, "resumed": losses[:2] + again, "saved": saved, "warnings": reporter.warnings}


def _go_on(folder: Path, stage: int, optimizer: str) -> dict[str, object]:
    """Load the checkpoint of two ranks on this one."""
    from foundry_ray.training.deepspeed import DeepSpeedEngine

    job, reporter = make_job(optimizer), RecordingReporter()
    engine = DeepSpeedEngine(make_model(), job.train, zero_stage=stage, device="cpu", reporter=reporter)
    loop = Loop(job, engine, reporter=reporter, clock=SystemClock())
    loop.load(_merged(folder.parent / "two" / "rank-0", f"zero{stage}-{optimizer}"))
    loaded, epoch = _sums(loop), loop.epoch
    return {"losses": _losses(loop), "epoch": epoch, "loaded": loaded, "warnings": reporter.warnings}


def _sums(loop: Loop) -> list[float]:
    return [float(tensor.double().sum()) for tensor in loop.eval_model().state_dict().values()]


def _merged(mine: Path, name: str) -> Path:
    """What the store does: the files of all ranks in one folder."""
    torch.distributed.barrier()
    target = mine / f"{name}-merged"
    for source in sorted(mine.parent.glob(f"rank-*/{name}")):
        for path in source.rglob("*.pt"):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return target


def main(folder: Path, stages: list[int]) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    mine = folder / f"rank-{rank}"
    mine.mkdir()
    if world_size == 1:
        results = {f"zero{stage}-adamw": _go_on(folder, stage, "adamw") for stage in stages}
    else:
        results = {f"zero{stage}-{name}": _run(mine, stage, name) for stage in stages for name in ("adamw", "sgd")}
    (folder / f"result-{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(stage) for stage in sys.argv[2:]])
