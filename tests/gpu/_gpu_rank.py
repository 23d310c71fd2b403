"""One process on one GPU: trains the cases that it is given, one after the other, and writes what they gave as JSON.

    CUBLAS_WORKSPACE_CONFIG=:4096:8 LOCAL_RANK=0 python tests/gpu/_gpu_rank.py FOLDER CASE...

A case is a JSON object with the fields of `Case`. A process of its own, because DeepSpeed and cuBLAS settle for good what they are at first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import nn

from foundry_ray import models, tasks
from foundry_ray.config import ModelConfig, TeacherConfig
from foundry_ray.models.layers import Normalize
from foundry_ray.protocols import Engine
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.training.checkpoint import CheckpointWriter, latest, restore
from foundry_ray.training.determinism import deterministic
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.training.meter import open_meter, workload
from foundry_ray.training.precision import resolve_precision
from foundry_ray.training.shape import shape_of
from foundry_ray.types import ImageSchema, Preprocessing

EPOCHS = 3
SCHEMA = ImageSchema(channels=1, height=12, width=12, dtype="uint8", classes=("dark", "bright"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is trained, by whom; `resumes` goes on from a checkpoint after its first epoch."""

    name: str
    engine: str = "deepspeed"
    device: str = "cuda:0"
    precision: str = "fp32"
    deepspeed: Mapping[str, object] = field(default_factory=dict)
    teacher: Mapping[str, object] = field(default_factory=dict)
    resumes: bool = False

    def config(self) -> TeacherConfig:
        train = {"epochs": EPOCHS, "batch_size": 16, "lr": 1e-2, "precision": self.precision, "ema_decay": 0.8}
        fields = {"train": train, "engine": self.engine, "workers": 1, "micro_batch_size": 8, "deepspeed": self.deepspeed, **self.teacher}
        return TeacherConfig.model_validate(fields)


class _Busy(FakeClock):
    """Each look at it takes a second, so that every step tells its metrics."""

    def monotonic_s(self) -> float:
        self.advance(1.0)
        return super().monotonic_s()


def make_split(num_rows: int, seed: int) -> TensorSplit:
    random = np.random.default_rng(seed)
    labels_N = np.arange(num_rows) % 2
    images_NCHW = (random.integers(0, 60, (num_rows, 1, 12, 12)) + 120 * labels_N[:, None, None, None]).astype(np.uint8)
    return TensorSplit(inputs_N=torch.from_numpy(images_NCHW), labels_N=torch.from_numpy(labels_N))


def make_model(case: Case) -> nn.Module:
    """Weights that are cast cannot be those of a model with batch norm, whose statistics stay in fp32."""
    if case.deepspeed.get("weights") == "precision":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(Normalize(1), nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(800, 2))
    return models.build(ModelConfig(family="resnet", width=8, depth=1), SCHEMA, Preprocessing(mean=(90.0,), std=(60.0,)), seed=0)


def make_engine(case: Case, model: nn.Module, reporter: RecordingReporter) -> Engine:
    config = case.config()
    shape = shape_of(config, 1)
    if case.engine == "deepspeed":
        from foundry_ray.training.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(model, config, shape, device=case.device, reporter=reporter)
    from foundry_ray.training.engine import TorchEngine

    return TorchEngine(
        model,
        config.train,
        device=case.device,
        accumulation=shape.accumulation,
        compile=config.compile,
        activation_checkpointing=config.activation_checkpointing,
        loss_scale=config.deepspeed.loss_scale,
    )


def make_loop(case: Case, reporter: RecordingReporter) -> Loop:
    config, model = case.config(), make_model(case)
    job = FitJob(
        train=config.train,
        task=tasks.get("image_classification"),
        split_train=make_split(128, 1),
        split_val=make_split(64, 2),
        augment=("shift",),
        seed=3,
        micro_batch_size=config.micro_batch_size,
    )
    work = workload(model, job.split_train.inputs_N[:1], warn=reporter.warn)
    engine, clock = make_engine(case, model, reporter), _Busy()
    meter = open_meter(work, clock=clock, device=engine.device, dtype=resolve_precision(case.precision, engine.device))
    return Loop(job, engine, reporter=reporter, clock=clock, meter=meter)


def continued(case: Case, loop: Loop, reporter: RecordingReporter) -> Loop:
    """Another loop, which goes on from a checkpoint of this one."""
    store = MemoryStore()
    writer = CheckpointWriter(store, "k", attempt="a", rank=0, world_size=1, clock=FakeClock(), reporter=reporter, timeout_s=60.0)
    writer.save(loop.step, loop.epoch, loop.state(), {})
    writer.wait()
    writer.close()
    other, saved = make_loop(case, reporter), latest(store, "k")
    assert saved is not None, "the writer has waited for it"
    restore(store, saved, other.state(), rank=0, world_size=1)
    other.restored(saved.document)
    return other


def run(case: Case) -> dict[str, object]:
    torch.cuda.empty_cache()
    reporter = RecordingReporter()
    with deterministic(case.config().deterministic):
        loop = make_loop(case, reporter)
        loop.run_epoch()
        if case.resumes:
            loop = continued(case, loop, reporter)
        while not loop.is_done:
            loop.run_epoch()
    weights = [fragment.tensor for fragment in loop.state().fragments if fragment.slot == "weights"]
    return {
        "curve": [{name: value for name, value in epoch.items() if name not in ("epoch_s", "samples_per_s")} for epoch in loop.curve],
        "points": [values for _, values in reporter.points],
        "warnings": reporter.warnings,
        "weights": torch.cat([weight.flatten().cpu() for weight in weights]).tolist(),
        "devices": sorted({str(weight.device) for weight in weights}),
    }


def main(folder: Path, cases: list[Case]) -> None:
    torch.cuda.set_device(0)
    torch.distributed.init_process_group("nccl", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    for case in cases:  # one after the other, so that what fails leaves the others' results
        (folder / f"{case.name}.json").write_text(json.dumps(run(case)))
    torch.distributed.destroy_process_group()


def as_argument(case: Case) -> str:
    return json.dumps(asdict(case))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Case(**json.loads(argument)) for argument in sys.argv[2:]])
