"""What runs a served file on a GPU. Skipped, with the reason, where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundry_ray import inference, models
from foundry_ray.compression import to_onnx
from foundry_ray.config import ModelConfig
from foundry_ray.errors import ConfigError
from foundry_ray.types import ImageSchema, Preprocessing

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

SCHEMA = ImageSchema(channels=1, height=16, width=16, dtype="uint8", classes=("dark", "bright", "other"))
ROWS = np.random.default_rng(0).integers(0, 256, (70, 1, 16, 16), dtype=np.uint8)


def _file() -> bytes:
    return to_onnx(
        models.build(ModelConfig(family="resnet", width=8, depth=1), SCHEMA, Preprocessing(mean=(90.0,), std=(60.0,)), seed=0).eval(), SCHEMA
    )


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 5e-3), ("bf16", 5e-2)])  # TensorRT may round fp32 products to TF32
def test_tensorrt_answers_as_onnxruntime_on_the_cpu_does(precision: str, tolerance: float) -> None:
    try:
        runtime = inference.open_runtime(_file(), runtime="tensorrt", precision=precision)  # type: ignore[arg-type]
    except ConfigError as error:
        pytest.skip(error.message)
    expected = inference.open_runtime(_file()).run(ROWS)
    assert (runtime.name, runtime.device) == ("tensorrt", "cuda")
    assert np.abs(inference.run_batched(runtime, ROWS) - expected).max() < tolerance * np.ptp(expected)
    assert "NVIDIA" in inference.device_name("cuda")
