"""What only a GPU can show. Skipped, with the reason, where there is none."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from foundry_ray import models, tasks
from foundry_ray.config import ModelConfig, TrainConfig
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.types import ImageSchema, Preprocessing

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

SCHEMA = ImageSchema(channels=1, height=12, width=12, dtype="uint8", classes=("dark", "bright"))


def _split(num_rows: int, seed: int) -> TensorSplit:
    random = np.random.default_rng(seed)
    labels_N = np.arange(num_rows) % 2
    images_NCHW = (random.integers(0, 60, (num_rows, 1, 12, 12)) + 120 * labels_N[:, None, None, None]).astype(np.uint8)
    return TensorSplit(inputs_N=torch.from_numpy(images_NCHW), labels_N=torch.from_numpy(labels_N))


def _model() -> nn.Module:
    return models.build(ModelConfig(family="resnet", width=8, depth=1), SCHEMA, Preprocessing(mean=(90.0,), std=(60.0,)), seed=0)


@pytest.fixture
def make_loop() -> Callable[..., Loop]:
    def make(precision: str, device: str) -> Loop:
        train = TrainConfig(epochs=3, batch_size=16, lr=1e-2, precision=precision)
        task = tasks.get("image_classification")
        job = FitJob(train=train, task=task, split_train=_split(128, 1), split_val=_split(64, 2), augment=("shift",), seed=3)
        return Loop(job, TorchEngine(_model(), train, device=device), reporter=RecordingReporter(), clock=FakeClock())

    return make


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_training_learns_on_the_gpu(make_loop: Callable[..., Loop], precision: str) -> None:
    loop = make_loop(precision, "cuda:0")
    metrics = [loop.run_epoch() for _ in range(3)]
    assert metrics[-1]["accuracy"] > 0.95
    assert next(loop.eval_model().parameters()).is_cuda


def test_gpu_and_cpu_agree_in_fp32(make_loop: Callable[..., Loop]) -> None:
    """TF32 is off by default in matrix products and on in convolutions, so the first epoch agrees to two digits only."""
    gpu, cpu = make_loop("fp32", "cuda:0").run_epoch(), make_loop("fp32", "cpu").run_epoch()
    assert gpu["loss"] == pytest.approx(cpu["loss"], rel=0.05)


def test_a_model_of_the_gpu_exports_and_agrees_with_its_file(make_loop: Callable[..., Loop]) -> None:
    from foundry_ray.compression.export import to_onnx
    from foundry_ray.compression.parity import check_export

    loop = make_loop("fp32", "cuda:0")
    loop.run_epoch()
    model = loop.eval_model()
    assert check_export(model, to_onnx(model, SCHEMA), _split(8, 4).inputs_N.numpy()).num_rows == 8
    assert next(model.parameters()).is_cuda
