"""Real trials on squares of eight pixels: a context that trains in a blink, and runners of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from foundry_ray import compression, models
from foundry_ray.config import ModelConfig, StudentConfig
from foundry_ray.data import Split
from foundry_ray.protocols import ArtifactStore, Clock, LatencyMeter
from foundry_ray.search.trial import TrialContext, TrialRunner
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import RecordedLatencyMeter
from foundry_ray.types import ImageSchema, Preprocessing, Scalar

PARAMS: Mapping[str, Scalar] = {
    "lr": 0.01,
    "width": 4,
    "depth": 1,
    "prune_ratio": 0.3,
    "weight_bits": 8,
    "distil_alpha": 0.5,
    "distil_temperature": 2.0,
}
_SCHEMA = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("dark", "light"))


def tiny_context() -> TrialContext:
    """Dark and light squares, a tiny teacher that was never trained, and its logits."""
    teacher = models.build(ModelConfig(width=8, depth=1), _SCHEMA, Preprocessing(mean=(125.0,), std=(70.0,)), seed=0).eval()
    onnx, counted = compression.to_onnx(teacher, _SCHEMA), compression.cost(teacher, _SCHEMA)
    return TrialContext(
        train=_split(64, 0),
        val=_split(32, 1),
        logits_VNC=np.random.default_rng(2).normal(size=(2, 64, 2)).astype(np.float16),
        teacher_description=models.describe(teacher),
        teacher_tensors=models.tensors_to_bytes(teacher.state_dict()),
        teacher_onnx=onnx,
        teacher_cost={"num_params": float(counted.num_params), "num_macs": float(counted.num_macs), "size_bytes": float(len(onnx))},
        family="resnet",
        schema=_SCHEMA,
        task="image_classification",
        augment=("shift",),
        student=StudentConfig(epochs=4, batch_size=16, calibration_rows=32, target_views=2, precision="fp32", ema_decay=0.5),
        constraints=(),
        objectives=("accuracy", "size_bytes"),
        batch_size=1,
        seed=3,
        prefix="studies/s/trials",
    )


def tiny_runner(
    context: TrialContext,
    store: ArtifactStore,
    *,
    meter: LatencyMeter | None = None,
    reporter: RecordingReporter | None = None,
    pause: Callable[[], None] = lambda: None,
    clock: Clock | None = None,
    room_bytes: int | None = None,
    device: str = "cpu",
) -> TrialRunner:
    """A runner with a recorded meter and a clock that stands."""
    return TrialRunner(
        context,
        store=store,
        meter=meter or RecordedLatencyMeter(),
        clock=clock or FakeClock(),
        reporter=reporter or RecordingReporter(),
        between_steps=pause,
        room_bytes=room_bytes,
        device=device,
    )


def _split(num_rows: int, seed: int) -> Split:
    drawn = np.random.default_rng(seed)
    labels_N = np.arange(num_rows) % 2
    images_NCHW = drawn.integers(0, 120, (num_rows, 1, 8, 8)) + 130 * labels_N[:, None, None, None]
    return Split(inputs_N=images_NCHW.astype(np.uint8), labels_N=labels_N.astype(np.int64))
